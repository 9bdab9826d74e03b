"""Attacks on a server of this machine, one after the other, and what a good client notices of each.

    python tests/bench/attack.py [--model FILE] [--seconds 20] [--only NAME] [--rounds 1]

A good client sends ten live sessions and files of 3 s all the while. Attackers are another process, which gives way to all
others (nice 19), as theirs would be other machines, and has an address of its own. That they share the good client's cores is
not what an attack costs: before each attack the good client is timed beside such a process that only computes, and the first
row, "nothing", shows what that costs. All traffic is on loopback, and ends by itself. Requests go on for --seconds; the
fuzzers take as long as it takes. Of several rounds, memory is told after each.
"""

import argparse
import asyncio
import contextlib
import io
import itertools
import json
import os
import secrets
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from serve import BLOCK, RATE, memory, speech
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

import npser

sys.path.insert(0, str(Path(__file__).parents[1]))
from test_hostile import MUTATORS

CONNECTIONS, MALFORMED, HOSTILE = 500, 2000, 1400
SESSIONS = 10  # of the good client
SERVER, OWN = "127.0.0.1", ("127.0.0.2", 0)  # where attackers come from: the good client has another address
PATIENCE = 20.0  # seconds for an answer
PACE = 1 / 150  # seconds: the fuzzers begin fewer connections than the server lets an address begin
FORMS = ("wav", "flac", "ogg", "mp3", "aiff", "au", "w64")
Tally = Counter[str]


class Target:
    """Where the server is, and what it takes to be heard."""

    def __init__(self, port: int, token: str, seconds: float) -> None:
        self.port, self.token, self.until = port, token, time.monotonic() + seconds
        self.rng = np.random.default_rng(0)
        self.upgrade = self.head("GET", "/v1/stream", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
                                 "Sec-WebSocket-Protocol: npser.v1", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")  # fmt: skip

    def head(self, method: str, path: str, *lines: str) -> bytes:
        """Of a request that may pass."""
        own = [] if any(line.startswith("Host") for line in lines) else ["Host: localhost"]
        token = [] if any(line.startswith("Authorization") for line in lines) else [f"Authorization: Bearer {self.token}"]
        return "\r\n".join([f"{method} {path} HTTP/1.1", *own, *token, *lines, "", ""]).encode()

    def on(self) -> bool:
        return time.monotonic() < self.until

    async def say(self, *content: bytes, tally: Tally, close: bool = True) -> None:
        """Over a connection of its own; count the status of what comes."""
        word = "no answer"
        with contextlib.suppress(OSError, asyncio.TimeoutError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(SERVER, self.port, local_addr=OWN)
            try:
                for part in content:
                    writer.write(part)
                    await asyncio.wait_for(writer.drain(), PATIENCE)
                if close:
                    writer.write_eof()
                line = await asyncio.wait_for(reader.readline(), PATIENCE)
                word = line.decode("latin-1").split(" ")[1] if line.startswith(b"HTTP/1.1 ") else word
            finally:
                writer.transport.abort()
        tally[word] += 1


def frame(opcode: int, content: bytes) -> bytes:
    """Of WebSocket, with a mask of zeros."""
    size = len(content)
    length = bytes([0x80 | size]) if size < 126 else b"\xff" + struct.pack("!Q", size)
    return bytes([0x80 | opcode]) + length + bytes(4) + content


async def slow(t: Target, tally: Tally) -> None:
    """500 connections that send a byte a second of a header, or of a body, or that never read."""

    async def one(kind: int) -> None:
        content = [b"GET /v1/model HTTP/1.1\r\nX-", t.head("POST", "/v1/predict", "Content-Length: 100000") + b"RIFF", b""][
            kind
        ]
        while t.on():
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(SERVER, t.port, local_addr=OWN)
                tally["opened"] += 1
                writer.write(content)
                while t.on() and not writer.transport.is_closing():
                    await asyncio.sleep(1)
                    if kind < 2:
                        writer.write(b"a")
                writer.transport.abort()

    await asyncio.gather(*(one(k % 3) for k in range(CONNECTIONS)))


def flood(opcode: int, content: bytes) -> Callable[[Target, Tally], Awaitable[None]]:
    """Frames of one kind as fast as they go, over four connections."""

    async def one(t: Target, tally: Tally) -> None:
        frames = frame(opcode, content) * max(1, 4000 // (len(content) + 6))
        while t.on():
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                _, writer = await asyncio.open_connection(SERVER, t.port, local_addr=OWN)
                update = json.dumps({"type": "session.update", "rate": RATE}).encode()
                writer.write(t.upgrade + frame(1, update))
                tally["opened"] += 1
                try:
                    while t.on() and not writer.transport.is_closing():
                        writer.write(frames)
                        await asyncio.wait_for(writer.drain(), PATIENCE)
                        tally["frames"] += max(1, 4000 // (len(content) + 6))
                        await asyncio.sleep(0)
                finally:
                    writer.transport.abort()

    async def attack(t: Target, tally: Tally) -> None:
        await asyncio.gather(*(one(t, tally) for _ in range(4)))

    return attack


async def opens(t: Target, tally: Tally) -> None:
    """1,000 sessions a second that begin, and are left."""

    async def one() -> None:
        await t.say(t.upgrade, tally=tally, close=bool(t.rng.integers(2)))

    begun, k, running = time.monotonic(), 0, set[asyncio.Task[None]]()
    while t.on():
        while k < 1000 * (time.monotonic() - begun) and len(running) < 300:
            task = asyncio.ensure_future(one())
            running.add(task)
            task.add_done_callback(running.discard)
            k += 1
        await asyncio.sleep(0.001)
    await asyncio.gather(*running)


async def lengths(t: Target, tally: Tally) -> None:
    """Bodies that are longer, shorter or other than they say, and chunks without end."""
    body = b"RIFF" + bytes(1000)
    while t.on():
        for length in ("0", "10", "100000", "-1", "1e9", "9" * 40, "0x20", "5, 6"):
            await t.say(t.head("POST", "/v1/predict", f"Content-Length: {length}"), body, tally=tally)
        chunks = [b"2710\r\n" + bytes(10_000) + b"\r\n"] * 50
        for end in (b"", b"zz\r\n", b"-5\r\n", b"fffffffffffffffff\r\n", b"0\r\nX: y\r\n"):
            await t.say(t.head("POST", "/v1/predict", "Transfer-Encoding: chunked"), *chunks, end, tally=tally)
        both = t.head("POST", "/v1/predict", "Content-Length: 4", "Transfer-Encoding: chunked")
        await t.say(both, body, tally=tally)


async def bombs(t: Target, tally: Tally) -> None:
    """Small files of five hours of silence, one after the other."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(5 * 3600 * 8000, np.int16), 8000, format="FLAC")
    body = file.getvalue()
    tally[f"bytes of a file: {len(body)}"] = 1
    while t.on():
        await t.say(t.head("POST", "/v1/predict", f"Content-Length: {len(body)}") + body, tally=tally, close=False)


async def malformed(t: Target, tally: Tally) -> None:
    """Requests with wrong bytes."""
    wholes = [
        t.head("POST", "/v1/predict?timeline", "Content-Length: 4", "Accept: text/csv") + b"RIFF",
        t.head("GET", "/v1/model", "Accept: */*", "Cookie: a=b"),
        t.upgrade + frame(1, b'{"type": "session.update", "rate": 16000}') + frame(2, bytes(64)) + frame(8, b"\x03\xe8"),
    ]
    for k in range(MALFORMED):
        mutate = MUTATORS[k % len(MUTATORS)]
        await t.say(mutate(wholes[k % 3], wholes[(k + 1) % 3], t.rng), tally=tally)
        await asyncio.sleep(PACE)


async def hostile(t: Target, tally: Tally) -> None:
    """Recordings with wrong bytes."""
    wholes = []
    for form in FORMS:
        file = io.BytesIO()
        soundfile.write(file, speech(1, None), RATE, format=form)
        wholes.append(file.getvalue())
    for k in range(HOSTILE):
        mutate = MUTATORS[k % len(MUTATORS)]
        body = mutate(wholes[k % len(wholes)], wholes[int(t.rng.integers(len(wholes)))], t.rng)
        await t.say(t.head("POST", "/v1/predict", f"Content-Length: {len(body)}") + body, tally=tally, close=False)
        await asyncio.sleep(PACE)


async def nothing(t: Target, tally: Tally) -> None:
    """No attack."""
    await asyncio.sleep(t.until - time.monotonic())


async def work(t: Target, tally: Tally) -> None:
    """No attack either: what is compared with, a process that computes."""
    while t.on():
        sum(range(10_000))


async def strangers(t: Target, tally: Tally) -> None:
    """Wrong hosts, origins and tokens."""
    while t.on():
        for line in ("Host: evil.example", "Origin: http://evil.example", "Authorization: Bearer no", "Authorization: no"):
            await t.say(t.head("GET", "/v1/model", line), tally=tally)
            await t.say(t.head("POST", "/v1/predict", line, "Content-Length: 4"), b"RIFF", tally=tally)


async def kills(t: Target, tally: Tally) -> None:
    """The process that decodes, twice a second."""
    while t.on():
        for child in decoders(os.getppid()):
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
                tally["killed"] += 1
            await asyncio.sleep(0.5)


def decoders(bench: int) -> list[int]:
    """Processes that decode for the server of a bench."""
    listed = subprocess.run(["pgrep", "-f", "npser.live.decoding"], capture_output=True, text=True, check=False).stdout
    return [int(word) for word in listed.split() if int(word) != bench]


ATTACKS: dict[str, Callable[[Target, Tally], Awaitable[None]]] = {
    "nothing": nothing,
    "slow": slow,
    "one-byte frames": flood(2, b"x"),
    "ten-megabyte frames": flood(2, bytes(10_000_000)),
    "pings": flood(9, b"x" * 125),
    "opens": opens,
    "lengths": lengths,
    "malformed": malformed,
    "hostile files": hostile,
    "strangers": strangers,
    "bombs": bombs,
    "kills": kills,
}


class Good:
    """A client that means well: how late each answer of its session came, and how long each of its files took, s."""

    def __init__(self, port: int, token: str) -> None:
        self.port, self.token = port, token
        self.lags: list[float] = []
        self.files: list[float] = []
        self.failed: Tally = Counter()

    async def listen(self, late: float) -> None:
        """A session that goes on; the lag is from the last block to an answer, and so holds what is heard beyond its end."""
        await asyncio.sleep(late)
        request = HTTPRequest(f"ws://{SERVER}:{self.port}/v1/stream", headers={"Authorization": f"Bearer {self.token}"})
        connection = await websocket_connect(request, subprotocols=["npser.v1"])
        await connection.write_message(json.dumps({"type": "session.update", "rate": RATE}))
        x, sent = speech(80, None), 0.0

        async def send() -> None:
            nonlocal sent
            begun = time.perf_counter()
            for k in itertools.count():
                await asyncio.sleep(max(0.0, begun + k * BLOCK / RATE - time.perf_counter()))
                sent, at = time.perf_counter(), k * BLOCK % len(x)
                await connection.write_message(x[at : at + BLOCK].tobytes(), binary=True)

        sending = asyncio.ensure_future(send())
        try:
            while True:
                text = await connection.read_message()
                if text is None:
                    self.failed["session"] += 1
                    return
                if json.loads(text)["type"] == "measurement":
                    self.lags.append(time.perf_counter() - sent)
        finally:
            sending.cancel()
            connection.close()

    async def post(self) -> None:
        """A file twenty times a second, over one connection."""
        file = io.BytesIO()
        soundfile.write(file, speech(3, None), RATE, format="WAV")
        body = file.getvalue()
        request = Target(self.port, self.token, 0).head("POST", "/v1/predict", f"Content-Length: {len(body)}") + body
        while True:
            reader, writer = await asyncio.open_connection(SERVER, self.port)
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while True:
                    begun = time.perf_counter()
                    writer.write(request)
                    answer = (await reader.readuntil(b"\r\n\r\n")).decode()
                    length = next(line.split(": ")[1] for line in answer.splitlines() if line.startswith("Content-Length"))
                    said = await reader.readexactly(int(length))
                    if answer.startswith("HTTP/1.1 200 "):
                        self.files.append(time.perf_counter() - begun)
                    else:
                        self.failed[json.loads(said)["code"]] += 1
                    await asyncio.sleep(max(0.0, begun + 0.05 - time.perf_counter()))
            writer.transport.abort()
            self.failed["connection"] += 1

    def taken(self) -> tuple[list[float], list[float], Tally]:
        """Since the last time."""
        found = self.lags, self.files, self.failed
        self.lags, self.files, self.failed = [], [], Counter()
        return found


async def metrics(port: int, token: str) -> dict[str, float]:
    reader, writer = await asyncio.open_connection(SERVER, port)
    writer.write(Target(port, token, 0).head("GET", "/metrics", "Connection: close"))
    lines = (await reader.read()).decode().splitlines()
    writer.close()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line.startswith("npser_"))}


def shown(times: list[float]) -> str:
    return " ".join(f"{1000 * np.percentile(times, p):5.0f}" for p in (50, 99)) if times else "    -     -"


async def load(args: argparse.Namespace, port: int, token: str, pid: int) -> None:
    good = Good(port, token)
    tasks = [asyncio.ensure_future(good.listen(k / SESSIONS)) for k in range(SESSIONS)]
    tasks.append(asyncio.ensure_future(good.post()))

    async def beside(name: str) -> tuple[str, list[float], list[float], Tally]:
        """What attackers say at their end, and what the good client noticed."""
        _, _, before = good.taken()
        gentle = ["nice", "-n", "19", sys.executable, __file__]
        words = ["--port", str(port), "--seconds", str(args.seconds), "--attack", name]
        child = await asyncio.create_subprocess_exec(
            *gentle, *words, stdout=subprocess.PIPE, env=os.environ | {"NPSER_TOKEN": token}
        )
        said, _ = await child.communicate()
        lags, files, failed = good.taken()
        return said.decode().strip(), lags, files, before + failed

    await asyncio.sleep(10)
    before = await metrics(port, token)
    print(
        "attack               beside work: lag p50 p99, file p50 p99 (ms)   attacked: the same       server MB  what came of it"
    )
    for k, name in enumerate(([args.only] if args.only else list(ATTACKS)) * args.rounds):
        if k and k % len(ATTACKS) == 0:
            print(f"round {k // len(ATTACKS)}: {(await metrics(port, token))['npser_resident_memory_bytes'] / 2**20:.0f} MB")
        _, lags, files, failed = await beside("work")
        said, lags2, files2, failed2 = await beside(name)
        failed += failed2
        print(f"{name:<20}  {shown(lags)}  {shown(files)}   {shown(lags2)}  {shown(files2)}  {memory(pid):5.0f}  "
              f"{said}{f'; the good client: {dict(failed)}' if failed else ''}", flush=True)  # fmt: skip
        await asyncio.sleep(6)  # what is left over ends
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(3)
    found = await metrics(port, token)
    print(f"sessions opened {found['npser_sessions_opened_total']:.0f}, closed {found['npser_sessions_closed_total']:.0f}")
    print(f"memory {memory(pid):.0f} MB at most; now {found['npser_resident_memory_bytes'] / 2**20:.0f} MB, "
          f"before {before['npser_resident_memory_bytes'] / 2**20:.0f} MB")  # fmt: skip
    print("answers of 5xx:", {name: value for name, value in found.items() if 'code="5' in name} or "none")


async def attack(args: argparse.Namespace) -> None:
    """In the attackers' process."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # of connections that the server cuts off
    tally: Tally = Counter()
    await (ATTACKS | {"work": work})[args.attack](Target(args.port, os.environ["NPSER_TOKEN"], args.seconds), tally)
    print(", ".join(f"{word} {count}" for word, count in sorted(tally.items())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=npser.SHIPPED)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--only", choices=ATTACKS)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--attack", choices=[*ATTACKS, "work"], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.attack:
        asyncio.run(attack(args))
        return
    token = secrets.token_hex(16)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "token").write_text(token)
        words: list[Any] = ["--port", "0", "--json", "--model", args.model, "--token", folder / "token"]
        command = [sys.executable, "-m", "npser", "serve", *map(str, words)]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        try:
            port = int(json.loads(server.stdout.readline())["address"].rsplit(":", 1)[1].rstrip("/"))
            asyncio.run(load(args, port, token, server.pid))
        finally:
            server.send_signal(signal.SIGTERM)
            print(f"the server ended with status {server.wait(30)}")


if __name__ == "__main__":
    main()

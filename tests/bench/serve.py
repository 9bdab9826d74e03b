"""Load on a server of this machine: live sessions at one answer a second, then files of 3 s; how late the answers come.

    python tests/bench/serve.py MODEL [--sessions 100] [--seconds 60] [--connections 8] [--files-seconds 20] [--record FILE.wav]

Sessions send 0.1 s of sound every 0.1 s. The lag of an answer is from when the block was sent after which a stream by itself
gives this answer, to when the answer came. All traffic is on loopback, and ends by itself.
"""

import argparse
import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tornado.httpclient import HTTPClientError
from tornado.websocket import websocket_connect

from npser.features import read_blocks
from npser.lite import Model
from npser.live.stream import Stream

RATE, BLOCK = 16_000, 1600  # 0.1 s
Array = np.ndarray


def speech(seconds: float, path: Path | None) -> Array:
    """Sound that goes on, (n,) int16: a recording again and again, or gliding harmonics with pauses."""
    n = round(seconds * RATE)
    if path is not None:
        rate, blocks = read_blocks(path)
        x = np.concatenate(list(blocks))
        assert rate == RATE, f"{path} has {rate} Hz; expected {RATE}"
    else:
        t = np.arange(8 * RATE) / RATE
        voice = sum(np.sin(2 * np.pi * k * (120 * t + 3 * np.sin(4 * t))) / k for k in range(1, 12))
        x = 0.2 * voice * np.sin(5 * t) ** 2 * (t < 6.5) + 0.001 * np.random.default_rng(0).standard_normal(len(t))
    return (np.resize(x, n) * 32767).clip(-32768, 32767).astype("<i2")


def triggers(model: Model, x: Array) -> list[int]:
    """For each measurement of a session, the number of the block after which it is told."""
    stream, found = Stream(model, RATE), []
    for k, block in enumerate(np.split(x, range(BLOCK, len(x), BLOCK))):
        events = stream.feed((block / 32768).astype(np.float32))
        found += [k for event in events if event.kind != "speech"]
    return found


async def listen(url: str, x: Array, expected: list[int], delay: float) -> list[float]:
    """One session; the lags of its answers, s."""
    await asyncio.sleep(delay)
    connection = await websocket_connect(url, subprotocols=["npser.v1"])
    await connection.write_message(json.dumps({"type": "session.update", "rate": RATE}))
    sent: list[float] = []
    lags: list[float] = []

    async def send() -> None:
        begun = time.perf_counter()
        for k, block in enumerate(np.split(x, range(BLOCK, len(x), BLOCK))):
            await asyncio.sleep(max(0.0, begun + k * BLOCK / RATE - time.perf_counter()))
            sent.append(time.perf_counter())
            await connection.write_message(block.tobytes(), binary=True)
        await connection.write_message('{"type": "session.close"}')

    sending = asyncio.ensure_future(send())
    while (text := await connection.read_message()) is not None:
        now, message = time.perf_counter(), json.loads(text)
        if message["type"] == "measurement" and len(lags) < len(expected):
            lags.append(now - sent[expected[len(lags)]])
        assert message["type"] != "error", message
    await sending
    assert len(lags) == len(expected), f"{len(lags)} answers; expected {len(expected)}"
    return lags


async def one_too_many(url: str, after: float) -> float:
    """Seconds within which one more session is refused."""
    await asyncio.sleep(after)
    begun = time.perf_counter()
    try:
        await websocket_connect(url, subprotocols=["npser.v1"])
    except HTTPClientError as error:
        if error.code != 503:
            raise
    return time.perf_counter() - begun


async def post(port: int, body: bytes, until: float) -> list[float]:
    """Files over one connection; the time of each, s."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    found = []
    while time.perf_counter() < until:
        begun = time.perf_counter()
        writer.write(head + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert answer.startswith("HTTP/1.1 200 "), answer
        length = next(line.split(": ")[1] for line in answer.splitlines() if line.startswith("Content-Length"))
        await reader.readexactly(int(length))
        found.append(time.perf_counter() - begun)
    writer.close()
    return found


def shown(times: list[float]) -> str:
    """Percentiles, ms."""
    return "  ".join(f"p{p} {1000 * np.percentile(times, p):6.1f} ms" for p in (50, 95, 99)) + f"  n {len(times)}"


def memory(pid: int) -> float:
    """Greatest resident memory of a process, MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def cpu(pid: int) -> float:
    """Seconds that a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(args: argparse.Namespace, port: int, pid: int) -> None:
    url, x = f"ws://127.0.0.1:{port}/v1/stream", speech(args.seconds, args.record)
    expected = triggers(Model(args.model), x)
    begun, used = time.perf_counter(), cpu(pid)
    delays = np.random.default_rng(0).uniform(0, 1, args.sessions)
    work: list[Any] = [listen(url, x, expected, delay) for delay in delays]
    *lags, refused = await asyncio.gather(*work, one_too_many(url, 5.0))
    share = (cpu(pid) - used) / (time.perf_counter() - begun)
    print(f"sessions  {args.sessions} of {args.seconds:g} s, {len(expected)} answers each")
    print(f"lag       {shown([lag for of_one in lags for lag in of_one])}")
    print(f"one more  refused in {1000 * refused:.1f} ms")
    print(f"server    {memory(pid):.0f} MB, {share:.2f} of a core")
    wav = io.BytesIO()
    soundfile.write(wav, speech(3, args.record), RATE, format="WAV")
    begun, body = time.perf_counter(), wav.getvalue()
    until = begun + args.files_seconds
    times = [
        one for of_one in await asyncio.gather(*(post(port, body, until) for _ in range(args.connections))) for one in of_one
    ]
    rate = len(times) / (time.perf_counter() - begun)
    print(f"files     {rate:.0f} a second over {args.connections} connections, {shown(times)}")
    print(f"server    {memory(pid):.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--files-seconds", type=float, default=20)
    parser.add_argument("--record", type=Path, help="16 kHz speech to send; default: harmonics")
    parser.add_argument("--workers", default="1")
    args = parser.parse_args()
    words = ["--port", "0", "--json", "--sessions", str(args.sessions), "--model", args.model, "--workers", args.workers]
    words += ["--busy-share", "1"]  # all are to come in, whatever else the machine does
    server = subprocess.Popen([sys.executable, "-m", "npser", "serve", *words], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        port = int(json.loads(server.stdout.readline())["address"].rsplit(":", 1)[1].rstrip("/"))
        asyncio.run(load(args, port, server.pid))
    finally:
        server.send_signal(signal.SIGTERM)
        print(f"ended     with status {server.wait(30)}")


if __name__ == "__main__":
    main()

"""Clients that mean harm, or know no better: each limit of the server holds, and a good client does not notice them."""

import asyncio
import contextlib
import gc
import gzip
import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from helpers import RATE, Array, sound, talk
from serving import DEADLINE, HEARD, STRICT, Server, ended, heard, left, run, session, strict_server
from tornado import httpserver, netutil, web
from tornado.httpclient import AsyncHTTPClient, HTTPClientError
from tornado.websocket import websocket_connect

from npser.lite import Model
from npser.live.files import Files
from npser.live.handlers import Predict
from npser.live.limits import Settings
from npser.live.measures import Measures
from npser.live.serve import Front

TOKEN = "a-token-of-more-than-16-characters"


@pytest.fixture(scope="module")
def server(environment: dict[str, str], folder: Path, path: Path) -> Iterator[Server]:
    yield from strict_server(environment, folder, path)


@pytest.fixture(autouse=True)
def _a_good_client_is_served_after_each_test(server: Server, audio: bytes) -> Iterator[None]:
    yield
    server.serves(audio)


# HTTP


def test_slow_headers_are_cut_off(server: Server) -> None:
    begun = time.monotonic()
    for content in (b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", b"POST /v1/predict HTTP/1.1\r\nX: "):
        assert ended(server.raw(content)) == b""
    assert time.monotonic() - begun < DEADLINE / 2


def test_slow_bodies_are_told_and_cut_off(server: Server) -> None:
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nRIFF"
    found = ended(server.raw(head))
    assert found.startswith(b"HTTP/1.1 408 ")
    assert b'"code": "body_late"' in found
    chunked = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nRIFF\r\n"
    assert b'"code": "body_late"' in ended(server.raw(chunked))


def test_bodies_that_are_too_large_are_refused_by_length_and_by_content(server: Server) -> None:
    most = int(STRICT["body-bytes"])
    server.ask("/v1/predict", b"x" * (most + 1)).refuses(413, "body_too_large")
    waits = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n"
    found = ended(server.raw(waits))
    assert found.startswith(b"HTTP/1.1 413 ")
    with server.raw(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n") as endless:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(100):
                endless.sendall(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
                time.sleep(0.001)
        assert b'"code": "body_too_large"' in ended(endless)


def test_lengths_that_lie(server: Server, audio: bytes) -> None:
    head = "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n"
    for length in (len(audio) - 1000, 0):  # what is left is no request
        found = ended(server.raw(head.format(length).encode() + audio))
        assert found.startswith(b"HTTP/1.1 200 " if length else b"HTTP/1.1 422 ")
        assert found.count(b"HTTP/1.1 ") <= 2
    for length in ("-1", "1e3", "0x10", "9" * 5000, "5, 6"):
        assert ended(server.raw(head.format(length).encode() + b"RIFF")).split(b" ")[1] in (b"400", b"413")
    both = head.format(4).encode().replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n") + b"RIFF"
    assert ended(server.raw(both)).startswith(b"HTTP/1.1 400 ")


def test_requests_that_make_no_sense(server: Server) -> None:
    rng = np.random.default_rng(0)
    good = b"POST /v1/predict?timeline HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nAccept: text/csv\r\n\r\nRIFF"
    for _ in range(150):
        bad = bytearray(good)
        for at in rng.integers(0, len(bad), rng.integers(1, 6)):
            bad[at] = rng.integers(0, 256)
        with server.raw(bytes(bad)) as connection:
            connection.shutdown(socket.SHUT_WR)
            status = re.match(rb"HTTP/1\.1 (\d+) ", ended(connection))
            assert status is None or int(status[1]) < 500, bytes(bad)
    huge = b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        assert not ended(server.raw(huge)).startswith(b"HTTP/1.1 200")


def test_compressed_bodies_are_not_opened(server: Server) -> None:
    server.ask("/v1/predict", gzip.compress(bytes(9_000_000)), Content_Encoding="gzip").refuses(415, "encoding_unknown")
    server.ask("/v1/predict", gzip.compress(bytes(9_000_000))).refuses(422, "audio_invalid")


def test_a_small_file_of_much_silence_is_refused(server: Server, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", np.zeros(60 * RATE, np.int16), RATE)
    content = (tmp_path / "a.flac").read_bytes()
    assert len(content) < 30_000
    server.ask("/v1/predict", content).refuses(413, "sound_too_long")


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", ""])
def test_other_hosts_are_refused(server: Server, host: str) -> None:
    server.ask("/v1/model", Host=host).refuses(421, "host_unknown")


def test_own_hosts_are_served(server: Server) -> None:
    for host in ("localhost", "LOCALHOST:1", "[::1]", "192.0.2.7:8080", socket.gethostname()):
        assert server.ask("/healthz", Host=host).status == 200


def test_pages_from_elsewhere_are_refused(server: Server, audio: bytes) -> None:
    for origin in ("http://evil.example", "null", f"http://localhost:{server.port}", "file://"):
        server.ask("/v1/predict", audio, Origin=origin).refuses(403, "origin_forbidden")
    assert server.ask("/v1/predict", audio, Origin=f"http://127.0.0.1:{server.port}").status == 200

    async def work() -> None:
        with pytest.raises(HTTPClientError, match="403"):
            async with session(server, Origin="http://evil.example"):
                pass

    run(work())


def test_more_connections_than_allowed_are_closed_at_once(server: Server) -> None:
    held = [server.raw(b"") for _ in range(int(STRICT["connections"]) + 20)]
    assert any(ended(connection) == b"" for connection in held[-5:])
    for connection in held:
        connection.close()
    while True:  # until those are gone
        with contextlib.suppress(OSError):
            assert server.metrics()['refusals_total{reason="connections"}'] >= 1
            return
        time.sleep(0.05)


def test_an_address_begins_so_many_connections_in_a_second(environment: dict[str, str], folder: Path, path: Path) -> None:
    """Those of another second wait, more are closed at once, another address is served, and later the first one is again."""
    with Server(environment, folder / "rate", path, "--connection-rate", "5") as limited:
        request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

        def begins(own: str) -> socket.socket:
            connection = socket.create_connection(("127.0.0.1", limited.port), DEADLINE, (own, 0))
            connection.sendall(request)
            return connection

        begun = time.monotonic()
        held = [begins("127.0.0.1") for _ in range(50)]
        if sys.platform == "linux":  # elsewhere there is no other address of loopback
            assert ended(begins("127.0.0.2")).startswith(b"HTTP/1.1 200")
        served = sum(ended(connection).startswith(b"HTTP/1.1 200") for connection in held)
        assert 10 <= served < 50
        assert time.monotonic() - begun > 0.8  # the tenth has waited
        time.sleep(2)
        assert ended(begins("127.0.0.1")).startswith(b"HTTP/1.1 200")
        assert limited.metrics()['refusals_total{reason="connections"}'] == 50 - served


@pytest.mark.parametrize(
    ("other", "same"), [("192.0.2.8", False), ("2001:db8::2", True), ("2001:db8:0:1::1", False), ("fe80::1%eth0", False)]
)
def test_a_network_of_64_bits_is_one_address(other: str, same: bool) -> None:
    front = Front(lambda _: None)
    front.state = types.SimpleNamespace(settings=Settings(connection_rate=1))  # pyright: ignore[reportAttributeAccessIssue]
    assert front.turn("2001:db8::1") == 0
    waits = front.turn("2001:db8::1")
    assert waits is not None
    assert waits > 0.5
    assert front.turn("2001:db8::1") is None
    assert front.turn(other) == (None if same else 0)


def test_where_no_more_files_can_be_opened_the_front_waits_and_tries_again() -> None:
    class Full(socket.socket):
        tries = 0

        def accept(self) -> Any:
            self.tries += 1
            raise OSError(24, "Too many open files")

    async def work() -> None:
        front = Front(lambda _: None)
        with Full() as door:
            door.bind(("127.0.0.1", 0))
            door.listen()
            front.add_sockets([door])
            with socket.create_connection(door.getsockname()):
                await asyncio.sleep(0.3)
            front.stop()
            front.stop()
            await asyncio.sleep(0.05)
            assert 2 <= door.tries <= 30

    run(work())


def test_who_leaves_while_waiting_leaves_nothing_behind() -> None:
    front = Front(lambda _: None)
    front.waiting = 1
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        connection, address = listener.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        front._take(connection, address)
    assert (connection.fileno(), front.waiting) == (-1, 0)


def test_clients_that_leave_before_their_answer(server: Server, audio: bytes) -> None:
    head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(audio)}\r\n\r\n".encode()
    for cut in (0, 100, len(audio)):
        server.raw(head + audio[:cut]).close()
        connection = server.raw(head + audio[:cut])
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()


def test_nothing_is_kept_of_clients_that_leave(path: Path) -> None:
    """In this process, where it can be seen: an upload that is cut off is let go of at once."""
    state: Any = types.SimpleNamespace(settings=Settings(model=str(path)), stopping=False, token=None, uploads=0, held=0)
    state.measures = Measures()

    async def work() -> tuple[int, int]:
        app = web.Application([("/v1/predict", Predict, {"state": state, "route": "predict"})])
        (socket_of_it,) = netutil.bind_sockets(0, "127.0.0.1", family=socket.AF_INET)
        server = httpserver.HTTPServer(app, max_body_size=1 << 20)
        server.add_socket(socket_of_it)
        head, there = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nR", []
        for _ in range(20):
            _, writer = await asyncio.open_connection(*socket_of_it.getsockname())
            writer.write(head)
            there.append(writer)
        await until(lambda: uploads_in_memory() == len(there))
        for writer in there:
            writer.transport.abort()
        await until(lambda: uploads_in_memory() == 0)
        server.stop()
        return state.held, uploads_in_memory()

    async def until(found: Callable[[], bool]) -> None:
        for _ in range(100):
            if found():
                return
            await asyncio.sleep(0.05)

    def uploads_in_memory() -> int:
        gc.collect()
        return sum(type(one) is Predict for one in gc.get_objects())  # isinstance asks what weak references point to

    assert run(work()) == (0, 0)


def test_clients_that_never_read(server: Server) -> None:
    """They are answered until the system holds no more; when they are gone, not at all."""
    name = 'requests_total{route="metrics",code="200"}'
    with server.raw(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000):
        assert server.ask("/healthz").status == 200
        before = server.metrics()[name]
    time.sleep(1)
    assert server.metrics()[name] - before < 100


# The decoding process


def decoder_of(server: Server) -> int:
    """The process that decodes for a server."""
    while True:
        tasks = Path(f"/proc/{server.process.pid}/task").iterdir()
        found = {int(number) for task in tasks for number in (task / "children").read_text().split()}
        for number in found:
            with contextlib.suppress(OSError):
                if b"npser.live.decoding" in Path(f"/proc/{number}/cmdline").read_bytes():
                    return number


def test_a_decoder_that_is_killed_at_rest_is_followed_though_another_is_ready(path: Path) -> None:
    files = Files(Model(path), None, Settings(decoders=2), Measures())  # pyright: ignore[reportArgumentType] (no network)
    with contextlib.closing(files):
        idle, used = files.free
        idle.child.kill()
        idle.child.wait()
        with files._decoder() as decoder:
            assert decoder is used
        assert idle.child.poll() is None
        assert idle.is_ready(DEADLINE)


def test_a_decoder_that_is_killed_at_work_is_an_answer_and_followed_by_another(server: Server, audio: bytes) -> None:
    number = decoder_of(server)
    os.kill(number, signal.SIGSTOP)

    async def work() -> Any:
        answer = asyncio.ensure_future(asyncio.to_thread(server.ask, "/v1/predict", audio))
        await asyncio.sleep(0.2)
        os.kill(number, signal.SIGKILL)
        return await answer

    run(work()).refuses(422, "decoder_died")
    assert server.ask("/v1/predict", audio).status == 200
    assert decoder_of(server) != number
    assert server.metrics()["decoders_died_total"] >= 1


def test_a_decoder_that_is_killed_at_rest_is_not_noticed(server: Server, audio: bytes) -> None:
    os.kill(decoder_of(server), signal.SIGKILL)
    time.sleep(0.2)
    assert server.ask("/v1/predict", audio).status == 200


def test_a_decoder_that_does_not_answer_is_replaced(server: Server, audio: bytes) -> None:
    os.kill(decoder_of(server), signal.SIGSTOP)
    server.ask("/v1/predict", audio).refuses(422, "decoder_died")


@pytest.mark.parametrize(
    "content", [b"RIFF", b"fLaC" + bytes(50), b"OggS" * 9, b"\xff\xfb" * 99, b"ID3" + b"\x7f" * 99], ids=repr
)
def test_broken_files_are_refused(server: Server, content: bytes) -> None:
    server.ask("/v1/predict", content).refuses(422, "audio_invalid")


def test_damaged_files_are_answered_or_refused(server: Server, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for form in ("flac", "ogg", "wav", "mp3"):
        soundfile.write(tmp_path / f"a.{form}", sound(RATE, 1), RATE)
        content = bytearray((tmp_path / f"a.{form}").read_bytes())
        for _ in range(8):
            bad = bytearray(content)
            for at in rng.integers(0, len(bad), 9):
                bad[at] = rng.integers(0, 256)
            assert server.ask("/v1/predict", bytes(bad)).status in (200, 413, 422)


# Tokens and TLS


def test_only_who_knows_the_token_is_served(environment: dict[str, str], tmp_path: Path, path: Path, audio: bytes) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    words = ["--token", str(tmp_path / "token"), "--allow-host", "voice.example", "--allow-origin", "https://voice.example"]
    with Server(environment, tmp_path, path, *words) as server:
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": f"Basic {TOKEN}"}):
            found = server.ask("/v1/predict", audio, **given)
            found.refuses(401, "token_wrong")
            assert found.headers["www-authenticate"] == "Bearer"
            server.ask("/metrics", **given).refuses(401, "token_wrong")
        server.ask(f"/v1/model?token={TOKEN}").refuses(401, "token_wrong")
        assert server.ask("/v1/predict", audio, Authorization=f"bearer {TOKEN}").status == 200
        assert server.ask("/readyz", Host="voice.example").status == 200
        assert server.ask("/v1/model", Origin="https://voice.example", Authorization=f"Bearer {TOKEN}").status == 200

        async def work() -> None:
            with pytest.raises(HTTPClientError, match="401"):
                async with session(server):
                    pass
            async with session(server, Authorization=f"Bearer {TOKEN}"):
                pass
            url = f"ws://127.0.0.1:{server.port}/v1/stream"
            connection = await websocket_connect(url, subprotocols=["npser.v1", f"npser.token.{TOKEN}"])
            assert connection.selected_subprotocol == "npser.v1"
            await left(connection)

        run(work())
        assert TOKEN not in Path(f"/proc/{server.process.pid}/cmdline").read_text()


def test_tls(environment: dict[str, str], tmp_path: Path, path: Path, audio: bytes) -> None:
    names = ["-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    if made.returncode:
        pytest.skip("openssl makes no certificate here")
    words = ["--certificate", str(tmp_path / "cert.pem"), "--key", str(tmp_path / "key.pem"), "--header-seconds", "1"]
    with Server(environment, tmp_path, path, *words) as server:
        assert server.address.startswith("https://")
        assert ended(server.raw(b"GET / HTTP/1.1\r\n\r\n")) == b""
        assert ended(server.raw(b"")) == b""  # who does not greet is left, too

        async def work() -> None:
            options = {"ca_certs": str(tmp_path / "cert.pem"), "body": audio, "method": "POST"}
            answer = await AsyncHTTPClient().fetch(f"{server.address}v1/predict", **options)
            assert answer.code == 200

        run(work())
    assert ssl


def test_a_good_session_beside_bad_ones(server: Server, path: Path) -> None:
    """Slow connections, broken files and lost clients do not change what it is told."""
    x: Array = talk([0.6], pause=0.4)
    held = [server.raw(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nR") for _ in range(20)]
    with contextlib.ExitStack() as stack:
        for connection in held:
            stack.enter_context(connection)
        messages = run(heard(server, np.array_split(x, 20), **HEARD))
    assert [m["probabilities"] for m in messages if m.get("final")] == [Model(path).predict(x, RATE).probabilities]

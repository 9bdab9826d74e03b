"""Sessions of clients that mean harm, or know no better: each limit of the server holds, and it serves who comes next."""

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import RATE, talk
from serving import HEARD, STRICT, Server, ended, run, session, strict_server
from tornado.httpclient import HTTPClientError

from npser.lite import Model


@pytest.fixture(scope="module")
def server(environment: dict[str, str], folder: Path, path: Path) -> Iterator[Server]:
    yield from strict_server(environment, folder, path)


@pytest.fixture(autouse=True)
def _a_good_client_is_served_after_each_test(server: Server, audio: bytes) -> Iterator[None]:
    yield
    server.serves(audio)


def test_one_more_session_than_allowed_is_refused_before_the_upgrade(server: Server) -> None:
    async def work() -> None:
        async with contextlib.AsyncExitStack() as opened:
            for _ in range(int(STRICT["sessions"])):
                await opened.enter_async_context(session(server))
            with pytest.raises(HTTPClientError) as refused:
                await opened.enter_async_context(session(server))
            answer = refused.value.response
            assert answer is not None
            assert (answer.code, answer.headers["Retry-After"]) == (503, "1")
            assert json.loads(answer.body)["code"] == "full"
        await asyncio.to_thread(server.until, lambda found: found["sessions"] == 0)
        async with session(server):
            pass

    run(work())


def test_a_session_more_is_refused_where_those_that_are_there_keep_the_server_busy(
    environment: dict[str, str], tmp_path: Path, path: Path
) -> None:
    with Server(environment, tmp_path, path, "--busy-share", "0", "--ahead-seconds", "99") as server:

        async def work() -> None:
            async with session(server, HEARD) as client:
                await client.send(talk([1.0, 1.0]))
                await client.next("measurement")
                with pytest.raises(HTTPClientError, match="503"):
                    async with session(server):
                        pass

        run(work())
        assert server.metrics()['refusals_total{reason="busy"}'] == 1


def test_handshakes_that_fail_take_no_place(server: Server) -> None:
    good = "GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    good += (
        "Sec-WebSocket-Protocol: npser.v1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    for without in (
        "Connection: Upgrade\r\n",
        "Sec-WebSocket-Version: 13\r\n",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    ):
        for _ in range(5):
            found = ended(server.raw(good.replace(without, "").encode()))
            assert found == b"" or found.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 426 "))
    for _ in range(5):
        server.raw(good.encode()).close()
    server.until(lambda found: found["sessions"] == 0)


@pytest.mark.parametrize(
    ("update", "text"),
    [
        ({}, "lacks rate"),
        ({"rate": 100}, "rate is 100; expected a whole number of Hz, 4000 to 192000"),
        ({"rate": 16000.5}, "rate is 16000.5"),
        ({"rate": True}, "rate is true"),
        ({"rate": RATE, "format": "mp3"}, 'format is "mp3"; expected s16le or f32le'),
        ({"rate": RATE, "format": []}, "format is []"),
        ({"rate": RATE, "every": 0.1}, "every is 0.1; expected a number, 0.25 to 1"),
        ({"rate": RATE, "min_confidence": -1}, "min_confidence is -1"),
        ({"rate": RATE, "adapt": 1}, "adapt is 1"),
        ({"rate": RATE, "sample_rate": RATE}, 'has no field "sample_rate"; it has rate, format, every'),
    ],
)
def test_wrong_updates_end_a_session(server: Server, update: dict[str, Any], text: str) -> None:
    async def work() -> None:
        async with session(server, update) as client:
            assert text in (await client.fails("config_invalid", 4000))["message"]

    run(work())


def test_sound_before_an_update_and_an_update_after_one(server: Server) -> None:
    async def work() -> None:
        async with session(server) as client:
            await client.send(bytes(200))
            await client.fails("config_missing", 4000)
        async with session(server, HEARD) as client:
            await client.say("session.update", **HEARD)
            await client.fails("config_invalid", 4000)

    run(work())


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("no json", "message_invalid"),
        ("[" * 3000, "message_invalid"),
        ('{"type": NaN}', "message_invalid"),
        ("9" * 4000, "message_invalid"),
        ('{"type": "flush", "x": "' + "y" * 5000 + '"}', "message_invalid"),
        ("[]", "message_invalid"),
        ('{"type": 3}', "message_invalid"),
        ('{"type": "session.start"}', "type_unknown"),
        ('{"type": "flush", "now": true}', "field_unknown"),
        ('{"type": "gap"}', "gap_invalid"),
        ('{"type": "gap", "seconds": 1e9}', "gap_invalid"),
        (b"\0\0\0", "audio_invalid"),
        (np.full(100, np.nan, "<f4").tobytes(), "audio_invalid"),
        (np.full(100, 1e30, "<f4").tobytes(), "audio_invalid"),
    ],
    ids=range(14),
)
def test_a_wrong_message_is_told_and_the_session_goes_on(server: Server, path: Path, message: str | bytes, code: str) -> None:
    x = talk([0.6], pause=0.5)

    async def work() -> None:
        async with session(server, HEARD) as client:
            await client.send(x[:8000])
            await client.connection.write_message(message, binary=isinstance(message, bytes))
            error = await client.next()
            assert (error["code"], error["fatal"]) == (code, False)
            await client.send(x[8000:])
            await client.say("session.close")
            messages, closed = await client.rest()
            assert closed == 1000
            found = [m["probabilities"] for m in messages if m.get("final")]
            assert found == [Model(path).predict(x, RATE).probabilities]

    run(work())


def test_too_many_errors_end_a_session(server: Server) -> None:
    async def work() -> None:
        async with session(server, HEARD) as client:
            for _ in range(21):
                await client.connection.write_message("?")
            await client.fails("too_many_errors", 4000)

    run(work())


def test_sound_that_cannot_have_been_heard_yet_ends_a_session(server: Server) -> None:
    async def work() -> None:
        async with session(server, HEARD) as client:
            for block in np.array_split(talk([2.0]), 20):
                await client.send(block)
            await client.fails("too_fast", 4029)
        async with session(server, HEARD) as client:
            await client.say("gap", seconds=9)
            await client.fails("too_fast", 4029)

    run(work())


def test_a_flood_of_small_messages_ends_a_session(server: Server) -> None:
    async def work() -> None:
        async with session(server, {"rate": RATE}) as client:
            with contextlib.suppress(Exception):
                for _ in range(5000):
                    await client.send(bytes(2))
            await client.fails("too_fast", 4029)

    run(work())


def test_a_flood_of_pings_ends_a_session(server: Server) -> None:
    async def work() -> None:
        async with session(server, {"rate": RATE}) as client:
            with contextlib.suppress(Exception):
                for _ in range(100):
                    client.connection.ping(b"x")
            await client.fails("too_fast", 4029)

    run(work())


def test_messages_that_are_too_large_end_a_session(server: Server) -> None:
    async def work(size: int) -> None:
        async with session(server, HEARD) as client:
            with contextlib.suppress(Exception):
                await client.send(bytes(size))
            await client.fails("message_too_large", 4009)

    run(work(int(STRICT["message-bytes"]) + 4))
    before = server.metrics()["resident_memory_bytes"]
    with contextlib.suppress(AssertionError, ValueError):  # the answer may be lost with the connection, in which megabytes lie
        run(work(10_000_000))
    assert server.metrics()["resident_memory_bytes"] - before < 5e7


def test_a_client_that_says_nothing_is_told_and_left(server: Server) -> None:
    async def work() -> None:
        async with session(server, HEARD) as client:
            await client.send(talk([1.0])[: round(1.9 * RATE)])
            messages, code = await client.rest()
            assert [m["type"] for m in messages][-4:] == ["measurement", "speech.end", "error", "session.closed"]
            assert (messages[-1]["reason"], code) == ("idle", 4008)

    run(work())


def test_a_session_does_not_last_for_ever(environment: dict[str, str], tmp_path: Path, path: Path) -> None:
    with Server(environment, tmp_path, path, "--session-seconds", "1") as server:

        async def work() -> None:
            async with session(server, HEARD) as client:
                await client.fails("too_long", 4008)

        run(work())


def masked(opcode: int, content: bytes) -> bytes:
    """A frame of a client, with a mask of zeros."""
    length = bytes([0x80 | len(content)]) if len(content) < 126 else b"\xfe" + struct.pack("!H", len(content))
    return bytes([0x80 | opcode]) + length + bytes(4) + content


UPGRADE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: npser.v1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def test_pings_beyond_the_flood_are_not_answered(server: Server) -> None:
    """However many of them have come already."""
    found = ended(server.raw(UPGRADE + masked(9, b"a ping of many") * 200))
    assert 1 <= found.count(b"a ping of many") <= 8
    assert b"too_fast" in found


def test_a_client_that_never_reads_is_left(environment: dict[str, str], tmp_path: Path, path: Path) -> None:
    """It has its pings answered until the system holds no more."""
    with Server(environment, tmp_path, path, "--message-rate", "1000000", "--unread-seconds", "0.5") as server:
        before = server.metrics()["resident_memory_bytes"]
        with server.raw(UPGRADE, holds=4096) as connection, contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while True:
                connection.sendall(masked(9, b"x" * 125) * 400)
                time.sleep(0.1)
        after = server.until(lambda found: found["sessions"] == 0)
        assert after['refusals_total{reason="unread"}'] == 1
        assert after["resident_memory_bytes"] - before < 5e7


def test_frames_that_make_no_sense_end_a_session(server: Server) -> None:
    frames = [
        b"\xc1\x80" + bytes(4),
        b"\x8b\x80" + bytes(4),
        b"\x09\x80" + bytes(4),
        b"\x00\x80" + bytes(4),
        b"\x81\x82" + bytes(4) + b"\xff\xff",
    ]
    frames += [b"\x82\xff" + b"\xff" * 8 + bytes(4), masked(1, b"{}")[:3], masked(8, b"\x00")]
    for frame in frames:
        with server.raw(UPGRADE + frame) as connection:
            connection.shutdown(socket.SHUT_WR)
            assert ended(connection).startswith(b"HTTP/1.1 101 ")
    server.until(lambda found: found["sessions"] == 0)


def test_sessions_that_open_are_sessions_that_close(server: Server) -> None:
    found = server.until(lambda found: found["sessions"] == 0)
    assert found["sessions_opened_total"] == found["sessions_closed_total"] > 20
    codes = {name for name in found if name.startswith("requests_total") and 'code="5' in name}
    assert not [name for name in codes if 'code="503"' not in name]

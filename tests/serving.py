"""What the tests of the server share: one that a user started, and clients. All it says is held against its own documents."""

import asyncio
import contextlib
import dataclasses
import http.client
import json
import re
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
from helpers import RATE, SMALL, Array, start
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from npser.live.documents import RECEIVED, SCHEMAS

HEARING = dataclasses.replace(SMALL, level=True, speech=True)  # windows of a second
DEADLINE = 60.0  # seconds, of anything
Message = dict[str, Any]
STRICT = {
    "header-seconds": 0.5,
    "body-seconds": 1.5,
    "body-bytes": 400_000,
    "sound-seconds": 20,
    "message-bytes": 200_000,
    "message-rate": 400,
    "sessions": 3,
    "idle-seconds": 2,
    "unread-seconds": 0.5,
    "ahead-seconds": 2,
    "connections": 60,
    "connection-rate": 0,
    "decoders": 1,
    "decoder-seconds": 3,
}
HEARD = {"rate": RATE, "format": "f32le"}
CHECKS = {name: jsonschema.Draft202012Validator(schema) for name, schema in (SCHEMAS | RECEIVED).items()}


class Answer(NamedTuple):
    """Of HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def refuses(self, status: int, code: str) -> None:
        """It is an error of this kind, as the documents state errors."""
        assert self.status == status, self.body
        CHECKS["Error"].validate(self.json)
        assert self.json["code"] == code
        assert self.json["request_id"] == self.headers["x-request-id"]


class Server:
    """``npser serve``; ends with the block, and must then have said nothing of errors."""

    def __init__(self, environment: dict[str, str], folder: Path, model: Path, *words: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.process = start(environment, folder, "serve", "--json", "--port", "0", "--model", model, *words)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.address: str = json.loads(line)["address"]
        found = re.fullmatch(r"https?://127\.0\.0\.1:(\d+)(/.*|)/", self.address)
        assert found, self.address
        self.port, self.prefix = int(found[1]), found[2]

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, number: int = signal.SIGTERM) -> float:
        """End it; seconds that it took."""
        if self.process.returncode is not None:
            return 0.0
        begun = time.monotonic()
        self.process.send_signal(number)
        try:
            _, said = self.process.communicate(timeout=DEADLINE)
        finally:
            self.process.kill()
        assert self.process.returncode == 0, said
        assert "internal error" not in said, said
        assert "Traceback" not in said, said
        return time.monotonic() - begun

    def ask(self, path: str, body: Any = None, method: str = "", **headers: str) -> Answer:
        """A request. Headers with _ for -."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        with contextlib.closing(connection):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # an answer may come before all is sent
                connection.request(method or ("GET" if body is None else "POST"), self.prefix + path, body, named)
            answer = connection.getresponse()
            content = answer.read()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, content)

    def raw(self, content: bytes, holds: int | None = None) -> socket.socket:
        """A connection over which something was said. holds: bytes that the system keeps of what is not read."""
        found = socket.socket()
        found.settimeout(DEADLINE)
        if holds is not None:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, holds)  # before it is told to the other end
        found.connect(("127.0.0.1", self.port))
        found.sendall(content)
        return found

    def metrics(self) -> dict[str, float]:
        """As Prometheus reads them: every line is understood."""
        found: dict[str, float] = {}
        kinds: dict[str, str] = {}
        for line in self.ask("/metrics").body.decode().splitlines():
            if line.startswith("# TYPE "):
                _, _, name, kind = line.split(" ")
                kinds[name] = kind
            elif not line.startswith("# HELP "):
                parts = re.fullmatch(r'(npser_[a-z_]+)(\{[a-z]+="[^"\\]+"(?:,[a-z]+="[^"\\]+")*\})? ([0-9.e+-]+)', line)
                assert parts, line
                assert re.sub("_(bucket|sum|count)$", "", parts[1]) in kinds or parts[1] in kinds, line
                assert parts[1] + (parts[2] or "") not in found
                found[parts[1].removeprefix("npser_") + (parts[2] or "")] = float(parts[3])
        return found

    def until(self, check: Callable[[dict[str, float]], bool]) -> dict[str, float]:
        """The metrics, as soon as they say so."""
        deadline = time.monotonic() + DEADLINE
        while not check(found := self.metrics()):
            assert time.monotonic() < deadline, found
            time.sleep(0.02)
        return found

    def serves(self, audio: bytes) -> None:
        """When nobody else is there, a file is answered, and the server is well."""
        self.until(lambda found: found["sessions"] == 0 and found["uploads"] == 0)
        assert self.ask("/v1/predict", audio).status == 200
        assert self.ask("/readyz").status == 200


def strict_server(environment: dict[str, str], folder: Path, model: Path) -> Iterator[Server]:
    """For a fixture: a server with narrow limits."""
    words = [word for name, value in STRICT.items() for word in (f"--{name}", str(value))]
    with Server(environment, folder, model, *words) as found:
        yield found


def ended(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            found += part
    connection.close()
    return found


class Client:
    """Of a session."""

    def __init__(self, connection: WebSocketClientConnection) -> None:
        self.connection = connection

    async def say(self, kind: str, **fields: Any) -> None:
        await self.connection.write_message(json.dumps({"type": kind, **fields}))

    async def send(self, x: Array | bytes) -> None:
        """Samples, as s16le where they are whole numbers, else f32le."""
        await self.connection.write_message(x if isinstance(x, bytes) else x.tobytes(), binary=True)

    async def next(self, *kinds: str) -> Message:
        """The next message of one of these kinds; of any but progress."""
        while True:
            text = await asyncio.wait_for(asyncio.ensure_future(self.connection.read_message()), DEADLINE)
            assert text is not None, f"closed with {self.connection.close_code}"
            message = json.loads(text)
            CHECKS[message["type"]].validate(message)
            if message["type"] in kinds or (not kinds and message["type"] != "progress"):
                return message

    async def rest(self) -> tuple[list[Message], int | None]:
        """All messages to the end, but progress, and the code of the close."""
        found: list[Message] = []
        while True:
            text = await asyncio.wait_for(asyncio.ensure_future(self.connection.read_message()), DEADLINE)
            if text is None:
                return found, self.connection.close_code
            message = json.loads(text)
            CHECKS[message["type"]].validate(message)
            found += [message] if message["type"] != "progress" else []

    async def fails(self, code: str, close: int) -> Message:
        """The session ends with this error, and says so."""
        messages, closed = await self.rest()
        error, last = messages[-2:]
        assert (error["type"], error["code"], error["fatal"]) == ("error", code, True)
        assert (last["type"], last["reason"]) == ("session.closed", code)
        assert closed == close
        return error


@contextlib.asynccontextmanager
async def session(server: Server, update: Message | None = None, **headers: str) -> AsyncIterator[Client]:
    """A session that has been created, and where update is given, configured."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = HTTPRequest(f"ws://127.0.0.1:{server.port}{server.prefix}/v1/stream", headers=named)
    connection = await websocket_connect(request, subprotocols=["npser.v1"])
    assert connection.selected_subprotocol == "npser.v1"
    client = Client(connection)
    try:
        assert (await client.next())["type"] == "session.created"
        if update is not None:
            await client.say("session.update", **update)
        yield client
    finally:
        await left(connection)


async def left(connection: WebSocketClientConnection) -> None:
    """Close, and wait until the socket is closed as well."""
    stream: Any = getattr(connection.protocol, "stream", None)
    connection.close()
    for _ in range(300):
        if stream is None or stream.closed():
            return
        await asyncio.sleep(0.01)
    stream.close()


def run(work: Awaitable[Any]) -> Any:
    """An asynchronous part of a test."""

    async def bounded() -> Any:
        return await asyncio.wait_for(work, DEADLINE)

    return asyncio.run(bounded())


async def heard(server: Server, blocks: Sequence[Array], **update: Any) -> list[Message]:
    """All that a session says of some sound, but progress."""
    async with session(server, update) as client:
        for block in blocks:
            await client.send(block)
        await client.say("session.close")
        messages, code = await client.rest()
        assert code == 1000
        return messages

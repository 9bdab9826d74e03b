"""The WebSocket of a live session: who may have one, how it ends, and that it ends."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
from typing import Any

from tornado import iostream, websocket
from tornado.ioloop import IOLoop

from npser.live import protocol
from npser.live.handlers import Handler
from npser.live.limits import Problem
from npser.live.protocol import NORMAL, OUR_FAULT, PROTOCOL, TOKEN_PROTOCOL, TOO_LARGE, Message
from npser.live.session import PING, Session

LINGER = 1.0  # seconds in which a client can read why it is left


class Live(Handler, websocket.WebSocketHandler):
    """GET with an upgrade; then a session, which lasts as long as get."""

    live: Session
    opened = False
    ticks: asyncio.Task[None] | None = None
    unread: float | None = None  # since when something waits to be read

    async def get(self, *_: Any, **__: Any) -> None:
        shared = self.shared
        if self.request.headers.get("Upgrade", "").lower() != "websocket":
            raise Problem(
                "upgrade_missing", f"{self.request.path} is a WebSocket; connect with the subprotocol {PROTOCOL}", 400
            )
        if PROTOCOL not in self._offered():
            raise Problem("subprotocol_missing", f"offer the subprotocol {PROTOCOL}", 400)
        if not shared.about["stream"]:
            text = (
                "the model hears pauses as well; a stream needs one that was trained with speech = true; POST /v1/predict works"
            )
            raise Problem("model_cannot_stream", text, 409)
        if shared.is_full():
            text = f"there are {shared.settings.sessions} sessions already; come back later"
            raise self.refused("full", Problem("full", text, 503))
        if shared.engine.busy() > shared.settings.busy_share:
            text = "the sessions that are there keep the server busy; come back later"
            raise self.refused("busy", Problem("busy", text, 503))
        shared.enter(1)
        try:
            await super().get()
        finally:  # however it ended
            shared.enter(-1)
            shared.lives.discard(self)
            if self.ticks is not None:
                self.ticks.cancel()
            if self.opened:
                self.live.leave()
                shared.measures.add("sessions_closed_total")

    def _offered(self) -> list[str]:
        return [word.strip() for word in self.request.headers.get("Sec-WebSocket-Protocol", "").split(",")]

    def knows_token(self, token: str) -> bool:
        offered = (TOKEN_PROTOCOL + token).encode()
        return super().knows_token(token) or any(hmac.compare_digest(word.encode(), offered) for word in self._offered())

    def check_origin(self, origin: str) -> bool:
        return True  # prepare has

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return PROTOCOL

    @property
    def max_message_size(self) -> int:
        return self.shared.settings.message_bytes

    def get_websocket_protocol(self) -> websocket.WebSocketProtocol | None:
        found = super().get_websocket_protocol()
        if found is None:
            return None
        close = found.close

        def told(code: int | None = None, reason: str | None = None) -> None:
            """Tornado closes with 1009 where a message is too large."""
            if code == 1009 and self.opened:
                code = TOO_LARGE
                most = self.shared.settings.message_bytes
                self._say_why(
                    Problem("message_too_large", f"a message has more than {most} bytes; send less at once", close=code)
                )
            close(code, reason)

        found.close = told
        return found

    def open(self, *_: Any, **__: Any) -> None:
        shared = self.shared
        self.opened = True
        self.set_nodelay(True)
        shared.measures.add("sessions_opened_total")
        shared.lives.add(self)
        self.live = Session(self.request_id, shared.engine, shared.settings, shared.measures, self._send)
        self._send(protocol.created(self.request_id, shared.about, shared.limits()))
        self.ticks = asyncio.ensure_future(self._tick())

    async def on_message(self, message: str | bytes) -> None:
        try:
            await asyncio.sleep(0)  # others have their turn, however many messages came at once
            if not await self.live.receive(message):
                await self.leave("client", NORMAL)
        except Problem as problem:
            self._tell(self.live.forgive(problem))
        except asyncio.CancelledError:  # the server stops, and has told so
            pass
        except ValueError as error:  # numbers that overflow
            self._tell(Problem("unanswerable", str(error), close=OUR_FAULT))

    def on_ping(self, data: bytes) -> None:
        """Tornado has answered."""
        try:
            self.live.count(time.monotonic(), PING)
        except Problem as problem:
            self._tell(problem)

    def _tell(self, problem: Problem) -> None:
        """What is wrong; where that is the end, with the end."""
        if problem.close is None:
            self._send(problem.body(self.request_id, fatal=False))
            return
        self._say_why(problem)
        stream, connection = self._stream(), self.ws_connection
        self.close(problem.close, problem.code)
        if stream is not None and connection is not None:
            connection.client_terminated = True  # no more is read: a flood is not borne until the client hears that it is left
            IOLoop.current().call_later(LINGER, stream.close)

    def _say_why(self, problem: Problem) -> None:
        """The last two messages of a session that ends with an error."""
        if not self.live.over:
            reason = {"message_too_large": "too_large", "config_invalid": "config", "config_missing": "config"}
            self.shared.measures.add("refusals_total", reason=reason.get(problem.code, problem.code))
            self._send(problem.body(self.request_id))
            self.live.close(problem.code)

    async def leave(self, reason: str, code: int, answer: bool = True) -> None:
        """Answer all that was heard, and end."""
        if answer:
            await self._answer()
        self.live.close(reason)
        self.close(code, reason)

    async def _answer(self) -> None:
        """All that was heard, before the end."""
        with contextlib.suppress(ValueError, asyncio.CancelledError):
            await self.live.answer()

    async def _tick(self) -> None:
        """End a session whose client is silent, or does not read, or has had its time."""
        most = self.shared.settings.unread_seconds
        while True:
            await asyncio.sleep(min(0.5, most / 2))
            stream, now = self._stream(), time.monotonic()
            if stream is None or stream.closed():
                return
            self.unread = (self.unread or now) if stream.writing() else None
            if self.unread is not None and now - self.unread > most:
                self.refused("unread", Problem("unread", "the client does not read"))
                stream.close()  # a word to it would not be read either
                return
            try:
                self.live.tick()
            except Problem as problem:
                await self._answer()
                self._tell(problem)
                return

    def _stream(self) -> iostream.IOStream | None:
        """Of the connection, while there is one."""
        found = getattr(self.ws_connection, "stream", None)
        return found if isinstance(found, iostream.IOStream) else None

    def _send(self, message: Message) -> None:
        try:
            sent = self.write_message(json.dumps(message))
        except (websocket.WebSocketClosedError, iostream.StreamClosedError):
            return
        sent.add_done_callback(lambda done: done.cancelled() or done.exception())

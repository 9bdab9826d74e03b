"""What the server answers over HTTP: who may ask, uploads, and what it says of itself."""

from __future__ import annotations

import asyncio
import hmac
import io
import json
import re
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable
from threading import Event
from typing import Any
from urllib.parse import urlsplit

from tornado import iostream, web
from tornado.http1connection import HTTP1Connection
from tornado.ioloop import IOLoop

from npser.live import documents
from npser.live.limits import Problem, is_own_name
from npser.live.state import BODIES, State
from npser.prediction import Prediction, Row, Window, csv_writer, rows, window_row, withhold

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
# The page states the rest itself, with the hashes of its programs
PAGE_POLICY = "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; connect-src 'self'"
WORDS = {404: "not_found", 405: "method_unknown", 400: "request_invalid"}
JSON, LINES, CSV = "application/json", "application/x-ndjson", "text/csv"
PATH = "-"  # in place of a recording's name, as `npser predict -` has it


@web.stream_request_body
class Handler(web.RequestHandler):
    """Of all routes: a body is refused where none is expected, before it is read."""

    route = "other"
    is_open = False  # to those without the token
    takes_body = False
    shared: State

    def __init__(self, *arguments: Any, **others: Any) -> None:
        self.request_id = uuid.uuid4().hex  # before the headers
        super().__init__(*arguments, **others)

    def initialize(self, state: State, route: str) -> None:
        self.shared, self.route = state, route

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("X-Request-Id", self.request_id)
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        """Whether the server is meant, and may be asked by who asks."""
        s, headers = self.shared.settings, self.request.headers
        connection = self.request.connection
        if isinstance(connection, HTTP1Connection) and connection.stream is not None and connection.stream.closed():
            connection.detach()  # who asked a thousand things and left is not answered
            self._finished = True
            raise Problem("given_up", "the client is gone")
        if self.shared.stopping and self.route not in ("healthz", "readyz", "metrics"):
            raise self.refused("stopping", Problem("stopping", "the server stops; come back later", 503))
        host = headers.get("Host", "")
        if not is_own_name(urlsplit(f"//{host}").hostname or "", s):
            text = f"the host {host[:100]!r} is not served here; the server's --allow-host would allow it"
            raise self.refused("host", Problem("host_unknown", text, 421))
        origin = headers.get("Origin")
        if origin is not None and not self.is_own_origin(origin):
            text = f"pages of {origin[:100]!r} may not use this server; its --allow-origin would allow it"
            raise self.refused("origin", Problem("origin_forbidden", text, 403))
        if self.shared.token is not None and not self.is_open and not self.knows_token(self.shared.token):
            text = "the token is missing or wrong; send the header Authorization: Bearer TOKEN"
            raise self.refused("token", Problem("token_wrong", text, 401))
        if not self.takes_body and (headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers):
            raise Problem("body_unexpected", f"{self.request.method} {self.request.path} takes no body", 413)

    def is_own_origin(self, origin: str) -> bool:
        """Whether a page is of this server."""
        own = urlsplit(origin)
        same = own.scheme in ("http", "https") and own.netloc == self.request.headers.get("Host")
        return same or origin in self.shared.settings.allow_origin

    def knows_token(self, token: str) -> bool:
        kind, _, found = self.request.headers.get("Authorization", "").partition(" ")
        return kind.lower() == "bearer" and hmac.compare_digest(found.strip().encode(), token.encode())

    def refused(self, reason: str, problem: Problem) -> Problem:
        """Counted."""
        self.shared.measures.add("refusals_total", reason=reason)
        return problem

    def data_received(self, chunk: bytes) -> None:
        """Nothing: prepare has refused it."""

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> Any:
        """A client that does not read its answer is not waited for."""
        done = super().finish(chunk)
        stream = getattr(self.request.connection, "stream", None)
        if isinstance(stream, iostream.IOStream) and stream.writing():
            loop = IOLoop.current()
            late = loop.call_later(self.shared.settings.answer_seconds, stream.close)
            loop.add_future(asyncio.ensure_future(done), lambda _: loop.remove_timeout(late))
        return done

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, Problem):
            self.set_status(error.status)
            if error.status == 503:
                self.set_header("Retry-After", "1")
            if error.status == 401:
                self.set_header("WWW-Authenticate", "Bearer")
            if error.code == "stopping":
                self.set_header("Connection", "close")
            self.say(error.body(self.request_id))
            return
        if status_code == 405:
            self.set_header("Allow", "POST" if self.takes_body else "GET")
        texts = {404: f"there is nothing at {self.request.path[:100]}", 405: f"{self.request.method} is not to be used here"}
        text = texts.get(status_code, getattr(error, "log_message", None) or "the server failed; its log has this request_id")
        self.say(Problem(WORDS.get(status_code, "internal"), text).body(self.request_id))

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        super().send_error(error.status if isinstance(error, Problem) else status_code, **kwargs)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if not isinstance(value, web.HTTPError | Problem | iostream.StreamClosedError | asyncio.CancelledError):
            text = " ".join(f"{type(value).__name__}: {value}".split())
            print(f"npser: internal error ({text}) in request {self.request_id}", file=sys.stderr, flush=True)

    def say(self, body: Any) -> None:
        """The end of an answer."""
        self.set_header("Content-Type", JSON)
        self.finish(json.dumps(body))

    def on_finish(self) -> None:
        self.shared.measures.add("requests_total", route=self.route, code=str(self.get_status()))


class Unknown(Handler):
    """Where there is nothing."""

    is_open = True

    def prepare(self) -> None:
        super().prepare()
        raise web.HTTPError(404)


class Health(Handler):
    """The loop runs."""

    is_open = True

    def get(self) -> None:
        self.say({"status": "ok"})


class Readiness(Handler):
    """The network has answered a moment ago."""

    is_open = True

    def get(self) -> None:
        reason = self.shared.unready()
        self.set_status(200 if reason is None else 503)
        self.say({"status": "ready"} if reason is None else Problem("unready", reason).body(self.request_id))


class Metrics(Handler):
    """For Prometheus."""

    def get(self) -> None:
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.finish(self.shared.measures.text())


class Card(Handler):
    """The model."""

    def get(self) -> None:
        self.say(self.shared.card())


class Document(Handler):
    """How all of this is to be used, for programs."""

    is_open = True

    def get(self) -> None:
        made = documents.openapi if self.route == "openapi" else documents.asyncapi
        self.say(made(self.shared.settings.prefix))


class Page(Handler):
    """For people."""

    is_open = True

    def get(self) -> None:
        html = self.shared.page()
        if html is None:
            prefix = self.shared.settings.prefix
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            paths = "".join(f"  {prefix}{path:<16} {text}\n" for path, text in documents.PATHS.items())
            self.finish(f"npser names the emotion of speech.\n\n{paths}")
            return
        self.set_header("Content-Security-Policy", PAGE_POLICY)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(html)


class Predict(Handler):
    """POST of a recording: the body is the file."""

    takes_body = True

    def prepare(self) -> None:
        self.file: Any = None
        self.begun = False  # to answer
        self.size, self.late, self.given_up = 0, None, Event()
        super().prepare()
        s, headers = self.shared.settings, self.request.headers
        if self.request.method != "POST":
            raise web.HTTPError(405)
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Problem("encoding_unknown", "the body is compressed; send the recording as it is", 415)
        if headers.get("Content-Type", "").lower().startswith("multipart/"):
            raise Problem("form_unexpected", "the body is a form; send the file itself: curl --data-binary @a.wav", 415)
        self.timeline, self.least = self._asked()
        self.form = accepted(headers.get("Accept", ""))
        length = headers.get("Content-Length", "")
        if re.fullmatch("[0-9]+", length) and (len(length) > 15 or int(length) > s.body_bytes):
            raise self._too_large()
        if self.shared.uploads >= s.uploads:
            text = f"{s.uploads} recordings are answered or wait for it; come back later"
            raise self.refused("uploads", Problem("uploads_full", text, 503))
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 (it has no name, and is gone when it is closed)
        self.late = IOLoop.current().call_later(s.body_seconds, self._give_up)

    def _asked(self) -> tuple[bool, float]:
        """Of the query: whether to tell the windows, and the least confidence."""
        unknown = sorted(self.request.query_arguments.keys() - {"timeline", "min_confidence"})
        if unknown:
            raise Problem("query_unknown", f"there is no {unknown[0][:40]!r} to be asked; expected timeline or min_confidence")
        timeline, least = self.get_query_argument("timeline", "false").lower(), self.get_query_argument("min_confidence", "0")
        if timeline not in ("", "1", "true", "0", "false"):
            raise Problem("query_invalid", f"timeline is {timeline[:40]!r}; expected true or false")
        try:
            found = float(least)
        except ValueError:
            found = -1.0
        if not 0 <= found <= 1:
            raise Problem("query_invalid", f"min_confidence is {least[:40]!r}; expected a probability, 0 to 1")
        return timeline in ("", "1", "true"), found

    def _too_large(self) -> Problem:
        most = self.shared.settings.body_bytes
        return Problem("body_too_large", f"the recording has more than {most} bytes; send it in parts, or as flac or ogg", 413)

    def _give_up(self) -> None:
        if not self._finished:
            seconds = self.shared.settings.body_seconds
            self._refuse(Problem("body_late", f"the recording was not there within {seconds:g} s", 408))

    def _refuse(self, problem: Problem) -> None:
        """Before the body is there: the connection ends with it."""
        self._let_go()
        self.send_error(problem.status, exc_info=(type(problem), problem, None))

    def data_received(self, chunk: bytes) -> None:
        if self._finished or self.file is None:
            return
        self.size += len(chunk)
        self.shared.held += len(chunk)
        if self.size > self.shared.settings.body_bytes:
            self._refuse(self._too_large())
        elif self.shared.held > BODIES * self.shared.settings.body_bytes:
            self._refuse(
                self.refused("uploads", Problem("uploads_full", "too much is being sent at once; come back later", 503))
            )
        else:
            try:
                self.file.write(chunk)
            except OSError:
                self._refuse(Problem("uploads_full", "there is no room for the recording; come back later", 503))

    async def post(self) -> None:
        if self.late is not None:
            IOLoop.current().remove_timeout(self.late)
        begun, self.begun = time.monotonic(), True
        self.shared.upload(1)
        try:
            self.file.flush()
            queue: asyncio.Queue[list[Window] | None] = asyncio.Queue()
            loop = asyncio.get_running_loop()

            def show(windows: list[Window]) -> None:
                loop.call_soon_threadsafe(queue.put_nowait, windows)

            lines = show if self.form == LINES else None
            future = asyncio.wrap_future(self.shared.files.predict(self.file, lines, self.given_up))
            if lines is not None:
                await self._lines(future, queue)
            else:
                self._whole(withhold(await future, self.least))
        except asyncio.CancelledError:
            raise Problem("stopping", "the server stops; come back later", 503) from None
        finally:
            self.shared.upload(-1)
            self.shared.measures.observe("predict_seconds", time.monotonic() - begun)

    def _whole(self, prediction: Prediction) -> None:
        """The answer at once."""
        if self.form == CSV:
            file, model = io.StringIO(), self.shared.model
            csv_writer(file, [*model.emotions, *model.genders], self.timeline)(list(rows(PATH, prediction, self.timeline)))
            self.set_header("Content-Type", f"{CSV}; charset=utf-8; header=present")
            self.finish(file.getvalue())
            return
        row, *windows = rows(PATH, prediction, self.timeline)
        for window in windows:
            del window["path"]
        self.say(row | ({"timeline": windows} if self.timeline else {}))

    async def _lines(self, future: Awaitable[Prediction], queue: asyncio.Queue[list[Window] | None]) -> None:
        """Windows as they are computed, then the recording."""
        self.set_header("Content-Type", LINES)
        done = asyncio.ensure_future(future)
        done.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (windows := await queue.get()) is not None:
                told = withhold(Prediction(None, {}, None, None, 0.0, timeline=windows), self.least)
                await self._line([window_row(PATH, window) for window in told.timeline])
            await self._line([next(rows(PATH, withhold(await done, self.least), False))])
        except (Problem, asyncio.CancelledError) as error:
            if not self._headers_written:
                raise
            problem = error if isinstance(error, Problem) else Problem("stopping", "the server stops; come back later")
            await self._line([problem.body(self.request_id)])
        except (TimeoutError, iostream.StreamClosedError):
            self.given_up.set()
            self.request.connection.stream.close()  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
        finally:
            done.add_done_callback(lambda future: future.cancelled() or future.exception())
        if not self.given_up.is_set():
            self.finish()

    async def _line(self, found: list[Row]) -> None:
        self.write("".join(json.dumps(row) + "\n" for row in found))
        await asyncio.wait_for(asyncio.ensure_future(self.flush()), self.shared.settings.answer_seconds)

    def _let_go(self) -> None:
        """Of the upload."""
        if self.late is not None:
            IOLoop.current().remove_timeout(self.late)
        self.shared.held -= self.size
        self.size = 0

    def on_connection_close(self) -> None:
        self.given_up.set()
        self._let_go()
        if self.file is not None and not self.begun:  # else its thread may read it yet
            self.file.close()
        super().on_connection_close()  # or who waits for the body waits for ever

    def on_finish(self) -> None:
        self._let_go()
        if self.file is not None:
            self.file.close()
        super().on_finish()


def accepted(accept: str) -> str:
    """The best of the forms that a header Accept allows; where it allows any, JSON."""
    best, found = 0.0, None
    for part in accept.split(",") if accept.strip() else [JSON]:
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        try:
            quality = next((float(word[2:]) for word in parameters if word.startswith("q=")), 1.0)
        except ValueError:
            quality = 0.0
        known = {"*/*": JSON, "application/*": JSON, "text/*": CSV, JSON: JSON, LINES: LINES, CSV: CSV}
        if kind in known and quality > best:
            best, found = quality, known[kind]
    if found is None:
        raise Problem("accept_unknown", f"there is no such form of the answer; Accept {JSON}, {LINES} or {CSV}", 406)
    return found

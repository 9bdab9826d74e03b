"""The server: one process or several behind a port, from its start to its stop.

POST /v1/predict   GET /v1/model   WebSocket /v1/stream   /healthz /readyz /metrics /openapi.json /asyncapi.json /
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import resource
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, wait
from typing import Any

from tornado import httpserver, iostream, netutil, web

from npser.live import handlers
from npser.live.limits import Settings, is_loopback
from npser.live.measures import ROW, Measures
from npser.live.protocol import GOING_AWAY
from npser.live.sockets import Live
from npser.live.state import State

ROUTES: dict[str, tuple[str, type[handlers.Handler]]] = {
    "/v1/predict": ("predict", handlers.Predict),
    "/v1/model": ("model", handlers.Card),
    "/v1/stream": ("stream", Live),
    "/healthz": ("healthz", handlers.Health),
    "/readyz": ("readyz", handlers.Readiness),
    "/metrics": ("metrics", handlers.Metrics),
    "/openapi.json": ("openapi", handlers.Document),
    "/asyncapi.json": ("asyncapi", handlers.Document),
    "/": ("page", handlers.Page),
}
SPARE = 200  # files that a process may have open beside its connections
UNREAD = 1 << 16  # bytes of answers that the system holds for a client who does not read
BACKLOG = 1024  # connections that the system holds until they are taken
AT_ONCE = 128  # of them, before others have their turn
SHUT = 0.01  # seconds that the next ones wait after one that was refused
YOUNG = 5.0  # seconds: a worker that dies before is not started again
SAY_OF_TORNADO = logging.CRITICAL  # malformed requests are counted by nobody, and told to who sends them

Say = Callable[[str], None]


class Front(httpserver.HTTPServer):
    """That takes so many connections and no more, and of one address so many in a second; those of another second wait."""

    state: State
    waiting = 0  # connections
    swept = 0.0  # when addresses were last forgotten

    def initialize(self, *arguments: Any, **others: Any) -> None:
        super().initialize(*arguments, **others)
        self.doors: list[socket.socket] = []  # that connections come to
        self.free: dict[bytes, float] = {}  # when each address has all of its connections of a second to begin again

    def count(self) -> int:
        """Connections now."""
        return len(self._connections) + self.state.live + self.waiting

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        """Take the connections that come to them."""
        self.doors += sockets
        for door in self.doors:
            self._open(door)

    def stop(self) -> None:
        """Take no more."""
        while self.doors:
            door = self.doors.pop()
            asyncio.get_running_loop().remove_reader(door)
            door.close()

    def _open(self, door: socket.socket) -> None:
        if door.fileno() >= 0:
            asyncio.get_running_loop().add_reader(door, self._accept, door)

    def _accept(self, door: socket.socket) -> None:
        """All that have come. After one that is refused, the next ones wait: a flood need not wake the loop each time."""
        refused = False
        for _ in range(AT_ONCE):
            try:
                connection, address = door.accept()
            except BlockingIOError:
                break
            except OSError:  # it has left, or there are too many files open
                refused = True
                break
            refused |= not self._admitted(connection, address)
        if refused:
            loop = asyncio.get_running_loop()
            loop.remove_reader(door)
            loop.call_later(SHUT, self._open, door)

    def _admitted(self, connection: socket.socket, address: Any) -> bool:
        """Let it wait for its turn, or close it, before a stream or TLS is spent on it."""
        state = self.state
        seconds = self.turn(address[0]) if self.count() < state.settings.connections else None
        if seconds is None:
            state.measures.add("refusals_total", reason="connections")
            connection.close()
            return False
        self.waiting += 1
        asyncio.get_running_loop().call_later(seconds, self._take, connection, address)
        return True

    def _take(self, connection: socket.socket, address: Any) -> None:
        self.waiting -= 1
        try:
            connection.getpeername()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD)
            kind, context = iostream.IOStream, self.ssl_options
            if context is not None:
                connection = netutil.ssl_wrap_socket(connection, context, server_side=True, do_handshake_on_connect=False)
                kind = iostream.SSLIOStream
        except OSError:  # who waited has left
            connection.close()
            return
        self.handle_stream(kind(connection, self.max_buffer_size, read_chunk_size=self.read_chunk_size), address)

    def turn(self, host: str) -> float | None:
        """Seconds until an address may begin one more connection; None: too many wait. Of IPv6, a network of 64 bits counts as
        one address, since one host may have all of it.
        """
        rate, now = self.state.settings.connection_rate, time.monotonic()
        if not rate:
            return 0.0
        if now - self.swept > 1:
            self.swept, self.free = now, {name: free for name, free in self.free.items() if free > now}
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        name = socket.inet_pton(family, host.partition("%")[0])[:8]
        free = max(self.free.get(name, now), now) + 1 / rate
        if free > now + 2:
            return None
        self.free[name] = free
        return max(0.0, free - now - 1)


def bind(settings: Settings) -> list[socket.socket]:
    """The port. ValueError where it cannot be had."""
    try:
        return netutil.bind_sockets(settings.port, settings.host, backlog=BACKLOG)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(
            f"--host {settings.host} --port {settings.port}: cannot be listened on ({reason}); name another port, or 0"
        ) from None


def secured(settings: Settings) -> ssl.SSLContext | None:
    """For https. ValueError where certificate and key are none."""
    if not settings.certificate:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.certificate, settings.key)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or str(error)
        raise ValueError(f"--certificate {settings.certificate} --key {settings.key}: cannot be used ({reason})") from None
    return context


def address_of(settings: Settings, sockets: list[socket.socket]) -> str:
    """Of the page."""
    host = "127.0.0.1" if settings.host == "localhost" else settings.host
    host = f"[{host}]" if ":" in host else host
    return f"{'https' if settings.certificate else 'http'}://{host}:{sockets[0].getsockname()[1]}{settings.prefix}/"


def serve(settings: Settings, say: Say) -> int:
    """Until a signal comes; returns the exit status. say: is told the address once all is ready."""
    context, sockets = secured(settings), bind(settings)
    address = address_of(settings, sockets)
    if settings.no_token and not is_loopback(settings.host):
        print("npser: note: whoever reaches this address is served, without a token", file=sys.stderr, flush=True)
    if settings.workers > 1:
        return _Workers(settings, sockets).run(lambda: say(address))
    state = State(settings, Measures())
    for notice in state.model.checkpoint.training.get("notices", []):
        print(f"npser: note: {notice}", file=sys.stderr, flush=True)
    asyncio.run(_serve(state, sockets, context, lambda: say(address)))
    return 0


async def _serve(state: State, sockets: list[socket.socket], context: ssl.SSLContext | None, ready: Callable[[], None]) -> None:
    """One process."""
    s = state.settings
    _quiet(s)
    routes = [(f"{s.prefix}{path}", cls, {"state": state, "route": route}) for path, (route, cls) in ROUTES.items()]
    app = web.Application(
        [(path.replace(".", r"\."), cls, about) for path, cls, about in routes],
        default_handler_class=handlers.Unknown,
        default_handler_args={"state": state, "route": "other"},
        log_function=lambda _: None,  # nothing is kept of who asks
    )
    server = Front(
        app,
        ssl_options=context,
        idle_connection_timeout=s.header_seconds,
        max_header_size=s.header_bytes,
        max_body_size=2 * s.body_bytes + (1 << 20),  # the handler says 413 before
        body_timeout=s.body_seconds + 5,  # the handler says 408 before
        decompress_request=False,
        chunk_size=1 << 16,
    )
    server.state, state.connections = state, server.count
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    watch = asyncio.ensure_future(state.watch())
    while state.unready() is not None and not stop.is_set() and not watch.done():
        await asyncio.sleep(0.01)
    server.add_sockets(sockets)
    ready()
    await stop.wait()
    await _stop(state, server, watch)


def _quiet(s: Settings) -> None:
    """Threads that compute let the loop have its turn; and as many files as there may be connections."""
    sys.setswitchinterval(0.001)
    logging.getLogger("tornado").setLevel(SAY_OF_TORNADO)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * s.connections + SPARE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


async def _stop(state: State, server: Front, watch: asyncio.Future[None]) -> None:
    """No new work; what runs is finished, or told."""
    state.stopping = True
    server.stop()
    deadline = time.monotonic() + state.settings.stop_seconds
    told = [asyncio.ensure_future(live.leave("stopping", GOING_AWAY)) for live in list(state.lives)]
    if told:
        await asyncio.wait(told, timeout=state.settings.stop_seconds)
    while (state.uploads or state.lives) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    state.close()
    until = time.monotonic() + 0.3
    while state.uploads and time.monotonic() < until:  # who waited is told
        await asyncio.sleep(0.02)
    watch.cancel()


# Several processes


class _Workers:
    """Processes that take connections from the same sockets; one that dies is followed by another."""

    def __init__(self, settings: Settings, sockets: list[socket.socket]) -> None:
        self.settings, self.sockets = settings, sockets
        self.spawn = multiprocessing.get_context("spawn")
        self.numbers: Any = self.spawn.RawArray("d", ROW * settings.workers)
        self.alive, self.lifeline = self.spawn.Pipe(duplex=False)  # its other end is closed when this process dies
        self.stopping = False

    def _start(self, k: int) -> tuple[Any, Any, float]:
        here, there = self.spawn.Pipe(duplex=False)
        arguments = (self.settings, self.sockets, self.numbers, k, there, self.alive)
        process = self.spawn.Process(target=worker, args=arguments, name=f"worker {k}")
        process.start()
        there.close()
        return process, here, time.monotonic()

    def run(self, ready: Callable[[], None]) -> int:
        """Until a signal comes; returns the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        running = [self._start(k) for k in range(self.settings.workers)]
        for k, (process, here, _) in enumerate(running):
            try:
                error = here.recv()
            except EOFError:
                error = f"a worker died (exit status {process.exitcode})"
            if error and not self.stopping:
                self._end([process for process, _, _ in running])
                raise ValueError(error)
            running[k][1].close()
        if not self.stopping:
            ready()
        while not self.stopping:
            wait([process.sentinel for process, _, _ in running], timeout=0.2)
            for k, (process, _, begun) in enumerate(running):
                if process.is_alive() or self.stopping:
                    continue
                if time.monotonic() - begun < YOUNG:
                    self._end([process for process, _, _ in running])
                    raise ValueError(f"worker {k} died at once (exit status {process.exitcode}); its reason stands above")
                running[k] = self._start(k)
        self._end([process for process, _, _ in running])
        return 0

    def _stop(self, *_: Any) -> None:
        self.stopping = True

    def _end(self, processes: list[Any]) -> None:
        for process in processes:
            process.terminate()
        until = time.monotonic() + self.settings.stop_seconds + 0.7
        for process in processes:
            process.join(max(0.0, until - time.monotonic()))
            process.kill()


def worker(settings: Settings, sockets: list[socket.socket], numbers: Any, k: int, told: Connection, alive: Connection) -> None:
    """One of several processes. told: is sent None once it is ready, or what is wrong."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        state, context = State(settings, Measures(numbers, k)), secured(settings)
    except (ValueError, OSError, MemoryError) as error:
        told.send(str(error))
        return

    def ready() -> None:
        loop = asyncio.get_running_loop()

        def orphaned() -> None:
            loop.remove_reader(alive.fileno())
            os.kill(os.getpid(), signal.SIGTERM)

        loop.add_reader(alive.fileno(), orphaned)
        told.send(None)
        told.close()

    asyncio.run(_serve(state, sockets, context, ready))

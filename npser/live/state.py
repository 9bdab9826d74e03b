"""What a server's process has, and whether it is well: model, the network's process, decoders, counts, who is there."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from npser import SHIPPED, __version__, model
from npser.features import SAMPLE_RATE
from npser.lite import Model
from npser.live import protocol
from npser.live.decoding import tone
from npser.live.engine import Engine
from npser.live.files import Files
from npser.live.limits import Settings, token_of
from npser.live.measures import Measures, resident_bytes

CANARY = 5.0  # seconds from one to the next
AGAIN = 0.5  # seconds to the next one where the network's process has died
FRESH = 10.0  # seconds for which one says that the server is well
BODIES = 16  # whole uploads that may be on their way, all in all


class Live(Protocol):
    """A session's connection."""

    async def leave(self, reason: str, code: int, answer: bool = True) -> None: ...


class State:
    """ValueError where the model is of no use here."""

    def __init__(self, settings: Settings, measures: Measures) -> None:
        self.settings, self.measures, self.token = settings, measures, token_of(settings)
        self.model = trained = Model(settings.model)
        model.refuse_text(trained.config)
        if not hasattr(trained.network, "plain"):
            text = f"{trained.path}: the network {trained.config.network} answers by the compiled engine only, which"
            raise ValueError(f"{text} is for archives; serve another model, or use npser predict")
        self.about = protocol.about(trained, hashlib.sha256(Path(trained.path).read_bytes()).hexdigest())
        self.engine = Engine(trained, measures)
        try:
            self.files = Files(trained, self.engine, settings, measures)
        except ValueError:
            self.engine.stop()
            raise
        try:
            self.engine.check()  # it has started beside the decoders
        except ValueError:
            self.close()
            raise
        self.lives: set[Live] = set()
        self.live = self.uploads = self.held = 0  # sessions; uploads that are answered; bytes of those that come
        self.connections: Callable[[], int] = lambda: 0  # now; the front says
        self.stopping = False
        self.well = -FRESH  # when the last canary sang
        self.canary = trained.network_input(tone(round(min(1.0, trained.config.max_seconds) * SAMPLE_RATE)))
        self.song: bytes | None = None

    async def watch(self) -> None:
        """Let the network answer the same again and again: who waits for it in vain is not ready."""
        while True:
            self.engine.end_if_hung()
            try:
                (found,) = await asyncio.wait_for(asyncio.wrap_future(self.engine.later([self.canary])), FRESH)
                song = b"".join(value.tobytes() for value in found.values() if value is not None)
                self.song = self.song or song
                self.well = time.monotonic() if song == self.song else -FRESH
            except (TimeoutError, asyncio.CancelledError):
                pass
            except Exception:  # its process has died, and another one has begun
                self.well = -FRESH
                await asyncio.sleep(AGAIN)
                continue
            self.measures.set("busy_share", self.engine.busy())
            self.measures.set("connections", self.connections())
            self.measures.set("resident_memory_bytes", resident_bytes(self.engine.child.pid))
            if self.stopping:
                return
            await asyncio.sleep(CANARY)

    def unready(self) -> str | None:
        """Why the server is not ready."""
        if self.stopping:
            return "the server stops"
        return None if time.monotonic() - self.well < FRESH else "the network has not answered for a while"

    def is_full(self) -> bool:
        """Whether there are as many sessions as there may be, in all processes together."""
        return self.measures.total("sessions") >= self.settings.sessions

    def enter(self, by: int) -> None:
        """A session more, or less."""
        self.live += by
        self.measures.set("sessions", self.live)

    def upload(self, by: int) -> None:
        """An upload more that is answered, or less."""
        self.uploads += by
        self.measures.set("uploads", self.uploads)

    def limits(self) -> dict[str, Any]:
        """What clients should know of."""
        s = self.settings
        names = (
            "body_bytes",
            "sound_seconds",
            "session_seconds",
            "idle_seconds",
            "message_bytes",
            "message_rate",
            "ahead_seconds",
        )
        return {name: getattr(s, name) for name in names}

    def card(self) -> dict[str, Any]:
        """Of GET /v1/model."""
        training = self.model.checkpoint.training
        return {
            **self.about,
            "name": "the model that comes with npser" if self.model.path == SHIPPED else Path(self.model.path).name,
            "version": __version__,
            "protocol": protocol.PROTOCOL,
            "licence": training.get("licence"),
            "notices": training.get("notices", []),
            "corpora": training.get("corpora", []),
            "scores": training.get("scores", {}),
            "limits": self.limits(),
        }

    @functools.cached_property
    def _page(self) -> str | None:
        try:
            from npser.live.page import page  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

            return page(self.model.path)
        except (ImportError, ValueError):  # no page, or none of such a model
            return None

    def page(self) -> str | None:
        """For people, of this model, where there is one."""
        return self._page

    def close(self) -> None:
        """No more."""
        self.files.close()
        self.engine.stop()

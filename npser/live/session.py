"""A live session: what its client says goes into a stream, and what the stream tells is said to the client."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

import numpy as np

from npser.live import protocol
from npser.live.engine import Engine
from npser.live.limits import Problem, Settings
from npser.live.measures import Measures
from npser.live.protocol import CONFIG, OUR_FAULT, TIMED_OUT, TOO_FAST, Message, Update
from npser.live.stream import Event

Array = np.ndarray

AT_ONCE = 0.05  # seconds of sound, at least, that are heard together
HELD = 1.0  # seconds of sound that are heard together, at most; where so much waits, no more is read
MOST_ERRORS = 20  # that are not fatal
BURST = 1.0  # seconds of messages that may come at once
PING = 100  # messages that a ping counts as: no client needs many


class Session:
    """Of one client. send: what writes a message to it; it raises nothing."""

    def __init__(
        self, name: str, engine: Engine, settings: Settings, measures: Measures, send: Callable[[Message], None]
    ) -> None:
        self.name, self.engine, self.settings, self.measures, self.send = name, engine, settings, measures, send
        self.update: Update | None = None
        self.stream: int | None = None  # of the engine
        self.offset = 0.0  # seconds of the session when the stream began
        self.waiting: list[Array] = []  # sound that the stream has not heard
        self.came = 0.0  # when the last of it did
        self.hearing: asyncio.Task[None] | None = None  # while the stream hears what has come
        self.failed: Problem | None = None  # of that
        self.received = self.computed = self.dropped = 0  # samples
        self.measurements = self.errors = 0
        self.speaking, self.spoken = False, 0.0  # whether an utterance goes on, and when the last one ended
        self.began = self.latest = time.monotonic()  # of the session, and when the client last said something
        self.counted = self.began  # when the allowance was last drawn on
        self.progressed = self.began
        self.sound_began = math.inf
        self.allowance = settings.message_rate * BURST  # messages
        self.lock = asyncio.Lock()  # of the stream
        self.over = False

    async def receive(self, message: str | bytes) -> bool:
        """What the client says; whether it wants to go on. Problem: what is wrong, with a close code where it is the end."""
        now = self.latest = time.monotonic()
        self.count(now)
        async with self.lock:
            if self.over:
                return True
            self._fail()
            if isinstance(message, bytes):
                await self._sound(message, now)
                return True
            said = protocol.read(message)
            if said["type"] == "session.update":
                self._configure(said)
            elif said["type"] == "flush":
                await self._flush()
            elif said["type"] == "gap":
                await self._gap(protocol.gap_of(said), now)
            return said["type"] != "session.close"

    def count(self, now: float, messages: int = 1) -> None:
        """More messages. Problem: there are too many."""
        rate = self.settings.message_rate
        self.allowance = min(self.allowance + (now - self.counted) * rate, rate * BURST) - messages
        self.counted = now
        if self.allowance < 0:
            raise Problem(
                "too_fast", f"there are more than {rate:g} messages in a second; send more sound in each", close=TOO_FAST
            )

    def forgive(self, problem: Problem) -> Problem:
        """An error that is not fatal; one that is, after too many of them."""
        self.errors += 1
        if problem.close is None and self.errors > MOST_ERRORS:
            return Problem("too_many_errors", f"after {MOST_ERRORS} errors: {problem}", close=CONFIG)
        return problem

    async def answer(self) -> None:
        """All that was heard."""
        async with self.lock:
            if self.stream is not None and not self.over:
                await self._flush()

    def leave(self) -> None:
        """The client is gone, or has been told all."""
        self.over = True
        if self.stream is not None:
            self.engine.leave(self.stream)
        self.stream = None

    def close(self, reason: str) -> None:
        """Say session.closed, once."""
        if self.over:
            return
        self.over = True
        totals = {"received": self.seconds(self.received), "computed": self.seconds(self.computed)}
        totals |= {"dropped": self.seconds(self.dropped), "measurements": self.measurements}
        self.send({"type": "session.closed", "reason": reason, **totals})

    def tick(self) -> None:
        """Now and then. Problem: what ends the session."""
        now, s = time.monotonic(), self.settings
        self._fail()
        if now - self.latest > s.idle_seconds:
            raise Problem("idle", f"nothing was said for {s.idle_seconds:g} s; begin a new session", close=TIMED_OUT)
        if now - self.began > s.session_seconds:
            raise Problem("too_long", f"the session has lasted {s.session_seconds:g} s; begin a new one", close=TIMED_OUT)
        if self.update is not None and now - self.progressed >= 1:
            self.progressed = now
            done = {"received": self.seconds(self.received), "computed": self.seconds(self.computed)}
            self.send({"type": "progress", **done, "dropped": self.seconds(self.dropped)})

    def seconds(self, samples: int) -> float:
        """Of so many samples."""
        return round(samples / self.update.rate, 3) if self.update is not None else 0.0

    def _configure(self, said: Message) -> None:
        if self.stream is not None:
            raise Problem("config_invalid", "session.update comes once, before the sound; begin a new session", close=CONFIG)
        self.update = protocol.update_of(said, self.engine.model.config.max_seconds)
        self.stream = self.engine.begin(self.update.rate, self.update.every, self.update.adapt)

    def _configured(self) -> Update:
        if self.update is None:
            raise Problem("config_missing", "sound came before session.update, which says its rate", close=CONFIG)
        return self.update

    async def _sound(self, data: bytes, now: float) -> None:
        update = self._configured()
        try:
            x = protocol.samples(data, update.format)
        except Problem:
            self._drop(len(data) // np.dtype(protocol.SAMPLES[update.format][0]).itemsize)
            raise
        self._keep(x, now)
        held = self._held()
        if held >= AT_ONCE and self.hearing is None:
            self.hearing = asyncio.ensure_future(self._hear_what_comes())
        elif held >= HELD:
            await self._settled()

    async def _gap(self, seconds: float, now: float) -> None:
        """Sound that the client could not send: silence, so that the times stay right."""
        count = round(seconds * self._configured().rate)
        self._drop(count)
        await self._settled()
        self._keep(np.zeros(count, np.float32), now)
        await self._hear_all()

    def _keep(self, x: Array, now: float) -> None:
        """Sound for the stream."""
        self.waiting.append(x)
        self.came = now
        self._count(len(x), now)

    def _held(self) -> float:
        """Seconds of sound that wait for the stream."""
        return self.seconds(sum(map(len, self.waiting)))

    def _fail(self) -> None:
        """Problem: the stream could not hear what has come."""
        if self.failed is not None:
            raise self.failed

    def _drop(self, samples: int) -> None:
        self.dropped += samples
        self.measures.add("dropped_seconds_total", self.seconds(samples))

    def _count(self, samples: int, now: float) -> None:
        """More sound; Problem where it cannot be from a voice that speaks now."""
        self.sound_began = min(self.sound_began, now)
        self.received += samples
        most = self.settings.ahead_seconds
        if self.seconds(self.received) - (now - self.sound_began) > most:
            text = f"the sound is more than {most:g} s ahead of the clock; send a file to /v1/predict, or sound as it comes"
            raise Problem("too_fast", text, close=TOO_FAST)

    async def _hear_what_comes(self) -> None:
        """Give the stream what waits, and then what has come in the meantime: the busier the network, the more at once."""
        try:
            while self._held() >= AT_ONCE and not self.over:
                await self._hear()
        except asyncio.CancelledError:  # the server stops, and has told so
            pass
        except Problem as problem:
            self.failed = problem
        except ValueError as error:  # numbers that overflow
            self.failed = Problem("unanswerable", str(error), close=OUR_FAULT)
        except Exception:
            self.failed = Problem("internal", "the server failed at this sound; begin a new session", close=OUR_FAULT)
        finally:
            self.hearing = None

    async def _settled(self) -> None:
        """Wait until that is done."""
        if self.hearing is not None:
            await self.hearing
        self._fail()

    async def _hear_all(self) -> None:
        """Give the stream all that waits."""
        while self.waiting and not self.over:
            await self._hear()

    async def _hear(self) -> None:
        """Give the stream what waits, HELD seconds at most."""
        if self.stream is None or not self.waiting:
            return
        x, now = np.concatenate(self.waiting), self.came
        x, rest = np.split(x, [round(HELD * self._configured().rate)])  # the turns of others are not to be long
        self.waiting = [rest] if len(rest) else []
        events = await asyncio.wrap_future(self.engine.hear(self.stream, x))
        self.computed += len(x)
        self.measures.add("audio_seconds_total", self.seconds(len(x)), source="stream")
        self._tell(events, now)

    async def _flush(self) -> None:
        """All that was heard is answered as if the sound ended here, and the stream begins anew."""
        update, now = self._configured(), time.monotonic()
        await self._settled()
        await self._hear_all()
        if self.stream is None:  # the client has left
            return
        self._tell(await asyncio.wrap_future(self.engine.hear(self.stream, None)), now)
        self.offset = self.received / update.rate
        if self.speaking:
            self._stop(self.offset)

    def _tell(self, events: list[Event], now: float) -> None:
        assert self.update is not None
        if self.over:
            return
        for event in events:
            if event.kind == "speech":
                self._start(event.start + self.offset)
                continue
            if not self.speaking:  # an utterance that was told in parts goes on
                self._start(self.spoken)
            self.measurements += 1
            self.send(protocol.measurement(event, self.offset, self.update.min_confidence))
            if event.kind == "utterance":
                self._stop(event.end + self.offset)
        if events:
            self.measures.observe("lag_seconds", time.monotonic() - now)

    def _start(self, moment: float) -> None:
        if not self.speaking:
            self.send({"type": "speech.start", "start": round(moment, 3)})
        self.speaking = True

    def _stop(self, moment: float) -> None:
        self.speaking, self.spoken = False, moment
        self.send({"type": "speech.end", "end": round(moment, 3)})

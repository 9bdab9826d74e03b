"""A stream of samples -> answers over time.

    stream = Stream(npser.load(), rate=48000)
    for block in blocks:                # (n,) float32, of any length
        for event in stream.feed(block):
            print(event.kind, event.start, event.end, event.emotion, event.probabilities)
    events = stream.end()

What is heard is cut into pieces as of a file: how the sound comes in blocks makes no difference, and an answer over a window of
speech is what `npser predict` says of it, to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from npser import adaptation, features
from npser.features import HOP, N_FFT, N_MELS, SAMPLE_RATE, Runs
from npser.lite import Model
from npser.prediction import WindowOutput
from npser.speech import FRAME, Run, Speech, places, refusal

Array = np.ndarray

EVERY = 1.0  # seconds of speech from one answer to the next
SHORTEST = 0.25  # of these
PAUSE = 0.3  # seconds that end an utterance, after the half second that speech goes on: see speech.AFTER
FORGOTTEN = SAMPLE_RATE // HOP  # frames at a time
LONGEST = 30.0  # seconds of speech in an utterance; of a longer one, each part of so many is told by itself
KEPT = {  # of a stream, in its state
    "stream": (
        *("rate", "every", "adapt", "size", "x", "P", "first", "count", "runs", "due", "begun", "silent", "heard", "known"),
        "ended",
    ),
    "resampler": ("held", "heard", "made", "dropped"),
    "detector": ("rest", "levels", "sustained", "lines", "loud", "told"),
}


@dataclass(frozen=True)
class Event:
    """What a stream has to tell, and where: from start to end, in seconds of the stream; the last frame, of 25 ms, is whole.

    kind: ``"speech"``, somebody begins to speak; ``"answer"``, over the last 7.5 s of speech; ``"utterance"``, over all that
    somebody has said who is silent now. The last two have an emotion, None where there is nothing to answer, and then a reason;
    and probabilities and gender_probabilities by label.
    """

    kind: str
    start: float
    end: float
    emotion: str | None = None
    probabilities: dict[str, float] = field(default_factory=dict)
    gender_probabilities: dict[str, float] = field(default_factory=dict)
    reason: str | None = None

    def row(self) -> dict[str, Any]:
        """As a line of JSON has it."""
        row: dict[str, Any] = {"event": self.kind, "start": round(self.start, 3), "end": round(self.end, 3)}
        if self.kind == "speech":
            return {name: row[name] for name in ("event", "start")}
        row |= {"emotion": self.emotion, "probabilities": self.probabilities}
        row |= {"gender_probabilities": self.gender_probabilities} if self.gender_probabilities else {}
        return row | ({"reason": self.reason} if self.reason else {})


class Part(NamedTuple):
    """A window of speech that waits for the network: where it lies, and X (L, d_spec), normalised, or why it has no answer.

    own_share: what the voice's own statistics have of the normaliser.
    """

    samples: int
    runs: Runs
    X: Array | None
    reason: str | None
    own_share: float = 0.0


class Due(NamedTuple):
    """An event as it waits for the network: its kind, where it lies, and its windows; of the start of speech, none."""

    kind: str
    start: float
    end: float
    parts: list[Part]


class Stream:
    """One voice, or line, that is listened to.

    Parameters
    ----------
    model : lite.Model
        Of the paper's network, that hears nothing but speech (its setting ``speech``).
    rate : int
        Of the samples, in Hz.
    every : float
        Seconds of speech from one answer to the next, of which whole frames of 25 ms count.
    adapt : bool
        Adapt the model to what has been heard of the stream, as it is heard: see npser.adaptation.

    Raises
    ------
    ValueError
        For another network, rate, or distance of answers.
    """

    def __init__(self, model: Model, rate: int, every: float = EVERY, adapt: bool = False) -> None:
        refuse(model)
        if not SHORTEST <= every <= model.config.max_seconds:
            raise ValueError(f"every is {every}; expected {SHORTEST} to {model.config.max_seconds:g} seconds of speech")
        self.model, self.every, self.adapt = model, int(every * SAMPLE_RATE / HOP + 1e-9) * HOP, adapt
        self.rate, self.size = features.whole_rate(rate), features.window_samples(model.config.max_seconds)
        self.speech = Speech(self.rate)
        self.x = np.empty(0, np.float32)  # speech, from its sample `first` on, a multiple of HOP
        self.P = np.zeros((1, N_MELS), np.float32)  # mel powers of the frames that begin there, as far as they are complete
        self.first = self.count = 0  # samples of speech: before x, and in all
        self.runs: Runs = []  # from that sample of the speech on, the stream runs on from that one, at 16 kHz
        self.due = self.every  # sample of the speech where the next answer ends
        self.begun = -1  # sample of the speech where the utterance that goes on began; -1: there is none
        self.silent = 0  # sample of the stream at 16 kHz since when there has been no speech
        self.heard = np.zeros(1 + 2 * model.config.d_spec)  # see adaptation.sums
        self.known = 0  # samples of speech that heard knows
        self.ended = False

    def feed(self, block: Array) -> list[Event]:
        """Samples (n,) at the stream's rate, full scale 1 -> what there is to tell by now.

        Raises
        ------
        ValueError
            For samples that are not finite, or not of one channel; the stream is then as if they had not come.
        """
        return answers(self.model, self.take(block))

    def end(self) -> list[Event]:
        """The end of the stream: what there is to tell yet."""
        return answers(self.model, self.rest())

    def take(self, block: Array) -> list[Due]:
        """feed, as far as it goes without the network: `answers` does the rest, of several streams at a time."""
        if self.ended:
            raise ValueError("the stream has ended; begin another one")
        if not isinstance(block, np.ndarray):
            raise ValueError(f"a block is of type {type(block).__name__}; expected an array (n,) of float samples")
        if block.ndim != 1 or block.dtype.kind != "f" or (len(block) and not features.is_sound(block)):
            raise ValueError(f"a block has shape {block.shape}, type {block.dtype}; expected (n,) finite float samples")
        dues = self._hear(self.speech.feed(block))
        silence = self.speech.detector.told * FRAME - self.silent
        return dues + (self._utterance() if silence >= PAUSE * SAMPLE_RATE else [])

    def rest(self) -> list[Due]:
        """end, without the network."""
        if self.ended:
            return []
        self.ended = True
        return self._hear(self.speech.end()) + self._utterance()

    def state(self) -> dict[str, Array]:
        """All that the stream knows, as arrays: what goes on from there, with Stream.going_on, tells what this one would."""
        return {
            f"{owner}.{name}": np.array(getattr(self._owner(owner), name)) for owner, names in KEPT.items() for name in names
        }

    @classmethod
    def going_on(cls, model: Model, state: Mapping[str, Array]) -> Stream:
        """The stream that had this state."""
        other = f"{model.path}: the state is of a stream with another model, or of another npser; name that one"
        if any(f"{owner}.{name}" not in state for owner, names in KEPT.items() for name in names):
            raise ValueError(other)
        stream = cls(model, int(state["stream.rate"]), int(state["stream.every"]) / SAMPLE_RATE, bool(state["stream.adapt"]))
        if len(state["stream.heard"]) != len(stream.heard) or state["stream.size"] != stream.size:
            raise ValueError(other)
        for owner, names in KEPT.items():
            for name in names:
                value = state[f"{owner}.{name}"]
                setattr(stream._owner(owner), name, value.copy() if value.ndim else value.item())
        stream.runs = [(int(sample), int(place)) for sample, place in stream.runs]
        return stream

    def _owner(self, name: str) -> Any:
        return {"stream": self, "resampler": self.speech.resampler, "detector": self.speech.detector}[name]

    def _hear(self, runs: Iterable[Run]) -> list[Due]:
        """Runs of speech, as they go on."""
        dues: list[Due] = []
        for start, x in runs:
            end = start + len(x)
            if start - self.silent >= PAUSE * SAMPLE_RATE:
                dues += self._utterance()
            if not self.runs or start > self.silent:
                self.runs.append((self.count, start))
            if self.begun < 0:
                self.begun = self.count
                dues.append(Due("speech", start / SAMPLE_RATE, start / SAMPLE_RATE, []))
            while len(x):
                ended = self.begun + round(LONGEST * SAMPLE_RATE)
                part, x = np.split(x, [min(self.due, ended) - self.count])
                self.x, self.count = np.concatenate([self.x, part]), self.count + len(part)
                if self.count == self.due:
                    dues.append(self._window("answer", [(max(0, self.due - self.size), self.due)]))
                    self.due += self.every
                if self.count == ended:
                    dues += self._utterance()
                    self.begun = self.count
            self.silent = end
            self._forget()
        return dues

    def _frames(self) -> None:
        """The powers of the frames that are complete by now."""
        following = self.first // HOP + len(self.P)
        new = self.count // HOP - following
        if new > 0:
            x = self.x[(following - 1) * HOP - self.first :]
            self.P = np.concatenate([self.P, features.mel_power(x, new)])

    def _forget(self) -> None:
        """Let go of what no window will hold any more."""
        needed = min(self.count - self.size, self.begun if self.begun >= 0 else self.count, self.count - N_FFT)
        frames = (max(0, needed) - self.first) // HOP
        if frames >= FORGOTTEN:
            self._frames()
            # copies, so that the rest is given back
            self.x, self.P, self.first = self.x[frames * HOP :].copy(), self.P[frames:].copy(), self.first + frames * HOP
            self.runs = self.runs[max(0, sum(sample <= self.first for sample, _ in self.runs) - 1) :]

    def _utterance(self) -> list[Due]:
        """The utterance that has come to its end, where there is one: half-overlapping windows, as a file has them."""
        begun, self.begun = self.begun, -1
        if begun < 0 or begun == self.count:
            return []
        starts = range(begun, max(begun + 1, self.count - self.size // 2), self.size // 2)
        return [self._window("utterance", [(start, min(start + self.size, self.count)) for start in starts])]

    def _window(self, kind: str, spans: list[tuple[int, int]]) -> Due:
        """An event over some windows of the speech, each from a sample to another one."""
        parts = [self._part(*span) for span in spans]
        end = float(features.moments(parts[-1].runs, np.array(parts[-1].samples)))
        return Due(kind, parts[0].runs[0][1] / SAMPLE_RATE, end, parts)

    def _part(self, start: int, end: int) -> Part:
        """A window of the speech."""
        self._frames()
        c, norm, floor = self.model.config, self.model.checkpoint.tensors, features.floor_of(self.model.config)
        x, runs = self.x[start - self.first : end - self.first], places(self.runs, start, end)
        reason = refusal(x)
        if reason is not None:
            return Part(len(x), runs, None, reason)
        if len(x) < 2 * N_FFT or start % HOP:
            S = features.log_mel(x, level=c.level, floor=floor)
        else:
            P = self.P[(start - self.first) // HOP :][: len(x) // HOP + 1]
            P = np.concatenate([P, np.zeros((len(x) // HOP + 1 - len(P), N_MELS), np.float32)])
            S = features.log_mel_within(P, x, c.level, floor)
        X, mean, std = self.model.network.plain_of_bands(c, S), norm["norm.mean"], norm["norm.std"]
        if self.adapt:
            new = (max(start, self.known) - start) // HOP
            self.heard += adaptation.sums(X[new : -(-len(x) // HOP)])
            self.known = max(self.known, end)
            mean, std = adaptation.adapted(mean, std, self.heard, HOP)
        return Part(len(x), runs, (X - mean) / std, None, float(adaptation.own_share(self.heard, HOP)))


def refuse(model: Model) -> None:
    """ValueError for a model that does not hear speech alone: what it says of a window depends on where the window lies."""
    if not model.network.kind(model.config).speech:  # li2019's and li2019_feedforward's can be
        raise ValueError(
            f"{model.path}: hears pauses as well; a stream needs a model of li2019 or li2019_feedforward that was trained with "
            "speech = true, as preset default has it"
        )


def answers(model: Model, dues: Sequence[Due]) -> list[Event]:
    """The events that wait for the network, of one stream or of several that share a model, in their order."""
    parts = [part for due in dues for part in due.parts]
    inputs, own_shares = (
        [part.X for part in parts if part.X is not None],
        [part.own_share for part in parts if part.X is not None],
    )
    found = iter(model.run(inputs, own_shares if any(own_shares) else ()))
    events = []
    for due in dues:
        if not due.parts:
            events.append(Event(due.kind, due.start, due.end))
            continue
        outputs = [
            WindowOutput(part.samples, part.runs, part.reason, **({} if part.X is None else next(found))) for part in due.parts
        ]
        p = model.answer(outputs, due.end)
        events.append(Event(due.kind, due.start, due.end, p.emotion, p.probabilities, p.gender_probabilities or {}, p.reason))
    return events


def listen(model: Model, blocks: Iterable[Array], rate: int, every: float = EVERY, adapt: bool = False) -> Iterator[Event]:
    """The events of a stream as its blocks come: see Stream."""
    stream = Stream(model, rate, every, adapt)
    for block in blocks:
        yield from stream.feed(block)
    yield from stream.end()

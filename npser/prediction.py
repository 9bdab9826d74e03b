"""What a prediction is, of a recording, of a window, and of what cannot be read; and the rows that it is written as."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple, TextIO, TypeVar

import numpy as np

from npser.features import Span
from npser.speech import refusal

UNREADABLE = (ValueError, OSError, MemoryError)  # of one recording; the others go on

Array = np.ndarray
Audio = str | os.PathLike[str] | BinaryIO | Array


@dataclass(frozen=True)
class Window:
    """The answer for a part of a recording, from start to end in seconds.

    emotion: None where there is nothing to answer, and then reason says why; the probabilities are empty there.
    gender_probabilities: empty for a network without the gender head as well.
    """

    start: float
    end: float
    emotion: str | None
    probabilities: dict[str, float]
    gender_probabilities: dict[str, float]
    reason: str | None = None


@dataclass(frozen=True)
class Prediction:
    """The answer for one recording.

    emotion: None where there is nothing to answer, such as silence; then reason says why, in a few words, and probabilities is
    empty. probabilities and gender_probabilities: by label. gender, gender_probabilities: None for a network without the
    gender head, or where there is nothing to answer. seconds: length of the recording. attention (n_attn, T): weights of the
    first window that is answered, which end at times (T,), in seconds; None for a network without attention, and from the
    engine for many files. timeline: every window of the recording. error: of predict_many, why the recording cannot be read.
    """

    emotion: str | None
    probabilities: dict[str, float]
    gender: str | None
    gender_probabilities: dict[str, float] | None
    seconds: float
    attention: Array | None = field(default=None, repr=False)
    times: Array | None = field(default=None, repr=False)
    reason: str | None = None
    timeline: list[Window] = field(default_factory=list, repr=False)
    error: str | None = None


class WindowOutput(NamedTuple):
    """One window: its length in samples at 16 kHz, where they lie in the recording (see features.moments), and why it is not
    answered, or its logits and its attention.
    """

    samples: int
    runs: list[tuple[int, float]]
    reason: str | None
    emotion: Array | None = None
    gender: Array | None = None
    attention: Array | None = None


def outputs_of(span: Span) -> list[WindowOutput]:
    """The windows of a span, as yet without logits; some have a reason not to be answered."""
    return [WindowOutput(len(x), runs, refusal(x)) for x, runs in zip(span.windows(), span.places(), strict=True)]


def answered(windows: Sequence[WindowOutput], answers: Iterable[dict[str, Array | None]]) -> list[WindowOutput]:
    """The same with what the network says of those that can be answered, one after the other."""
    rest = iter(answers)
    return [window if window.reason is not None else window._replace(**next(rest)) for window in windows]


def likeliest(probabilities: dict[str, float]) -> str | None:
    """The label of the highest probability; of none, None."""
    return max(probabilities, key=probabilities.__getitem__, default=None)


def unreadable(error: Exception) -> Prediction:
    """What predict_many yields for a recording that cannot be read."""
    return Prediction(None, {}, None, None, 0.0, error=str(error) or type(error).__name__)


Answer = TypeVar("Answer")  # Prediction, Window, or another dataclass with emotion, probabilities and reason
Row = dict[str, Any]
Show = Callable[[Sequence[Row]], None]


def withhold(prediction: Prediction, least: float) -> Prediction:
    """No answer where the likeliest emotion has a probability below least."""
    return dataclasses.replace(sure(prediction, least), timeline=[sure(window, least) for window in prediction.timeline])


def sure(one: Answer, least: float) -> Answer:
    """The same of a single answer."""
    found: Any = one
    p = max(found.probabilities.values(), default=1.0)
    return one if p >= least else dataclasses.replace(found, emotion=None, reason=f"confidence {p:.3f} is below {least:g}")


def rows(path: str, prediction: Prediction, timeline: bool) -> Iterator[Row]:
    """The row of a recording, then those of its windows, which have start and end."""
    if prediction.error is not None:
        named = prediction.error.startswith(("standard input", path))
        yield {"path": path, "error": prediction.error if named else f"{path}: {prediction.error}"}
        return
    names = ("emotion", "probabilities", "gender", "gender_probabilities", "seconds", "reason")
    yield {"path": path, **{name: getattr(prediction, name) for name in names}}
    yield from (window_row(path, window) for window in (prediction.timeline if timeline else []))


def window_row(path: str, window: Window) -> Row:
    """The row of a window."""
    row = {"path": path, **dataclasses.asdict(window), "gender": likeliest(window.gender_probabilities)}
    return {**row, "gender_probabilities": window.gender_probabilities or None}


def jsonl_writer(file: TextIO) -> Show:
    """What writes the rows of a recording as lines of JSON."""

    def show(rows: Sequence[Row]) -> None:
        for row in rows:
            print(json.dumps(row), file=file, flush=True)

    return show


def csv_writer(file: TextIO, labels: Sequence[str], timeline: bool, header: bool = True) -> Show:
    """What writes the rows of a recording as CSV; the header is written now. labels: of emotions, then of genders."""
    span = ["start", "end"] if timeline else []
    columns = ["path", *span, "emotion", "gender", "seconds", *(f"p_{label}" for label in labels), "reason", "error"]

    def write(row: Row) -> None:
        quoting = csv.QUOTE_ALL if any("\r" in str(value) for value in row.values()) else csv.QUOTE_MINIMAL  # which forgets it
        options: Any = {"restval": "", "extrasaction": "ignore", "lineterminator": "\n", "quoting": quoting}
        csv.DictWriter(file, columns, **options).writerow(row)

    def show(rows: Sequence[Row]) -> None:
        for row in rows:
            p = {**row.get("probabilities", {}), **(row.get("gender_probabilities") or {})}
            times = {name: f"{row[name]:.3f}" for name in ("start", "end", "seconds") if name in row}
            write(row | times | {f"p_{label}": f"{value:.6f}" for label, value in p.items()})
        file.flush()

    if header:
        write(dict(zip(columns, columns, strict=True)))
    return show

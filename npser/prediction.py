"""What a prediction is: of a recording, of a window of it, and of one that cannot be read."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

import numpy as np

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
    """One window: its length in samples at 16 kHz, and why it is not answered, or its logits and its attention."""

    samples: int
    reason: str | None
    emotion: Array | None = None
    gender: Array | None = None
    attention: Array | None = None


def likeliest(probabilities: dict[str, float]) -> str | None:
    """The label of the highest probability; of none, None."""
    return max(probabilities, key=probabilities.__getitem__, default=None)


def unreadable(error: Exception) -> Prediction:
    """What predict_many yields for a recording that cannot be read."""
    return Prediction(None, {}, None, None, 0.0, error=str(error) or type(error).__name__)

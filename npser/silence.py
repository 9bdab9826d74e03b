"""Recordings without an answer: silence, faint steady noise, and less than a syllable.

Speech varies: its loudest tenth of a second lies 15 dB and more above its pauses, however faint the recording; the noise of a
room or a microphone is steady. So a recording counts as noise only where it is both faint and steady.
"""

from __future__ import annotations

import numpy as np

from npser.features import FLOOR_DB, SAMPLE_RATE

SHORTEST = 0.3  # seconds
FRAME = 400  # samples whose level is taken, 25 ms; without their mean, so that a constant or a slow drift counts as silence
LOUDEST_FRAMES = 4  # a tenth of a second: longer than a click, shorter than a syllable
NEAR = 0.01  # dB over the floor, which the logarithm's rounding may make of it
NOTHING = 1e-12  # power; less counts as silence
SILENT_DB = -95.0  # under full scale; the last bit of 16 toggles at -96
FAINT_DB, STEADY_DB = -40.0, 10.0


def refusal_of_levels(samples: np.ndarray, levels: np.ndarray, size: int) -> str | None:
    """Why a recording is not trained on or scored, as far as a store tells: `refusal` would not answer it either.

    Parameters
    ----------
    samples : (W,)
        Length of each of its windows, at 16 kHz.
    levels : (W,)
        Their levels, see features.level_of.
    size : int
        Samples of a whole window.

    Returns
    -------
    str or None
        As of `refusal`; noise is not told from speech here.
    """
    if samples[0] < min(round(SHORTEST * SAMPLE_RATE), size):  # then it is the only one
        return f"shorter than {SHORTEST} s"
    return "silence" if levels.max() <= FLOOR_DB + NEAR else None


def refusal(x: np.ndarray) -> str | None:
    """Why a recording is not answered.

    Parameters
    ----------
    x : (n,) float32
        Samples at 16 kHz, full scale 1.

    Returns
    -------
    str or None
        The reason in a few words; None where there may be speech.
    """
    if len(x) < round(SHORTEST * SAMPLE_RATE):
        return f"shorter than {SHORTEST} s"
    power = x[: len(x) // FRAME * FRAME].reshape(-1, FRAME).var(axis=1)
    sounding = np.flatnonzero(power > NOTHING)
    if len(sounding) < LOUDEST_FRAMES:
        return "silence"
    power = power[sounding[0] : sounding[-1] + 1]  # a microphone that is switched on or off makes no pause between words
    levels = np.sort(10 * np.log10(np.maximum(power, NOTHING)))
    loud, pauses = levels[-LOUDEST_FRAMES], levels[len(levels) // 10]
    if loud < SILENT_DB:
        return "silence"
    if loud < FAINT_DB and loud - pauses < STEADY_DB:
        return "noise below the level of speech"
    return None

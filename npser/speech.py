"""What somebody says, out of what a microphone hears: blocks of samples at any rate -> speech at 16 kHz, as they come.

    speech = Speech(rate)
    for block in blocks:  # (n,) float32, of any length
        for start, x in speech.feed(block):  # x (n,) at 16 kHz, from sample `start` of the sound on
            ...
    for start, x in speech.end():
        ...

Pauses are cut out. How the sound comes in blocks makes no difference, to the last bit: a file and a live voice are heard alike.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from npser import features
from npser.features import BLOCK, FLOOR_DB, SAMPLE_RATE, Span, hann

Array = np.ndarray
Run = tuple[int, Array]  # speech: the sample at 16 kHz where it starts, and the samples (n,)

# Resampling, by a windowed sinc
CROSSINGS = 24  # zeros of the sinc on each side of its centre
PASSED = 0.95  # of the lower of the two Nyquist frequencies: where the filter is at half its height
SHAPE = 9.0  # beta of the Kaiser window
TILE = 1000  # samples at 16 kHz that are computed together, at least
LARGEST = 1 << 21  # numbers of a matrix; rates that need more have a table of filters

# The detector
FRAME = 400  # samples, 25 ms
CHUNK = 10  # frames that are decided together
FIRST = 40  # frames that are decided together where sound begins: a second, so that there is a floor to stand out from
MEMORY = 320  # frames that the floor and the peak are taken from, 8 s: the latest that are not digital silence
BINS = slice(3, 86)  # of 40 Hz: a frame's level is that between 120 and 3,400 Hz, where voices are
SILENT_DB = -95.0  # under full scale; digital silence, or the last bit of 16
FLOOR_PERCENT = 10  # of the frames in memory are fainter than the floor
PEAK_FRAMES = 4  # are louder than the peak, or as loud: a tenth of a second, longer than a click
NEAR_DB = 32.0  # below the peak, nothing is loud
RISE_DB = 6.0, 12.0  # over the floor a frame is loud, half way to the peak but within these
BEFORE, AFTER = 8, 20  # frames before and after a loud one that belong to it: 200 and 500 ms
FEW = 3  # loud frames make speech; fewer are a click
LAG = 4  # frames that are not digital silence, 100 ms: one whose lines are those of so long before is sustained, as notes are
SMOOTHED = 9  # bins, 360 Hz: the width over which a spectrum has no lines
SUSTAINED = 0.5  # correlation of the lines of two frames, over which the later one is sustained
MUSIC = 0.8  # share of the fainter half of the memory that is sustained, over which there is music behind what is loud

# What is not answered
SHORTEST = 0.3  # seconds
NEAR = 0.01  # dB, which the logarithm's rounding may make of nothing
NOTHING = 1e-12  # power; less counts as silence
FAINT_DB, STEADY_DB = -40.0, 10.0
NONE = "no speech"


class Resampler:
    """Blocks at some rate -> samples at 16 kHz, with what the filter needs carried on from block to block."""

    def __init__(self, rate: int) -> None:
        common = math.gcd(SAMPLE_RATE, rate)
        up, down = SAMPLE_RATE // common, rate // common
        self.half = math.ceil(CROSSINGS * max(1.0, down / up) / PASSED)  # samples on each side of a centre
        self.up, self.down, self.same = up, down, rate == SAMPLE_RATE
        times = max(1, -(-128 // up))
        small = up * times * (down * times + 2 * self.half + 1) <= LARGEST
        self.rows = max(1, TILE // (up * times))
        self.matrix = _matrix(up, down, self.half, times) if small and not self.same else None
        self.table = np.empty((0, 0), np.float32) if small or self.same else _table(up, down, self.half)
        self.held = np.zeros(self.half, np.float32)  # samples that are needed on, the first one centred half a filter back
        self.heard = self.made = self.dropped = 0  # samples heard, samples made, and samples of held that are gone

    def feed(self, x: Array) -> Array:
        """Samples at the source's rate (n,) -> those at 16 kHz that are complete, (m,) float32."""
        if self.same:
            return x.astype(np.float32, copy=False)
        self.heard += len(x)
        self.held = np.concatenate([self.held, x], dtype=np.float32)
        return self._tiles()

    def end(self) -> Array:
        """The rest, after which all is silence."""
        if self.same:
            return np.empty(0, np.float32)
        wanted = max(1, (2 * self.heard * self.up + self.down) // (2 * self.down)) if self.heard else 0
        parts, made = [np.empty(0, np.float32)], self.made
        while self.made < wanted:
            self.held = np.concatenate(
                [self.held, np.zeros(2 * self.half + TILE * self.down // self.up + self.down, np.float32)]
            )
            parts.append(self._tiles())
        return np.concatenate(parts)[: wanted - made]

    def _tiles(self) -> Array:
        """All tiles whose samples are there."""
        found = [np.empty(0, np.float32)]
        while True:
            if self.matrix is not None:  # rows of so many samples in, so many out
                up = self.matrix.shape[1]
                step = up * self.down // self.up
                size = (self.rows - 1) * step + len(self.matrix)
                if len(self.held) < size:
                    return np.concatenate(found)
                rows = np.lib.stride_tricks.sliding_window_view(self.held[:size], len(self.matrix))[::step]
                found.append((rows @ self.matrix).ravel())
            else:
                first = np.arange(self.made, self.made + TILE) * self.down
                at, phase = first // self.up - self.dropped, first % self.up
                if len(self.held) < at[-1] + 2 * self.half + 1:
                    return np.concatenate(found)
                around = self.held[at[:, None] + np.arange(2 * self.half + 1)]
                found.append(np.einsum("nk,nk->n", around, self.table[phase]))
            self.made += len(found[-1])
            gone = self.made * self.down // self.up - self.dropped
            self.held, self.dropped = self.held[gone:].copy(), self.dropped + gone


def _taps(fraction: Array, up: int, down: int, half: int) -> Array:
    """The filter for moments so far behind a sample, (n,) of 0 to 1: weights (n, 2 half + 1) of the samples around it."""
    t = np.arange(-half, half + 1) - fraction[:, None]
    cutoff = PASSED * min(1.0, up / down)
    window = np.i0(SHAPE * np.sqrt(np.maximum(0, 1 - (t / (half + 1)) ** 2))) / np.i0(SHAPE)
    return cutoff * np.sinc(cutoff * t) * window


@functools.lru_cache(maxsize=8)
def _matrix(up: int, down: int, half: int, times: int) -> Array:
    """The filter as a product: (times down + 2 half + 1) samples -> times up samples, the first one centred at sample half."""
    first = np.arange(up * times) * down
    matrix = np.zeros((down * times + 2 * half + 1, up * times), np.float32)
    columns = np.arange(up * times)[:, None]
    matrix[(first // up)[:, None] + np.arange(2 * half + 1), columns] = _taps(first % up / up, up, down, half)
    return matrix


@functools.lru_cache(maxsize=2)
def _table(up: int, down: int, half: int) -> Array:
    """The filter for each of up moments between two samples, (up, 2 half + 1): some 10 MB, of rates with no common measure."""
    parts = [_taps(np.arange(start, min(start + TILE, up)) / up, up, down, half) for start in range(0, up, TILE)]
    return np.concatenate(parts, dtype=np.float32)


class Detector:
    """Blocks at 16 kHz -> those of their samples that are speech.

    A frame is loud where its level stands out of what was heard in the last seconds: half way between floor and peak, in dB.
    Where what is faint is music, frames that are sustained are not loud. Speech is what lies near a few loud frames.
    """

    def __init__(self) -> None:
        self.rest = np.empty(0, np.float32)  # samples that are not yet told apart, from frame `told` on
        self.levels, self.sustained = np.empty(0), np.empty(0, bool)  # of the frames in memory
        self.lines = np.empty((0, BINS.stop - BINS.start))  # of the last LAG of them
        self.loud = np.zeros(AFTER, bool)  # of frames, from AFTER frames before `told` on
        self.told = 0  # frames

    def feed(self, x: Array) -> list[Run]:
        """Samples (n,) -> runs of speech, as far as they are told."""
        self.rest = np.concatenate([self.rest, x], dtype=np.float32)
        while True:
            frames = len(self.loud) - AFTER  # of rest that are known to be loud or not
            following = self.rest[frames * FRAME :]
            more = CHUNK if len(self.levels) or not self._sounds(following[: CHUNK * FRAME]) else FIRST
            if len(following) < more * FRAME:
                return self._tell(max(0, frames - BEFORE))
            self._hear(following[: more * FRAME])

    def end(self) -> list[Run]:
        """The rest, after which all is silence: the last frame is filled up with it."""
        self.rest = np.concatenate([self.rest, np.zeros(-len(self.rest) % FRAME, np.float32)])
        self._hear(self.rest[(len(self.loud) - AFTER) * FRAME :])
        frames = len(self.loud) - AFTER
        self.loud = np.concatenate([self.loud, np.zeros(BEFORE, bool)])
        runs, self.loud = self._tell(frames), self.loud[:AFTER]
        return runs

    def _sounds(self, x: Array) -> bool:
        """Whether any whole frame of x is more than digital silence."""
        return bool((levels_of(x[: len(x) // FRAME * FRAME]) > SILENT_DB).any())

    def _hear(self, x: Array) -> None:
        """Whether each frame of x is loud."""
        power = powers_of(x)
        levels = decibels(power)
        sounding = levels > SILENT_DB
        self.levels = np.concatenate([self.levels, levels[sounding]])[-MEMORY:]
        loud = levels > max(threshold(self.levels), SILENT_DB)
        sustained = self._sustained(lines_of(power[sounding]))
        self.sustained = np.concatenate([self.sustained, sustained])[-MEMORY:]
        if is_music(self.levels, self.sustained):
            loud[sounding] &= ~sustained
        self.loud = np.concatenate([self.loud, loud])

    def _sustained(self, lines: Array) -> Array:
        """Whether each of some frames is, by its lines (n, bins) -> (n,); the first of all, by those that follow."""
        if len(self.lines) == 0 and len(lines):
            following = lines[LAG : 2 * LAG]
            self.lines = np.pad(following, ((0, LAG - len(following)), (0, 0)))
        both = np.concatenate([self.lines, lines])
        self.lines = both[-LAG:].copy()
        return np.einsum("nk,nk->n", lines, both[: len(lines)]) > SUSTAINED

    def _tell(self, frames: int) -> list[Run]:
        """Runs of speech among the first frames of rest, which are taken off it."""
        if frames == 0:
            return []
        before = np.concatenate([[0], np.cumsum(self.loud)])
        active = before[AFTER + BEFORE + 1 :][:frames] - before[:frames] >= FEW
        active &= self.rest[: frames * FRAME].reshape(-1, FRAME).any(axis=1)  # digital silence is nobody's pause
        edges = np.flatnonzero(np.diff(active, prepend=False, append=False)).reshape(-1, 2)
        runs = [((self.told + int(a)) * FRAME, self.rest[a * FRAME : b * FRAME]) for a, b in edges]
        # copies, so that the rest of what came with them is given back
        self.rest, self.loud, self.told = self.rest[frames * FRAME :].copy(), self.loud[frames:].copy(), self.told + frames
        return runs


def powers_of(x: Array) -> Array:
    """Spectra of the frames of x (n FRAME,), (n, bins)."""
    spectrum = np.fft.rfft(x.reshape(-1, FRAME) * hann()[::2])[:, BINS]
    return spectrum.real**2 + spectrum.imag**2


def decibels(power: Array) -> Array:
    """Levels of frames, dB re full scale, by their spectra (n, bins) -> (n,)."""
    return 10 * np.log10(np.maximum(power.sum(axis=1) * (2 / FRAME / (hann()[::2] ** 2).sum()), NOTHING))


def levels_of(x: Array) -> Array:
    """Level of each frame of x (n FRAME,), dB re full scale, (n,)."""
    return decibels(powers_of(x))


def lines_of(power: Array) -> Array:
    """What stands out of spectra (n, bins), such as harmonics, in their logarithms: of mean 0 and length 1, (n, bins)."""
    lines = np.log(np.maximum(power, NOTHING)) @ _sharpening(power.shape[1])
    return lines / np.maximum(np.sqrt(np.einsum("nk,nk->n", lines, lines)), NOTHING)[:, None]


@functools.lru_cache(maxsize=1)
def _sharpening(bins: int) -> Array:
    """A product with it takes the mean of the bins around each off a row, and then the mean of all, (bins, bins)."""
    around = np.clip(np.arange(bins)[:, None] + np.arange(SMOOTHED) - SMOOTHED // 2, 0, bins - 1)
    matrix = np.eye(bins)
    np.subtract.at(matrix, (around, np.arange(bins)[:, None]), 1 / SMOOTHED)
    return matrix - matrix.mean(axis=1, keepdims=True)


def is_music(levels: Array, sustained: Array) -> bool:
    """Whether there is music behind what is loud, by the levels of the frames in memory (n,), and which are sustained (n,)."""
    if len(levels) < FIRST or np.count_nonzero(sustained) <= MUSIC * len(levels) / 2:
        return False
    middle = (len(levels) - 1) // 2
    faint = levels <= np.partition(levels, middle)[middle] + NEAR
    return bool(np.count_nonzero(sustained & faint) > MUSIC * np.count_nonzero(faint))


def threshold(levels: Array) -> float:
    """The level over which a frame is loud, dB, by the frames in memory, (n,)."""
    if len(levels) == 0:
        return 0.0
    levels = np.sort(levels)
    floor, peak = levels[len(levels) * FLOOR_PERCENT // 100], levels[-min(PEAK_FRAMES, len(levels))]
    return float(max(peak - NEAR_DB, floor + min(max((peak - floor) / 2, RISE_DB[0]), RISE_DB[1])))


class Speech:
    """Blocks at some rate -> speech at 16 kHz."""

    def __init__(self, rate: int) -> None:
        self.resampler, self.detector = Resampler(rate), Detector()

    def feed(self, x: Array) -> list[Run]:
        """Samples at the source's rate (n,) -> runs of speech, as far as they are told."""
        parts = (x[start : start + BLOCK] for start in range(0, len(x), BLOCK))  # time and memory grow with the square of more
        return [run for part in parts for run in self.detector.feed(self.resampler.feed(part))]

    def end(self) -> list[Run]:
        """The rest."""
        runs = self.detector.feed(self.resampler.end())
        return runs + self.detector.end()


def spans(blocks: Iterable[Array], rate: int, seconds: float, most: int) -> Iterator[Span]:
    """The speech in a recording as windows at 16 kHz, some at a time: see features.spans. Without any, one that is empty."""
    runs: features.Runs = []  # of the speech: from that sample on, the recording runs on from that one
    heard = 0

    def samples() -> Iterator[Array]:
        nonlocal heard
        for start, x in _runs_of(blocks, rate):
            runs.append((heard, start))
            heard += len(x)
            yield x

    k = first = 0  # window that the span begins with, and the sample of the speech where that is
    for span in features.spans(samples(), SAMPLE_RATE, seconds, most):
        where = [places(runs, first + a, first + b) for a, b in zip(span.starts, span.ends, strict=True)]
        yield span._replace(runs=where)
        k += most
        first = round(k * seconds / 2 * SAMPLE_RATE)
        gone = max(0, sum(sample <= first for sample, _ in runs) - 1)
        del runs[:gone]


def read_windows(path: Any, seconds: float, cut: bool = False) -> Iterator[Array]:
    """Windows of the speech in an audio file, each (n,) float32 at 16 kHz; see features.read_windows."""
    rate, blocks = features.read_blocks(path)
    for span in spans(blocks, rate, seconds, 1):
        if len(span.x):
            yield span.x
        if cut:
            return


def _runs_of(blocks: Iterable[Array], rate: int) -> Iterator[Run]:
    """The runs of speech in a recording."""
    speech = Speech(rate)
    for block in blocks:
        yield from speech.feed(block)
    yield from speech.end()


def places(runs: features.Runs, start: int, end: int) -> features.Runs:
    """Those of the runs that a window of the speech has, counted from its first sample."""
    k = max(0, bisect.bisect_right(runs, start, key=lambda run: run[0]) - 1)
    inside = [(sample - start, place) for sample, place in runs[k:] if sample < end] or [(0, 0)]
    sample, place = inside[0]
    return [(0, place - sample), *inside[1:]]


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
    """Why a window is not answered.

    Speech varies: its loudest tenth of a second lies 15 dB and more above its pauses, however faint the recording; the noise of
    a room or a microphone is steady. So a window counts as noise only where it is both faint and steady.

    Parameters
    ----------
    x : (n,) float32
        Samples at 16 kHz, full scale 1.

    Returns
    -------
    str or None
        The reason in a few words; None where there may be speech.
    """
    if len(x) == 0:
        return NONE
    if len(x) < round(SHORTEST * SAMPLE_RATE):
        return f"shorter than {SHORTEST} s"
    power = x[: len(x) // FRAME * FRAME].reshape(-1, FRAME).var(axis=1)
    sounding = np.flatnonzero(power > NOTHING)
    if len(sounding) < PEAK_FRAMES:
        return "silence"
    power = power[sounding[0] : sounding[-1] + 1]  # a microphone that is switched on or off makes no pause between words
    levels = np.sort(10 * np.log10(np.maximum(power, NOTHING)))
    loud, pauses = levels[-PEAK_FRAMES], levels[len(levels) // 10]
    if loud < SILENT_DB:
        return "silence"
    if loud < FAINT_DB and loud - pauses < STEADY_DB:
        return "noise below the level of speech"
    return None


class Sound:
    """A recording as it is read: an iterator of spans, at its own rate, or where nothing but speech is heard, at 16 kHz."""

    def __init__(self, blocks: Iterable[Array], rate: int, seconds: float, most: int, speech: bool) -> None:
        self._samples, self._rate, self._window, self._speech = 0, rate, seconds, speech
        counted = self._counted(blocks)
        self._spans = spans(counted, rate, seconds, most) if speech else features.spans(counted, rate, seconds, most)

    def __iter__(self) -> Iterator[Span]:
        return self._spans

    def _counted(self, blocks: Iterable[Array]) -> Iterator[Array]:
        for block in blocks:
            self._samples += len(block)
            yield block

    @property
    def seconds(self) -> float:
        """What has been read; after the last span, the length of the recording."""
        return max(1, round(self._samples * SAMPLE_RATE / self._rate)) / SAMPLE_RATE

    def at_16_khz(self, span: Span) -> Span:
        """A span at 16 kHz; several threads may do this for different spans."""
        return span if self._speech else features.at_16_khz(span, self._rate, self._window)

"""One recording: its waveform, its spectrum, the attention of the network, and its answers; what page and picture share.

Everything lies on one time axis: the waveform, the log-mel bands, the weights of each attention head, and, where a recording
has several windows, the answer of each. Of long recordings a column of the pictures is the mean of several frames.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from npser import features
from npser.features import FLOOR_DB, HOP, SAMPLE_RATE
from npser.lite import Model
from npser.prediction import Prediction, WindowOutput

Array = np.ndarray

COLUMNS = 3000  # of a picture, at most
PARTS = 1500  # of the waveform, at most; each shows its lowest and its highest sample
EMBEDDED = 6 << 20  # bytes of sound that a page may hold: three to ten minutes of speech
RANGE_DB = 80.0  # from the faintest to the loudest shade of the spectrogram
# Anchors of the two palettes, from the lowest value to the highest: dark to light, and light to dark
NIGHT = ("#0b0724", "#2d1160", "#721f81", "#b5367a", "#f1605d", "#feaf77", "#fcfdbf")
DAY = ("#f3f4f7", "#d3d9ee", "#9fadd9", "#6279b8", "#35508f", "#16264f")
TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)  # seconds
COLOURS = {
    "angry": "#d64545",
    "bored": "#9c7a5b",
    "calm": "#4aa39a",
    "disgusted": "#6a8f3c",
    "excited": "#f08a24",
    "fearful": "#7d5ba6",
    "frustrated": "#b0413e",
    "happy": "#f2b134",
    "neutral": "#8c9bab",
    "other": "#b8b0a8",
    "sad": "#3f72af",
    "surprised": "#d977a8",
}


@dataclass(frozen=True)
class Look:
    """What there is to show of one recording, in N columns of so many frames; frame t is centred at 0.025 t seconds.

    wave (W, 2): lowest and highest sample of W equal parts. bands (N, bands) dB. weights (N, n_attn): of the attention, 1 where
    a moment counts as much as the average one, NaN where nothing is answered; None for a network without attention. padding:
    share of the attention that lies on the zeros after the end. sound: the recording as FLAC, one channel; None where that
    would be larger than EMBEDDED.
    """

    name: str
    model: Model
    sha256: str
    prediction: Prediction
    seconds: float
    frames: int
    wave: Array
    bands: Array
    weights: Array | None
    padding: float
    sound: bytes | None

    @property
    def span(self) -> tuple[float, float]:
        """Seconds where the first column starts and the last one ends."""
        return -HOP / 2 / SAMPLE_RATE, (len(self.bands) * self.frames - 0.5) * HOP / SAMPLE_RATE

    @property
    def colours(self) -> dict[str, str]:
        """Of each emotion; labels of the user's own take what is left."""
        left = [colour for label, colour in COLOURS.items() if label not in self.model.emotions] or list(COLOURS.values())
        return {label: COLOURS.get(label) or left[k % len(left)] for k, label in enumerate(self.model.emotions)}

    @property
    def shades(self) -> Array:
        """bands from 0, RANGE_DB below the loudest or fainter, to 1."""
        return np.clip((self.bands - np.max(self.bands, initial=FLOOR_DB + RANGE_DB)) / RANGE_DB + 1, 0, 1)

    @property
    def segments(self) -> list[tuple[float, float]]:
        """Seconds from which to which the answer of each window is shown: the overlap of two is cut in the middle."""
        timeline = self.prediction.timeline
        cuts = [(after.start + before.end) / 2 for before, after in itertools.pairwise(timeline)]
        return list(zip([0.0, *cuts], [*cuts, self.seconds], strict=True))


def look(audio: str | os.PathLike[str], path: Path) -> Look:
    """Go through a recording, window by window: of a long one, nothing but the pictures is kept."""
    model = Model(path)
    c, network = model.config, model.network
    samples, sound = _read(audio)
    total = samples // HOP + 1
    frames = -(-total // COLUMNS)  # of a column
    N, W, step = -(-total // frames), min(PARTS, samples), network.samples_per_step(c)
    bands, weights = None, _Mean(N, network.heads_of_attention(c))
    outputs: list[WindowOutput] = []
    padding: list[float] = []
    for span in model.spans(audio):
        outputs += model.outputs(span)
        if len(span.x) == 0:  # no speech
            continue
        S = network.spectrum(c, span.x)
        centres = features.moments(span.places()[0], np.arange(len(S)) * HOP)
        column = np.round(centres * SAMPLE_RATE / HOP).astype(int) // frames
        bands = _Mean(N, S.shape[1]) if bands is None else bands
        bands.add(column, S)
        a = outputs[-1].attention
        if a is not None:
            fine = min(step, HOP)  # samples: a frame may hold several steps, a step several frames
            at = np.arange(min(len(S) * HOP, a.shape[1] * step) // fine) * fine
            weights.add(column[at // HOP], a.T[at // step] * a.shape[1])
            padding.append(float(a[:, -(-len(S) * HOP // step) :].sum() / len(a)))
    bands = _Mean(N, c.d_spec // 3) if bands is None else bands
    return Look(
        name=os.path.basename(os.fsencode(audio)).decode(errors="replace"),  # a name need not be UTF-8
        model=model,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        prediction=model.answer(outputs, samples / SAMPLE_RATE),
        seconds=samples / SAMPLE_RATE,
        frames=frames,
        wave=_wave(audio, W, samples),
        bands=bands.mean(FLOOR_DB),
        weights=weights.mean(np.nan) if padding else None,
        padding=float(np.mean(padding)) if padding else 0.0,
        sound=sound,
    )


class _Mean:
    """The mean of rows that fall into the same column; overlapping windows add to it more than once."""

    def __init__(self, columns: int, width: int) -> None:
        self.sum, self.count = np.zeros((columns, width)), np.zeros((columns, 1))

    def add(self, column: Array, rows: Array) -> None:
        """rows (n, width) belong to column (n,), which rises; later rows belong to the last one."""
        column = np.minimum(column, len(self.sum) - 1)
        starts = np.flatnonzero(np.diff(column, prepend=-1))
        if len(starts):
            self.sum[column[starts]] += np.add.reduceat(rows, starts)
            self.count[column[starts], 0] += np.diff(starts, append=len(column))

    def mean(self, nothing: float) -> Array:
        """(columns, width); nothing where nothing was added."""
        return np.where(self.count > 0, self.sum / np.maximum(self.count, 1), nothing)


def _wave(audio: str | os.PathLike[str], W: int, samples: int) -> Array:
    """Lowest and highest sample of W equal parts of a recording that has so many samples at 16 kHz, (W, 2)."""
    wave, heard = np.zeros((W, 2)), 0
    rate, blocks = features.read_blocks(audio)
    for x in blocks:
        part = np.minimum((heard + np.arange(len(x))) * SAMPLE_RATE * W // (rate * samples), W - 1)
        starts = np.flatnonzero(np.diff(part, prepend=-1))
        wave[part[starts], 0] = np.minimum(wave[part[starts], 0], np.minimum.reduceat(x, starts))
        wave[part[starts], 1] = np.maximum(wave[part[starts], 1], np.maximum.reduceat(x, starts))
        heard += len(x)
    return wave


def _read(audio: str | os.PathLike[str]) -> tuple[int, bytes | None]:
    """Length in samples at 16 kHz, and the recording as FLAC, or None where it is larger than EMBEDDED."""
    rate, blocks = features.read_blocks(audio)
    length, file = 0, io.BytesIO()
    writable = rate if rate < 1 << 16 else rate // 10 * 10  # FLAC's header has no digit for more
    with soundfile.SoundFile(file, "w", writable, 1, "PCM_16", format="FLAC") as flac:
        for block in blocks:
            length += len(block)
            if file.getbuffer().nbytes <= EMBEDDED:
                flac.write(block)
    sound = file.getvalue() if file.getbuffer().nbytes <= EMBEDDED else None
    return max(1, round(length * SAMPLE_RATE / rate)), sound


def notices(look: Look) -> list[str]:
    """What every output of this network has to say."""
    return list(look.model.checkpoint.training.get("notices", []))


def top_weight(look: Look) -> float:
    """The weight of the darkest shade: the largest but for a few outliers, at least twice the average."""
    return 2.0 if look.weights is None else max(2.0, float(np.nanquantile(look.weights, 0.998)))


def clock(seconds: float, digits: int = 0) -> str:
    """1:02:03, 2:03 or 2:03.4."""
    whole = round(seconds * 10**digits)
    minutes, rest = divmod(whole, 60 * 10**digits)
    text = f"{rest / 10**digits:0{3 + digits if digits else 2}.{digits}f}"
    return f"{minutes // 60}:{minutes % 60:02}:{text}" if minutes >= 60 else f"{minutes}:{text}"


def ticks(seconds: float) -> dict[float, str]:
    """About ten moments, evenly spaced, and how they are written."""
    step = next((step for step in TICKS if seconds / step <= 9), 8 * TICKS[-1])
    moments = [k * step for k in range(int(seconds / step) + 1)]
    return {t: clock(t) if seconds >= 60 else f"{t:.3g} s" for t in moments}


def frequencies(bands: int) -> dict[str, float]:
    """Where some frequencies lie among so many bands, from 0 at the lowest to 1 at the highest."""
    centres = features.mel_filters().argmax(axis=0)[:bands] * SAMPLE_RATE / features.N_FFT
    names = {"0.5 kHz": 500, "1": 1000, "2": 2000, "4": 4000}
    return {
        name: float((np.interp(f, centres, np.arange(bands)) + 0.5) / bands) for name, f in names.items() if f <= centres[-1]
    }


def verdict(look: Look) -> tuple[str, str]:
    """The answer in a word or two, and its probability or reason."""
    p, windows = look.prediction, len(look.prediction.timeline)
    if p.emotion is None:
        return "no answer", p.reason or ""
    return p.emotion, f"{percent(p.probabilities[p.emotion])} probable" + (f", over {windows} windows" if windows > 1 else "")


def percent(p: float) -> str:
    return "over 99%" if p >= 0.995 else f"{p:.0%}"

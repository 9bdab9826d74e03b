"""`npser explain`: what the network heard of one recording, where it looked, and what it says, as a page or a picture.

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

from npser import checkpoint, features
from npser.features import FLOOR_DB, HOP, SAMPLE_RATE
from npser.lite import Heard, Model, Prediction

Array = np.ndarray

COLUMNS = 3000  # of a picture, at most
PARTS = 1500  # of the waveform, at most; each shows its lowest and its highest sample
EMBEDDED = 6 << 20  # bytes of sound that a page may hold: three to ten minutes of speech
PAGES, PICTURES = (".html", ".htm"), (".png", ".pdf", ".svg")
RANGE_DB = 80.0  # from the faintest to the loudest shade of the spectrogram
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
    share of the attention that lies on the zeros behind the end. sound: the recording as FLAC, one channel; None where that
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
    def level(self) -> Array:
        """bands from 0, RANGE_DB below the loudest or fainter, to 1."""
        return np.clip((self.bands - np.max(self.bands, initial=FLOOR_DB + RANGE_DB)) / RANGE_DB + 1, 0, 1)

    @property
    def segments(self) -> list[tuple[float, float]]:
        """Seconds from which to which the answer of each window is shown: the overlap of two is cut in the middle."""
        timeline = self.prediction.timeline
        cuts = [(after.start + before.end) / 2 for before, after in itertools.pairwise(timeline)]
        return list(zip([0.0, *cuts], [*cuts, self.seconds], strict=True))


def explain(audio: str | os.PathLike[str], model: Path, out: Path) -> Prediction:
    """Write a page (.html) or, with matplotlib, a picture (.png, .pdf, .svg) about one recording; returns what it says.

    Raises
    ------
    ValueError
        For a recording or a model file that cannot be read, an out of another kind, or a missing matplotlib.
    """
    kind = out.suffix.lower()
    if not out.parent.is_dir():  # said before the work, which may take a while
        raise ValueError(f"--out {out}: there is no folder {out.parent}; make it, or name another")
    if kind in PICTURES:
        try:
            from npser.explain_picture import picture
        except ImportError:
            way_out = "get it with: pip install 'npser[plot]', or name a page, --out PAGE.html, which needs nothing more"
            raise ValueError(f"--out {out}: a picture needs the package matplotlib; {way_out}") from None
        found = look(audio, model)
        content = picture(found, kind.removeprefix("."))
    elif kind in PAGES:
        from npser.explain_page import page

        found = look(audio, model)
        content = page(found).encode()
    else:
        raise ValueError(f"--out {out}: expected a name that ends in {', '.join((PAGES[0], *PICTURES))}")
    checkpoint.write(out, content)
    return found.prediction


def look(audio: str | os.PathLike[str], path: Path) -> Look:
    """Hear a recording, window by window: of a long one, nothing but the pictures is kept."""
    model = Model(path)
    c = model.config
    samples, sound = _read(audio)
    total = samples // HOP + 1
    frames = -(-total // COLUMNS)  # of a column
    N, W = -(-total // frames), min(PARTS, samples)
    wave, bands, weights = np.zeros((W, 2)), _Mean(N, c.bands), _Mean(N, c.n_attn)
    heard: list[Heard] = []
    padding: list[float] = []
    for k, x in enumerate(model.windows(audio)):
        start = k * c.max_seconds / 2 * SAMPLE_RATE
        _widen(wave, (round(start) + np.arange(len(x))) * W // samples, x)
        S = features.heard(features.log_mel(x, level=c.level), c.bands, c.level)
        column = (round(start / HOP) + np.arange(len(S))) // frames
        bands.add(column, S)
        heard.append(model.hear(x))
        a = heard[-1].attention
        if a is not None:
            of_frames = np.repeat(a.T * a.shape[1], c.n_pw, axis=0)[: len(S)]
            weights.add(column[: len(of_frames)], of_frames)
            padding.append(float(a[:, -(-len(S) // c.n_pw) :].sum() / len(a)))
    return Look(
        name=os.path.basename(os.fsencode(audio)).decode(errors="replace"),  # a name need not be UTF-8
        model=model,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        prediction=model.answer(heard),
        seconds=samples / SAMPLE_RATE,
        frames=frames,
        wave=wave,
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
        """rows (n, width) belong to column (n,), which rises; what lies behind the last one belongs to it."""
        column = np.minimum(column, len(self.sum) - 1)
        starts = np.flatnonzero(np.diff(column, prepend=-1))
        if len(starts):
            self.sum[column[starts]] += np.add.reduceat(rows, starts)
            self.count[column[starts], 0] += np.diff(starts, append=len(column))

    def mean(self, nothing: float) -> Array:
        """(columns, width); nothing where nothing was added."""
        return np.where(self.count > 0, self.sum / np.maximum(self.count, 1), nothing)


def _widen(wave: Array, part: Array, x: Array) -> None:
    """Let each part of wave (W, 2) reach from the lowest to the highest of its samples. part (n,) rises."""
    part = np.minimum(part, len(wave) - 1)
    starts = np.flatnonzero(np.diff(part, prepend=-1))
    wave[part[starts], 0] = np.minimum(wave[part[starts], 0], np.minimum.reduceat(x, starts))
    wave[part[starts], 1] = np.maximum(wave[part[starts], 1], np.maximum.reduceat(x, starts))


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

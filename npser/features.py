"""Audio file -> waveform at 16 kHz -> log-mel bands, section 4.1 of the paper.

    for x in read_windows("a.wav", 7.5, cut=True):  # x (n,) float32
        S = log_mel(x)                              # (L, 128) dB

librosa computes the same bands: ``power_to_db(melspectrogram(y=x, sr=16000, n_fft=800, hop_length=400, pad_mode="reflect"),
amin=1e-10, top_db=None)``. Deltas are taken when a batch is assembled.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import shlex
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import scipy.fft
import soundfile
from scipy.sparse import csr_array

from npser.files import fetched, is_address, refuse_special

SAMPLE_RATE = 16000  # Hz
N_FFT = 800  # samples of the Hann window and of the transform
HOP = 400  # samples from one frame to the next
N_MELS = 128  # bands of a spectrum
LEVEL_DB = -26.0  # under full scale, of a levelled window: its root mean square
NO_LEVEL = 1e-6  # root mean square of what is too faint to be brought there
FLOOR_DB = -100.0  # 10 log10 of the smallest power that counts, 1e-10
SPEECH_FLOOR_DB = -70.0  # of speech, 60 dB below the mean power of a band at LEVEL_DB: what is fainter is the room's
SILENT_DB = FLOOR_DB + 0.01  # at most so much is the floor, however the logarithm was rounded
AT_ONCE = 24  # frames whose spectra are computed together: they fit into the cache
SETTINGS = {"sample_rate": SAMPLE_RATE, "n_fft": N_FFT, "hop": HOP, "n_mels": N_MELS, "floor_db": FLOOR_DB}  # of a model file

CONVERTED = (".aac", ".aif", ".aifc", ".aiff", ".amr", ".au", ".caf", ".m4a", ".mp4", ".w64", ".webm", ".wma")  # by ffmpeg
RATES, MOST_CHANNELS, BLOCK = (4000, 192000), 32, 1 << 16
LOUDEST = 1e12  # of a sample; the power of anything louder may not fit into float32


Runs = list[tuple[int, float]]  # of a window: from that sample on, the recording runs on from that one, both at 16 kHz


def moments(runs: Runs, samples: np.ndarray) -> np.ndarray:
    """Seconds of the recording at which some samples of a window end, (n,); before its first one, there may be others."""
    first, place = np.array(runs).T
    k = np.maximum(np.searchsorted(first, samples, side="left") - 1, 0)
    return (place[k] + (samples - first[k])) / SAMPLE_RATE


class Span(NamedTuple):
    """Some windows of a recording, one after the other: window k is samples starts[k] to ends[k] of x (n,).

    runs: where each window lies in the recording, see moments; without them, it is a recording of its own.
    """

    x: np.ndarray
    starts: list[int]
    ends: list[int]
    runs: list[Runs] | None = None

    @classmethod
    def of(cls, x: np.ndarray) -> Span:
        """One window."""
        return cls(x, [0], [len(x)])

    def windows(self) -> list[np.ndarray]:
        """Each window, (n,)."""
        return [self.x[start:end] for start, end in zip(self.starts, self.ends, strict=True)]

    def places(self) -> list[Runs]:
        """Where each window lies in the recording."""
        return self.runs or [[(0, 0.0)] for _ in self.starts]

    def some(self, which: Sequence[int]) -> Span:
        """Some of the windows, by their numbers."""
        runs = [self.runs[k] for k in which] if self.runs else None
        return Span(self.x, [self.starts[k] for k in which], [self.ends[k] for k in which], runs)


@dataclass(frozen=True)
class Kind:
    """A kind of features, as a store keeps them of windows of so many seconds.

    rows: a window (n,) at 16 kHz -> (L, width), where row t is centred at sample hop t. pad: windows are zero-padded to their
    whole length, and only the rows that touch sound are stored; those after it are floor. settings: goes into model files,
    which a later version refuses where it makes others. rows_of_span: the same of all windows of a Span, where a frame that
    several of them share need not be computed for each. name: for people, in a list of what the cache holds.
    """

    rows: Callable[[np.ndarray], np.ndarray]
    settings: dict[str, Any]
    seconds: float
    pad: bool
    width: int = N_MELS
    hop: int = HOP
    floor: float = FLOOR_DB
    rows_of_span: Callable[[Span], list[np.ndarray]] | None = None
    speech: bool = False
    name: str = "features"

    def of(self, span: Span) -> list[np.ndarray]:
        """The features of each window of a span at 16 kHz."""
        return [self.rows(x) for x in span.windows()] if self.rows_of_span is None else self.rows_of_span(span)


class _Forward(soundfile.SoundFile):
    """Read from start to end: soundfile seeks after each block, which fails where a FLAC's length is unknown."""

    def seekable(self) -> bool:
        return False


def window_samples(seconds: float) -> int:
    """Samples of a window at 16 kHz."""
    return round(seconds * SAMPLE_RATE)


def is_sound(x: np.ndarray) -> bool:
    """Whether an array is (n,) finite samples of one channel."""
    return x.ndim == 1 and x.size > 0 and bool((np.abs(x.astype(np.float64)) <= LOUDEST).all())  # float16 has no LOUDEST


def whole_rate(rate: float | None) -> int:
    """The sample rate of an array; ValueError where it is none."""
    if not isinstance(rate, (int, float, np.number)) or not RATES[0] <= rate <= RATES[1] or rate % 1:
        raise ValueError(f"sample_rate is {rate!r}; expected the rate of the samples, {RATES[0]} to {RATES[1]} Hz")
    return int(rate)


def open_audio(path: str | os.PathLike[str] | BinaryIO) -> soundfile.SoundFile:
    """Open an audio file, or one that is open as bytes and seekable: wav, flac, ogg or mp3, whatever it is called.

    A name such as s3://bucket/a.wav is fetched by fsspec.

    Raises
    ------
    ValueError
        For a file that is missing, empty or undecodable: one sentence that begins with its name.
    """
    stream, name = _stream_and_name(path)
    if stream is not None or not is_address(name):
        return _opened(stream, name)
    copy = fetched(name)
    try:
        audio = _opened(copy, name)
    except ValueError:
        copy.close()
        raise
    weakref.finalize(audio, copy.close)
    return audio


def _opened(stream: BinaryIO | None, name: str) -> soundfile.SoundFile:
    """What open_audio does with an open file, or without one with that of a name."""
    try:
        if stream is None:
            refuse_special(name, "expected an audio file", ", or - with the sound on standard input")
        with contextlib.nullcontext(stream) if stream is not None else open(name, "rb") as file:
            file.seek(0)
            _check_kind(name, file)
            file.seek(0)
        bytes_of_name: Any = os.fsencode(name)  # a name need not be UTF-8
        audio = _Forward(bytes_of_name if stream is None else stream)
    except OSError as error:
        raise ValueError(f"{name}: cannot be opened ({error.strerror or error})") from None
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", str(error)).rstrip(". ")
        reason = "it ends early, or its header makes no sense" if "pipe" in reason else reason  # libsndfile's guess is wrong
        raise ValueError(f"{name}: is damaged, or of a kind that cannot be read ({reason})") from None
    problem = ""
    if not RATES[0] <= audio.samplerate <= RATES[1]:
        problem = f"the sample rate is {audio.samplerate} Hz; expected {RATES[0]} to {RATES[1]}"
    elif audio.channels > MOST_CHANNELS:
        problem = f"there are {audio.channels} channels; expected at most {MOST_CHANNELS}"
    if problem:
        audio.close()
        raise ValueError(f"{name}: {problem}")
    return audio


def _stream_and_name(path: str | os.PathLike[str] | BinaryIO) -> tuple[BinaryIO | None, str]:
    """The open file, where there is one, and what to call it."""
    if isinstance(path, (str, os.PathLike)):
        return None, os.fspath(path)
    return path, str(getattr(path, "name", "the stream"))


def read_blocks(path: str | os.PathLike[str] | BinaryIO) -> tuple[int, Iterator[np.ndarray]]:
    """Open an audio file and read it.

    Returns
    -------
    (int, iterator)
        The sample rate in Hz, and the samples as blocks of (n,) float32, channels averaged. The header's length is not trusted:
        what can be read is read, with a warning where it is less.

    Raises
    ------
    ValueError
        As open_audio, and for samples that are not finite.
    """
    audio = open_audio(path)
    return audio.samplerate, _mono_blocks(_stream_and_name(path)[1], audio)


def _check_kind(name: str, file: BinaryIO) -> None:
    """ValueError for an empty file, for one that is neither wav nor flac, ogg or mp3, and for several recordings in an ogg.

    Decided before libsndfile sees it: it knows two dozen kinds more, some of whose readers write to standard output.
    """
    at, head = 0, file.read(12)
    if not isinstance(head, bytes):
        raise ValueError(f"{name}: is open as text; expected an audio file that is open as bytes, mode 'rb'")
    while head.startswith(b"ID3"):  # a tag, after which libsndfile looks for any kind
        at += 10 + functools.reduce(lambda size, byte: size << 7 | byte & 0x7F, head[6:10], 0) + (10 if head[5] & 0x10 else 0)
        file.seek(at)
        head = file.read(12)
    way_out = shlex.join([name, f"{os.path.splitext(name)[0]}.wav"])
    if not head and at == 0:
        raise ValueError(f"{name}: the file is empty (0 bytes)")
    wav = head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:] == b"WAVE"
    mp3 = len(head) > 1 and head[0] == 0xFF and head[1] >= 0xE0
    if head.startswith(b"\0"):  # mp3s may begin with padding
        file.seek(at)
        start = file.read(BLOCK).lstrip(b"\0")
        mp3 = len(start) > 1 and start[0] == 0xFF and start[1] >= 0xE0
    if not wav and not mp3 and head[:4] not in (b"fLaC", b"OggS"):
        if name.lower().endswith(CONVERTED):
            raise ValueError(f"{name}: cannot be decoded here; convert it with: ffmpeg -i {way_out}")
        raise ValueError(f"{name}: is not an audio file that can be read; wav, flac, ogg and mp3 can")
    if head[:4] == b"OggS" and _is_chained(file):
        problem = "holds several recordings one after another (a chained ogg)"
        raise ValueError(f"{name}: {problem}; split it, or make one of it with: ffmpeg -i {way_out}")


def _is_chained(file: BinaryIO) -> bool:
    """Whether a stream of an ogg starts after others have gone on: libsndfile would hear nothing of it."""
    going_on, held = False, b""
    file.seek(0)
    while block := file.read(BLOCK):
        held += block
        for page in re.finditer(rb"OggS\0(?:([\2\3\6\7]\0{8})|[\0\1\4\5])", held):  # the first of its stream, at time 0; or not
            if page[1] and going_on:
                return True
            going_on |= not page[1]
        held = held[-13:]
    return False


def _mono_blocks(name: str, audio: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """The file's samples, block by block, channels averaged, checked. (n,) float32"""
    total = 0
    with audio:
        while True:
            try:
                block = audio.read(BLOCK, dtype="float32", always_2d=True)
            except soundfile.SoundFileError as error:
                raise ValueError(f"{name}: cannot be decoded after sample {total} ({error})") from None
            if len(block) == 0:
                break
            if not (np.abs(block) <= LOUDEST).all():
                raise ValueError(f"{name}: holds samples that are not finite (NaN, infinity, or beyond {LOUDEST:g})")
            total += len(block)
            yield block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
        if total == 0:
            raise ValueError(f"{name}: holds no samples")
        # libsndfile corrects the length of a truncated wav before it tells it; only its log knows the header's
        header = re.search(r"^ ?data : (\d+) \(should be (\d+)\)", audio.extra_info, re.MULTILINE)
        claimed, held = map(int, header.groups()) if header else (audio.frames, total)
        unknown = 0x7FFFFF00 if header else 2**63 - 1  # what stands for a length that was not known, as when writing to a pipe
        if held < claimed < unknown:
            warnings.warn(f"{name}: is shorter than its header says ({total} samples are there)", stacklevel=2)


def spans(blocks: Iterable[np.ndarray], rate: int, seconds: float, most: int) -> Iterator[Span]:
    """Cut a recording into windows, some at a time.

    Parameters
    ----------
    blocks : iterable of (n,) float32
        The samples, at rate Hz.
    seconds : float
        Length of a window. Window k starts at source sample ``round(k seconds / 2 * rate)``; the last one may be shorter.
    most : int
        Windows of a span; the last span may have fewer.

    Yields
    ------
    Span
        At the source's rate: see at_16_khz.
    """
    size, blocks = round(seconds * rate), iter(blocks)
    held, held_from, k, ended = np.empty(0, np.float32), 0, 0, False
    while True:
        starts = [round((k + j) * seconds / 2 * rate) for j in range(most)]
        held, held_from = held[starts[0] - held_from :], starts[0]
        starts = [start - held_from for start in starts]
        parts, length = [held], len(held)
        while length <= starts[-1] + size and not ended:  # one sample more than the windows tells whether another follows
            block = next(blocks, None)
            ended = block is None
            if block is not None:
                parts.append(block)
                length += len(block)
        held = np.concatenate(parts) if len(parts) > 1 else held  # of an array all spans are views
        last = next((j for j, start in enumerate(starts) if length <= start + size), None)
        starts = starts if last is None else starts[: last + 1]
        ends = [min(start + size, length) for start in starts]
        yield Span(held[: ends[-1]], starts, ends, [[(0, (k + j) * seconds / 2 * SAMPLE_RATE)] for j in range(len(starts))])
        if last is not None:
            return
        k += most


def at_16_khz(span: Span, rate: int, seconds: float) -> Span:
    """A span at rate Hz, of windows of so many seconds, at 16 kHz: each window resampled on its own, side by side."""
    if rate == SAMPLE_RATE:
        return span
    parts = [resample(x, rate)[: window_samples(seconds)] for x in span.windows()]
    ends = np.cumsum([len(part) for part in parts]).tolist()
    return Span(np.concatenate(parts), [0, *ends[:-1]], ends, span.runs)


def windows(blocks: Iterable[np.ndarray], rate: int, seconds: float, cut: bool) -> Iterator[np.ndarray]:
    """Windows of a recording at 16 kHz, one at a time: see spans. cut: only the first one, longer recordings are cut."""
    for span in spans(blocks, rate, seconds, 1):
        yield from at_16_khz(span, rate, seconds).windows()
        if cut:
            return


def read_windows(path: str | os.PathLike[str] | BinaryIO, seconds: float, cut: bool) -> Iterator[np.ndarray]:
    """Windows of an audio file, each (n,) float32 at 16 kHz; see read_blocks for errors and windows for the rest."""
    rate, blocks = read_blocks(path)
    return windows(blocks, rate, seconds, cut)


def resample(x: np.ndarray, rate: int) -> np.ndarray:
    """x (n,) at rate Hz -> (round(n 16000 / rate),) at 16 kHz, by cropping or zero-filling its spectrum.

    Reflected ends of 50 ms keep the edges from wrapping around. They, and the whole, are multiples of the length in which both
    rates have a whole number of samples.
    """
    if rate == SAMPLE_RATE:
        return np.ascontiguousarray(x, np.float32)
    up, down = SAMPLE_RATE // math.gcd(SAMPLE_RATE, rate), rate // math.gcd(SAMPLE_RATE, rate)
    margin = -(-rate // 20 // down) + 1
    units = cast(int, scipy.fft.next_fast_len(-(-len(x) // down) + 2 * margin))
    padded = np.pad(x, (margin * down, (units - margin) * down - len(x)), mode="reflect")
    spectrum = cast(np.ndarray, scipy.fft.rfft(padded))
    kept = np.zeros(units * up // 2 + 1, spectrum.dtype)
    shared = min((units * up + 1) // 2, (units * down + 1) // 2)  # below both Nyquist frequencies
    kept[:shared] = spectrum[:shared]
    y = cast(np.ndarray, scipy.fft.irfft(kept, units * up)) * np.float32(up / down)
    length = max(1, (2 * len(x) * up + down) // (2 * down))
    return np.ascontiguousarray(y[margin * up : margin * up + length], np.float32)


@functools.cache
def mel_filters() -> np.ndarray:
    """Slaney's mel filters of unit area, (N_FFT // 2 + 1, N_MELS)."""
    log_step = math.log(6.4) / 27
    mel_top = 15 + math.log(SAMPLE_RATE / 2 / 1000) / log_step
    mel = np.linspace(0, mel_top, N_MELS + 2)  # linear to 1 kHz (mel 15), logarithmic above
    edges = np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(log_step * (mel - 15)))
    bins = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins) / np.diff(edges)[1:]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return (triangles * 2 / (edges[2:] - edges[:-2])).astype(np.float32)


@functools.cache
def _sparse_mel_filters() -> Any:
    """The same, transposed, without its zeros: a product by which no frame depends on its place, as it does by BLAS's."""
    return csr_array(mel_filters().T)


@functools.cache
def hann() -> np.ndarray:
    """The periodic window, (N_FFT,)."""
    return 0.5 - 0.5 * np.cos(2 * np.pi / N_FFT * np.arange(N_FFT))


def db_to_power(S: np.ndarray) -> np.ndarray:
    """10 ** (S / 10), of any shape; NumPy's exp is vectorised, its power is not."""
    return np.exp(S * S.dtype.type(math.log(10) / 10))


def power_to_db(P: np.ndarray) -> np.ndarray:
    """10 log10(P), of any shape."""
    return np.log(P) * P.dtype.type(10 / math.log(10))


def heard_level(S: np.ndarray, bands: int, level: bool) -> float:
    """What heard_bands takes off S (L, 128), dB; 0 where it takes nothing."""
    if not level or bands == N_MELS:
        return 0.0
    P = db_to_power(S[:, :bands])
    found = 10 * math.log10(P.sum() / P.size)
    return found if found > SILENT_DB else 0.0


def heard_bands(S: np.ndarray, bands: int, level: bool) -> np.ndarray:
    """The lowest bands (L, bands) of S (L, 128), dB; with level, shifted so that the mean of their powers is 1.

    The bands above them then have no part in the level. All 128 bands stay as log_mel levelled them, and so does silence.
    """
    return S[:, :bands] - np.float32(heard_level(S, bands, level))


def log_mel(x: np.ndarray, pad_to: int | None = None, level: bool = False, floor: float = FLOOR_DB) -> np.ndarray:
    """Log-mel bands of a waveform.

    Parameters
    ----------
    x : (n,) float32
        Samples at 16 kHz. Frame t is centred at sample 400 t; the ends are reflected.
    pad_to : int, optional
        Zero-pad to so many samples first. Only the frames that touch x are returned; those after it are exactly the floor.
    level : bool
        Bring x to LEVEL_DB first, so that a recording's bands do not depend on how loud it was recorded.
    floor : float
        dB; less counts as so much.

    Returns
    -------
    (L, 128) float32
        dB. L = n // 400 + 1; with pad_to, at most ceil(n / 400) + 1.
    """
    frames, padded = len(x) // HOP + 1, x
    if pad_to is not None:
        frames = min(pad_to // HOP, -(-len(x) // HOP)) + 1
        padded = np.pad(x, (0, pad_to - len(x)))
    return _in_db(mel_power(np.pad(padded, HOP, mode="reflect"), frames), x, level, floor)


def log_mel_of_span(span: Span, pad_to: int | None = None, level: bool = False, floor: float = FLOOR_DB) -> list[np.ndarray]:
    """log_mel of each window of a span at 16 kHz; a frame that lies inside of several windows is computed once."""
    x, starts = span.x, span.starts
    if len(starts) == 1 or any(start % HOP for start in starts) or min(np.subtract(span.ends, starts)) < 2 * N_FFT:
        return [log_mel(window, pad_to, level, floor) for window in span.windows()]
    everywhere, found = mel_power(np.pad(x, HOP, mode="reflect"), len(x) // HOP + 1), []
    for window, start, end in zip(span.windows(), starts, span.ends, strict=True):
        if pad_to is not None and end - start < pad_to:
            found.append(log_mel(window, pad_to, level, floor))
        else:
            found.append(log_mel_within(everywhere[start // HOP : end // HOP + 1], window, level, floor))
    return found


def log_mel_within(P: np.ndarray, x: np.ndarray, level: bool, floor: float) -> np.ndarray:
    """log_mel of a part x (n,) of a sound, n at least 2 N_FFT, from the powers of its frames in the sound, P (L, 128)."""
    there = HOP + len(x) % HOP  # samples of the last frame
    ends = np.concatenate([x[HOP:0:-1], x[: N_FFT - HOP], x[-there:], x[-2 : there - N_FFT - 2 : -1]])
    P = P.copy()
    P[[0, -1]] = mel_power(ends, 2, N_FFT)  # they see the ends reflected
    return _in_db(P, x, level, floor)


def mel_power(x: np.ndarray, frames: int, hop: int = HOP) -> np.ndarray:
    """Powers of the mel bands of the first frames of x (n,), (frames, 128): frame t begins at sample hop t."""
    cut_up = np.lib.stride_tricks.sliding_window_view(x, N_FFT)[::hop][:frames]
    parts = []
    for start in range(0, frames, AT_ONCE):
        # float64: rounding would show in bands 80 dB below the others
        spectrum = cast(np.ndarray, scipy.fft.rfft(cut_up[start : start + AT_ONCE] * hann()))
        power = (np.real(spectrum) ** 2 + np.imag(spectrum) ** 2).astype(np.float32)
        parts.append(_sparse_mel_filters() @ np.ascontiguousarray(power.T))
    return np.ascontiguousarray(np.concatenate(parts, axis=1).T)


def _in_db(P: np.ndarray, x: np.ndarray, level: bool, floor: float) -> np.ndarray:
    """Powers P (L, 128) of a waveform x (n,) in dB, at least the floor; with level, as if x had been brought to LEVEL_DB."""
    rms = float(x.std(dtype=np.float64)) if level else 0.0  # without the mean: a constant has no level
    if rms > NO_LEVEL:
        P = P * np.float32((10 ** (LEVEL_DB / 20) / rms) ** 2)
    return np.maximum(power_to_db(np.maximum(P, np.finfo(np.float32).tiny)), np.float32(floor))


def level_of(x: np.ndarray) -> float:
    """Level of a waveform (n,), dB re full scale: its mean power; -100 dB stands for silence."""
    return 10 * math.log10(max(float(np.mean(np.square(x, dtype=np.float64))), 1e-10))


def is_log_mel(kind: Kind) -> bool:
    """Whether a store of this kind holds log-mel bands of the recording, levelled or not, and nothing else."""
    return kind.width == N_MELS and kind.settings.items() >= (SETTINGS | {"floor_db": kind.floor}).items()


def floor_of(c: Any) -> float:
    """The floor of the bands that a network with settings c hears, dB."""
    return SPEECH_FLOOR_DB if getattr(c, "speech", False) else FLOOR_DB


def log_mel_kind(seconds: float, pad: bool, level: bool, speech: bool = False) -> Kind:
    """Log-mel bands as features of a store: of a recording, or of nothing but the speech in it, with another floor."""
    pad_to, floor = window_samples(seconds) if pad else None, SPEECH_FLOOR_DB if speech else FLOOR_DB
    settings = SETTINGS | {"floor_db": floor} | ({"level_db": LEVEL_DB} if level else {}) | ({"speech": 1} if speech else {})
    rows = functools.partial(log_mel, pad_to=pad_to, level=level, floor=floor)
    of_span = functools.partial(log_mel_of_span, pad_to=pad_to, level=level, floor=floor)
    return Kind(rows, settings, seconds, pad, floor=floor, rows_of_span=of_span, speech=speech, name="log-mel bands")

"""Audio of any kind becomes 16 kHz windows, and these become librosa's log-mel bands and deltas."""

import itertools
import os
import tracemalloc
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import librosa
import numpy as np
import pytest
import scipy.signal
import soundfile
from helpers import CORPORA, UNCOMPILED

from npser.features import (
    BLOCK,
    FLOOR_DB,
    LEVEL_DB,
    SAMPLE_RATE,
    db_to_power,
    heard_bands,
    log_mel,
    log_mel_kind,
    power_to_db,
    read_windows,
    resample,
    window_samples,
    windows,
)
from npser.inputs import with_deltas
from npser.store import digests, open_store

RATES = [4000, 8000, 11025, 16000, 22050, 24414, 44100, 48000, 96000, 192000]  # 24414 is TESS


def voice(n: int, rate: int = SAMPLE_RATE, seed: int = 0) -> np.ndarray:
    """Like speech: harmonics of a gliding pitch, syllables, pauses, a little noise. (n,) float32"""
    rng = np.random.default_rng(seed)
    t = np.arange(n) / rate
    cycles = 120 * t + 8 * np.sin(3 * t + seed)
    sound = sum(np.sin(2 * np.pi * k * cycles) / k for k in range(1, 20))
    syllables = np.maximum(0, np.sin(2 * np.pi * 3.1 * t + seed + 0.3)) ** 2
    return (0.2 * syllables * sound + 1e-4 * rng.standard_normal(n)).astype(np.float32)


def tone(hz: float, n: int, rate: int) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(n) / rate + 0.3)).astype(np.float32)


def written(path: Path, x: np.ndarray, rate: int = SAMPLE_RATE, subtype: str | None = "FLOAT") -> Path:
    soundfile.write(path, x, rate, subtype=subtype)
    return path


# Log-mel bands, deltas and delta-deltas


def librosas(x: np.ndarray) -> np.ndarray:
    """Statics | deltas | delta-deltas, (L, 384)."""
    if UNCOMPILED:
        pytest.skip("librosa's own functions need the compiler that NUMBA_DISABLE_JIT turns off")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "n_fft=800 is too large")
        mel = librosa.feature.melspectrogram(
            y=x.astype(np.float64), sr=16000, n_fft=800, hop_length=400, n_mels=128, pad_mode="reflect"
        )
    bands = librosa.power_to_db(mel, amin=1e-10, top_db=None)
    mode = "interp" if bands.shape[1] >= 9 else "nearest"
    deltas = [librosa.feature.delta(bands, width=9, order=order, mode=mode) for order in (1, 2)]
    return np.concatenate([bands, *deltas]).T


def npsers(paths: list[Path], cache: Path, seconds: float, pad: bool) -> list[np.ndarray]:
    """The same, of the first window of each recording, as the network sees it but for the normalisation."""
    with ThreadPoolExecutor(1) as pool:
        content = [digest for digest in digests(paths, pool) if digest is not None]
        store = open_store(paths, content, log_mel_kind(seconds, pad, False), cache, pool)
    assert store.errors == {}
    zero, one = np.zeros(384, np.float32), np.ones(384, np.float32)
    X, bounds = with_deltas(store, store.recordings[:-1], zero, one)
    return [X[start:end] for start, end in itertools.pairwise(bounds)]


LENGTHS = [1, 2, 399, 400, 401, 799, 800, 801, 3199, 3200, 3600, 4001, 24000, 40003]  # 3200 samples are nine frames


def test_features_of_speech_like_sounds_are_those_of_librosa(tmp_path: Path):
    sounds = [voice(n, seed=n) + tone(900, n, SAMPLE_RATE) * 0.01 for n in LENGTHS]
    paths = [written(tmp_path / f"{len(x)}.wav", x) for x in sounds]
    for x, features in zip(sounds, npsers(paths, tmp_path / "cache", 7.5, pad=False), strict=True):
        assert features.shape == (len(x) // 400 + 1, 384)
        np.testing.assert_allclose(features, librosas(x), atol=5e-3)


@pytest.mark.parametrize("kind", ["noise", "click", "full scale"])
def test_features_of_other_sounds_are_those_of_librosa(tmp_path: Path, kind: str):
    rng = np.random.default_rng(0)
    sounds = {"noise": rng.standard_normal(8000) * 0.1, "click": np.eye(1, 8000, 3000)[0], "full scale": np.ones(8000)}
    x = sounds[kind].astype(np.float32)
    (features,) = npsers([written(tmp_path / "a.wav", x)], tmp_path / "cache", 7.5, pad=False)
    np.testing.assert_allclose(features, librosas(x), atol=5e-3)


@pytest.mark.parametrize("gain", [0.001, 0.03, 4.0])
def test_levelled_bands_do_not_depend_on_how_loud_a_recording_is(gain: float):
    x = voice(24_000, seed=1).astype(np.float32)
    wanted = log_mel(x, level=True)
    np.testing.assert_allclose(log_mel(np.float32(gain) * x, level=True), wanted, atol=5e-3)
    np.testing.assert_allclose(log_mel(x * np.float32(10 ** (LEVEL_DB / 20) / x.std())), wanted, atol=5e-3)
    padded = log_mel(np.float32(gain) * x, pad_to=40_000, level=True)
    np.testing.assert_allclose(padded, log_mel(x, pad_to=40_000, level=True), atol=5e-3)
    np.testing.assert_allclose(padded[:59], wanted[:59], atol=5e-3)  # the padding does not count; it begins in frame 59


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_decibels_are_ten_times_the_logarithm_of_power(kind: type):
    S = np.linspace(-120, 30, 400).reshape(20, 20).astype(kind)
    P, rtol = 10 ** (S.astype(np.float64) / 10), 5e-6 if kind is np.float32 else 1e-12
    np.testing.assert_allclose(db_to_power(S), P, rtol=rtol)
    np.testing.assert_allclose(power_to_db(db_to_power(S)), S, atol=100 * rtol)
    assert power_to_db(db_to_power(S)).dtype == kind


@pytest.mark.parametrize("bands", [40, 99])
def test_what_is_heard_has_one_level_whatever_lies_above_it(bands: int):
    S = log_mel(voice(24_000, seed=1).astype(np.float32))
    louder = S + np.where(np.arange(128) < bands, 7, 30).astype(np.float32)
    found = heard_bands(S, bands, level=True)
    np.testing.assert_allclose(np.mean(10 ** (found / 10)), 1, rtol=1e-4)
    np.testing.assert_allclose(np.diff(found, axis=0), np.diff(S[:, :bands], axis=0), atol=1e-4)  # nothing else changes
    np.testing.assert_allclose(heard_bands(louder, bands, level=True), found, atol=1e-4)
    np.testing.assert_array_equal(heard_bands(S, bands, level=False), S[:, :bands])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(heard_bands(S, 128, level=True), S)  # which has one already
    silence = log_mel(np.zeros(8000, np.float32))
    np.testing.assert_array_equal(heard_bands(silence, bands, level=True), silence[:, :bands])


def test_what_has_no_level_stays_as_it_is():
    faint = 1e-42 * np.random.default_rng(0).standard_normal(8000)
    for x in (np.zeros(8000, np.float32), np.full(8000, 0.5, np.float32), faint.astype(np.float32)):
        np.testing.assert_array_equal(log_mel(x, level=True), log_mel(x))


def test_silence_is_the_floor_and_does_not_change(tmp_path: Path):
    (features,) = npsers([written(tmp_path / "a.wav", np.zeros(8000))], tmp_path / "cache", 7.5, pad=False)
    np.testing.assert_allclose(features, librosas(np.zeros(8000, np.float32)), atol=1e-4)
    np.testing.assert_allclose(features[:, :128], FLOOR_DB, atol=1e-4)
    np.testing.assert_allclose(features[:, 128:], 0, atol=1e-5)


@pytest.mark.parametrize("n", [1, 400, 401, 6000, 119_900, 120_000, 121_000])
def test_padded_features_are_those_of_librosa_for_the_padded_waveform(tmp_path: Path, n: int):
    x = voice(n)
    (features,) = npsers([written(tmp_path / "a.wav", x)], tmp_path / "cache", 7.5, pad=True)
    assert features.shape == (301, 384)
    np.testing.assert_allclose(features, librosas(np.pad(x[:120_000], (0, max(0, 120_000 - n)))), atol=5e-3)
    after = -(-n // 400) + 1  # the first frame whose window holds no sample of the sound
    np.testing.assert_array_equal(features[after:, :128], FLOOR_DB)
    np.testing.assert_allclose(features[after + 4 :, 128:], 0, atol=1e-5)


@pytest.mark.parametrize("pad", [False, True])
def test_features_of_real_speech_are_those_of_librosa(tmp_path: Path, pad: bool):
    recordings = sorted(path for path in CORPORA.rglob("*") if path.suffix in {".wav", ".flac"})
    if not recordings:
        pytest.skip(f"no recordings in {CORPORA}; name a folder of corpora in NPSER_CORPORA")
    chosen = recordings[:: -(-len(recordings) // 6)]
    sounds = [next(read_windows(path, 7.5, cut=True)) for path in chosen]
    for x, features in zip(sounds, npsers(chosen, tmp_path / "cache", 7.5, pad), strict=True):
        padded = np.pad(x, (0, 120_000 - len(x))) if pad else x
        np.testing.assert_allclose(features, librosas(padded), atol=5e-3)


# Resampling


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("share", [0.05, 0.45])
def test_a_tone_keeps_its_frequency_level_and_phase(rate: int, share: float):
    hz = share * min(rate, SAMPLE_RATE)
    y = resample(tone(hz, rate, rate), rate)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y[4000:12000], tone(hz, SAMPLE_RATE, SAMPLE_RATE)[4000:12000], atol=1e-3)


@pytest.mark.parametrize("rate", [rate for rate in RATES if rate > 18_000])
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_tone_above_the_new_nyquist_frequency_vanishes(rate: int, share: float):
    y = resample(tone(8000 + share * (rate / 2 - 8000), rate, rate), rate)
    assert np.abs(y[4000:12000]).max() < 1e-3


@pytest.mark.parametrize("rate", [*RATES, 4001, 191_999])
def test_the_length_is_the_nearest_at_16_khz(rate: int):
    for n in (1, 2, 3, 100, 4567, 2 * rate):
        y = resample(np.full(n, 0.25, np.float32), rate)
        assert len(y) == 1 or abs(len(y) - n * SAMPLE_RATE / rate) <= 0.5
        np.testing.assert_allclose(y, 0.25, atol=1e-5)  # what is constant stays so, up to both ends


@pytest.mark.parametrize("rate", RATES)
def test_the_end_does_not_wrap_around_to_the_start(rate: int):
    y = resample(np.linspace(0, 1, rate, dtype=np.float32), rate)
    np.testing.assert_allclose(y, np.linspace(0, 1, SAMPLE_RATE), atol=1e-3)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_resampling_agrees_with_scipy_on_band_limited_sounds(rate: int):
    shares = (0.01, 0.06, 0.13, 0.21, 0.3, 0.35)
    x = sum(tone(share * min(rate, SAMPLE_RATE), rate, rate) for share in shares) * np.hanning(rate)
    expected = scipy.signal.resample_poly(x, *(np.array([SAMPLE_RATE, rate]) // np.gcd(SAMPLE_RATE, rate)))
    difference = resample(x.astype(np.float32), rate) - expected
    assert np.sqrt(np.mean(difference**2)) < 0.01 * np.sqrt(np.mean(expected**2))


# Reading


def read(path: Path, seconds: float = 7.5, cut: bool = False) -> list[np.ndarray]:
    return list(read_windows(path, seconds, cut))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


@pytest.mark.parametrize(
    ("name", "subtype", "bits"),
    [
        ("a.wav", "PCM_16", 16),
        ("a.wav", "PCM_24", 24),
        ("a.wav", "PCM_32", 24),
        ("a.wav", "FLOAT", 24),
        ("a.wav", "DOUBLE", 24),
        ("a.flac", "PCM_16", 16),
        ("a.flac", "PCM_24", 24),
    ],
)
def test_files_without_loss_give_their_samples(tmp_path: Path, name: str, subtype: str, bits: int):
    x = voice(12_345)
    (y,) = read(written(tmp_path / name, x, subtype=subtype))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, x, atol=2.0 ** (1 - bits))


@pytest.mark.parametrize(("name", "subtype"), [("a.ogg", "VORBIS"), ("a.ogg", "OPUS"), ("a.mp3", None)])
def test_compressed_files_give_nearly_their_samples(tmp_path: Path, name: str, subtype: str | None):
    x = voice(16_000)
    (y,) = read(written(tmp_path / name, x, subtype=subtype))
    assert len(y) == len(x)
    assert correlation(x, y) > 0.95


@pytest.mark.parametrize("channels", [2, 32])
def test_channels_are_averaged(tmp_path: Path, channels: int):
    x = np.stack([voice(3000, seed=c) for c in range(channels)], axis=1)
    (y,) = read(written(tmp_path / "a.wav", x))
    np.testing.assert_allclose(y, x.mean(axis=1), atol=1e-6)


def test_opposite_channels_cancel(tmp_path: Path):
    x = voice(3000)
    (y,) = read(written(tmp_path / "a.wav", np.stack([x, -x], axis=1)))
    np.testing.assert_array_equal(y, 0)


def test_a_file_is_read_whatever_the_bytes_of_its_name(tmp_path: Path):
    plain = written(tmp_path / "a.wav", voice(3000))
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe4 'b\".wav"))  # an umlaut as Latin-1 has it
    try:
        plain.rename(strange)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert len(read(strange)[0]) == 3000


# Files that are cut short, or whose header does not know the length


def streamed(path: Path, frames: int) -> Path:
    """Put another number of samples into the STREAMINFO of a FLAC file."""
    data = bytearray(path.read_bytes())
    word = int.from_bytes(data[18:26], "big")  # 20 bits rate, 3 channels, 5 bits a sample, 36 samples
    data[18:26] = ((word >> 36 << 36) | frames).to_bytes(8, "big")
    path.write_bytes(data)
    return path


def test_a_truncated_wav_is_used_with_a_warning(tmp_path: Path):
    x = voice(16_000)
    path = written(tmp_path / "a.wav", x)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size - 4 * 6000])
    with pytest.warns(UserWarning, match=r"a\.wav: is shorter than its header says") as caught:
        (y,) = read(path)
    assert len(caught) == 1
    np.testing.assert_array_equal(y, x[:10_000])


def test_a_flac_that_claims_far_more_than_it_holds_is_used_with_a_warning_and_little_memory(tmp_path: Path):
    path = streamed(written(tmp_path / "a.flac", voice(16_000), subtype="PCM_16"), 2**36 - 1)
    tracemalloc.start()
    try:
        with pytest.warns(UserWarning, match="is shorter than its header says"):
            (y,) = read(path)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose(y, voice(16_000), atol=2.0**-15)


def test_a_flac_that_was_written_to_a_pipe_is_read(tmp_path: Path):
    path = streamed(written(tmp_path / "a.flac", voice(16_000), subtype="PCM_16"), 0)  # 0: unknown
    (y,) = read(path)
    np.testing.assert_allclose(y, voice(16_000), atol=2.0**-15)


@pytest.mark.parametrize("size", [0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_that_was_written_to_a_pipe_is_read(tmp_path: Path, size: int):
    path = written(tmp_path / "a.wav", voice(16_000), subtype="PCM_16")
    data = path.read_bytes()
    start = data.index(b"data") + 4
    path.write_bytes(data[:start] + size.to_bytes(4, "little") + data[start + 4 :])
    (y,) = read(path)
    np.testing.assert_allclose(y, voice(16_000), atol=2.0**-15)


# Chained oggs: libsndfile would hear the first recording of them only


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("between", ["nothing", "zeros", "zeros up to the end of a block"])
def test_several_recordings_in_an_ogg_are_refused(tmp_path: Path, subtype: str, between: str):
    one = written(tmp_path / "one.ogg", voice(40_000), subtype=subtype)
    assert len(read(one)) == 1
    damaged = one.read_bytes()[:-1500]  # its last page swallows the start of what follows
    for name, content in (("two.ogg", one.read_bytes()), ("damaged.ogg", damaged)):
        path = tmp_path / name
        zeros = {"nothing": 0, "zeros": 777}.get(between, BLOCK - len(content) - 6)  # the name of the next page is cut there
        path.write_bytes(content + bytes(zeros) + one.read_bytes())
        with pytest.raises(ValueError, match=rf"{name}: holds several recordings one after another .*ffmpeg -i [^\n]+$"):
            read(path)
        with path.open("rb") as file, pytest.raises(ValueError, match="holds several recordings"):
            read_windows(file, 7.5, cut=False)


def test_a_long_ogg_of_many_blocks_is_one_recording(tmp_path: Path):
    path = written(tmp_path / "a.ogg", np.random.default_rng(0).normal(0, 0.1, 50 * SAMPLE_RATE), subtype="VORBIS")
    assert path.stat().st_size > 3 * BLOCK
    assert sum(len(x) for x in read(path, 60.0)) == 50 * SAMPLE_RATE


# Files that are refused, in one sentence that names them


def wav_with(sample: float, channels: int = 1) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        x = np.zeros((70_000, channels), np.float32)
        x[-1] = sample
        written(path, x)

    return write


def wav_like(rate: int = SAMPLE_RATE, channels: int = 1) -> Callable[[Path], object]:
    return lambda path: written(path, np.zeros((100, channels)), rate)


def truncated_flac(path: Path) -> None:
    written(path, voice(300_000), subtype="PCM_16")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def mpeg4(path: Path) -> None:
    path.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(500))


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("missing.wav", lambda path: None, "No such file"),
        ("folder.wav", Path.mkdir, "is a folder"),
        ("empty.wav", Path.touch, "empty (0 bytes)"),
        ("header.wav", lambda path: written(path, np.zeros(0)), "holds no samples"),
        ("text.wav", lambda path: path.write_text("a letter\n" * 50), "not an audio file"),
        ("text.raw", lambda path: path.write_text("a letter\n" * 50), "not an audio file"),
        ("riff.wav", lambda path: path.write_bytes(b"RIFF\0\0\0\0AVI LIST" + bytes(99)), "not an audio file"),
        ("damaged.wav", lambda path: path.write_bytes(b"RIFF\0\0\0\0WAVE" + bytes(99)), "is damaged, or of a kind"),
        ("damaged.flac", lambda path: path.write_bytes(b"fLaC" + bytes(9)), "is damaged, or of a kind"),
        ("tag.mp3", lambda path: path.write_bytes(b"ID3\3\0\0\0\0\0\2xx"), "not an audio file"),
        ("null\0.wav", lambda path: None, "null byte"),
        ("sound.m4a", mpeg4, "ffmpeg -i "),
        ("SOUND.MP4", mpeg4, "ffmpeg -i "),
        ("nan.wav", wav_with(np.nan), "not finite"),
        ("inf.wav", wav_with(np.inf), "not finite"),
        ("-inf.wav", wav_with(-np.inf), "not finite"),
        ("inf-in-one-of-two.wav", wav_with(np.inf, 2), "not finite"),
        ("absurd.wav", wav_with(1e30), "absurd.wav"),
        ("absurd-stereo.wav", wav_with(3e38, 2), "absurd-stereo.wav"),
        ("slow.wav", wav_like(rate=1), "1 Hz; expected 4000 to 192000"),
        ("3999.wav", wav_like(rate=3999), "3999 Hz"),
        ("192001.wav", wav_like(rate=192_001), "192001 Hz"),
        ("fast.wav", wav_like(rate=768_000), "768000 Hz"),
        ("33.wav", wav_like(channels=33), "33 channels; expected at most 32"),
        ("truncated.flac", truncated_flac, "cannot be decoded"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(tmp_path: Path, name: str, make: Callable[[Path], object], words: str):
    make(tmp_path / name)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        read(tmp_path / name)
    assert str(caught.value).startswith((f"{tmp_path / name}: ", f"{str(tmp_path / name)!r}: "))
    assert words in str(caught.value)
    assert "pipe" not in str(caught.value)  # as libsndfile has it of files that are there


def test_a_file_that_is_open_as_text_is_refused(tmp_path: Path):
    path = written(tmp_path / "a.wav", voice(3000))
    with path.open(encoding="latin-1") as file, pytest.raises(ValueError, match="mode 'rb'"):
        read_windows(file, 7.5, cut=False)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("rounding", [0.0, 1e-5, 0.009])
def test_what_is_silent_but_for_rounding_has_no_level(rounding: float):
    S = np.full((5, 128), FLOOR_DB + rounding, np.float32)
    np.testing.assert_array_equal(heard_bands(S, 99, level=True), S[:, :99])


@pytest.mark.parametrize("rate", [4000, 192_000])
def test_the_lowest_and_the_highest_rate_are_read(tmp_path: Path, rate: int):
    assert len(read(written(tmp_path / "a.wav", voice(rate, rate), rate))[0]) == SAMPLE_RATE


# Windows


def cut_by_hand(x: np.ndarray, rate: int, seconds: float) -> list[np.ndarray]:
    """Windows start every half window, at round(k seconds / 2 * rate); the first one that reaches the end is the last."""
    parts, k = [], 0
    while True:
        start = round(k * seconds / 2 * rate)
        parts.append(resample(x[start : start + round(seconds * rate)], rate)[: window_samples(seconds)])
        if start + round(seconds * rate) >= len(x):
            return parts
        k += 1


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100])
def test_windows_are_those_cut_by_hand(tmp_path: Path, rate: int):
    x = voice(round(20.3 * rate), rate)
    found = read(written(tmp_path / "a.wav", x, rate))
    assert [len(part) for part in found[:-1]] == [120_000] * 4
    for part, expected in zip(found, cut_by_hand(x, rate, 7.5), strict=True):
        np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize("block", [1, 77, 400, 5000, 10**6])
def test_reading_in_blocks_gives_the_windows_of_reading_at_once(block: int):
    x = voice(3217, 8000)
    blocks = [x[i : i + block] for i in range(0, len(x), block)]
    for part, expected in zip(windows(blocks, 8000, 0.1, cut=False), windows([x], 8000, 0.1, cut=False), strict=True):
        np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize(
    ("samples", "lengths"),
    [
        (1, [1]),
        (1599, [1599]),
        (1600, [1600]),
        (1601, [1600, 801]),
        (2400, [1600, 1600]),
        (2401, [1600, 1600, 801]),
        (4800, [1600] * 5),
    ],
)
def test_there_are_as_many_windows_as_it_takes_to_reach_the_end(samples: int, lengths: list[int]):
    x = voice(samples)
    assert [len(part) for part in windows([x], 16_000, 0.1, cut=False)] == lengths
    assert [len(part) for part in windows([x], 16_000, 0.1, cut=True)] == lengths[:1]


def test_cut_keeps_the_start_and_does_not_read_on(tmp_path: Path):
    x = voice(200_000)
    x[-1] = np.nan
    (y,) = read(written(tmp_path / "a.wav", x), 1.0, cut=True)
    np.testing.assert_array_equal(y, x[:16_000])

"""Frame features: each column as a literal statement has it, as others compute it, and as it is known to be."""

import cmath
import csv
import dataclasses
import itertools
import json
import math
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import CORPORA, UNCOMPILED, Command, recording, sound, without

from npser.corpora import synthetic
from npser.features import Span, log_mel_kind
from npser.frame_features import COLUMNS, SETTINGS, frame_features, frame_kind, with_regression_deltas
from npser.inputs import of_frames
from npser.networks import numpy_layers
from npser.store import digests, folder_of, open_store, store_of

RATE = 16_000
CHOSEN = ("zero_crossings", "log_f0", "mfcc3")  # in no order
AT = {name: k for k, name in enumerate(COLUMNS)}
ENERGY, PERIOD, HNR, LOG_F0, VOICING, CROSSINGS = range(12, 18)


def test_the_columns_are_in_the_order_that_networks_and_tests_expect() -> None:
    assert COLUMNS[:12] == tuple(f"mfcc{k}" for k in range(1, 13))
    assert COLUMNS[12:] == ("log_energy", "period", "hnr", "log_f0", "voicing", "zero_crossings")
    assert json.loads(json.dumps(SETTINGS)) == SETTINGS  # as a model file keeps them


# The slow statement: a frame at a time, a number at a time


def sample(x: np.ndarray, i: int) -> float:
    """Sample i, which may lie outside: the ends are mirrors."""
    if len(x) == 1:
        return float(x[0])
    i %= 2 * (len(x) - 1)
    return float(x[min(i, 2 * (len(x) - 1) - i)])


def decibels(power: float, least: float = 1e-10) -> float:
    return 10 * math.log10(max(power, least))


def literal_mfcc(x: np.ndarray, first: int) -> list[float]:
    """Pre-emphasis, Hamming, 512 bins, 26 triangles on the mel scale, decibels, cosines."""
    y = [
        (sample(x, first + i) - 0.97 * sample(x, first + i - 1)) * (0.54 - 0.46 * math.cos(math.tau * i / 400))
        for i in range(400)
    ]
    turns = [cmath.exp(-1j * math.tau * k / 512) for k in range(512)]
    power = [abs(sum(v * turns[i * k % 512] for i, v in enumerate(y))) ** 2 for k in range(257)]

    def hz(m: int) -> float:
        mel = m / 27 * 2595 * math.log10(1 + 8000 / 700)
        return 700 * (10 ** (mel / 2595) - 1)

    levels = []
    for m in range(26):
        low, centre, high = hz(m), hz(m + 1), hz(m + 2)
        weights = [max(0.0, min((k * 31.25 - low) / (centre - low), (high - k * 31.25) / (high - centre))) for k in range(257)]
        levels.append(decibels(sum(w * p for w, p in zip(weights, power, strict=True))))
    return [
        math.sqrt(2 / 26) * sum(v * math.cos(math.pi * k * (m + 0.5) / 26) for m, v in enumerate(levels)) for k in range(1, 13)
    ]


def literal_correlation(y: list[float]) -> list[float]:
    """The autocorrelation of lags 0, 1/2, 1, ... 256 1/2 samples, as the cosines of its spectrum add up."""
    turns = [cmath.exp(-1j * math.tau * k / 1125) for k in range(1125)]
    power = [abs(sum(v * turns[i * k % 1125] for i, v in enumerate(y))) ** 2 for k in range(563)]
    cosines = [math.cos(math.tau * k / 2250) for k in range(2250)]
    return [power[0] + 2 * sum(power[k] * cosines[k * h % 2250] for k in range(1, 563)) for h in range(514)]


def literal_pitch(x: np.ndarray, first: int) -> tuple[float, float]:
    """Period in samples and voicing, from 768 samples."""
    y = [sample(x, first + i) for i in range(768)]
    mean = sum(y) / 768
    window = [0.5 - 0.5 * math.cos(math.tau * (i + 0.5) / 768) for i in range(768)]
    of_sound = literal_correlation([w * (v - mean) for w, v in zip(window, y, strict=True)])
    of_window = literal_correlation(window)
    best, period, voicing = -math.inf, 32.0, 0.0
    for h in range(64, 513):
        a, b, c = (of_sound[j] / of_sound[0] / (of_window[j] / of_window[0]) for j in (h - 1, h, h + 1))
        if b > a and b >= c and b > 0 and b - 0.06 * math.log2(h / 64) > best:
            best, bend = b - 0.06 * math.log2(h / 64), 2 * b - a - c
            period, voicing = (h + (c - a) / 2 / bend) / 2, b + (c - a) ** 2 / 8 / bend
    return period, min(voicing, 1.0)


def literal(x: np.ndarray) -> np.ndarray:
    """All columns, (n // 160 + 1, 18)."""
    rows = []
    for t in range(len(x) // 160 + 1):
        y = [sample(x, 160 * t - 200 + i) for i in range(400)]
        mean = sum(y) / 400
        energy = decibels(sum((v - mean) ** 2 for v in y) / 400)
        crossings = sum((a < mean) != (b < mean) for a, b in itertools.pairwise(y)) / 399
        period, voicing = literal_pitch(x, 160 * t - 384)
        hnr = min(max(decibels(max(voicing, 1e-6) / max(1 - voicing, 1e-6)), -20.0), 40.0)
        log_f0 = math.log(RATE / period) if voicing >= 0.5 else 0.0
        rows.append([*literal_mfcc(x, 160 * t - 200), energy, period / 16, hnr, log_f0, voicing, crossings])
    S = np.array(rows)
    S[S[:, ENERGY] < S[:, ENERGY].max() - 30, LOG_F0] = 0
    f0 = S[:, LOG_F0].tolist()
    S[:, LOG_F0] = [sorted((f0[max(t - 1, 0)], f0[t], f0[min(t + 1, len(f0) - 1)]))[1] for t in range(len(f0))]
    return S


def buzz(n: int, hz: float = 140.0, decibels_over_noise: float = 20.0, seed: int = 0) -> np.ndarray:
    """Harmonics up to 7 kHz and white noise, at a known ratio. (n,) float32"""
    t, rng = np.arange(n) / RATE, np.random.default_rng(seed)
    k = np.arange(1, int(7000 / hz) + 1)[:, None]
    wave = (np.sin(2 * np.pi * k * hz * t + k * k) / k).sum(axis=0)
    noise = rng.standard_normal(n) * np.sqrt(np.mean(wave**2) / 10 ** (decibels_over_noise / 10))
    return (0.05 * (wave + noise)).astype(np.float32)


def falling(n: int) -> np.ndarray:
    """Harmonics of 260 Hz and, after 650 samples, 180 Hz. (n,) float32"""
    cycles = np.cumsum(260 - 80 / 650 * np.arange(n)) / RATE
    k = np.arange(1, 20)[:, None]
    return (0.1 * np.sin(2 * np.pi * k * cycles) / k).sum(axis=0).astype(np.float32)


NOISE = np.random.default_rng(1).standard_normal(500).astype(np.float32)
SOUNDS = {
    "a voice that falls": falling(650),
    "noise": 0.1 * NOISE,
    "a voice before a pause that hums": np.concatenate([buzz(600), 0.01 * buzz(500)]),
    "on an offset": buzz(330, 300) + np.float32(0.5),
}


@pytest.mark.parametrize("name", SOUNDS)
def test_columns_are_those_of_the_literal_statement(name: str) -> None:
    np.testing.assert_allclose(frame_features(SOUNDS[name]), literal(SOUNDS[name]), rtol=1e-5, atol=2e-4)


def test_one_sample_is_a_frame_that_does_not_vary() -> None:
    found = frame_features(NOISE[:1])
    np.testing.assert_allclose(found[:, :12], [literal_mfcc(NOISE[:1], -200)], rtol=1e-5, atol=2e-4)
    np.testing.assert_array_equal(found[0, 12:], np.array([-100, 2, -20, 0, 0, 0], np.float32))


def test_what_hums_in_a_pause_is_not_voiced() -> None:
    S = frame_features(np.concatenate([buzz(8000), 0.02 * buzz(8000)]))  # 34 dB below
    assert (S[3:45, LOG_F0] > 0).all()
    assert (S[55:, LOG_F0] == 0).all()
    assert (S[55:-3, VOICING] > 0.95).all()


@pytest.mark.parametrize("L", [1, 2, 3, 11])
def test_deltas_are_slopes_over_five_frames(L: int) -> None:
    S = np.random.default_rng(0).standard_normal((L, 3))
    expected = np.zeros((L, 3))
    for t in range(L):
        for c in range(3):
            for k in range(-2, 3):
                expected[t, c] += k * S[min(max(t + k, 0), L - 1), c] / 10
    found = with_regression_deltas(S)
    np.testing.assert_array_equal(found[:, :3], S)
    np.testing.assert_allclose(found[:, 3:], expected, atol=1e-14)
    line = with_regression_deltas(np.arange(9.0)[:, None] * [3.0, -1.0])
    np.testing.assert_allclose(line[2:-2, 2:], np.tile([3.0, -1.0], (5, 1)), rtol=1e-14)


# What is known


@pytest.mark.parametrize("hz", [66, 82.5, 110, 153, 220, 311, 404, 490])
def test_the_pitch_of_harmonics_is_found(hz: float) -> None:
    S = frame_features(buzz(4000, hz, 40))[3:-3]
    np.testing.assert_allclose(np.exp(S[:, LOG_F0]), hz, rtol=2e-3)
    np.testing.assert_allclose(S[:, PERIOD], 1000 / hz, rtol=2e-3)
    assert (S[:, VOICING] > 0.98).all()


@pytest.mark.parametrize("ratio", [0, 5, 10, 15, 20, 25])
@pytest.mark.parametrize("hz", [110, 220, 440])
def test_harmonics_to_noise_are_measured(hz: float, ratio: float) -> None:
    assert frame_features(buzz(32_000, hz, ratio))[3:-3, HNR].mean() == pytest.approx(ratio, abs=0.6)


def test_noise_is_not_voiced() -> None:
    S = frame_features(np.random.default_rng(0).standard_normal(32_000).astype(np.float32))
    assert (S[:, LOG_F0] == 0).all()
    assert S[:, VOICING].max() < 0.5


@pytest.mark.parametrize("hz", [100, 440, 3000])
def test_a_sine_crosses_zero_twice_a_period(hz: float) -> None:
    x = np.sin(2 * np.pi * hz * np.arange(8000) / RATE + 0.1).astype(np.float32)
    crossings = frame_features(x)[2:-2, CROSSINGS]
    np.testing.assert_allclose(crossings, 2 * hz / RATE, atol=1 / 399)
    np.testing.assert_allclose(frame_features(x + np.float32(1.5))[2:-2, CROSSINGS], crossings, atol=1 / 399)


def test_level_is_the_mean_power_in_decibels() -> None:
    x = np.sin(2 * np.pi * 400 * np.arange(8000) / RATE).astype(np.float32)
    np.testing.assert_allclose(frame_features(x)[2:-2, ENERGY], 10 * np.log10(0.5), atol=1e-4)


def test_silence_is_finite_and_always_the_same() -> None:
    for x in (np.zeros(3000, np.float32), np.full(3000, 0.3, np.float32)):
        S = frame_features(x)
        np.testing.assert_array_equal(S[:, 12:], np.tile(np.array([-100, 2, -20, 0, 0, 0], np.float32), (len(S), 1)))
    np.testing.assert_allclose(frame_features(np.zeros(3000, np.float32))[:, :12], 0, atol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 159, 160, 161, 400, 10_080, 10_240])
@pytest.mark.parametrize("loudness", [0.0, 1.0, 1e12])
def test_there_is_a_finite_row_every_160_samples(n: int, loudness: float) -> None:
    S = frame_features(sound(n) * np.float32(loudness))
    assert (S.shape, S.dtype) == ((n // 160 + 1, len(COLUMNS)), np.float32)
    assert np.isfinite(S).all()
    assert np.isfinite(with_regression_deltas(S)).all()


@pytest.mark.parametrize("factor", [2.0, 0.25, -1.0])
def test_only_the_energy_depends_on_loudness(factor: float) -> None:
    x = sound(9000)
    one, other = frame_features(x), frame_features(x * np.float32(factor))
    other[:, ENERGY] -= 20 * np.log10(abs(factor))
    np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-4)


def test_a_shift_by_a_hop_shifts_the_rows_by_one() -> None:
    x = sound(9000)
    here, later = frame_features(x), frame_features(x[160:])
    np.testing.assert_allclose(here[5:-4], later[4:-4], rtol=1e-5, atol=1e-4)  # away from the ends, which are mirrored


def test_a_window_cut_anywhere_into_blocks_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = frame_features(sound(30_000))
    monkeypatch.setattr("npser.frame_features.AT_ONCE", 7)
    np.testing.assert_allclose(frame_features(sound(30_000)), whole, rtol=1e-6, atol=1e-5)


def test_a_long_sound_takes_little_memory() -> None:
    x = np.tile(buzz(RATE), 60)  # a minute; its windows of 48 ms would take 37 MB, and their spectra more
    tracemalloc.start()
    try:
        frame_features(x)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


# What others find


def test_cepstra_are_those_of_librosa() -> None:
    if UNCOMPILED:
        pytest.skip("librosa's own functions need the compiler that NUMBA_DISABLE_JIT turns off")
    import librosa

    for x in (sound(20_000, 1), buzz(20_000), np.random.default_rng(0).standard_normal(9999).astype(np.float32)):
        before = 200 + (512 - 400) // 2  # librosa puts the window into the middle of the transform
        padded = np.pad(x.astype(np.float64), before + 1, mode="reflect")
        bands = librosa.feature.melspectrogram(
            y=padded[1:] - 0.97 * padded[:-1],
            sr=RATE,
            n_fft=512,
            win_length=400,
            hop_length=160,
            window="hamming",
            center=False,
            n_mels=26,
            htk=True,
            norm=None,
        )
        levels = librosa.power_to_db(bands, amin=1e-10, top_db=None)
        expected = librosa.feature.mfcc(S=levels, n_mfcc=13, dct_type=2, norm="ortho")[1:].T
        np.testing.assert_allclose(frame_features(x)[:, :12], expected, atol=1e-3)


def judged(found: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """F0 in Hz, 0 where there is no voice, of truth negative where that is unknown: shares of frames, and cents.

    Found more than 20 % too high or too low, of those that both call voiced; voiced in one and not in the other, of those that
    are known; the mean deviation of those that are not 20 % off.
    """
    found, truth = found[truth >= 0], truth[truth >= 0]
    both = (found > 0) & (truth > 0)
    ratio = found[both] / truth[both]
    gross = np.abs(ratio - 1) > 0.2
    cents = np.abs(1200 * np.log2(ratio[~gross])).mean()
    return float(gross.mean()), float(((found > 0) != (truth > 0)).mean()), float(cents)


def f0_of(x: np.ndarray) -> np.ndarray:
    log_f0 = frame_features(x)[:, LOG_F0]
    return np.where(log_f0 > 0, np.exp(log_f0), 0)


def test_the_pitch_of_synthetic_voices_is_found() -> None:
    """Measured on 400: 1.0 % gross errors, 1.2 % of the decisions, 21 cents, of which jitter has its part."""
    found, truth = [], []
    emotions = list(synthetic.STYLES)
    for k, speaker in enumerate(synthetic.VOICES):
        made = synthetic.utterance(speaker, emotions[k % 4], 0, k)
        f0, loudness = made.f0[::2], made.loudness[::2]  # of every 5 ms
        known = np.where(loudness > 0.3, f0, np.where(loudness < 0.02, 0, -1))  # between them the voice is fading
        found.append(f0_of(made.sound.astype(np.float32))[: len(known)])
        truth.append(known)
    gross, decisions, cents = judged(np.concatenate(found), np.concatenate(truth))
    assert gross < 0.025
    assert decisions < 0.03
    assert cents < 25


@pytest.mark.skipif(UNCOMPILED, reason="librosa's pitch tracker needs the compiler that NUMBA_DISABLE_JIT turns off")
def test_the_pitch_of_real_voices_is_that_of_probabilistic_yin() -> None:
    import librosa

    if not (CORPORA / "emodb" / "manifest.csv").exists():
        pytest.skip(f"no recordings in {CORPORA}")
    with (CORPORA / "emodb" / "manifest.csv").open() as file:
        names = [row["path"] for row in csv.DictReader(file)][::34]
    found, theirs = [], []
    for name in names:
        x, rate = soundfile.read(CORPORA / "emodb" / name, dtype="float32")
        assert rate == RATE
        options = {"frame_length": 1024, "hop_length": 160, "resolution": 0.2}
        f0, *_ = librosa.pyin(x.astype(np.float64), fmin=62.5, fmax=500, sr=RATE, **options)
        found.append(f0_of(x)[: len(f0)])
        theirs.append(np.nan_to_num(f0))
    gross, decisions, cents = judged(np.concatenate(found), np.concatenate(theirs))
    assert gross < 0.03
    assert decisions < 0.2  # pyin goes on in pauses and stops early in creaky voices
    assert cents < 45


# The store, and both ways to a network's input


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    lengths = (1, 700, 8000, 9000, 20_001)
    return [recording(tmp_path / f"{k}.wav", sound(n, k)) for k, n in enumerate(lengths)]


def test_a_store_keeps_them_beside_the_log_mel_bands(recordings: list[Path], tmp_path: Path) -> None:
    kind, waves = frame_kind(0.5), [soundfile.read(path, dtype="float32")[0] for path in recordings]
    opened = []
    for threads in (1, 2):
        with ThreadPoolExecutor(threads) as pool:
            content = [digest or "" for digest in digests(recordings, pool)]
            opened.append(open_store(recordings, content, kind, tmp_path / f"cache{threads}", pool))
    one, two = opened
    np.testing.assert_array_equal(np.diff(one.recordings), [1, 1, 1, 2, 5])
    np.testing.assert_array_equal(one.rows[one.bounds[2] : one.bounds[3]], frame_features(waves[2]))
    np.testing.assert_array_equal(one.rows[one.bounds[4] : one.bounds[5]], frame_features(waves[3][4000:]))
    assert one.folder is not None
    assert two.folder is not None
    for name in ("rows.f32", "index.json"):
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()
    np.testing.assert_array_equal(one.real(np.array([0, 1, 2])), [1, 5, 50])  # of 1, 700 and 8000 samples

    def refuse(x: np.ndarray) -> np.ndarray:
        raise AssertionError("computed anew")

    with ThreadPoolExecutor(1) as pool:
        again = open_store(recordings, content, dataclasses.replace(kind, rows=refuse), tmp_path / "cache1", pool)
        np.testing.assert_array_equal(again.rows, one.rows)
        bands = open_store(recordings, content, log_mel_kind(0.5, False, False), tmp_path / "cache1", pool)
    assert bands.rows.shape[1] == 128
    assert len({folder_of(tmp_path, content, frame_kind(seconds)) for seconds in (0.5, 1, 7.5)}) == 3


def test_the_cache_tells_what_is_what(recordings: list[Path], tmp_path: Path, npser: Command) -> None:
    with ThreadPoolExecutor(2) as pool:
        content = [digest or "" for digest in digests(recordings, pool)]
        for kind in (frame_kind(0.5), log_mel_kind(0.5, False, False)):
            open_store(recordings, content, kind, tmp_path / "cache", pool)
    found = json.loads(npser("cache", "--cache", tmp_path / "cache", "--json").stdout)["entries"]
    assert sorted(row["what"] for row in found) == [f"frame features of {tmp_path}", f"log-mel bands of {tmp_path}"]
    assert [row["recordings"] for row in found] == [5, 5]


def test_the_engine_and_the_plain_path_have_the_same_input() -> None:
    waves = [sound(n, n) for n in (1, 500, 8000)]
    mean, scale = np.arange(6, dtype=np.float32), np.linspace(0.5, 2, 6, dtype=np.float32)
    X, bounds = of_frames(store_of(waves, frame_kind(0.5)), np.array([2, 0, 1]), mean, scale, CHOSEN)
    assert X.dtype == np.float32
    for u, x in enumerate([waves[2], waves[0], waves[1]]):
        (plain,) = numpy_layers.frames_input(Span.of(x), CHOSEN)
        np.testing.assert_array_equal(X[bounds[u] : bounds[u + 1]], (plain - mean) * scale)
        np.testing.assert_array_equal(plain, with_regression_deltas(frame_features(x)[:, [AT[name] for name in CHOSEN]]))


def test_no_column_is_taken_for_a_constant() -> None:
    S = with_regression_deltas(np.concatenate([frame_features(sound(20_000, seed)) for seed in range(3)]))
    assert S.std(axis=0).min() > 5e-3  # five times what the normaliser takes for nothing


def test_they_need_neither_numba_nor_scipy_signal(environment: dict[str, str]) -> None:
    code = without("numba", "scipy.signal", "npser_kernels") + (
        "import numpy as np\n"
        "from npser.features import Span\n"
        "from npser.networks.numpy_layers import frames_input\n"
        "print(frames_input(Span.of(np.ones(500, np.float32)), ('mfcc1', 'hnr'))[0].shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "(4, 4)\n", done.stderr

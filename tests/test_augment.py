"""Augmentation: what it changes, what it leaves alone, and that a seed decides it."""

import dataclasses
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import EMOTIONS, GENDERS, SMALL

from npser import augment, corpora, dataset, model
from npser.features import FLOOR_DB, N_MELS
from npser.network import Network, Targets, normaliser
from npser.networks.li2019 import Config
from npser.split import Split
from npser.store import Store
from npser.train import Run, fit

LENGTHS = (40, 1, 9, 25)


def store(lengths: tuple[int, ...] = LENGTHS, pad_frames: int = 0) -> Store:
    rng = np.random.default_rng(0)
    bounds = np.cumsum([0, *lengths])
    rows = rng.uniform(-80, -20, (bounds[-1], N_MELS)).astype(np.float32)
    each = np.arange(len(lengths) + 1)
    return Store(rows, bounds, 400 * np.array(lengths), each, {}, pad_frames)


def variants(given: Store, window: np.ndarray, seed: int = 0, **settings: float) -> list[np.ndarray]:
    found = augment.augmented(given, window, window, dataclasses.replace(SMALL, **settings), np.random.default_rng(seed))
    return [found.rows[a:b] for a, b in zip(found.bounds[:-1], found.bounds[1:], strict=True)]


def test_without_a_range_windows_stay_as_they_are():
    given = store()
    for w, S in zip((2, 0, 1), variants(given, np.array([2, 0, 1])), strict=True):
        np.testing.assert_array_equal(S, given.rows[given.bounds[w] : given.bounds[w + 1]])


def test_a_stretched_window_has_the_same_course_in_more_or_fewer_frames():
    given = store((40,))
    given.rows[:] = np.linspace(-80, -20, 40, dtype=np.float32)[:, None]
    lengths = set()
    for seed in range(30):
        (S,) = variants(given, np.array([0]), stretch=0.25, seed=seed)
        np.testing.assert_allclose(S, np.broadcast_to(np.linspace(-80, -20, len(S))[:, None], S.shape), atol=1e-3)
        lengths.add(len(S))
    assert min(lengths) >= 30
    assert max(lengths) <= 50
    assert len(lengths) > 10


def test_a_warped_window_has_its_peaks_at_other_bands():
    given = store((5,))
    given.rows[:] = -np.abs(np.arange(N_MELS) - 60)
    peaks = [variants(given, np.array([0]), warp=0.2, seed=seed)[0].argmax(axis=1) for seed in range(30)]
    assert all(np.ptp(peak) == 0 for peak in peaks)  # the same in all frames
    assert min(peak[0] for peak in peaks) in range(48, 54)
    assert max(peak[0] for peak in peaks) in range(66, 73)


def test_windows_are_augmented_differently_each_and_alike_by_the_same_seed():
    given, window = store((40, 40)), np.array([0, 1])
    once, again, other = (variants(given, window, seed, stretch=0.2, warp=0.2) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(once, again, strict=True))
    assert len(once[0]) != len(once[1])
    assert len(once[0]) != len(other[0])


def test_a_bad_channel_tilts_the_spectrum_adds_noise_or_takes_bands_away(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(augment, "_with_echo", lambda P, *_: P)  # of which the next test
    given = store((400,))
    given.rows[:] = np.where(np.arange(N_MELS) < 64, -20, -90)
    seen, tilts = {"noise": 0, "narrow": 0, "neither": 0}, []
    for seed in range(60):
        (S,) = variants(given, np.array([0]), seed, channel=0.5)
        change = S.mean(axis=0) - given.rows[0]
        tilts.append((change[12] - change[62]) / 50 * 63.5)  # of the loud bands, 10 dB and more above the noise
        change += tilts[-1] * np.linspace(-1, 1, N_MELS)
        noise, narrow = change[64:90].mean() > 1, min(change[0], change[40:].min()) < -0.1
        seen["noise"] += noise
        seen["narrow"] += narrow
        seen["neither"] += not noise and abs(change).max() < 0.1
        assert abs(change[12:64]).max() < 1  # the sound itself stays
        if noise:  # as much in all of the empty bands that are never cut, 10 to 50 dB below the mean power, about -23 dB
            assert np.ptp(S[:, 64:93].mean(axis=0)) < 3
            assert -29 - 53 < S[:, 64:93].mean() < -17 - 9
    assert min(seen.values()) >= 8
    assert -6.5 < min(tilts) < -4
    assert 4 < max(tilts) < 6.5
    assert all(np.array_equal(given.rows, S) for S in variants(given, np.array([0]), channel=0.0))


@pytest.mark.parametrize("seconds", [0.2, 1.0])
def test_an_echo_falls_by_60_dB_in_time_and_has_its_gain(seconds: float):
    click = np.zeros((200, N_MELS))
    click[10] = 2
    out = augment._with_echo(click, seconds, 0.25)
    np.testing.assert_array_equal(out[:11], click[:11])  # no echo before the click
    after = 10 * np.log10(out[11:, 0])
    frames = seconds / 0.025
    np.testing.assert_allclose(np.diff(after[: round(frames)]), -60 / frames, rtol=1e-3)
    left = 10 ** (-6 / frames)  # of an echo, when the next frame begins
    assert out[11:].sum(axis=0) == pytest.approx(0.25 * 2 * left, rel=1e-3)


def test_a_spliced_window_begins_as_itself_and_ends_as_another():
    given = store((40, 24))
    lengths = set()
    for seed in range(30):
        found = augment.augmented(given, np.array([0, 1]), np.array([1, 1]), SMALL, np.random.default_rng(seed))
        S, plain = (found.rows[a:b] for a, b in zip(found.bounds[:-1], found.bounds[1:], strict=True))
        np.testing.assert_array_equal(plain, given.rows[40:])
        cut = int(np.argmin((given.rows[: len(S)] == S).all(axis=1)))
        np.testing.assert_array_equal(S[cut:], given.rows[64 - (len(S) - cut) : 64])
        assert 0.2 * 40 - 1 <= cut <= 0.8 * 40
        assert abs(cut / 40 + (len(S) - cut) / 24 - 1) < 0.07  # the same part of both
        lengths.add(len(S))
    assert len(lengths) > 8


@pytest.mark.parametrize("settings", [{"stretch": 0.4}, {"warp": 0.3}, {"channel": 1.0}])
def test_both_parts_of_a_spliced_window_are_augmented_and_each_has_draws_of_its_own(settings: dict[str, Any]):
    # The first window rises from frame to frame and the second falls as fast; across the bands both rise.
    given, bands = store((40, 40)), np.linspace(0, 30, N_MELS)
    course = np.linspace(-80, -50, 40)[:, None]
    given.rows[:] = np.concatenate([course + bands, course[::-1] + bands])
    c, unchanged, alike = dataclasses.replace(SMALL, **settings), [0, 0], 0
    for seed in range(20):
        S = augment.augmented(given, np.array([0]), np.array([1]), c, np.random.default_rng(seed)).rows
        for k, row in enumerate((S[1], S[-2])):
            unchanged[k] += bool((np.abs(given.rows - row).max(axis=1) < 1e-3).any())
        slopes = [np.abs([end[1, 64] - end[0, 64], end[0, 72] - end[0, 56]]) for end in (S[:2], S[-2:])]
        alike += np.allclose(*slopes, rtol=1e-3)
    assert max(*unchanged, alike) <= 2


def test_noise_lies_10_to_50_dB_below_the_mean_power(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(augment, "TILT_DB", 0.0)
    monkeypatch.setattr(augment, "NARROW", (0, N_MELS - 1))
    monkeypatch.setattr(augment, "_with_echo", lambda P, *_: P)
    S, levels = np.full((60, N_MELS), -30, np.float32), []
    S[:, :8] = 10.0
    mean = 10 * np.log10(np.mean(10 ** (S / 10)))
    for seed in range(200):
        noisy = augment.through_channel(S.copy(), 1.0, np.random.default_rng(seed))
        added = 10 ** (noisy[:, 8:-1] / 10) - 10 ** (S[:, 8:-1] / 10)  # the last band is the narrow band's
        levels.append(10 * np.log10(added.mean()) - mean)
    assert -50.3 < min(levels) < -48
    assert -12 < max(levels) < -9.7


def test_echoes_last_a_fifth_of_a_second_to_one_and_are_at_most_as_loud_as_the_sound(monkeypatch: pytest.MonkeyPatch):
    met = []
    monkeypatch.setattr(augment, "_with_echo", lambda P, *drawn: met.append(drawn) or P)
    for seed in range(200):
        augment.through_channel(np.full((2, N_MELS), -30, np.float32), 1.0, np.random.default_rng(seed))
    seconds, gain = np.array(met).T
    assert 0.2 <= min(seconds) < 0.22
    assert 0.95 < max(seconds) <= 1
    assert 0.01 <= min(gain) < 0.012
    assert 0.9 < max(gain) <= 1


def test_a_narrow_band_makes_nothing_louder(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(augment, "TILT_DB", 0.0)
    monkeypatch.setattr(augment, "_with_echo", lambda P, *_: P)
    S = np.full((50, N_MELS), FLOOR_DB, np.float32)
    loudest = [augment.through_channel(S.copy(), 1.0, np.random.default_rng(seed)).max() for seed in range(50)]
    assert max(loudest) < FLOOR_DB + 5


def test_partners_are_of_the_same_emotion_and_gender_and_of_the_training_part():
    rng = np.random.default_rng(0)
    y, gender = rng.integers(0, 3, 400), rng.integers(-1, 2, 400)
    train = rng.permutation(400)[:300]
    found = augment.splice_partners(train, y, gender, 0.5, rng)
    np.testing.assert_array_equal(y[found], y)
    np.testing.assert_array_equal(gender[found], gender)
    assert set(found[train]) <= set(train)
    rest = np.setdiff1d(np.arange(400), train)
    np.testing.assert_array_equal(found[rest], rest)
    assert 0.4 < np.mean(found[train] != train) < 0.55
    ends = found[found != np.arange(400)]
    assert 0.35 < np.mean(found[ends] == ends) < 0.65  # whether one is spliced itself does not matter
    np.testing.assert_array_equal(augment.splice_partners(train, y, gender, 0.0, rng), np.arange(400))
    alone = augment.splice_partners(np.array([1, 3]), np.arange(4), np.zeros(4, int), 1.0, rng)  # nobody else has that emotion
    np.testing.assert_array_equal(alone, np.arange(4))


def test_a_padded_window_does_not_outgrow_its_padding():
    given = store((40, 38), pad_frames=40)
    for seed in range(10):
        c = dataclasses.replace(SMALL, stretch=0.5)
        found = augment.augmented(given, np.array([0, 1]), np.array([1, 0]), c, np.random.default_rng(seed))
        assert found.stored(np.array([0, 1])).max() <= 40
        assert found.pad_frames == 40


def gradient(c: Config, given: Store, step: int, threads: int) -> np.ndarray:
    shapes = model.shapes_of(c, len(EMOTIONS), len(GENDERS))
    ones = np.ones(3 * N_MELS, np.float32)
    network = Network(model.init(shapes, 0), shapes, c, -50 * ones, 20 * ones)
    window = np.arange(len(given.samples))
    y = Targets(window % 4, window % 2, np.ones(len(window), np.float32), np.ones(len(window), np.float32))
    with ThreadPoolExecutor(threads) as pool:
        return network.gradient(given, window, y, step, pool, window[::-1] if c.splice else window)[1]


def test_training_splices_first_windows_of_the_same_emotion_and_gender(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    met: list[tuple[int, int]] = []

    def watched(store: Store, window: np.ndarray, ends: np.ndarray, *rest: Any) -> Store:
        met.extend(zip(window.tolist(), ends.tolist(), strict=True))
        return augment.augmented(store, window, ends, *rest)

    monkeypatch.setattr("npser.inputs.augmented", watched)
    c = dataclasses.replace(SMALL, max_seconds=0.2, splice=0.5, epochs=3)
    with ThreadPoolExecutor(1) as pool:
        data = dataset.prepare(corpora.load([corpus], None, None), c, tmp_path / "cache", pool, lambda items, **_: items)
        train = [r for r, u in enumerate(data.utterances) if u.session != data.utterances[0].session]
        fit(data, Split(train, [], [], method="none"), c, Run(tmp_path, pool, lambda _: None), {})
    first = {int(w): r for r, w in enumerate(data.store.recordings[:-1])}
    assert max(np.diff(data.store.recordings)) > 1  # recordings have several windows
    assert len(met) == 3 * len(train)
    for window, end in met:
        assert {first[window], first[end]} <= set(train)
        a, b = (data.utterances[first[w]] for w in (window, end))
        assert (a.emotion, a.gender) == (b.emotion, b.gender)
    assert 0.2 < np.mean([window != end for window, end in met]) < 0.55
    epochs = np.split(np.array(met), 3)
    assert len({tuple(map(tuple, sorted(pairs.tolist()))) for pairs in epochs}) == 3  # other ends each time


@pytest.mark.parametrize("settings", [{"stretch": 0.3}, {"warp": 0.2}, {"splice": 1.0}, {"channel": 0.7}, {"dropout": 0.5}])
@pytest.mark.parametrize("pad_frames", [0, 48])
def test_what_is_drawn_in_training_depends_on_seed_and_step_only(settings: dict[str, Any], pad_frames: int):
    given = store((40, 33, 30, 25, 20, 12), pad_frames)
    plain = dataclasses.replace(SMALL, dropout=0.0, pad=pad_frames > 0, shard=2)
    c = dataclasses.replace(plain, **settings)
    before = given.rows.copy()
    once = gradient(c, given, 3, 1)
    np.testing.assert_array_equal(once, gradient(c, given, 3, 4))
    assert not np.array_equal(once, gradient(c, given, 4, 1))
    assert not np.array_equal(once, gradient(dataclasses.replace(c, seed=1), given, 3, 1))
    assert not np.array_equal(once, gradient(plain, given, 3, 1))
    np.testing.assert_array_equal(given.rows, before)


def test_neither_scores_nor_the_normaliser_are_augmented():
    given, c = store((40, 33, 30)), dataclasses.replace(SMALL, stretch=0.3, warp=0.2, splice=1.0, channel=1.0)
    shapes, window = model.shapes_of(SMALL, len(EMOTIONS), len(GENDERS)), np.arange(3)
    found = []
    with ThreadPoolExecutor(1) as pool:
        for config in (SMALL, c):
            norm = normaliser(given, window, pool, config)
            found.append((*norm, *Network(model.init(shapes, 0), shapes, config, *norm).logits(given, window, pool)))
    for plain, other in zip(*found, strict=True):
        np.testing.assert_array_equal(plain, other)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"stretch": 1.0}, "setting stretch is 1.0; expected 0 <= stretch < 1"),
        ({"warp": -0.1}, "setting warp is -0.1; expected 0 <= warp < 1"),
        ({"splice": -0.5}, "setting splice is -0.5; expected 0 <= splice <= 1"),
        ({"channel": 1.5}, "setting channel is 1.5; expected 0 <= channel <= 1"),
        ({"schedule": "step"}, "setting schedule is 'step'; expected one of constant, cosine"),
        ({"warmup": -1.0}, "setting warmup is -1.0; expected zero or a positive number"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=re.escape(words)):
        Config(**setting)

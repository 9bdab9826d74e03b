"""Intervals against cases that can be counted by hand, and the baselines against what they are meant to be."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from npser import corpora, dataset
from npser.corpora import Utterance
from npser.experiment import baselines, statistics
from npser.inputs import with_deltas
from npser.metrics import confusion_matrix, scores, scores_of
from npser.networks.li2019 import Config
from npser.split import Split
from npser.store import Store


def test_scores_of_many_matrices_are_those_of_each() -> None:
    rng = np.random.default_rng(0)
    many = rng.integers(0, 5, (50, 3, 3)) * (rng.random((50, 3, 1)) < 0.7)  # classes that do not occur
    many[:, 0, 0] += 1
    found = scores_of(many)
    for k, matrix in enumerate(many):
        expected = scores(matrix)
        for name in statistics.NAMES:
            np.testing.assert_allclose(found[name][k], expected[name], rtol=1e-12)


def test_confusions_of_clusters_add_up() -> None:
    rng = np.random.default_rng(1)
    truth, predicted, cluster = (rng.integers(0, k, 200) for k in (4, 4, 7))
    found = statistics.confusions(truth, predicted, cluster, 4)
    assert found.shape == (7, 4, 4)
    np.testing.assert_array_equal(found.sum(axis=0), confusion_matrix(truth, predicted, 4))
    np.testing.assert_array_equal(found[3], confusion_matrix(truth[cluster == 3], predicted[cluster == 3], 4))


def corpora_of(speakers: int, seeds: int, cases: int, system: float = 0.0) -> Iterator[np.ndarray]:
    """Confusion matrices (seeds, speakers, 4, 4) of corpora whose networks are right 70 times in 100 on average.

    Speakers' accuracies differ by 0.08, seeds' by 0.03, each a standard deviation; 40 utterances a speaker. system: how much
    those of speakers differ further from one system to the other; corpora then come in pairs.
    """
    rng = np.random.default_rng([speakers, seeds, round(1000 * system)])
    for _ in range(cases):
        speaker = 0.7 + 0.08 * rng.standard_normal(speakers)
        for _ in range(2 if system else 1):
            own = speaker + system * rng.standard_normal(speakers)
            accuracy = np.clip(own + 0.03 * rng.standard_normal((seeds, 1)), 0, 1)
            runs = np.zeros((seeds, speakers, 4, 4), int)
            for k in range(4):
                runs[:, :, k, k] = rng.binomial(10, accuracy)
                runs[:, :, k, k - 1] = 10 - runs[:, :, k, k]
            yield runs


@pytest.mark.parametrize("speakers", [6, 10, 24])
@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_intervals_hold_the_truth_as_often_as_they_say(speakers: int, seeds: int) -> None:
    held = []
    for runs in corpora_of(speakers, seeds, 2000):
        low, high = statistics.intervals(runs)["ua"] or [0, 0]
        held.append(low <= 0.7 <= high)
    if seeds > 1:
        assert 0.92 <= np.mean(held) <= 0.98
    else:  # seeds are not in it, and the report says so
        assert np.mean(held) < {6: 0.95, 10: 0.92, 24: 0.85}[speakers]


@pytest.mark.parametrize("speakers", [6, 10, 24])
def test_intervals_of_differences_hold_the_truth_as_often_as_they_say(speakers: int) -> None:
    pairs = corpora_of(speakers, 3, 2000, system=0.04)
    held = []
    for a in pairs:
        low, high = statistics.differences(a, next(pairs))["ua"]["interval"]
        held.append(low <= 0 <= high)
    assert 0.92 <= np.mean(held) <= 0.98


def test_an_interval_is_students_over_speakers_that_are_left_out_and_over_seeds() -> None:
    # Three speakers of ten utterances, 9, 6 and 3 of them right, and a seed that loses one of each: by hand.
    runs = np.zeros((2, 3, 2, 2), int)
    for seed, right in enumerate(([9, 6, 3], [8, 5, 2])):
        runs[seed, :, 0, 0], runs[seed, :, 0, 1] = right, 10 - np.array(right)
    low, high = statistics.intervals(runs)["wa"] or [0, 0]
    of_speakers = np.var([0.85, 0.55, 0.25], ddof=1) / 3  # the mean's, which leaving one out comes to where all are as large
    of_seeds = np.var([0.6, 0.5], ddof=1) / 2
    freedom = (of_speakers + of_seeds) ** 2 / (of_speakers**2 / 2 + of_seeds**2 / 1)
    stats = pytest.importorskip("scipy.stats")
    half = stats.t.ppf(0.975, freedom) * np.sqrt(of_speakers + of_seeds)
    np.testing.assert_allclose([low, high], [max(0, 0.55 - half), min(1, 0.55 + half)], rtol=1e-9)
    one = statistics.intervals(runs[:1])["wa"]
    half = 4.302653 * np.sqrt(np.var([0.9, 0.6, 0.3], ddof=1) / 3)
    np.testing.assert_allclose(one or [], [max(0, 0.6 - half), min(1, 0.6 + half)], rtol=1e-6)


def test_one_cluster_has_no_interval_and_neither_has_what_does_not_vary() -> None:
    runs = np.ones((2, 1, 2, 2), int)
    assert set(statistics.intervals(runs).values()) == {None}
    assert statistics.differences(runs, runs)["ua"] == {"difference": 0.0, "interval": None, "by_seed": [0.0, 0.0]}
    right = np.repeat(np.array([[[[5, 0], [0, 5]]]]), 4, axis=1)
    assert set(statistics.intervals(right).values()) == {None}


def test_differences_are_paired() -> None:
    # Speakers differ a lot, and a is right about once more than b with each: the difference is surer than the scores.
    right = np.array([2, 5, 9, 14, 17])
    b = np.zeros((1, 5, 2, 2), int)
    b[0, :, 0, 0], b[0, :, 0, 1] = right, 20 - right
    a = b.copy()
    a[0, :, 0, 0] += [1, 1, 2, 1, 1]
    a[0, :, 0, 1] -= [1, 1, 2, 1, 1]
    found = statistics.differences(a, b)["wa"]
    assert found["difference"] == pytest.approx(0.06)
    assert found["by_seed"] == [found["difference"]]
    assert 0.02 < found["interval"][0] < found["interval"][1] < 0.1
    low, high = statistics.intervals(a)["wa"] or [0, 0]
    assert high - low > 0.3
    turned = statistics.differences(b, a)["wa"]
    np.testing.assert_allclose(turned["interval"], [-found["interval"][1], -found["interval"][0]])


def test_differences_of_seeds_are_paired_and_what_no_seed_changes_stands_for_all() -> None:
    right = np.array([[12, 15, 17], [10, 13, 15]])
    a = np.zeros((2, 3, 2, 2), int)
    a[:, :, 0, 0], a[:, :, 0, 1] = right, 20 - right
    b = a[:1]
    found = statistics.differences(a, b)["wa"]
    np.testing.assert_allclose(found["by_seed"], [0.0, -0.1])
    assert found["difference"] == pytest.approx(-0.05)


def test_scores_of_seeds_are_averaged_and_not_pooled() -> None:
    runs = np.zeros((2, 2, 2, 2), int)
    runs[0, :, 0, 0] = runs[1, :, 0, 1] = 5  # one seed always right, one never
    runs[:, :, 1, 1] = 5
    assert statistics.intervals(runs)["ua"] == [0.0, 1.0]  # of seeds that differ so, anything may be true
    assert statistics.differences(runs, runs[:1])["ua"]["difference"] == -0.25


def test_spread() -> None:
    assert statistics.spread([0.5]) == {"mean": 0.5, "deviation": None, "values": [0.5]}
    assert statistics.spread([1.0, 3.0])["deviation"] == pytest.approx(np.sqrt(2))


@pytest.fixture(scope="module")
def data(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dataset.Dataset:
    with ThreadPoolExecutor(2) as pool:
        cache = tmp_path_factory.mktemp("features")
        return dataset.prepare(corpora.load(corpus), Config(pad=False), cache, pool, lambda items, **_: items)


def test_keys_predict_the_commonest_class_of_what_is_learnt() -> None:
    key, y = np.array([0, 0, 0, 1, 1, 0, 1, 2]), np.array([1, 1, 0, 0, 0, 0, 1, 1])
    split = Split(train=[0, 1, 2], validation=[3, 4], test=[5, 6, 7])
    alone, both = baselines.learnt_from(split, refit=False), baselines.learnt_from(split, refit=True)
    assert (alone.tolist(), both.tolist()) == ([0, 1, 2], [0, 1, 2, 3, 4])
    assert baselines._by_key(key, y, split, both, 2).tolist() == [1, 0, 0]  # key 2 is new: 0 is the commonest of all
    assert baselines._by_key(key, y, split, alone, 2).tolist() == [1, 1, 1]  # key 1 is new as well
    other = np.where(np.arange(8) >= 5, 1 - y, y)
    assert baselines._by_key(key, other, split, both, 2).tolist() == [1, 0, 0]  # the test part's labels are not read


def test_values_are_cut_at_quantiles_of_what_is_learnt() -> None:
    learn = np.arange(81)
    bins = baselines._bins(np.arange(101.0), learn)
    assert bins.min() == 0
    assert bins.max() == baselines.BINS - 1
    counts = np.bincount(bins[learn], minlength=baselines.BINS)
    assert counts.max() - counts.min() <= 2
    assert (np.diff(bins) >= 0).all()


def test_the_linear_classifier_learns_from_what_the_network_learns_from(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    y, F = np.array([0, 1] * 20), rng.normal(size=(40, 3))
    split = Split(list(range(20)), list(range(20, 30)), list(range(30, 40)))
    other = y.copy()
    other[20:30] = 1 - y[20:30]  # of the validation part, which chooses the penalty, here of one
    monkeypatch.setattr(baselines, "PENALTIES", (0.01, 0.01))
    alone, both = baselines.learnt_from(split, refit=False), baselines.learnt_from(split, refit=True)
    assert (baselines.linear(F, y, split, alone, 2) == baselines.linear(F, other, split, alone, 2)).all()
    assert (baselines.linear(F, y, split, both, 2) != baselines.linear(F, other, split, both, 2)).any()


def test_the_gradient_of_the_linear_classifier() -> None:
    rng = np.random.default_rng(0)
    W, b, X, Y = rng.normal(size=(5, 3)), rng.normal(size=3), rng.normal(size=(8, 5)), np.eye(3)[rng.integers(0, 3, 8)]
    _, dW, db = baselines.logistic(W, b, X, Y, 0.1)
    VW, vb, h = rng.normal(size=W.shape), rng.normal(size=3), 1e-6
    up, down = (baselines.logistic(W + s * h * VW, b + s * h * vb, X, Y, 0.1)[0] for s in (1, -1))
    np.testing.assert_allclose((up - down) / (2 * h), (dW * VW).sum() + db @ vb, rtol=1e-6)


def test_the_linear_classifier_is_scikit_learns() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    rng = np.random.default_rng(2)
    y = rng.integers(0, 3, 150)
    F = rng.normal(size=(150, 6)) * 3 + 0.7 * y[:, None] + 10
    new = rng.normal(size=(400, 6)) * 3 + 10.7
    theirs = linear_model.LogisticRegression(C=1 / (0.1 * 150), tol=1e-8, max_iter=5000)
    theirs.fit((F - F.mean(axis=0)) / F.std(axis=0), y)
    expected = theirs.predict((new - F.mean(axis=0)) / F.std(axis=0))
    assert np.mean(baselines._fit_linear(F, y, 0.1, 3)(new) == expected) > 0.99


@pytest.mark.parametrize("pad", [False, True])
def test_statistics_of_utterances_leave_padding_out(corpus: Path, tmp_path: Path, pad: bool) -> None:
    with ThreadPoolExecutor(2) as pool:
        config = Config(pad=pad, max_seconds=1.0)
        data = dataset.prepare(corpora.load(corpus), config, tmp_path, pool, lambda items, **_: items)
        found = baselines.utterance_statistics(data.store, pool)
    assert found.shape == (24, 768)
    X, _ = with_deltas(data.store, np.array([7]), np.zeros(384, np.float32), np.ones(384, np.float32))
    assert len(X) == (41 if pad else 15)
    X = X[:14]  # 0.35 s: frames are centred on samples 0, 400, ... 5200, and 5600 is no sample
    np.testing.assert_allclose(found[7], np.concatenate([X.mean(axis=0), X.std(axis=0)]), rtol=1e-4, atol=1e-4)


def test_what_tells_the_class_is_found_by_its_control(data: dataset.Dataset) -> None:
    split = Split(list(range(12)), list(range(12, 16)), list(range(16, 24)))
    learn = baselines.learnt_from(split, refit=True)
    names = [f"about {u.emotion}" for u in data.utterances]
    levels = np.where(data.emotion_y == 0, -20.0, -30.0)  # a window each
    assert len(data.store.levels) == len(levels)
    given = {
        "scenario": replace(data, utterances=[replace(u, scenario=s) for u, s in zip(data.utterances, names, strict=True)]),
        "speaker": replace(data, utterances=[replace(u, speaker=s) for u, s in zip(data.utterances, names, strict=True)]),
        "level": replace(data, store=replace(data.store, levels=levels)),
        "duration": replace(data, store=replace(data.store, samples=np.where(data.emotion_y == 0, 4000, 6000))),
    }
    with ThreadPoolExecutor(2) as pool:
        assert set(baselines.baselines(data, {"linear": data.store}, pool, False)) == {
            "majority",
            "duration",
            "level",
            "linear",
        }
        for name, telling in given.items():
            predict = baselines.baselines(telling, {}, pool, True)[name]
            assert predict(split, learn).tolist() == data.emotion_y[16:].tolist(), name


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def hardly_told_apart(others: int = 0) -> tuple[dataset.Dataset, Split]:
    """90 random recordings of three emotions; the last 30 are tested, of which so many are replaced, and their labels."""
    rng = np.random.default_rng(1)
    y, scenario, length = rng.integers(3, size=90), rng.integers(5, size=90), rng.integers(3, 20, 90)
    if others:
        y[-others:], scenario[-others:], length[-others:] = 2 - y[-others:], 4, 12 + y[-others:]
    rows = [
        rng.normal(-50 + 0.5 * k, 10, (n, 16)) + 20 * (r >= 90 - others) for r, (n, k) in enumerate(zip(length, y, strict=True))
    ]
    bounds, each = np.cumsum([0, *length]), np.arange(91)
    store = Store(np.concatenate(rows).astype(np.float32), bounds, 400 * length, each, {}, 0, levels=-20.0 - length % 7)
    labels = ["angry", "happy", "sad"]
    utterances = [
        Utterance(Path(f"{r}.wav"), labels[k], "c", scenario=str(s)) for r, (k, s) in enumerate(zip(y, scenario, strict=True))
    ]
    data = dataset.Dataset(utterances, [str(r) for r in each[:-1]], store, labels, {}, ["c"], {})
    return data, Split(list(range(40)), list(range(40, 60)), list(range(60, 90)))


def answers(data: dataset.Dataset, split: Split, pool: ThreadPoolExecutor) -> dict[tuple[str, bool], list[int]]:
    """What every baseline says of the test part, by its name and whether it learns from the validation part too."""
    found = baselines.baselines(data, {"linear": data.store}, pool, False).items()
    return {
        (name, refit): predict(split, baselines.learnt_from(split, refit)).tolist()
        for name, predict in found
        for refit in (False, True)
    }


def test_no_baseline_reads_the_labels_of_the_test_part(pool: ThreadPoolExecutor) -> None:
    data, split = hardly_told_apart()
    expected = answers(data, split, pool)
    assert len(expected) == 10
    for label in data.labels:
        given = [replace(u, emotion=label, gender="male") if r in split.test else u for r, u in enumerate(data.utterances)]
        assert answers(replace(data, utterances=given), split, pool) == expected


def test_no_baseline_learns_from_the_other_recordings_of_the_test_part(pool: ThreadPoolExecutor) -> None:
    found, again = (answers(*hardly_told_apart(others), pool) for others in (0, 15))
    for name, predicted in found.items():
        assert predicted[:15] == again[name][:15], name
    assert found != again


@pytest.mark.parametrize("best", range(len(baselines.PENALTIES)))
def test_the_penalty_is_the_best_on_the_validation_part_and_the_strongest_of_equals(
    monkeypatch: pytest.MonkeyPatch, best: int
) -> None:
    # What a classifier of each penalty says of an utterance stands in the utterance's features.
    monkeypatch.setattr(
        baselines, "_fit_linear", lambda F, y, penalty, K: lambda new: new[:, baselines.PENALTIES.index(penalty)]
    )
    y, split = np.array([0, 1] * 6), Split(list(range(4)), list(range(4, 8)), list(range(8, 12)))
    F = np.tile(1 - y[:, None], (1, len(baselines.PENALTIES)))
    F[split.validation, best] = y[split.validation]
    F[split.test, best], F[split.train, best - 1], F[split.test, best - 1] = 7, y[split.train], y[split.test]
    assert baselines.linear(F, y, split, np.arange(8), 2).tolist() == [7] * 4
    F[split.validation, : best + 1] = y[split.validation, None]
    assert baselines.linear(F, y, split, np.arange(8), 2).tolist() == [7] * 4

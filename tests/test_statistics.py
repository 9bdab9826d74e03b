"""Intervals against cases that can be counted by hand, and the baselines against what they are meant to be."""

import itertools
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


def test_the_bootstrap_draws_whole_clusters() -> None:
    # Speakers with 10, 20 and 30 utterances, of whom 10, 10 and 0 are right: 27 draws are possible, all as likely.
    right, total = np.array([10, 10, 0]), np.array([10, 20, 30])
    runs = np.zeros((1, 3, 2, 2), int)
    runs[0, :, 0, 0], runs[0, :, 0, 1] = right, total - right
    draws = [np.bincount(draw, minlength=3) for draw in itertools.product(range(3), repeat=3)]
    possible = np.sort([(times @ right) / (times @ total) for times in draws])
    found = np.sort(statistics.resampled(runs, statistics.draw_clusters(3, seed=5, draws=27_000))["wa"])
    assert set(np.round(found, 9)) == set(np.round(possible, 9))
    for value in set(np.round(possible, 9)):
        share = np.mean(np.isclose(possible, value))
        assert abs(np.mean(np.isclose(found, value)) - share) < 5 * np.sqrt(share * (1 - share) / 27_000)
    assert statistics.intervals(runs, 0)["wa"] == [possible[0], possible[-1]]  # each end is drawn once in 27 times


def test_draws_are_seeded_and_as_large_as_the_sample() -> None:
    a, b, c = (statistics.draw_clusters(6, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    assert a.shape == (statistics.DRAWS, 6)
    assert (a.sum(axis=1) == 6).all()


def test_one_cluster_has_no_interval() -> None:
    runs = np.ones((2, 1, 2, 2), int)
    assert set(statistics.intervals(runs, 0).values()) == {None}
    assert statistics.differences(runs, runs, 0)["ua"] == {"difference": 0.0, "interval": None}


def test_differences_are_paired() -> None:
    # Speakers differ a lot, and a is right once more than b with each of them: the difference is sure, the scores are not.
    right = np.array([2, 5, 9, 14, 17])
    b = np.zeros((1, 5, 2, 2), int)
    b[0, :, 0, 0], b[0, :, 0, 1] = right, 20 - right
    a = b + np.array([[1, -1], [0, 0]])
    found = statistics.differences(a, b, 0)["wa"]
    np.testing.assert_allclose([found["difference"], *found["interval"]], 0.05)
    low, high = statistics.intervals(a, 0)["wa"] or [0, 0]
    assert high - low > 0.3
    assert statistics.differences(b, a, 0)["wa"]["difference"] == -found["difference"]


def test_scores_of_seeds_are_averaged_and_not_pooled() -> None:
    runs = np.zeros((2, 2, 2, 2), int)
    runs[0, :, 0, 0] = runs[1, :, 0, 1] = 5  # one seed always right, one never
    runs[:, :, 1, 1] = 5
    assert statistics.intervals(runs, 0)["ua"] == [0.75, 0.75]


def test_spread() -> None:
    assert statistics.spread([0.5]) == {"mean": 0.5, "deviation": None, "values": [0.5]}
    assert statistics.spread([1.0, 3.0])["deviation"] == pytest.approx(np.sqrt(2))


@pytest.fixture(scope="module")
def data(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dataset.Dataset:
    with ThreadPoolExecutor(2) as pool:
        cache = tmp_path_factory.mktemp("features")
        return dataset.prepare(corpora.load(corpus), Config(pad=False), cache, pool, lambda items, **_: items)


def test_keys_predict_the_commonest_class_of_the_rest() -> None:
    key, y = np.array([0, 0, 0, 1, 1, 0, 1, 2]), np.array([1, 1, 0, 0, 0, 0, 1, 1])
    split = Split(train=[0, 1, 2], validation=[3, 4], test=[5, 6, 7])
    assert baselines._by_key(key, y, split, 2).tolist() == [1, 0, 0]  # key 2 is new: 0 is the commonest of all
    other = np.where(np.arange(8) >= 5, 1 - y, y)
    assert baselines._by_key(key, other, split, 2).tolist() == [1, 0, 0]  # the test part's labels are not read


def test_durations_are_cut_at_quantiles_of_the_rest() -> None:
    seconds = np.arange(101.0)
    split = Split(train=list(range(0, 101, 2)), validation=list(range(1, 81, 2)), test=list(range(81, 101, 2)))
    bins = baselines._duration_bins(seconds, split)
    assert bins.min() == 0
    assert bins.max() == baselines.BINS - 1
    rest = [*split.train, *split.validation]
    counts = np.bincount(bins[rest], minlength=baselines.BINS)
    assert counts.max() - counts.min() <= 2
    assert (np.diff(bins) >= 0).all()


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
        found = baselines.utterance_statistics(data, pool)
    assert found.shape == (24, 768)
    X, _ = with_deltas(data.store, np.array([7]), np.zeros(384, np.float32), np.ones(384, np.float32))
    assert len(X) == (41 if pad else 15)
    X = X[:14]  # 0.35 s: frames are centred on samples 0, 400, ... 5200, and 5600 is no sample
    np.testing.assert_allclose(found[7], np.concatenate([X.mean(axis=0), X.std(axis=0)]), rtol=1e-4, atol=1e-4)


def test_scenarios_are_a_baseline_where_they_are_known(data: dataset.Dataset) -> None:
    with ThreadPoolExecutor(2) as pool:
        assert set(baselines.baselines(data, pool)) == {"majority", "duration", "linear"}
        telling = replace(data, utterances=[replace(u, scenario=f"about {u.emotion}") for u in data.utterances])
        predict = baselines.baselines(telling, pool)["scenario"]
    split = Split(list(range(12)), list(range(12, 16)), list(range(16, 24)))
    assert predict(split).tolist() == data.emotion_y[16:].tolist()


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
    store = Store(np.concatenate(rows).astype(np.float32), bounds, 400 * length, each, {}, 0)
    labels = ["angry", "happy", "sad"]
    utterances = [
        Utterance(Path(f"{r}.wav"), labels[k], "c", scenario=str(s)) for r, (k, s) in enumerate(zip(y, scenario, strict=True))
    ]
    data = dataset.Dataset(utterances, [str(r) for r in each[:-1]], store, labels, {}, ["c"], {})
    return data, Split(list(range(40)), list(range(40, 60)), list(range(60, 90)))


def answers(data: dataset.Dataset, split: Split, pool: ThreadPoolExecutor) -> dict[str, list[int]]:
    return {name: predict(split).tolist() for name, predict in baselines.baselines(data, pool).items()}


def test_no_baseline_reads_the_labels_of_the_test_part(pool: ThreadPoolExecutor) -> None:
    data, split = hardly_told_apart()
    expected = answers(data, split, pool)
    assert len(expected) >= 4
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
    assert baselines.linear(F, y, split, 2).tolist() == [7] * 4
    F[split.validation, : best + 1] = y[split.validation, None]
    assert baselines.linear(F, y, split, 2).tolist() == [7] * 4

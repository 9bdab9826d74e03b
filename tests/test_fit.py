"""Training: what a step is given, the whole of it as a slow loop, and that the test part has no say in it."""

import json
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from helpers import SMALL, assert_same_training, sound, unbalanced

from npser import checkpoint, corpora, dataset, model
from npser.calibration import calibration_error
from npser.config import Config, stream
from npser.dataset import Dataset
from npser.features import log_mel_kind
from npser.inputs import with_deltas
from npser.network import Network, Shard, Targets, evaluate, normaliser
from npser.networks import li2019
from npser.split import Split
from npser.store import Store, store_of
from npser.train import Run, _identity, _is_better, class_weights, drawn, fit


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def stored(lengths: Iterable[int], pad: bool = False) -> Store:
    """Sounds of so many samples, of half a second at most."""
    return store_of([sound(n, i) for i, n in enumerate(lengths)], log_mel_kind(0.5, pad, False))


@pytest.mark.parametrize("pad", [False, True])
def test_the_normaliser_is_that_of_the_frames_in_real_audio(pool: ThreadPoolExecutor, pad: bool) -> None:
    store = stored((1, 400, 401, 3999, 4000, 8000, 7999, 6500), pad)
    window = np.array([7, 0, 1, 2, 3, 4, 5])
    X, bounds = with_deltas(store, window, np.zeros(384, np.float32), np.ones(384, np.float32))
    frames = np.concatenate([np.arange(n) for n in np.diff(bounds)])
    samples = np.repeat(store.samples[window], np.diff(bounds))
    real = X[400 * frames < samples].astype(np.float64)
    assert len(real) < len(X)
    mean, std = normaliser(store, window, pool, replace(SMALL, pad=pad))
    assert mean.dtype == std.dtype == np.float32
    np.testing.assert_allclose(mean, real.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(std, real.std(axis=0), rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_feature_that_does_not_vary_has_standard_deviation_one(pool: ThreadPoolExecutor, value: float) -> None:
    store = store_of([np.full(8000, value, np.float32)], log_mel_kind(0.5, False, False))
    _, std = normaliser(store, np.array([0]), pool, SMALL)
    np.testing.assert_array_equal(std, 1)


def test_a_feature_that_varies_less_than_a_thousandth_of_a_decibel_counts_as_constant(pool: ThreadPoolExecutor) -> None:
    rows = np.full((20, 128), -40, np.float32)
    rows[::2, :64] += np.float32(1e-4)
    rows[::2, 64:] += np.float32(1e-2)
    store = Store(rows, np.array([0, 20]), np.array([7900]), np.array([0, 1]), {}, 0)
    _, std = normaliser(store, np.array([0]), pool, SMALL)
    np.testing.assert_array_equal(std[:64], 1)
    np.testing.assert_allclose(std[64:128], 5e-3, rtol=1e-2)


def test_the_normaliser_is_the_same_with_any_number_of_threads() -> None:
    store, window = stored(range(1000, 1070)), np.random.default_rng(0).permutation(70)
    results = []
    for threads in (1, 2, 5):
        with ThreadPoolExecutor(threads) as own:
            results.append(np.stack(normaliser(store, window, own, SMALL)))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_balanced_classes_weigh_the_same_and_an_utterance_one_on_average() -> None:
    y = np.array([0] * 6 + [2] * 3 + [3])
    weight = class_weights(y, 4, "balanced")
    np.testing.assert_allclose([weight[k] * np.sum(y == k) for k in (0, 2, 3)], 10 / 3)
    assert weight[y].mean() == pytest.approx(1)
    np.testing.assert_array_equal(class_weights(y, 4, "none"), 1)


@pytest.mark.parametrize("kind", ["none", "balanced"])
def test_the_emotions_weights_are_those_of_the_training_part_and_the_genders_are_equal(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    met: list[Targets] = []
    shards = Network.shards

    def watched(self: Network, store: Any, window: np.ndarray, y: Targets, *rest: Any) -> list[Shard]:
        met.append(y)
        return shards(self, store, window, y, *rest)

    monkeypatch.setattr(Network, "shards", watched)
    c = replace(SMALL, epochs=1, batch=4, class_weight=kind)
    with ThreadPoolExecutor(1) as pool:
        data = dataset.prepare(corpora.load(corpus), c, tmp_path / "cache", pool, lambda items, **_: items)
        angry, sad = (np.flatnonzero(data.emotion_y == k).tolist() for k in (0, 1))
        split = Split([*angry[:7], *sad[:2]], sad[2:8], [])  # what validates has other shares
        fit(data, split, c, Run(tmp_path, pool, lambda _: None), {})
    assert [len(y.emotion) for y in met] == [4, 4, 1]
    assert sorted(np.concatenate([y.emotion for y in met])) == [0] * 7 + [1] * 2
    expected = {"none": [1, 1], "balanced": [9 / 14, 9 / 4]}[kind]
    for y in met:
        np.testing.assert_allclose(y.emotion_weight, np.array(expected)[y.emotion] / len(y.emotion), rtol=1e-6)
        np.testing.assert_allclose(y.gender_weight, 1 / len(y.emotion), rtol=1e-6)


# What nobody may learn from

SHORT = {"max_seconds": 0.5, "pad": False, "epochs": 3, "batch": 5, "learning_rate": 3e-3, "class_weight": "balanced"}
AUGMENTED = {"stretch": 0.2, "warp": 0.1, "splice": 0.7, "channel": 0.5}
EVERY_NETWORK = [pytest.param(c, id=name) for module in model.NETWORKS.values() for name, c in module.SMALL.items()]


def trained(config: Config, data: Dataset, split: Split, out: Path, **choices: Any) -> dict[str, Any]:
    """What fit returns; its files lie in out."""
    out.mkdir()
    with ThreadPoolExecutor(1) as pool:
        return fit(data, split, config, Run(out, pool, lambda _: None), {}, **choices)


@pytest.mark.parametrize("config", EVERY_NETWORK)
def test_another_test_part_changes_nothing_that_is_trained(tmp_path: Path, config: Config) -> None:
    augmented = AUGMENTED if getattr(config, "input", "log_mel") == "log_mel" else {}
    c = replace(config, **SHORT, **augmented)
    results = [trained(c, *unbalanced(c, others), tmp_path / str(others), oracle=others > 0) for others in (0, 6)]
    assert results[0]["test"]["loss"] != results[1]["test"]["loss"]
    for name in ("selected_epoch", "validation", "genders", "parameters"):
        assert results[0][name] == results[1][name]
    assert results[0]["calibration"]["temperature"] == results[1]["calibration"]["temperature"] != 1
    assert_same_training(tmp_path / "0", tmp_path / "6")


def test_a_gender_that_only_others_than_the_training_part_have_is_not_learnt(tmp_path: Path) -> None:
    data, split = unbalanced(SMALL)
    women = [replace(u, gender="female") if r in split.train else u for r, u in enumerate(data.utterances)]
    found = trained(replace(SMALL, **SHORT), replace(data, utterances=women), split, tmp_path / "run")
    assert (found["genders"], found["config"].beta, found["test"]["gender_accuracy"]) == ([], 0, None)
    model_file = checkpoint.load(tmp_path / "run" / "model.safetensors")
    assert model_file.labels["gender"] is None
    assert not any(name.startswith("gender") for name in model_file.tensors)


# The whole of it, as a slow loop


class Slow:
    """Section 5.1 in plain words: what a run is, epoch by epoch, without augmentation."""

    def __init__(self, data: Dataset, split: Split, config: li2019.Config) -> None:
        self.data, self.split, self.c = data, split, config
        first = {r: self.features(int(data.store.recordings[r])) for r in split.train}
        real = [X[: -(-int(data.store.samples[data.store.recordings[r]]) // 400)] for r, X in first.items()]
        self.mean, self.std = np.concatenate(real).mean(axis=0), np.concatenate(real).std(axis=0)
        self.shapes = model.shapes_of(config, len(data.labels), 2)
        self.theta = model.init(self.shapes, config.seed)
        self.m = self.v = np.zeros(self.theta.size)
        self.updates = 0

    def features(self, window: int) -> np.ndarray:
        """The lowest bands of a window, their deltas and delta-deltas, (L, d_spec)."""
        store = self.data.store
        return reference.deltas(store.rows[store.bounds[window] : store.bounds[window + 1], : self.c.d_spec // 3])

    def normalised(self, windows: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """X (N, d_spec) of some windows, and bounds."""
        each = [((self.features(w) - self.mean) / self.std).astype(np.float32) for w in windows]
        return np.concatenate(each), np.cumsum([0, *map(len, each)])

    def epoch(self, number: int) -> float:
        """Every utterance of the training part once; returns their mean loss."""
        train, losses = self.split.train, 0.0
        order = stream("shuffle", self.c.seed, number).permutation(train).tolist()
        while order:
            batch, order = order[:5], order[5:]
            first = {r: int(self.data.store.recordings[r]) for r in batch}
            batch.sort(
                key=lambda r: self.data.store.bounds[first[r]] - self.data.store.bounds[first[r] + 1]
            )  # the longest first
            loss, gradient = 0.0, np.zeros(self.theta.size)
            for k in range(0, len(batch), 4):
                shard = batch[k : k + 4]
                emotion, gender = self.data.emotion_y[shard], self.data.gender_y[shard]
                weight = [17 / 3 / np.sum(self.data.emotion_y[train] == y) / len(batch) for y in emotion]
                y = Targets(emotion, gender, np.array(weight, np.float32), np.full(len(shard), 1 / len(batch), np.float32))
                views, drawn = model.views(self.theta, self.shapes), stream("dropout", self.c.seed, self.updates, k // 4)
                part, grads = model.loss(views, self.c, self.normalised([first[r] for r in shard]), y, drawn)
                loss, gradient = loss + part, gradient + model.flatten(grads, self.shapes)
            self.update(gradient)
            losses += loss * len(batch)
        return losses / 17

    def update(self, gradient: np.ndarray) -> None:
        """Four updates an epoch: the rate rises over three, a quarter of all, under half a cosine over twelve."""
        factor = min(1, (self.updates + 1) / 3) * (1 + math.cos(math.pi * self.updates / 12)) / 2
        rate, decay, clip = factor * self.c.learning_rate, self.c.decay, self.c.clip
        for name, value in model.named(self.theta, self.shapes).items():
            if name not in ("cnn1.b", "cnn2.b", "emotion.b", "gender.b") and "b_" not in name:
                value *= 1 - rate / (1 + decay * self.updates) * self.c.weight_decay
        theta, m, v = reference.adam_step(self.theta, self.m, self.v, gradient, self.updates, rate, decay=decay, clip=clip)
        self.theta, self.m, self.v = np.array(theta, np.float32), np.array(m), np.array(v)
        self.updates += 1

    def validation(self) -> dict[str, float]:
        """Equation (10) over the validation part, and how often its emotions and genders are told."""
        losses, right, genders = [], [], []
        for r in self.split.validation:
            windows = list(range(self.data.store.recordings[r], self.data.store.recordings[r + 1]))
            (emotion, gender, *_), _ = li2019.forward(model.views(self.theta, self.shapes), self.c, *self.normalised(windows))
            assert gender is not None
            y, gender_y = self.data.emotion_y[r], self.data.gender_y[r]
            losses.append(-self.c.alpha * slow_log_p(emotion)[y])
            right.append(slow_log_p(emotion).argmax() == y)
            if gender_y >= 0:
                losses[-1] -= self.c.beta * slow_log_p(gender)[gender_y]
                genders.append(slow_log_p(gender).argmax() == gender_y)
        classes = [
            [hit for hit, r in zip(right, self.split.validation, strict=True) if self.data.emotion_y[r] == k] for k in range(3)
        ]
        ua = np.mean([np.mean(hits) for hits in classes])
        found = {"loss": np.mean(losses), "wa": np.mean(right), "ua": ua, "gender_accuracy": np.mean(genders)}
        return {name: float(value) for name, value in found.items()}


def slow_log_p(logits: np.ndarray) -> np.ndarray:
    """Of the windows of a recording, (W, classes): their mean log-probability, made to sum to one."""
    mean = np.mean([np.log(np.exp(row) / np.exp(row).sum()) for row in logits.astype(np.float64)], axis=0)
    return np.log(np.exp(mean) / np.exp(mean).sum())


def test_fit_is_the_slow_loop(tmp_path: Path) -> None:
    settings: Any = {**SHORT, "learning_rate": 0.01, "schedule": "cosine", "warmup": 1.0, "select": "loss", "weight_decay": 0.5}
    c = replace(li2019.SMALL["loss"], **settings, alpha=0.8, beta=1.3, decay=0.01, clip=0.1)
    data, split = unbalanced(c)
    slow, thetas, rows = Slow(data, split, c), [], []
    for epoch in (1, 2, 3):
        rows.append({"train_loss": slow.epoch(epoch), "validation": slow.validation()})
        thetas.append(slow.theta.copy())
    best = min(range(3), key=lambda k: rows[k]["validation"]["loss"])
    assert best < 2  # so the weights that are kept are not the last ones

    found = trained(c, data, split, tmp_path / "run")
    model_file = checkpoint.load(tmp_path / "run" / "model.safetensors")
    np.testing.assert_allclose(model_file.tensors["norm.mean"], slow.mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model_file.tensors["norm.std"], slow.std, rtol=1e-5)
    np.testing.assert_allclose(Network.of(model_file).theta, thetas[best], atol=2e-6)
    last, _ = checkpoint.read_tensors(tmp_path / "run" / "last.safetensors")
    np.testing.assert_allclose(last["theta"], thetas[-1], atol=2e-6)
    written = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for row, expected in zip(written, rows, strict=True):
        assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-5)
        for name, value in expected["validation"].items():
            assert row["validation"][name] == pytest.approx(value, rel=1e-5)
    assert found["selected_epoch"] == best + 1
    assert found["validation"] == written[best]["validation"]


# Which epoch is kept, and what a run goes on with


A = {"ua": 0.6, "wa": 0.5, "loss": 1.0}


@pytest.mark.parametrize(
    ("changes", "select", "better"),
    [
        ({"ua": 0.7, "wa": 0.4, "loss": 2.0}, "ua", True),
        ({"ua": 0.5, "wa": 0.9, "loss": 0.1}, "ua", False),
        ({"loss": 0.9}, "ua", True),
        ({"loss": 1.1}, "ua", False),
        ({"ua": 0.6 + 1e-12, "loss": 1.1}, "ua", False),  # another order of adding up
        ({}, "ua", False),
        ({"ua": 0.1, "loss": 0.9}, "loss", True),
        ({"ua": 0.9, "loss": 1.1}, "loss", False),
        ({}, "loss", False),
        ({"ua": 0.1, "loss": 9.0}, "last", True),
    ],
)
def test_the_better_epoch_has_the_higher_UA_then_the_lower_loss_then_comes_first(
    changes: dict[str, float], select: str, better: bool
) -> None:
    assert _is_better({**A, **changes}, A, select) is better
    assert _is_better(A, None, select)
    assert _is_better(None, {"epoch": 1}, select)


STILL: Any = {**SHORT, "learning_rate": 1e-30, "select": "loss"}  # all epochs are the same


def test_of_equal_epochs_the_first_is_kept_and_is_the_oracles(tmp_path: Path) -> None:
    found = trained(replace(SMALL, **STILL), *unbalanced(SMALL), tmp_path / "run")
    assert found["selected_epoch"] == found["oracle"]["epoch"] == 1


def test_a_resumed_run_knows_the_best_epoch_of_before(tmp_path: Path) -> None:
    data, split = unbalanced(SMALL)
    c = replace(SMALL, **STILL)
    trained(replace(c, epochs=2), data, split, tmp_path / "parts")
    with ThreadPoolExecutor(1) as pool:
        found = fit(data, split, c, Run(tmp_path / "parts", pool, lambda _: None), {}, resume=True)
    assert found == trained(c, data, split, tmp_path / "whole")
    assert found["selected_epoch"] == found["oracle"]["epoch"] == 1
    assert_same_training(tmp_path / "whole", tmp_path / "parts")


def test_the_model_file_of_an_unfinished_run_says_how_it_does_so_far(tmp_path: Path) -> None:
    data, split = unbalanced(SMALL)
    found = []

    def say(_: str) -> None:
        row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
        found.append((checkpoint.load(tmp_path / "model.safetensors").training["scores"], row))

    with ThreadPoolExecutor(1) as pool:
        fit(data, split, replace(SMALL, **SHORT, select="last"), Run(tmp_path, pool, say), {})
    assert [scores["epoch"] for scores, _ in found] == [1, 2, 3]
    for scores, row in found:
        assert scores == {"epoch": row["epoch"], "validation": row["validation"], "test": None}


def test_what_a_killed_run_left_half_written_is_removed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    names = [".model.safetensors-0123456789abcdef", ".mine"]
    for name in names:
        (tmp_path / "run" / name).touch()
    data, split = unbalanced(SMALL)
    with ThreadPoolExecutor(1) as pool:
        fit(data, split, replace(SMALL, **STILL), Run(tmp_path / "run", pool, lambda _: None), {})
    assert [(tmp_path / "run" / name).exists() for name in names] == [False, True]


@pytest.mark.parametrize(("loss", "slope"), [(1.0, math.nan), (math.inf, 0.0)])
def test_a_loss_or_a_gradient_that_is_not_finite_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: float, slope: float
) -> None:
    total, met = Network.total, []

    def broken(self: Network, *given: Any) -> tuple[float, np.ndarray]:
        met.append(total(self, *given))
        return met[-1] if len(met) < 6 else (loss, np.full_like(met[-1][1], slope))

    monkeypatch.setattr(Network, "total", broken)
    with pytest.raises(ValueError, match=r"not finite in epoch 2, batch 2; try .* learning_rate=0\.001"):
        trained(replace(SMALL, **SHORT), *unbalanced(SMALL), tmp_path / "run")
    theta = Network.of(checkpoint.load(tmp_path / "run" / "model.safetensors")).theta
    assert np.isfinite(theta).all()


def test_a_run_is_not_resumed_with_other_data_parts_labels_or_scores() -> None:
    data, split = unbalanced(SMALL)
    members = [*split.validation, split.train[0]]
    first = data.utterances[0]

    def with_first(**fields: Any) -> Dataset:
        return replace(data, utterances=[replace(first, **fields), *data.utterances[1:]])

    emotion, gender = ("sad" if first.emotion == "happy" else "happy"), ("male" if first.gender == "female" else "female")
    found = [
        _identity(data, split, SMALL, True),
        _identity(with_first(emotion=emotion), split, SMALL, True),
        _identity(with_first(gender=gender), split, SMALL, True),
        _identity(replace(data, content=["0" * 64, *data.content[1:]]), split, SMALL, True),
        _identity(replace(data, labels=[*data.labels, "surprised"]), split, SMALL, True),
        _identity(data, replace(split, train=split.train[1:], validation=members), SMALL, True),
        _identity(data, replace(split, train=[*split.train, split.test[0]], test=split.test[1:]), SMALL, True),
        _identity(data, split, replace(SMALL, seed=1), True),
        _identity(data, split, SMALL, False),
    ]
    assert len(set(found)) == len(found)
    assert _identity(with_first(path=Path("elsewhere/0.wav")), split, replace(SMALL, epochs=7), True) == found[0]


def test_scores_among_fewer_labels_are_of_probabilities_that_sum_to_one() -> None:
    data, split = unbalanced(SMALL)
    shapes, one = model.shapes_of(SMALL, 4, 0), np.ones(384, np.float32)
    network = Network(model.init(shapes, 3), shapes, SMALL, -50 * one, 20 * one, temperature=0.1)
    with ThreadPoolExecutor(1) as pool:
        logits, _ = network.logits(data.store, np.array(split.train), pool)
        found = evaluate(network, data, split.train, pool, choices=[3, 0, 2])
    y, few = data.emotion_y[split.train], np.exp(logits[:, [3, 0, 2]] / 0.1)
    p = few / few.sum(axis=1, keepdims=True)
    assert found["ece"] == pytest.approx(calibration_error(np.log(p), y))
    assert found["loss"] == pytest.approx(-np.log(p[np.arange(17), y]).mean())
    assert found["wa"] == np.mean(p.argmax(axis=1) == y)


def test_an_epoch_draws_every_utterance_once_or_as_many_of_each_corpus() -> None:
    train, corpora = np.array([3, 4, 6, 8, 9, 10, 11, 20]), np.array([*"aabbbbbb"])
    rng = np.random.default_rng(0)
    once = drawn(train, corpora, "none", rng)
    assert sorted(once) == train.tolist()
    counts = np.zeros(21, int)
    for _ in range(300):
        found = drawn(train, corpora, "corpora", rng)
        assert len(found) == 8
        each = np.bincount(found, minlength=21)
        assert each[[3, 4]].tolist() == [2, 2]
        assert each[[6, 8, 9, 10, 11, 20]].max() == 1
        counts += each
    assert counts[[6, 8, 9, 10, 11, 20]].sum() == 1200
    assert counts[[6, 8, 9, 10, 11, 20]].min() > 150
    odd = drawn(np.arange(7), np.array([*"aabbbbc"]), "corpora", rng)
    assert np.bincount(odd, minlength=7).sum() == 7
    assert np.bincount(odd, minlength=7)[6] == 3  # 7 / 3 each: 2, 2 and 3
    first, again = (drawn(train, corpora, "corpora", np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, again)

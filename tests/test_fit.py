"""Training: what a step is given, the whole of it as a slow loop, and that the test part has no say in it."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import SMALL, assert_same_training, sound, unbalanced

from npser import checkpoint, corpora, dataset, model
from npser.config import Config
from npser.dataset import Dataset
from npser.features import log_mel_kind
from npser.inputs import with_deltas
from npser.network import Network, Targets, normaliser
from npser.split import Split
from npser.store import Store, store_of
from npser.train import Run, class_weights, fit


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
    gradient = Network.gradient

    def watched(self: Network, store: Any, window: np.ndarray, y: Targets, *rest: Any) -> tuple[float, np.ndarray]:
        met.append(y)
        return gradient(self, store, window, y, *rest)

    monkeypatch.setattr(Network, "gradient", watched)
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
    c = replace(config, **SHORT, **AUGMENTED)
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

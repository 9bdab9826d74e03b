"""What a training step is given: weights of classes and genders."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import SMALL

from npser import corpora, dataset
from npser.network import Network, Targets
from npser.split import Split
from npser.train import Run, class_weights, fit


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

"""The scores are scikit-learn's."""

from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from npser.metrics import confusion_matrix, scores


def labels(seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Random truth and prediction; half of the seeds leave a class out of the truth, the prediction or both."""
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 9))
    n = int(rng.integers(1, 60))
    allowed = [np.flatnonzero(rng.random(classes) < (0.6 if seed % 2 else 1.0)) for _ in range(2)]
    truth, predicted = (rng.choice(some if len(some) else np.arange(classes), n) for some in allowed)
    return truth, np.where(rng.random(n) < 0.3, truth, predicted), classes


@pytest.mark.parametrize("seed", range(100))
def test_scores_are_those_of_scikit_learn(seed: int):
    truth, predicted, classes = labels(seed)
    confusion = confusion_matrix(truth, predicted, classes)
    result = scores(confusion)
    every = np.arange(classes)
    occurring = np.unique(truth)
    # balanced_accuracy_score, without its warning where a class that does not occur is predicted
    zero: dict[str, Any] = {"zero_division": 0}
    ua = sklearn_metrics.recall_score(truth, predicted, labels=occurring, average="macro", **zero)
    f1 = sklearn_metrics.f1_score(truth, predicted, labels=every, average="macro", **zero)
    np.testing.assert_array_equal(confusion, sklearn_metrics.confusion_matrix(truth, predicted, labels=every))
    assert result["wa"] == pytest.approx(sklearn_metrics.accuracy_score(truth, predicted))
    assert result["ua"] == pytest.approx(ua)
    assert result["macro_f1"] == pytest.approx(f1)
    assert [r is None for r in result["recall"]] == [c not in occurring for c in every]
    recall = np.diag(sklearn_metrics.confusion_matrix(truth, predicted, labels=every, normalize="true"))
    np.testing.assert_allclose([r or 0.0 for r in result["recall"]], recall)


def test_the_random_label_sets_lack_classes_in_truth_and_in_prediction():
    sets = [labels(seed) for seed in range(100)]
    assert sum(len(np.unique(truth)) < classes for truth, _, classes in sets) > 15
    assert sum(not np.isin(predicted, truth).all() for truth, predicted, _ in sets) > 15
    assert sum(not np.isin(truth, predicted).all() for truth, predicted, _ in sets) > 15


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("seed", range(20))
def test_ua_is_the_balanced_accuracy(seed: int):
    truth, predicted, classes = labels(seed)
    ua = scores(confusion_matrix(truth, predicted, classes))["ua"]
    assert ua == pytest.approx(sklearn_metrics.balanced_accuracy_score(truth, predicted))


def test_a_small_example_by_hand():
    confusion = confusion_matrix(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 2, 1, 0]), 4)
    assert confusion.tolist() == [[2, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    result = scores(confusion)
    assert result["wa"] == pytest.approx(3 / 5)
    assert result["ua"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert result["macro_f1"] == pytest.approx((4 / 6 + 2 / 3 + 0 + 0) / 4)
    assert result["recall"] == [pytest.approx(2 / 3), 0.5, None, None]

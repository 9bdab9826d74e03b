"""Scores of predictions, section 5.2: WA, UA, macro-F1, recall of each class, all read off confusion matrices."""

from __future__ import annotations

from typing import Any

import numpy as np


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts, (classes, classes): row the truth, column the prediction."""
    return np.bincount(truth * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def scores_of(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of many confusion matrices (..., classes, classes), each (...).

    ``wa``, the accuracy over all utterances; ``ua``, the mean recall over the classes that occur (scikit-learn's
    balanced_accuracy_score); ``macro_f1`` over all classes, 0 for one that neither occurs nor is predicted.
    """
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    recall = right / np.maximum(true, 1)
    return {
        "wa": right.sum(axis=-1) / np.maximum(true.sum(axis=-1), 1),
        "ua": recall.sum(axis=-1) / np.maximum((true > 0).sum(axis=-1), 1),  # classes that do not occur add 0 to the sum
        "macro_f1": (2 * right / np.maximum(true + predicted, 1)).mean(axis=-1),
    }


def scores(confusion: np.ndarray) -> dict[str, Any]:
    """Those of one matrix, (classes, classes), as floats, and ``recall``, a list with None for a class that does not occur."""
    true = confusion.sum(axis=1)
    recall = (np.diag(confusion) / np.maximum(true, 1)).tolist()
    found = {name: float(value) for name, value in scores_of(confusion).items()}
    found["ua"] = float(np.mean([r for r, count in zip(recall, true, strict=True) if count]))  # the same to the last bit
    return {**found, "recall": [r if count else None for r, count in zip(recall, true, strict=True)]}

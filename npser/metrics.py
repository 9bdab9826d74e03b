"""Scores of predictions, section 5.2: WA, UA, macro-F1, recall of each class, all read off the confusion matrix."""

from __future__ import annotations

from typing import Any

import numpy as np


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts, (classes, classes): row the truth, column the prediction."""
    return np.bincount(truth * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def scores(confusion: np.ndarray) -> dict[str, Any]:
    """What a confusion matrix says.

    Parameters
    ----------
    confusion : (classes, classes) int
        Row the truth, column the prediction; at least one utterance.

    Returns
    -------
    dict
        ``wa``, the accuracy over all utterances; ``ua``, the mean recall over the classes that occur (scikit-learn's
        balanced_accuracy_score); ``macro_f1`` over all classes, 0 for one that neither occurs nor is predicted;
        ``recall``, a list with None for a class that does not occur.
    """
    right, true, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    occurs = true > 0
    recall = right[occurs] / true[occurs]
    f1 = 2 * right / np.maximum(true + predicted, 1)
    listed = iter(recall.tolist())
    return {
        "wa": float(right.sum() / true.sum()),
        "ua": float(recall.mean()),
        "macro_f1": float(f1.mean()),
        "recall": [next(listed) if o else None for o in occurs],
    }

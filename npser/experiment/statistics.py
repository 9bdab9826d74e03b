"""How sure a score is: intervals from drawing whole speakers again, and the same draws for two systems that are compared.

Utterances of a speaker resemble each other, so the speakers are what was sampled. Everything here works on the confusion matrix
of each speaker: a draw of speakers is a sum of theirs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npser.config import stream
from npser.metrics import scores_of

DRAWS = 2000
NAMES = ("wa", "ua", "macro_f1")


def confusions(truth: np.ndarray, predicted: np.ndarray, cluster: np.ndarray, classes: int) -> np.ndarray:
    """Confusion matrix of each cluster, (clusters, classes, classes). truth, predicted, cluster (n,): numbers from 0."""
    count = int(cluster.max()) + 1 if len(cluster) else 0
    cell = (cluster * classes + truth) * classes + predicted
    return np.bincount(cell, minlength=count * classes * classes).reshape(count, classes, classes)


def draw_clusters(clusters: int, seed: int, draws: int = DRAWS) -> np.ndarray:
    """How often each cluster is drawn, with replacement as many as there are: (draws, clusters)."""
    drawn = stream("bootstrap", seed).integers(clusters, size=(draws, clusters))
    times = np.zeros((draws, clusters), np.int64)
    np.add.at(times, (np.arange(draws)[:, None], drawn), 1)
    return times


def resampled(runs: np.ndarray, times: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of every draw, the mean over the runs. runs (R, clusters, K, K): of each seed; times (draws, clusters)."""
    R, clusters, K, _ = runs.shape
    drawn = np.einsum("dc,rck->drk", times, runs.reshape(R, clusters, K * K)).reshape(len(times), R, K, K)
    return {name: values.mean(axis=1) for name, values in scores_of(drawn).items()}


def interval(values: np.ndarray) -> list[float]:
    """The middle 95 % of some values."""
    return [float(q) for q in np.percentile(values, [2.5, 97.5])]


def intervals(runs: np.ndarray, seed: int) -> dict[str, list[float] | None]:
    """95 % interval of each score; None with fewer than two clusters. runs (R, clusters, K, K)."""
    if runs.shape[1] < 2:
        return dict.fromkeys(NAMES)
    found = resampled(runs, draw_clusters(runs.shape[1], seed))
    return {name: interval(values) for name, values in found.items()}


def differences(a: np.ndarray, b: np.ndarray, seed: int) -> dict[str, dict[str, Any]]:
    """Scores of a minus those of b, with the 95 % interval from common draws. a, b (R, clusters, K, K): same utterances."""
    at, bt = scores_of(a.sum(axis=1)), scores_of(b.sum(axis=1))
    found: dict[str, dict[str, Any]] = {
        name: {"difference": float(at[name].mean() - bt[name].mean()), "interval": None} for name in NAMES
    }
    if a.shape[1] >= 2:
        times = draw_clusters(a.shape[1], seed)
        at, bt = resampled(a, times), resampled(b, times)
        for name in NAMES:
            found[name]["interval"] = interval(at[name] - bt[name])
    return found


def spread(values: list[float]) -> dict[str, Any]:
    """Mean and standard deviation (of a sample; None of a single value), and the values."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "deviation": deviation, "values": values}

"""How sure a score is: 95 % intervals that count speakers and seeds, and the same for two systems on the same utterances.

Utterances of a speaker resemble each other, so speakers are what was sampled, and a network is another one with every seed.
Everything here works on the confusion matrix of each speaker and seed. The variance of a score is that of leaving one speaker
out at a time (Efron and Stein, The Jackknife Estimate of Variance, 1981) plus that of the mean over seeds; Student's t has the
degrees of freedom of such a sum (Satterthwaite, 1946). What both count of their common part is left in: the sum errs upwards.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from npser.metrics import scores_of

NAMES = ("wa", "ua", "macro_f1")
Interval = list[float] | None


def confusions(truth: np.ndarray, predicted: np.ndarray, cluster: np.ndarray, classes: int) -> np.ndarray:
    """Confusion matrix of each cluster, (clusters, classes, classes). truth, predicted, cluster (n,): numbers from 0."""
    count = int(cluster.max()) + 1 if len(cluster) else 0
    cell = (cluster * classes + truth) * classes + predicted
    return np.bincount(cell, minlength=count * classes * classes).reshape(count, classes, classes)


def half_width(by_seed: np.ndarray, without: np.ndarray) -> float | None:
    """Half of the 95 % interval around the mean of a score over seeds; None where nothing varies, or with one cluster.

    by_seed (R,): the score of each seed; without (R, clusters): the same with each cluster left out.
    """
    R, clusters = without.shape
    if clusters < 2:
        return None
    each = without.mean(axis=0)
    of_clusters = (clusters - 1) / clusters * ((each - each.mean()) ** 2).sum()
    of_seeds = by_seed.var(ddof=1) / R if R > 1 else 0.0
    variance = of_clusters + of_seeds
    if variance < 1e-12:
        return None
    freedom = variance**2 / (of_clusters**2 / (clusters - 1) + (of_seeds**2 / (R - 1) if R > 1 else 0.0))
    return students_t(freedom) * math.sqrt(variance)


def students_t(freedom: float) -> float:
    """How many standard errors hold 95 % on both sides together."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def _scored(runs: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Scores of each seed, (R,), and with each cluster left out, (R, clusters). runs (R, clusters, K, K)."""
    together = runs.sum(axis=1)
    return scores_of(together), scores_of(together[:, None] - runs)


def _around(mean: float, half: float | None, least: float) -> Interval:
    """The interval, as far as the score can go."""
    return None if half is None else [max(least, mean - half), min(1.0, mean + half)]


def intervals(runs: np.ndarray) -> dict[str, Interval]:
    """95 % interval of the mean of each score over the seeds. runs (R, clusters, K, K): of each seed.

    With one seed it counts clusters alone. None with fewer than two clusters, and where nothing varies.
    """
    of, without = _scored(runs)
    return {name: _around(float(of[name].mean()), half_width(of[name], without[name]), 0.0) for name in NAMES}


def differences(a: np.ndarray, b: np.ndarray) -> dict[str, dict[str, Any]]:
    """Scores of a minus those of b on the same utterances, seed by seed: their mean, its interval, and each of them.

    a, b (R, clusters, K, K); of what no seed changes, R is 1 and stands for all.
    """
    (a_of, a_without), (b_of, b_without) = _scored(a), _scored(b)
    found = {}
    for name in NAMES:
        by_seed, without = a_of[name] - b_of[name], a_without[name] - b_without[name]
        mean = float(by_seed.mean())
        interval = _around(mean, half_width(by_seed, without), -1.0)
        found[name] = {"difference": mean, "interval": interval, "by_seed": by_seed.tolist()}
    return found


def spread(values: list[float]) -> dict[str, Any]:
    """Mean and standard deviation (of a sample; None of a single value), and the values."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "deviation": deviation, "values": values}

"""What can be had without the network, on the same folds: scores that a network must beat to have shown anything.

None of them chooses anything on the test part. They learn from all the rest; the linear classifier chooses its penalty on the
validation part first.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from npser.dataset import Dataset
from npser.inputs import with_deltas
from npser.metrics import confusion_matrix, scores
from npser.network import real_rows
from npser.split import Split

BINS = 20  # quantiles of the duration
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # of the squared weights, beside the mean loss of an utterance
Predict = Callable[[Split], np.ndarray]  # a split -> the class of each utterance of its test part


def baselines(data: Dataset, pool: ThreadPoolExecutor) -> dict[str, Predict]:
    """Every baseline that the data allows, by name."""
    K, y = len(data.labels), data.emotion_y
    seconds = np.array([data.seconds([r]) for r in range(len(y))])
    statistics = utterance_statistics(data, pool)
    found: dict[str, Predict] = {
        "majority": lambda split: _by_key(np.zeros(len(y), int), y, split, K),
        "duration": lambda split: _by_key(_duration_bins(seconds, split), y, split, K),
        "linear": lambda split: linear(statistics, y, split, K),
    }
    scenarios = sorted({u.scenario for u in data.utterances if u.scenario})
    if scenarios:
        number = {scenario: k + 1 for k, scenario in enumerate(scenarios)}
        key = np.array([number[u.scenario] if u.scenario else 0 for u in data.utterances])
        found["scenario"] = lambda split: _by_key(key, y, split, K)
    return found


def _rest(split: Split) -> np.ndarray:
    """All but the test part."""
    return np.array(sorted([*split.train, *split.validation]), int)


def _by_key(key: np.ndarray, y: np.ndarray, split: Split, classes: int) -> np.ndarray:
    """The commonest class among the rest's utterances with the same key; of all the rest, where none has it."""
    rest, test = _rest(split), np.array(split.test, int)
    counts = np.bincount(key[rest] * classes + y[rest], minlength=(key.max() + 1) * classes).reshape(-1, classes)
    best = np.where(counts.any(axis=1), counts.argmax(axis=1), counts.sum(axis=0).argmax())
    return best[key[test]]


def _duration_bins(seconds: np.ndarray, split: Split) -> np.ndarray:
    """Which quantile of the rest's durations each utterance lies in."""
    edges = np.quantile(seconds[_rest(split)], np.arange(1, BINS) / BINS)
    return np.searchsorted(edges, seconds, side="right")


def utterance_statistics(data: Dataset, pool: ThreadPoolExecutor) -> np.ndarray:
    """Mean and deviation of features, deltas and delta-deltas over each utterance's frames in sound, (R, 6 width)."""
    store, d = data.store, 3 * data.store.rows.shape[1]
    zero, one = np.zeros(d, np.float32), np.ones(d, np.float32)

    def of(r: int) -> np.ndarray:
        window = np.arange(store.recordings[r], store.recordings[r + 1])
        X, bounds = with_deltas(store, window, zero, one)
        Y = X[real_rows(bounds, store.real(window))].astype(np.float64)
        return np.concatenate([Y.mean(axis=0), Y.std(axis=0)])

    return np.stack(list(pool.map(of, range(len(data.utterances)))))


def linear(F: np.ndarray, y: np.ndarray, split: Split, classes: int) -> np.ndarray:
    """Multinomial logistic regression; its penalty is the best one on the validation part, by UA. F (R, D) -> (test,)."""
    train, validation = np.array(split.train, int), np.array(split.validation, int)
    penalty = PENALTIES[1]
    if len(validation):
        ua = []
        for candidate in PENALTIES:
            predicted = _fit_linear(F[train], y[train], candidate, classes)(F[validation])
            ua.append(round(scores(confusion_matrix(y[validation], predicted, classes))["ua"], 9))
        penalty = PENALTIES[max(range(len(ua)), key=lambda k: (ua[k], k))]  # the stronger of two that are as good
    rest = _rest(split)
    return _fit_linear(F[rest], y[rest], penalty, classes)(F[np.array(split.test, int)])


def _fit_linear(F: np.ndarray, y: np.ndarray, penalty: float, classes: int) -> Callable[[np.ndarray], np.ndarray]:
    """Minimise mean cross-entropy + penalty / 2 |W|^2 over W (D, classes) and b; returns F (n, D) -> classes (n,)."""
    from scipy.optimize import minimize

    mean, std = F.mean(axis=0), F.std(axis=0)
    std[std < 1e-6] = 1
    X, D = (F - mean) / std, F.shape[1]
    Y = np.eye(classes)[y]

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        loss, dW, db = logistic(theta[: D * classes].reshape(D, classes), theta[D * classes :], X, Y, penalty)
        return loss, np.concatenate([dW.ravel(), db])

    found = minimize(objective, np.zeros(D * classes + classes), jac=True, method="L-BFGS-B", options={"maxiter": 300})
    W, b = found.x[: D * classes].reshape(D, classes), found.x[D * classes :]
    return lambda new: ((new - mean) / std @ W + b).argmax(axis=1)


def logistic(
    W: np.ndarray, b: np.ndarray, X: np.ndarray, Y: np.ndarray, penalty: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Loss and its gradients. X (n, D), Y (n, classes) one-hot -> loss, dW (D, classes), db (classes,)."""
    logits = X @ W + b
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    dlogits = (np.exp(log_p) - Y) / len(X)
    loss = -(Y * log_p).sum() / len(X) + penalty / 2 * (W * W).sum()
    return float(loss), X.T @ dlogits + penalty * W, dlogits.sum(axis=0)

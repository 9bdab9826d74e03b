"""What can be had without the network, on the same folds: scores that a network must beat to have shown anything.

They learn from what the network learns from, and none of them chooses anything on the test part. Some are controls:
duration, level, scenario and speaker alone say nothing about how somebody speaks; where they do well, the corpus gives its
classes away.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from npser import frame_features
from npser.dataset import Dataset
from npser.inputs import of_frames, with_deltas
from npser.metrics import confusion_matrix, scores
from npser.network import real_rows
from npser.split import Split
from npser.store import Store

BINS = 20  # quantiles of duration and level
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # of the squared weights, beside the mean loss of an utterance
FRAMES = "linear-frames"  # the linear baseline that learns from frame features
Predict = Callable[[Split, np.ndarray], np.ndarray]  # a split, what to learn from -> the class of each test utterance


def learnt_from(split: Split, refit: bool) -> np.ndarray:
    """The utterances that the network's weights come from: the training part, with refit the validation part too."""
    return np.array(sorted([*split.train, *split.validation]) if refit else split.train, int)


def baselines(data: Dataset, heard: dict[str, Store], pool: ThreadPoolExecutor, shared_speakers: bool) -> dict[str, Predict]:
    """Every baseline that the data allows, by name. heard: what each linear one learns from; shared_speakers: see controls."""

    def classified(name: str, store: Store) -> Predict:
        statistics = utterance_statistics(store, pool, frames=name == FRAMES)
        return lambda split, learn: linear(statistics, data.emotion_y, split, learn, len(data.labels))

    return controls(data, shared_speakers) | {name: classified(name, store) for name, store in heard.items()}


def controls(data: Dataset, shared_speakers: bool) -> dict[str, Predict]:
    """Those that hear no voice. shared_speakers: whether speakers of a test part are in its training part too."""
    K, y, store = len(data.labels), data.emotion_y, data.store
    seconds = np.array([data.seconds([r]) for r in range(len(y))])
    level = np.array([_level(store.levels[store.recordings[r] : store.recordings[r + 1]]) for r in range(len(y))])

    def by(key: np.ndarray) -> Predict:
        return lambda split, learn: _by_key(key, y, split, learn, K)

    def by_bins(values: np.ndarray) -> Predict:
        return lambda split, learn: _by_key(_bins(values, learn), y, split, learn, K)

    found = {"majority": by(np.zeros(len(y), int)), "duration": by_bins(seconds), "level": by_bins(level)}
    if any(u.scenario for u in data.utterances):
        found["scenario"] = by(_numbered([u.scenario for u in data.utterances]))
    if shared_speakers and any(u.speaker for u in data.utterances):
        found["speaker"] = by(_numbered([u.speaker for u in data.utterances]))
    return found


def _level(windows: np.ndarray) -> float:
    """Level of a recording, dB, from those of its windows: their mean power."""
    return 10 * np.log10(np.mean(10 ** (windows / 10)))


def _numbered(names: list[str | None]) -> np.ndarray:
    """A number for each name, 0 where there is none."""
    number = {name: k + 1 for k, name in enumerate(sorted({name for name in names if name}))}
    return np.array([number[name] if name else 0 for name in names])


def _by_key(key: np.ndarray, y: np.ndarray, split: Split, learn: np.ndarray, classes: int) -> np.ndarray:
    """The commonest class among utterances with the same key that are learnt from; of all of these, where none has it."""
    counts = np.bincount(key[learn] * classes + y[learn], minlength=(key.max() + 1) * classes).reshape(-1, classes)
    best = np.where(counts.any(axis=1), counts.argmax(axis=1), counts.sum(axis=0).argmax())
    return best[key[np.array(split.test, int)]]


def _bins(values: np.ndarray, learn: np.ndarray) -> np.ndarray:
    """Which quantile of the values that are learnt from each utterance lies in."""
    edges = np.quantile(values[learn], np.arange(1, BINS) / BINS)
    return np.searchsorted(edges, values, side="right")


def utterance_statistics(store: Store, pool: ThreadPoolExecutor, frames: bool = False) -> np.ndarray:
    """Mean and deviation of features and deltas over each recording's frames in sound.

    Log-mel bands with deltas and delta-deltas, (R, 6 width); frames: frame features with their deltas, (R, 4 width).
    """
    width = store.rows.shape[1]

    def of(r: int) -> np.ndarray:
        window = np.arange(store.recordings[r], store.recordings[r + 1])
        if frames:
            X, bounds = of_frames(store, window, np.zeros(2 * width), np.ones(2 * width), frame_features.COLUMNS)
        else:
            X, bounds = with_deltas(store, window, np.zeros(3 * width, np.float32), np.ones(3 * width, np.float32))
        Y = X[real_rows(bounds, store.real(window))].astype(np.float64)
        return np.concatenate([Y.mean(axis=0), Y.std(axis=0)])

    return np.stack(list(pool.map(of, range(len(store.recordings) - 1))))


def linear(F: np.ndarray, y: np.ndarray, split: Split, learn: np.ndarray, classes: int) -> np.ndarray:
    """Multinomial logistic regression; its penalty is the best one on the validation part, by UA. F (R, D) -> (test,)."""
    train, validation = np.array(split.train, int), np.array(split.validation, int)
    penalty = PENALTIES[1]
    if len(validation):
        ua = []
        for candidate in PENALTIES:
            predicted = _fit_linear(F[train], y[train], candidate, classes)(F[validation])
            ua.append(round(scores(confusion_matrix(y[validation], predicted, classes))["ua"], 9))
        penalty = PENALTIES[max(range(len(ua)), key=lambda k: (ua[k], k))]  # the stronger of two that are as good
    return _fit_linear(F[learn], y[learn], penalty, classes)(F[np.array(split.test, int)])


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

"""BLSTM-ELM (Lee and Tashev, 2015) as slow literal loops over scalars, to test against."""

import itertools
import math
from typing import Any

import numpy as np
from reference import (
    Arrays,
    Matrix,
    Numbers,
    Utterances,
    Var,
    blstm,
    cross_entropy,
    dense,
    dropout,
    gradients_of,
    lift,
    softmax,
    total,
    values,
)

# ------------------------------------------------------------------------------------------------ stretches and paths


def stretches(voiced: list[bool], gap: int) -> list[tuple[int, int]]:
    """First frame and end of each stretch of one utterance: a region that is no shorter gap away from the one before is new."""
    regions: list[list[int]] = []
    for t, is_voiced in enumerate(voiced):
        if is_voiced and regions and t - regions[-1][1] < gap:
            regions[-1][1] = t + 1
        elif is_voiced:
            regions.append([t, t + 1])
    found = [0]
    for before, after in itertools.pairwise(regions):
        middle = (before[1] + after[0]) // 2
        if middle - found[-1] >= 3 and len(voiced) - middle >= 3:
            found.append(middle)
    return list(itertools.pairwise([*found, len(voiced)]))


def is_path(labels: tuple[int, ...], null: int, emotion: int) -> bool:
    """Null, emotion, Null, each for some frames."""
    return [label for label, _ in itertools.groupby(labels)] == [null, emotion, null]


def alignment_loss(P: Matrix, of: list[tuple[int, int]], emotion: int) -> Var:
    """The mean over stretches of -ln of what all labellings that are paths add up to. P (L, K+1), Null is the last column."""
    losses = []
    null = len(P[0]) - 1
    for start, end in of:
        paths = []
        for labels in itertools.product((null, emotion), repeat=end - start):
            if is_path(labels, null, emotion):
                product = Var(1.0)
                for t, label in zip(range(start, end), labels, strict=True):
                    product = product * P[t][label]
                paths.append(product)
        losses.append(-total(paths).log() if paths else Var(0.0))
    return total(losses) / len(losses)


# ------------------------------------------------------------------------------------------------ the network


def logits_of(p: dict[str, Any], X: Matrix, masks: list[np.ndarray] | None) -> Matrix:
    """One utterance X (L, d_spec) -> (L, K+1); masks: of the dropout after each layer."""
    H = X
    for k, layer in enumerate(("lstm1", "lstm2")):
        H = blstm(H, p, layer)
        H = H if masks is None else dropout(H, masks[k].tolist())
    return [dense(h, p["output.W"], p["output.b"]) for h in H]


def loss_and_gradients(
    params: Arrays,
    utterances: Utterances,
    voiced: list[list[bool]] | None,
    gap: int,
    y: Numbers,
    weight: Numbers,
    masks: list[list[np.ndarray]] | None,
) -> tuple[float, np.ndarray, Arrays]:
    """The weighted sum of losses, logits (N, K+1), gradients by name. voiced: by utterance; None: of every frame."""
    p = {name: lift(a) for name, a in params.items()}
    loss, rows = Var(0.0), []
    for u, X in enumerate(utterances):
        logits = logits_of(p, lift(X), masks[u] if masks else None)
        rows += logits
        k, w = int(y[u]), float(weight[u])
        if voiced is None:
            loss = loss + total(cross_entropy(row, k) for row in logits) * (w / len(logits))
        elif k >= 0:
            loss = loss + alignment_loss([softmax(row) for row in logits], stretches(voiced[u], gap), k) * w
    loss.backward()
    gradients = gradients_of(p, params)
    return loss.value, values(rows), gradients


# ------------------------------------------------------------------------------------------------ the decision


def statistics(P: list[list[float]]) -> list[float]:
    """Of each column of P (L, K+1): all maxima, all minima, all means, all shares above 0.2."""
    columns = list(zip(*P, strict=True))
    found = [max(column) for column in columns] + [min(column) for column in columns]
    found += [sum(column) / len(column) for column in columns]
    return found + [sum(p > 0.2 for p in column) / len(column) for column in columns]


def posteriors(logits: list[list[float]]) -> list[list[float]]:
    """The softmax of each row."""
    return [[math.exp(x) / sum(map(math.exp, row)) for x in row] for row in logits]


def kernel_elm(S: np.ndarray, y: Numbers, classes: int, C: float, gamma: float, asked: np.ndarray) -> np.ndarray:
    """Outputs (M, K) for statistics asked (M, d), learnt from S (R, d), y (R,): k(s, S) (Omega + I / C)^-1 T."""
    mean, std = S.mean(axis=0), S.std(axis=0)
    std = np.where(std > 1e-6, std, 1)

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return math.exp(-gamma * sum(((a[d] - b[d]) / std[d]) ** 2 for d in range(len(mean))))

    Omega = np.array([[kernel(a, b) for b in S] for a in S])
    T = np.array([[float(int(label) == k) for k in range(classes)] for label in y])
    U = np.linalg.inv(Omega + np.eye(len(S)) / C) @ T
    return np.array([[kernel(a, b) for b in S] for a in asked]) @ U


def mean_posterior(P: list[list[float]], classes: int) -> list[float]:
    """Of the emotions, without Null; they add up to 1."""
    means = [sum(row[k] for row in P) / len(P) for k in range(classes)]
    return [mean / sum(means) for mean in means]

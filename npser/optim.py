"""Adam over one flat vector, section 5.1 of the paper, and Adadelta; with the formulas of Keras 2.2.4."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

from npser.config import Config
from npser_kernels.adadelta import adadelta_step
from npser_kernels.adam import adam_step

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7
RHO = 0.95  # of Adadelta


class Adam:
    """Moments m, v (P,) and the number of updates made. The only state that training carries besides theta."""

    def __init__(
        self,
        size: int,
        learning_rate: float,
        decay: float,
        clip: float,
        dtype: DTypeLike = np.float32,
        weight_decay: np.ndarray | None = None,
    ) -> None:
        self.m, self.v, self.updates = np.zeros(size, dtype), np.zeros(size, dtype), 0
        self.learning_rate, self.decay, self.clip = learning_rate, decay, clip
        self.weight_decay = weight_decay if weight_decay is not None and weight_decay.any() else None

    def step(self, theta: np.ndarray, grad: np.ndarray, factor: float = 1.0) -> None:
        """Update theta (P,) in place by the gradient of the mean loss, grad (P,), clipped to [-clip, clip].

        factor: of the schedule, see rate_factor. weight_decay, (P,), shrinks theta first, in proportion to the rate and apart
        from the gradient, as in AdamW (Loshchilov and Hutter, ICLR 2019).
        """
        rate = factor * self.learning_rate / (1 + self.decay * self.updates)
        if self.weight_decay is not None:
            theta *= 1 - theta.dtype.type(rate) * self.weight_decay
        self.updates += 1
        self._update(theta, grad, rate)

    def _update(self, theta: np.ndarray, grad: np.ndarray, rate: float) -> None:
        rate *= math.sqrt(1 - BETA_2**self.updates) / (1 - BETA_1**self.updates)
        adam_step(theta, self.m, self.v, grad, rate, BETA_1, BETA_2, EPSILON, self.clip)


class Adadelta(Adam):
    """Zeiler (2012): each parameter's changes are as large as its changes were before; learning_rate is 1 there.

    v: the running mean of squared gradients, m: that of squared changes. The rest is Adam's.
    """

    def _update(self, theta: np.ndarray, grad: np.ndarray, rate: float) -> None:
        adadelta_step(theta, self.m, self.v, grad, rate, RHO, EPSILON, self.clip)


def rate_factor(c: Config, updates: int, updates_per_epoch: int) -> float:
    """The factor of the learning rate after so many updates."""
    warmup = min(c.warmup, c.epochs / 4)
    rising = min(1.0, (updates + 1) / (warmup * updates_per_epoch)) if warmup else 1.0
    falling = (1 + math.cos(math.pi * updates / (c.epochs * updates_per_epoch))) / 2 if c.schedule == "cosine" else 1.0
    return rising * falling

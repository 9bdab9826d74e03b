"""A network over a store: its input, loss, gradient, logits and scores, in shards on the threads of a pool, or on ranks."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from npser import adaptation, model
from npser.augment import augmented, augments
from npser.calibration import calibration_error, log_softmax
from npser.checkpoint import Checkpoint
from npser.config import Config, stream
from npser.dataset import Dataset
from npser.features import log_mel_kind
from npser.metrics import confusion_matrix, scores
from npser.optim import Adam
from npser.ranks import Pool, Ranks
from npser.store import Store, store_of

compiling = threading.Lock()  # threads that met an uncompiled kernel would compile it at the same time


class Targets(NamedTuple):
    """Classes of some utterances, (B,), a gender of -1 being unknown; and their weights in the loss, see cross_entropy."""

    emotion: np.ndarray
    gender: np.ndarray
    emotion_weight: np.ndarray
    gender_weight: np.ndarray

    def of(self, part: Any) -> Targets:
        """Those of some of the utterances."""
        return Targets(*(values[part] for values in self))


class Shard(NamedTuple):
    """Utterances that are computed together: their input, when it is asked for, their targets, and randomness for dropout."""

    inputs: Callable[[], tuple[Any, ...]]
    y: Targets
    rng: np.random.Generator


@dataclass(frozen=True)
class Network:
    """Parameters and normaliser, ready to be run over a store in shards. state: what is held beside theta, by name."""

    theta: np.ndarray
    shapes: model.Shapes
    config: Config
    mean: np.ndarray
    std: np.ndarray
    temperature: float = 1.0
    state: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, trained: Checkpoint) -> Network:
        """The network of a model file."""
        tensors, shapes = trained.tensors, trained.shapes
        theta = np.concatenate([tensors[name].ravel() for name in shapes])
        state = {name: tensors[name] for name in trained.state}
        return cls(theta, shapes, trained.config, tensors["norm.mean"], tensors["norm.std"], trained.temperature, state)

    @property
    def module(self) -> Any:
        return model.module_of(self.config)

    @property
    def p(self) -> model.Views:
        """Parameters and state by layer and name."""
        return model.views(self.theta, self.shapes, self.state)

    def adapted(self, heard: np.ndarray, hop: int) -> Network:
        """The network, as it was trained, adapted to what was heard: its normaliser, and what model.familiar names."""
        mean, std = adaptation.adapted(self.mean, self.std, heard, hop)
        state = self.state | model.familiar(self.config, self.state, adaptation.own_share(heard, hop))
        return dataclasses.replace(self, mean=mean, std=std, state=state)

    def inputs(
        self,
        store: Store,
        window: np.ndarray,
        ends: np.ndarray | None = None,
        rng: np.random.Generator | None = None,
        own: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> tuple[Any, ...]:
        """What forward takes after p and c, of some windows. Augmented when rng is given; ends: see inputs.of_bands.

        own: mean and deviation of each window's own normaliser, (W, d_spec); by default that of the network.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # the loss tells
            if own is None:
                return self.module.inputs(store, window, self.mean, 1 / self.std, self.config, ends, rng)
            neutral = np.zeros_like(self.mean), np.ones_like(self.std)
            X, bounds, *more = self.module.inputs(store, window, *neutral, self.config, ends, rng)
            for w, (mean, std) in enumerate(zip(*own, strict=True)):
                rows = X[bounds[w] : bounds[w + 1]]
                rows -= mean
                rows *= 1 / std
            return X, bounds, *more

    def optimiser(self, weight_decay: np.ndarray) -> Adam:
        """That of the network, for as many parameters as have a weight decay, (P,)."""
        c = self.config
        if hasattr(self.module, "optimiser"):
            return self.module.optimiser(c, weight_decay.size, weight_decay)
        return Adam(weight_decay.size, c.learning_rate, c.decay, c.clip, weight_decay=weight_decay)

    def gradient(
        self,
        store: Store,
        window: np.ndarray,
        y: Targets,
        step: int,
        pool: ThreadPoolExecutor | Ranks,
        ends: np.ndarray | None = None,
        own: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> tuple[float, np.ndarray]:
        """Loss and gradient, (P,), of a batch; of several ranks each has its part of the gradient.

        step: of the run; ends (B,): the windows that give these their ends, where they are spliced; own: see inputs.
        """
        return self.total(self.shards(store, window, y, step, ends, own), store, pool)

    def shards(
        self,
        store: Store,
        window: np.ndarray,
        y: Targets,
        step: int,
        ends: np.ndarray | None = None,
        own: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> list[Shard]:
        """A batch cut up, with nothing computed as yet; arguments as of gradient."""
        c = self.config

        def shard(start: int) -> Shard:
            part, numbers = slice(start, start + c.shard), (c.seed, step, start // c.shard)
            others = None if ends is None else ends[part]
            voice = None if own is None else (own[0][part], own[1][part])
            inputs = functools.partial(self.inputs, store, window[part], others, stream("augment", *numbers), voice)
            return Shard(inputs, y.of(part), stream("dropout", *numbers))

        return [shard(start) for start in range(0, len(window), c.shard)]

    def total(
        self,
        shards: list[Shard],
        store: Store,
        pool: ThreadPoolExecutor | Ranks,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> tuple[float, np.ndarray]:
        """Loss and gradient of the shards of a batch. meanwhile: is called when all threads have been given theirs."""
        p, c = self.p, self.config

        def run(shard: Shard) -> tuple[float, np.ndarray]:
            with np.errstate(over="ignore", invalid="ignore"):  # the loss tells: fit stops where it is not finite
                loss, grads = model.loss(p, c, shard.inputs(), shard.y, shard.rng)
                return loss, model.flatten(grads, self.shapes)

        if hasattr(self.module, "gradient"):
            with np.errstate(over="ignore", invalid="ignore"):
                loss, grads, state = self.module.gradient(p, c, shards, pool)  # fit has refused several ranks
            meanwhile()
            self.state.update(state)
            store.release()
            return loss, model.flatten(grads, self.shapes)
        ranks = pool if isinstance(pool, Ranks) else Ranks(pool)
        loss, grad = ranks.total(run, shards, self.theta, meanwhile)  # in order: neither threads nor ranks show
        store.release()
        return loss, grad

    def solve(self, data: Dataset, train: np.ndarray, validation: np.ndarray, pool: Pool) -> None:
        """Set the part of the state that is solved and not descended, where the network has one.

        From what the network says of the training part; choices are made on the validation part, where there is one. Of each
        recording it sees the first window, as training does.
        """
        if hasattr(self.module, "solve"):
            parts = []
            for part in (train, validation):
                evidence = None
                if len(part):
                    of = self._outputs(data.store, data.first_windows(part), pool, lambda *out: (self.module.evidence(*out),))
                    evidence = of[0], data.emotion_y[part]
                parts.append(evidence)
            self.state.update(self.module.solve(self.p, self.config, *parts))

    def logits(self, store: Store, recordings: np.ndarray, pool: Pool) -> tuple[np.ndarray, np.ndarray]:
        """Logits of recordings, emotion (R, classes) and gender (R, 2 or 0): their windows' mean."""
        counts = store.recordings[recordings + 1] - store.recordings[recordings]
        window = np.concatenate([np.arange(n) + first for n, first in zip(counts, store.recordings[recordings], strict=True)])
        owner = np.repeat(np.arange(len(recordings)), counts)
        means = []
        for logits in self._outputs(store, window, pool, self.window_logits):
            total = np.zeros((len(recordings), logits.shape[1]))
            np.add.at(total, owner, logits)
            means.append(total / counts[:, None])
        return means[0], means[1]

    def window_logits(self, p: model.Views, c: Config, out: Any) -> tuple[np.ndarray, np.ndarray]:
        """From what forward returns to logits of its utterances, emotion (B, classes) and gender (B, 2 or 0)."""
        emotion, gender = self.module.decide(p, c, out)
        return emotion, np.empty((len(emotion), 0)) if gender is None else gender

    def _outputs(
        self, store: Store, window: np.ndarray, pool: Pool, of: Callable[..., tuple[np.ndarray, ...]]
    ) -> list[np.ndarray]:
        """of(p, c, out), some arrays with a row a window, of all windows, in their order."""
        p, c = self.p, self.config
        order = np.argsort(-store.frames(window), kind="stable")  # shards of similar length

        def run(shard: np.ndarray) -> tuple[np.ndarray, ...]:
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # the loss tells
                out, _ = self.module.forward(p, c, *self.inputs(store, window[shard]))
                return of(p, c, out)

        shards = [order[i : i + c.shard] for i in range(0, len(order), c.shard)]
        found = [np.concatenate(parts) for parts in zip(*pool.map(run, shards), strict=True)]
        store.release()
        back = np.argsort(order, kind="stable")
        return [values[back] for values in found]

    def log_probabilities(self, store: Store, recordings: np.ndarray, pool: Pool) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities of recordings, emotion (R, classes) and gender (R, 2 or 0): their windows' mean, adding up to 1.

        The mean of windows' log-probabilities and that of their logits differ by what all classes share. Only the emotion has a
        temperature.
        """
        emotion, gender = self.logits(store, recordings, pool)
        with np.errstate(over="ignore", invalid="ignore"):  # the loss tells
            return log_softmax(emotion / self.temperature), log_softmax(gender)


def evaluate(
    network: Network,
    data: Dataset,
    part: list[int],
    pool: Pool,
    choices: list[int] | None = None,
    voices: Sequence[Any] | None = None,
) -> dict[str, Any]:
    """Scores on some utterances.

    Those of metrics.scores, ``loss``, ``confusion``, ``gender_accuracy`` (None where unknown), ``ece``, the calibration error.

    choices: the network's outputs that stand for data.labels, where these are not all of them in the same order. voices: the
    voice of each utterance, to which the network is adapted by all its utterances here.
    """
    recordings, c = np.array(part), network.config
    if voices is None:
        emotion, gender = network.log_probabilities(data.store, recordings, pool)
    else:
        emotion, gender = adaptation.log_probabilities(network, data.store, recordings, voices, pool)
    emotion = emotion if choices is None else log_softmax(emotion[:, choices])
    y, gender_y = data.emotion_y[recordings], data.gender_y[recordings]
    confusion = confusion_matrix(y, emotion.argmax(axis=1), len(data.labels))
    loss, accuracy = -c.alpha * emotion[np.arange(len(y)), y].mean(), None
    known = np.flatnonzero(gender_y >= 0)
    if gender.shape[1] and len(known):
        loss -= c.beta * gender[known, gender_y[known]].sum() / len(y)
        accuracy = float((gender[known].argmax(axis=1) == gender_y[known]).mean())
    return {
        "loss": float(loss),
        **scores(confusion),
        "gender_accuracy": accuracy,
        "confusion": confusion.tolist(),
        "ece": calibration_error(emotion, y),
    }


def normaliser(store: Store, window: np.ndarray, pool: Pool, c: Config) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every column of X, (d_spec,) float32, over the frames of some windows that lie in sound.

    The padding does not count: see Store.real. Bounds are those of the windows, one row of X a frame.
    """
    zero, one = np.zeros(c.d_spec, np.float32), np.ones(c.d_spec, np.float32)
    inputs = model.module_of(c).inputs

    def sums(part: np.ndarray) -> np.ndarray:
        X, bounds = inputs(store, part, zero, one, c)[:2]
        return adaptation.sums(X[real_rows(bounds, store.real(part))])

    parts = [window[i : i + 16] for i in range(0, len(window), 16)]
    count, *found = sum(pool.map(sums, parts), np.zeros(1 + 2 * c.d_spec))  # in order, as above
    total, squares = np.split(np.array(found), 2)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    std[std < adaptation.NEGLIGIBLE] = 1
    return mean.astype(np.float32), std.astype(np.float32)


def real_rows(bounds: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Which rows of X are among the first real (B,) of their utterance, (N,)."""
    lengths = np.diff(bounds)
    return np.arange(bounds[-1]) - np.repeat(bounds[:-1], lengths) < np.repeat(real, lengths)


def compile_kernels(*configs: Config) -> None:
    """Have every kernel compiled that some networks need, or all networks, before threads meet one."""
    with compiling:
        for name in dict.fromkeys(c.network for c in configs) if configs else model.NETWORKS:
            _run_kernels(name)
        if not configs or any(augments(c) for c in configs):
            _run_augmentation()


@functools.cache
def _run_kernels(name: str) -> None:
    """Run a network's kernels once: it takes a step with a moment of silence."""
    module, zero, one = model.NETWORKS[name], np.zeros(1, np.int64), np.ones(1, np.float32)
    for c in module.SMALL.values():
        shapes, kind = model.shapes_of(c, 2, 2), module.kind(c)
        few = store_of([np.zeros(kind.hop * 12, np.float32)], kind)
        norm = np.zeros(c.d_spec, np.float32), np.ones(c.d_spec, np.float32)
        network = Network(model.init(shapes, 0), shapes, c, *norm, state=model.state_of(c, 2, 2))
        with ThreadPoolExecutor(1) as pool:
            _, grad = network.gradient(few, zero, Targets(zero, zero, one, one), 0, pool)
            network.logits(few, zero, pool)
        network.optimiser(np.zeros_like(grad)).step(network.theta, grad)


@functools.cache
def _run_augmentation() -> None:
    """Run the kernels of the augmentation once."""
    zero, kind = np.zeros(1, np.int64), log_mel_kind(1.0, pad=False, level=False)
    few = store_of([np.zeros(kind.hop * 12, np.float32)], kind)
    augmented(few, zero, zero, Config(stretch=0.1, warp=0.1, channel=1.0), np.random.default_rng(0))

"""Training: one loop, read top to bottom, section 5.1 of the paper."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npser import augment, checkpoint, model
from npser.calibration import calibration_error, fit_temperature
from npser.checkpoint import Checkpoint
from npser.config import Config, param_shapes, stream, to_toml
from npser.dataset import GENDERS, Dataset
from npser.features import HOP, N_MELS
from npser.lite import log_softmax
from npser.metrics import confusion_matrix, scores
from npser.optim import Adam, rate_factor
from npser.split import Split
from npser.store import Progress, Store, normaliser

Say = Callable[[str], None]
Targets = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
_compiling = threading.Lock()


@dataclass
class State:
    """Where a run stands; together with the settings and the data it decides everything that follows."""

    theta: np.ndarray
    adam: Adam
    epoch: int = 0  # epochs done
    best: dict[str, Any] | None = None  # scores on the validation session of the epoch whose weights are kept
    oracle: dict[str, Any] | None = None  # the highest test UA of any epoch: never used, only shown


@dataclass(frozen=True)
class Network:
    """Parameters and normaliser, ready to be run over a store in shards."""

    theta: np.ndarray
    shapes: model.Shapes
    config: Config
    mean: np.ndarray
    std: np.ndarray
    temperature: float = 1.0

    @classmethod
    def of(cls, trained: Checkpoint) -> Network:
        """The network of a model file."""
        tensors, shapes = trained.tensors, trained.shapes
        theta = np.concatenate([tensors[name].ravel() for name in shapes])
        return cls(theta, shapes, trained.config, tensors["norm.mean"], tensors["norm.std"], trained.temperature)

    def input(
        self, store: Store, window: np.ndarray, ends: np.ndarray | None = None, rng: np.random.Generator | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """X (N, d_spec), bounds and frames for model.forward: of the padding only what differs. Augmented when rng is given."""
        c = self.config
        if rng is not None and (c.stretch or c.warp or c.splice or c.channel):
            ends = window if ends is None else ends
            store, window = augment.bend(store, window, ends, c, rng), np.arange(len(window))
        frames, stored = store.frames(window), store.stored(window)
        X, bounds = store.batch(window, self.mean, 1 / self.std, model.distinct_rows(stored, frames, c), c.level)
        if rng is not None and (c.mask_bands or c.mask_frames):
            augment.mask(X, bounds, stored, c, rng)
        return X, bounds, frames

    def gradient(
        self,
        store: Store,
        window: np.ndarray,
        y: Targets,
        step: int,
        pool: ThreadPoolExecutor,
        ends: np.ndarray | None = None,
    ) -> tuple[float, np.ndarray]:
        """Loss and gradient, (P,), of a batch.

        y: emotion, gender, and the weights of both, each (B,); step: of the run; ends (B,): the windows with whose ends these
        end, where they are spliced.
        """

        def run(start: int) -> tuple[float, np.ndarray]:
            shard = slice(start, start + self.config.shard)
            numbers = self.config.seed, step, start // self.config.shard
            others = None if ends is None else ends[shard]
            X, bounds, frames = self.input(store, window[shard], others, stream("augment", *numbers))
            dropout = stream("dropout", *numbers)
            p, (emotion_y, gender_y, emotion_weight, gender_weight) = model.views(self.theta, self.shapes), y
            targets = emotion_y[shard], gender_y[shard], emotion_weight[shard], gender_weight[shard]
            with np.errstate(over="ignore", invalid="ignore"):  # the loss tells: fit stops where it is not finite
                return model.loss(p, self.config, X, bounds, *targets, dropout, frames)

        loss, grad = 0.0, np.zeros_like(self.theta)
        for shard_loss, shard_grad in pool.map(run, range(0, len(window), self.config.shard)):  # in order: threads do not show
            loss += shard_loss
            grad += shard_grad
        store.release()
        return loss, grad

    def logits(self, store: Store, recordings: np.ndarray, pool: ThreadPoolExecutor) -> tuple[np.ndarray, np.ndarray]:
        """Logits of recordings, emotion (R, classes) and gender (R, 2 or 0): their windows' mean."""
        counts = store.recordings[recordings + 1] - store.recordings[recordings]
        window = np.concatenate([np.arange(n) + first for n, first in zip(counts, store.recordings[recordings], strict=True)])
        order = np.argsort(-store.frames(window), kind="stable")  # shards of similar length
        p = model.views(self.theta, self.shapes)

        def run(shard: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            X, bounds, frames = self.input(store, window[shard])
            emotion, gender, _ = model.forward(p, self.config, X, bounds, frames=frames)
            return emotion, np.empty((len(shard), 0)) if gender is None else gender

        shards = [order[i : i + self.config.shard] for i in range(0, len(order), self.config.shard)]
        owner = np.repeat(np.arange(len(recordings)), counts)
        means = []
        for logits in map(np.concatenate, zip(*pool.map(run, shards), strict=True)):
            total = np.zeros((len(recordings), logits.shape[1]))
            np.add.at(total, owner[order], logits)
            means.append(total / counts[:, None])
        store.release()
        return means[0], means[1]

    def log_probabilities(
        self, store: Store, recordings: np.ndarray, pool: ThreadPoolExecutor
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities of recordings, emotion (R, classes) and gender (R, 2 or 0): their windows' mean, adding up to 1.

        The mean of windows' log-probabilities and that of their logits differ by what all classes share. Only the emotion has a
        temperature.
        """
        emotion, gender = self.logits(store, recordings, pool)
        return log_softmax(emotion / self.temperature), log_softmax(gender)


def evaluate(
    network: Network, data: Dataset, part: list[int], pool: ThreadPoolExecutor, choices: list[int] | None = None
) -> dict[str, Any]:
    """Scores on some utterances.

    Those of metrics.scores, ``loss``, ``confusion``, ``gender_accuracy`` (None where unknown), ``ece``, the calibration error.

    choices: the network's outputs that stand for data.labels, where these are not all of them in the same order.
    """
    recordings, c = np.array(part), network.config
    emotion, gender = network.log_probabilities(data.store, recordings, pool)
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


def compile_kernels() -> None:
    """Have every kernel compiled: threads that met an uncompiled one would compile it at the same time."""
    with _compiling:
        _run_kernels()


@functools.cache
def _run_kernels() -> None:
    """Run every kernel once, on a few frames."""
    c = Config(d_cnn=4, d_lstm=4, d_attn=4, n_attn=2)
    shapes = param_shapes(c, 2, 2)
    rows, window = np.zeros((12, N_MELS), np.float32), np.zeros(1, np.int64)
    few = Store(rows, np.array([0, 12]), np.array([12 * HOP]), np.array([0, 1]), {}, 0)
    zeros, ones = np.zeros(c.d_spec, np.float32), np.ones(c.d_spec, np.float32)
    network = Network(model.init(shapes, 0), shapes, c, zeros, ones)
    targets = (window, window, ones[:1], ones[:1])
    with ThreadPoolExecutor(1) as pool:
        _, grad = network.gradient(few, window, targets, 0, pool)
    Adam(grad.size, c.learning_rate, c.decay, c.clip).step(network.theta, grad)


def _decayed(c: Config, shapes: model.Shapes) -> np.ndarray:
    """The weight decay of each parameter, (P,): that of the settings, but for biases."""
    each = np.zeros(sum(math.prod(shape) for shape in shapes.values()), np.float32)
    for params in model.views(each, shapes).values():
        for name, value in params.items():
            value[:] = 0 if name.startswith("b") else c.weight_decay
    return each


def class_weights(y: np.ndarray, classes: int, kind: str) -> np.ndarray:
    """Weight of each class in the loss, (classes,); their mean over the utterances is 1."""
    counts = np.bincount(y, minlength=classes)
    if kind == "none":
        return np.ones(classes)
    return len(y) / np.maximum(counts, 1) / np.count_nonzero(counts)


def fit(
    data: Dataset,
    split: Split,
    config: Config,
    out: Path,
    about: dict[str, Any],
    pool: ThreadPoolExecutor,
    *,
    resume: bool = False,
    oracle: bool = True,
    say: Say = print,
    progress: Progress = lambda items, **_: items,
) -> dict[str, Any]:
    """Train the network and score it once on the test part.

    Parameters
    ----------
    data, split, config
        What to train on, and how. The gender head is left out where beta is 0 or the training part lacks one of the genders.
    out : Path
        Folder of model.safetensors, last.safetensors and metrics.jsonl; it exists.
    about : dict
        Goes into the model file, with the scores.
    resume : bool
        Go on from last.safetensors, where there is one.
    oracle : bool
        Score the test part after every epoch as well, to show how far selection on it would have flattered.
    say, progress : callables
        Receive a line an epoch; wrap an iterable of batches.

    Returns
    -------
    dict
        ``selected_epoch``, ``validation``, ``test`` and ``oracle`` scores (None where there is no such part), ``parameters``;
        ``calibration``, None without a validation part: the temperature that it gives to the model file, fitted after the epoch
        was chosen, and the test part's calibration error before and after. The test scores are with it.

    Raises
    ------
    ValueError
        When the loss is not finite, a file cannot be written, or last.safetensors belongs to other data or settings.
    """
    train = np.array(split.train)
    emotion_y, gender_y = data.emotion_y, data.gender_y
    genders = GENDERS if config.beta > 0 and set(gender_y[train]) >= {0, 1} else []
    if not genders:
        config = dataclasses.replace(config, beta=0.0)
    shapes = param_shapes(config, len(data.labels), len(genders))
    mean, std = normaliser(data.store, data.first_windows(train), pool, config.d_spec, config.level)
    weight = class_weights(emotion_y[train], len(data.labels), config.class_weight)[emotion_y].astype(np.float32)

    theta = model.init(shapes, config.seed)
    state = State(
        theta, Adam(theta.size, config.learning_rate, config.decay, config.clip, weight_decay=_decayed(config, shapes))
    )
    identity = _identity(data, split, config, oracle)
    lines: list[str] = []  # of metrics.jsonl
    for leftover in out.glob(".*-????????????????"):  # of a run that was killed while it wrote
        leftover.unlink()
    if resume and (out / "last.safetensors").exists():
        lines = _resume(out, state, identity, config.epochs)
        say(f"resume    behind epoch {state.epoch}")
    elif resume:
        say(f"resume    there is nothing to go on with in {out}: starting at epoch 1")
    if state.epoch < config.epochs:  # what an earlier end of this run reported is no longer its end
        for name in ("report.json", "report.md", "curves.png", "confusion.png"):
            (out / name).unlink(missing_ok=True)
    checkpoint.write(out / "metrics.jsonl", "".join(lines).encode())
    checkpoint.write(out / "config.toml", to_toml(config).encode())
    network = Network(state.theta, shapes, config, mean, std)

    def save_model(theta: np.ndarray, scores: dict[str, Any], temperature: float = 1.0) -> None:
        tensors = {f"{layer}.{name}": v for layer, p in model.views(theta, shapes).items() for name, v in p.items()}
        tensors |= {"norm.mean": mean, "norm.std": std}
        labels = {"emotion": data.labels, "gender": genders or None}
        checkpoint.save(
            out / "model.safetensors", Checkpoint(tensors, config, labels, temperature, {**about, "scores": scores})
        )

    for epoch in range(state.epoch + 1, config.epochs + 1):
        started = time.perf_counter()
        shuffled = stream("shuffle", config.seed, epoch).permutation(train)
        ends = augment.partners(train, emotion_y, gender_y, config.splice, stream("splice", config.seed, epoch))
        losses = []
        starts = range(0, len(train), config.batch)
        for start in progress(starts, desc=f"epoch {epoch}", unit="batch", leave=False):
            batch = shuffled[start : start + config.batch]
            batch = batch[np.argsort(-data.store.frames(data.first_windows(batch)), kind="stable")]  # similar lengths together
            share = np.float32(1 / len(batch))
            y = (emotion_y[batch], gender_y[batch], weight[batch] * share, np.full(len(batch), share))
            window, other = data.first_windows(batch), data.first_windows(ends[batch])
            batch_loss, grad = network.gradient(data.store, window, y, state.adam.updates, pool, other)
            if not (np.isfinite(batch_loss) and np.isfinite(grad).all()):
                raise ValueError(
                    f"the loss is not finite in epoch {epoch}, batch {start // config.batch + 1}; "
                    f"try a lower rate, such as learning_rate={config.learning_rate / 3:.1g}"
                )
            state.adam.step(state.theta, grad, rate_factor(config, state.adam.updates, len(starts)))
            losses.append(batch_loss * len(batch))

        row: dict[str, Any] = {"epoch": epoch, "train_loss": sum(losses) / len(train)}
        if split.validation:
            row["validation"] = evaluate(network, data, split.validation, pool)
        row["best"] = _is_better(row.get("validation"), state.best, config.select)
        if row["best"]:
            state.best = {"epoch": epoch, **row.get("validation", {})}
            save_model(state.theta, {"epoch": epoch, "validation": row.get("validation"), "test": None})
        if oracle and split.test:
            test = evaluate(network, data, split.test, pool)
            if state.oracle is None or test["ua"] > state.oracle["ua"]:
                state.oracle = {"wa": test["wa"], "ua": test["ua"], "epoch": epoch, "confusion": test["confusion"]}
        state.epoch = epoch
        lines.append(json.dumps(row) + "\n")
        checkpoint.write(out / "metrics.jsonl", "".join(lines).encode())
        _save_state(out, state, identity)
        say(_epoch_line(row, state.best, config, time.perf_counter() - started))

    assert state.best is not None  # there is at least one epoch
    best = Network.of(checkpoint.load(out / "model.safetensors"))
    best = dataclasses.replace(best, temperature=1.0)  # of a resumed run it may have been fitted before
    calibrated = _calibrated(best, data, split.validation, pool)
    before, test = (evaluate(n, data, split.test, pool) if split.test else None for n in (best, calibrated))
    calibration = None
    if split.validation:
        calibration = {"temperature": calibrated.temperature}
        calibration |= {"ece_before": before and before["ece"], "ece_after": test and test["ece"]}
    validation = {k: v for k, v in state.best.items() if k != "epoch"} or None
    found = {"epoch": state.best["epoch"], "validation": validation, "test": test, "calibration": calibration}
    save_model(best.theta, found, calibrated.temperature)
    return {
        "selected_epoch": state.best["epoch"],
        "validation": validation,
        "test": test,
        "calibration": calibration,
        "oracle": state.oracle,
        "parameters": best.theta.size,
        "config": config,
        "genders": genders,
    }


def _calibrated(network: Network, data: Dataset, part: list[int], pool: ThreadPoolExecutor) -> Network:
    """The network with the temperature that makes some utterances most likely; of none, as it is."""
    if not part:
        return network
    recordings = np.array(part)
    logits, _ = network.logits(data.store, recordings, pool)
    return dataclasses.replace(network, temperature=fit_temperature(logits, data.emotion_y[recordings]))


def _is_better(validation: dict[str, Any] | None, best: dict[str, Any] | None, select: str) -> bool:
    """Higher UA, then lower loss, then the earlier epoch; without a validation part always the latest epoch."""
    if validation is None or best is None or select == "last":
        return True

    def rank(s: dict[str, Any]) -> tuple[float, float]:
        ua = round(s["ua"], 9)  # the same recalls in another order may differ in the last bit
        return (ua if select == "ua" else 0.0, -s["loss"])

    return rank(validation) > rank(best)


def _epoch_line(row: dict[str, Any], best: dict[str, Any] | None, c: Config, seconds: float) -> str:
    """What the terminal shows of an epoch."""
    line = f"epoch {row['epoch']:{len(str(c.epochs))}}/{c.epochs}  train loss {row['train_loss']:.3f}"
    if "validation" in row and best is not None:
        v = row["validation"]
        line += f"  validation loss {v['loss']:.3f}  WA {v['wa']:.3f}  UA {v['ua']:.3f}"
        if c.select != "last":
            line += "  *" if row["best"] else f"  (best {best['ua']:.3f}, epoch {best['epoch']})"
    return f"{line}  {seconds:.1f} s"


def _identity(data: Dataset, split: Split, config: Config, oracle: bool) -> str:
    """Hash of all that a run's result depends on; of the number of epochs only where the learning rate does."""
    constant = config.schedule == "constant" and config.warmup == 0
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k != "epochs" or not constant}
    utterances = [(digest, u.emotion, u.gender) for digest, u in zip(data.content, data.utterances, strict=True)]
    parts = [split.train, split.validation, split.test]
    return hashlib.sha256(json.dumps([settings, utterances, parts, data.labels, oracle]).encode()).hexdigest()


def _save_state(out: Path, state: State, identity: str) -> None:
    """All that --resume needs, once an epoch."""
    tensors = {"theta": state.theta, "m": state.adam.m, "v": state.adam.v}
    about = {
        "epoch": state.epoch,
        "updates": state.adam.updates,
        "best": state.best,
        "oracle": state.oracle,
        "identity": identity,
    }
    checkpoint.write_tensors(out / "last.safetensors", tensors, about)


def _resume(out: Path, state: State, identity: str, epochs: int) -> list[str]:
    """Load the state of an interrupted run; returns the lines of its metrics, up to the last epoch that was saved."""
    tensors, about = checkpoint.read_tensors(out / "last.safetensors")
    if about.get("identity") != identity:
        raise ValueError(
            f"{out}: its run had other data or settings; give the same ones or another --out "
            "(--epochs may grow where the learning rate is constant)"
        )
    state.theta[:], state.adam.m[:], state.adam.v[:] = tensors["theta"], tensors["m"], tensors["v"]
    state.adam.updates, state.epoch = about["updates"], about["epoch"]
    state.best, state.oracle = about["best"], about["oracle"]
    if state.epoch > epochs:
        raise ValueError(f"{out}: {state.epoch} epochs are done; --epochs may grow and not shrink to {epochs}")
    for name in ("metrics.jsonl", "model.safetensors"):
        if not (out / name).exists():
            raise ValueError(f"{out / name}: is missing, so this run cannot be resumed; name another --out")
    return (out / "metrics.jsonl").read_text().splitlines(keepends=True)[: state.epoch]

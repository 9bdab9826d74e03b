"""Training: one loop, read top to bottom, section 5.1 of the paper."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np

from npser import __version__, adaptation, augment, checkpoint, model
from npser.calibration import fit_temperature
from npser.checkpoint import Checkpoint
from npser.config import Config, stream, to_toml
from npser.corpora.labels import GENDERS
from npser.dataset import Dataset
from npser.files import write
from npser.network import Network, Shard, Targets, evaluate, normaliser
from npser.optim import Adam, rate_factor
from npser.ranks import Ranks
from npser.split import Split
from npser.store import Progress

Say = Callable[[str], None]

AHEAD = 64  # shards, at most, whose input is made before it is needed: it lies in memory


@dataclass(frozen=True)
class Run:
    """What a run works with: its folder, which exists, its threads, and whom it tells.

    say receives a line for the user; progress wraps an iterable, as tqdm does. shared: with whom, where there are several
    ranks; those but the first are to be given functions that tell nobody.
    """

    out: Path
    pool: ThreadPoolExecutor
    say: Say = print
    progress: Progress = lambda items, **_: items
    shared: Ranks | None = None

    @property
    def ranks(self) -> Ranks:
        """Who shares the work."""
        return self.shared or Ranks(self.pool)


@dataclass
class State:
    """Where a run stands; together with the settings and the data it decides everything that follows."""

    network: Network
    adam: Adam  # of this rank's part of theta
    heard: np.ndarray | None = None  # of each utterance of the training part, where it is adapted to: see adaptation.sums
    epoch: int = 0  # epochs done
    best: dict[str, Any] | None = None  # scores on the validation session of the epoch whose weights are kept
    oracle: dict[str, Any] | None = None  # the highest test UA of any epoch: never used, only shown


def fit(
    data: Dataset,
    split: Split,
    config: Config,
    run: Run,
    about: dict[str, Any],
    *,
    resume: bool = False,
    oracle: bool = True,
) -> dict[str, Any]:
    """Train the network and score it once on the test part. Every rank runs this; the first alone reads and writes files.

    Parameters
    ----------
    data, split, config
        What to train on, and how. The gender head is left out where beta is 0 or the training part lacks one of the genders.
    run : Run
        Its folder receives model.safetensors, last.safetensors, metrics.jsonl and config.toml.
    about : dict
        Goes into the model file, with the scores.
    resume : bool
        Go on from last.safetensors, where there is one.
    oracle : bool
        Score the test part after every epoch as well, to show how far selection on it would have flattered.

    Returns
    -------
    dict
        ``selected_epoch``, ``validation``, ``test`` and ``oracle`` scores (None where there is no such part), ``parameters``;
        ``calibration``, None without a validation part: the temperature that it gives to the model file, fitted after the epoch
        was chosen, and the test part's calibration error before and after. The test scores are with it.

    Raises
    ------
    ValueError
        When the loss is not finite, a file cannot be written, last.safetensors belongs to other data or settings, or ranks do
        not compute alike.
    """
    train = np.array(split.train)
    genders = GENDERS if config.beta > 0 and set(data.gender_y[train]) >= {0, 1} else []
    if not genders:
        config = dataclasses.replace(config, beta=0.0)
    labels, ranks = {"emotion": data.labels, "gender": genders or None}, run.ranks
    state = _start(data, train, config, len(genders), ranks)
    _compare(data, train, state.network, ranks)
    identity = _identity(data, split, config, oracle)
    lines = _opened(run, state, identity, config, resume)  # of metrics.jsonl
    if state.epoch == 0 and hasattr(state.network.module, "pretrain"):
        state.network.theta[:] = state.network.module.pretrain(state.network, data, train, run)
    if state.epoch == 0 and hasattr(state.network.module, "solve_first"):
        _solve_first(data, train, state, run)

    for epoch in range(state.epoch + 1, config.epochs + 1):
        started = time.perf_counter()
        row: dict[str, Any] = {"epoch": epoch, "train_loss": _epoch(data, train, state, epoch, run)}
        if not np.isfinite(state.network.theta).all():
            raise _diverged(f"the weights are not finite after epoch {epoch}", config)
        state.network.solve(data, train, np.array(split.validation, int), ranks)
        if split.validation:
            row["validation"] = _validated(data, split, state.network, epoch, run)
        row["best"] = _is_better(row.get("validation"), state.best, config.select)
        if row["best"]:
            state.best = {"epoch": epoch, **row.get("validation", {})}
            found = {"epoch": epoch, "validation": row.get("validation"), "test": None}
            ranks.first(_save_model, run.out, state.network, labels, about, found)
        if oracle and split.test:
            test = evaluate(state.network, data, split.test, ranks)
            if state.oracle is None or test["ua"] > state.oracle["ua"]:
                state.oracle = {"wa": test["wa"], "ua": test["ua"], "epoch": epoch, "confusion": test["confusion"]}
        state.epoch = epoch
        lines.append(json.dumps(row) + "\n")
        ranks.first(write, run.out / "metrics.jsonl", "".join(lines).encode())
        _save_state(run, state, identity)
        run.say(_epoch_line(row, state.best, config, time.perf_counter() - started))

    assert state.best is not None  # there is at least one epoch
    best, found = _scored(data, split, state.best, config, run)
    ranks.first(_save_model, run.out, best, labels, about, found)
    return {
        "selected_epoch": found.pop("epoch"),
        **found,
        "oracle": state.oracle,
        "parameters": best.theta.size,
        "config": config,
        "genders": genders,
    }


def refuse_ranks(config: Config, size: int) -> None:
    """ValueError for a network that so many ranks cannot train."""
    module = model.module_of(config)
    if size > 1 and (hasattr(module, "gradient") or hasattr(module, "optimiser")):
        raise ValueError(
            f"the network {config.network} takes a mini-batch as one, or has an optimiser of its own, which {size} ranks "
            "cannot share; train it in one process, without mpiexec"
        )


def _start(data: Dataset, train: np.ndarray, config: Config, genders: int, ranks: Ranks) -> State:
    """A run before its first epoch."""
    shapes = model.shapes_of(config, len(data.labels), genders)
    module = model.module_of(config)
    window = data.first_windows(module.normalised_on(data, train) if hasattr(module, "normalised_on") else train)
    refuse_ranks(config, ranks.size)
    mean, std = normaliser(data.store, window, ranks, config)
    theta = module.init(shapes, config.seed) if hasattr(module, "init") else model.init(shapes, config.seed)
    network = Network(theta, shapes, config, mean, std, state=model.state_of(config, len(data.labels), genders))
    heard = adaptation.sums_of(data.store, train, ranks.pool, config) if config.adapt else None
    return State(network, network.optimiser(_decayed(config, shapes)[ranks.part(theta.size)]), heard)


def _compare(data: Dataset, train: np.ndarray, network: Network, ranks: Ranks) -> None:
    """Refuse ranks that do not compute the gradient of the first shard as rank 0 does."""
    if ranks.size == 1:
        return
    few = train[: network.config.shard]
    y = Targets(data.emotion_y[few], data.gender_y[few], *np.full((2, len(few)), 1 / len(few), np.float32))
    loss, grad = network.gradient(data.store, data.first_windows(few), y, 0, ranks.pool)
    unlike = ranks.unlike(hashlib.sha256(np.float64(loss).tobytes() + grad.tobytes()).hexdigest())
    if unlike:
        versions = {
            "npser": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "numba": numba.__version__,
        }
        others = [name for name, own in versions.items() if ranks.unlike(own)]
        reason = f"another version of {' and '.join(others)}" if others else "another kind of processor"
        raise ValueError(
            f"{', '.join(unlike)}: with {reason}, the gradient of one shard differs from that of rank 0, and the weights would "
            "depend on the number of ranks; start npser on machines of one kind, with the same packages"
        )


def _opened(run: Run, state: State, identity: str, config: Config, resume: bool) -> list[str]:
    """Make the run's folder ready, and with resume set the state to where it stopped; the lines of its metrics so far."""
    ranks, lines = run.ranks, list[str]()
    saved = ranks.first(_saved, run.out, identity, config.epochs) if resume else None
    if saved is not None:
        tensors, about, lines = saved
        own = ranks.part(state.network.theta.size)
        state.network.theta[:], state.adam.m[:], state.adam.v[:] = tensors["theta"], tensors["m"][own], tensors["v"][own]
        state.network.state.update({name: tensors[name] for name in state.network.state})
        state.adam.updates, state.epoch = about["updates"], about["epoch"]
        state.best, state.oracle = about["best"], about["oracle"]
        run.say(f"resume    after epoch {state.epoch}")
    elif resume:
        run.say(f"resume    there is nothing to go on with in {run.out}: starting at epoch 1")
    ranks.first(_cleared, run.out, lines, config, state.epoch < config.epochs)
    return lines


def _cleared(out: Path, lines: list[str], config: Config, goes_on: bool) -> None:
    """Make the files that a run begins with; where it goes on, what an earlier end of it reported is no longer its end."""
    if goes_on:
        for name in ("report.json", "report.md", "curves.png", "confusion.png"):
            (out / name).unlink(missing_ok=True)
    write(out / "metrics.jsonl", "".join(lines).encode())
    write(out / "config.toml", to_toml(config).encode())


def _epoch(data: Dataset, train: np.ndarray, state: State, epoch: int, run: Run) -> float:
    """Every utterance of the training part once, in random order, or as many of each corpus; returns their mean loss."""
    network, adam, config, ranks = state.network, state.adam, state.network.config, run.ranks
    part = ranks.part(network.theta.size)
    shuffled, shards_of = _met(data, train, state, epoch)
    losses, starts, upcoming = [], range(0, len(train), config.batch), list[Shard]()

    def begin(start: int, step: int) -> None:
        """Have the threads make the input of a batch when they are done with the shards before it: they would wait for Adam."""
        nonlocal upcoming
        batch = shuffled[start : start + config.batch]
        if len(batch) == 0:
            return
        upcoming = shards_of(network, batch, step)
        upcoming = ranks.begun(upcoming, lambda shard: shard._replace(inputs=ranks.pool.submit(shard.inputs).result), AHEAD)

    begin(0, adam.updates)
    for start in run.progress(starts, desc=f"epoch {epoch}", unit="batch", leave=False):
        following = functools.partial(begin, start + config.batch, adam.updates + 1)
        loss, grad = network.total(upcoming, data.store, ranks, following)
        if not ranks.every(np.isfinite(loss) and np.isfinite(grad).all()):
            raise _diverged(f"the loss is not finite in epoch {epoch}, batch {start // config.batch + 1}", config)
        adam.step(network.theta[part], grad, rate_factor(config, adam.updates, len(starts)))
        ranks.gather(network.theta)
        losses.append(loss * min(config.batch, len(train) - start))
    return sum(losses) / len(train)


def _met(
    data: Dataset, train: np.ndarray, state: State, epoch: int, counts: tuple[int, ...] = adaptation.HEARD
) -> tuple[np.ndarray, Callable[[Network, np.ndarray, int], list[Shard]]]:
    """What an epoch meets: utterances in random order, and a function of a network, some of them and the step: their shards.

    counts: recordings of its speaker that each is adapted to, where it is, see adaptation.drawn.
    """
    config = state.network.config
    weight = class_weights(data.emotion_y[train], len(data.labels), config.class_weight)[data.emotion_y].astype(np.float32)
    corpora = np.array([u.corpus for u in data.utterances])[train]
    shuffled = drawn(train, corpora, config.balance, stream("shuffle", config.seed, epoch))
    splicing = stream("splice", config.seed, epoch)
    ends = augment.splice_partners(train, data.emotion_y, data.gender_y, config.splice, splicing)
    own = _own_normalisers(data, train, state, epoch, counts)

    def shards_of(network: Network, batch: np.ndarray, step: int) -> list[Shard]:
        batch = batch[np.argsort(-data.store.frames(data.first_windows(batch)), kind="stable")]  # similar lengths together
        share = np.float32(1 / len(batch))
        y = Targets(data.emotion_y[batch], data.gender_y[batch], weight[batch] * share, np.full(len(batch), share))
        place = np.searchsorted(train, batch)
        voice = None if own is None else (own[0][place], own[1][place])
        return network.shards(data.store, data.first_windows(batch), y, step, data.first_windows(ends[batch]), voice)

    return shuffled, shards_of


def _solve_first(data: Dataset, train: np.ndarray, state: State, run: Run) -> None:
    """Solve what the network has beside it that learns from its input alone, by the input of some epochs.

    The first of them is not augmented. The others are, but for lines and rooms, and each voice has the statistics of all its
    recordings: lines, rooms and strange statistics would hide what there is to learn. Every rank finds the same.
    """
    network, parts = state.network, list[tuple[np.ndarray, Targets]]()
    c, everything = network.config, adaptation.HEARD[-1:]
    plain = dataclasses.replace(c, stretch=0.0, warp=0.0, splice=0.0, channel=0.0)
    for epoch in range(network.module.draws(c, len(train))):
        learner = dataclasses.replace(network, config=dataclasses.replace(c, channel=0.0) if epoch else plain)
        shuffled, shards_of = _met(data, train, state, epoch, everything)
        shards = shards_of(learner, shuffled, epoch)
        found = run.pool.map(lambda shard: network.module.evidence_of_input(c, *shard.inputs()), shards)
        parts += zip(found, (shard.y for shard in shards), strict=True)
        data.store.release()
    if parts:
        evidence = np.concatenate([evidence for evidence, _ in parts])
        y, weight = (np.concatenate([getattr(of, name) for _, of in parts]) for name in ("emotion", "emotion_weight"))
        network.state.update(network.module.solve_first(c, evidence, y, weight, len(data.labels)))


def _own_normalisers(
    data: Dataset, train: np.ndarray, state: State, epoch: int, counts: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Those of the utterances of the training part in this epoch, (n, d_spec), where they are adapted to their speakers."""
    if state.heard is None:
        return None
    network, rng = state.network, stream("voices", state.network.config.seed, epoch)
    voices = adaptation.voices_of([data.utterances[r] for r in train], "speaker")
    return adaptation.drawn(network.mean, network.std, state.heard, voices, data.store.hop, rng, counts)


def drawn(train: np.ndarray, corpora: np.ndarray, balance: str, rng: np.random.Generator) -> np.ndarray:
    """What an epoch meets of the training part (n,), whose corpora are named (n,): n utterances in random order.

    balance: none, each of them once; or corpora, as many of each corpus: of a large one some are left out, of a small one all
    come several times, each as often as the others or once more.
    """
    if balance == "none":
        return rng.permutation(train)
    parts, names = [], sorted(set(corpora.tolist()))
    for k, name in enumerate(names):
        own, wanted = train[corpora == name], len(train) * (k + 1) // len(names) - len(train) * k // len(names)
        parts.append(np.concatenate([rng.permutation(own) for _ in range(-(-wanted // len(own)))])[:wanted])
    return rng.permutation(np.concatenate(parts))


def _validated(data: Dataset, split: Split, network: Network, epoch: int, run: Run) -> dict[str, Any]:
    """Scores on the validation part."""
    with np.errstate(invalid="ignore"):  # told below
        scores = evaluate(network, data, split.validation, run.ranks)
    if not np.isfinite(scores["loss"]):
        raise _diverged(f"the validation loss is not finite after epoch {epoch}", network.config)
    return scores


def _diverged(what: str, config: Config) -> ValueError:
    """What to say where numbers have grown beyond all bounds."""
    return ValueError(
        f"{what}; try a lower rate, such as learning_rate={config.learning_rate / 3:.1g}, "
        "or a lower alpha, beta or weight_decay where these are large"
    )


def _scored(data: Dataset, split: Split, best: dict[str, Any], config: Config, run: Run) -> tuple[Network, dict[str, Any]]:
    """The network of the kept epoch with its temperature, and its scores on the test part with it."""
    ranks = run.ranks
    network = Network.of(ranks.first(checkpoint.load, run.out / "model.safetensors"))
    # of a resumed run a temperature may have been fitted before, and its epochs may have been fewer
    network = dataclasses.replace(network, temperature=1.0, config=config)
    calibrated = _calibrated(network, data, split.validation, ranks)
    before, test = (evaluate(n, data, split.test, ranks) if split.test else None for n in (network, calibrated))
    calibration = None
    if split.validation:
        calibration = {"temperature": calibrated.temperature}
        calibration |= {"ece_before": before and before["ece"], "ece_after": test and test["ece"]}
    validation = {k: v for k, v in best.items() if k != "epoch"} or None
    return calibrated, {"epoch": best["epoch"], "validation": validation, "test": test, "calibration": calibration}


def _calibrated(network: Network, data: Dataset, part: list[int], ranks: Ranks) -> Network:
    """The network with the temperature that makes some utterances most likely; of none, as it is."""
    if not part:
        return network
    recordings = np.array(part)
    logits, _ = network.logits(data.store, recordings, ranks)
    return dataclasses.replace(network, temperature=fit_temperature(logits, data.emotion_y[recordings]))


def _decayed(c: Config, shapes: model.Shapes) -> np.ndarray:
    """The weight decay of each parameter, (P,): that of the settings, but for biases."""
    each = np.zeros(model.size_of(shapes), np.float32)
    for name, value in model.named(each, shapes).items():
        value[:] = 0 if name.split(".")[1].startswith("b") else c.weight_decay
    return each


def class_weights(y: np.ndarray, classes: int, kind: str) -> np.ndarray:
    """Weight of each class in the loss, (classes,); their mean over the utterances is 1."""
    counts = np.bincount(y, minlength=classes)
    if kind == "none":
        return np.ones(classes)
    return len(y) / np.maximum(counts, 1) / np.count_nonzero(counts)


def _save_model(out: Path, network: Network, labels: dict[str, Any], about: dict[str, Any], scores: dict[str, Any]) -> None:
    """The model file, with what it scored."""
    tensors = model.named(network.theta, network.shapes) | network.state
    tensors |= {"norm.mean": network.mean, "norm.std": network.std}
    training = {**about, "scores": scores}
    checkpoint.save(out / "model.safetensors", Checkpoint(tensors, network.config, labels, network.temperature, training))


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
    each = zip(data.content, data.utterances, data.learnt_beside(config), strict=True)
    utterances = [(digest, u.emotion, u.gender, *beside) for digest, u, beside in each]
    parts = [split.train, split.validation, split.test]
    return hashlib.sha256(json.dumps([settings, utterances, parts, data.labels, oracle]).encode()).hexdigest()


def _save_state(run: Run, state: State, identity: str) -> None:
    """All that --resume needs, once an epoch."""
    theta = state.network.theta
    m, v = (run.ranks.whole(part, theta.size) for part in (state.adam.m, state.adam.v))
    tensors = {"theta": theta, "m": m, "v": v} | state.network.state
    about = {
        "epoch": state.epoch,
        "updates": state.adam.updates,
        "best": state.best,
        "oracle": state.oracle,
        "identity": identity,
    }
    run.ranks.first(checkpoint.write_tensors, run.out / "last.safetensors", tensors, about)


def _saved(out: Path, identity: str, epochs: int) -> tuple[dict[str, np.ndarray], dict[str, Any], list[str]] | None:
    """The state of an interrupted run, None without any: tensors, what is said of them, and the lines of its metrics."""
    if not (out / "last.safetensors").exists():
        return None
    tensors, about = checkpoint.read_tensors(out / "last.safetensors")
    if about.get("identity") != identity:
        raise ValueError(
            f"{out}: its run had other data or settings; give the same ones or another --out "
            "(--epochs may grow where the learning rate is constant)"
        )
    if about["epoch"] > epochs:
        raise ValueError(f"{out}: {about['epoch']} epochs are done; --epochs may grow and not shrink to {epochs}")
    for name in ("metrics.jsonl", "model.safetensors"):
        if not (out / name).exists():
            raise ValueError(f"{out / name}: is missing, so this run cannot be resumed; name another --out")
    return tensors, about, (out / "metrics.jsonl").read_text().splitlines(keepends=True)[: about["epoch"]]

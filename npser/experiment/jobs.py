"""The jobs of a cross-validation: each trains and scores one network in a folder of its own, in any process on any machine.

A job is a dict of plain values that names a plan, a file with all that jobs share. What a job writes depends on neither order
nor place. It marks its folder with its identity, a hash of all that decides its result, and writes result.json last.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npser import __version__, adaptation, checkpoint, model, store
from npser.calibration import log_softmax
from npser.config import Config, stream
from npser.corpora import Utterance, synthetic
from npser.corpora.labels import GENDERS
from npser.dataset import Dataset, with_text
from npser.experiment import run
from npser.experiment.cluster import check_version, share_of_cores
from npser.experiment.folds import Fold
from npser.experiment.systems import Variant
from npser.files import lock, write
from npser.network import Network, compile_kernels
from npser.split import Split, split_hash
from npser.threads import keep_freed_memory, single_threaded_blas
from npser.train import Run

SHUFFLED = "A control of the ablation: the genders that this network was trained on were shuffled."
HEARD = (1, 3, 10)  # recordings of a voice, by which adaptation is shown to grow
Job = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is cross-validated, and how.

    folds, by: see folds.make_folds. variants: see systems.variants; the first is the full model. Seeds are its own, the next
    one, ... refit: see `npser crossval --help`. oracle: see train.fit. style: name of the only style, and how many utterances
    of others are left out. adapt: to what the networks are adapted as well, see adaptation.MODES.
    """

    folds: list[Fold]
    by: str
    variants: dict[str, Variant]
    seeds: int = 1
    refit: bool = False
    oracle: bool = True
    style: dict[str, Any] | None = None
    adapt: str = "none"

    @property
    def full(self) -> Variant:
        """The full model."""
        return self.variants["full"]

    @property
    def every_seed(self) -> range:
        """The seeds of each network."""
        return range(self.full.config.seed, self.full.config.seed + self.seeds)


def write_plan(out: Path, data: Dataset, plan: Plan, cache: Path) -> tuple[Path, str]:
    """What all jobs share, as a file; returns its path and its hash."""
    shared = {
        "npser": __version__,
        "utterances": [{**dataclasses.asdict(u), "path": os.path.abspath(u.path)} for u in data.utterances],
        "content": data.content,
        "labels": data.labels,
        "dropped": data.dropped,
        "map": data.mapping,
        "names": data.names,
        "cache": os.path.abspath(cache),
        "variants": {name: dataclasses.asdict(variant) for name, variant in plan.variants.items()},
        "folds": {fold.name: dataclasses.asdict(fold.split) for fold in plan.folds},
        "refit": plan.refit,
        "oracle": plan.oracle,
        "style": plan.style,
        "adapt": plan.adapt,
    }
    text = json.dumps(shared, sort_keys=True).encode()
    write(out / "plan.json", text)
    return (out / "plan.json").resolve(), hashlib.sha256(text).hexdigest()


def jobs_of(plan: Plan, name: str, data: Dataset, written: tuple[Path, str]) -> list[Job]:
    """The jobs of a variant, seed after seed, fold after fold. written: see write_plan."""
    path, digest = written
    found: list[Job] = []
    for seed in plan.every_seed:
        variant = plan.variants[name].seeded(seed)
        for fold in plan.folds:
            folder = path.parent / "jobs" / f"{name}-seed{seed}-fold{fold.name}"
            found.append({
                "plan": str(path), "plan_hash": digest, "folder": str(folder),
                "identity": identity(data, fold.split, plan, name, variant),
                "variant": name, "seed": seed, "fold": fold.name, "epochs": variant.config.epochs, "threads": None,
            })  # fmt: skip
    return found


def identity(data: Dataset, split: Split, plan: Plan, name: str, variant: Variant) -> str:
    """Hash of all that a job's result depends on, and of nothing else: no paths, no order, no other variants."""
    each = zip(data.content, data.utterances, data.learnt_beside(variant.config), strict=True)
    utterances = [(digest, u.emotion, u.gender, u.speaker, *beside) for digest, u, beside in each]
    parts = [split.train, split.validation, split.test]
    settings = [dataclasses.asdict(variant.config), variant.preset, name, plan.refit, plan.oracle]
    settings += [] if plan.adapt == "none" else [plan.adapt, adaptation.RULE]
    return hashlib.sha256(json.dumps([settings, utterances, parts, data.labels]).encode()).hexdigest()


def finished(job: Job) -> dict[str, Any] | None:
    """The result of a job, None where it has none yet.

    Raises
    ------
    ValueError
        Where the job's folder is another experiment's, or damaged.
    """
    folder = Path(job["folder"])
    try:
        if json.loads((folder / "job.json").read_text())["identity"] != job["identity"]:
            raise ValueError(f"{folder}: holds a job with other data or settings; give the same ones, or name another --out")
        return json.loads((folder / "result.json").read_text())
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, json.JSONDecodeError):
        raise ValueError(f"{folder}: holds a job that is damaged; remove the folder, and the same command goes on") from None


def run_job(job: Job) -> dict[str, Any]:
    """Train and score one network; returns its result, at once where it is there already.

    Parameters
    ----------
    job : dict
        ``plan`` and ``plan_hash``, see write_plan; ``folder``, ``identity``, ``variant``, ``seed``, ``fold``; ``threads``, or
        None for this worker's share of the cores.

    Raises
    ------
    ValueError
        Where this machine sees other files than the one that planned the job, or training fails.
    """
    started, folder = time.perf_counter(), Path(job["folder"])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder / ".lock"):  # a worker that was given up may still be at it
            result = finished(job)
            if result is not None:
                return result
            write(folder / "job.json", json.dumps({"identity": job["identity"]}).encode())
            keep_freed_memory()
            with single_threaded_blas(), ThreadPoolExecutor(job["threads"] or share_of_cores()) as pool:
                result = _train(job, folder, pool)
            result["run"]["seconds"] = time.perf_counter() - started
            write(folder / "result.json", (json.dumps(result, indent=2, sort_keys=True) + "\n").encode())
    except OSError as error:
        raise ValueError(f"{error.filename or folder}: {error.strerror or error}") from None
    return result


def _train(job: Job, folder: Path, pool: ThreadPoolExecutor) -> dict[str, Any]:
    """The work of run_job."""
    plan = _read_plan(job["plan"], job["plan_hash"])
    split, variant = Split(**plan["folds"][job["fold"]]), plan["variants"][job["variant"]]
    config = dataclasses.replace(model.restored(variant["config"]), seed=job["seed"])
    compile_kernels(config)
    data = _dataset(plan, config, pool)
    notices = synthetic.notices(data.names)
    if variant["shuffled"]:
        data = shuffled_gender(data, split, config.seed)
        notices.append(SHUFFLED)
    times: list[float | None] = []

    def trained(split: Split, config: Config, out: Path, oracle: bool) -> dict[str, Any]:
        out.mkdir(exist_ok=True)
        whole = not (out / "last.safetensors").exists()  # what goes on with an earlier training does not know its time
        place = Run(out, pool, say=lambda _: None)
        found = run.run(data, split, config, variant["preset"], place, notices=notices, resume=True, oracle=oracle)
        times.append(found["run"]["seconds_since_start"] if whole else None)
        return found

    together = dataclasses.replace(
        split, train=sorted([*split.train, *split.validation]), validation=[], validation_session=None, warnings=[]
    )
    at_once = plan["refit"] and config.select == "last"  # where nothing is chosen, the first training would be for nothing
    found, last = trained(together if at_once else split, config, folder, plan["oracle"]), folder
    scored = found
    if plan["refit"] and not at_once:
        last = folder / "refit"
        scored = trained(together, dataclasses.replace(config, epochs=found["selected_epoch"]), last, False)
    network = Network.of(checkpoint.load(last / "model.safetensors"))
    result, answering = _answered(network, data, split, folder, pool)
    kept = ("wa", "ua", "macro_f1", "recall", "gender_accuracy", "confusion", "genders", "parameters", "config", "versions")
    return {
        **{name: scored[name] for name in kept},
        "calibration": scored["calibration"],
        **{name: found[name] for name in ("selected_epoch", "validation", "oracle")},
        "split_hash": split_hash(data.utterances, data.content, split),
        "state": sum(value.size for value in network.state.values()),
        **result,
        "adapted": _adapted(network, data, split, plan["adapt"], pool),
        "run": {"training": None if None in times else sum(filter(None, times)), "answering": answering},
    }


def _answered(
    network: Network, data: Dataset, split: Split, folder: Path, pool: ThreadPoolExecutor
) -> tuple[dict[str, Any], float]:
    """What a network says of the test part, which is written; and the seconds that it takes for a minute of speech."""
    started = time.perf_counter()
    emotion, gender = network.log_probabilities(data.store, np.array(split.test), pool)
    seconds = time.perf_counter() - started
    write_predictions(folder / "predictions.jsonl", data, split, emotion, gender)
    return _summed(network, emotion, gender), 60 * seconds / data.seconds(split.test)


def _summed(network: Network, emotion: np.ndarray, gender: np.ndarray) -> dict[str, Any]:
    """What reports need of log-probabilities."""
    uncalibrated = log_softmax(emotion * network.temperature)
    return {
        "predicted": emotion.argmax(axis=1).tolist(),
        "confidence": {"before": np.exp(uncalibrated.max(axis=1)).tolist(), "after": np.exp(emotion.max(axis=1)).tolist()},
        "predicted_gender": gender.argmax(axis=1).tolist() if gender.shape[1] else None,
    }


def _adapted(network: Network, data: Dataset, split: Split, mode: str, pool: ThreadPoolExecutor) -> dict[str, Any] | None:
    """The same of the network adapted to each voice by its recordings of the test part; None without adaptation.

    by_heard: what is predicted where only some of them were heard, or the neutral ones alone.
    """
    if mode == "none":
        return None
    test = [data.utterances[r] for r in split.test]
    voices, recordings = adaptation.voices_of(test, mode), np.array(split.test)
    counted = {str(n): adaptation.some_of_each(voices, n, stream("voices", network.config.seed, n)) for n in HEARD}
    if "neutral" in data.labels:
        counted["neutral"] = np.array([u.emotion == "neutral" for u in test])

    def answer(heard: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        return adaptation.log_probabilities(network, data.store, recordings, voices, pool, heard)

    counted = {} if mode == "recording" else counted
    by_heard = {name: answer(heard)[0].argmax(axis=1).tolist() for name, heard in counted.items()}
    return {**_summed(network, *answer(None)), "by_heard": by_heard}


def write_predictions(path: Path, data: Dataset, split: Split, emotion: np.ndarray, gender: np.ndarray) -> None:
    """A line for each test utterance: what it is, and the probability of each class."""
    lines = []
    for r, p_emotion, p_gender in zip(split.test, np.exp(emotion), np.exp(gender), strict=True):
        u = data.utterances[r]
        row = {"content": data.content[r], "file": u.path.name, "speaker": u.speaker, "emotion": u.emotion, "gender": u.gender}
        row["predicted"] = data.labels[int(p_emotion.argmax())]
        row["probabilities"] = dict(zip(data.labels, p_emotion.tolist(), strict=True))
        row["gender_probabilities"] = dict(zip(GENDERS, p_gender.tolist(), strict=True)) if len(p_gender) else None
        lines.append(json.dumps(row) + "\n")
    write(path, "".join(lines).encode())


def shuffled_gender(data: Dataset, split: Split, seed: int) -> Dataset:
    """The genders of the training part dealt out anew, and those of the validation part; the test part keeps its own."""
    utterances, generator = list(data.utterances), stream("gender", seed)
    for part in (split.train, split.validation):
        known = [r for r in part if utterances[r].gender]
        dealt = [data.utterances[r].gender for r in generator.permutation(np.array(known, int))]
        for r, gender in zip(known, dealt, strict=True):
            utterances[r] = dataclasses.replace(utterances[r], gender=gender)
    return dataclasses.replace(data, utterances=utterances)


@functools.lru_cache(maxsize=2)
def _read_plan(path: str, digest: str) -> dict[str, Any]:
    """The plan, which must be the one that was written."""
    text = Path(path).read_bytes()
    if hashlib.sha256(text).hexdigest() != digest:
        raise ValueError(f"{path}: is not the plan of this job; every worker must see the same files under the same paths")
    plan = json.loads(text)
    check_version(plan["npser"])
    return plan


def _dataset(plan: dict[str, Any], config: Config, pool: ThreadPoolExecutor) -> Dataset:
    """The data of the plan, its features from the cache, or, where that is not shared, from recordings of the same hash."""
    utterances = [Utterance(**{**fields, "path": Path(fields["path"])}) for fields in plan["utterances"]]
    paths, content, cache = [u.path for u in utterances], plan["content"], Path(plan["cache"])
    kind = model.module_of(config).kind(config)
    if not store.folder_of(cache, content, kind).exists():
        for path, digest, planned in zip(paths, store.digests(paths, pool), content, strict=True):
            if digest != planned:
                raise ValueError(f"{path}: is missing or has other content on this worker; share the corpus or the cache")
    features = store.open_store(paths, content, kind, cache, pool)
    for r, reason in features.errors.items():
        raise ValueError(f"{paths[r]}: {reason}, on this worker; it was read when the job was planned")
    about = plan["labels"], plan["dropped"], plan["names"], {}, plan["map"]
    return with_text(Dataset(utterances, content, features, *about), config)

"""Cross-validation: from a corpus to one report of all variants, seeds and folds, sections 5.2 to 5.5 of the paper."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from npser import model
from npser.calibration import calibration_error_of
from npser.corpora.labels import GENDERS
from npser.dataset import Dataset
from npser.experiment import cluster, crossval_report, executors, jobs, statistics, systems, table2
from npser.experiment.baselines import baselines, learnt_from
from npser.experiment.cautions import cautions
from npser.experiment.folds import Fold
from npser.experiment.jobs import Job, Plan
from npser.files import write
from npser.metrics import confusion_matrix, scores
from npser.split import split_hash
from npser.store import Store
from npser.train import Run


@dataclass(frozen=True)
class Workers:
    """Who runs the jobs: processes of this machine that share threads, or the workers of a Dask scheduler's address."""

    processes: int = 1
    threads: int = 1  # of all processes together
    dask: str | None = None
    prepare: Callable[[], None] | None = None  # called first in each process


def run(
    data: Dataset,
    heard: dict[str, Store],
    plan: Plan,
    place: Run,
    cache: Path,
    workers: Workers,
    notices: list[str],
) -> dict[str, Any]:
    """Run every job that has no result yet, and write the report.

    Parameters
    ----------
    data, plan
        What to cross-validate: see material.prepare and jobs.Plan.
    heard : dict of str to Store
        What each linear baseline learns from, by its name: features of the same utterances.
    place : train.Run
        Files written to its folder: plan.json, jobs/VARIANT-seedK-foldNAME/, report.json, report.md, and pictures with
        matplotlib.
    cache : Path
        Where the features lie.
    notices : list of str
        Sentences that the report must carry.

    Returns
    -------
    dict
        The report. What may differ from one run to the next stands under its key ``run`` only.

    Raises
    ------
    ValueError
        Where a job fails, workers keep dying, or the folder holds jobs of another experiment.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    plan, left_out = _of_this_data(data, plan)
    written = jobs.write_plan(place.out, data, plan, cache)
    by_variant = {name: jobs.jobs_of(plan, name, data, written) for name in plan.variants}
    all_jobs = [job for same in by_variant.values() for job in same]
    pending = [job for job in all_jobs if jobs.finished(job) is None]
    kept = len(all_jobs) - len(pending)
    if not workers.dask:
        workers = dataclasses.replace(workers, processes=max(1, min(workers.processes, len(pending))))
        for job in pending:
            job["threads"] = max(1, workers.threads // workers.processes)
    place.say(f"jobs      {len(all_jobs)}" + (f", of which {kept} are done already" if kept else ""))
    broken = _run_pending(pending, workers, place) if pending else 0

    results = {job["folder"]: jobs.finished(job) or {} for job in all_jobs}
    by_seed = {
        name: [[results[job["folder"]] for job in same[k : k + len(plan.folds)]] for k in range(0, len(same), len(plan.folds))]
        for name, same in by_variant.items()
    }
    if plan.adapt != "none":
        by_seed |= {name + table2.ADAPTED: _as_adapted(seeds) for name, seeds in by_seed.items()}
    found = all_scores(data, heard, plan, by_seed, place.pool)
    found |= _about(data, plan, [*notices, *left_out], list(results.values()))
    found["notices"] = [*cautions(found), *found["notices"]]
    found["run"] = {
        "started": started.isoformat(timespec="seconds"),
        "seconds_since_start": round(time.perf_counter() - clock, 1),
        "seconds_of_jobs": round(sum(result["run"]["seconds"] for result in results.values()), 1),
        "seconds_of": {name: _times([result for seed in seeds for result in seed]) for name, seeds in by_seed.items()},
        "jobs_kept": kept,
        "pools_broken": broken,
    }
    write(place.out / "report.md", crossval_report.markdown(found).encode())
    crossval_report.draw(found, place.out)
    write(place.out / "report.json", (json.dumps(found, indent=2, sort_keys=True) + "\n").encode())
    return found


def _as_adapted(seeds: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """Results of a variant as those of a further one, whose networks are adapted."""
    return [[{**result, **result["adapted"], "oracle": None} for result in seed] for seed in seeds]


def _about(data: Dataset, plan: Plan, notices: list[str], results: list[dict[str, Any]]) -> dict[str, Any]:
    """How the results came about."""
    versions = {json.dumps(result["versions"], sort_keys=True) for result in results}
    mixed = [f"jobs ran with different versions: {' and '.join(sorted(versions))}"] if len(versions) > 1 else []
    return {
        "folds_by": plan.by,
        "split": _split(data, plan.folds),
        "preset": plan.full.preset,
        "corpora": data.names,
        "config": dataclasses.asdict(plan.full.config),
        "systems": systems.described(plan.variants),
        "text_informed": [name for name, variant in plan.variants.items() if model.reads_text(variant.config)],
        "style": plan.style,
        "adapt": plan.adapt,
        "seeds": list(plan.every_seed),
        "refit": plan.refit,
        "dropped": data.dropped,
        "map": data.mapping,
        "bad_files": data.bad,
        "notices": [*notices, *mixed],
        "versions": results[0]["versions"],
    }


def _of_this_data(data: Dataset, plan: Plan) -> tuple[Plan, list[str]]:
    """The plan without variants that the data cannot have, with the reason; and which folds cannot have the whole model."""
    notices, multitask = [], plan.full.config.beta > 0 and set(data.gender_y) >= {0, 1}
    if multitask:
        lacking = [fold.name for fold in plan.folds if not set(data.gender_y[fold.split.train]) >= {0, 1}]
        if lacking:
            notices.append(f"fold {', '.join(lacking)}: the training part lacks one of the genders, so there is no gender loss")
    elif plan.variants.keys() & systems.OF_GENDER.keys():
        notices.append("there is no gender loss (beta is 0, or the data lacks one of the genders): no variants of it")
        kept = {name: variant for name, variant in plan.variants.items() if name not in systems.OF_GENDER}
        plan = dataclasses.replace(plan, variants=kept)
    return plan, notices


def _times(results: list[dict[str, Any]]) -> dict[str, float | None]:
    """Seconds of training a network and of answering a minute of speech: the mean over jobs, of those that know them."""
    found = {}
    for what in ("training", "answering"):
        known = [seconds for result in results if (seconds := result["run"].get(what)) is not None]
        found[what] = float(np.mean(known)) if known else None
    return found


def _run_pending(pending: list[Job], workers: Workers, place: Run) -> int:
    """Run jobs, here or there; one display counts the epochs of all of them, of which each network has its own number."""
    epochs = {job["folder"]: job["epochs"] for job in pending}
    bar: Any = place.progress(None, total=sum(epochs.values()), desc="jobs", unit="epoch")

    def tell(text: str) -> None:
        bar.clear()
        place.say(text)

    def count() -> None:
        if not bar.disable:
            bar.n = sum(_epochs_done(Path(folder), total) for folder, total in epochs.items())
            bar.refresh()

    with contextlib.closing(bar), contextlib.ExitStack() as stack:
        if workers.dask is None:
            made: Callable[[], Any] = lambda: executors.local_processes(workers.processes, workers.prepare)  # noqa: E731
            watch = count
        else:
            made, look = stack.enter_context(cluster.dask_cluster(workers.dask, tell))

            def watch() -> None:
                look()
                count()

        return executors.run_jobs(pending, made, tell, watch)


def _epochs_done(folder: Path, total: int) -> int:
    """Epochs of a job that are done, of all that it has."""
    if (folder / "result.json").exists():
        return total
    try:
        return (folder / "metrics.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


def _split(data: Dataset, folds: list[Fold]) -> dict[str, Any]:
    """Who is where, and the hash of all of it."""
    rows = []
    for fold in folds:
        s = fold.split
        rows.append({
            "fold": fold.name,
            "test_session": s.test_session,
            "validation_session": s.validation_session,
            "hash": split_hash(data.utterances, data.content, s),
            **{part: _part(data, m) for part, m in (("train", s.train), ("validation", s.validation), ("test", s.test))},
        })  # fmt: skip
    together = hashlib.sha256("".join(row["hash"] for row in rows).encode()).hexdigest()
    return {"hash": together, "folds": rows, "speaker_dependent": any(fold.split.speaker_dependent for fold in folds)}


def _part(data: Dataset, members: list[int]) -> dict[str, Any]:
    """Who and what is in a part of a fold."""
    counts = np.bincount(data.emotion_y[np.array(members, int)], minlength=len(data.labels))
    return {
        "utterances": len(members),
        "speakers": sorted({speaker for r in members if (speaker := data.utterances[r].speaker)}),
        "emotions": dict(zip(data.labels, counts.tolist(), strict=True)),
    }


def all_scores(
    data: Dataset,
    heard: dict[str, Store],
    plan: Plan,
    results: dict[str, list[list[dict[str, Any]]]],
    pool: ThreadPoolExecutor,
) -> dict[str, Any]:
    """All scores. results: for each variant and seed the results of run_job, in the order of the folds."""
    folds = plan.folds
    members = np.concatenate([fold.split.test for fold in folds]).astype(int)
    sizes = [len(fold.split.test) for fold in folds]
    cluster, sampling = _clusters(data, folds)

    def of(predicted: np.ndarray) -> dict[str, Any]:
        """Summary of predictions of several runs, (R, n)."""
        return summary(data, members, predicted, sizes, cluster)

    found: dict[str, Any] = {"labels": data.labels, "utterances": len(members), "variants": {}, "baselines": {}}
    matrices = {}
    for variant, seeds in results.items():
        predicted = np.array([[k for result in seed for k in result["predicted"]] for seed in seeds])
        found["variants"][variant] = {
            **of(predicted),
            "gender": _gender(data, folds, seeds),
            "calibration": _calibration(predicted == data.emotion_y[members], seeds),
            "selected_epochs": [[result["selected_epoch"] for result in seed] for seed in seeds],
            "validation_ua": [[result["validation"]["ua"] if result["validation"] else None for result in s] for s in seeds],
            "oracle": _oracle(seeds),
            "by_heard": _by_heard(data, members, seeds, sizes, cluster),
            "parameters": max(result["parameters"] for seed in seeds for result in seed),
            "state": max(result.get("state", 0) for seed in seeds for result in seed),
        }
        matrices[variant] = _runs(data, members, predicted, cluster)
    for name, predict in baselines(data, heard, pool, any(fold.split.speaker_dependent for fold in folds)).items():
        predicted = np.concatenate([predict(fold.split, learnt_from(fold.split, plan.refit)) for fold in folds])[None]
        found["baselines"][name] = of(predicted)
        matrices[name] = _runs(data, members, predicted, cluster)
    found["differences"] = {
        name: statistics.differences(matrices["full"], runs) for name, runs in matrices.items() if name != "full"
    }
    found["sampling"] = sampling
    names = np.array([data.utterances[r].speaker or "unknown" for r in members])
    found["classes_of_speakers"] = {
        name: np.bincount(data.emotion_y[members[names == name]], minlength=len(data.labels)).tolist()
        for name in sorted(set(names.tolist()))
    }
    return found


def _by_heard(
    data: Dataset, members: np.ndarray, seeds: list[list[dict[str, Any]]], sizes: list[int], cluster: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Scores of adapted networks that have heard only some of the recordings of each voice, by how many."""
    found = {}
    for name in seeds[0][0].get("by_heard", ()):
        predicted = np.array([[k for result in seed for k in result["by_heard"][name]] for seed in seeds])
        of = summary(data, members, predicted, sizes, cluster)
        found[name] = {what: of[what] for what in (*statistics.NAMES, "intervals")}
    return found


def _clusters(data: Dataset, folds: list[Fold]) -> tuple[np.ndarray, dict[str, Any]]:
    """Number of the speaker of each test utterance, (n,), or of its fold where unknown; and what the intervals rest on."""
    speakers = [data.utterances[r].speaker for fold in folds for r in fold.split.test]
    names = [data.utterances[r].speaker or f"fold {fold.name}" for fold in folds for r in fold.split.test]
    order = {name: k for k, name in enumerate(sorted(set(names)))}
    unknown = speakers.count(None)
    kind = "speakers (those of unknown speakers: folds)" if unknown else "speakers"
    return np.array([order[name] for name in names]), {"clusters": len(order), "of": kind, "speaker_unknown": unknown}


def _runs(data: Dataset, members: np.ndarray, predicted: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Confusion matrices, (R, clusters, K, K), of predictions (R, n)."""
    y = data.emotion_y[members]
    return np.stack([statistics.confusions(y, run, cluster, len(data.labels)) for run in predicted])


def summary(data: Dataset, members: np.ndarray, predicted: np.ndarray, sizes: list[int], cluster: np.ndarray) -> dict[str, Any]:
    """Everything that predictions (R, n) of some utterances (n,) say, fold after fold of so many sizes."""
    runs = _runs(data, members, predicted, cluster)
    y, K = data.emotion_y[members], len(data.labels)
    pooled = statistics.scores_of(runs.sum(axis=1))
    fold = np.repeat(np.arange(len(sizes)), sizes)
    per_fold = [statistics.scores_of(statistics.confusions(y, run, fold, K)) for run in predicted]
    seconds = np.array([data.seconds([int(r)]) for r in members])
    tercile = np.searchsorted(np.quantile(seconds, [1 / 3, 2 / 3]), seconds, side="left")
    borders = [float(b) for b in np.quantile(seconds, [1 / 3, 2 / 3])]
    confusion = runs.sum(axis=(0, 1))

    def part(chosen: np.ndarray) -> dict[str, Any] | None:
        if not chosen.any():
            return None
        truth, given = np.tile(y[chosen], len(predicted)), predicted[:, chosen].ravel()
        of = scores(confusion_matrix(truth, given, K))
        return {"utterances": int(chosen.sum()), **{name: of[name] for name in statistics.NAMES}}

    speakers = np.array([data.utterances[r].speaker or "unknown" for r in members])
    styles = np.array([data.utterances[r].style or "unknown" for r in members])
    known, corpora = sorted(set(styles.tolist())), np.array([data.utterances[r].corpus for r in members])
    return {
        **{name: float(pooled[name].mean()) for name in statistics.NAMES},
        "intervals": statistics.intervals(runs),
        "over_seeds": {name: statistics.spread(pooled[name].tolist()) for name in statistics.NAMES},
        "over_folds": {
            name: statistics.spread(np.mean([run[name] for run in per_fold], axis=0).tolist()) for name in statistics.NAMES
        },
        "ua_of_seeds_and_folds": [run["ua"].tolist() for run in per_fold],
        "recall": dict(zip(data.labels, scores(confusion)["recall"], strict=True)),
        "confusion": confusion.tolist(),
        "per_speaker": {name: part(speakers == name) for name in sorted(set(speakers.tolist()))},
        "duration_terciles": [
            {"seconds_up_to": border, **(part(tercile == k) or {"utterances": 0})} for k, border in enumerate([*borders, None])
        ],
        "per_corpus": {name: part(corpora == name) for name in sorted(set(corpora.tolist()))},
        "styles": {name: part(styles == name) for name in known} if known != ["unknown"] else None,
    }


def _gender(data: Dataset, folds: list[Fold], seeds: list[list[dict[str, Any]]]) -> dict[str, Any] | None:
    """Gender accuracy over all utterances of known gender, and its spread over seeds."""
    accuracies, utterances = [], 0
    for seed in seeds:
        right, utterances = 0, 0
        for fold, result in zip(folds, seed, strict=True):
            if result["predicted_gender"] is not None:
                pairs = zip(data.gender_y[fold.split.test].tolist(), result["predicted_gender"], strict=True)
                known = [truth == given for truth, given in pairs if truth >= 0]
                right, utterances = right + sum(known), utterances + len(known)
        if utterances:
            accuracies.append(right / utterances)
    if not accuracies:
        return None
    return {"accuracy": statistics.spread(accuracies), "utterances": utterances, "labels": GENDERS}


def _calibration(right: np.ndarray, seeds: list[list[dict[str, Any]]]) -> dict[str, Any] | None:
    """Temperatures by seed and fold, and the calibration error of all folds together. right (R, n): what was predicted rightly.

    None where a network had no validation part to fit its temperature on.
    """
    if not all(result.get("calibration") for seed in seeds for result in seed):
        return None
    found: dict[str, Any] = {"temperatures": [[result["calibration"]["temperature"] for result in seed] for seed in seeds]}
    for when in ("before", "after"):
        errors = []
        for seed, hits in zip(seeds, right, strict=True):
            confidence = np.concatenate([result["confidence"][when] for result in seed])
            errors.append(calibration_error_of(confidence, hits))
        found[f"ece_{when}"] = statistics.spread(errors)
    return found


def _oracle(seeds: list[list[dict[str, Any]]]) -> dict[str, Any] | None:
    """What choosing every fold's epoch on its test part would have shown: the mean over seeds."""
    if not all(result["oracle"] for seed in seeds for result in seed):
        return None
    pooled = [scores(np.sum([result["oracle"]["confusion"] for result in seed], axis=0)) for seed in seeds]
    return {name: float(np.mean([of[name] for of in pooled])) for name in statistics.NAMES} | {"note": "not comparable"}

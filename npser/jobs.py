"""The jobs of a cross-validation: each trains and scores one network in a folder of its own, in any process on any machine.

A job is a dict of plain values that names a plan, a file with all that jobs share. What a job writes depends on neither order
nor place. It marks its folder with its identity, a hash of all that decides its result, and writes result.json last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from npser import __version__, checkpoint, experiment, store
from npser.config import Config, stream
from npser.corpora import Utterance, synthetic
from npser.dataset import GENDERS, Dataset
from npser.folds import Fold
from npser.lite import log_softmax
from npser.split import Split, split_hash
from npser.threads import available_cores, keep_freed_memory, single_threaded_blas
from npser.train import Network, Say, compile_kernels

REBUILDS = 3  # of a pool that lost a worker
POLL = 0.5  # seconds between two looks at what the jobs have done
VARIANTS: dict[str, dict[str, Any]] = {  # of the ablation, with the settings that each changes
    "full": {},
    "no-attention": {"attention": False},
    "no-gender": {"beta": 0.0},
    "shuffled-gender": {},  # the control: a gender loss that says nothing about gender
}
SHUFFLED = "A control of the ablation: the genders that this network was trained on were shuffled."
Job = dict[str, Any]


def write_plan(
    out: Path, data: Dataset, folds: list[Fold], config: Config, preset: str, cache: Path, *, refit: bool, oracle: bool
) -> tuple[Path, str]:
    """What all jobs share, as a file; returns its path and its hash."""
    plan = {
        "npser": __version__,
        "utterances": [{**dataclasses.asdict(u), "path": os.path.abspath(u.path)} for u in data.utterances],
        "content": data.content,
        "labels": data.labels,
        "dropped": data.dropped,
        "names": data.names,
        "cache": os.path.abspath(cache),
        "config": dataclasses.asdict(config),
        "preset": preset,
        "folds": {fold.name: dataclasses.asdict(fold.split) for fold in folds},
        "refit": refit,
        "oracle": oracle,
    }
    text = json.dumps(plan, sort_keys=True).encode()
    checkpoint.write(out / "plan.json", text)
    return (out / "plan.json").resolve(), hashlib.sha256(text).hexdigest()


def identity(data: Dataset, split: Split, config: Config, preset: str, variant: str, *, refit: bool, oracle: bool) -> str:
    """Hash of all that a job's result depends on, and of nothing else: no paths, no order."""
    utterances = [(digest, u.emotion, u.gender, u.speaker) for digest, u in zip(data.content, data.utterances, strict=True)]
    parts = [split.train, split.validation, split.test]
    settings = [dataclasses.asdict(config), preset, variant, refit, oracle]
    return hashlib.sha256(json.dumps([settings, utterances, parts, data.labels]).encode()).hexdigest()


def variant_config(config: Config, variant: str, seed: int) -> Config:
    """The settings of a variant."""
    return dataclasses.replace(config, seed=seed, **VARIANTS[variant])


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
        with store.lock(folder / ".lock"):  # a worker that was given up may still be at it
            result = finished(job)
            if result is not None:
                return result
            checkpoint.write(folder / "job.json", json.dumps({"identity": job["identity"]}).encode())
            compile_kernels()
            keep_freed_memory()
            with single_threaded_blas(), ThreadPoolExecutor(job["threads"] or _share_of_cores()) as pool:
                result = _train(job, folder, pool)
            result["run"] = {"seconds": round(time.perf_counter() - started, 1)}
            checkpoint.write(folder / "result.json", (json.dumps(result, indent=2, sort_keys=True) + "\n").encode())
    except OSError as error:
        raise ValueError(f"{error.filename or folder}: {error.strerror or error}") from None
    return result


def _train(job: Job, folder: Path, pool: ThreadPoolExecutor) -> dict[str, Any]:
    """The work of run_job."""
    plan = _read_plan(job["plan"], job["plan_hash"])
    split = Split(**plan["folds"][job["fold"]])
    config = variant_config(Config(**plan["config"]), job["variant"], job["seed"])
    data = _dataset(plan, config, pool)
    if job["variant"] == "shuffled-gender":
        data = shuffled_gender(data, split, config.seed)

    notices = synthetic.notices(data.names)
    if job["variant"] == "shuffled-gender":
        notices.append(SHUFFLED)

    def run(split: Split, config: Config, out: Path, oracle: bool) -> dict[str, Any]:
        out.mkdir(exist_ok=True)
        quiet: Any = {"say": lambda _: None, "progress": lambda items, **_: items}
        quiet |= {"notices": notices, "resume": True, "oracle": oracle}
        return experiment.run(data, split, config, plan["preset"], out, pool, **quiet)

    together = dataclasses.replace(
        split, train=sorted([*split.train, *split.validation]), validation=[], validation_session=None, warnings=[]
    )
    at_once = plan["refit"] and config.select == "last"  # where nothing is chosen, the first training would be for nothing
    found, last = run(together if at_once else split, config, folder, plan["oracle"]), folder
    scored = found
    if plan["refit"] and not at_once:
        last = folder / "refit"
        scored = run(together, dataclasses.replace(config, epochs=found["selected_epoch"]), last, False)
    network = Network.of(checkpoint.load(last / "model.safetensors"))
    emotion, gender = network.log_probabilities(data.store, np.array(split.test), pool)
    uncalibrated = log_softmax(emotion * network.temperature)
    write_predictions(folder / "predictions.jsonl", data, split, emotion, gender)
    kept = ("wa", "ua", "macro_f1", "recall", "gender_accuracy", "confusion", "genders", "parameters", "config", "versions")
    return {
        **{name: scored[name] for name in kept},
        "calibration": scored["calibration"],
        **{name: found[name] for name in ("selected_epoch", "validation", "oracle")},
        "split_hash": split_hash(data.utterances, data.content, split),
        "predicted": emotion.argmax(axis=1).tolist(),
        "confidence": {"before": np.exp(uncalibrated.max(axis=1)).tolist(), "after": np.exp(emotion.max(axis=1)).tolist()},
        "predicted_gender": gender.argmax(axis=1).tolist() if gender.shape[1] else None,
    }


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
    checkpoint.write(path, "".join(lines).encode())


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
    if plan["npser"] != __version__:
        raise ValueError(f"a worker runs npser {__version__} and the command npser {plan['npser']}; install the same version")
    return plan


def _dataset(plan: dict[str, Any], config: Config, pool: ThreadPoolExecutor) -> Dataset:
    """The data of the plan, its features from the cache, or, where that is not shared, from recordings of the same hash."""
    utterances = [Utterance(**{**fields, "path": Path(fields["path"])}) for fields in plan["utterances"]]
    paths, content, cache = [u.path for u in utterances], plan["content"], Path(plan["cache"])
    if not store.folder_of(cache, content, config.max_seconds, config.pad, config.level).exists():
        for path, digest, planned in zip(paths, store.digests(paths, pool), content, strict=True):
            if digest != planned:
                raise ValueError(f"{path}: is missing or has other content on this worker; share the corpus or the cache")
    features = store.open_store(paths, content, config.max_seconds, config.pad, cache, pool, level=config.level)
    return Dataset(utterances, content, features, plan["labels"], plan["dropped"], plan["names"], {})


def _share_of_cores() -> int:
    """Cores for one job on a Dask worker, whose threads run a job each."""
    from distributed import get_worker

    try:
        return max(1, available_cores() // get_worker().state.nthreads)
    except ValueError:  # no Dask worker
        return available_cores()


# The coordinating side.


def run_jobs(jobs: list[Job], executors: Callable[[], Any], say: Say, watch: Callable[[], None]) -> int:
    """Run jobs until all have results, in any order.

    Parameters
    ----------
    jobs : list of dict
        See run_job.
    executors : callable
        Opens a context that yields a concurrent.futures.Executor; called again when a worker's death has broken the last one.
    say, watch : callables
        Receive a line for the user; called every POLL seconds.

    Returns
    -------
    int
        How often the executor broke.

    Raises
    ------
    ValueError
        When it broke more than REBUILDS times, or a job failed; the other jobs are run first.
    """
    pending, failed = {job["folder"]: job for job in jobs}, {}
    broken = 0
    while True:
        try:
            with executors() as executor:
                _run_once(executor, pending, failed, say, watch)
            break
        except BrokenExecutor:
            broken += 1
            pending = {folder: job for folder, job in pending.items() if finished(job) is None}
            text = f"a worker died (killed, or out of memory); unfinished jobs: {len(pending)}"
            if broken > REBUILDS:
                raise ValueError(
                    f"{text}; that was the {broken}th time: try fewer --workers; the same command goes on"
                ) from None
            say(f"workers   {text}; running them again ({broken} of {REBUILDS})")
    if failed:
        folder, reason = next(iter(sorted(failed.items())))
        raise ValueError(
            f"{len(failed)} of {len(jobs)} jobs failed; {Path(folder).name}: {reason}; the same command runs them again"
        )
    return broken


def _run_once(executor: Executor, pending: dict[str, Job], failed: dict[str, str], say: Say, watch: Callable[[], None]) -> None:
    """Submit what is pending and wait for it; what is done leaves pending. BrokenExecutor when a worker died."""
    futures: dict[Future[dict[str, Any]], str] = {}
    with _deaf_children():
        for folder, job in pending.items():
            futures[executor.submit(run_job, job)] = folder
    waiting, total = set(futures), len(futures)
    while waiting:
        done, waiting = wait(waiting, POLL, FIRST_COMPLETED)
        for future in sorted(done, key=lambda future: futures[future]):
            folder = futures[future]
            try:
                result = future.result()
            except BrokenExecutor:
                raise
            except Exception as error:  # whatever a worker ran into: the other jobs go on
                text = " ".join(str(error).split())
                failed[folder] = text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"
                say(f"failed    {Path(folder).name}: {failed[folder]}")
            else:
                say(
                    f"job       {Path(folder).name}: UA {result['ua']:.3f}, epoch {result['selected_epoch']}, "
                    f"{result['run']['seconds']} s, {total - len(waiting)}/{total}"
                )
            del pending[folder]
        watch()


@contextlib.contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes started here do not hear Ctrl-C: their parent does, and ends them without a traceback."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def local_processes(workers: int) -> Iterator[Executor]:
    """Processes of this machine, which end when this one does, however it ends."""
    context = get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(workers, context, initializer=_end_with_parent, initargs=(reader,))
    try:
        yield executor
    except BaseException:
        writer.close()
        raise
    finally:
        executor.shutdown(cancel_futures=True)
        writer.close()
        reader.close()


def _end_with_parent(reader: Any) -> None:
    """Leave as soon as the other end of the pipe is closed: every file is written whole or not at all."""

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            reader.recv()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def dask_cluster(address: str, say: Say) -> Iterator[tuple[Callable[[], Any], Callable[[], None]]]:
    """A running Dask cluster; yields executors and watch for run_jobs. Dask itself runs the jobs of a lost worker again."""
    try:
        from distributed import Client
    except ImportError:
        raise ValueError("--dask needs the package distributed; install it with: pip install 'npser[cluster]'") from None
    import logging

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # we tell what matters
    try:
        client: Any = Client(address, timeout=10)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"--dask {address}: there is no scheduler to be reached ({type(error).__name__})") from None
    known: set[str] = set()
    told = False

    def watch() -> None:
        nonlocal told
        workers = set(client.nthreads())
        for lost in sorted(known - workers):
            say(f"workers   {lost} has left the cluster; its unfinished jobs are run again by the others")
        if not workers and not told:
            say("workers   there is none in the cluster; waiting for one")
        told = not workers
        known.clear()
        known.update(workers)

    @contextlib.contextmanager
    def executors() -> Iterator[Executor]:
        executor = client.get_executor(pure=False)
        try:
            yield executor
        finally:
            executor.shutdown(wait=False)

    try:
        watch()
        yield executors, watch
    finally:
        client.close()

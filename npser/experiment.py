"""One training run from corpus to report: what `npser train` does between reading its arguments and its last line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from npser import __version__, checkpoint, report
from npser.config import Config
from npser.dataset import Dataset
from npser.split import Split, split_hash
from npser.store import Progress
from npser.train import Say, fit

SPEAKER_DEPENDENT = "SPEAKER-DEPENDENT: scores say little about speakers that are not in the training data."
PACKAGES = ("numpy", "numba", "scipy", "soundfile", "safetensors")


def run(
    data: Dataset,
    split: Split,
    config: Config,
    preset: str,
    out: Path,
    pool: ThreadPoolExecutor,
    *,
    notices: list[str],
    resume: bool,
    oracle: bool,
    say: Say,
    progress: Progress,
) -> dict[str, Any]:
    """Train, score, and fill the run folder.

    Parameters
    ----------
    data, split, config
        See train.fit.
    preset : str
        Name of the preset that config started from.
    out : Path
        The run folder; it exists. Files written: config.toml, metrics.jsonl, model.safetensors, last.safetensors, report.json,
        report.md, and with matplotlib curves.png and confusion.png.
    notices : list of str
        Sentences that every output must carry, such as the one about the synthetic corpus.

    Returns
    -------
    dict
        The report. Dates and durations stand under its key ``run`` only.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    about = describe(data, split, config, preset, notices)
    result = fit(data, split, config, out, about, pool, resume=resume, oracle=oracle, say=say, progress=progress)
    seconds = time.perf_counter() - clock
    test = result["test"]
    parts = {
        part: {
            "utterances": len(members),
            "seconds": round(data.seconds(members), 3),
            "speakers": _speakers(data, members),
            "emotions": {label: int(n) for label, n in zip(data.labels, _counts(data, members), strict=True)},
        }
        for part, members in (("train", split.train), ("validation", split.validation), ("test", split.test))
    }
    found = {
        "wa": test and test["wa"],
        "ua": test and test["ua"],
        "macro_f1": test and test["macro_f1"],
        "recall": test and dict(zip(data.labels, test["recall"], strict=True)),
        "gender_accuracy": test and test["gender_accuracy"],
        "confusion": test and test["confusion"],
        "labels": data.labels,
        "genders": result["genders"],
        "selected_epoch": result["selected_epoch"],
        "epochs": config.epochs,
        "validation": result["validation"],
        "oracle": result["oracle"],
        "calibration": result["calibration"],
        "parameters": result["parameters"],
        "seconds": round(data.seconds(list(range(len(data.utterances)))), 3),  # of audio
        "split": about["split"] | parts,
        "preset": preset,
        "corpora": data.names,
        "config": dataclasses.asdict(result["config"]),
        "dropped": data.dropped,
        "bad_files": data.bad,
        "notices": about["notices"],
        "versions": about["versions"],
        "run": {"started": started.isoformat(timespec="seconds"), "seconds_since_start": round(seconds, 1)},
    }
    checkpoint.write(out / "report.md", report.markdown(found).encode())
    report.draw(found, out)
    checkpoint.write(
        out / "report.json", (json.dumps(found, indent=2, sort_keys=True) + "\n").encode()
    )  # last: its presence says finished
    return found


def describe(data: Dataset, split: Split, config: Config, preset: str, notices: list[str]) -> dict[str, Any]:
    """What a model file says of its training, beside the scores."""
    return {
        "preset": preset,
        "corpora": data.names,
        "split": {
            "method": split.method,
            "hash": split_hash(data.utterances, data.content, split),
            "test_session": split.test_session,
            "validation_session": split.validation_session,
            "speaker_dependent": split.speaker_dependent,
        },
        "speakers": _speakers(data, split.train),
        "audio": hashlib.sha256("".join(data.content[r] for r in split.train).encode()).hexdigest(),
        "seed": config.seed,
        "versions": {"npser": __version__, "python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "licence": "that of the training recordings",
        "notices": [*notices, *([SPEAKER_DEPENDENT] if split.speaker_dependent else []), *split.warnings],
    }


def _speakers(data: Dataset, members: list[int]) -> list[str]:
    """Known speakers of some utterances."""
    return sorted({speaker for r in members if (speaker := data.utterances[r].speaker)})


def _counts(data: Dataset, members: list[int]) -> np.ndarray:
    """Utterances of each class, (classes,)."""
    return np.bincount(data.emotion_y[np.array(members, int)], minlength=len(data.labels))

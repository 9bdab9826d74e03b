"""One training run from corpus to report: what `npser train` does between reading its arguments and its last line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np

from npser import __version__, model
from npser.config import Config
from npser.dataset import Dataset
from npser.experiment import report
from npser.experiment.baselines import controls, learnt_from
from npser.experiment.cautions import beaten_by
from npser.files import write
from npser.metrics import confusion_matrix, scores
from npser.split import Split, split_hash
from npser.train import Run, fit

SPEAKER_DEPENDENT = "SPEAKER-DEPENDENT: scores say little about speakers that are not in the training data."
TEXT_INFORMED = "TEXT-INFORMED: the network reads phonemes of transcripts; its scores are not of speech alone."
PACKAGES = ("numpy", "numba", "scipy", "soundfile", "safetensors")


def run(
    data: Dataset,
    split: Split,
    config: Config,
    preset: str,
    place: Run,
    *,
    notices: list[str],
    resume: bool,
    oracle: bool,
) -> dict[str, Any]:
    """Train, score, and fill the run folder.

    Parameters
    ----------
    data, split, config
        See train.fit.
    preset : str
        Name of the preset that config started from.
    place : train.Run
        Files written to its folder: config.toml, metrics.jsonl, model.safetensors, last.safetensors, report.json, report.md;
        with matplotlib also curves.png and confusion.png.
    notices : list of str
        Sentences that every output must carry, such as the one about the synthetic corpus.

    Returns
    -------
    dict
        The report. Dates and durations stand under its key ``run`` only.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    about = describe(data, split, config, preset, notices)
    result = fit(data, split, config, place, about, resume=resume, oracle=oracle)
    seconds = time.perf_counter() - clock

    def reported() -> dict[str, Any]:
        found = _report(data, split, result, about)
        if result["test"]:
            found["baselines"] = _controls(data, split)
            alone = {name: row["ua"] for name, row in found["baselines"].items()}
            found["notices"] = [*beaten_by(found["ua"], alone, {}), *found["notices"]]
        found["run"] = {"started": started.isoformat(timespec="seconds"), "seconds_since_start": seconds}
        write(place.out / "report.md", report.markdown(found).encode())
        report.draw(found, place.out)
        # last: its presence says finished
        write(place.out / "report.json", (json.dumps(found, indent=2, sort_keys=True) + "\n").encode())
        return found

    return place.ranks.first(reported)


def _controls(data: Dataset, split: Split) -> dict[str, Any]:
    """What can be had on the test part without hearing a voice."""
    y, learn = data.emotion_y[split.test], learnt_from(split, refit=False)
    return {
        name: scores(confusion_matrix(y, predict(split, learn), len(data.labels)))
        for name, predict in controls(data, split.speaker_dependent).items()
    }


def _report(data: Dataset, split: Split, result: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """What a run found, and how it came about."""
    test, config = result["test"], result["config"]
    parts = {
        part: {
            "utterances": len(members),
            "seconds": round(data.seconds(members), 3),
            "speakers": _speakers(data, members),
            "emotions": {label: int(n) for label, n in zip(data.labels, _counts(data, members), strict=True)},
        }
        for part, members in (("train", split.train), ("validation", split.validation), ("test", split.test))
    }
    same = ("genders", "selected_epoch", "validation", "oracle", "calibration", "parameters")
    return {
        **{name: test and test[name] for name in ("wa", "ua", "macro_f1", "gender_accuracy", "confusion")},
        "recall": test and dict(zip(data.labels, test["recall"], strict=True)),
        "labels": data.labels,
        **{name: result[name] for name in same},
        "epochs": config.epochs,
        "seconds": round(data.seconds(list(range(len(data.utterances)))), 3),  # of audio
        "split": about["split"] | parts,
        "preset": about["preset"],
        "corpora": data.names,
        "config": dataclasses.asdict(config),
        "dropped": data.dropped,
        "map": data.mapping,
        "bad_files": data.bad,
        "notices": about["notices"],
        "versions": about["versions"],
    }


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
        "notices": [
            *notices,
            *([SPEAKER_DEPENDENT] if split.speaker_dependent else []),
            *([TEXT_INFORMED] if model.reads_text(config) else []),
            *split.warnings,
        ],
    }


def _speakers(data: Dataset, members: list[int]) -> list[str]:
    """Known speakers of some utterances."""
    return sorted({speaker for r in members if (speaker := data.utterances[r].speaker)})


def _counts(data: Dataset, members: list[int]) -> np.ndarray:
    """Utterances of each class, (classes,)."""
    return np.bincount(data.emotion_y[np.array(members, int)], minlength=len(data.labels))

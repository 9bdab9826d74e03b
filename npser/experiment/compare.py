"""Paired differences between cross-validations over the same recordings, which are known by their content."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npser.experiment import statistics
from npser.experiment.crossval_report import difference_cell
from npser.experiment.report import table
from npser.experiment.table2 import SCORES, sampling_line, score_cell

Key = tuple[str, int]  # a recording's content, and which of several copies


@dataclass(frozen=True)
class Run:
    """A finished cross-validation: its report, and of each seed what the full model predicted of each recording.

    truth: emotion, speaker (None: unknown) and fold of each recording.
    """

    folder: Path
    report: dict[str, Any]
    truth: dict[Key, tuple[str, str | None, str]]
    predicted: dict[int, dict[Key, str]]


def read(folder: Path) -> Run:
    """Read the folder of `npser crossval`; ValueError where it is none, is not finished, or is damaged."""
    try:
        report = json.loads((folder / "report.json").read_text())
        seeds, folds = report["seeds"], [row["fold"] for row in report["split"]["folds"]]
        truth: dict[Key, tuple[str, str | None, str]] = {}
        predicted: dict[int, dict[Key, str]] = {seed: {} for seed in seeds}
        for seed in seeds:
            copies: Counter[str] = Counter()
            for fold in folds:
                lines = (folder / "jobs" / f"full-seed{seed}-fold{fold}" / "predictions.jsonl").read_text().splitlines()
                for row in map(json.loads, lines):
                    copies[row["content"]] += 1
                    key = row["content"], copies[row["content"]]
                    truth[key] = row["emotion"], row["speaker"], fold
                    predicted[seed][key] = row["predicted"]
        if any(of.keys() != truth.keys() for of in predicted.values()) or len(truth) != report["utterances"]:
            raise ValueError("predictions are missing")
        words = {emotion for emotion, _, _ in truth.values()}.union(*(of.values() for of in predicted.values()))
        if not words <= set(report["labels"]):
            raise ValueError(f"labels are {report['labels']} and predictions hold {sorted(words)}")
        for name in ("folds_by", "preset", "refit", "config", "versions"):
            report[name]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(
            f"{folder}: is not a finished cross-validation ({error.filename} is missing); name a run folder of npser crossval"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder}: holds no whole cross-validation ({error!r}); name a run folder of npser crossval"
        ) from None
    return Run(folder, report, truth, predicted)


def compare(runs: list[Run]) -> dict[str, Any]:
    """Compare the full models of cross-validations, each with the first.

    Parameters
    ----------
    runs : list of Run
        At least two, over the same recordings with the same emotions and classes, with at least one seed in common.

    Returns
    -------
    dict
        ``runs``, scores of each with intervals, over the common ``seeds``; ``differences``, scores of each later run minus
        those of the first, as statistics.differences has them; ``unlike``, what differs beside; ``labels``, ``utterances``;
        ``sampling``, what the intervals rest on.

    Raises
    ------
    ValueError
        Where two runs cannot be compared, with the reason.
    """
    first, labels = runs[0], runs[0].report["labels"]
    for other in runs[1:]:
        _comparable(first, other)
    seeds = sorted(set.intersection(*(set(run.predicted) for run in runs)))
    if not seeds:
        raise ValueError(
            "the runs have no seed in common, so nothing pairs their networks; run one again with --seed and --seeds"
        )
    keys = sorted(first.truth)
    unknown = any(speaker is None for _, speaker, _ in first.truth.values())
    of = [speaker or f"fold {fold}" for _, speaker, fold in map(first.truth.__getitem__, keys)]
    names = sorted(set(of))
    cluster = np.array([names.index(name) for name in of])
    truth = np.array([labels.index(first.truth[key][0]) for key in keys])

    def matrices(run: Run) -> np.ndarray:
        """(R, clusters, K, K)"""
        given = [np.array([labels.index(run.predicted[seed][key]) for key in keys]) for seed in seeds]
        return np.stack([statistics.confusions(truth, predicted, cluster, len(labels)) for predicted in given])

    found = [matrices(run) for run in runs]
    return {
        "runs": [{"run": str(run.folder), **_scores(of)} for run, of in zip(runs, found, strict=True)],
        "differences": [
            {"run": str(run.folder), "minus": str(first.folder), **statistics.differences(of, found[0])}
            for run, of in zip(runs[1:], found[1:], strict=True)
        ],
        "unlike": [{"run": str(run.folder), **_unlike(first, run)} for run in runs[1:]],
        "seeds": seeds,
        "labels": labels,
        "utterances": len(keys),
        "sampling": {"clusters": len(names), "of": "speakers (those of unknown speakers: folds)" if unknown else "speakers"},
    }


def _scores(runs: np.ndarray) -> dict[str, Any]:
    """Scores, the mean over seeds, and their intervals."""
    pooled = statistics.scores_of(runs.sum(axis=1))
    return {**{name: float(pooled[name].mean()) for name in statistics.NAMES}, "intervals": statistics.intervals(runs)}


def _comparable(a: Run, b: Run) -> None:
    """ValueError where two runs are not of the same recordings, emotions, classes and speakers."""
    if a.report["labels"] != b.report["labels"]:
        classes = " and of ".join(", ".join(run.report["labels"]) for run in (a, b))
        raise ValueError(f"{a.folder} and {b.folder} cannot be compared: they are of {classes}; give the same --labels")
    if a.truth.keys() != b.truth.keys():
        only = [len(x.truth.keys() - y.truth.keys()) for x, y in ((a, b), (b, a))]
        raise ValueError(
            f"{a.folder} and {b.folder} cannot be compared: {only[0]} recordings are in the first only and {only[1]} in the "
            f"second only, of {len(a.truth)} and {len(b.truth)}; run both over the same data"
        )
    for what, k in (("emotion", 0), ("speaker", 1)):
        other = sum(a.truth[key][k] != b.truth[key][k] for key in a.truth)
        if other:
            raise ValueError(
                f"{a.folder} and {b.folder} cannot be compared: {other} recordings have another {what} in the second; "
                "run both over the same data"
            )
    moved = sum(a.truth[key][2] != b.truth[key][2] for key, (_, speaker, _) in a.truth.items() if speaker is None)
    if moved:
        raise ValueError(
            f"{a.folder} and {b.folder} cannot be compared: {moved} recordings of unknown speakers lie in other folds of "
            "the second, so nothing says what varies together; run both over the same folds"
        )


def _unlike(a: Run, b: Run) -> dict[str, list[str]]:
    """What else differs between two runs, each as "name: first | second"."""

    def pairs(*path: str) -> list[str]:
        first, second = a.report, b.report
        for name in path:
            first, second = first[name], second[name]
        if not isinstance(first, dict):
            return [] if first == second else [f"{path[-1]}: {first} | {second}"]
        return [
            f"{name}: {first.get(name)} | {second.get(name)}"
            for name in sorted(first.keys() | second.keys())
            if first.get(name) != second.get(name)
        ]

    folds = pairs("folds_by") + pairs("split", "hash")
    return {
        "splits": folds if a.report["split"]["hash"] != b.report["split"]["hash"] else [],
        "seeds": [row.removeprefix("seeds: ") for row in pairs("seeds")],
        "settings": pairs("preset") + pairs("refit") + [row for row in pairs("config") if not row.startswith("seed:")],
        "versions": pairs("versions"),
    }


def _rows(found: dict[str, Any]) -> tuple[list[list[Any]], list[list[Any]]]:
    """Cells of the scores, and of the differences."""
    scores = [[row["run"], *(score_cell(row, name) for name in SCORES)] for row in found["runs"]]
    differences = [
        [
            f"{row['run']} minus {row['minus']}",
            *(difference_cell(row[name]) for name in SCORES),
            ", ".join(f"{value:+.3f}" for value in row["ua"]["by_seed"]),
        ]
        for row in found["differences"]
    ]
    return scores, differences


def _closing(found: dict[str, Any]) -> list[str]:
    """What the intervals count, and what differs beside the scores."""
    lines = [
        f"{found['utterances']} utterances, seed{'s' * (len(found['seeds']) > 1)} {', '.join(map(str, found['seeds']))}. "
        f"{sampling_line(found)}",
        "Where the interval of a difference holds 0, no difference has been shown.",
    ]
    for row in found["unlike"]:
        for what in ("splits", "seeds", "settings", "versions"):
            if row[what]:
                lines.append(f"{what} of {found['runs'][0]['run']} | {row['run']}: {'; '.join(row[what])}")
        if not row["splits"]:
            lines.append(f"the folds of {row['run']} are the same")
    return lines


def text(found: dict[str, Any]) -> str:
    """What the terminal shows."""
    scores, differences = _rows(found)
    width = max(len(row[0]) for row in [*scores, *differences])

    def line(row: list[Any]) -> str:
        return f"{row[0]:<{width}}  " + "  ".join(f"{t} {cell}" for t, cell in zip(SCORES.values(), row[1:], strict=False))

    seeds = [f"{'':<{width}}  UA by seed {row[-1]}" for row in differences]
    paired = [part for row, by_seed in zip(differences, seeds, strict=True) for part in (line(row), by_seed)]
    return "\n".join([*map(line, scores), "", *paired, "", *_closing(found)])


def markdown(found: dict[str, Any]) -> str:
    """The same for a report."""
    scores, differences = _rows(found)
    tables = [table(["run", *SCORES.values()], scores), table(["difference", *SCORES.values(), "UA by seed"], differences)]
    return "\n".join([*tables, *(f"- {line}" for line in _closing(found))])

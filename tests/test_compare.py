"""npser compare: paired by content, with the intervals of a report; and what cannot be compared is refused."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Command, one_sentence

from npser.experiment import statistics
from npser.experiment.compare import compare, markdown, read, text

LABELS = ["angry", "sad"]


def made(folder: Path, seeds: list[int], shift: int = 0, folds: str = "ab", **about: Any) -> Path:
    """A finished cross-validation of 24 recordings by six speakers; shift: which predictions are wrong."""
    report = {
        "labels": LABELS, "seeds": seeds, "folds_by": "session", "preset": "paper", "refit": False,
        "split": {"hash": folds, "folds": [{"fold": fold} for fold in folds]}, "config": {"seed": seeds[0], "batch": 40},
        "versions": {"npser": "1"}, "utterances": 24,
    }  # fmt: skip
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(report | about))
    for seed in seeds:
        for k, fold in enumerate(folds):
            rows = []
            for r in range(24):
                if r % len(folds) == k:
                    emotion, wrong = LABELS[r // 2 % 2], (r + shift + seed) % 5 == 0
                    predicted = LABELS[(r // 2 + wrong) % 2]
                    rows.append({"content": f"{r:064}", "emotion": emotion, "speaker": f"c/{r % 6}", "predicted": predicted})
            job = folder / "jobs" / f"full-seed{seed}-fold{fold}"
            job.mkdir(parents=True)
            (job / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def right(seed: int, shift: int = 0) -> np.ndarray:
    """Which recordings are predicted rightly."""
    return (np.arange(24) + shift + seed) % 5 != 0


def test_differences_are_those_of_the_predictions(tmp_path: Path) -> None:
    a, b = made(tmp_path / "a", [0, 1, 2]), made(tmp_path / "b", [1, 2, 3], shift=2, folds="abc")
    found = compare([read(a), read(b)])
    assert found["seeds"] == [1, 2]
    assert [row["wa"] for row in found["runs"]] == pytest.approx(
        [np.mean([right(s) for s in (1, 2)]), np.mean([right(s, 2) for s in (1, 2)])]
    )
    by_seed = [right(s, 2).mean() - right(s).mean() for s in (1, 2)]
    assert found["differences"][0]["wa"]["by_seed"] == pytest.approx(by_seed)
    speaker, y = np.arange(24) % 6, np.arange(24) // 2 % 2
    runs = [
        np.stack([statistics.confusions(y, np.where(right(s, shift), y, 1 - y), speaker, 2) for s in (1, 2)])
        for shift in (2, 0)
    ]
    assert found["differences"][0]["ua"] == statistics.differences(*runs)["ua"]
    assert (found["utterances"], found["sampling"]["clusters"]) == (24, 6)


def test_recordings_are_paired_by_content_in_whatever_order(tmp_path: Path) -> None:
    a = made(tmp_path / "a", [0])
    shutil.copytree(a, tmp_path / "b")
    for file in (tmp_path / "b").glob("jobs/*/predictions.jsonl"):
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(reversed(lines)))
    found = compare([read(a), read(tmp_path / "b")])
    assert found["differences"][0]["ua"] == {"difference": 0.0, "interval": None, "by_seed": [0.0]}


def test_what_differs_beside_is_said(tmp_path: Path) -> None:
    a = made(tmp_path / "a", [0, 1, 2])
    b = made(tmp_path / "b", [0], folds="abc", preset="default", config={"seed": 0, "batch": 16}, versions={"npser": "2"})
    found = compare([read(a), read(b)])
    assert found["unlike"][0]["splits"] == ["hash: ab | abc"]
    assert found["unlike"][0]["seeds"] == ["[0, 1, 2] | [0]"]
    assert found["unlike"][0]["settings"] == ["preset: paper | default", "batch: 40 | 16"]
    assert found["unlike"][0]["versions"] == ["npser: 1 | 2"]
    for shown in (text(found), markdown(found)):
        for words in ("hash: ab | abc", "batch: 40 | 16", "npser: 1 | 2", "seed 0. ", "what another seed would change is not"):
            assert words in shown
    assert "| difference | WA | UA | macro-F1 | UA by seed |" in markdown(found)


def test_three_runs_are_compared_with_the_first(tmp_path: Path) -> None:
    runs = [read(made(tmp_path / name, [0, 1], shift=k)) for k, name in enumerate("abc")]
    found = compare(runs)
    assert [Path(row["run"]).name for row in found["differences"]] == ["b", "c"]
    assert {Path(row["minus"]).name for row in found["differences"]} == {"a"}
    assert text(found).count("UA by seed") == 2
    assert "the folds of" in text(found)


def edited(folder: Path, change: Any) -> Path:
    """The first recording of each file changed, or taken out."""
    if not change:
        report = json.loads((folder / "report.json").read_text())
        (folder / "report.json").write_text(json.dumps(report | {"utterances": 22}))
    for file in folder.glob("jobs/*/predictions.jsonl"):
        first, *rest = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(row) + "\n" for row in [*([first | change] if change else []), *rest]))
    return folder


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    a = read(made(tmp_path / "a", [0]))
    for name, change, words in (
        ("less", None, "2 recordings are in the first only and 0 in the second only, of 24 and 22"),
        ("other", {"content": "f" * 64}, "2 recordings are in the first only and"),
        ("relabelled", {"emotion": "sad"}, "2 recordings have another emotion"),
        ("respoken", {"speaker": "c/9"}, "2 recordings have another speaker"),
    ):
        b = edited(made(tmp_path / name, [0]), change)
        if name == "other":  # two copies of one recording
            assert len(read(b).truth) == 24
        with pytest.raises(ValueError, match="cannot be compared") as caught:
            compare([a, read(b)])
        assert words in str(caught.value), name
    unknown = [made(tmp_path / f"unknown {folds}", [0], folds=folds) for folds in ("ab", "abc")]
    for file in [*unknown[0].glob("jobs/*/*.jsonl"), *unknown[1].glob("jobs/*/*.jsonl")]:
        file.write_text(re.sub(r'"speaker": "c/."', '"speaker": null', file.read_text()))
    with pytest.raises(ValueError, match="of unknown speakers lie in other folds of the second"):
        compare([read(unknown[0]), read(unknown[1])])
    assert "unknown" in compare([read(unknown[0])] * 2)["sampling"]["of"]
    with pytest.raises(ValueError, match="no seed in common"):
        compare([a, read(made(tmp_path / "seed", [7]))])
    with pytest.raises(ValueError, match="angry, sad and of angry, calm, sad"):
        compare([a, read(made(tmp_path / "labels", [0], labels=["angry", "calm", "sad"]))])


def test_what_is_no_cross_validation_is_refused(tmp_path: Path, npser: Command) -> None:
    a = made(tmp_path / "a", [0])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.json").write_text('{"ua": 0.5, "seeds": [0]}')
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "report.json").write_text("[1]")
    made(tmp_path / "cut", [0])
    shutil.rmtree(tmp_path / "cut" / "jobs" / "full-seed0-folda")
    made(tmp_path / "words", [0], labels=["angry", "calm"])
    made(tmp_path / "few", [0], utterances=25)
    for other, words in (
        ("none", "is missing"),
        ("run", "no whole"),
        ("list", "no whole"),
        ("cut", "is missing"),
        ("words", "sad"),
        ("few", "missing"),
    ):
        done = npser("compare", a, tmp_path / other, status=1)
        one_sentence(done, str(tmp_path / other), words)
    npser("compare", a, status=2)
    assert "0.000" in npser("compare", a, a).stdout
    assert json.loads(npser("compare", a, a, "--json").stdout)["utterances"] == 24
    assert npser("compare", a, a, "--format", "markdown").stdout.startswith("| run |")

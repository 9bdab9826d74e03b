"""The jobs of a cross-validation: what each trains on, with which settings, and what makes it another job."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import SMALL, assert_same_training, manifest_of, tone, write_manifest

from npser import corpora, dataset
from npser.experiment import jobs
from npser.experiment.folds import make_folds

C = replace(SMALL, epochs=3, batch=8, learning_rate=1e-2, select="ua")


def planned(corpus: Path, out: Path, config: Any = C, variant: str = "full", **choices: Any) -> list[dict[str, Any]]:
    """The jobs that test session 3, one a seed."""
    out.mkdir()
    with ThreadPoolExecutor(1) as pool:
        data = dataset.prepare(corpora.load(corpus), config, out / "cache", pool, lambda items, **_: items)
    folds = [fold for fold in make_folds(data.utterances) if fold.name == "3"]
    plan = jobs.Plan(folds, "session", config, "default", **choices)
    return jobs.jobs_of(plan, variant, data, jobs.write_plan(out, data, plan, out / "cache"), 1)


@pytest.fixture(scope="module")
def other_test(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus, and session 3 with other recordings, emotions and genders."""
    folder = tmp_path_factory.mktemp("other") / "buzz"
    shutil.copytree(corpus, folder)
    rows = [row | {"path": Path(row["path"]).name} for row in manifest_of(folder)]
    for k, row in enumerate(rows):
        if row["session"] == "3":
            tone(folder / row["path"], 80 + 13 * k, seconds=0.3 + 0.01 * k, seed=100 + k)
            row["emotion"] = "sad" if row["emotion"] == "angry" or k % 3 == 0 else "angry"
            row["gender"] = {"female": "male", "male": ""}[row["gender"]]
    write_manifest(folder / "manifest.csv", rows)
    return folder


@pytest.mark.parametrize(
    ("select", "refit", "variant"),
    [("ua", False, "full"), ("loss", True, "full"), ("last", True, "full"), ("last", False, "shuffled-gender")],
)
def test_another_test_part_changes_nothing_that_a_job_trains(
    corpus: Path, other_test: Path, tmp_path: Path, select: str, refit: bool, variant: str
) -> None:
    c = replace(C, select=select, splice=0.5, class_weight="balanced")
    (job,) = planned(corpus, tmp_path / "a", c, variant, refit=refit, oracle=False)
    (other,) = planned(other_test, tmp_path / "b", c, variant, refit=refit, oracle=True)
    result, another = jobs.run_job(job), jobs.run_job(other)
    assert result["confusion"] != another["confusion"]
    for name in ("selected_epoch", "validation", "config"):
        assert result[name] == another[name]
    folders = [Path(job["folder"]), Path(other["folder"])]
    assert_same_training(*folders)
    if refit and select != "last":
        assert_same_training(*(folder / "refit" for folder in folders))

"""The jobs of a cross-validation: what each trains on, with which settings, and what makes it another job."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import SMALL, assert_same_training, manifest_of, tone, unbalanced, write_manifest

from npser import corpora, dataset
from npser.dataset import Dataset
from npser.experiment import crossval, jobs, systems
from npser.experiment.folds import make_folds
from npser.experiment.run import describe
from npser.experiment.systems import Variant
from npser.train import Run

C = replace(SMALL, epochs=3, batch=8, learning_rate=1e-2, select="ua")


def planned(corpus: Path, out: Path, config: Any = C, variant: str = "full", **choices: Any) -> list[dict[str, Any]]:
    """The jobs that test session 3, one a seed."""
    out.mkdir()
    with ThreadPoolExecutor(1) as pool:
        data = dataset.prepare(corpora.load(corpus), config, out / "cache", pool, lambda items, **_: items)
    folds = [fold for fold in make_folds(data.utterances) if fold.name == "3"]
    named, _ = systems.variants(Variant(config, "default"), ablate=True)
    plan = jobs.Plan(folds, "session", named, **choices)
    return [{**job, "threads": 1} for job in jobs.jobs_of(plan, variant, data, jobs.write_plan(out, data, plan, out / "cache"))]


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
    last = folders[0] / "refit" if refit and select != "last" else folders[0]
    parts = json.loads((last / "report.json").read_text())["split"]
    sizes = [parts[part]["utterances"] for part in ("train", "validation", "test")]
    assert sizes == ([16, 0, 8] if refit else [8, 8, 8])
    if refit and select != "last":
        assert_same_training(*(folder / "refit" for folder in folders))


def test_the_seeds_of_a_cross_validation_are_networks_of_their_own(corpus: Path, tmp_path: Path) -> None:
    some = planned(corpus, tmp_path / "out", replace(C, epochs=1, seed=3), seeds=2)
    assert [job["seed"] for job in some] == [3, 4]
    results = [jobs.run_job(job) for job in some]
    assert [result["config"]["seed"] for result in results] == [3, 4]
    first, second = (Path(job["folder"], "predictions.jsonl").read_text().splitlines() for job in some)
    assert first != second
    p = np.array([list(json.loads(line)["probabilities"].values()) for line in first])
    np.testing.assert_allclose(results[0]["confidence"]["after"], p.max(axis=1))
    cold = p ** results[0]["calibration"]["temperature"]
    np.testing.assert_allclose(
        results[0]["confidence"]["before"], (cold / cold.sum(axis=1, keepdims=True)).max(axis=1), rtol=1e-6
    )


def test_a_training_that_was_stopped_does_not_know_its_seconds(corpus: Path, tmp_path: Path) -> None:
    (job,) = planned(corpus, tmp_path / "out", replace(C, epochs=1))
    first = jobs.run_job(job)
    assert first["run"].keys() == {"training", "answering", "seconds"}
    assert first["run"]["training"] is not None
    (Path(job["folder"]) / "result.json").unlink()
    again = jobs.run_job(job)
    assert again.pop("run")["training"] is None
    assert first.pop("run")
    assert again == first


def test_a_refit_trains_for_as_many_epochs_as_were_chosen_and_its_answers_count(corpus: Path, tmp_path: Path) -> None:
    (job,) = planned(corpus, tmp_path / "out", replace(C, learning_rate=0.1, dropout=0.0, seed=0), refit=True)
    result = jobs.run_job(job)
    folder = Path(job["folder"])
    first, refit = (json.loads((run / "report.json").read_text()) for run in (folder, folder / "refit"))
    assert first["selected_epoch"] < 3 == first["config"]["epochs"]
    assert refit["config"]["epochs"] == refit["selected_epoch"] == result["selected_epoch"] == first["selected_epoch"]
    assert (refit["split"]["train"]["utterances"], refit["split"]["validation"]["utterances"]) == (16, 0)
    assert (result["validation"], result["calibration"]) == (first["validation"], None)
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    confusion = np.zeros((2, 2), int)
    for row in rows:
        confusion[["angry", "sad"].index(row["emotion"]), ["angry", "sad"].index(row["predicted"])] += 1
    assert confusion.tolist() == refit["confusion"] == result["confusion"] != first["confusion"]


def test_a_model_file_names_whom_it_was_trained_on_and_nobody_else() -> None:
    data, split = unbalanced(C)

    def about(changed: list[int]) -> dict[str, Any]:
        content = ["0" * 64 if r in changed else digest for r, digest in enumerate(data.content)]
        return describe(replace(data, content=content), split, C, "default", [])

    assert about([])["speakers"] == sorted(f"c/{r}" for r in split.train)
    assert about([*split.validation, *split.test])["audio"] == about([])["audio"]
    assert about(split.train[-1:])["audio"] != about([])["audio"]


def test_a_job_is_another_one_with_any_other_label_part_or_setting() -> None:
    data, split = unbalanced(C)
    full = Variant(C, "default")
    plan = jobs.Plan([], "session", {"full": full})
    first = data.utterances[0]

    def with_first(**fields: Any) -> Dataset:
        return replace(data, utterances=[replace(first, **fields), *data.utterances[1:]])

    emotion, gender = ("sad" if first.emotion == "happy" else "happy"), ("male" if first.gender == "female" else "female")
    moved = replace(split, train=split.train[1:], validation=sorted([*split.validation, split.train[0]]))
    found = [
        jobs.identity(data, split, plan, "full", full),
        jobs.identity(with_first(emotion=emotion), split, plan, "full", full),
        jobs.identity(with_first(gender=gender), split, plan, "full", full),
        jobs.identity(with_first(speaker="c/another"), split, plan, "full", full),
        jobs.identity(replace(data, content=["0" * 64, *data.content[1:]]), split, plan, "full", full),
        jobs.identity(replace(data, labels=[*data.labels, "surprised"]), split, plan, "full", full),
        jobs.identity(data, moved, plan, "full", full),
        jobs.identity(data, replace(split, test=split.test[1:]), plan, "full", full),
        jobs.identity(data, split, plan, "full", full.seeded(1)),
        jobs.identity(data, split, plan, "full", replace(full, config=replace(C, dropout=0.1))),
        jobs.identity(data, split, plan, "shuffled-gender", full),
        jobs.identity(data, split, plan, "full", replace(full, preset="paper")),
        jobs.identity(data, split, replace(plan, refit=True), "full", full),
        jobs.identity(data, split, replace(plan, oracle=False), "full", full),
    ]
    assert len(set(found)) == len(found)
    elsewhere = with_first(path=Path("elsewhere") / first.path)
    more = replace(plan, seeds=5, variants=systems.variants(full, True, systems.all_systems())[0])
    assert jobs.identity(elsewhere, split, more, "full", full) == found[0]


@pytest.mark.parametrize("seed", range(10))
def test_genders_are_dealt_out_within_a_part_and_unknown_ones_stay_unknown(seed: int) -> None:
    data, split = unbalanced(C)
    shuffled = jobs.shuffled_gender(data, split, seed)
    for part in (split.train, split.validation, split.test):
        np.testing.assert_array_equal(np.sort(shuffled.gender_y[part]), np.sort(data.gender_y[part]))
    np.testing.assert_array_equal(shuffled.gender_y < 0, data.gender_y < 0)
    np.testing.assert_array_equal(shuffled.gender_y[split.test], data.gender_y[split.test])


@pytest.mark.parametrize("variant", ["full", "shuffled-gender"])
def test_the_control_of_shuffled_genders_says_what_it_is_and_each_seed_deals_anew(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    met = []

    def watched(data: Dataset, *rest: Any, notices: list[str], **choices: Any) -> None:
        met.append((data.gender_y.tolist(), notices))
        raise ValueError("that is enough")

    monkeypatch.setattr(jobs.run, "run", watched)
    for job in planned(corpus, tmp_path / "out", variant=variant, seeds=3):
        with pytest.raises(ValueError, match="enough"):
            jobs.run_job(job)
    of_control = variant == "shuffled-gender"
    assert [notices for _, notices in met] == [[jobs.SHUFFLED] if of_control else []] * 3
    assert len({tuple(genders) for genders, _ in met}) == (3 if of_control else 1)


def test_a_recording_that_a_worker_cannot_read_stops_its_job(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path / "corpus")
    (job,) = planned(tmp_path / "corpus", tmp_path / "out")
    (rows,) = (tmp_path / "out" / "cache").glob("*/rows.f32")
    rows.write_bytes(bytes(rows.stat().st_size))
    (tmp_path / "corpus" / "2f_sad_0.wav").unlink()
    with pytest.warns(UserWarning, match="is damaged"), pytest.raises(ValueError, match=r"2f_sad_0\.wav: .*, on this worker"):
        jobs.run_job(job)


@pytest.mark.parametrize(("asked", "threads", "expected"), [(8, 8, (3, 2)), (2, 8, (2, 4)), (1, 3, (1, 3)), (3, 1, (3, 1))])
def test_no_more_workers_than_networks_share_the_threads(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int, threads: int, expected: tuple[int, int]
) -> None:
    met: list[tuple[int, int]] = []

    def stop(pending: list[dict[str, Any]], workers: crossval.Workers, place: Run) -> int:
        met.extend((workers.processes, job["threads"]) for job in pending)
        raise ValueError("stopped here")

    monkeypatch.setattr(crossval, "_run_pending", stop)
    with ThreadPoolExecutor(1) as pool:
        data = dataset.prepare(corpora.load(corpus), C, tmp_path / "cache", pool, lambda items, **_: items)
        plan = jobs.Plan(make_folds(data.utterances), "session", {"full": Variant(C, "default")})
        place = Run(tmp_path, pool, say=lambda _: None)
        with pytest.raises(ValueError, match="stopped here"):
            crossval.run(data, {}, plan, place, tmp_path / "cache", crossval.Workers(asked, threads), [])
    assert met == [expected] * 3

"""Folds, jobs that die, and the whole command."""

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Command, manifest_of, one_sentence, report_of, write_manifest

from npser import checkpoint, corpora, dataset
from npser.calibration import calibration_error, log_softmax
from npser.commands import cli
from npser.corpora import Utterance
from npser.experiment import crossval, crossval_report, executors, folds, jobs, table2
from npser.experiment.folds import fold_warnings, make_folds
from npser.experiment.run import SPEAKER_DEPENDENT
from npser.experiment.systems import Variant
from npser.metrics import confusion_matrix, scores
from npser.networks.li2019 import PUBLISHED, Config


@pytest.fixture
def utterances(corpus: Path) -> list[Utterance]:
    return corpora.load(corpus).utterances


# Folds


@pytest.mark.parametrize("by", ["session", "speaker", "2", "3", "4", "6"])
def test_folds_test_everything_once_and_never_share_speakers(utterances: list[Utterance], by: str) -> None:
    folds = make_folds(utterances, by, digests=[u.path.name for u in utterances])
    assert len(folds) == {"session": 3, "speaker": 6}.get(by, 0) or int(by)
    assert sorted(r for fold in folds for r in fold.split.test) == list(range(24))
    for fold in folds:
        s = fold.split
        assert sorted([*s.train, *s.validation, *s.test]) == list(range(24))
        speakers = [{utterances[r].speaker for r in part} for part in (s.train, s.validation, s.test)]
        assert not speakers[2] & (speakers[0] | speakers[1])
        if by != "2":  # with two groups a fifth of the training utterances validates, and a warning says so
            assert not speakers[0] & speakers[1]
        else:
            assert "validation is a fifth" in s.warnings[0]


def test_the_next_group_validates(utterances: list[Utterance]) -> None:
    pairs = [(fold.name, fold.split.validation_session) for fold in make_folds(utterances)]
    assert pairs == [("1", "buzz/2"), ("2", "buzz/3"), ("3", "buzz/1")]


def test_with_two_groups_the_seed_draws_the_fifth_that_validates(utterances: list[Utterance]) -> None:
    few = [u for u in utterances if u.session != "buzz/3"]
    drawn = [[fold.split.validation for fold in make_folds(few, seed=seed)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_groups_of_speakers_are_balanced_by_label() -> None:
    sizes = {"a": (40, 2), "b": (2, 40), "c": (20, 20), "d": (20, 20), "e": (30, 10), "f": (12, 32)}
    many = [
        Utterance(Path(f"{speaker}{emotion}{k}.wav"), emotion, "c", f"c/{speaker}")
        for speaker, counts in sizes.items()
        for emotion, count in zip(("angry", "sad"), counts, strict=True)
        for k in range(count)
    ]
    for fold in make_folds(many, "3"):
        angry = sum(many[r].emotion == "angry" for r in fold.split.test)
        assert 0.4 < angry / len(fold.split.test) < 0.6
        assert 70 <= len(fold.split.test) <= 90


def test_groups_of_speakers_hold_both_genders(utterances: list[Utterance]) -> None:
    for by in ("2", "3"):
        for fold in make_folds(utterances, by):
            assert {utterances[r].gender for r in fold.split.test} == {"female", "male"}


def test_groups_of_speakers_may_span_corpora(utterances: list[Utterance]) -> None:
    twice = [*utterances, *(replace(u, corpus="b", speaker=f"b/{u.speaker}", session=None) for u in utterances)]
    folds = make_folds(twice, "3")
    assert all(len({twice[r].speaker for r in fold.split.test}) == 4 for fold in folds)
    assert len(make_folds(twice)) == 3 + 5  # sessions of the one, groups of speakers of the other


def test_each_corpus_is_tested_by_what_never_heard_it_and_the_last_sessions_of_the_others_validate(
    utterances: list[Utterance],
) -> None:
    second = [replace(u, corpus="a b", speaker=f"a b/{u.speaker}", session=f"a b/{u.session}") for u in utterances]
    third = [replace(u, corpus="c", speaker="c/one", session=None) for u in utterances[:4]]  # of one session: it trains
    every = [*utterances, *second, *third]
    found = make_folds(every, "corpus", digests=[str(k) for k in range(len(every))])
    assert [fold.name for fold in found] == ["a-b", "buzz", "c"]
    assert [fold.split.test_session for fold in found] == ["a b", "buzz", "c"]
    for fold in found:
        s = fold.split
        assert sorted([*s.train, *s.validation, *s.test]) == list(range(len(every)))
        assert {every[r].corpus for r in s.test} == {s.test_session}
        assert s.test_session not in {every[r].corpus for r in [*s.train, *s.validation]}
        held = {"buzz": "buzz/3", "a b": "a b/buzz/3"}
        assert {every[r].session for r in s.validation} == {held[name] for name in held if name != s.test_session}
        assert not s.speaker_dependent
    with pytest.raises(ValueError, match=r"--folds corpus: the data is of one corpus \(buzz\), and two are needed"):
        make_folds(utterances, "corpus")


def test_a_speaker_in_two_sessions_is_refused(utterances: list[Utterance]) -> None:
    swap = {"1f_angry_0.wav": "buzz/2", "2f_angry_0.wav": "buzz/1"}
    mixed = [replace(u, session=swap.get(u.path.name, u.session)) for u in utterances]
    with pytest.raises(ValueError, match=r"speaker buzz/[12]f is in .*--allow-speaker-overlap"):
        make_folds(mixed)
    assert all(fold.split.speaker_dependent for fold in make_folds(mixed, allow_speaker_overlap=True))


def test_the_same_recording_in_two_sessions_is_refused(utterances: list[Utterance]) -> None:
    digests = [str(k) for k in range(24)]
    a = next(k for k, u in enumerate(utterances) if u.session == "buzz/1")
    b = next(k for k, u in enumerate(utterances) if u.session == "buzz/3")
    digests[b] = digests[a]
    with pytest.raises(ValueError, match="byte for byte"):
        make_folds(utterances, digests=digests)


def test_a_session_of_one_class_is_told_once_a_fold(utterances: list[Utterance]) -> None:
    few = [u for u in utterances if u.session != "buzz/2" or u.emotion == "sad"]
    told = fold_warnings(make_folds(few))
    assert "fold 2: the test part holds no angry: its UA is of the other classes only" in told
    assert "fold 1: the validation part holds no angry: its UA is of the other classes only" in told


def test_utterances_without_a_session_train_and_are_told(utterances: list[Utterance]) -> None:
    some = [replace(u, session=None, speaker=None) if u.path.name.startswith("1f") else u for u in utterances]
    folds = make_folds(some)
    assert fold_warnings(folds) == [
        "4 utterances have no session; they are in the training part",
        "4 utterances have no speaker: nothing tells whether theirs are in two parts",
    ]
    assert len([r for fold in folds for r in fold.split.test]) == 20


def test_a_session_without_a_speaker_is_tested_and_told(utterances: list[Utterance]) -> None:
    some = [replace(u, speaker=None) if u.session == "buzz/2" else u for u in utterances]
    folds = make_folds(some)
    assert fold_warnings(folds) == ["8 utterances have no speaker: nothing tells whether theirs are in two parts"]
    assert len([r for fold in folds for r in fold.split.test]) == 24
    with pytest.raises(ValueError, match="in train and in test"):  # those that are known are still compared
        make_folds([replace(u, speaker="buzz/3f") if u.speaker == "buzz/1f" else u for u in some])


def test_what_cannot_be_cut_is_refused(utterances: list[Utterance]) -> None:
    unknown = [replace(u, session=None, speaker=None) for u in utterances]
    for by, words in (("session", "holds none"), ("speaker", "holds none"), ("3", "0 speakers")):
        with pytest.raises(ValueError, match=words):
            make_folds(unknown, by)
    for by in ("1", "0", "-2", "emotion", "7"):
        with pytest.raises(ValueError, match=f"--folds {by}"):
            make_folds(utterances, by)
    one = [u for u in utterances if u.speaker == "buzz/1f"]
    with pytest.raises(ValueError, match="only one"):
        make_folds(one, "speaker")


# Jobs


class Mortal(Executor):
    """Runs jobs at once; the first so many executors break at their second job."""

    broken = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        (job,) = args
        if Mortal.broken and job["fold"] == "1":
            future.set_exception(BrokenExecutor())
        elif job["fold"] == "bad":
            future.set_exception(ValueError("the loss is not finite"))
        elif job["fold"] == "odd":
            future.set_exception(KeyError("sad"))
        else:
            result = {"ua": 0.5, "selected_epoch": 1, "run": {"seconds": 0.0}}
            folder = Path(job["folder"])
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "job.json").write_text(json.dumps({"identity": job["identity"]}))
            (folder / "result.json").write_text(json.dumps(result))
            future.set_result(result)
        return future


@contextmanager
def mortal() -> Iterator[Executor]:
    try:
        yield Mortal()
    finally:
        Mortal.broken = max(0, Mortal.broken - 1)


def make_jobs(folder: Path, *names: str) -> list[dict[str, Any]]:
    return [{"folder": str(folder / name), "identity": name, "fold": name} for name in names]


@pytest.mark.parametrize("deaths", [0, 1, 3])
def test_jobs_of_dead_workers_are_run_again(tmp_path: Path, deaths: int) -> None:
    Mortal.broken, said = deaths, []
    some = make_jobs(tmp_path, "0", "1", "2")
    assert executors.run_jobs(some, mortal, said.append, lambda: None) == deaths
    assert all(jobs.finished(job) for job in some)
    assert sum("a worker died" in text for text in said) == deaths
    if deaths:
        assert "running them again (1 of 3)" in "".join(said)


def test_workers_that_keep_dying_end_the_run(tmp_path: Path) -> None:
    Mortal.broken, said = 4, []
    with pytest.raises(ValueError, match=r"4th time: try fewer --workers"):
        executors.run_jobs(make_jobs(tmp_path, "0", "1"), mortal, said.append, lambda: None)
    assert Mortal.broken == 0


def test_a_job_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    said: list[str] = []
    some = make_jobs(tmp_path, "bad", "0", "2")
    with pytest.raises(ValueError, match="1 of 3 jobs failed; bad: the loss is not finite"):
        executors.run_jobs(some, mortal, said.append, lambda: None)
    assert [bool(jobs.finished(job)) for job in some] == [False, True, True]
    with pytest.raises(ValueError, match="1 of 1 jobs failed; odd: KeyError: 'sad'"):  # what nobody foresaw has its kind's name
        executors.run_jobs(make_jobs(tmp_path, "odd"), mortal, said.append, lambda: None)


def test_a_job_of_other_settings_is_not_taken(tmp_path: Path) -> None:
    (job,) = make_jobs(tmp_path, "0")
    assert jobs.finished(job) is None
    with mortal() as executor:
        executor.submit(jobs.run_job, job)
    assert jobs.finished(job)
    with pytest.raises(ValueError, match="other data or settings"):
        jobs.finished(job | {"identity": "other"})
    (tmp_path / "0" / "result.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        jobs.finished(job)


def test_a_worker_that_sees_other_files_refuses(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path / "corpus")
    with ThreadPoolExecutor(2) as pool:
        config, cache = Config(pad=False), tmp_path / "cache"
        data = dataset.prepare(corpora.load(tmp_path / "corpus"), config, cache, pool, lambda items, **_: items)
        folds = make_folds(data.utterances)
        plan, digest = jobs.write_plan(tmp_path, data, jobs.Plan(folds, "session", {"full": Variant(config, "default")}), cache)
        assert jobs._dataset(jobs._read_plan(str(plan), digest), config, pool).content == data.content
        with pytest.raises(ValueError, match="is not the plan of this job"):
            jobs._read_plan(str(plan), "0" * 64)
        other = jobs._read_plan(str(plan), digest) | {"cache": str(tmp_path / "elsewhere")}
        again = jobs._dataset(other, config, pool)  # the features are computed once more
        np.testing.assert_array_equal(again.store.rows, data.store.rows)
        shutil.rmtree(tmp_path / "elsewhere")
        data.utterances[3].path.write_bytes(data.utterances[4].path.read_bytes())
        with pytest.raises(ValueError, match="other content on this worker"):
            jobs._dataset(other, config, pool)


def test_genders_are_shuffled_in_training_and_validation_only(corpus: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        data = dataset.prepare(corpora.load(corpus), Config(pad=False), tmp_path, pool, lambda items, **_: items)
    split = make_folds(data.utterances)[0].split
    shuffled = jobs.shuffled_gender(data, split, 0)
    np.testing.assert_array_equal(shuffled.gender_y[split.test], data.gender_y[split.test])
    for part in (split.train, split.validation):
        assert sorted(shuffled.gender_y[part]) == sorted(data.gender_y[part])
    assert (shuffled.gender_y[split.train] != data.gender_y[split.train]).any()
    np.testing.assert_array_equal(shuffled.emotion_y, data.emotion_y)
    np.testing.assert_array_equal(shuffled.gender_y, jobs.shuffled_gender(data, split, 0).gender_y)
    assert (shuffled.gender_y != jobs.shuffled_gender(data, split, 1).gender_y).any()


# The command


@pytest.fixture(scope="module")
def ablation(corpus: Path, small: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds of three speakers with everything that there is to report."""
    out = tmp_path_factory.mktemp("crossval") / "out"
    command = [sys.executable, "-m", "npser", "crossval", corpus, "--config", small, "--epochs", "1", "--folds", "2"]
    command += ["--ablate", "--out", out, "--workers", "2"]
    done = subprocess.run(list(map(str, command)), env=environment, check=True, capture_output=True, text=True, timeout=600)
    assert "UA" in done.stdout
    return out


@pytest.fixture
def report(ablation: Path) -> dict[str, Any]:
    return report_of(ablation)


def test_scores_are_those_of_the_kept_predictions(ablation: Path, report: dict[str, Any]) -> None:
    labels = report["labels"]
    for variant, found in report["variants"].items():
        rows = []
        for file in sorted((ablation / "jobs").glob(f"{variant}-seed0-fold*/predictions.jsonl")):
            rows += [json.loads(line) for line in file.read_text().splitlines()]
        assert len({row["file"] for row in rows}) == 24
        truth, predicted = (np.array([labels.index(row[key]) for row in rows]) for key in ("emotion", "predicted"))
        confusion = confusion_matrix(truth, predicted, 2)
        assert found["confusion"] == confusion.tolist()
        for name in ("wa", "ua", "macro_f1"):
            assert found[name] == pytest.approx(scores(confusion)[name])
            low, high = found["intervals"][name] or [found[name], found[name]]
            assert low <= found[name] <= high
        assert (rows[0]["gender_probabilities"] is None) == (variant == "no-gender")
        assert (found["gender"] is None) == (variant == "no-gender")
        assert sum(part["utterances"] for part in found["per_speaker"].values()) == 24
        folds = [scores(np.array(job["confusion"]))["ua"] for job in job_results(ablation, variant)]
        assert found["over_folds"]["ua"]["values"] == pytest.approx(folds)


def job_results(out: Path, variant: str) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted((out / "jobs").glob(f"{variant}-seed*/result.json"))]


def test_the_calibration_error_is_of_all_folds_together(ablation: Path, report: dict[str, Any]) -> None:
    for variant, found in report["variants"].items():
        jobs_of = sorted((ablation / "jobs").glob(f"{variant}-seed0-fold*"))
        temperatures = [checkpoint.load(job / "model.safetensors").temperature for job in jobs_of]
        assert found["calibration"]["temperatures"] == [temperatures]
        log_p, before, y = [], [], []
        for job, temperature in zip(jobs_of, temperatures, strict=True):
            for line in (job / "predictions.jsonl").read_text().splitlines():
                row = json.loads(line)
                log_p.append(np.log(list(row["probabilities"].values())))
                before.append(log_softmax(log_p[-1] * temperature))
                y.append(report["labels"].index(row["emotion"]))
        for when, of in (("before", before), ("after", log_p)):
            expected = calibration_error(np.array(of), np.array(y))
            assert found["calibration"][f"ece_{when}"]["values"] == [pytest.approx(expected)]
    assert "| Full model | " in (ablation / "report.md").read_text().partition("## Calibration")[2]


def test_the_report_is_whole(ablation: Path, report: dict[str, Any]) -> None:
    assert set(report["variants"]) == {"full", "no-attention", "no-recurrence", "no-gender", "shuffled-gender"}
    assert set(report["baselines"]) == {"majority", "duration", "level", "linear"}
    others = report["variants"] | report["baselines"]
    assert set(report["differences"]) == set(others) - {"full"}
    for name, found in report["differences"].items():
        expected = report["variants"]["full"]["ua"] - others[name]["ua"]
        assert found["ua"]["difference"] == pytest.approx(expected)
        assert found["ua"]["by_seed"] == pytest.approx([expected])
    assert (report["sampling"]["clusters"], report["sampling"]["of"]) == (6, "speakers")
    text = (ablation / "report.md").read_text()
    for words in ("Table 2", "Table 3", "oracle, not comparable", report["split"]["hash"], "| seed | 0 |", "buzz/1f", "numba"):
        assert words in text
    assert "published WA" not in text  # the paper's figures are of another corpus
    assert report["split"]["folds"][0]["test"]["utterances"] == 12
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return
    pictures = {path.name for path in ablation.glob("*.png")}
    assert pictures == {
        "curves.png",
        "spread.png",
        "systems.png",
        *(f"confusion-{variant}.png" for variant in report["variants"]),
    }


def test_the_papers_figures_stand_beside_those_of_its_corpus(report: dict[str, Any]) -> None:
    ours = copy.deepcopy(report) | {"corpora": ["iemocap"], "labels": table2.PAPER_LABELS, "run": {}}
    for row in (*ours["variants"].values(), *ours["baselines"].values()):
        row |= {"confusion": np.eye(4, dtype=int).tolist(), "recall": dict.fromkeys(ours["labels"], 1.0)}
    text = crossval_report.markdown(ours)
    names = {row[1]: row[0] for line in text.splitlines() if (row := line.strip("| ").split(" | - | - | - | "))[1:]}
    li2019 = "Self attention + multitask (Li et al., 2019)"
    assert names["81.6 % | 82.8 %"] == li2019  # the network of this report has other settings
    assert names["55.3 % | 51.1 %"] == f"{li2019}, without self attention"
    assert names["70.5 % | 72.6 %"] == f"{li2019}, without multitask learning"
    assert names["73.9 % | 68.5 %"] == "Multichannel CNN (Yenigalla et al., 2018)"
    assert names["62.85 % | 63.89 %"] == "BLSTM-ELM (Lee and Tashev, 2015)"
    assert text.count("as remembered") == 2
    assert "(the ablation of 5.4)" in text
    ours["systems"]["full"] |= {"published": PUBLISHED, "preset": "paper", "changed": False}
    text = crossval_report.markdown(ours)
    for method, figures in (
        ("Full model", "81.6 % | 82.8 %"),
        ("– Self attention", "55.3 % | 51.1 %"),
        ("– Multitask learning", "70.5 % | 72.6 %"),
    ):
        (row,) = (line for line in text.splitlines() if line.endswith(f"| {figures} |"))
        assert row.startswith(f"| {method} | 0.")
    assert "as remembered" in text
    assert "51.1" not in crossval_report.markdown(ours | {"corpora": ["emodb"]}).partition("## Confusion")[0]
    assert "| angry | 939 | 101 | 63 | 0 | 0.851 |" in text
    paper = np.array(crossval_report.PAPER_TABLE_3)
    assert paper.sum() == 5531
    assert round(100 * scores(paper)["wa"], 1) == 81.6


def test_the_same_command_runs_nothing_again(npser: Command, corpus: Path, small: Path, ablation: Path, tmp_path: Path) -> None:
    shutil.copytree(ablation, tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    words = ("crossval", corpus, "--config", small, "--epochs", "1", "--folds", "2", "--ablate", "--out", "out")
    shown = npser(*words, "--json")
    assert "10, of which 10 are done already" in shown.stderr
    assert json.loads(shown.stdout)["variants"] == report_of(ablation)["variants"]
    assert report_of(tmp_path / "out") == report_of(ablation)
    for path, content in before.items():
        if path.name not in ("report.json", "plan.json") or "jobs" in path.parts:
            assert path.read_bytes() == content, path
    one_sentence(npser(*words, "--set", "dropout=0.1", status=1), "other data or settings", "--out")


def test_more_seeds_are_added_to_those_that_are_done(
    npser: Command, corpus: Path, small: Path, ablation: Path, report: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(ablation, tmp_path / "out")
    words = ("crossval", corpus, "--config", small, "--epochs", "1", "--folds", "2", "--seeds", "2", "--out", "out")
    assert "4, of which 2 are done already" in npser(*words).stdout
    more = report_of(tmp_path / "out")
    assert more["seeds"] == [0, 1]
    first, second = more["variants"]["full"]["ua_of_seeds_and_folds"]
    assert [first] == report["variants"]["full"]["ua_of_seeds_and_folds"]
    assert len(second) == 2


def test_style_and_split_columns(npser: Command, corpus: Path, small: Path, tmp_path: Path) -> None:
    rows = manifest_of(corpus, split="train")
    for k, row in enumerate(rows):
        row |= {"style": "improvised" if k % 3 else "scripted", "gender": "female", "scenario": "one"}
    write_manifest(tmp_path / "other.csv", rows)
    words = ("crossval", "other.csv", "--config", small, "--epochs", "1", "--folds", "2", "--no-oracle", "--ablate")
    shown = npser(*words, "--json", "--set", "attention=false", "--refit")
    found = json.loads(shown.stdout)
    full = found["variants"]["full"]
    assert {name: part["utterances"] for name, part in full["styles"].items()} == {"improvised": 16, "scripted": 8}
    assert "scenario" in found["baselines"]
    assert list(found["variants"]) == ["full", "no-recurrence"]
    assert any("variant no-attention already" in text for text in found["notices"])
    assert (full["oracle"], full["gender"]) == (None, None)
    assert any("split column is not used" in text for text in found["notices"])
    assert (tmp_path / "runs" / "other-default-crossval-2" / "report.md").exists()
    (job,) = (tmp_path / "runs").glob("*/jobs/full-*fold*1")
    result = json.loads((job / "result.json").read_text())
    refit = json.loads((job / "refit" / "report.json").read_text())
    assert result["confusion"] == refit["confusion"]
    assert refit["epochs"] == refit["selected_epoch"] == result["selected_epoch"]
    assert full["calibration"] is None  # a network trained anew has no validation part
    assert refit["split"]["train"]["utterances"] == 12


def test_where_no_epoch_is_chosen_a_refit_is_the_only_training(
    npser: Command, corpus: Path, small: Path, tmp_path: Path
) -> None:
    words = ("crossval", corpus, "--config", small, "--set", "select=last", "--no-oracle", "--json", "--out")
    refit = json.loads(npser(*words, "refit", "--refit").stdout)
    (job,) = (tmp_path / "refit").glob("jobs/*fold1")
    assert not (job / "refit").exists()
    report = json.loads((job / "report.json").read_text())
    assert {part: report["split"][part]["utterances"] for part in ("train", "validation", "test")} == {
        "train": 16,
        "validation": 0,
        "test": 8,
    }
    assert refit["variants"]["full"]["calibration"] is None
    assert refit["variants"]["full"]["selected_epochs"] == [[3, 3, 3]]
    assert "trained on the training and validation groups" in (tmp_path / "refit" / "report.md").read_text()
    npser(*words, "plain")
    assert "the validation group calibrates it" in (tmp_path / "plain" / "report.md").read_text()


def test_folds_that_share_speakers_are_branded(
    corpus: Path,
    small: Path,
    report: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [{**row, "speaker": row["speaker"][1]} for row in manifest_of(corpus)]
    words = ["crossval", write_manifest(tmp_path / "two.csv", rows), "--config", small, "--allow-speaker-overlap"]
    words += ["--seed", "5", "--cache", tmp_path / "cache", "--out", tmp_path / "out"]
    seeds, make = [], folds.make_folds
    monkeypatch.setattr(folds, "make_folds", lambda *given: seeds.append(given[2]) or make(*given))
    monkeypatch.setattr(crossval, "run", lambda *given: {**report, "run": {}, "notices": given[-1]})
    with pytest.warns(UserWarning, match="scores say little about new speakers"):
        assert cli._run(cli._parser().parse_args(list(map(str, words)))) == 0
    assert seeds == [5]  # what draws the folds where chance does
    assert SPEAKER_DEPENDENT in capsys.readouterr().out
    assert f"> **{SPEAKER_DEPENDENT}**" in crossval_report.markdown({**report, "run": {}, "notices": [SPEAKER_DEPENDENT]})


def test_wrong_words_get_one_sentence(npser: Command, corpus: Path, small: Path) -> None:
    words = ("crossval", corpus, "--config", small)
    one_sentence(npser(*words, "--folds", "weeks", status=1), "--folds weeks")
    one_sentence(npser(*words, "--seeds", "0", status=2), "--seeds 0")
    one_sentence(npser(*words, "--refit", "--set", "schedule=cosine", status=1), "--refit", "select=last")
    one_sentence(npser(*words, "--workers", "0", status=2), "--workers 0")
    one_sentence(npser(*words, "--out", "/dev/null/x", status=1), "--out /dev/null/x")

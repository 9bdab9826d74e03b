"""`npser train` as a user runs it."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import soundfile
from helpers import UNCOMPILED, Command, assert_same_run, manifest_of, report_of, tone, write_manifest

from npser import checkpoint


def test_a_run_folder_holds_what_a_run_found(trained: Path) -> None:
    files = {path.name for path in trained.iterdir()}
    texts = {"config.toml", "metrics.jsonl", "report.json", "report.md"}
    assert files == texts | {"model.safetensors", "last.safetensors", "curves.png", "confusion.png", ".lock"}
    report = json.loads((trained / "report.json").read_text())
    keys = "wa ua macro_f1 gender_accuracy confusion labels selected_epoch oracle parameters seconds split run"
    assert set(keys.split()) <= set(report)
    assert set(report["oracle"]) >= {"wa", "ua", "epoch"}
    assert report["labels"] == ["angry", "sad"]
    assert np.sum(report["confusion"]) == report["split"]["test"]["utterances"] == 8
    assert report["split"]["test"]["speakers"] == ["buzz/3f", "buzz/3m"]
    assert report["split"]["validation"]["speakers"] == ["buzz/1f", "buzz/1m"]
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert report["validation"]["ua"] == max(row["validation"]["ua"] for row in rows)


def test_the_model_file_holds_no_dates_and_no_paths(trained: Path, corpus: Path) -> None:
    text = (trained / "model.safetensors").read_bytes()
    assert str(corpus).encode() not in text
    assert str(trained).encode() not in text
    assert json.loads((trained / "report.json").read_text())["run"]["started"][:10].encode() not in text


def test_the_same_command_gives_the_same_files_on_any_number_of_threads(
    npser: Command, corpus: Path, small: Path, trained: Path, tmp_path: Path
) -> None:
    for threads in "13":
        npser("train", corpus, "--config", small, "--out", tmp_path / threads, "--threads", threads)
        assert_same_run(trained, tmp_path / threads)


def test_another_seed_gives_another_model(npser: Command, corpus: Path, small: Path, trained: Path, tmp_path: Path) -> None:
    npser("train", corpus, "--config", small, "--seed", "1", "--out", tmp_path / "run")
    assert (trained / "model.safetensors").read_bytes() != (tmp_path / "run" / "model.safetensors").read_bytes()


def test_the_place_and_the_order_of_a_corpus_do_not_matter(
    npser: Command, corpus: Path, small: Path, trained: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere" / "buzz"
    shutil.copytree(corpus, moved)
    with (corpus / "manifest.csv").open(newline="") as file:
        write_manifest(moved / "manifest.csv", list(csv.DictReader(file))[::-1])
    npser("train", moved, "--config", small, "--out", tmp_path / "run")
    assert_same_run(trained, tmp_path / "run")


def test_terminal_shows_a_line_an_epoch_and_the_confusion_matrix(npser: Command, corpus: Path, small: Path) -> None:
    shown = npser("train", corpus, "--config", small)
    lines = shown.stdout.splitlines()
    assert sum(line.startswith("epoch") for line in lines) == 3
    assert any(line.split()[:3] == ["angry", "sad", "recall"] for line in lines)
    assert sum("oracle, not comparable" in line for line in lines) == 1
    assert not any("oracle" in line for line in lines if line.startswith("epoch"))
    assert "runs/buzz-default-test3-seed0" in shown.stdout
    assert shown.stderr == ""  # progress is for terminals


def test_json_is_all_that_stands_on_standard_output(npser: Command, corpus: Path, small: Path, tmp_path: Path) -> None:
    shown = npser("train", corpus, "--config", small, "--json", "--no-oracle", "--out", "run")
    report = json.loads(shown.stdout)
    assert report == json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["oracle"] is None


def test_settings_override_each_other_preset_file_set_flag(npser: Command, corpus: Path, small: Path, tmp_path: Path) -> None:
    words = ("--preset", "paper", "--config", small, "--set", "d_lstm=3", "--set", "epochs=5", "--epochs", "1", "--out", "run")
    npser("train", corpus, *words, "--set", "max_seconds=0.3")
    config = report_of(tmp_path / "run")["config"]
    assert (config["pad"], config["d_attn"], config["d_lstm"], config["epochs"]) == (True, 8, 3, 1)
    npser("train", corpus, "--config", tmp_path / "run" / "config.toml", "--preset", "paper", "--out", "again")
    assert_same_run(tmp_path / "run", tmp_path / "again")


def test_training_on_everything_for_a_number_of_epochs(npser: Command, corpus: Path, small: Path, tmp_path: Path) -> None:
    npser("train", corpus, "--config", small, "--test-session", "none", "--val-session", "none", "--out", "run")
    report = report_of(tmp_path / "run")
    assert (report["wa"], report["oracle"], report["selected_epoch"]) == (None, None, 3)
    assert report["split"]["train"]["utterances"] == 24


def test_the_last_epoch_may_be_the_one_that_counts(npser: Command, corpus: Path, small: Path, tmp_path: Path) -> None:
    words = ("train", corpus, "--config", small, "--epochs", "6", "--set", "learning_rate=1e-30")
    for select in ("last", "loss"):
        npser(*words, "--set", f"select={select}", "--out", select)
    assert report_of(tmp_path / "last")["selected_epoch"] == 6
    assert report_of(tmp_path / "loss")["selected_epoch"] == 1  # with so low a rate all epochs are the same
    for select, words in (("last", "chose nothing"), ("loss", "chose the epoch")):
        assert f"Validation (buzz/1), which {words}: " in (tmp_path / select / "report.md").read_text()


def test_weight_decay_makes_weights_smaller_and_spares_biases(
    npser: Command, corpus: Path, small: Path, trained: Path, tmp_path: Path
) -> None:
    npser("train", corpus, "--config", small, "--set", "weight_decay=10", "--out", "run")
    before, after = (safetensors.numpy.load_file(run / "model.safetensors") for run in (trained, tmp_path / "run"))
    assert np.linalg.norm(after["cnn1.W"]) < 0.9 * np.linalg.norm(before["cnn1.W"])
    assert after["lstm1.b_fw"][4:8].min() > 0.7  # of the forget gates: they start at 1


def test_two_corpora_at_once(npser: Command, corpus: Path, small: Path, tmp_path: Path) -> None:
    other = tmp_path / "hum"
    shutil.copytree(corpus, other)
    for path in other.glob("*.wav"):
        tone(path, 170 if "angry" in path.name else 150, seed=len(path.name))
    for path in other.glob("*_1.wav"):
        tone(path, 175 if "angry" in path.name else 155)
    npser("train", corpus, other, "--config", small, "--test-session", "buzz/2", "--out", "run")
    report = report_of(tmp_path / "run")
    assert report["corpora"] == ["buzz", "hum"]
    assert report["split"]["test"]["speakers"] == ["buzz/2f", "buzz/2m"]
    assert report["split"]["train"]["utterances"] == 32


def test_ablations_and_an_unknown_gender(npser: Command, corpus: Path, small: Path, tmp_path: Path) -> None:
    npser("train", corpus, "--config", small, "--set", "attention=false", "--set", "beta=0", "--out", "run")
    report = report_of(tmp_path / "run")
    assert (report["gender_accuracy"], report["genders"]) == (None, [])
    model = safetensors.numpy.load_file(tmp_path / "run" / "model.safetensors")
    assert not any(name.startswith(("attn", "gender")) for name in model)
    shown = npser("predict", corpus / "1f_angry_0.wav", "--model", "run/model.safetensors", "--json")
    assert json.loads(shown.stdout)["gender"] is None


def test_without_sessions_groups_of_speakers_serve(npser: Command, corpus: Path, small: Path, tmp_path: Path) -> None:
    with (corpus / "manifest.csv").open(newline="") as file:
        rows = [{**row, "path": str(corpus / row["path"])} for row in csv.DictReader(file)]
    for row in rows:
        del row["session"]
    npser("train", write_manifest(tmp_path / "speakers.csv", rows), "--config", small, "--out", "run")
    split = report_of(tmp_path / "run")["split"]
    assert split["method"] == "speaker groups"
    assert not set(split["train"]["speakers"]) & set(split["test"]["speakers"])

    for row in rows:
        del row["speaker"]
    shown = npser("train", write_manifest(tmp_path / "nobody.csv", rows), "--config", small, "--out", "random")
    assert "no speaker is known" in shown.stderr
    assert "SPEAKER-DEPENDENT" in shown.stdout
    assert "SPEAKER-DEPENDENT" in (tmp_path / "random" / "report.md").read_text()
    notices = report_of(tmp_path / "random")["notices"]
    assert any("the parts are random" in notice for notice in notices)  # what the split has to say
    assert checkpoint.load(tmp_path / "random" / "model.safetensors").training["notices"] == notices
    npser("train", tmp_path / "nobody.csv", "--config", small, "--epochs", "1", "--seed", "1", "--out", "another")
    assert report_of(tmp_path / "another")["split"]["hash"] != report_of(tmp_path / "random")["split"]["hash"]


def test_speakers_in_two_parts_are_refused_or_branded(npser: Command, corpus: Path, small: Path, tmp_path: Path) -> None:
    with (corpus / "manifest.csv").open(newline="") as file:
        rows = [{**row, "path": str(corpus / row["path"]), "speaker": row["speaker"][1]} for row in csv.DictReader(file)]
    manifest = write_manifest(tmp_path / "two.csv", rows)
    shown = npser("train", manifest, "--config", small, "--out", "run", status=1)
    assert "two/f" in shown.stderr
    assert "--allow-speaker-overlap" in shown.stderr
    shown = npser("train", manifest, "--config", small, "--allow-speaker-overlap", "--out", "run")
    assert "SPEAKER-DEPENDENT" in shown.stdout


def test_a_recording_in_two_parts_is_refused_and_no_path_gets_into_the_files(
    npser: Command, corpus: Path, small: Path, tmp_path: Path
) -> None:
    twin = tmp_path / "twin"
    shutil.copytree(corpus, twin)
    shutil.copy(twin / "1f_angry_0.wav", twin / "3f_angry_0.wav")
    shown = npser("train", twin, "--config", small, status=1)
    assert "3f_angry_0.wav is in test and, byte for byte, in validation as" in shown.stderr
    shown = npser("train", "twin", "--config", small, "--allow-speaker-overlap", "--out", "run")
    assert "SPEAKER-DEPENDENT" in shown.stdout
    npser("train", twin, "--config", small, "--allow-speaker-overlap", "--out", "again")
    assert_same_run(tmp_path / "run", tmp_path / "again")


def test_whatever_a_corpus_is_called_its_runs_lie_in_runs(npser: Command, corpus: Path, small: Path, tmp_path: Path) -> None:
    with (corpus / "manifest.csv").open(newline="") as file:
        rows = [{**row, "path": str(corpus / row["path"]), "corpus": "../../a b/ü"} for row in csv.DictReader(file)]
    npser("train", write_manifest(tmp_path / "m.csv", rows), "--config", small)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["a-b-ü-default-test3-seed0"]


@pytest.mark.skipif(UNCOMPILED, reason="the network of the presets is too slow without compilation")
def test_without_data_a_synthetic_corpus_serves_and_says_what_it_is_worth(npser: Command, tmp_path: Path) -> None:
    shown = npser("train", "--synthetic-utterances", "40", "--epochs", "2", "--out", "run")
    words = "mean nothing about real speech"
    assert words in shown.stdout
    assert words in (tmp_path / "run" / "report.md").read_text()
    assert words in (tmp_path / "run" / "report.json").read_text()
    assert report_of(tmp_path / "run")["parameters"] == 287_622
    model = tmp_path / "run" / "model.safetensors"
    assert words in npser("info", model).stdout


def test_a_report_begins_with_a_control_that_does_as_well(npser: Command, corpus: Path, small: Path, tmp_path: Path) -> None:
    rows = []
    for k, row in enumerate(manifest_of(corpus)):
        wave, rate = soundfile.read(row["path"])
        times = 1 if row["emotion"] == "sad" else 2  # files cut by class
        soundfile.write(tmp_path / f"{k}.wav", np.tile(wave, times), rate)
        rows.append(row | {"path": f"{k}.wav"})
    write_manifest(tmp_path / "manifest.csv", rows)
    shown = npser("train", "manifest.csv", "--config", small, "--epochs", "1", "--set", "learning_rate=1e-6", "--out", "run")
    said = "Duration alone does "
    assert said in shown.stdout
    text = (tmp_path / "run" / "report.md").read_text()
    assert said in text.split("\n## ")[0]
    assert "| duration | 1.000 | 1.000 |" in text
    report = report_of(tmp_path / "run")
    assert report["baselines"]["majority"]["ua"] == 0.5
    assert report["notices"][0].endswith("are the files cut by class?") or report["notices"][1].endswith("cut by class?")

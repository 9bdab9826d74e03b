"""The commands as a user runs them."""

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import soundfile
from conftest import Command, tone, write_manifest

UNCOMPILED = os.environ.get("NUMBA_DISABLE_JIT") == "1"


def report_of(run: Path) -> dict[str, Any]:
    """The report without what may differ from one run to the next."""
    report = json.loads((run / "report.json").read_text())
    del report["run"]
    return report


def assert_same_run(a: Path, b: Path) -> None:
    assert {path.name for path in a.iterdir()} == {path.name for path in b.iterdir()}
    for name in ("model.safetensors", "last.safetensors", "metrics.jsonl", "config.toml", "report.md"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert report_of(a) == report_of(b)


# ------------------------------------------------------------------------------------------------------------- training


def test_a_run_folder_holds_what_a_run_found(trained: Path) -> None:
    files = {path.name for path in trained.iterdir()}
    texts = {"config.toml", "metrics.jsonl", "report.json", "report.md"}
    assert files == texts | {"model.safetensors", "last.safetensors", "curves.png", "confusion.png"}
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


def test_speakers_in_two_parts_are_refused_or_branded(npser: Command, corpus: Path, small: Path, tmp_path: Path) -> None:
    with (corpus / "manifest.csv").open(newline="") as file:
        rows = [{**row, "path": str(corpus / row["path"]), "speaker": row["speaker"][1]} for row in csv.DictReader(file)]
    manifest = write_manifest(tmp_path / "two.csv", rows)
    shown = npser("train", manifest, "--config", small, "--out", "run", status=1)
    assert "two/f" in shown.stderr
    assert "--allow-speaker-overlap" in shown.stderr
    shown = npser("train", manifest, "--config", small, "--allow-speaker-overlap", "--out", "run")
    assert "SPEAKER-DEPENDENT" in shown.stdout


@pytest.mark.skipif(UNCOMPILED, reason="the network of the presets is too slow without compilation")
def test_without_data_a_synthetic_corpus_serves_and_says_what_it_is_worth(npser: Command, tmp_path: Path) -> None:
    shown = npser("train", "--synthetic-utterances", "40", "--epochs", "2", "--out", "run")
    words = "mean nothing about real speech"
    assert words in shown.stdout
    assert words in (tmp_path / "run" / "report.md").read_text()
    assert words in (tmp_path / "run" / "report.json").read_text()
    assert report_of(tmp_path / "run")["parameters"] == 304_326
    model = tmp_path / "run" / "model.safetensors"
    assert words in npser("info", model).stdout


# ------------------------------------------------------------------------------------------- interruption, resumption


def start(environment: dict[str, str], folder: Path, *words: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "npser", *map(str, words)]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for_epochs(run: Path, epochs: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not (run / "metrics.jsonl").exists() or (run / "metrics.jsonl").read_text().count("\n") < epochs:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def many_epochs() -> str:
    return "12" if UNCOMPILED else "120"


def test_a_killed_run_resumes_to_the_same_bytes(
    npser: Command, environment: dict[str, str], corpus: Path, small: Path, tmp_path: Path, many_epochs: str
) -> None:
    words = ("train", corpus, "--config", small, "--epochs", many_epochs)
    npser(*words, "--out", "whole")
    for kills, epochs in enumerate((0, 3, 5)):
        process = start(environment, tmp_path, *words, "--out", "killed", *(["--resume"] if kills else []))
        wait_for_epochs(tmp_path / "killed", epochs, process)
        process.kill()
        process.communicate()
        assert not (tmp_path / "killed" / "report.json").exists()
    for path in (tmp_path / "killed").glob(".*"):  # what was being written in that moment
        path.unlink()
    npser(*words, "--out", "killed", "--resume")
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_metrics_of_an_epoch_that_was_not_saved_are_cut_off(
    npser: Command, corpus: Path, small: Path, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "train_')
    npser("train", corpus, "--config", small, "--out", "run", "--resume")
    assert_same_run(trained, tmp_path / "run")


def test_ctrl_c_tells_how_to_go_on(
    npser: Command, environment: dict[str, str], corpus: Path, small: Path, tmp_path: Path, many_epochs: str
) -> None:
    process = start(environment, tmp_path, "train", corpus, "--config", small, "--epochs", many_epochs)
    run = tmp_path / "runs" / "buzz-default-test3-seed0"
    wait_for_epochs(run, 2, process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    (line,) = err.splitlines()
    words = line.partition("npser train ")[2].split()
    assert words[-1] == "--resume"
    npser("train", *words)
    assert (run / "report.json").exists()


def test_epochs_may_grow(npser: Command, corpus: Path, small: Path, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "grown")
    words = ("train", corpus, "--config", small, "--epochs", "5")
    npser(*words, "--out", "grown", "--resume")
    npser(*words, "--out", "at-once")
    assert_same_run(tmp_path / "at-once", tmp_path / "grown")


def test_other_settings_or_data_are_not_resumed(
    npser: Command, corpus: Path, small: Path, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    words = ("train", corpus, "--config", small, "--out", "run", "--resume")
    for other in (("--seed", "1"), ("--set", "dropout=0.1"), ("--test-session", "2"), ("--no-oracle",)):
        shown = npser(*words, *other, status=1)
        assert "other data or settings" in shown.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_run_folder_is_not_overwritten(npser: Command, corpus: Path, small: Path, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    assert "finished" in npser("train", corpus, "--config", small, "--out", "run", status=1).stderr
    (tmp_path / "run" / "report.json").unlink()
    assert "unfinished" in npser("train", corpus, "--config", small, "--out", "run", status=1).stderr
    for name in ("buzz-default-test3-seed0", "buzz-default-test3-seed0-2"):
        npser("train", corpus, "--config", small)
        assert (tmp_path / "runs" / name / "report.json").exists()


def test_a_full_disk_leaves_the_old_model_whole(
    npser: Command, corpus: Path, small: Path, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    before = (tmp_path / "run" / "model.safetensors").read_bytes()

    def full_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, len(before) // 2))

    words = ("train", corpus, "--config", small, "--epochs", "40", "--out", "run", "--resume")
    shown = npser(*words, status=1, preexec_fn=full_disk)
    assert len(shown.stderr.splitlines()) == 1
    assert "File too large" in shown.stderr
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
    assert not list((tmp_path / "run").glob(".*"))
    npser(*words)


# ------------------------------------------------------------------------------------------------------------ bad input


def one_sentence(shown: subprocess.CompletedProcess[str], *words: str) -> None:
    """The last line of standard error names what is wrong; nothing but warnings stands before it."""
    *warnings, line = shown.stderr.splitlines()
    assert line.startswith("npser: "), shown.stderr
    assert all(text.startswith("npser: warning: ") for text in warnings), shown.stderr
    for word in words:
        assert word in line


def manifest_of(folder: Path, /, **others: str) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="") as file:
        return [{**row, "path": str(folder / row["path"]), **others} for row in csv.DictReader(file)]


def test_folders_that_hold_no_corpus(npser: Command, tmp_path: Path) -> None:
    one_sentence(npser("train", "nowhere", status=1), "nowhere", "does not exist")
    (tmp_path / "empty").mkdir()
    one_sentence(npser("train", "empty", status=1), "empty")
    (tmp_path / "texts" / "sub").mkdir(parents=True)
    (tmp_path / "texts" / "sub" / "a.txt").write_text("hello")
    one_sentence(npser("train", "texts", status=1), "texts", "no audio")


@pytest.mark.parametrize("kind", ["text", "empty", "no samples", "nan"])
def test_a_file_that_is_no_recording(npser: Command, corpus: Path, small: Path, tmp_path: Path, kind: str) -> None:
    bad = tmp_path / "bad.wav"
    if kind == "text":
        bad.write_text("this is no sound")
    elif kind == "empty":
        bad.write_bytes(b"")
    elif kind == "no samples":
        soundfile.write(bad, np.empty(0, np.float32), 16000)
    else:
        soundfile.write(bad, np.array([0.1, np.nan] * 4000, np.float32), 16000, subtype="FLOAT")
    rows = manifest_of(corpus)
    manifest = write_manifest(tmp_path / "m.csv", [*rows, {**rows[0], "path": "bad.wav"}])
    shown = npser("train", manifest, "--config", small, "--out", "run")  # one of 25: 4 %
    assert "warning: left out: " in shown.stderr
    assert "bad.wav" in shown.stderr
    assert [Path(path).name for path in report_of(tmp_path / "run")["bad_files"]] == ["bad.wav"]

    manifest = write_manifest(tmp_path / "m.csv", [*rows[:12], {**rows[0], "path": "bad.wav"}])  # one of 13: 8 %
    one_sentence(npser("train", manifest, "--config", small, "--out", "run2", status=1), "bad.wav", "--skip-bad")
    npser("train", manifest, "--config", small, "--out", "run2", "--skip-bad")
    one_sentence(npser("predict", "bad.wav", "--model", tmp_path / "run" / "model.safetensors", status=1), "bad.wav")


def test_manifests(npser: Command, corpus: Path, small: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,speaker\na.wav,1\n")
    one_sentence(npser("train", "m.csv", status=1), "m.csv", "emotion")
    rows = manifest_of(corpus)
    write_manifest(tmp_path / "m.csv", [*rows, {**rows[0], "path": "gone.wav"}])
    one_sentence(npser("train", "m.csv", status=1), "m.csv", "gone.wav", "--skip-bad")
    npser("train", "m.csv", "--config", small, "--skip-bad")


def test_one_class_or_one_speaker(npser: Command, corpus: Path, small: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.csv", manifest_of(corpus, emotion="angry"))
    one_sentence(npser("train", "m.csv", status=1), "angry", "--labels")
    write_manifest(tmp_path / "m.csv", manifest_of(corpus, speaker="1", session="", gender=""))
    one_sentence(npser("train", "m.csv", status=1), "m/1", "--allow-speaker-overlap")
    shown = npser("train", "m.csv", "--config", small, "--allow-speaker-overlap")
    assert "SPEAKER-DEPENDENT" in shown.stdout


def test_damaged_model_files(npser: Command, corpus: Path, trained: Path, tmp_path: Path) -> None:
    audio = corpus / "1f_angry_0.wav"
    whole = (trained / "model.safetensors").read_bytes()
    (tmp_path / "short").write_bytes(whole[: len(whole) // 2])
    tensors = safetensors.numpy.load(whole)
    tensors["emotion.b"] = np.zeros(7, np.float32)
    with safetensors.safe_open(trained / "model.safetensors", "numpy") as file:
        safetensors.numpy.save_file(tensors, tmp_path / "shape", file.metadata())
    for model, word in (("short", "damaged"), ("shape", "emotion.b"), ("none", "no such file"), (".", "cannot be opened")):
        for words in (("predict", audio, "--model", model), ("info", model), ("evaluate", model, corpus)):
            one_sentence(npser(*words, status=1), model, word)


def test_flags_and_settings_that_make_no_sense(npser: Command, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("epochs = = 3")
    for words, word in (
        (("--set", "epoch=3"), "epoch"),
        (("--set", "epochs"), "KEY=VALUE"),
        (("--set", "dropout=x"), "dropout"),
        (("--epochs", "0"), "epochs"),
        (("--threads", "0"), "--threads"),
        (("--config", "none.toml"), "none.toml"),
        (("--config", "bad.toml"), "bad.toml"),
        (("--test-session", "9"), "--test-session 9"),
        (("--labels", "angry,bored"), "bored"),
        (("--corpus", "cassette"), "cassette"),
        (("--out", corpus / "manifest.csv"), "--out"),
        (("--cache", corpus / "manifest.csv"), "--cache"),
        (("--synthetic-utterances", "80"), "--synthetic-utterances"),
    ):
        one_sentence(npser("train", corpus, *words, status=1), word)
    one_sentence(npser("train", "--synthetic-utterances", "4", status=1), "--synthetic-utterances")
    npser("train", corpus, "--epochs", "many", status=2)
    npser("fly", status=2)
    npser(status=2)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_files(npser: Command, corpus: Path, small: Path, tmp_path: Path) -> None:
    words = ("--set", "learning_rate=1e30", "--out", "run")
    shown = npser("train", corpus, "--config", small, *words, status=1)
    one_sentence(shown, "not finite", "epoch", "batch", "learning_rate")


# ----------------------------------------------------------------------------------------------- evaluate, predict, info


def test_evaluate_counts_what_it_scores(npser: Command, corpus: Path, trained: Path, tmp_path: Path) -> None:
    model = trained / "model.safetensors"
    result = json.loads(npser("evaluate", model, corpus, "--json").stdout)
    assert result["utterances"] == 24
    assert result["training_speakers"] == 8
    assert np.trace(result["confusion"]) / 24 == pytest.approx(result["wa"])
    assert "8 of 24 utterances are by speakers that the model was trained on" in npser("evaluate", model, corpus).stdout

    test = [row for row in manifest_of(corpus, corpus="buzz") if row["session"] == "3"]
    write_manifest(tmp_path / "test.csv", test)
    scored = json.loads(npser("evaluate", model, "test.csv", "--json").stdout)
    report = report_of(trained)
    assert (scored["wa"], scored["confusion"]) == (report["wa"], report["confusion"])
    assert scored["training_speakers"] == 0


def test_evaluate_scores_labels_that_differ_on_their_intersection(
    npser: Command, corpus: Path, small: Path, trained: Path, tmp_path: Path
) -> None:
    rows = manifest_of(corpus)
    changed = [{**row, "emotion": "happy"} if row["path"].endswith("angry_1.wav") else row for row in rows]
    write_manifest(tmp_path / "three.csv", changed)
    result = json.loads(npser("evaluate", trained / "model.safetensors", "three.csv", "--json").stdout)
    assert (result["labels"], result["dropped"], result["utterances"]) == (["angry", "sad"], {"happy": 6}, 18)

    npser("train", "three.csv", "--config", small, "--out", "run")
    result = json.loads(npser("evaluate", "run/model.safetensors", corpus, "--json").stdout)
    assert (result["labels"], result["absent"], np.shape(result["confusion"])) == (["angry", "sad"], ["happy"], (2, 2))
    write_manifest(tmp_path / "one.csv", manifest_of(corpus, emotion="happy"))
    one_sentence(npser("evaluate", "run/model.safetensors", "one.csv", status=1), "happy")


def test_predict_answers_in_the_form_that_is_asked_for(npser: Command, corpus: Path, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_text("no sound")
    model, files = trained / "model.safetensors", (corpus / "1f_angry_0.wav", "bad.wav", corpus / "2m_sad_1.wav")
    rows = [json.loads(line) for line in npser("predict", *files, "--model", model, "--json", status=1).stdout.splitlines()]
    assert [row["path"] for row in rows] == [str(path) for path in files]
    assert set(rows[1]) == {"path", "error"}
    assert set(rows[0]) == {"path", "emotion", "probabilities", "gender", "gender_probabilities", "seconds"}
    assert sum(rows[0]["probabilities"].values()) == pytest.approx(1)
    assert rows[0]["probabilities"][rows[0]["emotion"]] == max(rows[0]["probabilities"].values())
    assert rows[0]["seconds"] == pytest.approx(0.25)

    table = list(csv.DictReader(npser("predict", *files, "--model", model, "--format", "csv", status=1).stdout.splitlines()))
    assert [row["emotion"] for row in table] == [rows[0]["emotion"], "", rows[2]["emotion"]]
    assert float(table[2]["p_sad"]) == pytest.approx(rows[2]["probabilities"]["sad"], abs=1e-6)
    assert "bad.wav" in table[1]["error"]

    shown = npser("predict", *files, "--model", model, status=1)
    assert len(shown.stdout.splitlines()) == 2
    assert rows[0]["emotion"] in shown.stdout.splitlines()[0]
    assert "bad.wav" in shown.stderr


def test_predict_without_a_model_says_what_to_do(npser: Command, corpus: Path) -> None:
    one_sentence(npser("predict", corpus / "1f_angry_0.wav", status=2), "--model", "npser train")


def test_info_shows_the_card(npser: Command, trained: Path) -> None:
    shown = npser("info", trained / "model.safetensors").stdout
    report = report_of(trained)
    for text in ("angry, sad", "female, male", "buzz", f"{report['parameters']:,}", report["split"]["hash"][:16]):
        assert text in shown
    card = json.loads(npser("info", trained / "model.safetensors", "--json").stdout)
    assert card["labels"] == {"emotion": ["angry", "sad"], "gender": ["female", "male"]}
    assert card["training"]["scores"]["test"]["wa"] == report["wa"]


def test_gradcheck_prints_a_table_of_every_layer(npser: Command) -> None:
    rows = json.loads(npser("gradcheck", "--json").stdout)
    layers = {row["layer"] for row in rows}
    assert {"conv1d", "maxpool", "blstm", "attention", "linear", "cross_entropy", "loss"} <= layers
    assert all(row["ok"] and row["error"] < 1e-6 for row in rows)
    assert "relative error" in npser("gradcheck").stdout


def test_gradcheck_exits_with_1_when_a_gradient_is_off(environment: dict[str, str], tmp_path: Path) -> None:
    plant = (
        "import sys, npser.layers as layers; true = layers.linear\n"
        "def wrong(X, W, b):\n"
        "    out, backward = true(X, W, b)\n"
        "    return out, lambda dout: (backward(dout)[0] * 1.001, *backward(dout)[1:])\n"
        "layers.linear = wrong\n"
        "from npser.cli import main; sys.exit(main(['gradcheck']))\n"
    )
    done = subprocess.run([sys.executable, "-c", plant], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    off = [line.split()[:2] for line in done.stdout.splitlines() if line.endswith("OFF")]
    assert ["linear", "X"] in off
    assert ["loss", "cnn1.W"] in off
    assert ["linear", "W"] not in off


def test_every_command_explains_itself(npser: Command) -> None:
    for command in ("train", "evaluate", "predict", "info", "gradcheck"):
        assert "usage: npser" in npser(command, "--help").stdout
    assert npser("--version").stdout.startswith("npser ")


def test_a_reader_that_closes_early_is_no_error(environment: dict[str, str], corpus: Path, trained: Path) -> None:
    files = [str(path) for path in sorted(corpus.glob("*.wav"))]
    command = [sys.executable, "-m", "npser", "predict", *files, "--model", str(trained / "model.safetensors")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()

"""Bad input: one clear sentence, exit status 1 or 2, nothing lost."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import soundfile
from helpers import Command, manifest_of, one_sentence, report_of, write_manifest

from npser.files import lock


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
        metadata = file.metadata()
    safetensors.numpy.save_file(tensors, tmp_path / "changed", metadata)
    about = {name: value for name, value in json.loads(metadata["npser"]).items() if name != "checksum"}
    safetensors.numpy.save_file(tensors, tmp_path / "shape", {"npser": json.dumps(about)})
    words_of = {"short": "damaged", "changed": "checksum", "shape": "emotion.b", "none": "no such file", ".": "is a folder"}
    for model, word in words_of.items():
        for words in (("predict", audio, "--model", model), ("info", model), ("evaluate", model, corpus)):
            one_sentence(npser(*words, status=1), model, word)


def test_flags_and_settings_that_make_no_sense(npser: Command, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("epochs = = 3")
    (tmp_path / "deep.toml").write_text(f"epochs = {'[' * 5000}{']' * 5000}")
    (tmp_path / "long.toml").write_text(f"seed = {'9' * 5000}")
    os.mkfifo(tmp_path / "pipe.toml")
    for words, word in (
        (("--set", "epoch=3"), "epoch"),
        (("--set", "epochs"), "KEY=VALUE"),
        (("--set", "dropout=x"), "dropout"),
        (("--epochs", "0"), "epochs"),
        (("--config", "none.toml"), "none.toml"),
        (("--config", "bad.toml"), "bad.toml"),
        (("--test-session", "9"), "--test-session 9"),
        (("--labels", "angry,bored"), "bored"),
        (("--corpus", "cassette"), "cassette"),
        (("--out", corpus / "manifest.csv"), "--out"),
        (("--labels", ""), "--labels"),
        (("--set", "d_spec=387"), "d_spec"),
        (("--cache", corpus / "manifest.csv"), "--cache"),
        (("--set", "epochs=1\nseed=2"), "more than one setting"),
        (("--set", f"seed={'9' * 5000}"), "--set seed"),
        (("--set", "d_cnn=[[[" + "[" * 5000), "d_cnn"),
        (("--set", "n_pw=99999999999"), "at most"),
        (("--set", "d_lstm=1000000000"), "parameters"),
        (("--config", "deep.toml"), "deep.toml: is nested too deeply"),
        (("--config", "long.toml"), "long.toml: is not TOML"),
        (("--config", "pipe.toml"), "pipe.toml: is a pipe"),
        (("--synthetic-utterances", "80"), "--synthetic-utterances"),
    ):
        one_sentence(npser("train", corpus, *words, status=1), word)
    one_sentence(npser("train", "--synthetic-utterances", "4", status=1), "--synthetic-utterances")
    npser("train", corpus, "--epochs", "many", status=2)
    for words in (
        ("train", corpus, "--threads", "0"),
        ("crossval", corpus, "--seeds", "0"),
        ("crossval", corpus, "--workers", "0"),
    ):
        one_sentence(npser(*words, status=2), words[-2], "at least 1")
    for words in (("--out", ""), ("--cache", ""), ("--config", "")):  # as of a variable that is not set
        assert f"argument {words[0]}: is empty" in npser("train", corpus, *words, status=2).stderr
    assert "argument DATA: is empty" in npser("train", "", status=2).stderr
    assert list(tmp_path.glob("*.safetensors")) == []
    npser("fly", status=2)
    npser(status=2)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_files(npser: Command, corpus: Path, small: Path, tmp_path: Path) -> None:
    words = ("--set", "learning_rate=1e30", "--out", "run")
    shown = npser("train", corpus, "--config", small, *words, status=1)
    one_sentence(shown, "not finite", "epoch", "learning_rate")


@pytest.mark.parametrize("setting", ["learning_rate=1e38", "weight_decay=1e30", "alpha=1e308"])
def test_weights_that_are_not_finite_after_the_last_update_stop_the_run(
    npser: Command, corpus: Path, small: Path, tmp_path: Path, setting: str
) -> None:
    words = ("--set", setting, "--set", "batch=60", "--epochs", "1", "--out", "run")
    shown = npser("train", corpus, "--config", small, *words, status=1)
    one_sentence(shown, "not finite", setting.partition("=")[0])
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_one_run_at_a_time_works_in_a_folder(npser: Command, corpus: Path, small: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with lock(tmp_path / "run" / ".lock"):
        for words in (("train", corpus), ("train", corpus, "--resume"), ("crossval", corpus)):
            shown = npser(*words, "--config", small, "--epochs", "1", "--out", "run", status=1)
            one_sentence(shown, "run: another npser is at work there")
    npser("train", corpus, "--config", small, "--epochs", "1", "--out", "run")


def test_refit_needs_a_rate_that_does_not_depend_on_the_number_of_epochs(npser: Command, corpus: Path, small: Path) -> None:
    for setting in ("schedule=cosine", "warmup=1"):
        shown = npser("crossval", corpus, "--config", small, "--refit", "--set", setting, status=1)
        one_sentence(shown, f"--refit: with {setting}", "select=last")

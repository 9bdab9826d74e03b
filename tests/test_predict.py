"""`npser predict` as a user runs it: what it takes, what it prints."""

import csv
import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import RATE, SMALL, Command, network, one_sentence, without

from npser.commands.cli import main
from npser.commands.predict import recordings, withhold
from npser.prediction import Prediction


@pytest.fixture
def calls(corpus: Path, tmp_path: Path) -> Path:
    """A folder with a folder, of three recordings and a text."""
    (tmp_path / "calls" / "old").mkdir(parents=True)
    for name, place in (("1f_angry_0.wav", "b.wav"), ("2m_sad_1.wav", "a.wav"), ("3f_sad_0.wav", "old/c.wav")):
        shutil.copy(corpus / name, tmp_path / "calls" / place)
    (tmp_path / "calls" / "notes.txt").write_text("no sound")
    return tmp_path / "calls"


def rows_of(shown: subprocess.CompletedProcess[str]) -> list[dict]:
    return [json.loads(line) for line in shown.stdout.splitlines()]


def test_folders_patterns_and_lists_name_recordings(calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert recordings(["calls"]) == ["calls/a.wav", "calls/b.wav", "calls/old/c.wav"]
    assert recordings(["calls/*.wav"]) == ["calls/a.wav", "calls/b.wav"]
    assert recordings(["calls/**/*.wav"]) == ["calls/a.wav", "calls/b.wav", "calls/old/c.wav"]
    assert recordings(["calls/**"]) == ["calls/a.wav", "calls/b.wav", "calls/old/c.wav", "calls/notes.txt"]  # each once
    assert recordings(["call?"]) == recordings(["calls"])
    assert recordings(["calls/*"]) == ["calls/a.wav", "calls/b.wav", "calls/notes.txt", "calls/old/c.wav"]
    assert recordings(["none.wav", "-", "calls/b.wav", "calls/b.wav"]) == ["none.wav", "-", "calls/b.wav", "calls/b.wav"]
    (calls / "[a].wav").touch()
    assert recordings(["calls/[a].wav"]) == ["calls/[a].wav"]  # a file of this name wins over the pattern
    os.symlink(calls, calls / "old" / "again")
    assert recordings(["calls/old"]) == [
        "calls/old/again/[a].wav",
        "calls/old/again/a.wav",
        "calls/old/again/b.wav",
        "calls/old/c.wav",
    ]


def test_a_folder_without_audio_and_a_pattern_without_match_are_one_sentence(npser: Command, calls: Path, trained: Path):
    model = trained / "model.safetensors"
    (calls.parent / "empty").mkdir()
    (calls.parent / "list").write_text("\n\n")
    one_sentence(npser("predict", "empty", "--model", model, status=1), "empty", "no audio")
    one_sentence(npser("predict", "calls/*.mp3", "--model", model, status=1), "calls/*.mp3", "no file matches")
    one_sentence(npser("predict", "--from-file", "list", "--model", model, status=1), "list", "empty")
    one_sentence(npser("predict", "--from-file", "none", "--model", model, status=1), "none", "No such file")
    one_sentence(npser("predict", "--model", model, status=2), "--from-file")
    for p in ("1.5", "-1", "nan"):
        one_sentence(npser("predict", calls, "--min-confidence", p, "--model", model, status=2), "--min-confidence")
    one_sentence(npser("predict", calls, "--threads", "0", "--model", model, status=2), "threads")


def test_a_word_that_names_nothing_does_not_stop_the_others(npser: Command, calls: Path, trained: Path):
    (calls / "notes").mkdir()
    (calls.parent / "list").write_bytes("\ufeffcalls/gone [2].wav\r\n  \ncalls/a\u2028b.wav\n".encode())
    shutil.copy(calls / "a.wav", calls / "a\u2028b.wav")
    words = ("predict", "calls/notes", "calls/b.wav", "--from-file", "list", "--json", "--model", trained / "model.safetensors")
    rows = rows_of(npser(*words, status=1))
    assert [row["path"] for row in rows] == ["calls/notes", "calls/b.wav", "calls/gone [2].wav", "calls/a\u2028b.wav"]
    assert ["error" in row for row in rows] == [True, False, True, False]
    assert "calls/notes" not in recordings([str(calls / "*")])  # a pattern means recordings


def test_a_list_on_standard_input(npser: Command, calls: Path, trained: Path):
    model = trained / "model.safetensors"
    rows = rows_of(npser("predict", "--from-file", "-", "--json", "--model", model, input="calls/b.wav\ncalls/a.wav\n"))
    assert [row["path"] for row in rows] == ["calls/b.wav", "calls/a.wav"]


def test_a_pipe_is_named_as_what_it_is(npser: Command, calls: Path, trained: Path):
    os.mkfifo(calls / "pipe.wav")
    one_sentence(
        npser("predict", calls / "pipe.wav", "--model", trained / "model.safetensors", status=1), "pipe.wav: is a pipe"
    )


@pytest.mark.parametrize(
    "words", [("predict", "calls/a.wav", "--model"), ("predict", "calls/a.wav", "--format", "csv", "--model"), ("info",)]
)
def test_output_that_cannot_be_written_is_one_sentence(
    npser: Command, calls: Path, trained: Path, environment: dict[str, str], words: tuple[str, ...]
):
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    buffered = {name: value for name, value in environment.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "npser", *words, str(trained / "model.safetensors")]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=calls.parent, env=buffered, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "standard output: cannot be written" in done.stderr
    assert "ignored" not in done.stderr


def test_a_reader_that_leaves_is_no_error(calls: Path, trained: Path, environment: dict[str, str]):
    buffered = {name: value for name, value in environment.items() if name != "PYTHONUNBUFFERED"}
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "npser", "info", str(trained / "model.safetensors")]
    done = subprocess.run(command, env=buffered, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("engine", ["lite", "numba"])
def test_a_row_a_file_in_the_order_of_the_input(npser: Command, calls: Path, trained: Path, engine: str):
    (calls.parent / "list").write_text("calls/notes.txt\r\ncalls/b.wav\n\n")
    words = ("predict", "calls/old", "--from-file", "list", "--engine", engine, "--model", trained / "model.safetensors")
    shown = npser(*words, "--json", status=1)
    rows = rows_of(shown)
    assert [row["path"] for row in rows] == ["calls/old/c.wav", "calls/notes.txt", "calls/b.wav"]
    assert [row.get("emotion") in ("angry", "sad") for row in rows] == [True, False, True]
    assert set(rows[1]) == {"path", "error"}
    assert "notes.txt: is not an audio file" in rows[1]["error"]
    assert shown.stderr == ""


def test_text_has_an_aligned_bar_for_each_class(npser: Command, calls: Path, trained: Path):
    shown = npser("predict", "calls/b.wav", "calls/a.wav", "--model", trained / "model.safetensors").stdout.splitlines()
    assert re.fullmatch(r"calls/b\.wav: (angry|sad), (female|male) 0\.\d\d, 0\.3 s", shown[0])
    assert re.fullmatch(r"calls/a\.wav: (angry|sad), (female|male) 0\.\d\d, 0\.3 s", shown[3])
    for line, label in zip([*shown[1:3], *shown[4:6]], ["angry", "sad"] * 2, strict=True):
        name, p, *bar = line.split()
        assert name == label
        assert line.index(p) == 11
        assert len("".join(bar)) == pytest.approx(40 * float(p), abs=1)
        assert set("".join(bar)) <= {"#"}


def test_standard_input(npser: Command, calls: Path, trained: Path, environment: dict[str, str], tmp_path: Path):
    model = trained / "model.safetensors"
    (from_file,) = rows_of(npser("predict", "calls/b.wav", "--json", "--model", model))
    command = [sys.executable, "-m", "npser", "predict", "-", "--json", "--model", str(model)]
    for content, status in (((calls / "b.wav").read_bytes(), 0), (b"no sound", 1), (b"", 1)):
        done = subprocess.run(command, input=content, env=environment, cwd=tmp_path, capture_output=True)
        assert done.returncode == status, done.stderr
        (row,) = map(json.loads, done.stdout.splitlines())
        assert row["path"] == "-"
        if status:
            assert row["error"].startswith("standard input: ")
        else:
            assert row == {**from_file, "path": "-"}


def long_call(path: Path) -> Path:
    """Silence, then a buzz, 12 seconds each."""
    t = np.arange(12 * RATE) / RATE
    buzz = np.sin(9 * t) ** 2 * sum(np.sin(2 * np.pi * 300 * k * t) / k for k in range(1, 6))
    soundfile.write(path, np.concatenate([np.zeros(12 * RATE), 0.1 * buzz]), RATE)
    return path


def test_the_timeline_is_a_row_a_window_in_each_format(npser: Command, tmp_path: Path):
    path = network(tmp_path, dataclasses.replace(SMALL, max_seconds=7.5)).path  # it hears the silence as well
    words = ("predict", long_call(tmp_path / "call.wav"), tmp_path / "none.wav", "--model", path)
    whole, *windows, bad = rows_of(npser(*words, "--timeline", "--json", status=1))
    assert set(bad) == {"path", "error"}
    assert whole == rows_of(npser(*words, "--json", status=1))[0]
    assert "start" not in whole
    answer = ["path", "emotion", "probabilities", "gender", "gender_probabilities", "reason"]
    assert set(whole) == {*answer, "seconds"}
    assert all(set(row) == {*answer, "start", "end"} for row in windows)
    assert [row["start"] for row in windows] == [0, 3.75, 7.5, 11.25, 15, 18.75]
    assert [row["end"] for row in windows] == [7.5, 11.25, 15, 18.75, 22.5, 24]
    assert [row["reason"] for row in windows] == ["silence", "silence", None, None, None, None]
    assert [row["emotion"] is None for row in windows] == [True, True, False, False, False, False]
    assert (windows[0]["probabilities"], windows[0]["gender"], windows[0]["gender_probabilities"]) == ({}, None, None)
    assert sum(windows[2]["probabilities"].values()) == pytest.approx(1)

    table = list(csv.DictReader(npser(*words, "--timeline", "--format", "csv", status=1).stdout.splitlines()))
    assert [row["start"] for row in table] == ["", *(f"{row['start']:.3f}" for row in windows), ""]
    assert [row["emotion"] for row in table] == [row.get("emotion") or "" for row in (whole, *windows, bad)]
    assert [row["reason"] for row in table] == ["", "silence", "silence", "", "", "", "", ""]
    assert [row["p_sad"] for row in table][1:3] == ["", ""]
    assert [row["seconds"] for row in table] == ["24.000", *[""] * 7]
    assert float(table[4]["p_sad"]) == pytest.approx(windows[3]["probabilities"]["sad"], abs=1e-6)
    assert float(table[4]["p_male"]) == pytest.approx(windows[3]["gender_probabilities"]["male"], abs=1e-6)
    assert table[7]["error"]

    shown = npser(*words, "--timeline", status=1).stdout.splitlines()
    assert len(shown) == 5 + 6
    assert shown[5].split() == ["0.00", "to", "7.50", "s", "no", "answer", "(silence)"]
    assert shown[8].split()[4] == windows[3]["emotion"]


def test_min_confidence_withholds_answers_and_keeps_probabilities(npser: Command, calls: Path, trained: Path):
    words = ("predict", calls / "b.wav", "--timeline", "--json", "--model", trained / "model.safetensors")
    sure = rows_of(npser(*words))
    p = max(sure[0]["probabilities"].values())
    assert rows_of(npser(*words, "--min-confidence", p - 1e-3)) == sure
    for row, before in zip(rows_of(npser(*words, "--min-confidence", p + 1e-3)), sure, strict=True):
        assert row["emotion"] is None
        assert row["reason"] == f"confidence {p:.3f} is below {p + 1e-3:g}"
        assert row["probabilities"] == before["probabilities"]
    assert "no answer (confidence" in npser(*words[:2], *words[-2:], "--min-confidence", 1).stdout


def test_a_confidence_that_is_just_enough_is_answered():
    sure = Prediction("sad", {"angry": 0.25, "sad": 0.75}, None, None, 1.0)
    assert withhold(sure, 0.75) == sure
    assert withhold(sure, 0.76).emotion is None


def test_what_is_not_answered_is_a_row_and_no_failure(npser: Command, trained: Path, tmp_path: Path):
    soundfile.write(tmp_path / "zeros.wav", np.zeros(RATE), RATE)
    words = ("predict", "zeros.wav", "--model", trained / "model.safetensors")
    (row,) = rows_of(npser(*words, "--json"))
    assert (row["emotion"], row["probabilities"], row["gender"], row["reason"]) == (None, {}, None, "no speech")
    assert npser(*words).stdout == "zeros.wav: no answer (no speech), 1.0 s\n"


def test_a_name_of_any_bytes_is_printed(npser: Command, calls: Path, trained: Path, environment: dict[str, str]):
    strange = os.fsencode(calls) + b"/\xff\xe4.wav"
    try:
        os.rename(calls / "a.wav", strange)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    command = [sys.executable, "-m", "npser", "predict", strange, "--model", str(trained / "model.safetensors")]
    for more in ({}, {"PYTHONIOENCODING": "ascii"}):
        for form in ("text", "csv", "jsonl"):
            done = subprocess.run([*command, "--format", form], env={**environment, **more}, capture_output=True)
            assert (done.returncode, done.stderr) == (0, b"")
            assert form == "jsonl" or more or b"/\xff\xe4.wav" in done.stdout


def test_one_file_needs_neither_numba_nor_the_kernels(calls: Path, trained: Path, environment: dict[str, str]):
    code = (
        without("numba", "llvmlite", "npser_kernels", "scipy.signal") + "from npser.commands.cli import main; sys.exit(main())"
    )
    command = [sys.executable, "-W", "error", "-c", code, "predict", str(calls), "--timeline"]
    command += ["--model", str(trained / "model.safetensors")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 12


def test_a_name_with_a_carriage_return_stays_one_row_of_a_csv(
    calls: Path, trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(calls.parent)
    os.rename(calls / "a.wav", calls / "a\rb.wav")
    with warnings.catch_warnings():  # main shows them in its own way
        assert main(["predict", "calls", "--model", str(trained / "model.safetensors"), "--format", "csv"]) == 0
    shown = capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO(shown, newline="")))
    assert [row["path"] for row in rows] == ["calls/a\rb.wav", "calls/b.wav", "calls/old/c.wav"]
    assert shown.splitlines()[-1].startswith("calls/old/c.wav,")  # quoted only where it must be

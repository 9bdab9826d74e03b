"""`npser evaluate`, `predict`, `info` and `gradcheck` as a user runs them."""

import csv
import hashlib
import inspect
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import GENDERS, WATCH, Command, manifest_of, network, one_sentence, report_of, write_manifest

from npser import checkpoint, model
from npser import layers as layers_of_the_engine
from npser.calibration import calibration_error, log_softmax
from npser.commands.evaluate import scored
from npser.metrics import confusion_matrix


def test_evaluate_counts_what_it_scores(npser: Command, corpus: Path, trained: Path, tmp_path: Path) -> None:
    model = trained / "model.safetensors"
    result = json.loads(npser("evaluate", model, corpus, "--json").stdout)
    assert result["utterances"] == 24
    assert (result["training_speakers"], result["unknown_speakers"]) == (8, 0)
    assert np.trace(result["confusion"]) / 24 == pytest.approx(result["wa"])
    assert "8 of 24 utterances are by speakers that the model was trained on" in npser("evaluate", model, corpus).stdout

    test = [row for row in manifest_of(corpus, corpus="buzz") if row["session"] == "3"]
    write_manifest(tmp_path / "test.csv", test)
    tested = json.loads(npser("evaluate", model, "test.csv", "--json").stdout)
    report = report_of(trained)
    assert (tested["wa"], tested["confusion"]) == (report["wa"], report["confusion"])
    assert tested["training_speakers"] == 0


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


def test_a_model_chooses_among_the_labels_of_the_data_only(corpus: Path, tmp_path: Path) -> None:
    trained = network(tmp_path)
    labels = {"emotion": ["calm", "excited", "happy", "sad"], "gender": GENDERS}
    checkpoint.save(trained.path, replace(checkpoint.load(trained.path), labels=labels))
    rows = [{**row, "emotion": {"angry": "excited"}.get(row["emotion"], row["emotion"])} for row in manifest_of(corpus)]
    place = write_manifest(tmp_path / "excited.csv", rows)
    with ThreadPoolExecutor(1) as pool:
        found = scored(trained.path, [place], None, tmp_path / "cache", pool)
        logits, _ = trained.engine.logits(trained.store([Path(row["path"]) for row in rows]), np.arange(24), pool)
    assert (found["labels"], found["absent"]) == (["excited", "sad"], ["calm", "happy"])
    truth = np.array([["excited", "sad"].index(row["emotion"]) for row in rows])
    log_p = log_softmax(logits[:, [1, 3]])
    assert found["confusion"] == confusion_matrix(truth, log_p.argmax(axis=1), 2).tolist()
    assert found["ece"] == pytest.approx(calibration_error(log_p, truth), rel=1e-4)


def test_predict_answers_in_the_form_that_is_asked_for(npser: Command, corpus: Path, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_text("no sound")
    model, files = trained / "model.safetensors", (corpus / "1f_angry_0.wav", "bad.wav", corpus / "2m_sad_1.wav")
    rows = [json.loads(line) for line in npser("predict", *files, "--model", model, "--json", status=1).stdout.splitlines()]
    assert [row["path"] for row in rows] == [str(path) for path in files]
    assert set(rows[1]) == {"path", "error"}
    assert set(rows[0]) == {"path", "emotion", "probabilities", "gender", "gender_probabilities", "seconds", "reason"}
    assert sum(rows[0]["probabilities"].values()) == pytest.approx(1)
    assert rows[0]["probabilities"][rows[0]["emotion"]] == max(rows[0]["probabilities"].values())
    assert rows[0]["seconds"] == pytest.approx(0.35)

    table = list(csv.DictReader(npser("predict", *files, "--model", model, "--format", "csv", status=1).stdout.splitlines()))
    assert [row["emotion"] for row in table] == [rows[0]["emotion"], "", rows[2]["emotion"]]
    assert float(table[2]["p_sad"]) == pytest.approx(rows[2]["probabilities"]["sad"], abs=1e-6)
    assert "bad.wav" in table[1]["error"]

    shown = npser("predict", *files, "--model", model, status=1)
    assert len(shown.stdout.splitlines()) == 2 * 3
    assert rows[0]["emotion"] in shown.stdout.splitlines()[0]
    assert "bad.wav" in shown.stderr


def test_info_shows_the_card(npser: Command, trained: Path) -> None:
    shown = npser("info", trained / "model.safetensors").stdout
    report = report_of(trained)
    for text in ("angry, sad", "female, male", "buzz", f"{report['parameters']:,}", report["split"]["hash"][:16]):
        assert text in shown
    confusion = report["confusion"]
    assert f"recall: angry {confusion[0][0]}/{sum(confusion[0])}, sad {confusion[1][1]}/{sum(confusion[1])}" in shown
    assert f"temperature {report['calibration']['temperature']:.2f}" in shown
    assert "d_lstm 4" in shown  # unlike the preset's
    assert all(speaker in shown for speaker in ("buzz/2f", "buzz/2m"))
    assert hashlib.sha256((trained / "model.safetensors").read_bytes()).hexdigest() in shown
    card = json.loads(npser("info", trained / "model.safetensors", "--json").stdout)
    assert card["labels"] == {"emotion": ["angry", "sad"], "gender": ["female", "male"]}
    assert card["training"]["scores"]["test"]["wa"] == report["wa"]


def test_info_says_where_nothing_was_tested(npser: Command, corpus: Path, small: Path) -> None:
    npser(
        "train", corpus, "--config", small, "--test-session", "none", "--val-session", "none", "--epochs", "1", "--out", "run"
    )
    shown = npser("info", "run/model.safetensors").stdout
    assert "test        none, so nothing is known of how well it does" in shown
    assert "not calibrated" in shown


def test_gradcheck_prints_a_table_of_every_layer_and_network(npser: Command) -> None:
    rows = json.loads(npser("gradcheck", "--json").stdout)
    layers = {row["layer"] for row in rows}
    public = {
        name
        for name, member in vars(layers_of_the_engine).items()
        if getattr(member, "__module__", "") == "npser.layers" and inspect.isfunction(member) and not name.startswith("_")
    }
    losses = {name for network in model.NETWORKS.values() for name in network.SMALL}
    assert losses <= layers
    assert {name.split(",")[0] for name in layers - losses} == public  # "dense, tanh" is a layer's second row
    single = [row["argument"].endswith(" float32") for row in rows]
    assert all(row["ok"] and row["error"] < (1e-5 if rounded else 1e-6) for row, rounded in zip(rows, single, strict=True))
    assert sum(single) == sum(row["layer"] not in losses for row in rows) / 2 + len(losses)
    assert max(row["error"] for row, rounded in zip(rows, single, strict=True) if rounded) > 1e-8  # it is another arithmetic
    assert "relative error" in npser("gradcheck").stdout


def test_gradcheck_exits_with_1_when_a_gradient_is_off(environment: dict[str, str], tmp_path: Path) -> None:
    plant = (
        "import sys, npser.layers as layers; true = layers.linear\n"
        "def wrong(X, W, b):\n"
        "    out, backward = true(X, W, b)\n"
        "    return out, lambda dout: (backward(dout)[0] * 1.001, *backward(dout)[1:])\n"
        "layers.linear = wrong\n"
        "from npser.commands.cli import main; sys.exit(main(['gradcheck']))\n"
    )
    done = subprocess.run([sys.executable, "-c", plant], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    off = [line.split()[:2] for line in done.stdout.splitlines() if line.endswith("OFF")]
    assert ["linear", "X"] in off
    assert ["loss", "cnn1.W"] in off
    assert ["linear", "W"] not in off


def test_every_command_explains_itself(npser: Command) -> None:
    commands = re.findall(r"^    (\w+)\b", npser("--help").stdout, re.MULTILINE)
    assert len(commands) == 14
    for words in (*([command] for command in commands), ["data", "list"], ["data", "check"], ["data", "convert"]):
        shown = npser(*words, "--help").stdout
        assert f"usage: npser {' '.join(words)}" in shown
        assert "--engine" not in shown
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


def test_the_network_without_recurrence_is_served_by_every_command(npser: Command, corpus: Path, tmp_path: Path) -> None:
    sizes = ("d_cnn=4", "d_attn=8", "n_attn=2", "learning_rate=0.01")
    words = [word for size in sizes for word in ("--set", size)]
    shown = npser("train", corpus, "--network", "li2019_feedforward", *words, "--epochs", "2").stdout
    run = tmp_path / "runs" / "buzz-li2019_feedforward-default-test3-seed0"
    assert str(run.relative_to(tmp_path)) in shown
    path, files = run / "model.safetensors", sorted(corpus.glob("3*.wav"))
    assert not any("lstm" in name for name in checkpoint.load(path).tensors)
    engines = ("lite", "numba")
    answers = [npser("predict", *files, "--model", path, "--json", "--engine", engine).stdout for engine in engines]
    for a, b in zip(*([json.loads(line) for line in lines.splitlines()] for lines in answers), strict=True):
        assert a["probabilities"] == pytest.approx(b["probabilities"], abs=1e-5)
        assert a["gender_probabilities"] == pytest.approx(b["gender_probabilities"], abs=1e-5)
    report = report_of(run)
    write_manifest(tmp_path / "test.csv", [row for row in manifest_of(corpus, corpus="buzz") if row["session"] == "3"])
    assert json.loads(npser("evaluate", path, "test.csv", "--json").stdout)["confusion"] == report["confusion"]
    assert "4 filters, no recurrence, 2 attention heads" in npser("info", path).stdout
    npser("explain", files[0], "--model", path, "--out", "page.html")
    assert "attention of each head over time" in (tmp_path / "page.html").read_text()
    npser("export", path, "a.onnx")
    one_sentence(npser("train", corpus, "--network", "li2019_feedforward", "--set", "d_lstm=4", status=1), "d_lstm")
    one_sentence(npser("train", corpus, "--network", "lstm", status=2), "network is 'lstm'", "li2019_feedforward")


PICTURE = """
import sys
from pathlib import Path
import numpy as np
from npser.experiment import report

assert report.can_draw()
classes, path = int(sys.argv[1]), Path(sys.argv[2])
labels = [f"$class$ {k} \\x1b {'and so on' * 20}" for k in range(classes)]
report.save_picture(report.confusion_figure(np.eye(classes, dtype=int).tolist(), labels, "WA 1.000"), path)
"""


@pytest.mark.parametrize("classes", [2, 15, 100])
def test_a_picture_of_many_classes_takes_little_memory(environment: dict[str, str], tmp_path: Path, classes: int) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra plot")
    command = [sys.executable, "-c", WATCH, sys.executable, "-W", "error", "-c", PICTURE, str(classes), str(tmp_path / "a.png")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    status, megabytes = done.stderr.split()
    assert status == "0", done.stderr
    assert float(megabytes) < 200
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


FULL_DISK = """
import resource, signal, sys
from npser.commands.cli import main

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write then fails with EFBIG instead of ending the process
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
sys.exit(main())
"""


def test_a_full_disk_under_the_synthetic_corpus_is_one_sentence(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, "train", "--synthetic-utterances", "40", "--cache", "cache"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    one_sentence(done, "cache/synthetic-0-40: the synthetic corpus cannot be written", "--cache")

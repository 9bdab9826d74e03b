"""The model that comes with npser, and the script that builds it."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import CORPORA, EMOTIONS, ROOT, UNCOMPILED, Command, manifest_of, sound, tone, write_manifest

import npser
from npser import SHIPPED
from npser.features import read_windows
from npser.lite import Model


@pytest.fixture(scope="module")
def model() -> Model:
    return npser.load()


def test_it_is_small_and_says_what_it_is(model: Model) -> None:
    assert Path(SHIPPED).stat().st_size < 2e6
    assert model.emotions == EMOTIONS
    assert model.genders == ["female", "male"]
    assert model.config.level
    assert vars(model.config)["speech"]
    training = model.checkpoint.training
    assert (training["preset"], sorted(training["corpora"])) == ("default", ["emodb", "nemo", "ravdess"])
    assert training["licence"] == "CC-BY-NC-SA-4.0"
    assert set(training["scores"]["across"]) == {*training["corpora"], "emovo"}
    for part in (training["scores"]["test"], *(part["as it is"] for part in training["scores"]["across"].values())):
        confusion = np.array(part["confusion"])
        assert part["ua"] == pytest.approx(np.mean(np.diag(confusion) / confusion.sum(axis=1)))
        assert 0.25 < part["ua"] < 0.95  # better than chance, and no score that acted speech does not allow


def test_its_licence_is_in_the_package_beside_it_and_in_its_card() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "MIT AND CC-BY-NC-SA-4.0"
    for path in project["license-files"]:
        assert (ROOT / path).is_file()
    for name in ("LICENSE", "CARD.md"):
        text = (Path(SHIPPED).parent / name).read_text()
        assert "CC BY-NC-SA 4.0" in text
        for source in ("RAVDESS", "nEMO", "EmoDB"):
            assert source in text


def test_the_card_shows_the_scores_that_the_model_file_holds(model: Model) -> None:
    card = (Path(SHIPPED).parent / "CARD.md").read_text()
    scores = model.checkpoint.training["scores"]
    for ways in (*scores["speakers"].values(), *scores["across"].values()):
        part = ways["as it is"]
        assert f"| {part['wa']:.3f} | {part['ua']:.3f} | {part['macro_f1']:.3f} | {part['ece']:.2f} |" in card
        figures = [f"{one['ua']:.3f}" for way, one in ways.items() if way != "as it is"]
        assert all(f" {figure} |" in card for figure in figures)
    for share in scores["altered"].values():
        assert f"| {share:.1%} |" in card
    assert f"Temperature {model.checkpoint.temperature:.3f}" in card


def test_predict_and_info_need_no_model_and_tell_its_licence_once(npser: Command, tmp_path: Path) -> None:
    for seed in range(2):
        soundfile.write(tmp_path / f"{seed}.wav", sound(20_000, seed), 16_000)
    shown = npser("predict", "0.wav", "1.wav", "--json")
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [row["emotion"] in EMOTIONS for row in rows] == [True, True]
    (line,) = shown.stderr.splitlines()
    assert "CC BY-NC-SA 4.0" in line
    card = npser("info").stdout
    assert re.search(r"^licence +CC-BY-NC-SA-4.0$", card, re.MULTILINE)
    npser("explain", "0.wav", "--out", "page.html")


def test_the_answer_does_not_depend_on_the_level(model: Model) -> None:
    x = sound(40_000)
    wanted = model.predict(x, 16_000).probabilities
    for decibel in (-10, -20, -30):
        found = model.predict(np.round(x * 10 ** (decibel / 20) * 32768).astype(np.float32) / 32768, 16_000).probabilities
        assert max(abs(found[label] - wanted[label]) for label in wanted) < 0.1


@pytest.mark.skipif(not CORPORA.is_dir(), reason=f"{CORPORA} is missing; NPSER_CORPORA names the folder of the corpora")
def test_it_has_learnt_its_training_recordings(model: Model) -> None:
    right = []
    for name in ("emodb", "ravdess", "nemo"):
        rows = [row for row in manifest_of(CORPORA / name) if row["emotion"] in EMOTIONS]
        waves = [next(iter(read_windows(row["path"], 7.5, cut=True))) for row in rows[:: len(rows) // 30]]
        predicted = [p.emotion for p in model.predict_many(waves, 16_000)]
        right += [row["emotion"] == emotion for row, emotion in zip(rows[:: len(rows) // 30], predicted, strict=True)]
    assert np.mean(right) > 0.8


@pytest.mark.skipif(UNCOMPILED, reason="networks of the paper's size take minutes without the compiler")
def test_the_script_that_builds_it_gives_the_same_bytes_again(environment: dict[str, str], tmp_path: Path) -> None:
    for place, name in enumerate(("emodb", "ravdess", "nemo", "emovo")):
        (tmp_path / name).mkdir()
        rows = []
        for k in range(32):
            gender, emotion = ("female", "male")[k % 2], EMOTIONS[k // 2 % 4]
            tone(tmp_path / name / f"{k}.wav", 100 + 90 * (k % 2) + 20 * (k // 2 % 4) + 3 * place, seed=100 * place + k)
            row = {"path": f"{k}.wav", "emotion": emotion, "speaker": f"{k % 2}{k // 8 % 2}", "gender": gender}
            rows.append(row | {"session": str(k // 8 % 2)})
        write_manifest(tmp_path / name / "manifest.csv", rows)
    script, env = ROOT / "examples" / "train_the_shipped_model.py", environment | {"OPENBLAS_NUM_THREADS": "1"}
    for out in ("one", "two"):
        command = [sys.executable, script, tmp_path, tmp_path / out, "--epochs", "2"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
    for name in ("model.safetensors", "CARD.md", "scores.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    scores = json.loads((tmp_path / "one" / "scores.json").read_text())
    ways = ["as it is", "adapted by 1", "adapted by 3", "adapted by 10", "adapted by all", "adapted by neutral"]
    assert [np.sum(scores["speakers"]["all"][way]["confusion"]) for way in ways] == [96] * 6
    for name in ("emodb", "ravdess", "nemo", "emovo"):
        assert list(scores["across"][name]) == sorted(ways)
        assert [np.sum(scores["across"][name][way]["confusion"]) for way in ways] == [32] * 6
    built = npser.load(tmp_path / "one" / "model.safetensors")
    assert built.checkpoint.temperature == scores["temperature"]
    shutil.rmtree(tmp_path / "two")

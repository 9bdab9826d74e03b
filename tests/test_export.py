"""`npser export`: the ONNX graphs give, in onnxruntime, what npser gives."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from helpers import (
    CORPORA,
    EMOTIONS,
    GENDERS,
    ROOT,
    SIZES,
    SMALL,
    SMALL_FORWARD,
    Command,
    Trained,
    network,
    one_sentence,
    recording,
    sound,
)

from npser import features, lite
from npser.commands.export import _model, export
from npser.networks import onnx_layers
from npser.networks.li2019 import PRESETS, Config
from npser.networks.onnx_layers import Graph

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")

LENGTHS = [1, 2, 399, 400, 401, 799, 800, 1199, 1200, 3199, 3200, 3600, 11_000, 15_999, 16_000]  # 9 frames are 3200 samples
OUTPUTS = ("emotion", "gender", "attention")


def session(trained: Trained, with_features: bool) -> Any:
    path = trained.path.with_name("graph.onnx")
    export(trained.path, path, with_features)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


def outputs(graph: Any, value: np.ndarray) -> dict[str, np.ndarray]:
    """What the graph gives, by name, for one utterance of any kind of input."""
    (entry,) = graph.get_inputs()
    names = [output.name for output in graph.get_outputs()]
    return {name: out[0] for name, out in zip(names, graph.run(names, {entry.name: value[None]}), strict=True)}


def expected(model: lite.Model, x: np.ndarray) -> dict[str, np.ndarray]:
    """The same from lite: probabilities by its own softmax, the temperature on the emotions only."""
    emotion, gender, attention = model.forward(model.network_input(x))
    found = {"emotion": np.exp(lite.log_softmax(emotion / model.checkpoint.temperature))}
    if model.genders:
        found["gender"] = np.exp(lite.log_softmax(gender))
    return found if attention is None else found | {"attention": attention}


def assert_same(actual: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert actual.keys() == wanted.keys()
    for name, value in wanted.items():
        assert actual[name].shape == value.shape, name
        np.testing.assert_allclose(actual[name], value, atol=1e-4, err_msg=name)
        if name == "attention" and value.size:  # small numbers where there are many steps
            np.testing.assert_allclose(actual[name], value, atol=1e-3 * value.max(), err_msg=name)


@pytest.mark.parametrize("config", SIZES[:6])
@pytest.mark.parametrize(("attention", "genders"), [(True, GENDERS), (True, None), (False, GENDERS)])
@pytest.mark.parametrize("with_features", [False, True], ids=["features", "waveform"])
def test_the_graph_gives_what_npser_gives(
    tmp_path: Path, config: Config, attention: bool, genders: list[str] | None, with_features: bool
):
    trained = network(tmp_path, dataclasses.replace(config, attention=attention), genders, temperature=1.7)
    graph = session(trained, with_features)
    longest = features.window_samples(trained.lite.config.max_seconds)
    answers = []
    for seed, n in enumerate([*(n for n in LENGTHS if n <= longest), longest]):
        x = sound(n, seed)
        wanted = expected(trained.lite, x)
        assert_same(outputs(graph, x if with_features else trained.lite.network_input(x)), wanted)
        answers.append(wanted["emotion"])
    assert np.ptp(answers, axis=0).max() > 0.01  # the sounds are told apart


@pytest.mark.parametrize("config", [SMALL, SMALL_FORWARD], ids=["recurrence", "no recurrence"])
def test_less_than_a_pooling_window_is_answered_whatever_the_memory_held(tmp_path: Path, config: Config):
    trained = network(tmp_path, config)
    for n in [1, 2, 399] * 10:
        assert_same(outputs(session(trained, with_features=True), sound(n)), expected(trained.lite, sound(n)))


def test_the_padded_graph_cuts_as_npser_does(tmp_path: Path):
    trained = network(tmp_path, dataclasses.replace(SMALL, pad=True))
    graph, x = session(trained, with_features=True), sound(40_000)
    assert_same(outputs(graph, x), expected(trained.lite, x[:16_000]))
    assert np.abs(outputs(graph, x)["emotion"] - expected(trained.lite, x[8000:24_000])["emotion"]).max() > 1e-3


@pytest.mark.parametrize("rounding", [0.0, 1e-5, 0.009, 0.02])
def test_what_is_silent_but_for_rounding_has_no_level_in_the_graph_either(rounding: float):
    g, c = Graph(), dataclasses.replace(SMALL, level=True, d_spec=297)
    g.output(onnx_layers._heard_bands(g, c, "S"), "out")
    proto = _model(g, {"S": ["frames", 128]}, {"out": ["frames", 99]}, {})
    S = np.full((5, 128), features.FLOOR_DB + rounding, np.float32)
    (found,) = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"S": S})
    np.testing.assert_allclose(found, features.heard_bands(S, 99, level=True), atol=1e-4)
    assert found.max() == pytest.approx(0 if rounding > 0.01 else features.FLOOR_DB, abs=0.01)


@pytest.mark.parametrize(("level", "d_spec"), [(False, 384), (True, 384), (True, 297)])
def test_digital_silence_and_faint_bands_come_out_the_same(tmp_path: Path, level: bool, d_spec: int):
    """In single precision the transform's rounding would show where a loud tone leaves the other bands at the floor."""
    trained = network(tmp_path, dataclasses.replace(SMALL, level=level, d_spec=d_spec))
    graph = session(trained, with_features=True)
    for x in (
        np.full(9000, 0.3),
        np.zeros(9000),
        0.9 * np.sin(np.arange(9000) * 2 * np.pi / 16),
        np.r_[np.zeros(4000), sound(5000)],
    ):
        assert_same(outputs(graph, x.astype(np.float32)), expected(trained.lite, x.astype(np.float32)))


@pytest.mark.parametrize("preset", ["paper", "default"])
@pytest.mark.parametrize("with_features", [False, True], ids=["features", "waveform"])
def test_networks_of_the_papers_size_come_out_the_same(tmp_path: Path, preset: str, with_features: bool):
    trained = network(tmp_path, PRESETS[preset])
    graph = session(trained, with_features)
    for n in (700, 30_001, 120_000):
        x = sound(n)
        assert_same(outputs(graph, x if with_features else trained.lite.network_input(x)), expected(trained.lite, x))


@pytest.mark.parametrize("preset", ["paper", "default"])
def test_real_recordings_come_out_the_same(tmp_path: Path, preset: str):
    if not (CORPORA / "emodb").is_dir():
        pytest.skip(f"{CORPORA / 'emodb'} is missing; NPSER_CORPORA names the folder of the corpora")
    trained = network(tmp_path, PRESETS[preset])
    graph = session(trained, with_features=True)
    for path in sorted((CORPORA / "emodb").glob("*.flac"))[::60]:
        x, rate = soundfile.read(path, dtype="float32")
        assert rate == 16_000
        x = x[:120_000]
        assert_same(outputs(graph, x), expected(trained.lite, x))


def test_the_file_says_what_a_program_needs_to_know(tmp_path: Path):
    trained = network(tmp_path)
    about = {key: json.loads(text) for key, text in session(trained, False).get_modelmeta().custom_metadata_map.items()}
    assert about["labels"] == {"emotion": EMOTIONS, "gender": GENDERS}
    assert {key: about["features"][key] for key in features.SETTINGS} == features.SETTINGS
    assert (about["features"]["max_seconds"], about["features"]["zero_padded"]) == (1.0, False)
    assert (about["features"]["bands"], about["features"]["mean_power_db_of_bands"]) == (128, None)
    assert about["features"]["seconds_of_a_step"] == pytest.approx(3 * 400 / 16_000)
    np.testing.assert_array_equal(np.float32(about["features"]["mean"]), trained.engine.mean)
    np.testing.assert_array_equal(np.float32(about["features"]["std"]), trained.engine.std)
    assert about["training"] == trained.lite.checkpoint.training


@pytest.mark.parametrize(("level", "d_spec"), [(False, 297), (True, 297), (True, 384), (False, 384)])
def test_the_file_says_to_what_level_the_bands_are_brought(tmp_path: Path, level: bool, d_spec: int):
    trained = network(tmp_path, dataclasses.replace(SMALL, level=level, d_spec=d_spec))
    about = json.loads(session(trained, False).get_modelmeta().custom_metadata_map["features"])
    assert about["level_db"] == (features.LEVEL_DB if level else None)
    assert about["mean_power_db_of_bands"] == (0 if level and d_spec < 384 else None)


def test_the_number_of_frames_is_free(tmp_path: Path):
    graph = session(network(tmp_path), with_features=False)
    assert [(entry.name, entry.shape) for entry in graph.get_inputs()] == [("features", [1, "frames", 384])]
    shapes = {output.name: output.shape for output in graph.get_outputs()}
    assert shapes == {"emotion": [1, 4], "gender": [1, 2], "attention": [1, 2, "steps"]}


def test_the_command_writes_the_graph_and_says_so(npser: Command, trained: Path, tmp_path: Path):
    model = trained / "model.safetensors"
    shown = npser("export", model, "a.onnx", "--with-features").stdout
    for words in ("a.onnx", "waveform (1, samples)", "emotion (1, 2)", "gender (1, 2)", "attention (1, 2, steps)"):
        assert words in shown
    first = (tmp_path / "a.onnx").read_bytes()
    found = json.loads(npser("export", model, "a.onnx", "--with-features", "--json").stdout)
    assert found["bytes"] == len(first)
    assert (tmp_path / "a.onnx").read_bytes() == first  # no dates, no paths
    assert str(trained).encode() not in first


def test_what_cannot_be_exported_is_told_in_a_sentence(
    npser: Command, trained: Path, environment: dict[str, str], tmp_path: Path
):
    model = trained / "model.safetensors"
    one_sentence(npser("export", model, "model.pt", status=1), "model.pt", ".onnx")
    one_sentence(npser("export", tmp_path / "none", "a.onnx", status=1), "none", "cannot be opened")
    one_sentence(npser("export", model, "nowhere/a.onnx", status=1), "nowhere/a.onnx", "cannot be written")
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "onnx.py").write_text("raise ImportError('not installed')")
    without = environment | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "hidden"), environment["PYTHONPATH"]])}
    one_sentence(npser("export", model, "a.onnx", status=1, env=without), "pip install onnx")
    assert not (tmp_path / "a.onnx").exists()


# The example


ALONE = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0])
assert not {"npser", "scipy", "soundfile", "safetensors", "onnx"} & set(sys.modules), sorted(sys.modules)
"""


def run_example(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Fails where anything but NumPy and onnxruntime is imported."""
    command = [sys.executable, "-I", "-c", ALONE, str(ROOT / "examples" / "onnx_alone.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("n", [500, 16_000, 16_001, 24_000, 24_001, 37_000])
def test_the_example_needs_onnxruntime_alone(tmp_path: Path, pad: bool, n: int):
    trained = network(tmp_path, dataclasses.replace(SMALL, pad=pad), temperature=1.3)
    graph = tmp_path / "graph.onnx"
    export(trained.path, graph, with_features=True)
    path = tmp_path / "a.wav"
    soundfile.write(path, sound(n), 16_000, subtype="PCM_16")
    done = run_example(graph, path)
    assert done.returncode == 0, done.stderr
    shown = dict(line.split() for line in done.stdout.splitlines())
    wanted = trained.lite.predict(path).probabilities
    assert {label: float(shown[label]) for label in wanted} == pytest.approx(wanted, abs=1e-3)


def test_the_example_says_what_it_cannot_read(tmp_path: Path):
    graph = tmp_path / "graph.onnx"
    export(network(tmp_path).path, graph, with_features=True)
    assert "16 kHz" in run_example(graph, recording(tmp_path / "a.wav", sound(9000), 8000)).stderr
    assert run_example().returncode == 1

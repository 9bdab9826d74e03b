"""A network that is not the engine's, with a loss, a decision, a store and a state of its own, in every command."""

import csv
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers import ROOT, Command, assert_same_training, lines_of, one_sentence, report_of, unbalanced

from npser import checkpoint, corpora, dataset, model
from npser.calibration import log_softmax
from npser.lite import Model
from npser.network import Network, Shard, Targets, real_rows
from npser.split import Split
from npser.train import Run, fit


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, named in model.NETWORKS while a test runs."""
    monkeypatch.setitem(model.NETWORKS, "toy", None)  # is taken away again
    import toy_network

    model.NETWORKS["toy"] = toy_network
    return toy_network


@pytest.fixture
def command(tmp_path: Path, environment: dict[str, str]) -> Command:
    """Run npser with the toy network in it."""

    def run(*words: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
        script = [sys.executable, str(ROOT / "tests" / "toy_network.py"), *map(str, words)]
        done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    return run


def test_every_command_serves_it(command: Command, corpus: Path, tmp_path: Path, toy: ModuleType) -> None:
    shown = command("train", corpus, "--network", "toy", "--set", "piece=12", "--out", "run").stdout
    assert "preset published, 4 epochs" in shown
    path, report = tmp_path / "run" / "model.safetensors", report_of(tmp_path / "run")
    assert (report["genders"], report["gender_accuracy"], report["config"]["piece"]) == ([], None, 12)
    tensors = checkpoint.load(path).tensors
    assert tensors["solved.W"].shape == tensors["solved.evidence"].shape == (8, 2)  # the training part, and nobody else
    assert (tensors["norm1.variance"] != 1).all()

    with (corpus / "manifest.csv").open() as file:
        tested = [row for row in csv.DictReader(file) if row["session"] == "3"]
    files = [str(corpus / row["path"]) for row in tested]
    lite, numba = (
        [
            json.loads(line)
            for line in command("predict", *files, "--model", path, "--json", "--engine", engine).stdout.splitlines()
        ]
        for engine in ("lite", "numba")
    )
    for a, b in zip(lite, numba, strict=True):
        assert a["probabilities"] == pytest.approx(b["probabilities"], abs=1e-5)
        assert (a["gender"], a["reason"]) == (None, None)
    assert np.mean([row["emotion"] for row in lite] == np.array([row["emotion"] for row in tested])) == report["wa"]
    assert json.loads(command("evaluate", path, corpus, "--json").stdout)["utterances"] == 24

    card = command("info", path).stdout
    assert "4 units, pieces of 12 frames" in card
    assert "energy and sign changes" in card
    assert "piece 12" in card
    command("explain", files[0], "--model", path, "--out", "page.html")
    assert "There is no attention to show: the network has 4 units" in (tmp_path / "page.html").read_text()
    one_sentence(command("export", path, "a.onnx", status=1), str(path), "toy", "has no ONNX form")
    rows = [row for row in json.loads(command("gradcheck", "--json").stdout) if row["layer"] == "loss, toy"]
    assert [row["argument"] for row in rows] == ["hidden.W", "hidden.b", "frame.W", "frame.b", "all float32"]
    assert all(row["ok"] for row in rows)
    one_sentence(command("train", corpus, "--network", "toy", "--set", "beta=1", status=1), "no gender head")
    one_sentence(command("train", corpus, "--network", "toy", "--preset", "paper", status=2), "'paper'", "published")


def test_a_resumed_run_and_a_cross_validation_keep_its_state(command: Command, corpus: Path, tmp_path: Path) -> None:
    words = ("train", corpus, "--network", "toy", "--out")
    command(*words, "whole", "--epochs", "5")
    command(*words, "parts", "--epochs", "2")
    command(*words, "parts", "--epochs", "5", "--resume")
    for name in ("model.safetensors", "last.safetensors", "metrics.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    assert lines_of(tmp_path / "whole") == lines_of(tmp_path / "parts")

    shown = command("crossval", corpus, "--network", "toy", "--epochs", "2", "--ablate", "--out", "crossval").stdout
    report = json.loads((tmp_path / "crossval" / "report.json").read_text())
    assert list(report["variants"]) == ["full", "long-pieces"]
    assert "long-pieces" in shown
    assert "no variants of it" in " ".join(report["notices"])  # of a gender loss
    first = json.loads((tmp_path / "crossval" / "jobs" / "full-seed0-fold3" / "report.json").read_text())
    command(*words, "again", "--epochs", "2")
    assert first["confusion"] == report_of(tmp_path / "again")["confusion"]


def test_another_test_part_changes_nothing_that_it_learns(tmp_path: Path, toy: ModuleType) -> None:
    c = toy.Config(epochs=3, batch=5, learning_rate=0.05, max_seconds=0.5)
    for others in (0, 6):
        out = tmp_path / str(others)
        out.mkdir()
        with ThreadPoolExecutor(1) as pool:
            fit(*unbalanced(c, others), c, Run(out, pool, lambda _: None), {}, oracle=others > 0)
    assert_same_training(tmp_path / "0", tmp_path / "6")


def test_the_gradient_of_a_mini_batch_goes_through_its_statistics(toy: ModuleType) -> None:
    c, rng = toy.Config(), np.random.default_rng(0)
    shapes = model.shapes_of(c, 3, 0)
    theta = rng.standard_normal(model.size_of(shapes))
    lengths = ((7, 3), (12, 5, 4))
    shards = []
    for part in lengths:
        X, bounds, share = rng.standard_normal((sum(part), 2)), np.cumsum([0, *part]), np.full(len(part), 0.2)
        y = Targets(rng.integers(3, size=len(part)), np.full(len(part), -1), share, share)
        shards.append(Shard(lambda X=X, bounds=bounds: (X, bounds), y, rng))

    def gradient(theta: np.ndarray) -> tuple[float, np.ndarray]:
        with ThreadPoolExecutor(2) as pool:
            value, grads, _ = toy.gradient(model.views(theta, shapes, model.state_of(c, 3, 0)), c, shards, pool)
        return value, model.flatten(grads, shapes)

    _, found = gradient(theta)
    for _ in range(3):
        direction = rng.standard_normal(theta.size)
        numeric = (gradient(theta + 1e-6 * direction)[0] - gradient(theta - 1e-6 * direction)[0]) / 2e-6
        assert found @ direction == pytest.approx(numeric, abs=1e-7 * float(np.linalg.norm(found)))


def test_theta_may_start_from_the_training_part(
    toy: ModuleType, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[np.ndarray] = []

    def pretrain(network: Network, data: dataset.Dataset, train: np.ndarray, run: Run) -> np.ndarray:
        met.append(train)
        return np.full_like(network.theta, 0.25)

    monkeypatch.setattr(toy, "pretrain", pretrain, raising=False)
    c = toy.Config(epochs=2, learning_rate=1e-9)
    with ThreadPoolExecutor(1) as pool:
        data = dataset.prepare(corpora.load(corpus), c, tmp_path / "cache", pool, lambda items, **_: items)
        for epochs in (1, 2):  # resumed, it does not start anew
            split, run = Split(list(range(3, 20)), [], []), Run(tmp_path, pool, lambda _: None)
            fit(data, split, replace(c, epochs=epochs), run, {}, resume=True)
    np.testing.assert_array_equal(met, [np.arange(3, 20)])
    np.testing.assert_allclose(checkpoint.load(tmp_path / "model.safetensors").tensors["hidden.W"], 0.25, atol=1e-6)


def test_both_statements_of_it_agree_and_the_decisions_of_windows_are_averaged(
    toy: ModuleType, command: Command, corpus: Path, tmp_path: Path
) -> None:
    command("train", corpus, "--network", "toy", "--epochs", "2", "--set", "max_seconds=0.2", "--out", "run")
    path = tmp_path / "run" / "model.safetensors"
    lite, engine = Model(path), Network.of(checkpoint.load(path))
    with ThreadPoolExecutor(1) as pool:
        data = dataset.prepare(corpora.load(corpus), engine.config, tmp_path / "cache", pool, lambda items, **_: items)
        found, _ = engine.log_probabilities(data.store, np.array([5]), pool)
    outputs = [lite.forward(lite.network_input(x))[0] for x in lite.windows(data.utterances[5].path)]
    assert len(outputs) == 3
    mean = np.mean([log_softmax(emotion / lite.checkpoint.temperature) for emotion in outputs], axis=0)
    np.testing.assert_allclose(found[0], log_softmax(mean), atol=1e-5)


def test_a_state_of_another_shape_is_refused(toy: ModuleType, command: Command, corpus: Path, tmp_path: Path) -> None:
    command("train", corpus, "--network", "toy", "--epochs", "1", "--out", "run")
    path = tmp_path / "run" / "model.safetensors"
    tensors, about = checkpoint.read_tensors(path)
    for name, wrong in (("norm1.mean", np.zeros(5, np.float32)), ("solved.W", np.zeros((8, 3), np.float32))):
        checkpoint.write_tensors(tmp_path / "wrong.safetensors", tensors | {name: wrong}, about)
        with pytest.raises(ValueError, match=f"tensor {name} has shape"):
            checkpoint.load(tmp_path / "wrong.safetensors")
    del tensors["norm1.mean"]
    checkpoint.write_tensors(tmp_path / "wrong.safetensors", tensors, about)
    with pytest.raises(ValueError, match=r"tensor norm1\.mean is missing"):
        checkpoint.load(tmp_path / "wrong.safetensors")


def test_without_a_plain_statement_the_engine_answers(
    toy: ModuleType, command: Command, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("train", corpus, "--network", "toy", "--epochs", "1", "--out", "run")
    trained, file = Model(tmp_path / "run" / "model.safetensors"), corpus / "1f_sad_0.wav"
    expected = trained.predict(file)
    monkeypatch.delattr(toy, "plain")
    assert trained.predict(file).probabilities == pytest.approx(expected.probabilities, abs=1e-5)
    (many,) = trained.predict_many([file])
    assert many.emotion == expected.emotion
    with pytest.raises(ValueError, match=r"nowhere\.wav: cannot be opened"):
        trained.predict("nowhere.wav")
    with pytest.raises(ValueError, match="the network toy answers by the compiled engine only"):
        trained.output(np.zeros(16_000, np.float32) + np.sin(np.arange(16_000, dtype=np.float32)))


def test_a_network_may_bring_its_own_start_normaliser_and_optimiser(
    toy: ModuleType, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Still:
        """Makes no step, and counts them."""

        def __init__(self, c: object, size: int, decay: np.ndarray) -> None:
            self.m, self.v, self.updates = np.zeros(size, np.float32), np.zeros(size, np.float32), 0

        def step(self, theta: np.ndarray, grad: np.ndarray, factor: float) -> None:
            self.updates += 1

    def normalised_on(data: dataset.Dataset, train: np.ndarray) -> np.ndarray:
        return train[3:5]

    hooks = {"init": lambda shapes, seed: np.full(model.size_of(shapes), 0.5, np.float32)}
    for name, hook in (hooks | {"normalised_on": normalised_on, "optimiser": Still}).items():
        monkeypatch.setattr(toy, name, hook, raising=False)
    c = toy.Config(epochs=1, batch=4)
    with ThreadPoolExecutor(1) as pool:
        data = dataset.prepare(corpora.load(corpus), c, tmp_path / "cache", pool, lambda items, **_: items)
        fit(data, Split(list(range(12)), [], []), c, Run(tmp_path, pool, lambda _: None), {})
    tensors = checkpoint.load(tmp_path / "model.safetensors").tensors
    assert all((tensors[name] == 0.5).all() for name in ("hidden.W", "frame.b"))
    rows = data.store.rows[data.store.bounds[3] : data.store.bounds[5]]
    real = real_rows(data.store.bounds[3:6] - data.store.bounds[3], data.store.real(np.array([3, 4])))
    np.testing.assert_allclose(tensors["norm.mean"], rows[real].mean(axis=0, dtype=np.float64), rtol=1e-6)
    assert checkpoint.read_tensors(tmp_path / "last.safetensors")[1]["updates"] == 3

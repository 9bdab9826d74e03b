"""The temperature, the calibration error, and that everything which scores afterwards uses the one that was stored."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import Command, manifest_of, network, recording, report_of, sound, write_manifest

from npser import checkpoint
from npser.calibration import COLDEST, HOTTEST, calibration_error, calibration_error_of, fit_temperature, log_softmax
from npser.lite import Model
from npser.network import Network
from npser.store import Store


def drawn(temperature: float, recordings: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are right about how often classes occur once they are divided by temperature."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.standard_normal((recordings, 4))
    y = np.array([rng.choice(4, p=p) for p in np.exp(log_softmax(logits))])
    return temperature * logits, y


# The temperature


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_that_logits_were_multiplied_by_is_found(temperature: float) -> None:
    assert fit_temperature(*drawn(temperature, 20_000)) == pytest.approx(temperature, rel=0.03)


def test_no_temperature_of_a_fine_grid_is_likelier() -> None:
    def loss(temperature: float) -> float:
        """Of recordings that are each of another class with probability 1 / (R + 2), in plain words."""
        total = 0.0
        for row, truth in zip((logits / temperature).tolist(), y.tolist(), strict=True):
            log_sum = math.log(sum(math.exp(value - max(row)) for value in row)) + max(row)
            for k, value in enumerate(row):
                share = 1 - 1 / (len(y) + 2) if k == truth else 1 / (len(y) + 2) / (len(row) - 1)
                total -= share * (value - log_sum)
        return total

    for seed in range(5):
        logits, y = drawn(2.0, 60, seed)
        found = fit_temperature(logits, y)
        assert COLDEST < found < HOTTEST
        assert loss(found) <= min(loss(t) for t in np.geomspace(COLDEST, HOTTEST, 300)) + 1e-9


@pytest.mark.parametrize("recordings", [8, 80, 800])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_recordings_all_told_apart_bear_out_no_more_confidence_than_their_number(recordings: int, scale: float) -> None:
    y = np.arange(recordings) % 4
    logits = scale * np.eye(4)[y]
    p = np.exp(log_softmax(logits / fit_temperature(logits, y)))
    np.testing.assert_allclose(p.max(axis=1), 1 - 1 / (recordings + 2), rtol=1e-6)


def test_logits_that_are_wrong_or_say_nothing_end_at_the_bound() -> None:
    y = np.arange(40) % 4
    assert fit_temperature(-5 * np.eye(4)[y], y) == pytest.approx(HOTTEST)
    assert fit_temperature(np.zeros((40, 4)), y) == pytest.approx(HOTTEST)
    assert fit_temperature(1e-3 * np.eye(4)[y], y) == pytest.approx(COLDEST)


def test_with_the_temperature_confidence_is_nearer_to_accuracy_on_other_recordings() -> None:
    for temperature in (0.25, 4.0):
        found = fit_temperature(*drawn(temperature, 400))
        logits, y = drawn(temperature, 5000, seed=1)
        before, after = (calibration_error(log_softmax(logits / t), y) for t in (1.0, found))
        assert before > 0.1
        assert after < 0.04


# The calibration error


def test_a_small_example_by_hand() -> None:
    confidence = np.array([1.0, 0.95, 0.95, 0.5, 0.5, 0.02])
    right = np.array([True, True, False, False, True, False])
    # (14/15, 1]: accuracy 2/3, confidence 2.9/3; (7/15, 8/15]: 1/2, 1/2; (0, 1/15]: 0, 0.02
    assert calibration_error_of(confidence, right) == pytest.approx(3 / 6 * (0.9 / 3) + 1 / 6 * 0.02)


def test_an_edge_belongs_to_the_bin_below() -> None:
    edge = 12 / 15
    assert calibration_error_of(np.array([edge, edge - 0.05]), np.array([True, False])) == pytest.approx(
        abs(1 - 2 * edge + 0.05) / 2
    )
    assert calibration_error_of(np.array([edge, edge + 0.05]), np.array([True, False])) == pytest.approx(
        (1 - edge + edge + 0.05) / 2
    )


def test_the_error_is_that_of_a_slow_loop() -> None:
    logits, y = drawn(3.0, 500)
    log_p, total = log_softmax(logits), 0.0
    for k in range(15):
        inside = [r for r in range(500) if k / 15 < np.exp(log_p[r]).max() <= (k + 1) / 15]
        if inside:
            accuracy = np.mean([log_p[r].argmax() == y[r] for r in inside])
            total += len(inside) / 500 * abs(accuracy - np.mean([np.exp(log_p[r]).max() for r in inside]))
    assert calibration_error(log_p, y) == pytest.approx(total)


# The engine


@pytest.mark.parametrize("temperature", [0.4, 3.0])
def test_the_emotion_of_a_long_recording_has_the_temperature_in_every_window(tmp_path: Path, temperature: float) -> None:
    plain, trained = network(tmp_path).engine, network(tmp_path, temperature=temperature)
    warm = Network.of(checkpoint.load(trained.path))
    paths = [recording(tmp_path / f"{i}.wav", sound(n, i)) for i, n in enumerate([5000, 16_001, 37_000])]
    store = trained.store(paths)
    assert np.diff(store.recordings).tolist() == [1, 2, 4]
    each = Store(store.rows, store.bounds, store.samples, np.arange(8), {}, 0, store.seconds)  # a recording a window
    with ThreadPoolExecutor(1) as pool:
        emotion, gender = warm.log_probabilities(store, np.arange(3), pool)
        _, plain_gender = plain.log_probabilities(store, np.arange(3), pool)
        windows, _ = plain.log_probabilities(each, np.arange(7), pool)
    for r, path in enumerate(paths):
        mean = log_softmax(windows[store.recordings[r] : store.recordings[r + 1]] / temperature).mean(axis=0)
        np.testing.assert_allclose(emotion[r], log_softmax(mean), rtol=1e-6)
        np.testing.assert_allclose(list(trained.lite.predict(path).probabilities.values()), np.exp(emotion[r]), atol=1e-5)
    np.testing.assert_array_equal(gender, plain_gender)


# The commands


def test_the_report_the_model_evaluate_and_predict_have_the_same_temperature(
    npser: Command, corpus: Path, trained: Path, tmp_path: Path
) -> None:
    found = report_of(trained)["calibration"]
    model = Model(trained / "model.safetensors")
    assert model.checkpoint.temperature == found["temperature"] != 1
    assert model.checkpoint.training["scores"]["calibration"] == found
    tested = [row for row in manifest_of(corpus) if row["session"] == "3"]
    shown = npser("evaluate", trained / "model.safetensors", write_manifest(tmp_path / "test.csv", tested), "--json")
    assert json.loads(shown.stdout)["ece"] == pytest.approx(found["ece_after"])
    assert found["ece_before"] != pytest.approx(found["ece_after"], abs=1e-3)

    predictions = [model.predict(row["path"]) for row in tested]
    log_p = np.log([list(p.probabilities.values()) for p in predictions])
    y = np.array([model.emotions.index(row["emotion"]) for row in tested])
    assert calibration_error(log_p, y) == pytest.approx(found["ece_after"], abs=1e-4)
    uncalibrated = log_softmax(log_p * found["temperature"])
    assert calibration_error(uncalibrated, y) == pytest.approx(found["ece_before"], abs=1e-4)
    line = f"temperature {found['temperature']:.2f} from the validation part; expected calibration error on the test part"
    assert line in (trained / "report.md").read_text()


def test_the_temperature_is_that_of_the_validation_session(corpus: Path, trained: Path) -> None:
    model = Model(trained / "model.safetensors")
    rows = [row for row in manifest_of(corpus) if row["session"] == "1"]
    logits = np.log([list(model.predict(row["path"]).probabilities.values()) for row in rows]) * model.checkpoint.temperature
    y = np.array([model.emotions.index(row["emotion"]) for row in rows])
    assert fit_temperature(logits, y) == pytest.approx(model.checkpoint.temperature, rel=1e-3)


def test_the_temperature_has_no_say_in_the_choice_of_the_epoch(trained: Path) -> None:
    report = report_of(trained)
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    chosen = max(rows, key=lambda row: (round(row["validation"]["ua"], 9), -row["validation"]["loss"], -row["epoch"]))
    assert report["selected_epoch"] == chosen["epoch"]
    assert report["validation"] == chosen["validation"]


def test_without_validation_nothing_is_calibrated_and_the_report_says_so(
    npser: Command, corpus: Path, small: Path, tmp_path: Path
) -> None:
    shown = npser("train", corpus, "--config", small, "--val-session", "none", "--epochs", "1", "--out", "run")
    assert "not calibrated" in shown.stdout
    assert "Calibration: not calibrated" in (tmp_path / "run" / "report.md").read_text()
    assert report_of(tmp_path / "run")["calibration"] is None
    assert checkpoint.load(tmp_path / "run" / "model.safetensors").temperature == 1

"""`npser bench`: what it counts, and that it runs."""

import json
import math
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import EMOTIONS, RATE, ROOT, UNCOMPILED, Command, sound

from npser import model
from npser.lite import Model
from npser.networks.li2019 import Config, flops


@pytest.mark.parametrize("c", [Config(), Config(d_cnn=8, d_lstm=5, d_attn=7, n_attn=3, n_pw=2)], ids=["paper", "small"])
def test_operations_are_those_of_every_matrix_for_every_row_that_it_meets(c: Config) -> None:
    rows, frames = np.array([50, 301]), np.array([301, 301])
    met = {"cnn1": rows.sum(), "cnn2": rows.sum()}
    pooled = (frames // c.n_pw).sum()
    of = {name: 2 * math.prod(shape) for name, shape in model.shapes_of(c, 4, 2).items() if name.split(".")[1][0] in "WRw"}
    once = {
        name: n * met.get(name.split(".")[0], pooled)
        for name, n in of.items()
        if name.split(".")[0] not in ("emotion", "gender")
    }
    assert flops(c, rows, frames, training=False) == pytest.approx(sum(once.values()))
    trained = 3 * sum(once.values()) - once["cnn1.W"]
    assert flops(c, rows, frames, training=True) == pytest.approx(trained)


@pytest.mark.skipif(UNCOMPILED, reason="times of uncompiled kernels mean nothing")
def test_bench_times_training_inference_and_features(npser: Command) -> None:
    found = json.loads(npser("bench", "--threads", "1", "--json").stdout)
    assert found["threads"] == 1
    assert found["blas_gflops"] > 0
    assert found["experiment_hours"] > 0
    assert len(found["rows"]) == 5
    assert all(row["milliseconds"] > 0 for row in found["rows"])
    assert "of BLAS" in npser("bench").stdout


@pytest.mark.skipif(UNCOMPILED, reason="times of uncompiled kernels mean nothing")
@pytest.mark.parametrize(
    ("script", "words"), [("run.py", ["--items", "step,forward,features"]), ("scaling.py", [])], ids=["run", "scaling"]
)
def test_the_side_by_side_timings_run(environment: dict[str, str], tmp_path: Path, script: str, words: list[str]) -> None:
    command = [sys.executable, str(ROOT / "tests" / "bench" / script), "--repeats", "1", "--out", str(tmp_path), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "40 x 301" in done.stdout
    assert any(tmp_path.glob("*.md"))


def test_their_model_file_is_one_that_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "bench"))
    saved = runpy.run_path(str(ROOT / "tests" / "bench" / "run.py"))["saved_model"](tmp_path)
    assert Model(saved).predict(sound(9000), RATE).emotion in EMOTIONS

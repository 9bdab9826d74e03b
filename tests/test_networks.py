"""Every network, in every preset, in every command: as a user runs them, on a small corpus."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import UNCOMPILED, Command, assert_same_run, one_sentence, report_of

from npser import model
from npser.config import Config, to_toml

FEW: dict[str, Any] = {"epochs": 2, "batch": 8, "max_seconds": 0.5}
EXPORTED = [*(("li2019_feedforward", name) for name in ("default", "paper", "same-input")), ("mirsamadi2017", "same-input")]
CASES = [
    pytest.param(name, preset, marks=pytest.mark.skipif(UNCOMPILED and preset != next(iter(module.PRESETS)), reason="slow"))
    for name, module in model.NETWORKS.items()
    for preset in module.PRESETS
    if name != "li2019" and not preset.startswith("reduced")  # it has test files of its own; they differ in sizes
]


def few(network: str, preset: str) -> Config:
    """A preset with the sizes that npser gradcheck takes, and few epochs."""
    module = model.NETWORKS[network]
    small, usual = next(iter(module.SMALL.values())), module.Config()
    own = {field.name for field in dataclasses.fields(module.Config)} - {field.name for field in dataclasses.fields(Config)}
    sizes = {name: getattr(small, name) for name in own if getattr(small, name) != getattr(usual, name)}
    return dataclasses.replace(module.PRESETS[preset], **sizes, **FEW)


@pytest.mark.parametrize(("network", "preset"), CASES)
def test_every_command_serves_it(network: str, preset: str, npser: Command, corpus: Path, tmp_path: Path) -> None:
    c = few(network, preset)
    (tmp_path / "few.toml").write_text(to_toml(c))
    words = ("train", corpus, "--network", network, "--preset", preset, "--config", "few.toml", "--threads", "1", "--out")
    npser(*words, "run")
    path, report = tmp_path / "run" / "model.safetensors", report_of(tmp_path / "run")
    assert report["config"] == dataclasses.asdict(c)

    with (corpus / "manifest.csv").open() as file:
        tested = [row for row in csv.DictReader(file) if row["session"] == "3"]
    files = [str(corpus / row["path"]) for row in tested]
    found = {}
    for engine in ("lite", "numba") if hasattr(model.NETWORKS[network], "plain") else ("auto",):
        shown = npser("predict", *files, "--model", path, "--json", "--engine", engine).stdout
        found[engine] = [json.loads(line) for line in shown.splitlines()]
    for a, b in zip(*found.values(), strict=True) if len(found) == 2 else ():
        assert a["probabilities"] == pytest.approx(b["probabilities"], abs=2e-5)
    answers = next(iter(found.values()))
    assert np.mean([row["emotion"] for row in answers] == np.array([row["emotion"] for row in tested])) == report["wa"]
    assert json.loads(npser("evaluate", path, corpus, "--json").stdout)["utterances"] == 24

    module = model.NETWORKS[network]
    card = npser("info", path).stdout
    assert module.describe(c) in card
    assert module.describe_input(c) in card
    npser("explain", files[0], "--model", path, "--out", "page.html")
    assert ("no attention to show" in (tmp_path / "page.html").read_text()) == (module.heads_of_attention(c) == 0)
    whole = (network, preset) in EXPORTED
    exported = npser("export", path, "a.onnx", "--with-features", status=0 if whole else 1)
    if not whole:
        one_sentence(exported, str(path), "no ONNX form", "npser predict")


@pytest.mark.skipif(UNCOMPILED, reason="its commands take minutes without the compiler")
@pytest.mark.parametrize("network", [name for name in model.NETWORKS if name != "li2019"])
def test_a_stopped_run_goes_on_to_the_same_files(network: str, npser: Command, corpus: Path, tmp_path: Path) -> None:
    c = dataclasses.replace(few(network, next(iter(model.NETWORKS[network].PRESETS))), schedule="constant", warmup=0.0)
    (tmp_path / "few.toml").write_text(to_toml(c))
    words = ("train", corpus, "--config", "few.toml", "--threads", "2", "--out")
    npser(*words, "whole")
    npser(*words, "parts", "--epochs", "1")
    npser(*words, "parts", "--epochs", "2", "--resume")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("network", model.NETWORKS)
def test_what_it_says_of_itself(network: str) -> None:
    module = model.NETWORKS[network]
    assert next(iter(module.PRESETS)) in ("default", "published")
    for preset, c in module.PRESETS.items():
        assert c.network == network
        assert model.configured({"network": network}, preset) == (c, preset)
        assert model.restored(dataclasses.asdict(c)) == c
        assert module.describe(c)
    usual = next(iter(module.PRESETS.values()))
    assert all(model.varied(usual, changes) != usual for changes in module.ABLATION.values())
    assert all(c.network == network for c in module.SMALL.values())

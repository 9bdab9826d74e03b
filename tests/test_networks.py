"""Every network, in every preset, in every command: as a user runs them, on a small corpus."""

import csv
import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import UNCOMPILED, Array, Command, assert_same_run, one_sentence, report_of, sound

from npser import model
from npser.config import Config, to_toml
from npser.network import Network, Targets
from npser.networks import li2019
from npser.store import Store, store_of

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


SYSTEMS = {f"{name}-{preset}": c for name, module in model.NETWORKS.items() for preset, c in module.PRESETS.items()}


def sounds_of(c: Any) -> Store:
    """Three sounds of half a second and more, as the network keeps them."""
    return store_of([sound(n, seed) for seed, n in enumerate((9000, 12_000, 8000))], model.module_of(c).kind(c))


def input_of(c: Any, store: Store, window: Array, **how: Any) -> tuple[Array, Array]:
    """X and bounds of some windows, not normalised."""
    zero, one = np.zeros(c.d_spec, np.float32), np.ones(c.d_spec, np.float32)
    X, bounds, *_ = model.module_of(c).inputs(store, window, zero, one, c, **how)
    return X, bounds


@pytest.mark.parametrize("c", SYSTEMS.values(), ids=SYSTEMS)
def test_the_input_of_several_windows_is_that_of_each(c: Any) -> None:
    store = sounds_of(c)
    X, bounds = input_of(c, store, np.array([2, 0, 1]))
    for part, window in zip(np.split(X, bounds[1:-1]), (2, 0, 1), strict=True):
        np.testing.assert_array_equal(part, input_of(c, store, np.array([window]))[0])


@pytest.mark.parametrize("name", [name for name, c in SYSTEMS.items() if c.warp > 0])
def test_what_may_be_augmented_is(name: str) -> None:
    """By the randomness that is given, and with the ends that are."""
    c: Any = SYSTEMS[name]
    store, window = sounds_of(c), np.arange(3)
    plain = dataclasses.replace(c, stretch=0.0, warp=0.0, splice=0.0, channel=0.0)

    def drawn(seed: int, ends: Array, **settings: float) -> Array:
        rng = np.random.default_rng(seed)
        return input_of(dataclasses.replace(plain, **settings), store, window, ends=ends, rng=rng)[0]

    given = input_of(c, store, window)[0]
    np.testing.assert_array_equal(drawn(0, window), given)
    warped = drawn(0, window, warp=0.2)
    assert not np.array_equal(warped, given)
    np.testing.assert_array_equal(warped, drawn(0, window, warp=0.2))
    assert not np.array_equal(warped, drawn(1, window, warp=0.2))
    assert not np.array_equal(drawn(0, window, splice=1.0), drawn(0, window[::-1], splice=1.0))


@pytest.mark.parametrize("c", [module.PRESETS["same-input"] for module in model.NETWORKS.values()], ids=[*model.NETWORKS])
def test_same_input_is_the_input_and_the_recipe_of_the_full_model(c: Any) -> None:
    for name, value in li2019.SAME_INPUT.items():
        assert name == "d_spec" or getattr(c, name) == value, name
    assert "the lowest 99 of 128 bands" in model.module_of(c).describe_input(c)


@pytest.mark.parametrize(
    "c", [pytest.param(c, id=name) for module in model.NETWORKS.values() for name, c in module.SMALL.items()]
)
def test_training_is_in_single_precision(c: Any) -> None:
    shapes, zero, one = model.shapes_of(c, 2, 2), np.zeros(1, np.int64), np.ones(1, np.float32)
    norm = np.zeros(c.d_spec, np.float32), np.ones(c.d_spec, np.float32)
    network = Network(model.init(shapes, 0), shapes, c, *norm, state=model.state_of(c, 2, 2))
    with ThreadPoolExecutor(1) as pool:
        _, grad = network.gradient(sounds_of(c), zero, Targets(zero, zero, one, one), 0, pool)
    assert grad.dtype == np.float32
    assert {value.dtype for value in network.state.values()} <= {np.dtype(np.float32)}

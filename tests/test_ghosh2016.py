"""AE-BLSTM: its slow statement, its autoencoders, what is frozen and what is learnt, its vote, and the commands with it."""

import functools
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_ghosh2016 as reference
from helpers import (
    EMOTIONS,
    RATE,
    Array,
    Command,
    assert_close,
    bounds_of,
    sound,
    unbalanced,
    utterances_of,
)

from npser import checkpoint, model
from npser.calibration import log_softmax
from npser.checkpoint import Checkpoint
from npser.dataset import Dataset
from npser.inputs import static_frames
from npser.layers import dropout
from npser.lite import Model
from npser.network import Network, Targets
from npser.networks import ghosh2016, li2019
from npser.networks.ghosh2016 import ABLATION, PRESETS, Config
from npser.split import Split
from npser.store import store_of
from npser.train import Run, fit

SIZES: dict[str, Any] = {"d_hidden1": 5, "d_hidden2": 4, "d_code": 3, "d_lstm": 4}
TINY = Config(**SIZES, d_spec=6, max_seconds=0.5, pretrain_epochs=2, epochs=2, batch=5)
SPEECH = replace(TINY, streams="speech")
ONE = replace(TINY, input="log_mel", streams="speech", d_spec=4, context=3, level=True)
STREAMS = {
    "both": {"speech": slice(0, 3), "glottal": slice(3, 6)},
    "speech": {"speech": slice(0, 3)},
    "glottal": {"glottal": slice(3, 6)},
}
LENGTHS = (3, 1, 5, 2)
WEIGHT = np.array([0.4, 0.3, 0.2, 0.1])


def loss_of(theta: Array, c: Config, X: Array, bounds: Array, y: Array, seed: int = 1) -> tuple[float, dict[str, Array]]:
    shapes = model.shapes_of(c, 4, 0)
    targets = Targets(y, np.full(len(y), -1), WEIGHT, WEIGHT)
    loss, grads = model.loss(model.views(theta, shapes), c, (X, bounds), targets, np.random.default_rng(seed))
    return loss, model.named(model.flatten(grads, shapes), shapes)


def problem(c: Config) -> tuple[Array, Array, Array, Array]:
    rng = np.random.default_rng(0)
    theta = 0.5 * rng.standard_normal(model.size_of(model.shapes_of(c, 4, 0)))
    return theta, rng.standard_normal((sum(LENGTHS), c.d_spec)), bounds_of(LENGTHS), np.array([2, 0, -1, 3])


# The network


@pytest.mark.parametrize("rate", [0.0, 0.5], ids=["", "dropout"])
@pytest.mark.parametrize("streams", STREAMS)
def test_the_slow_statement_gives_the_same_loss_logits_and_gradients(streams: str, rate: float) -> None:
    c = replace(TINY, streams=streams, finetune=True, dropout=rate)
    theta, X, bounds, y = problem(c)
    shapes = model.shapes_of(c, 4, 0)
    masks = None
    if rate:
        masks = utterances_of(dropout(np.ones((len(X), 2 * c.d_lstm)), rate, np.random.default_rng(1))[0], bounds)
    loss, grads = loss_of(theta, c, X, bounds, y)
    (logits, _), _ = ghosh2016.forward(model.views(theta, shapes), c, X, bounds, np.random.default_rng(1))
    expected, steps, gradients = reference.loss_and_gradients(
        model.named(theta, shapes), utterances_of(X, bounds), y, WEIGHT, STREAMS[streams], c.context, masks
    )
    assert loss == pytest.approx(expected, rel=1e-9)
    assert_close(logits, np.concatenate(steps), 1e-9)
    assert grads.keys() == gradients.keys()
    for name, grad in grads.items():
        assert_close(grad, gradients[name], 1e-9, name)
        assert np.abs(grad).max() > 0, name


@pytest.mark.parametrize("finetune", [False, True])
def test_the_gradient_of_the_loss_and_that_of_frozen_encoders_is_zero(finetune: bool) -> None:
    c = replace(TINY, finetune=finetune, dropout=0.0)
    theta, X, bounds, y = problem(c)
    _, grads = loss_of(theta, c, X, bounds, y)
    shapes, rng = model.shapes_of(c, 4, 0), np.random.default_rng(2)
    for name, grad in grads.items():
        if name.startswith(("speech", "glottal")) and not finetune:
            assert not grad.any(), name
            continue
        direction = np.zeros_like(theta)
        model.named(direction, shapes)[name][:] = rng.standard_normal(grad.shape)
        ahead, behind = (loss_of(theta + h * direction, c, X, bounds, y)[0] for h in (3e-6, -3e-6))
        along = float((grad * model.named(direction, shapes)[name]).sum())
        assert along == pytest.approx((ahead - behind) / 6e-6, abs=1e-6 * float(np.linalg.norm(grad))), name


def test_the_published_network_has_the_size_that_it_should_have() -> None:
    sizes = {name: int(np.prod(shape)) for name, shape in model.shapes_of(PRESETS["published"], 4, 0).items()}
    for stream in ("speech", "glottal"):
        assert sum(size for name, size in sizes.items() if name.startswith(stream)) == 205_248
    assert sum(size for name, size in sizes.items() if name.startswith(("lstm", "emotion"))) == 99_332
    assert sum(sizes.values()) == 2 * 205_248 + 99_332


def test_frames_in_context_stay_within_their_utterance() -> None:
    rows = ghosh2016.in_context(bounds_of([3, 1]), 5)
    np.testing.assert_array_equal(rows, [[0, 0, 0, 1, 2], [0, 0, 1, 2, 2], [0, 1, 2, 2, 2], [3, 3, 3, 3, 3]])


# The vote


def test_the_vote_is_that_of_the_majority_and_ties_go_to_the_likelier_class() -> None:
    rng = np.random.default_rng(0)
    ties = 0
    for _ in range(300):
        logits = rng.choice([0.5, 3.0, 20.0]) * rng.standard_normal((rng.integers(1, 7), 3))
        counts, sums = reference.votes(logits)
        best = max(range(3), key=lambda k: (counts[k], sums[k]))
        ties += counts.count(max(counts)) > 1
        found = ghosh2016.ballot(logits)
        assert found.argmax() == best
        share = np.exp(found)
        assert share.sum() == pytest.approx(1)
        assert np.abs(share - np.array(counts) / len(logits)).max() <= 2 / (len(logits) + 2)
    assert ties > 50


def test_a_sure_class_without_the_votes_does_not_win() -> None:
    logits = np.array([[0.1, 0.0], [0.1, 0.0], [-500.0, 500.0]], np.float32)
    assert ghosh2016.ballot(logits).argmax() == 0
    assert ghosh2016.ballot(logits[1:]).argmax() == 1  # one vote each


# Input


def test_static_bands_are_those_of_the_paper_s_network_without_its_deltas() -> None:
    c, other = PRESETS["same-input"], li2019.PRESETS["same-input"]
    store = store_of([sound(n, seed) for seed, n in enumerate((9000, 400, 16_000))], ghosh2016.kind(c))
    window, norm = np.arange(3), (np.linspace(-1, 1, 297, dtype=np.float32), np.full(297, 0.5, np.float32))
    for rng in (None, 3):
        made = [None if rng is None else np.random.default_rng(rng) for _ in range(2)]
        X, bounds = ghosh2016.inputs(store, window, norm[0][:99], norm[1][:99], c, None, made[0])
        expected, others, _ = li2019.inputs(store, window, *norm, other, None, made[1])
        np.testing.assert_array_equal(bounds, others)
        np.testing.assert_allclose(X, expected[:, :99], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("c", [TINY, ONE], ids=["flow", "log_mel"])
def test_frames_to_learn_from_are_those_of_the_input(c: Config) -> None:
    store = store_of([sound(n, seed) for seed, n in enumerate((5000, 300, 3000, 7000))], ghosh2016.kind(c))
    window = np.array([3, 0, 1])
    zero, one = np.zeros(c.d_spec, np.float32), np.ones(c.d_spec, np.float32)
    X, bounds = ghosh2016.inputs(store, window, zero, one, c)
    count, gather = static_frames(store, window, c)
    assert count == len(X)
    which = np.array([0, count - 1, bounds[1], bounds[1] - 1, bounds[2], 5])
    rows, width = ghosh2016.in_context(bounds, c.context)[which], ghosh2016.bands(c)
    for k, columns in enumerate(ghosh2016.stored_columns(c)):
        expected = X[:, k * width : (k + 1) * width][rows]
        np.testing.assert_array_equal(gather(which, c.context, columns), expected)


def test_settings_that_make_no_sense_are_refused() -> None:
    for settings, words in (
        ({"beta": 1.0}, "no gender head"),
        ({"pad": True}, "natural length"),
        ({"d_spec": 7}, "an even number, at most 256"),
        ({"context": 4}, "an odd number"),
        ({"stretch": 0.1}, "not augmented"),
        ({"level": True}, "false where input is flow"),
        ({"input": "log_mel"}, "speech where input is log_mel"),
        ({"streams": "lips"}, "one of both, speech, glottal"),
        ({"noise": 1.0}, "0 <= noise < 1"),
        ({"weight_decay": 0.1}, "0 where the encoders are frozen"),
        ({"pretrain_epochs": 0}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            replace(PRESETS["published"], **settings)
    for preset in PRESETS.values():
        for changes in ABLATION.values():
            model.varied(preset, changes)  # every variant of each preset is one


# Training


class Stop(Exception):
    """Stands for a kill."""


@functools.cache
def sounds(kind: str) -> tuple[Dataset, Split]:
    """What is learnt from, with the features of some input."""
    return unbalanced(ONE if kind == "log_mel" else TINY)


def runs(folder: Path, c: Config, name: str, resume: bool = False, stop: str = "", threads: int = 2) -> Path:
    """The folder of a run on some sounds, stopped when it comes to something."""
    out = folder / name
    out.mkdir(exist_ok=True)

    def progress(items: Iterable[Any], desc: str = "", **_: Any) -> Iterable[Any]:
        if stop and stop in desc:
            raise Stop
        return items

    with ThreadPoolExecutor(threads) as pool:
        data, split = sounds(c.input)
        fit(data, split, c, Run(out, pool, lambda _: None, progress), {}, resume=resume)
    return out


def encoders_of(path: Path) -> dict[str, bytes]:
    tensors = checkpoint.load(path / "model.safetensors").tensors
    return {name: value.tobytes() for name, value in tensors.items() if name.startswith(("speech", "glottal"))}


def test_frozen_encoders_stay_as_the_autoencoders_left_them(tmp_path: Path) -> None:
    short, long = (replace(TINY, epochs=epochs, select="last") for epochs in (1, 3))
    assert encoders_of(runs(tmp_path, short, "short")) == encoders_of(runs(tmp_path, long, "long"))
    assert encoders_of(runs(tmp_path, replace(long, finetune=True), "tuned")) != encoders_of(tmp_path / "long")

    control = replace(long, pretrained=False)
    shapes = model.shapes_of(control, 3, 0)
    start = model.named(model.init(shapes, control.seed), shapes)
    random = encoders_of(runs(tmp_path, control, "random"))
    assert random == {name: start[name].tobytes() for name in random}
    learnt = encoders_of(tmp_path / "long")
    assert all(learnt[name] != random[name] for name in random)


@pytest.mark.parametrize("c", [TINY, ONE], ids=["flow", "log_mel"])
def test_a_run_that_was_stopped_anywhere_resumes_to_the_same_bytes(tmp_path: Path, c: Config) -> None:
    whole = runs(tmp_path, c, "whole", threads=1)
    for stop in ("part 4", "epoch 1", "epoch 2"):  # among the autoencoders, in the first epoch after them, later
        with pytest.raises(Stop):
            runs(tmp_path, c, stop, stop=stop)
        resumed = runs(tmp_path, c, stop, resume=True)
        for name in ("model.safetensors", "last.safetensors", "metrics.jsonl"):
            assert (resumed / name).read_bytes() == (whole / name).read_bytes(), (stop, name)


def test_autoencoders_see_the_training_part_only_and_no_labels(tmp_path: Path) -> None:
    learnt = []
    for case in ("as it is", "other labels", "other validation", "other training"):
        data, split = sounds("flow")
        if case == "other labels":
            data = replace(data, utterances=[replace(u, emotion="sad") for u in data.utterances])
        changed = {"other validation": split.validation, "other training": split.train[:1]}.get(case, [])
        rows = data.store.rows.copy()
        for r in changed:
            first, end = data.store.bounds[data.store.recordings[r : r + 2]]
            rows[first:end] += 1
        data = replace(data, store=replace(data.store, rows=rows))
        shapes = model.shapes_of(TINY, 3, 0)
        norm = np.full(6, -60, np.float32), np.full(6, 20, np.float32)
        network = Network(model.init(shapes, 0), shapes, TINY, *norm)
        before = network.theta.copy()
        with ThreadPoolExecutor(1) as pool:
            learnt.append(ghosh2016.pretrain(network, data, np.array(split.train), Run(tmp_path, pool, lambda _: None)))
        np.testing.assert_array_equal(network.theta, before)
        same = [name for name, value in model.named(learnt[-1] == before, shapes).items() if value.all()]
        assert same == [name for name in shapes if name.startswith(("lstm", "emotion"))]
    np.testing.assert_array_equal(learnt[1], learnt[0])
    np.testing.assert_array_equal(learnt[2], learnt[0])
    assert (learnt[3] != learnt[0]).any()


def test_autoencoders_are_fed_what_the_network_is_fed_whatever_the_scale(tmp_path: Path) -> None:
    """Twice the bands with twice the mean and the standard deviation are the same input, to the last bit."""
    data, split = sounds("flow")
    shapes, learnt = model.shapes_of(TINY, 3, 0), []
    for factor in (1, 2):
        norm = (factor * np.linspace(-70, -50, 6, dtype=np.float32), factor * np.linspace(10, 20, 6, dtype=np.float32))
        network = Network(model.init(shapes, 0), shapes, TINY, *norm)
        scaled = replace(data, store=replace(data.store, rows=factor * data.store.rows))
        with ThreadPoolExecutor(1) as pool:
            learnt.append(ghosh2016.pretrain(network, scaled, np.array(split.train), Run(tmp_path, pool, lambda _: None)))
    np.testing.assert_array_equal(*learnt)


def test_an_error_that_is_not_finite_is_told(tmp_path: Path) -> None:
    data, split = sounds("flow")
    shapes = model.shapes_of(TINY, 3, 0)
    network = Network(np.full(model.size_of(shapes), np.nan, np.float32), shapes, TINY, np.zeros(6), np.ones(6))
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match=r"try a lower rate, such as pretrain_rate=0\.0003"):
        ghosh2016.pretrain(network, data, np.array(split.train), Run(tmp_path, pool, lambda _: None))


# Prediction and commands


@pytest.mark.parametrize(
    "c",
    [TINY, SPEECH, replace(TINY, streams="glottal", d_spec=256), ONE],
    ids=["both", "speech", "glottal", "log_mel"],
)
def test_both_statements_of_it_agree(c: Config, tmp_path: Path) -> None:
    shapes, rng = model.shapes_of(c, 4, 0), np.random.default_rng(2)
    theta = (0.5 * rng.standard_normal(model.size_of(shapes))).astype(np.float32)
    mean, std = rng.uniform(-60, -40, c.d_spec).astype(np.float32), rng.uniform(10, 20, c.d_spec).astype(np.float32)
    tensors = model.named(theta, shapes) | {"norm.mean": mean, "norm.std": std}
    labels: dict[str, list[str] | None] = {"emotion": EMOTIONS, "gender": None}
    checkpoint.save(tmp_path / "a.safetensors", Checkpoint(tensors, c, labels, 0.7, {}))
    lite, engine = Model(tmp_path / "a.safetensors"), Network(theta, shapes, c, mean, std)
    waves = [sound(n, seed) for seed, n in enumerate((8000, 300, 4800, 6001))]
    store = store_of(waves, ghosh2016.kind(c))
    for w, x in enumerate(waves):
        X, bounds = engine.inputs(store, np.array([w]))
        np.testing.assert_allclose(lite.network_input(x), X, atol=2e-5)
        out, _ = ghosh2016.forward(engine.p, c, X, bounds)
        expected, _ = ghosh2016.decide(engine.p, c, out)
        np.testing.assert_allclose(lite.forward(lite.network_input(x))[0], expected[0], atol=1e-5)
    numba, plain = (next(iter(lite.predict_many([waves[0]], RATE, engine))) for engine in ("numba", "lite"))
    assert numba.probabilities == pytest.approx(plain.probabilities, abs=1e-5)


WORDS = [f"{name}={value}" for name, value in {**SIZES, "pretrain_epochs": 1, "batch": 8}.items()]


def test_info_says_what_it_is() -> None:
    c = PRESETS["published"]
    assert ghosh2016.describe(c) == "encoders 640-256-128-64 by autoencoders, 2 x 64 LSTM units, the vote of the steps"
    assert ghosh2016.describe_input(c) == "128 bands of the speech and of its glottal flow"
    other = replace(PRESETS["same-input"], finetune=True, pretrained=False)
    assert ghosh2016.describe(other).startswith("encoders 495-256-128-64 by random weights, trained further with the labels, ")
    assert ghosh2016.describe_input(other) == "the lowest 99 of 128 bands of the speech"


def test_a_cross_validation_has_its_variants(npser: Command, corpus: Path, tmp_path: Path) -> None:
    settings = [word for setting in WORDS for word in ("--set", setting)]
    words = ("crossval", corpus, "--network", "ghosh2016", "--epochs", "1", *settings, "--ablate", "--folds", "2")
    npser(*words, "--out", "published")
    report = json.loads((tmp_path / "published" / "report.json").read_text())
    assert list(report["variants"]) == ["full", "glottal-flow-only", "random-encoder", "speech-only"]
    sizes = {name: row["parameters"] for name, row in report["variants"].items()}
    assert sizes["full"] == sizes["random-encoder"] > sizes["speech-only"] == sizes["glottal-flow-only"]
    same = PRESETS["same-input"]
    assert model.varied(same, ABLATION["speech-only"]) == same  # there it is left out
    assert model.varied(same, ABLATION["glottal-flow-only"]) != same


def test_log_probabilities_of_windows_are_averaged() -> None:
    c = replace(TINY, max_seconds=0.2)
    data, _ = unbalanced(c)
    shapes, rng = model.shapes_of(c, 3, 0), np.random.default_rng(0)
    theta = rng.standard_normal(model.size_of(shapes)).astype(np.float32)
    network = Network(theta, shapes, c, np.full(6, -50, np.float32), np.full(6, 15, np.float32))
    counts = np.diff(data.store.recordings)
    several = np.flatnonzero(counts > 1)[:1]
    with ThreadPoolExecutor(1) as pool:
        found, _ = network.log_probabilities(data.store, several, pool)
    first, end = data.store.recordings[several[0]], data.store.recordings[several[0] + 1]
    each = []
    for w in range(first, end):
        out, _ = ghosh2016.forward(network.p, c, *network.inputs(data.store, np.array([w])))
        each.append(log_softmax(ghosh2016.decide(network.p, c, out)[0][0]))
    np.testing.assert_allclose(found[0], log_softmax(np.mean(each, axis=0)), atol=1e-6)

"""Multichannel CNN: the engine gives what slow loops give, batch statistics included; what stands for phonemes."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_yenigalla2018 as reference
from helpers import (
    assert_close,
    bounds_of,
    by_both_engines,
    data_of,
    make_batch,
    make_network,
    model_file,
    paper_size,
    recording,
    select,
    sound,
    utterances_of,
    write_manifest,
)

from npser import checkpoint, corpora, dataset, lite, model
from npser.commands.cli import main
from npser.experiment import jobs, material, systems
from npser.experiment.classifier import EmotionClassifier
from npser.experiment.folds import make_folds
from npser.layers import dropout
from npser.network import Network, Shard, Targets
from npser.networks import units, yenigalla2018
from npser.networks.yenigalla2018 import Config
from npser.optim import Adadelta, Adam
from npser.split import Split
from npser.train import Run, fit

SMALL: dict[str, Any] = {"d_maps": 2, "stride": 3, "d_picture": 3, "d_dense": 3, "max_seconds": 1.3}
SMALL |= {"n_symbols": 5, "d_symbol": 2, "d_strings": 2, "d_string": 2}
TINY: dict[str, Any] = {**SMALL, "d_spec": 34 + units.COLUMNS}
CASES = [pytest.param({"channels": name}, id=name) for name in yenigalla2018.CHANNELS]
TEXTS = ["AH B AH", "SIL", "B B C SIL AH", ""]


@pytest.mark.parametrize("changes", [*CASES, pytest.param({"symbols": "text"}, id="text")])
def test_loss_and_gradients_of_a_mini_batch_are_those_of_slow_loops(changes: dict[str, Any]):
    c = Config(**TINY | {"stride": 4, "d_picture": 5, "d_string": 5, "d_dense": 6}, **changes, dropout=0.5, batch=8)
    theta, shapes = make_network(c, 0, seed=3)
    batch = make_batch(c, (50, 44, 7, 61))  # 7 frames have no window
    batch = batch._replace(emotion=np.array([2, 3, 1, -1]))
    state, shards = model.state_of(c, 4, 0), []
    if c.symbols == "text":
        state["text.symbols"] = units.alphabet(TEXTS, c.n_symbols)
    p = model.views(theta, shapes, state)
    for part in (range(2), range(2, 4)):
        few, text = select(batch, part), [[TEXTS[u] for u in part]] if c.symbols == "text" else []
        inputs = (few.X, few.bounds, *text)
        shards.append(Shard(lambda inputs=inputs: inputs, Targets(*few[2:]), np.random.default_rng(part[0])))
    with ThreadPoolExecutor(2) as pool:
        loss, grads, running = yenigalla2018.gradient(p, c, shards, pool)
    utterances, width = utterances_of(batch.X, batch.bounds), p["batch"]["b"].size
    if c.symbols == "text":
        strings = [[1, 2, 1], [3], [2, 2, 4, 3, 1], []]  # by how often they occur, then by name
    else:
        centres = p["units"]["centres"] if c.channels != "spectrogram" else np.zeros((1, units.COLUMNS))
        strings = [reference.unit_string(X[:, 34:], centres) for X in utterances]
    mask = dropout(np.ones((4, width)), 0.5, np.random.default_rng(0))[0]
    expected_loss, _, expected = reference.loss_and_gradients(
        model.named(theta, shapes), [X[:, :34] for X in utterances], strings, batch.emotion, batch.emotion_weight, 4, mask
    )
    assert loss == pytest.approx(expected_loss, rel=1e-9)
    for name, part in model.named(model.flatten(grads, shapes), shapes).items():
        assert_close(part, expected[name], 1e-9, name)
        assert np.abs(part).max() > 1e-6, name
    z = np.concatenate([yenigalla2018.body(p, c, *shard.inputs())[0] for shard in shards])
    np.testing.assert_allclose(running["running.mean"], 0.05 * z.mean(axis=0), rtol=1e-5)  # half of a whole mini-batch
    np.testing.assert_allclose(running["running.variance"], 0.95 + 0.05 * z.var(axis=0), rtol=1e-5)


def test_an_utterance_is_answered_whatever_else_is_asked():
    c = Config(**TINY)
    theta, shapes = make_network(c, 0)
    batch = make_batch(c, (50, 44, 61))
    p = model.views(theta, shapes, model.state_of(c, 4, 0))
    (together, owner), _ = yenigalla2018.forward(p, c, batch.X, batch.bounds)
    assert owner.tolist() == [0, 1, 2]
    for u, X in enumerate(utterances_of(batch.X, batch.bounds)):
        (alone, _), _ = yenigalla2018.forward(p, c, X, bounds_of([len(X)]))
        np.testing.assert_allclose(together[u], alone[0], atol=1e-12)


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("published", 1_467_704),
        ("reduced", 784_008),
        ("reduced-spectrogram", 298_108),
        ("reduced-phonemes", 486_904),
        ("same-input", 784_008),
    ],
)
def test_the_number_of_parameters(preset: str, parameters: int):
    """Those of the notes, and gamma and beta."""
    assert model.size_of(model.shapes_of(yenigalla2018.PRESETS[preset], 4, 0)) == parameters


def test_presets_are_what_the_notes_say_and_the_reduced_ones_take_every_second_frame_and_band():
    c, reduced = yenigalla2018.PRESETS["published"], yenigalla2018.PRESETS["reduced"]
    assert yenigalla2018.WINDOWS == ((16, 12), (24, 18), (32, 24), (40, 30))
    assert yenigalla2018.HEIGHTS == (3, 9, 13, 17)
    assert (c.optimiser, c.learning_rate, c.decay, c.dropout, c.batch, c.epochs) == ("adadelta", 1.0, 0.0, 0.5, 32, 50)
    assert (c.max_seconds, c.stride, c.d_spec) == (6.4, 1, 128 + 39)
    assert reduced == dataclasses.replace(c, d_maps=24, stride=2)
    for channel in ("spectrogram", "phonemes"):
        assert yenigalla2018.PRESETS[f"reduced-{channel}"] == dataclasses.replace(reduced, channels=channel)
    same = yenigalla2018.PRESETS["same-input"]
    assert (same.optimiser, same.learning_rate, same.d_maps, same.stride) == ("adam", 1e-3, 24, 2)
    assert (yenigalla2018.PUBLISHED["wa"], yenigalla2018.PUBLISHED["ua"]) == (0.739, 0.685)


@pytest.mark.parametrize("changes", [*CASES, pytest.param({"order": False}, id="shuffled")])
@pytest.mark.parametrize("preset", ["published", "same-input"])
def test_prediction_in_plain_numpy_is_that_of_the_engine(tmp_path: Path, preset: str, changes: dict[str, Any]):
    c = dataclasses.replace(yenigalla2018.PRESETS[preset], **SMALL | {"d_string": 6, "d_dense": 6}, **changes)
    rng, width = np.random.default_rng(0), sum(width for _, width in yenigalla2018.widths(c).values())
    solved = {"running.mean": rng.standard_normal(width), "running.variance": rng.uniform(0.5, 2, width)}
    if c.channels != "spectrogram":
        X = yenigalla2018.with_cepstra(yenigalla2018.spectrum(c, sound(20_000, 4)))
        solved["units.centres"] = X[3:53:10, -units.COLUMNS :] / 9  # as model_file normalises
    lite = by_both_engines(model_file(tmp_path, c, {name: value.astype(np.float32) for name, value in solved.items()}))
    assert all(p.attention is None for p in lite)
    assert np.ptp([list(p.probabilities.values()) for p in lite], axis=0).max() > 5e-4  # the sounds are told apart


@pytest.mark.parametrize("channels", yenigalla2018.CHANNELS)
def test_training_starts_with_gamma_of_one_and_finds_units_in_the_training_part_alone(tmp_path: Path, channels: str):
    c = Config(**TINY, channels=channels, epochs=1, batch=4, learning_rate=1e-6, select="last")
    data = data_of(c, [[sound(14_000 + 900 * r, r)] for r in range(6)], ["sad", "angry"] * 3, [None] * 6)
    with ThreadPoolExecutor(1) as pool:
        fit(data, Split([0, 1, 2, 3], [4], [5]), c, Run(tmp_path, pool, lambda _: None), {})
        trained = checkpoint.load(tmp_path / "model.safetensors")
        network = Network.of(trained)
        assert np.isfinite(network.logits(data.store, np.arange(6), pool)[0]).all()
    np.testing.assert_allclose(trained.tensors["batch.gamma"], 1, atol=1e-4)
    assert trained.tensors["running.mean"].any()
    if channels != "spectrogram":
        X = network.inputs(data.store, np.arange(4))[0][:, 34:]
        centres = trained.tensors["units.centres"]
        assert np.ptp(units.nearest(X, centres)) > 0
        means = [X[units.nearest(X, centres) == k].mean(axis=0) for k in np.unique(units.nearest(X, centres))]
        near = [np.abs(centres - mean).max(axis=1).min() for mean in means]
        assert max(near) < 0.05  # each centre is the mean of its frames of the four that train


@paper_size
def test_published_takes_a_step_on_a_mini_batch():
    """At its full size: 100 maps, stride 1."""
    c = yenigalla2018.PRESETS["published"]
    data = data_of(c, [[sound(20_000, 1)], [sound(17_000, 2)]], ["sad", "angry"], [None] * 2)
    shapes, state = model.shapes_of(c, 2, 0), model.state_of(c, 2, 0)
    norm = np.full(c.d_spec, -40, np.float32), np.full(c.d_spec, 20, np.float32)
    network, zero = Network(model.init(shapes, 0), shapes, c, *norm, state=state), np.arange(2)
    network.p["batch"]["gamma"][:] = 1
    y = Targets(data.emotion_y, data.gender_y, *np.full((2, 2), 0.5, np.float32))
    optimiser, losses = yenigalla2018.optimiser(c, network.theta.size, np.zeros(network.theta.size)), []
    with ThreadPoolExecutor(1) as pool:
        for step in range(4):
            loss, grad = network.gradient(data.store, zero, y, step, pool)
            optimiser.step(network.theta, grad)
            losses.append(loss)
    assert losses[-1] < losses[0]


def test_the_optimiser_is_the_papers_unless_settings_say_adam():
    sizes = 3, np.zeros(3, np.float32)
    assert type(yenigalla2018.optimiser(Config(), *sizes)) is Adadelta
    assert type(yenigalla2018.optimiser(Config(optimiser="adam"), *sizes)) is Adam


@pytest.mark.parametrize("kind", ["adadelta", "adam"])
def test_the_optimiser_decays_weights_as_settings_say(kind: str):
    theta = np.ones(3, np.float32)
    optimiser = yenigalla2018.optimiser(Config(optimiser=kind, learning_rate=0.5), 3, np.array([0.1, 0.2, 0], np.float32))
    optimiser.step(theta, np.zeros(3, np.float32))
    np.testing.assert_allclose(theta, [0.95, 0.9, 1])


# Units


def test_units_follow_from_the_seed():
    """Both those that a network starts with and those that are found."""
    found = []
    for seed in (0, 0, 1):
        c = Config(**TINY, channels="phonemes", seed=seed)
        data = data_of(c, [[sound(14_000, 1)], [sound(15_000, 2)]], ["sad", "angry"], [None] * 2)
        shapes, state = model.shapes_of(c, 2, 0), model.state_of(c, 2, 0)
        norm = np.full(c.d_spec, -40, np.float32), np.full(c.d_spec, 20, np.float32)
        network = Network(model.init(shapes, seed), shapes, c, *norm, state=state)
        start = state["units.centres"].copy()
        yenigalla2018.pretrain(network, data, np.arange(2), None)
        found.append((start, network.state["units.centres"]))
    for first, again, other in zip(*found, strict=True):
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)


def test_of_many_frames_k_means_sees_some_from_everywhere(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(units, "MOST_FRAMES", 40)
    centres = units.centres_of(np.arange(1000.0)[:, None], 4, np.random.default_rng(0))
    assert (np.unique(centres[:, 0] // 250) == np.arange(4)).all()


def test_units_are_those_of_slow_loops():
    rng = np.random.default_rng(0)
    centres, lengths = rng.standard_normal((3, 4)), [9, 0, 1, 2, 14]
    X, bounds = rng.standard_normal((26, 4)), bounds_of(lengths)
    symbols, ends = units.collapsed(units.nearest(X, centres), bounds)
    expected = [reference.unit_string(part, centres) for part in utterances_of(X, bounds)]
    assert [part.tolist() for part in np.split(symbols, ends[1:-1])] == expected
    assert any(1 < len(string) < n for string, n in zip(expected, lengths, strict=True))


def test_a_frame_between_two_of_one_name_is_taken_as_theirs():
    symbols, ends = units.collapsed(np.array([4, 1, 4, 4, 2, 2, 7, 7, 3, 7]), bounds_of([6, 4]))
    assert symbols.tolist() == [4, 2, 7]
    assert ends.tolist() == [0, 2, 3]


def test_no_frames_have_no_symbols():
    symbols, ends = units.collapsed(np.empty(0, int), np.array([0, 0, 0]))
    assert len(symbols) == 0
    assert ends.tolist() == [0, 0, 0]


def test_k_means_finds_well_separated_clusters():
    rng = np.random.default_rng(0)
    truth = 10 * rng.standard_normal((6, 5))
    X = np.repeat(truth, 40, axis=0) + 0.1 * rng.standard_normal((240, 5))
    centres = units.centres_of(X[rng.permutation(240)].astype(np.float32), 6, rng)
    away = np.abs(centres[:, None] - truth).max(axis=2)
    assert sorted(away.argmin(axis=1)) == list(range(6))
    assert away.min(axis=1).max() < 0.1


def test_k_means_of_fewer_frames_than_centres_and_of_many_frames(monkeypatch: pytest.MonkeyPatch):
    few = np.array([[0.0, 1.0], [5.0, 5.0]], np.float32)
    centres = units.centres_of(few, 4, np.random.default_rng(0))
    assert {tuple(row) for row in centres.tolist()} == {(0.0, 1.0), (5.0, 5.0)}
    monkeypatch.setattr(units, "MOST_FRAMES", 10)
    many = np.arange(1000.0)[:, None]
    assert units.centres_of(many, 2, np.random.default_rng(0)).shape == (2, 1)


def test_k_means_is_the_same_with_the_same_seed_and_not_with_another():
    X = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
    first, again, other = (units.centres_of(X, 5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_cepstra_are_the_cosine_transform_and_its_slopes():
    S = np.random.default_rng(0).standard_normal((20, 34)).astype(np.float32)
    C = units.cepstra(S)
    assert C.shape == (20, 39)
    band = np.arange(34) + 0.5
    for k in (0, 1, 12):
        scale = np.sqrt((1 if k == 0 else 2) / 34)
        np.testing.assert_allclose(C[:, k], scale * S @ np.cos(np.pi * k * band / 34), atol=1e-5)
    np.testing.assert_allclose(C[4, 13], (C[5, 0] - C[3, 0] + 2 * (C[6, 0] - C[2, 0])) / 10, atol=1e-5)


def test_shuffling_keeps_the_symbols_of_each_utterance_and_is_the_same_each_time():
    symbols, bounds = np.arange(40) % 7, bounds_of([25, 0, 15])
    found = units.shuffled(symbols, bounds)
    np.testing.assert_array_equal(found, units.shuffled(symbols, bounds))
    for first, end in ((0, 25), (25, 40)):
        assert sorted(found[first:end]) == sorted(symbols[first:end])
        assert (found[first:end] != symbols[first:end]).any()
    np.testing.assert_array_equal(found[25:], units.shuffled(symbols[25:], bounds_of([15])))  # whatever else is asked


# Phonemes of transcripts


def test_an_alphabet_has_the_most_frequent_symbols_and_a_row_for_the_others():
    table = units.alphabet(["AH B AH", "B AH ɛː", "+A_VERY_LONG_NAME+ C"], 4)
    symbols, bounds = units.numbers(["AH B C", "", "ɛː +A_VERY_LONG_NAME+"], table)
    assert symbols.tolist() == [1, 2, 0, 0, 3]
    assert bounds.tolist() == [0, 3, 3, 5]
    assert units.numbers(["AH"], units.alphabet([], 3))[0].tolist() == [0]


def informed(texts: Sequence[str | None], **settings: Any) -> tuple[dataset.Dataset, Config]:
    c = Config(**TINY, symbols="text", epochs=2, batch=4, **settings)
    data = data_of(
        c, [[sound(14_000 + 900 * r, r)] for r in range(len(texts))], ["sad", "angry"] * (len(texts) // 2), [None] * len(texts)
    )
    utterances = [dataclasses.replace(u, phonemes=text) for u, text in zip(data.utterances, texts, strict=True)]
    return dataclasses.replace(data, utterances=utterances), c


def test_a_network_learns_from_the_phonemes_of_transcripts(tmp_path: Path):
    data, c = informed(["AH AH B", "C C"] * 2 + ["AH AH B", "C C D", "AH AH B", "C C"], channels="phonemes", learning_rate=1.0)
    c = dataclasses.replace(c, epochs=60, dropout=0.0)
    data = dataset.with_text(data, c)
    assert data.store.text[:2] == ("AH AH B", "C C")
    with ThreadPoolExecutor(1) as pool:
        found = fit(data, Split([0, 1, 2, 3], [4, 5], [6, 7]), c, Run(tmp_path, pool, lambda _: None), {})
    assert found["test"]["ua"] == 1  # the sounds of a class are not alike, the texts are
    trained = checkpoint.load(tmp_path / "model.safetensors")
    # AH and C are as frequent; D is of the validation part only
    assert units.numbers(["AH B C D"], trained.tensors["text.symbols"])[0].tolist() == [1, 3, 2, 0]
    alone = lite.Model(tmp_path / "model.safetensors")
    for ask in (
        lambda: alone.predict(sound(16_000), 16_000),
        lambda: alone.predict_many([sound(16_000)], 16_000),
        lambda: alone.predict_many([sound(16_000)], 16_000, engine="numba"),
        lambda: EmotionClassifier(settings={"network": "yenigalla2018", "symbols": "text"}).fit([sound(16_000)] * 2, [0, 1]),
    ):
        with pytest.raises(ValueError, match="which a recording alone does not have; `npser evaluate` reads them"):
            ask()


def test_every_window_of_a_recording_has_its_text():
    data, c = informed(["AH", "B"])
    data = dataclasses.replace(data, store=dataclasses.replace(data.store, recordings=np.array([0, 2, 5])))
    assert dataset.with_text(data, c).store.text == ("AH", "AH", "B", "B", "B")
    for other in (dataclasses.replace(c, symbols="units"), dataclasses.replace(c, channels="spectrogram")):
        assert dataset.with_text(data, other) is data


def test_utterances_without_phonemes_are_left_out_by_name_where_they_are_read(tmp_path: Path):
    rows = []
    for r in range(21):
        recording(tmp_path / f"{r}.wav", sound(14_000 + 100 * r, r))
        rows.append({"path": f"{r}.wav", "emotion": ["sad", "angry"][r % 2], "speaker": f"s{r // 2}", "phonemes": "AH B"})
    rows[3]["phonemes"] = ""
    write_manifest(tmp_path / "manifest.csv", rows)
    corpus, c = corpora.load(tmp_path), Config(**TINY, symbols="text")
    with ThreadPoolExecutor(1) as pool:
        options: Any = (tmp_path / "cache", pool, lambda items, **_: items)
        with pytest.warns(UserWarning, match=r"left out: .*3\.wav: has no phonemes, which the network reads"):
            data = dataset.prepare(corpus, c, *options)
        assert len(data.utterances) == len(data.store.text) == 20
        with pytest.warns(UserWarning, match="has no phonemes"):
            both = material.prepare(corpus, [Config(**TINY), c], *options)
        assert [len(data.utterances) for data in both] == [20, 20]  # left out for one, left out for all
        assert len(both[1].store.text) == 20
        assert len(dataset.prepare(corpus, dataclasses.replace(c, symbols="units"), *options).utterances) == 21
        rows[5]["phonemes"] = ""
        write_manifest(tmp_path / "manifest.csv", rows)
        with (
            pytest.warns(UserWarning, match="left out"),
            pytest.raises(ValueError, match=r"2 of 21 files cannot be used.*has no phonemes.*--skip-bad"),
        ):
            dataset.prepare(corpora.load(tmp_path), c, *options)
        for row in rows:
            row["phonemes"] = ""
        write_manifest(tmp_path / "manifest.csv", rows)
        with pytest.raises(ValueError, match=r"^none of the 21 utterances has phonemes, .*; name a manifest that states them"):
            dataset.prepare(corpora.load(tmp_path), c, *options)  # in one sentence, without a warning for each


def test_what_phonemes_say_is_part_of_a_run_and_of_a_job(tmp_path: Path):
    data, c = informed(["AH AH B", "C C"] * 2)
    other = dataclasses.replace(data, utterances=[dataclasses.replace(u, phonemes="D") for u in data.utterances])
    split = Split([0, 1], [2], [3])
    with ThreadPoolExecutor(1) as pool:
        run = Run(tmp_path, pool, lambda _: None)
        fit(dataset.with_text(data, c), split, c, run, {})
        with pytest.raises(ValueError, match="other data or settings"):
            fit(dataset.with_text(other, c), split, c, run, {}, resume=True)
    for settings, same in ((c, False), (dataclasses.replace(c, symbols="units"), True)):
        variant = systems.Variant(settings, "published")
        plan = jobs.Plan([], "session", {"full": variant})
        first, second = (jobs.identity(one, split, plan, "full", variant) for one in (data, other))
        assert (first == second) is same


def test_reports_say_that_a_network_reads_a_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = []
    for r in range(8):
        recording(tmp_path / f"{r}.wav", sound(14_000 + 500 * r, r))
        text = "AH B" if r % 2 else "C AH"
        rows.append({"path": f"{r}.wav", "emotion": ["sad", "angry"][r % 2], "speaker": f"s{r // 2}", "phonemes": text})
    write_manifest(tmp_path / "manifest.csv", rows)
    assert corpora.load(tmp_path).utterances[1].phonemes == "AH B"
    small = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    words = [str(tmp_path), "--network", "yenigalla2018", "--set", "symbols=text", "--epochs", "1", *small, "--threads", "1"]
    words += ["--cache", str(tmp_path / "cache")]
    assert main(["train", *words, "--out", str(tmp_path / "run")]) == 0
    assert "TEXT-INFORMED" in (tmp_path / "run" / "report.md").read_text()
    assert "TEXT-INFORMED" in capsys.readouterr().out
    evaluate = ["evaluate", str(tmp_path / "run" / "model.safetensors"), str(tmp_path), "--cache", str(tmp_path / "cache")]
    assert main(evaluate) == 0
    assert "of the phonemes" not in capsys.readouterr().out
    write_manifest(tmp_path / "manifest.csv", [row | {"phonemes": "AH ə"} for row in rows])
    assert main(evaluate) == 0
    assert "50.0% of the phonemes are none that the model has learnt" in capsys.readouterr().out
    write_manifest(tmp_path / "manifest.csv", [row | {"phonemes": "ɑ ə"} for row in rows])
    assert main(evaluate) == 1
    assert "model.safetensors: knows none of the data's phonemes; write them as" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beta": 1.0}, "gender"),
        ({"pad": True}, "natural lengths"),
        ({"d_spec": 60}, "70 to 167: bands, and 39 cepstra"),
        ({"d_spec": 168, "stride": 3}, "72 to 167"),
        ({"channels": "all"}, "one of both, spectrogram, phonemes"),
        ({"symbols": "words"}, "one of units, text"),
        ({"optimiser": "sgd"}, "one of adadelta, adam"),
        ({"symbols": "text", "splice": 0.5}, "belongs to the whole utterance"),
        ({"stride": 0}, "at least 1"),
        ({"n_symbols": 20_000}, "at most 10000"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        Config(**settings)


def test_a_plan_of_folds_keeps_the_text(tmp_path: Path):
    """Jobs of a cross-validation read utterances, phonemes included, from the plan."""
    c = Config(**TINY, symbols="text", epochs=1, batch=4)
    rows = []
    for r in range(8):
        recording(tmp_path / f"{r}.wav", sound(14_000 + 500 * r, r))
        rows.append({"path": f"{r}.wav", "emotion": ["sad", "angry"][r % 2], "speaker": f"s{r // 2}", "phonemes": f"A{r} B"})
    write_manifest(tmp_path / "manifest.csv", rows)
    with ThreadPoolExecutor(1) as pool:
        data = dataset.prepare(corpora.load(tmp_path), c, tmp_path / "cache", pool, lambda items, **_: items)
    folds = make_folds(data.utterances, "speaker")
    plan = jobs.Plan(folds, "speaker", {"full": systems.Variant(c, "published")})
    written = jobs.write_plan(tmp_path, data, plan, tmp_path / "cache")
    result = jobs.run_job({**jobs.jobs_of(plan, "full", data, written)[0], "threads": 1})
    assert result["parameters"] == model.size_of(model.shapes_of(c, 2, 0))

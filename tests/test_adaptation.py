"""Adaptation: statistics of a voice take the place of the training's, by as much as its seconds deserve."""

import dataclasses
import itertools
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import RATE, SMALL, Array, Command, data_of, network, one_sentence, recording, report_of, sound, write_manifest

from npser import adaptation, checkpoint, corpora, dataset, lite
from npser.adaptation import adapted, sums, sums_of
from npser.experiment.folds import make_folds
from npser.network import Network
from npser.networks import li2019, statistics
from npser.networks.li2019 import Config
from npser.split import Split
from npser.train import Run, fit

FRAMES = adaptation.SECONDS * RATE / 400  # as many as count like the training part
WORDS = [[sound(15_000, 1)], [sound(9_000, 2), sound(8_000, 3), sound(7_000, 4)], [sound(16_000, 5)]]


def of_voice(frames: float, mean: Array, std: Array) -> Array:
    return np.concatenate([[frames], frames * mean, frames * (std**2 + mean**2)])


def test_statistics_are_drawn_by_the_seconds_that_were_heard():
    mean, std = np.array([1.0, -2.0], np.float32), np.array([4.0, 1.0], np.float32)
    own_mean, own_std = np.array([3.0, 2.0]), np.array([2.0, 9.0])
    for frames, share in ((0, 0), (FRAMES, 0.5), (3 * FRAMES, 0.75), (1e9, 1)):
        found_mean, found_std = adapted(mean, std, of_voice(frames, own_mean, own_std), hop=400)
        np.testing.assert_allclose(found_mean, (1 - share) * mean + share * own_mean, rtol=1e-5)
        np.testing.assert_allclose(found_std, std ** (1 - share) * own_std**share, rtol=1e-5)
        assert found_mean.dtype == found_std.dtype == np.float32


def test_of_a_column_that_does_not_vary_the_deviation_stays():
    std = np.array([4.0, 1.0], np.float32)
    _, found = adapted(np.zeros(2, np.float32), std, of_voice(1e9, np.array([3.0, 2.0]), np.array([0.0, 2.0])), hop=400)
    np.testing.assert_allclose(found, [4, 2], rtol=1e-5)


def test_of_a_column_that_holds_noise_alone_the_deviation_stays_once_enough_was_heard():
    std, own = np.array([4.0, 4.0], np.float32), np.array([0.9, 1.1])  # under a quarter, and over it
    for frames, expected in ((FRAMES - 1, [1.9, 2.1]), (FRAMES, [4, 2.1])):
        mean, found = adapted(np.zeros(2, np.float32), std, of_voice(frames, np.array([8.0, 8.0]), own), hop=400)
        np.testing.assert_allclose(found, expected, rtol=0.01)
        np.testing.assert_allclose(mean, [4, 4], rtol=0.01)


@pytest.mark.parametrize("c", [SMALL, dataclasses.replace(SMALL, pad=True)], ids=["natural length", "padded"])
def test_what_is_heard_is_the_sound_of_every_second_window(c: Config):
    data = data_of(c, WORDS, ["sad", "angry", "sad"], [None] * 3)
    zero, one = np.zeros(c.d_spec, np.float32), np.ones(c.d_spec, np.float32)
    with ThreadPoolExecutor(2) as pool:
        found = sums_of(data.store, np.array([1, 0, 2]), pool, c)
    for row, windows in zip(found, ([1, 3], [0], [4]), strict=True):
        expected = []
        for w in windows:
            X = li2019.inputs(data.store, np.array([w]), zero, one, c)[0]
            expected.append(X[: -(-data.store.samples[w] // 400)])
        np.testing.assert_allclose(row, sums(np.concatenate(expected)))
        assert row[0] == sum(-(-data.store.samples[w] // 400) for w in windows)


def test_each_voice_is_answered_by_a_network_that_knows_it(tmp_path: Path):
    trained = network(tmp_path, dataclasses.replace(SMALL, max_seconds=2.0))
    data = data_of(trained.engine.config, WORDS, ["sad", "angry", "sad"], [None] * 3)
    recordings = np.array([2, 0, 1])
    with ThreadPoolExecutor(2) as pool:
        heard = sums_of(data.store, np.arange(3), pool, trained.engine.config)
        found = adaptation.log_probabilities(trained.engine, data.store, recordings, ["a", "b", "a"], pool)
        a = trained.engine.adapted(heard[2] + heard[1], 400).log_probabilities(data.store, np.array([2, 1]), pool)
        b = trained.engine.adapted(heard[0], 400).log_probabilities(data.store, np.array([0]), pool)
        plain = trained.engine.log_probabilities(data.store, recordings, pool)
    for k in (0, 1):
        np.testing.assert_allclose(found[k], np.stack([a[k][0], b[k][0], a[k][1]]), atol=1e-6)
        assert np.abs(found[k] - plain[k]).max() > 1e-3


@pytest.mark.parametrize("beside", [False, True], ids=["network alone", "regression beside"])
def test_a_model_in_plain_numpy_adapts_as_the_engine_does(tmp_path: Path, beside: bool):
    trained = network(tmp_path, dataclasses.replace(SMALL, max_seconds=2.0, level=True, statistics=beside))
    waves = [sound(20_000, 1), sound(90_000, 2)]  # the second one in windows
    path = recording(tmp_path / "b.wav", waves[1])
    with pytest.warns(UserWarning, match=r"not adapted to: .*gone\.wav: "):
        knowing = trained.lite.adapt([waves[0], path, tmp_path / "gone.wav"], RATE)
    windows = [waves[0], *(x for k, x in enumerate(trained.lite.windows(waves[1], RATE)) if k % 2 == 0)]
    data = data_of(trained.engine.config, [[x] for x in windows], ["sad"] * len(windows), [None] * len(windows))
    with ThreadPoolExecutor(1) as pool:
        heard = sums_of(data.store, np.arange(len(windows)), pool, trained.engine.config).sum(axis=0)
    engine = trained.engine.adapted(heard, 400)
    np.testing.assert_allclose(knowing.checkpoint.tensors["norm.mean"], engine.mean, atol=1e-3)
    np.testing.assert_allclose(knowing.checkpoint.tensors["norm.std"], engine.std, rtol=1e-3)
    times = 1 + 2 * heard[0] / (heard[0] + FRAMES)
    for name in trained.engine.state:  # of the regression
        np.testing.assert_allclose(knowing.checkpoint.tensors[name], times * trained.engine.state[name], rtol=1e-5)
        np.testing.assert_allclose(engine.state[name], knowing.checkpoint.tensors[name], rtol=1e-6)
    asked = sound(30_000, 7)
    assert knowing.predict(asked, RATE).probabilities != trained.lite.predict(asked, RATE).probabilities
    both = [next(knowing.predict_many([asked], RATE, engine=name)).probabilities for name in ("lite", "numba")]
    assert both[0] == pytest.approx(both[1], abs=1e-5)
    again = knowing.adapt(waves[:1], RATE).checkpoint.tensors  # begins with the model as it was trained
    for name, value in trained.lite.adapt(waves[:1], RATE).checkpoint.tensors.items():
        np.testing.assert_array_equal(again[name], value)


@pytest.mark.parametrize("audio", [[], [np.zeros(20_000, np.float32)]], ids=["nothing", "silence"])
def test_where_nothing_was_heard_the_model_stays_as_it_is(tmp_path: Path, audio: list[Array]):
    trained = network(tmp_path, dataclasses.replace(SMALL, level=True, statistics=True)).lite
    knowing = trained.adapt([sound(9_000, 1)], RATE).adapt(audio, RATE)
    for name, value in trained.checkpoint.tensors.items():
        np.testing.assert_array_equal(knowing.checkpoint.tensors[name], value)


def test_windows_of_a_voice_that_the_model_knows_already(tmp_path: Path):
    trained = network(tmp_path, dataclasses.replace(SMALL, level=True, statistics=True)).lite
    knowing = trained.adapt([sound(90_000, 1)], RATE)
    X = knowing.network_input(sound(9_000, 2))
    assert statistics.share_of(statistics.of_windows(X[None, :, : SMALL.d_spec // 3])) > 0  # the regression has a say
    plain, none, half, all_of_it = (
        np.asarray(found["emotion"]) for shares in ([], [0.0], [0.5], [1.0]) for found in knowing.run([X], shares)
    )
    assert none.tobytes() == plain.tobytes()
    tensors, c = trained.checkpoint.tensors, trained.config
    for found, share in ((plain, knowing.own_share), (half, 1 - 0.5 * (1 - knowing.own_share)), (all_of_it, 1.0)):
        changed = {name: (1 + 2 * share) * tensors[name] for name in ("statistics.W", "statistics.b")}
        expected, *_ = trained.network.plain(tensors | changed, c, X[None])
        np.testing.assert_allclose(found, expected[0], rtol=1e-5)


def test_predict_adapts_to_folders_and_recordings(npser: Command, tmp_path: Path):
    path = network(tmp_path).path
    files = []
    for r, place in enumerate(["x", "y", "x"]):
        (tmp_path / place).mkdir(exist_ok=True)
        files.append(str(recording(tmp_path / place / f"{r}.wav", sound(15_000 + 900 * r, r))))
    files.insert(2, str(tmp_path / "x" / "bad.wav"))
    Path(files[2]).write_bytes(b"RIFF")
    shown = {}
    for mode in ("none", "folder", "recording"):
        done = npser("predict", *files, "--model", path, "--json", "--adapt", mode, status=1)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert [row["path"] for row in rows] == files
        assert "error" in rows[2]
        shown[mode] = [row["probabilities"] for row in rows if "error" not in row]
    plain = lite.Model(path)
    x, y = plain.adapt([files[0], files[3]]), plain.adapt([files[1]])
    expected = [x.predict(files[0]), y.predict(files[1]), x.predict(files[3])]
    for row, p in zip(shown["folder"], expected, strict=True):
        assert row == pytest.approx(p.probabilities, abs=1e-6)
    assert shown["recording"][0] == pytest.approx(plain.adapt([files[0]]).predict(files[0]).probabilities, abs=1e-6)
    assert shown["none"] != shown["folder"] != shown["recording"]
    one_sentence(npser("predict", "-", "--adapt", "folder", status=2, input=""), "--adapt folder", "standard input")
    one_sentence(npser("predict", files[0], "--adapt", "folder", "--out", "o", status=2), "--adapt folder", "--out")


def test_evaluate_adapts_to_speakers_and_says_so(npser: Command, tmp_path: Path):
    path = network(tmp_path, genders=None).path
    rows = []
    for r in range(6):
        recording(tmp_path / f"{r}.wav", sound(15_000 + 900 * r, r))
        rows.append({"path": f"{r}.wav", "emotion": ["sad", "angry"][r % 2], "speaker": ["a", "b", ""][r // 2]})
    write_manifest(tmp_path / "manifest.csv", rows)
    found = {}
    for mode in ("none", "speaker", "folder", "recording"):
        done = npser("evaluate", path, tmp_path, "--adapt", mode, "--json")
        found[mode] = json.loads(done.stdout)
        assert found[mode]["adapted"] == mode
    assert len({row["ece"] for row in found.values()}) == 4
    assert "adapted to each speaker" in npser("evaluate", path, tmp_path, "--adapt", "speaker").stdout
    assert "adapted" not in npser("evaluate", path, tmp_path).stdout


def test_a_cross_validation_reports_both(npser: Command, corpus: Path, tmp_path: Path):
    words = ("crossval", corpus, "--set", "d_lstm=4", "--set", "d_attn=8", "--epochs", "1", "--no-oracle", "--threads", "1")
    words += ("--cache", tmp_path / "cache", "--systems", "li2019_feedforward-default", "--out")
    npser(*words, "plain")
    shown = npser(*words, "both", "--adapt", "speaker").stdout
    plain, both = report_of(tmp_path / "plain"), report_of(tmp_path / "both")
    assert (plain["adapt"], both["adapt"]) == ("none", "speaker")
    assert set(both["variants"]) == {*plain["variants"], *(f"{name}-adapted" for name in plain["variants"])}
    for name, row in plain["variants"].items():
        assert row == both["variants"][name]
        assert row["by_heard"] == {}
    known = both["variants"]["full-adapted"]
    assert set(known["by_heard"]) == {"1", "3", "10"}  # nobody is neutral here
    assert known["by_heard"]["10"]["ua"] == pytest.approx(known["ua"])  # everybody has four recordings
    assert "full-adapted" in both["differences"]
    text = (tmp_path / "both" / "report.md").read_text()
    assert "| Full model, li2019-default with other settings, adapted to the speaker |" in text
    assert re.search(r"\| heard of the speaker .*\n.*\n\| none .*\n\| 1 .*\n\| 3 .*\n\| 10 .*\n\| all ", text)
    assert "adapted to the speaker" in shown
    assert "adapted" not in (tmp_path / "plain" / "report.md").read_text()

    job = tmp_path / "both" / "jobs" / "full-seed0-fold2"
    result, trained = json.loads((job / "result.json").read_text()), Network.of(checkpoint.load(job / "model.safetensors"))
    with ThreadPoolExecutor(1) as pool:
        data = dataset.prepare(corpora.load(corpus), trained.config, tmp_path / "cache", pool, lambda items, **_: items)
        test = next(fold.split.test for fold in make_folds(data.utterances) if fold.name == "2")
        voices = [data.utterances[r].speaker for r in test]
        emotion, _ = adaptation.log_probabilities(trained, data.store, np.array(test), [str(v) for v in voices], pool)
    assert result["adapted"]["predicted"] == emotion.argmax(axis=1).tolist()
    np.testing.assert_allclose(result["adapted"]["confidence"]["after"], np.exp(emotion.max(axis=1)), atol=1e-6)


def test_as_many_recordings_of_each_voice_are_drawn_as_there_are_or_are_wanted():
    voices = [*"abaabca"]
    for most in (1, 3, 10):
        counted = adaptation.some_of_each(voices, most, np.random.default_rng(0))
        found = {voice: sum(counted[k] for k, other in enumerate(voices) if other == voice) for voice in "abc"}
        assert found == {"a": min(most, 4), "b": min(most, 2), "c": 1}
    drawn = {adaptation.some_of_each(voices, 1, np.random.default_rng(seed)).argmax() for seed in range(20)}
    assert drawn > {0}


def test_what_is_not_counted_is_not_heard(tmp_path: Path):
    trained = network(tmp_path).engine
    data = data_of(trained.config, [[sound(15_000, r)] for r in range(3)], ["sad", "angry", "sad"], [None] * 3)
    every, voices = np.arange(3), ["a", "a", "b"]
    with ThreadPoolExecutor(1) as pool:
        found = adaptation.log_probabilities(trained, data.store, every, voices, pool, np.array([True, False, False]))
        knowing = trained.adapted(sums_of(data.store, np.array([0]), pool, trained.config)[0], 400)
        expected = knowing.log_probabilities(data.store, np.array([0, 1]), pool)
        plain = trained.log_probabilities(data.store, np.array([2]), pool)
    np.testing.assert_allclose(found[0][:2], expected[0], atol=1e-6)
    np.testing.assert_allclose(found[0][2:], plain[0], atol=1e-6)


# In training


def test_training_draws_some_recordings_of_each_voice():
    rng = np.random.default_rng(0)
    mean, std = np.zeros(2, np.float32), np.ones(2, np.float32)
    heard = np.stack([of_voice(100 * (r + 1), rng.standard_normal(2), rng.uniform(0.5, 2, 2)) for r in range(6)])
    voices, seen = [*"aababa"], [set[int]() for _ in range(6)]
    possible = {}
    for voice in "ab":
        own = [r for r in range(6) if voices[r] == voice]
        for size in {min(most, len(own)) for most in adaptation.HEARD}:
            for some in itertools.combinations(own, size):
                possible[voice, some] = np.stack(
                    adapted(mean, std, heard[list(some)].sum(axis=0) if some else 0 * heard[0], 400)
                )
    for seed in range(40):
        found = np.stack(adaptation.drawn(mean, std, heard, voices, 400, np.random.default_rng(seed)), axis=1)
        again = np.stack(adaptation.drawn(mean, std, heard, voices, 400, np.random.default_rng(seed)), axis=1)
        np.testing.assert_array_equal(found, again)
        for r, row in enumerate(found):
            same = [some for (voice, some), value in possible.items() if voice == voices[r] and np.allclose(value, row, 1e-5)]
            assert same, f"recording {r} has statistics of no set of recordings of its voice"
            seen[r].add(len(same[0]))
    assert seen == [{0, 1, 3, 4}] * 2 + [{0, 1, 2}] + [{0, 1, 3, 4}] + [{0, 1, 2}] + [{0, 1, 3, 4}]


def test_each_window_may_have_its_own_normaliser(tmp_path: Path):
    trained, rng = network(tmp_path).engine, np.random.default_rng(0)
    data = data_of(trained.config, [[sound(9_000 + 900 * r, r)] for r in range(3)], ["sad"] * 3, [None] * 3)
    means, stds = rng.standard_normal((3, 384)).astype(np.float32), rng.uniform(0.5, 2, (3, 384)).astype(np.float32)
    X, bounds, frames = trained.inputs(data.store, np.arange(3), own=(means, stds))
    for w in range(3):
        alone = dataclasses.replace(trained, mean=means[w], std=stds[w]).inputs(data.store, np.array([w]))
        np.testing.assert_allclose(X[bounds[w] : bounds[w + 1]], alone[0], atol=1e-4)
        assert frames[w] == alone[2][0]


def test_training_adapts_to_the_speakers_of_the_training_part_alone(tmp_path: Path):
    settings = {"epochs": 2, "batch": 4, "adapt": True, "stretch": 0.1, "splice": 0.5, "select": "last"}
    c = dataclasses.replace(SMALL, **settings)
    words = [[sound(9_000 + 300 * r, r)] for r in range(12)]
    plain = data_of(c, words, ["sad", "angry"] * 6, ["female", "male", None] * 4)
    split, thetas = Split([*range(8)], [8, 9], [10, 11]), {}
    for name, voices in {"alike": "aabbaabbaabb", "others": "abababababab", "test": "aabbaabbccdd"}.items():
        utterances = [dataclasses.replace(u, speaker=f"c/{v}") for u, v in zip(plain.utterances, voices, strict=True)]
        data = dataclasses.replace(plain, utterances=utterances)
        for threads in (1, 2):
            out = tmp_path / f"{name}{threads}"
            out.mkdir()
            with ThreadPoolExecutor(threads) as pool:
                fit(data, split, c, Run(out, pool, lambda _: None), {})
            thetas[name, threads] = Network.of(checkpoint.load(out / "model.safetensors")).theta
        np.testing.assert_array_equal(thetas[name, 1], thetas[name, 2])
    np.testing.assert_array_equal(thetas["alike", 1], thetas["test", 1])  # who is tested changes nothing
    assert np.abs(thetas["alike", 1] - thetas["others", 1]).max() > 1e-5


def test_a_run_that_adapts_is_not_gone_on_with_for_other_speakers(tmp_path: Path):
    c = dataclasses.replace(SMALL, epochs=2, adapt=True, select="last")
    data = data_of(c, [[sound(9_000, r)] for r in range(4)], ["sad", "angry"] * 2, [None] * 4)
    other = dataclasses.replace(data, utterances=[dataclasses.replace(u, speaker="c/x") for u in data.utterances])
    with ThreadPoolExecutor(1) as pool:
        fit(data, Split([0, 1, 2, 3], [], []), c, Run(tmp_path, pool, lambda _: None), {})
        with pytest.raises(ValueError, match="its run had other data or settings"):
            fit(other, Split([0, 1, 2, 3], [], []), c, Run(tmp_path, pool, lambda _: None), {}, resume=True)

"""The page that listens by itself: its engine says what Python says, in node, and it is one file that fetches nothing."""

import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from helpers import (
    GENDERS,
    RATE,
    ROOT,
    SMALL,
    SMALL_FORWARD,
    Array,
    Command,
    Trained,
    melody,
    model_file,
    network,
    one_sentence,
    sound,
)
from test_stream import HEARING, noise, pieces, talk

from npser import features
from npser.explain.look import COLOURS, DAY, NIGHT
from npser.lite import Model
from npser.live import page
from npser.live.stream import Event, listen
from npser.networks import mirsamadi2017
from npser.speech import FRAME, Detector, Resampler

NODE = shutil.which("node")
with_node = pytest.mark.skipif(NODE is None, reason="needs node")
LOWER = dataclasses.replace(HEARING, d_spec=297)  # the bands up to 4 kHz, as the default preset has them
KINDS = [
    pytest.param(HEARING, GENDERS, id="all bands"),
    pytest.param(LOWER, GENDERS, id="up to 4 kHz"),
    pytest.param(dataclasses.replace(LOWER, statistics=True), GENDERS, id="regression beside"),
    pytest.param(dataclasses.replace(LOWER, attention=False, n_cw=5, n_pw=2, d_lstm=5), None, id="no attention, no gender"),
    pytest.param(dataclasses.replace(SMALL_FORWARD, level=True, speech=True), GENDERS, id="no recurrence"),
]


# In node: the same numbers


class Engine:
    """The page's engine, without the worker's end, in node."""

    def __init__(self, folder: Path, model: Model) -> None:
        self.folder, self.model, self.files = folder, model, 0
        about, numbers = page.described(model.checkpoint, "0" * 64)
        (folder / "engine.js").write_text(page.program(page.ENGINE[:-1]))
        (folder / "numbers").write_bytes(numbers)
        self.job = {"program": "engine.js", "about": about, "numbers": "numbers", "out": "out.json"}

    def floats(self, x: Array) -> str:
        self.files += 1
        (self.folder / f"{self.files}.f32").write_bytes(np.asarray(x, "<f4").tobytes())
        return f"{self.files}.f32"

    def run(self, *actions: dict[str, Any]) -> list[dict[str, Any]]:
        (self.folder / "job.json").write_text(json.dumps({**self.job, "actions": actions}))
        command = [str(NODE), str(ROOT / "tests" / "page_driver.mjs"), "job.json"]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads((self.folder / "out.json").read_text())


@pytest.fixture(scope="module")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return network(tmp_path_factory.mktemp("model"), LOWER, temperature=1.3)


@pytest.fixture
def engine(tmp_path: Path, hearing: Trained) -> Engine:
    return Engine(tmp_path, hearing.lite)


def cuts_of(n: int, seed: int) -> list[int]:
    """Where pieces cuts."""
    return np.sort(np.random.default_rng(seed).integers(0, n + 1, 60)).tolist()


@with_node
def test_the_resampler_makes_the_samples_that_python_makes(engine: Engine):
    rates, actions, wanted = [4000, 8000, 11_025, 22_050, 44_100, 44_101, 48_000, 96_000, 192_000, RATE], [], []
    for rate in rates:
        x = sound(round(0.7 * rate) + 13, 1, rate)
        actions.append({"do": "resample", "x": engine.floats(x), "cuts": cuts_of(len(x), rate), "rate": rate})
        resampler = Resampler(rate)
        wanted.append(np.concatenate([resampler.feed(x), resampler.end()]))
    for rate, found, y in zip(rates, engine.run(*actions), wanted, strict=True):
        assert len(found["samples"]) == len(y), rate
        np.testing.assert_allclose(found["samples"], y, atol=2e-6, err_msg=str(rate))


def joined(runs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Runs (start, samples) that follow each other without a gap, as one."""
    found: list[list[int]] = []
    for start, n in runs:
        if found and sum(found[-1]) == start:
            found[-1][1] += n
        else:
            found.append([start, n])
    return found


@with_node
def test_the_detector_finds_the_speech_that_python_finds(engine: Engine):
    silence = np.zeros(20_000, np.float32)
    sounds = [
        talk([1.1, 0.3, 2.0]),
        np.concatenate([silence, talk([0.7]), silence, sound(9000, 3)]),
        noise(4),
        sound(999),
        silence,
        melody(6),
        np.concatenate([melody(2), silence, melody(3, -40, 2), silence[:3000], melody(2, -30, 1)]),
        np.concatenate([melody(1)[:2000], silence, melody(4, -40, 2)]),
        np.concatenate([np.tile(sound(FRAME, 1), 12), melody(4, -40, 2)]),
        *(
            melody(8, -30, seed) * np.repeat(np.random.default_rng(seed).random(320) < share, FRAME).astype(np.float32)
            for seed, share in ((1, 0.9), (2, 0.7), (3, 0.3), (4, 0.2))
        ),
        melody(6) + np.concatenate([np.zeros(40_000, np.float32), 2 * sound(32_000, 2), np.zeros(24_000, np.float32)]),
    ]
    actions = [{"do": "detect", "x": engine.floats(x), "cuts": cuts_of(len(x), n)} for n, x in enumerate(sounds)]
    for x, found in zip(sounds, engine.run(*actions), strict=True):
        detector = Detector()
        runs = detector.feed(x) + detector.end()
        assert joined(found["runs"]) == joined([(start, len(part)) for start, part in runs])


@with_node
@pytest.mark.parametrize(("config", "genders"), KINDS)
def test_bands_and_network_give_what_lite_gives(tmp_path: Path, config: Any, genders: list[str] | None):
    model = network(tmp_path, config, genders).lite
    engine, waves = Engine(tmp_path, model), [sound(n, n % 5) for n in (4800, 5199, 9_003, 12_345, 16_000)]
    for x, found in zip(waves, engine.run(*({"do": "network", "x": engine.floats(x)} for x in waves)), strict=True):
        X, S = model.network_input(x), model.network.spectrum(config, x)
        emotion, gender, attention = model.forward(X)
        np.testing.assert_allclose(np.reshape(found["S"], S.shape), S, atol=1e-4)
        np.testing.assert_allclose(np.reshape(found["alone"], S.shape), S, atol=1e-4)
        np.testing.assert_allclose(np.reshape(found["X"], X.shape), X, atol=1e-4)
        np.testing.assert_allclose(found["emotion"], emotion, atol=1e-4)
        np.testing.assert_allclose(found["gender"], gender, atol=1e-4)
        np.testing.assert_allclose(found["attention"], [] if attention is None else attention.ravel(), atol=1e-4)


def assert_same_events(found: Sequence[dict[str, Any]], wanted: Sequence[Event]) -> None:
    assert [event["event"] for event in found] == [event.kind for event in wanted]
    for one, event in zip(found, wanted, strict=True):
        assert (one["start"], one.get("end", event.end)) == pytest.approx((event.start, event.end), abs=6e-4)
        if event.kind != "speech":
            assert (one["emotion"], one.get("reason")) == (event.emotion, event.reason)
            assert one["probabilities"] == pytest.approx(event.probabilities, abs=1e-4)
            assert one.get("gender_probabilities", {}) == pytest.approx(event.gender_probabilities, abs=1e-4)


@with_node
@pytest.mark.parametrize(("adapt", "beside"), [(False, False), (True, False), (True, True)])
def test_the_stream_tells_what_python_tells_however_it_is_chopped(tmp_path: Path, adapt: bool, beside: bool):
    engine = Engine(tmp_path, network(tmp_path, dataclasses.replace(LOWER, statistics=beside), temperature=1.3).lite)
    actions, wanted = [], []
    for rate, every in ((RATE, 0.5), (44_100, 0.3), (48_000, 1.0)):
        x = np.interp(np.arange(0, 8.2, 1 / rate), np.arange(0, 8.2, 1 / RATE)[: 8 * RATE], talk([1.7, 0.4, 2.4])[: 8 * RATE])
        x = x.astype(np.float32)
        actions.append({"do": "stream", "x": engine.floats(x), "cuts": cuts_of(len(x), 5), "rate": rate, "every": every})
        actions[-1]["adapt"] = adapt
        wanted.append(list(listen(engine.model, pieces(x, 6), rate, every, adapt)))
    for found, events in zip(engine.run(*actions), wanted, strict=True):
        assert len(events) > 6
        assert_same_events(found["events"], events)


@with_node
def test_speech_without_a_pause_is_told_in_parts_and_memory_does_not_grow(engine: Engine):
    x = np.concatenate([sound(RATE, k % 7) for k in range(70)])
    (found,) = engine.run(
        {"do": "stream", "x": engine.floats(x), "cuts": cuts_of(len(x), 1), "rate": RATE, "every": 1.0, "adapt": False}
    )
    assert_same_events(found["events"], list(listen(engine.model, [x], RATE, 1.0)))
    samples, powers, runs = found["held"]
    assert samples <= 1 << 20
    assert powers <= 1 << 19
    assert runs < 10


@with_node
@pytest.mark.parametrize("channels", [1, 3])
def test_a_wav_of_any_kind_is_read_as_python_reads_it(engine: Engine, tmp_path: Path, channels: int):
    kinds = [("WAV", "PCM_U8"), ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "PCM_32"), ("WAV", "FLOAT"), ("WAV", "DOUBLE")]
    kinds += [("WAVEX", "PCM_24"), ("RF64", "PCM_16"), ("WAV", "PCM_24 BIG"), ("WAV", "FLOAT BIG")]
    x, paths = np.stack([sound(70_001, k) for k in range(channels)], axis=1), []
    for n, (form, kind) in enumerate(kinds):
        subtype, _, endian = kind.partition(" ")
        paths.append(tmp_path / f"{n}.wav")
        soundfile.write(paths[-1], x, 22_050, format=form, subtype=subtype, endian=endian or None)
    for path, kind, found in zip(paths, kinds, engine.run(*({"do": "wav", "path": str(path)} for path in paths)), strict=True):
        rate, blocks = features.read_blocks(path)
        assert found["rate"] == rate
        np.testing.assert_allclose(found["samples"], np.concatenate(list(blocks)), atol=1e-6, err_msg=str(kind))


@with_node
def test_a_wav_that_is_cut_off_or_damaged_is_read_as_far_as_it_goes_or_refused_in_words(engine: Engine, tmp_path: Path):
    whole = tmp_path / "a.wav"
    soundfile.write(whole, sound(9000), RATE, subtype="PCM_16")
    content, samples = whole.read_bytes(), soundfile.read(whole, dtype="float32")[0]
    nan = tmp_path / "nan.wav"
    soundfile.write(nan, np.array([0, np.nan, 0], np.float32), RATE, subtype="FLOAT")
    law = tmp_path / "law.wav"
    soundfile.write(law, sound(900), RATE, subtype="ULAW")
    for name, text in {
        "cut": content[:10_001],
        "pipe": content[:40] + b"\xff" * 4 + content[44:],
        "head": content[:40],
    }.items():
        (tmp_path / f"{name}.wav").write_bytes(text)
    names = ("cut", "pipe", "head", "nan", "law")
    cut, pipe, head, bad, other = engine.run(*({"do": "wav", "path": str(tmp_path / f"{name}.wav")} for name in names))
    np.testing.assert_array_equal(cut["samples"], samples[: (10_001 - 44) // 2])
    np.testing.assert_array_equal(pipe["samples"], samples)
    assert "before its samples begin" in head["error"]
    assert "not finite" in bad["error"]
    assert "PCM of 8, 16, 24 and 32 bits" in other["error"]


@with_node
@pytest.mark.parametrize("words", [[], [0.15], [0.6], [1.0], [2.3, 0.4, 3.1], [5.0]])
def test_of_a_recording_the_page_says_what_predict_says(engine: Engine, tmp_path: Path, words: list[float]):
    path = tmp_path / "a.wav"
    soundfile.write(path, talk(words), RATE, subtype="PCM_16")
    (found,) = engine.run({"do": "file", "path": str(path)})
    *events, whole = found["events"]
    p = engine.model.predict(path)
    assert (whole["event"], whole["emotion"], whole["end"]) == ("recording", p.emotion, pytest.approx(p.seconds))
    assert (whole["reason"] or None) == p.reason
    assert whole["probabilities"] == pytest.approx(p.probabilities, abs=1e-4)
    every = engine.model.config.max_seconds / 2
    assert_same_events(events, list(listen(engine.model, [soundfile.read(path, dtype="float32")[0]], RATE, every)))


# The file


def test_the_page_is_one_file_that_fetches_nothing(hearing: Trained, tmp_path: Path, npser: Command):
    shown = npser("export", hearing.path, "page.html")
    assert "needs no server" in shown.stdout
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert json.loads(npser("export", hearing.path, "page.html", "--json").stdout)["bytes"] == len(text.encode())
    (weights,) = re.findall(r'id="weights-text">([^<]*)<', text)
    assert len(text) - len(weights) < 1 << 20
    assert not re.search(r"https?://|<link(?![^>]*data:,)|\bsrc=|\bimport\b[^;]*\bfrom\b|\{\{", text.replace(weights, ""))
    assert "default-src 'none'" in text
    assert "connect-src 'none'" in text
    assert "unsafe" not in text


def test_a_page_is_refused_to_what_it_cannot_run_in_one_sentence(tmp_path: Path, npser: Command):
    pauses = network(tmp_path, dataclasses.replace(SMALL, level=True)).path
    one_sentence(npser("export", pauses, "page.html", status=1), "speech = true", "npser predict")
    other = model_file(tmp_path, mirsamadi2017.PRESETS["same-input"])
    one_sentence(npser("export", other, "page.html", status=1), "mirsamadi2017", "npser predict")
    npser("export", pauses, "page.html", "--with-features", status=2)
    assert not (tmp_path / "page.html").exists()


def test_what_stands_in_the_page_cannot_end_its_script(tmp_path: Path):
    trained = network(tmp_path, HEARING)
    hostile = {"notices": ["</script><script>alert(1)</script>"], "corpora": ["<b>"]}
    about, _ = page.described(dataclasses.replace(trained.lite.checkpoint, training=hostile), "")
    assert "<" not in page._json(about)
    assert json.loads(page._json(about))["notices"] == hostile["notices"]


def test_the_colours_are_those_of_explain():
    text = (ROOT / "npser" / "live" / "web" / "palette.mjs").read_text()
    assert dict(re.findall(r'^  (\w+): "(#\w+)",$', text, re.MULTILINE)) == COLOURS
    for name, colours in (("NIGHT", NIGHT), ("DAY", DAY)):
        (anchors,) = re.findall(rf"^const {name} = (\[.*\]);", text, re.MULTILINE)
        assert tuple(json.loads(anchors)) == colours

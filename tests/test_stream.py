"""A stream: how it comes in blocks does not matter, and it says what a file says. P1 to P9 are its properties."""

import dataclasses
import itertools
import json
import re
import subprocess
import sys
import tracemalloc
import types
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import CORPORA, RATE, SMALL, Array, Command, melody, network, noise, one_sentence, recording, sound, talk
from hypothesis import given, settings
from hypothesis import strategies as st

import npser
from npser.commands import live
from npser.lite import Model
from npser.live.stream import LONGEST, PAUSE, Event, Stream, answers, listen
from npser.speech import CHUNK, FRAME

HEARING = dataclasses.replace(SMALL, level=True, speech=True)  # windows of a second
REAL = sorted(path for path in CORPORA.glob("*/**/*.*") if path.suffix in (".flac", ".wav"))


def pieces(x: Array, seed: int, count: int = 60) -> list[Array]:
    return np.split(x, np.sort(np.random.default_rng(seed).integers(0, len(x) + 1, count)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return network(tmp_path_factory.mktemp("model"), HEARING).lite


def of(kind: str, events: Sequence[Event]) -> list[Event]:
    return [event for event in events if event.kind == kind]


def test_speech_answers_and_utterances_come_in_their_order(model: Model):
    events = list(listen(model, [talk([2.0, 0.8])], RATE, every=0.5))
    first, second = of("utterance", events)
    kinds = "".join(event.kind[0] for event in events)
    assert re.fullmatch("sa{4,5}usa{2,3}u", kinds), kinds
    assert first.start == pytest.approx(1.2, abs=0.25)
    assert first.end == pytest.approx(3.6, abs=0.25)
    assert second.start == pytest.approx(4.4, abs=0.25)
    for event in [*of("answer", events), first, second]:
        assert event.emotion == max(event.probabilities, key=lambda label: event.probabilities[label])
        assert sum(event.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert set(event.gender_probabilities) == {"female", "male"}
    ends = [event.end for event in of("answer", events)]
    assert ends == sorted(ends)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from([8000, 16_000, 44_100]), st.booleans())
def test_p1_how_sound_comes_in_blocks_does_not_matter(seed: int, rate: int, adapt: bool):
    """Not a bit of it, nor the order of the events."""
    x = talk([1.7, 0.4, 0.9])
    one, many = (list(listen(P1, blocks, rate, 0.5, adapt)) for blocks in ([x], pieces(x, seed)))
    assert one == many
    assert len(one) >= 3


@pytest.fixture(autouse=True, scope="module")
def _model_of_hypothesis(model: Model) -> None:
    """Hypothesis calls a test many times, and so takes no fixture of a function."""
    global P1
    P1 = model


P1: Model


def test_p2_a_stream_says_what_the_timeline_of_a_file_says(model: Model, tmp_path: Path):
    x = talk([2.3, 1.1, 3.0], pause=0.6)
    path = recording(tmp_path / "a.wav", x)
    found = {(event.start, event.end): event for event in of("answer", list(listen(model, pieces(x, 1), RATE, every=0.5)))}
    whole = [window for window in model.predict(path).timeline if window.end - window.start >= 1.0][:-1]
    assert len(whole) > 8
    for window in whole:
        event = found[window.start, window.end]
        assert (event.probabilities, event.gender_probabilities) == (window.probabilities, window.gender_probabilities)


def test_p2_an_utterance_is_answered_like_a_file_of_it(model: Model):
    x = talk([2.9])
    (utterance,), p = of("utterance", list(listen(model, pieces(x, 2), RATE))), model.predict(x, RATE)
    assert utterance.probabilities == p.probabilities
    assert utterance.gender_probabilities == p.gender_probabilities
    assert (utterance.start, utterance.end) == (p.timeline[0].start, p.timeline[-1].end)


@pytest.mark.skipif(not REAL, reason=f"no corpora in {CORPORA}")
def test_p2_with_real_speech(tmp_path: Path):
    """Recordings joined with pauses and noise, chopped at random: equal bits."""
    trained = network(tmp_path, dataclasses.replace(HEARING, max_seconds=7.5)).lite
    parts: list[Array] = []
    for k, path in enumerate(REAL[:: len(REAL) // 25]):
        parts += [soundfile.read(path, dtype="float32")[0], noise(0.2 * (k % 9), -60, k)]
    x = np.concatenate(parts)
    found = {(e.start, e.end): e for e in of("answer", list(listen(trained, pieces(x, 3, 999), RATE, every=3.75)))}
    whole = trained.predict(x, RATE).timeline[:-1]
    assert len(whole) > 8
    assert all(found[window.start, window.end].probabilities == window.probabilities for window in whole)


def test_p3_memory_does_not_grow(model: Model):
    minute = talk([20.0, 5.0, 1.0] * 2, pause=0.5)
    stream = Stream(model, RATE)
    for block in np.array_split(minute, 50):
        stream.feed(block)
    tracemalloc.start()
    for _ in range(4):
        for block in np.array_split(minute, 50):
            stream.feed(block)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 4_000_000  # 30 s of an utterance at most, and their bands
    assert len(stream.x) <= (LONGEST + 1) * RATE
    assert len(stream.runs) < 200


def test_p4_events_come_without_waiting(model: Model):
    """An answer comes 0.48 s after its last sample, at most, and the end of an utterance a pause later."""
    stream, block, time = Stream(model, RATE, every=0.5), FRAME, 0.0
    late: dict[str, list[float]] = {"answer": [], "utterance": []}
    for part in np.array_split(talk([2.0, 1.5, 0.7]), len(talk([2.0, 1.5, 0.7])) // block):
        time += len(part) / RATE
        for event in stream.feed(part):
            if event.kind in late:
                late[event.kind].append(time - event.end)
    chunk = CHUNK * FRAME / RATE
    assert max(late["answer"]) <= 0.2 + chunk + 0.03
    assert max(late["utterance"]) <= PAUSE + 0.2 + chunk + 0.03
    assert len(late["utterance"]) == 3


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 200), st.sampled_from([16_000, 44_100]), st.booleans())
def test_p5_a_stream_goes_on_from_its_state(at: int, rate: int, adapt: bool):
    words = talk([1.5, 0.8, 1.9])
    blocks = pieces(words + melody(len(words) / RATE, -38), 7, 200)
    stream, whole = Stream(P1, rate, 0.5, adapt), Stream(P1, rate, 0.5, adapt)
    expected = [event for block in blocks for event in whole.feed(block)]
    events = [event for block in blocks[:at] for event in stream.feed(block)]
    state = stream.state()
    stream.feed(noise(0.5))  # what happens to it after that is of no account
    again = Stream.going_on(P1, state)
    events += [event for block in blocks[at:] for event in again.feed(block)]
    assert events == expected
    for name, value in whole.state().items():
        np.testing.assert_array_equal(value, again.state()[name], name)
    assert again.end() == whole.end()


def test_p5_the_state_is_arrays_that_a_file_can_hold(model: Model, tmp_path: Path):
    stream = Stream(model, 48_000)
    stream.feed(talk([1.0]))
    np.savez(tmp_path / "state.npz", allow_pickle=False, **stream.state())
    with np.load(tmp_path / "state.npz", allow_pickle=False) as state:
        assert Stream.going_on(model, state).end() == stream.end()


def test_p6_streams_that_are_answered_together_are_as_each_alone(model: Model):
    sounds = [talk([1.5, 0.6]), talk([0.9, 2.2]), noise(6), talk([0.5] * 4)]
    alone = [list(listen(model, pieces(x, k, 30), RATE, 0.5)) for k, x in enumerate(sounds)]
    streams, together = [Stream(model, RATE, 0.5) for _ in sounds], [list[Event]() for _ in sounds]

    def tell(waiting: list) -> None:
        found = iter(answers(model, [due for dues in waiting for due in dues]))
        for events, dues in zip(together, waiting, strict=True):
            events += [next(found) for _ in dues]

    for blocks in zip(*(pieces(x, k, 30) for k, x in enumerate(sounds)), strict=True):
        tell([stream.take(block) for stream, block in zip(streams, blocks, strict=True)])
    tell([stream.rest() for stream in streams])
    assert together == alone


@pytest.mark.parametrize(
    "block",
    [np.full(100, np.nan, np.float32), np.full(100, np.inf), np.zeros((10, 2)), np.zeros(10, np.int16), np.full(9, 1e13)],
    ids=["nan", "infinite", "two channels", "whole numbers", "too loud"],
)
def test_p7_what_is_no_sound_is_refused_and_the_stream_goes_on(model: Model, block: Array):
    x = talk([1.1])
    stream, expected = Stream(model, RATE), list(listen(model, [x], RATE))
    events = stream.feed(x[:9000])
    with pytest.raises(ValueError, match=r"a block has shape .*; expected \(n,\) finite float samples"):
        stream.feed(block)
    assert events + stream.feed(x[9000:]) + stream.end() == expected


@pytest.mark.parametrize("size", [1, 16, 400, 160_000])
def test_p7_blocks_of_any_size(model: Model, size: int):
    x = talk([0.6], pause=0.3)
    blocks = [np.empty(0, np.float32), *(x[k : k + size] for k in range(0, len(x), size))]
    assert list(listen(model, blocks, RATE)) == list(listen(model, [x], RATE))


def test_p8_the_end_tells_the_rest(model: Model):
    stream = Stream(model, RATE)
    events = stream.feed(talk([1.0])[: round(1.9 * RATE)])
    assert of("utterance", events) == []
    ended = stream.end()
    assert of("speech", events + ended)
    assert [event.kind for event in ended][-1] == "utterance"
    assert stream.end() == []


def test_p9_silence_and_steady_noise_say_nothing(model: Model):
    stream = Stream(model, RATE)
    for k in range(60):
        assert stream.feed(noise(10, -40, k)) == []
        assert stream.feed(np.zeros(10 * RATE, np.float32)) == []
    assert stream.end() == []


def test_speech_without_a_pause_is_told_in_parts(model: Model):
    events = list(listen(model, [sound(round(70 * RATE), 1)], RATE))
    utterances = of("utterance", events)
    assert len(utterances) == 3
    assert len(of("speech", events)) == 1
    assert utterances[0].end - utterances[0].start == pytest.approx(LONGEST, abs=2)


def test_a_state_of_windows_of_any_length_goes_on(tmp_path: Path):
    trained = network(tmp_path, dataclasses.replace(HEARING, max_seconds=0.99)).lite
    stream = Stream(trained, RATE, 0.99)
    assert Stream.going_on(trained, stream.state()).every == stream.every


def test_a_state_of_a_model_with_other_windows_is_refused(tmp_path: Path, model: Model):
    state = Stream(model, RATE).state()
    other = Model(network(tmp_path, dataclasses.replace(model.config, max_seconds=2 * model.config.max_seconds)).path)
    with pytest.raises(ValueError, match="a stream with another model"):
        Stream.going_on(other, state)
    for missing in ("stream.rate", "stream.size", "detector.sustained"):
        with pytest.raises(ValueError, match="or of another npser"):
            Stream.going_on(model, {name: value for name, value in state.items() if name != missing})


def test_a_stream_that_has_ended_hears_no_more(model: Model):
    stream = Stream(model, RATE)
    stream.end()
    with pytest.raises(ValueError, match="the stream has ended"):
        stream.feed(noise(1))
    with pytest.raises(ValueError, match="a block is of type list"):
        Stream(model, RATE).feed([0.0, 1.0])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("beside", [False, True], ids=["network alone", "regression beside"])
def test_a_stream_adapts_to_what_it_has_heard(tmp_path: Path, beside: bool):
    model, x = network(tmp_path, dataclasses.replace(HEARING, statistics=beside)).lite, talk([1.5, 1.5, 1.5])
    plain, adapted = (of("utterance", list(listen(model, [x], RATE, adapt=adapt))) for adapt in (False, True))
    assert [e.end for e in plain] == [e.end for e in adapted]
    assert all(a.probabilities != b.probabilities for a, b in zip(plain, adapted, strict=True))


def test_models_that_hear_pauses_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"hears pauses as well; a stream needs a model of li2019 .*speech = true"):
        Stream(network(tmp_path, SMALL).lite, RATE)


@pytest.mark.parametrize(
    ("rate", "every", "words"), [(100, 0.5, "sample_rate is 100"), (RATE, 0.1, "every is 0.1"), (RATE, 2, "every is 2")]
)
def test_wrong_rates_and_distances_are_refused(model: Model, rate: int, every: float, words: str):
    with pytest.raises(ValueError, match=words):
        Stream(model, rate, every)


def test_npser_listen_is_the_same(model: Model):
    x = talk([1.2])
    assert list(npser.listen([x], RATE, model, 0.5)) == list(listen(model, [x], RATE, 0.5))


# The command


@pytest.fixture
def talking(tmp_path: Path) -> tuple[Path, Path, Array]:
    """A model file, a recording, and its samples."""
    x = talk([1.4, 0.7])
    return network(tmp_path, HEARING).path, recording(tmp_path / "a.wav", x), x


def test_live_tells_of_a_file_in_lines(npser: Command, talking: tuple[Path, Path, Array]):
    path, audio, _ = talking
    lines = npser("live", audio, "--model", path, "--every", "0.5").stdout.splitlines()
    assert float(lines[0].split()[0]) == pytest.approx(1.2, abs=0.25)
    assert lines[0].endswith("s  speech")
    assert sum("  = " in line for line in lines) == 2
    assert all(" s  " in line for line in lines)


@pytest.mark.parametrize("samples", ["s16le", "f32le"])
def test_live_tells_of_standard_input_what_a_stream_tells(
    talking: tuple[Path, Path, Array], environment: dict[str, str], samples: str
):
    path, _, x = talking
    whole = np.round(x * 32767)
    content = whole.astype("<i2").tobytes() if samples == "s16le" else x.astype("<f4").tobytes()
    command = [sys.executable, "-m", "npser", "live", "-", "--model", str(path), "--json", "--samples", samples]
    done = subprocess.run(command, input=content, capture_output=True, env=environment, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    heard = (whole / 32768).astype(np.float32) if samples == "s16le" else x
    assert rows == [json.loads(json.dumps(event.row())) for event in listen(Model(path), [heard], RATE)]
    assert {row["event"] for row in rows} == {"speech", "answer", "utterance"}


def test_live_refuses_in_a_sentence(npser: Command, talking: tuple[Path, Path, Array], tmp_path: Path):
    path, audio, _ = talking
    one_sentence(npser("live", audio, "--model", path, "--every", "9", status=2), "--every 9: expected 0.25 to 1 seconds")
    one_sentence(npser("live", "-", "--model", path, "--rate", "7", status=2), "--rate 7: expected 4000")
    one_sentence(npser("live", tmp_path / "b.wav", "--model", path, status=1), "cannot be opened")
    deaf = network(tmp_path, SMALL).path
    one_sentence(npser("live", audio, "--model", deaf, status=1), "hears pauses as well")


def test_live_refuses_samples_that_are_not_finite(talking: tuple[Path, Path, Array], environment: dict[str, str]):
    command = [sys.executable, "-m", "npser", "live", "-", "--model", str(talking[0]), "--samples", "f32le"]
    done = subprocess.run(
        command, input=np.full(9999, np.nan, "<f4").tobytes(), capture_output=True, env=environment, text=False, check=False
    )
    assert done.returncode == 1
    assert b"standard input: holds samples that are not finite" in done.stderr
    assert b"Traceback" not in done.stderr


def test_the_microphone_is_read_in_blocks_of_one_channel(monkeypatch: pytest.MonkeyPatch):
    class Microphone:
        """What sounddevice.InputStream is."""

        def __init__(self, samplerate: int, channels: int, dtype: str):
            assert (samplerate, channels, dtype) == (8000, 1, "float32")

        def __enter__(self) -> "Microphone":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self, frames: int) -> tuple[Array, bool]:
            return np.ones((frames, 1), np.float32), False

    sounddevice = types.SimpleNamespace(InputStream=Microphone, PortAudioError=OSError)
    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice)  # pyright: ignore
    for block in itertools.islice(live._microphone(8000), 3):
        assert (block.shape, block.dtype) == ((800,), np.float32)


def test_a_microphone_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch):
    def absent(*_: object, **__: object) -> None:
        raise OSError("no device")

    sounddevice = types.SimpleNamespace(InputStream=absent, PortAudioError=OSError)
    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice)  # pyright: ignore
    with pytest.raises(ValueError, match=r"the microphone cannot be heard \(no device\); connect one"):
        next(live._microphone(16_000))
    monkeypatch.setitem(sys.modules, "sounddevice", None)  # pyright: ignore
    with pytest.raises(ValueError, match=r"needs the package sounddevice .*pip install 'npser\[mic\]'"):
        next(live._microphone(16_000))

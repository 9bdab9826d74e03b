"""The network's process: what it is told, what happens when it dies, and how sound gathers while it is busy."""

import asyncio
import contextlib
import dataclasses
import os
import pickle
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path

import numpy as np
import pytest
from helpers import RATE, Array, network, recording, sound, talk
from serving import HEARING, Server, run, session

from npser.lite import Model
from npser.live import child, inference
from npser.live import engine as engines
from npser.live.engine import Engine
from npser.live.inference import Heard, Network
from npser.live.limits import Problem, Settings
from npser.live.measures import Measures
from npser.live.session import AT_ONCE, HELD, Session
from npser.live.stream import Event, Stream

EVERY = 0.25


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return network(tmp_path_factory.mktemp("network"), dataclasses.replace(HEARING, statistics=True)).path


@pytest.fixture(scope="module")
def model(path: Path) -> Model:
    return Model(path)


@pytest.fixture
def engine(model: Model) -> Iterator[Engine]:
    found = Engine(model, Measures())
    found.check()
    yield found
    found.stop()


def child_of(server: Server) -> int:
    """The network's process."""
    while True:
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
                if int(parent) == server.process.pid and b"live.inference" in (entry / "cmdline").read_bytes():
                    return int(entry.name)


# What it is told


def test_streams_that_are_told_together_say_what_each_says_alone(model: Model) -> None:
    sounds, process = [talk([0.4 + 0.3 * k, 0.6], 1.0 + 0.2 * k) for k in range(3)], Network(model)
    found: list[list[Event]] = [[] for _ in sounds]
    begun = [(number, (RATE, EVERY, number == 1)) for number in range(3)]
    for start in range(0, max(map(len, sounds)), 4000):
        said = process.answer(Heard(begun, [(k, x[start : start + 4000]) for k, x in enumerate(sounds)], []))
        begun = []
        for events, new in zip(found, said.found, strict=True):
            assert isinstance(new, list)
            events += new  # pyright: ignore[reportArgumentType] (they are of sessions)
    for number, x in enumerate(sounds):
        stream = Stream(model, RATE, EVERY, number == 1)
        assert found[number] == stream.feed(x)
    assert any(event.kind == "answer" for events in found for event in events)


def test_a_stream_begins_anew_and_keeps_the_voice(model: Model) -> None:
    process, x = Network(model), talk([1.0, 0.5])
    first, second = Stream(model, RATE, EVERY, True), Stream(model, RATE, EVERY, True)
    (said,) = process.answer(Heard([(7, (RATE, EVERY, True))], [(7, x)], [])).found
    assert said == first.feed(x)
    assert process.answer(Heard([], [(7, None)], [])).found == [first.end()]
    second.heard = first.heard
    assert process.answer(Heard([], [(7, x)], [])).found == [second.feed(x)]


def test_streams_that_are_left_are_forgotten(model: Model) -> None:
    process, x = Network(model), sound(RATE, 1)
    said = process.answer(Heard([(0, (RATE, EVERY, False)), (1, (RATE, EVERY, False))], [(0, x)], [0]))
    assert isinstance(said.found[0], list)
    assert process.answer(Heard([], [(0, x), (1, x)], [])).found[0] is None
    assert list(process.streams) == [1]


def test_one_stream_whose_numbers_overflow_does_not_harm_the_others(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    process, x, answers = Network(model), talk([1.0]), inference.answers
    bad = np.full(RATE, np.nan, np.float32)

    def overflows(model: Model, dues: list[inference.Due]) -> list[Event]:
        if any(due.start > 100 for due in dues):
            raise ValueError("the numbers overflow")
        return answers(model, dues)

    monkeypatch.setattr(inference, "answers", overflows)
    monkeypatch.setattr(Stream, "rest", lambda _: [inference.Due("answer", 200.0, 201.0, [])])
    begun = [(number, (RATE, EVERY, False)) for number in range(3)]
    good, refused, broken = process.answer(Heard(begun, [(0, x), (1, bad), (2, None)], [])).found
    assert good == Stream(model, RATE, EVERY).feed(x)
    assert isinstance(refused, ValueError)
    assert "finite" in str(refused)
    assert isinstance(broken, ValueError)
    assert "overflow" in str(broken)


def test_a_model_can_be_pickled(model: Model) -> None:
    x = talk([1.0])
    assert pickle.loads(pickle.dumps(model)).predict(x, RATE).probabilities == model.predict(x, RATE).probabilities


# When it dies


def test_a_session_hears_that_the_process_has_died_and_the_next_one_is_served(
    environment: dict[str, str], tmp_path: Path, path: Path
) -> None:
    audio = recording(tmp_path / "a.wav", sound(RATE, 1)).read_bytes()

    async def work(server: Server) -> None:
        async with session(server, {"rate": RATE, "format": "f32le"}) as client:
            await client.send(sound(RATE, 1))
            os.kill(child_of(server), signal.SIGKILL)
            await client.send(sound(RATE, 2))
            await client.fails("network_died", 1011)
        async with session(server, {"rate": RATE, "format": "f32le"}) as client:
            await client.send(talk([1.0]))
            await client.say("session.close")
            messages, code = await client.rest()
            assert code == 1000
            assert any(message["type"] == "measurement" for message in messages)

    with Server(environment, tmp_path, path) as server:
        os.kill(child_of(server), signal.SIGTERM)  # as a service manager does, to all processes: the parent finishes what runs
        before = server.ask("/v1/predict", audio).json
        assert server.metrics()["networks_died_total"] == 0
        run(work(server))
        assert server.ask("/v1/predict", audio).json == before
        assert server.metrics()["networks_died_total"] == 1
        assert server.ask("/readyz").status == 200


def test_a_process_that_does_not_answer_is_replaced(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.zeros((40, engine.model.config.d_spec), np.float32)
    (before,) = engine.later([X]).result()
    os.kill(engine.child.pid, signal.SIGSTOP)
    hung = engine.later([X])
    engine.end_if_hung()
    assert engine.child.poll() is None  # not yet
    monkeypatch.setattr(engines, "HUNG", 0.0)
    before_that = engine.child
    while before_that.poll() is None:
        time.sleep(0.01)
        engine.end_if_hung()
    with pytest.raises(Problem, match="has died, and another one has begun") as told:
        hung.result()
    assert (told.value.code, told.value.status) == ("network_died", 503)
    (after,) = engine.later([X]).result()
    np.testing.assert_array_equal(before["emotion"], after["emotion"])
    assert engine.measures.total("networks_died_total") == 1


def test_a_process_that_does_not_start_is_told(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "MODULE", "nowhere")
    with pytest.raises(ValueError, match="does not start"):
        Engine(model, Measures()).check()


def test_the_process_finds_modules_where_the_server_does(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit('not the one of Python')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    engine = Engine(model, Measures())
    engine.check()
    engine.stop()


def test_where_no_other_process_can_be_had_all_are_told_until_one_can(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.zeros((40, engine.model.config.d_spec), np.float32)

    def none(*_: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(child, "started", none)
        os.kill(engine.child.pid, signal.SIGKILL)
        for _ in range(3):
            with pytest.raises(Problem, match="has died"):
                engine.later([X]).result()
    with pytest.raises(Problem, match="has died"):  # and with it another one begins
        engine.later([X]).result()
    assert engine.later([X]).result()[0]["emotion"] is not None


def test_a_process_that_is_late_says_nothing_of_what_others_asked(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    X = [np.full((40, engine.model.config.d_spec), k, np.float32) for k in range(3)]
    before = [engine.later([x]).result()[0]["emotion"] for x in X]
    monkeypatch.setattr(engines, "STARTS", 0.0)
    os.kill(engine.child.pid, signal.SIGKILL)
    with pytest.raises(Problem, match="has died"):
        engine.later([X[0]]).result()
    monkeypatch.setattr(engines, "STARTS", 60.0)
    with pytest.raises(Problem, match="has died"):
        engine.later([X[0]]).result()
    for x, expected in zip(X, before, strict=True):
        np.testing.assert_array_equal(engine.later([x]).result()[0]["emotion"], expected)


def test_windows_that_are_too_much_are_told_alone(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    X, run = np.zeros((40, model.config.d_spec), np.float32), Model.run

    def too_much(model: Model, inputs: list[Array]) -> list[dict[str, Array | None]]:
        if any(len(x) > 50 for x in inputs):
            raise MemoryError
        return run(model, inputs)

    monkeypatch.setattr(Model, "run", too_much)
    good, bad = Network(model).answer([[X], [np.zeros((60, model.config.d_spec), np.float32)]]).found
    assert isinstance(good, list)
    assert isinstance(bad, MemoryError)


def test_what_waits_is_cancelled_when_the_engine_stops(engine: Engine) -> None:
    os.kill(engine.child.pid, signal.SIGSTOP)
    X = np.zeros((40, engine.model.config.d_spec), np.float32)
    first = engine.later([X] * engines.AT_ONCE)
    while not first.running():
        time.sleep(0.01)
    second = engine.later([X])
    engine.stop()
    assert not engine.thread.is_alive()
    with pytest.raises(CancelledError):
        first.result()
    assert second.cancelled()
    assert engine.later([X]).cancelled()


# While it is busy


class Busy:
    """An engine that answers when it is told to."""

    def __init__(self, model: Model) -> None:
        self.model, self.told, self.left = model, list[tuple[Array | None, Future[list[Event]]]](), list[int]()

    def begin(self, *_: object) -> int:
        return 5

    def leave(self, stream: int) -> None:
        self.left.append(stream)

    def hear(self, stream: int, x: Array | None) -> Future[list[Event]]:
        assert stream == 5
        self.told.append((x, Future()))
        return self.told[-1][1]


async def listening(busy: Busy, said: list[object]) -> Session:
    found = Session("one", busy, Settings(ahead_seconds=60), Measures(), said.append)  # pyright: ignore[reportArgumentType]
    await found.receive('{"type": "session.update", "rate": 16000, "format": "f32le"}')
    return found


async def turns() -> None:
    """Of the loop, for all that has something to do."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_sound_that_comes_while_other_is_heard_is_heard_together(model: Model) -> None:
    x, busy = sound(RATE, 3), Busy(model)
    size, little = RATE // 10, round(AT_ONCE * RATE / 2)

    async def work() -> None:
        live = await listening(busy, [])
        await live.receive(x[:little].tobytes())
        await turns()
        assert not busy.told  # too little to be worth a turn
        for start in range(0, 5 * size, size):
            await live.receive(x[start : start + size].tobytes())
            await turns()
        assert len(busy.told) == 1
        busy.told[0][1].set_result([])
        await turns()
        assert [len(x) for x, _ in busy.told if x is not None] == [little + size, 4 * size]
        held = asyncio.ensure_future(live.receive(sound(round(2.5 * HELD * RATE), 4).tobytes()))
        await turns()
        assert not held.done()  # no more is read
        for turn in range(1, 5):
            busy.told[turn][1].set_result([])
            await turns()
        await held
        assert [len(x) for x, _ in busy.told[2:] if x is not None] == [RATE * HELD, RATE * HELD, RATE * HELD / 2]
        live.leave()
        assert busy.left == [5]

    run(work())


def test_a_stream_that_fails_ends_its_session_though_nothing_more_is_said(model: Model) -> None:
    busy = Busy(model)

    async def work() -> None:
        live = await listening(busy, [])
        await live.receive(sound(RATE, 3).tobytes())
        await turns()
        busy.told[0][1].set_exception(ValueError("the numbers overflow"))
        await turns()
        with pytest.raises(Problem, match="overflow") as told:
            live.tick()
        assert (told.value.code, told.value.close) == ("unanswerable", 1011)
        with pytest.raises(Problem, match="overflow"):
            await live.receive(sound(RATE, 3).tobytes())
        other = await listening(busy, [])
        await other.receive(sound(RATE, 3).tobytes())
        await turns()
        busy.told[1][1].set_exception(MemoryError())
        await turns()
        with pytest.raises(Problem, match="the server failed"):
            other.tick()

    run(work())


def test_nothing_is_said_after_the_end(model: Model) -> None:
    busy, said = Busy(model), list[object]()

    async def work() -> None:
        live = await listening(busy, said)
        await live.receive(sound(RATE, 3).tobytes())
        await turns()
        live.close("client")
        busy.told[0][1].set_result([Event("answer", 0.0, 1.0, "angry", {"angry": 1.0})])
        await turns()
        assert [message["type"] for message in said] == ["session.closed"]  # pyright: ignore[reportIndexIssue]

    run(work())

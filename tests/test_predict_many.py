"""Many recordings: both engines, in order, with the bad ones told; one model in many threads."""

import contextlib
import dataclasses
import io
import itertools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import GENDERS, RATE, SMALL, network, recording, sound

from npser import lite, predict_many
from npser.networks.li2019 import PRESETS, Config
from npser.prediction import unreadable
from npser.threads import single_threaded_blas


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    """Eleven: short ones, long ones, silent ones."""
    lengths = [9000, 4000, 37_000, 5000, 12_000, 16_000, 16_001, 6000, 30_000, 7000, 8000]
    paths = [recording(tmp_path / f"{i}.wav", sound(n, i)) for i, n in enumerate(lengths)]
    recording(paths[3], np.zeros(5000))
    return paths


@pytest.mark.parametrize("config", [SMALL, dataclasses.replace(SMALL, pad=True, attention=False, max_seconds=0.7)])
@pytest.mark.parametrize("genders", [None, GENDERS])
def test_the_engines_give_the_same_predictions(
    tmp_path: Path, recordings: list[Path], config: Config, genders: list[str] | None
):
    trained = network(tmp_path, config, genders, temperature=1.7).lite
    one_by_one, shards = (list(trained.predict_many(recordings, engine=engine)) for engine in ("lite", "numba"))
    assert len(one_by_one) == len(shards) == 11
    for a, b, path in zip(one_by_one, shards, recordings, strict=True):
        assert a.timeline == trained.predict(path).timeline
        assert (a.emotion, a.gender, a.reason, a.seconds) == (b.emotion, b.gender, b.reason, b.seconds)
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)
        assert (a.gender_probabilities or {}) == pytest.approx(b.gender_probabilities or {}, abs=1e-5)
        for x, y in zip(a.timeline, b.timeline, strict=True):
            assert (x.start, x.end, x.emotion, x.reason) == (y.start, y.end, y.emotion, y.reason)
            assert x.probabilities == pytest.approx(y.probabilities, abs=1e-5)
            assert x.gender_probabilities == pytest.approx(y.gender_probabilities, abs=1e-5)
    assert [p.reason for p in shards[:4]] == [None, "shorter than 0.3 s", None, "silence"]


def test_the_number_of_threads_does_not_show(tmp_path: Path, recordings: list[Path]):
    trained = network(tmp_path).lite
    expected = list(trained.predict_many(recordings, engine="numba", threads=1))
    for threads in (2, 5):
        assert list(trained.predict_many(recordings, engine="numba", threads=threads)) == expected


@pytest.mark.parametrize("engine", ["lite", "numba"])
def test_a_bad_file_is_told_in_its_place_and_the_others_go_on(tmp_path: Path, recordings: list[Path], engine: str):
    trained = network(tmp_path).lite
    recordings[1].write_text("no sound")
    recordings[5].unlink()
    found = list(trained.predict_many(recordings, engine=engine))
    assert [p.error is not None for p in found] == [i in (1, 5) for i in range(11)]
    assert "1.wav: is not an audio file" in str(found[1].error)
    assert "5.wav: cannot be opened" in str(found[5].error)
    assert (found[5].emotion, found[5].reason, found[5].probabilities, found[5].timeline) == (None, None, {}, [])
    for p, path in zip(found, recordings, strict=True):
        assert p.error or p.probabilities == pytest.approx(trained.predict(path).probabilities, abs=1e-5)


@pytest.mark.parametrize("engine", ["lite", "numba"])
def test_predictions_are_taken_from_any_iterable_as_they_come(tmp_path: Path, engine: str):
    trained = network(tmp_path).lite
    endless = trained.predict_many((sound(9000, i) for i in itertools.count()), RATE, engine)
    first = next(endless), next(endless)
    assert [p.probabilities for p in first] == [
        pytest.approx(trained.predict(sound(9000, i), RATE).probabilities, abs=1e-5) for i in (0, 1)
    ]
    endless.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert list(trained.predict_many([], engine=engine)) == []


def test_auto_takes_the_engine_for_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trained, calls = network(tmp_path).lite, []
    monkeypatch.setattr(predict_many, "predict", lambda *arguments: calls.append(arguments) or iter([]))
    assert len(list(trained.predict_many([sound(5000)] * (lite.MANY - 1), RATE))) == lite.MANY - 1
    assert len(list(trained.predict_many(iter([sound(5000)] * lite.MANY), RATE))) == lite.MANY  # who knows how many
    assert calls == []
    assert list(trained.predict_many([sound(5000)] * lite.MANY, RATE)) == []
    assert len(calls) == 1


def test_what_makes_no_sense_is_refused(tmp_path: Path):
    trained = network(tmp_path).lite
    for audio, engine, threads, words in (
        ("a.wav", "auto", None, "is one recording, of type str"),
        (tmp_path, "auto", None, "is one recording"),
        (sound(5000), "auto", None, "is one recording, of type ndarray"),
        (io.BytesIO(), "auto", None, "is one recording, of type BytesIO"),
        ([], "gpu", None, "engine is 'gpu'"),
        ([], "numba", 0, "threads is 0"),
    ):
        with pytest.raises(ValueError, match=words):
            trained.predict_many(audio, None, engine, threads)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("config", "predictions", "blas"), [(SMALL, 1000, single_threaded_blas), (PRESETS["default"], 100, contextlib.nullcontext)]
)
def test_one_model_serves_sixteen_threads(tmp_path: Path, config: Config, predictions: int, blas: Any):
    trained = network(tmp_path, config).lite
    sounds = [sound(6000 + 500 * i, i) for i in range(20)]
    with blas(), ThreadPoolExecutor(16) as pool:  # its threads and ours, on few cores, wait for each other
        alone = [trained.predict(x, RATE) for x in sounds]
        together = list(pool.map(lambda i: trained.predict(sounds[i % 20], RATE), range(predictions)))
    for i, p in enumerate(together):
        assert p.timeline == alone[i % 20].timeline  # to the last bit
        assert p.probabilities == alone[i % 20].probabilities


def test_an_error_without_words_has_the_name_of_its_kind() -> None:
    assert (unreadable(MemoryError()).error, unreadable(ValueError("no sound")).error) == ("MemoryError", "no sound")


LEFT = """
import sys
import numpy as np
from npser import lite
waves = [np.sin(np.arange(8000 + k) / 9).astype(np.float32) for k in range(40)]
predictions = lite.Model(sys.argv[1]).predict_many(waves, 16_000, engine="numba", threads=2)
print(next(predictions).seconds)
"""


def test_a_program_ends_that_has_not_taken_all_predictions(tmp_path: Path, environment: dict[str, str]):
    """Its iterator is closed when the interpreter ends, and no thread can be started any more."""
    command = [sys.executable, "-c", LEFT, str(network(tmp_path).path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.returncode) == ("0.5\n", 0), done.stderr
    assert done.stderr == ""

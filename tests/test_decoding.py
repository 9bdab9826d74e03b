"""The process that decodes uploads: what it may do, what it says, and what is believed of that."""

import contextlib
import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from helpers import RATE, network, recording, sound
from serving import HEARING

from npser.live import child
from npser.live.decoding import PART, READY, Decoder, Limits, handed_over, limits_of
from npser.live.limits import Problem, Settings


def out_of_files(*_: object) -> None:
    raise OSError(24, "Too many open files")


def test_a_decoder_is_confined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(tmp_path, HEARING).lite
    with handed_over(model) as handed:
        settings = Settings(decoder_bytes=700 << 20)
        decoder = Decoder(settings, handed, limits_of(model, settings))
        with contextlib.ExitStack() as stack:
            stack.callback(decoder.end)
            decoder.check()
            limits = Path(f"/proc/{decoder.child.pid}/limits").read_text()
            assert re.search(rf"Max address space +{700 << 20} ", limits)
            assert re.search(r"Max file size +0 ", limits)
            assert re.search(r"Max open files +16 ", limits)
            x = sound(10 * RATE)
            with recording(tmp_path / "a.wav", x).open("rb") as file:
                for taken in (0, 1, 9):  # the next one is not disturbed by what was not taken
                    found = [part for part, _ in zip(decoder.parts(file), range(taken), strict=False) if part is not None]
                    decoder.release()
                    file.seek(0)
            span = next(iter(model.sound(x, RATE)))
            windows, inputs = model.prepared(span)
            assert [(window.samples, window.reason) for window in found[0].windows] == [window[:3:2] for window in windows]
            for one, other in zip(found[0].inputs, inputs, strict=True):
                np.testing.assert_array_equal(one, other)
            assert found[-1].seconds == 10.0
            (tmp_path / "b").write_bytes(b"what is this")
            with (tmp_path / "b").open("rb") as file, pytest.raises(Problem, match="the recording: is not an audio file"):
                next(decoder.parts(file))
            assert decoder.died == 0
            with monkeypatch.context() as patched:
                patched.setattr(child, "started", out_of_files)
                os.kill(decoder.child.pid, signal.SIGKILL)
                decoder.child.wait()
                for _ in range(2):
                    with (tmp_path / "a.wav").open("rb") as file, pytest.raises(Problem, match="come back later") as told:
                        next(decoder.parts(file))
                    assert (told.value.code, told.value.status) == ("decoder_missing", 503)
            with (tmp_path / "a.wav").open("rb") as file:
                assert [part for part in decoder.parts(file) if part is not None][-1].seconds == 10.0
            decoder.end()
            with (tmp_path / "a.wav").open("rb") as file, pytest.raises(Problem, match="the server stops"):
                next(decoder.parts(file))
        if hasattr(os, "memfd_create"):
            with pytest.raises(PermissionError):
                os.pwrite(handed.fileno(), b"x", 0)


FEW = Limits(samples=8000, rows=8, columns=3, all_windows=20)
GOOD = {"seconds": 1.0, "windows": [[400, [[0, 0]], None], [0, [[0, 0]], "silence"]], "frames": [2]}


def test_what_a_decoder_says_is_read() -> None:
    decoder = Decoder.__new__(Decoder)
    decoder.limits = FEW
    found = decoder._part(PART, json.dumps(GOOD).encode(), np.arange(6, dtype=np.float32).tobytes())
    assert [window.reason for window in found.windows] == [None, "silence"]
    assert [X.tolist() for X in found.inputs] == [[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]]


@pytest.mark.parametrize(
    ("kind", "words", "numbers"),
    [
        (READY, json.dumps(GOOD), 6),
        (PART, "{", 6),
        (PART, "[" * 100_000, 6),
        (PART, "[]", 6),
        (PART, "{}", 6),
        (PART, json.dumps(GOOD), 5),
        (PART, json.dumps(GOOD | {"frames": [1, 1]}), 6),
        (PART, json.dumps(GOOD | {"frames": [-2]}), 6),
        (PART, json.dumps(GOOD | {"frames": 2}), 6),
        (PART, json.dumps(GOOD | {"frames": [1e999]}), 6),
        (PART, json.dumps(GOOD | {"seconds": None}), 6),
        (PART, json.dumps(GOOD | {"windows": [[400, [[0]], None]]}), 6),
        (PART, json.dumps(GOOD | {"windows": [[400]]}), 6),
        (PART, json.dumps(GOOD | {"seconds": float("nan")}), 6),
        (PART, json.dumps(GOOD | {"windows": [[400, [[0, float("inf")]], None]]}), 6),
        (PART, json.dumps(GOOD | {"windows": [[400, [], None]]}), 6),
        (PART, json.dumps(GOOD | {"windows": [[9000, [[0, 0]], None]]}), 6),
        (PART, json.dumps(GOOD | {"frames": [9]}), 27),
        (PART, json.dumps(GOOD | {"windows": [[0, [[0, 0]], "silence"]] * 9, "frames": []}), 0),
    ],
)
def test_what_a_decoder_cannot_have_meant_is_not_believed(kind: bytes, words: str, numbers: int) -> None:
    decoder = Decoder.__new__(Decoder)
    decoder.limits = FEW
    with pytest.raises(OSError, match="makes no sense"):
        decoder._part(kind, words.encode(), bytes(4 * numbers))

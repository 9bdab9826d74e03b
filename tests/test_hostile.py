"""Hostile model files and recordings, through the commands: one sentence or an answer, and nothing foreign beside it.

NPSER_FUZZ=N tries N times as many as a run of the suite does.
"""

import csv
import io
import json
import os
import re
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import safetensors.numpy
import soundfile
from helpers import EMOTIONS, SMALL, network, recording, sound

from npser import checkpoint
from npser.commands.cli import main
from npser.lite import Model

TRIES = int(os.environ.get("NPSER_FUZZ", "1"))
MODELS, RECORDINGS, SECONDS = 24 * TRIES, 70 * TRIES, 10.0
Mutator = Callable[[bytes, bytes, np.random.Generator], bytes]
Run = Callable[..., tuple[int, str, str]]


class Hang(BaseException):
    """A command took too long. No Exception: no command shall take it for one of its own."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    def hang(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """``npser WORDS`` in this process: its status, and what stands on the two descriptors, libraries' words included."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str | Path, seconds: float = SECONDS) -> tuple[int, str, str]:
        with warnings.catch_warnings(), time_limit(seconds):
            warnings.simplefilter("always")
            status = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return status, out, err

    return run


# What happens to bytes. Each takes a file, another one, and randomness


def flipped(data: bytes, _: bytes, rng: np.random.Generator) -> bytes:
    """Bits of one of eight regions; the first two are the likeliest."""
    found, region = bytearray(data), len(data) // 8 + 1
    start = region * int(rng.choice(8, p=[0.4, 0.2, *[0.4 / 6] * 6]))
    for at in rng.integers(start, max(start + 1, min(start + region, len(data))), size=rng.integers(1, 9)):
        found[min(at, len(found) - 1)] ^= 1 << rng.integers(8)
    return bytes(found)


def cut(data: bytes, _: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(0, 40)) if rng.random() < 0.2 else 0
    return data[start : int(rng.integers(start, len(data)))]


def spliced(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """The start of one file and the end of another."""
    return data[: rng.integers(len(data))] + other[rng.integers(len(other)) :]


def shuffled(data: bytes, _: bytes, rng: np.random.Generator) -> bytes:
    """Pieces in another order, but often the first one stays the first."""
    ends = np.sort(rng.integers(1, len(data), size=rng.integers(1, 6)))
    pieces = [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]
    first = [pieces.pop(0)] if rng.random() < 0.8 else []
    return b"".join([*first, *(pieces[k] for k in rng.permutation(len(pieces)))])


def renumbered(data: bytes, _: bytes, rng: np.random.Generator) -> bytes:
    """A number of the header: a little more or less, or an extreme."""
    found, size = bytearray(data), int(rng.choice([1, 2, 4, 8]))
    order: Literal["little", "big"] = "little" if rng.random() < 0.5 else "big"
    at = int(rng.integers(4, max(5, min(len(data) - size, 120))))
    number = int.from_bytes(found[at : at + size], order)
    extremes = [0, 1, 256**size - 1, 256**size // 2, number + 1, number - 1, 2 * number, number // 2]
    found[at : at + size] = (extremes[rng.integers(len(extremes))] % 256**size).to_bytes(size, order)
    return bytes(found)


MUTATORS: list[Mutator] = [flipped, cut, spliced, shuffled, renumbered]

# Model files

DEEP = json.loads("[" * 300 + "]" * 300)
VALUES: list[Any] = [None, True, 0, -1, 7, 2**70, 10**400, 1e-300, 1e308, float("nan"), float("inf"), [], {}, [7], [None], [[]]]
VALUES += [{"a": 1}, {"": None}, [1.5, "x"], DEEP, list(range(3000))]
VALUES += ["", "x", "\x1b[31m", "\ud800", "a\nFAKE: line", "long " * 5000]
NUMBERS = [3e38, -3e38, 1e-45, 1e30, 0.0, 1e-38]


def with_other_metadata(data: bytes, _: bytes, rng: np.random.Generator) -> bytes:
    """One value, at any depth, becomes another one, goes, or moves to another name."""
    tensors = safetensors.numpy.load(data)
    about = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["npser"])
    place: Any = about
    while True:
        key = list(place)[rng.integers(len(place))] if isinstance(place, dict) else int(rng.integers(len(place)))
        if rng.random() < 0.35 or not isinstance(place[key], (dict, list)) or not place[key]:
            break
        place = place[key]
    if rng.random() < 0.15:
        del place[key]
    elif rng.random() < 0.1 and isinstance(place, dict):
        place["\x1b[31m"] = place.pop(key)
    else:
        place[key] = VALUES[rng.integers(len(VALUES))]
    return safetensors.numpy.save(tensors, {"npser": json.dumps(about)})


def with_other_numbers(data: bytes, _: bytes, rng: np.random.Generator) -> bytes:
    """Some or all numbers of a tensor are extreme, or a tensor has another type, shape or name."""
    tensors = safetensors.numpy.load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    name = sorted(tensors)[rng.integers(len(tensors))]
    value = tensors[name].copy()
    chosen = rng.random(value.shape) < rng.choice([0.01, 0.5, 1.0])
    value[chosen] = rng.choice(NUMBERS)
    kind = rng.random()
    if kind < 0.1:
        with np.errstate(all="ignore"):
            value = value.astype([np.float64, np.float16, np.int32][rng.integers(3)])
    elif kind < 0.2:
        value = value[..., :-1] if kind < 0.15 else value[None]
    if kind > 0.95:
        tensors["\x1b]0;title\x07"] = value
    tensors[name] = np.ascontiguousarray(value)
    return safetensors.numpy.save(tensors, header["__metadata__"])


def model_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """What was done, and the file."""
    rng = np.random.default_rng(0)
    whole = []
    for k, genders in enumerate((["female", "male"], None)):
        path = network(folder, SMALL, genders).path
        tensors, about = checkpoint.read_tensors(path)
        scores = {"wa": 0.5, "ua": 0.5, "macro_f1": 0.4, "gender_accuracy": None, "confusion": np.eye(4, dtype=int).tolist()}
        about["training"] = {
            "preset": "default", "corpora": ["a", "b"], "speakers": ["a/1"], "seed": k, "licence": "free", "notices": ["note"],
            "versions": {"npser": "1"}, "scores": {"epoch": 3, "validation": scores, "test": scores, "calibration": None},
            "split": {"method": "session", "hash": "0" * 64, "test_session": "a/1", "validation_session": None},
        }  # fmt: skip
        checkpoint.write_tensors(path, tensors, about)
        whole.append(path.read_bytes())
    kinds = [*MUTATORS, *[with_other_metadata] * 5, *[with_other_numbers] * 3]
    yield "whole", whole[0]
    for k in range(MODELS):
        mutate = kinds[k % len(kinds)]
        yield f"{k} {mutate.__name__}", mutate(whole[k % 2], whole[1 - k % 2], rng)


def no_nan(text: str) -> float:
    raise AssertionError(f"{text} in JSON")


def check(words: tuple[str | Path, ...], status: int, out: str, err: str) -> None:
    """What holds of any command: a status, sentences, and rows that a program can read."""
    assert status in (0, 1)
    assert "internal error" not in err, err
    assert all(line.startswith("npser: ") for line in err.splitlines()), err
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", err)
    assert not re.search(r"\bnan\b", out), out  # a refusal may name it
    if "jsonl" in words:
        for line in out.splitlines():
            json.loads(line, parse_constant=no_nan)
    elif "--json" in words and out:
        json.loads(out, parse_constant=no_nan)
    elif "csv" in words and out:
        rows = list(csv.reader(io.StringIO(out, newline="")))
        assert {len(row) for row in rows} == {len(rows[0])}
    else:
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", out), out
        assert not re.search("^FAKE", out, re.MULTILINE)


def test_a_hostile_model_file_is_one_sentence_or_harmless(run: Run, tmp_path: Path) -> None:
    audio, path, page = recording(tmp_path / "a.wav", sound(30_000)), tmp_path / "m.safetensors", tmp_path / "page.html"
    commands: list[tuple[str | Path, ...]] = [
        ("info", path),
        ("info", path, "--json"),
        ("predict", audio, "--model", path),
        ("predict", audio, "--model", path, "--timeline", "--format", "csv"),
        ("predict", audio, "--model", path, "--timeline", "--format", "jsonl"),
        ("explain", audio, "--model", path, "--out", page),
    ]
    refused, status = 0, 0
    for name, content in model_files(tmp_path):
        path.write_bytes(content)
        for words in commands:
            try:
                status, out, err = run(*words)
                check(words, status, out, err)
            except BaseException as error:
                raise AssertionError(f"{name}: npser {' '.join(map(str, words))}: {type(error).__name__}: {error}") from error
            assert name != "whole" or status == 0
            if status == 1:
                sentences = [line for line in err.splitlines() if not line.startswith(("npser: note: ", "npser: warning: "))]
                assert len(sentences) + out.count('"error": ') + out.count("a.wav: ") >= 1, name
                assert words[0] != "info" or str(path) in sentences[0], sentences
        refused += status
    assert 0.5 * MODELS < refused < MODELS  # some damage does not matter


# Recordings

FORMATS = [
    ("wav", "PCM_16"), ("wav", "FLOAT"), ("wav", "MS_ADPCM"), ("wav", "ULAW"), ("wavex", "PCM_24"), ("rf64", "PCM_16"),
    ("flac", "PCM_16"), ("ogg", "VORBIS"), ("ogg", "OPUS"), ("mp3", "MPEG_LAYER_III"),
    ("sds", "PCM_16"), ("sds", "PCM_S8"), ("aiff", "PCM_16"), ("au", "PCM_16"), ("voc", "PCM_16"), ("nist", "PCM_16"),
    ("ircam", "PCM_16"), ("xi", "DPCM_16"), ("mat5", "PCM_16"), ("paf", "PCM_16"), ("htk", "PCM_16"), ("avr", "PCM_16"),
]  # fmt: skip
DOCUMENTED = {"wav", "wavex", "rf64", "flac", "ogg", "mp3"}


def whole_recordings() -> list[tuple[str, bytes]]:
    found = []
    for kind, subtype in FORMATS:
        file = io.BytesIO()
        soundfile.write(file, sound(6400), 48_000 if subtype == "OPUS" else 16_000, subtype, format=kind.upper())
        found.append((kind, file.getvalue()))
    return found


def test_hostile_recordings_are_rows_and_nothing_foreign_is_printed(run: Run, tmp_path: Path) -> None:
    rng, seeds = np.random.default_rng(1), whole_recordings()
    folder, trained = tmp_path / "files", network(tmp_path, SMALL)
    folder.mkdir()
    for k in range(RECORDINGS):
        (kind, data), (_, other) = seeds[k % len(seeds)], seeds[rng.integers(len(seeds))]
        mutate = MUTATORS[rng.integers(len(MUTATORS))]
        tagged = b"ID3\3\0\0\0\0\0\0" if rng.random() < 0.1 else b""  # libsndfile looks for any format after such a tag
        ending = "wav" if rng.random() < 0.7 else {"wavex": "wav", "rf64": "wav"}.get(kind, kind)
        name = f"{k:05} {kind} {mutate.__name__}.{ending}"
        (folder / name).write_bytes(tagged + mutate(data, other, rng))
    paths = sorted(folder.iterdir())
    answers: dict[str, list[dict[str, Any]]] = {}
    for engine in ("lite", "numba"):
        words = ("predict", *paths, "--model", trained.path, "--engine", engine, "--timeline", "--format", "jsonl")
        status, out, err = run(*words, seconds=SECONDS + 0.1 * RECORDINGS)
        rows = [json.loads(line, parse_constant=no_nan) for line in out.splitlines()]  # all of standard output is rows
        answers[engine] = [row for row in rows if "start" not in row]
        assert [row["path"] for row in answers[engine]] == list(map(str, paths))
        said = [line for line in err.splitlines() if "npser" in line or "Traceback" in line]  # mpg123 talks too
        assert all(line.startswith("npser: warning: ") and "internal" not in line for line in said), err
        assert status == 1
    for lite, numba in zip(answers["lite"], answers["numba"], strict=True):
        assert lite.get("error") == numba.get("error")
        assert lite.get("reason") == numba.get("reason")
        assert lite.get("probabilities", {}) == pytest.approx(numba.get("probabilities", {}), abs=1e-5)
    assert any(row.get("emotion") in EMOTIONS for row in answers["lite"])
    for path in paths[:: 1 if TRIES > 1 else 4]:
        words = ("predict", path, "--model", trained.path, "--format", "csv")
        _, out, err = run(*words)
        rows = list(csv.reader(io.StringIO(out, newline="")))
        assert [len(row) for row in rows] == [len(rows[0])] * 2, path.name
        assert "internal error" not in err


@pytest.mark.parametrize(("kind", "subtype"), [(k, s) for k, s in FORMATS if k not in DOCUMENTED])
@pytest.mark.parametrize("tagged", [False, True])
def test_a_format_that_is_not_documented_is_refused_under_any_name(
    tmp_path: Path, kind: str, subtype: str, tagged: bool
) -> None:
    trained, file = network(tmp_path).lite, io.BytesIO()
    soundfile.write(file, sound(6400), 16_000, subtype, format=kind.upper())
    for name in ("a.wav", f"a.{kind}", "a"):
        (tmp_path / name).write_bytes((b"ID3\3\0\0\0\0\0\2xx" if tagged else b"") + file.getvalue())
        with pytest.raises(ValueError, match=rf"{name}: (is not an audio file that can be read|cannot be decoded here)[^\n]+$"):
            trained.predict(tmp_path / name)
    with pytest.raises(ValueError, match="is not an audio file"):
        trained.predict(io.BytesIO(file.getvalue()))


# Numbers that overflow


def overflowing(folder: Path, name: str) -> Path:
    """A model file whose every tensor is finite, and whose answers are not."""
    path = network(folder, SMALL).path
    tensors, about = checkpoint.read_tensors(path)
    if name == "weights":
        tensors["emotion.W"] = np.full_like(tensors["emotion.W"], 3e38)
        tensors["emotion.b"] = np.array([3e38, -3e38, 3e38, 0], np.float32)
        tensors["attn.W_s1"] = np.full_like(tensors["attn.W_s1"], 3e38)
    else:
        tensors[name] = np.full_like(tensors[name], {"norm.std": 1e-45, "norm.mean": 3e38}[name])
        tensors["cnn1.W"] *= 1e3
    checkpoint.write_tensors(path, tensors, about)
    return path


@pytest.mark.parametrize("name", ["weights", "norm.std", "norm.mean"])
def test_a_model_whose_numbers_overflow_answers_nothing(run: Run, corpus: Path, tmp_path: Path, name: str) -> None:
    audio, path, rows = recording(tmp_path / "a.wav", sound(30_000)), overflowing(tmp_path, name), 0
    sentence = f"{path}: the network's numbers overflow on "
    for engine in ("lite", "numba"):
        for form in ("text", "csv", "jsonl"):
            words = ("predict", audio, "--model", path, "--engine", engine, "--format", form, "--timeline")
            status, out, err = run(*words)
            check(words, status, out, err)
            assert status == 1
            assert f"{audio}: {sentence}" in (err if form == "text" else out)
            rows += form == "jsonl" and len(out.splitlines())
    assert rows == 2  # one for each engine, and none for windows
    status, out, err = run("explain", audio, "--model", path, "--out", tmp_path / "page.html")
    assert (status, out) == (1, "")
    assert err.startswith(f"npser: {sentence}")
    assert not (tmp_path / "page.html").exists()
    status, out, err = run("evaluate", path, corpus, "--cache", tmp_path / "cache")
    assert (status, out) == (1, "")
    assert err.startswith(f"npser: {sentence}")
    with pytest.raises(ValueError, match="numbers overflow"):
        Model(path).predict(audio)


# What may wait for ever, and what cannot be read


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
@pytest.mark.parametrize(
    "words",
    [
        ("info", "pipe"),
        ("info", "/dev/zero"),
        ("predict", "a.wav", "--model", "pipe"),
        ("predict", "--from-file", "pipe"),
        ("predict", "pipe"),
        ("explain", "a.wav", "--model", "pipe", "--out", "page.html"),
        ("explain", "pipe", "--out", "page.html"),
        ("evaluate", "pipe", "."),
        ("export", "pipe", "model.onnx"),
        ("train", "--config", "pipe"),
    ],
)
def test_pipes_and_devices_are_refused(run: Run, tmp_path: Path, words: tuple[str, ...]) -> None:
    os.mkfifo(tmp_path / "pipe")
    recording(tmp_path / "a.wav", sound(9000))
    if "export" in words:
        pytest.importorskip("onnx")
    status, out, err = run(*words)
    assert (status, out) == (1, "")
    name = "/dev/zero" if "/dev/zero" in words else "pipe"
    assert err.splitlines()[-1].startswith(f"npser: {name}: is a pipe or a device; expected ")


def test_a_folder_that_cannot_be_read_is_a_row(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, scandir = network(tmp_path), os.scandir
    for name in ("calls/a.wav", "calls/locked/b.wav", "locked/c.wav", "d.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        recording(tmp_path / name, sound(9000))

    def guarded(path: Any = ".") -> Any:  # what mode 0 does to all but root
        if os.path.basename(path) == "locked":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    for engine in ("lite", "numba"):
        words = ("predict", "calls", "locked", "d.wav", "--model", trained.path, "--json", "--engine", engine)
        status, out, _ = run(*words)
        rows = {row["path"]: row.get("error") for row in map(json.loads, out.splitlines())}
        assert status == 1
        assert rows == {
            "calls/a.wav": None,
            "calls/locked": "calls/locked: cannot be opened (Permission denied)",
            "locked": "locked: cannot be opened (Permission denied)",
            "d.wav": None,
        }


def test_a_list_that_is_no_text_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"a.wav\nb\0c.wav\n")
    status, out, err = run("predict", "--from-file", "list")
    assert (status, out) == (1, "")
    assert err == "npser: --from-file list: holds null bytes, so it is no text; expected a path on each line\n"


def test_a_label_and_a_name_make_no_lines_of_their_own(run: Run, tmp_path: Path) -> None:
    labels = {"emotion": ["happy\nFAKE: line", "sad\x1b[31m", "x", "y"], "gender": ["female", "male\r"]}
    trained = network(tmp_path, SMALL)
    tensors, about = checkpoint.read_tensors(trained.path)
    checkpoint.write_tensors(trained.path, tensors, {**about, "labels": labels, "training": {"notices": ["note\x1b]0;\x07"]}})
    audio = recording(tmp_path / "a\nFAKE\x1b[31m.wav", sound(30_000))
    status, out, err = run("predict", audio.name, "nowhere\x1b.wav", "--model", trained.path, "--timeline")
    assert status == 1
    check(("predict",), status, out, err)
    assert out.startswith("a\\nFAKE\\x1b[31m.wav: ")
    assert "    happy\\nFAKE: line  0." in out
    assert err.startswith("npser: note: note\\x1b]0;\\x07\nnpser: nowhere\\x1b.wav: cannot be opened")
    _, out, _ = run("predict", audio.name, "--model", trained.path, "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(out, newline=""))  # for programs: every byte as it is
    assert row["path"] == audio.name
    assert "p_happy\nFAKE: line" in row

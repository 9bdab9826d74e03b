"""Damaged and hostile files: each ends in a row, of an answer or of one sentence; nothing crashes, and memory stays small."""

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import SMALL, network, sound, watched

CASES = 2000
SEEDS = [
    ("wav", "PCM_16", 16_000, 1),
    ("wav", "PCM_24", 44_100, 2),
    ("wav", "FLOAT", 8000, 1),
    ("wav", "IMA_ADPCM", 16_000, 1),
    ("wav", "GSM610", 8000, 1),
    ("wavex", "PCM_16", 16_000, 32),
    ("flac", "PCM_16", 16_000, 1),
    ("flac", "PCM_24", 48_000, 2),
    ("ogg", "VORBIS", 16_000, 1),
    ("ogg", "OPUS", 48_000, 2),
    ("mp3", "MPEG_LAYER_III", 44_100, 2),
    ("aiff", "PCM_16", 22_050, 1),
    ("au", "PCM_16", 8000, 1),
    ("w64", "PCM_16", 16_000, 1),
    ("caf", "PCM_16", 16_000, 1),
    ("rf64", "PCM_16", 16_000, 1),
]
NUMBERS = [0, 1, 2, 33, 0x7FFF, 0xFFFF, 768_000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF]


def seed_files() -> list[tuple[str, bytes]]:
    """(ending, content) of a third of a second in each format."""
    found = []
    for kind, subtype, rate, channels in SEEDS:
        x = np.repeat(sound(round(0.35 * rate), rate=rate)[:, None], channels, axis=1)
        file = io.BytesIO()
        soundfile.write(file, x, rate, subtype, format=kind)
        found.append(({"wavex": "wav", "rf64": "wav"}.get(kind, kind), file.getvalue()))
    return found


def damaged(content: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """content as a broken disk, a broken program or a bad person would leave it."""
    data = bytearray(content)
    head = min(len(data), 200)
    if kind == "cut":
        return bytes(data[: rng.integers(head if rng.random() < 0.5 else len(data))])
    if kind == "flip":
        reach = head if rng.random() < 0.7 else len(data)
        for at in rng.integers(reach, size=rng.integers(1, 20)):
            data[at] ^= 1 << rng.integers(8)
    if kind == "number":  # a length, a rate, a number of channels that nobody means
        order, size = ("<", ">")[rng.integers(2)], ("H", "I", "Q")[rng.integers(3)]
        number = int(rng.choice(NUMBERS)) if size != "Q" else int(rng.choice([2**36 - 1, 2**62, 2**64 - 1]))
        data[(at := rng.integers(4, head - 8)) : at + struct.calcsize(size)] = struct.pack(
            order + size, number & (2 ** (8 * struct.calcsize(size)) - 1)
        )
    if kind == "noise":
        start = rng.integers(0, 12) if rng.random() < 0.8 else 0  # often the name of the format is left
        data[start:] = rng.bytes(int(rng.integers(1, 5000)))
    if kind == "twice":
        data = data[: rng.integers(head, len(data))] + data
    return bytes(data)


def wav_header(rate: int, channels: int, claimed: int = 3200, bits: int = 16) -> bytes:
    """A header, and some sound after it."""
    form = struct.pack("<HHIIHH", 1, channels, rate, 0xFFFFFFFF & rate * channels * 2, channels * 2 & 0xFFFF, bits)
    samples = (8000 * sound(6400)).astype("<i2").tobytes()
    riff = b"RIFF" + struct.pack("<I", claimed + 36 & 0xFFFFFFFF)
    return riff + b"WAVEfmt \x10\0\0\0" + form + b"data" + struct.pack("<I", claimed) + samples


def cases() -> dict[str, bytes]:
    """File names and contents, the same at every run."""
    rng, seeds = np.random.default_rng(0), seed_files()
    files = {
        "0 channels.wav": wav_header(16_000, 0),
        "33 channels.wav": wav_header(16_000, 33),
        "65535 channels.wav": wav_header(16_000, 65_535),
        "0 Hz.wav": wav_header(0, 1),
        "1 Hz.wav": wav_header(1, 1),
        "768 kHz.wav": wav_header(768_000, 1),
        "4 GHz.wav": wav_header(0xFFFFFFFF, 1),
        "4 GiB claimed.wav": wav_header(16_000, 1, 0xFFFFFFFE),
        "0 bytes claimed.wav": wav_header(16_000, 1, 0),
        "0 bits.wav": wav_header(16_000, 1, bits=0),
        "empty.wav": b"",
        "32 channels.wav": wav_header(16_000, 32, 12_800),
    }
    while len(files) < CASES:
        ending, content = seeds[rng.integers(len(seeds))]
        kind = ("cut", "flip", "number", "noise", "twice")[rng.integers(5)]
        files[f"{len(files):04d} {kind}.{ending}"] = damaged(content, kind, rng)
    return files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "files"
    folder.mkdir()
    for name, content in cases().items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("engine", ["lite", "numba"])
def test_every_file_ends_in_a_row(environment: dict[str, str], folder: Path, tmp_path: Path, engine: str):
    words = ("predict", folder, "--model", network(tmp_path, SMALL).path, "--json", "--engine", engine)
    done, megabytes = watched(*words, environment=environment, cwd=tmp_path)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(row["path"]).name for row in rows] == sorted(path.name for path in folder.iterdir())
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if "npser" in line or "Traceback" in line]  # libmpg123 talks too
    assert all(line.startswith("npser: warning: ") for line in said), done.stderr
    answers = [row for row in rows if "error" not in row]
    assert 0.2 * CASES < len(answers) < 0.8 * CASES  # some damage does not matter
    for row in rows:
        if "error" in row:
            assert row["error"].startswith(row["path"] + ": ")
            assert "\n" not in row["error"]
        else:
            assert row["reason"] or sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    named = {Path(row["path"]).stem: row for row in rows}
    for name, words in (("1 Hz", "1 Hz"), ("768 kHz", "768000 Hz"), ("33 channels", "33 channels"), ("empty", "empty")):
        assert words in named[name]["error"]
    assert "error" not in named["32 channels"]
    assert megabytes < (150 if engine == "lite" else 400)

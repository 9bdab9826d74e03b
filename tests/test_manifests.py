"""Manifests of other tools are read or refused in one sentence, what is not used is named, and hostile ones do no harm."""

import os
import random
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import tree

from npser.corpora import manifest, read

HEADER = "path,emotion,speaker"
NAMES = ("wav/a.wav", "wav/b.wav", "wav/c.wav")
ROWS = [f"{NAMES[0]},joy,s1", f"{NAMES[1]},sad,s2", f"{NAMES[2]},anger,s1"]


def written(folder: Path, content: str | bytes) -> Path:
    """A manifest, and the three recordings beside it."""
    path = tree(folder, *NAMES) / "m.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ValueError, match=r"^[^\n]{1,1000}$") as caught:
        read(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


EXPECTED = [("a.wav", "happy", "m/s1"), ("b.wav", "sad", "m/s2"), ("c.wav", "angry", "m/s1")]

# Columns


@pytest.mark.parametrize("speaker", ["speaker", "speaker_id", "speakers", "spk", "Speaker ID"])
@pytest.mark.parametrize("gender", ["gender", "sex"])
def test_speakers_and_genders_have_several_names(tmp_path: Path, speaker: str, gender: str):
    (found,), _ = read(written(tmp_path, f"wav,emotion,{speaker},{gender}\nwav/a.wav,sad,7,F\n"))
    assert (found.speaker, found.gender) == ("m/7", "female")


def test_columns_that_are_not_used_are_named_in_one_line(tmp_path: Path):
    path = written(tmp_path, "Age,,path,emotion,Text\n30,0,wav/a.wav,sad,hello\n")
    with pytest.warns(UserWarning, match=r"m\.csv: not used: columns Age, Text$") as told:
        read(path)
    assert len(told) == 1


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("path,emotion,emotion", "two columns emotion"),
        ("path,Path,emotion", "two columns path"),
        ("path,file,emotion", "the columns path and file, which mean the same"),
        ("path,emotion,label", "the columns emotion and label"),
        ("path,emotion,speaker_id,spk", "the columns speaker_id and spk"),
        ("path,emotion,note,note", "two columns note"),
    ],
)
def test_two_columns_for_one_thing_are_refused(tmp_path: Path, header: str, words: str):
    assert words in refusal(written(tmp_path, f"{header}\nwav/a.wav,sad,sad,sad\n"))


def test_unnamed_columns_and_rows_of_separators_are_none(tmp_path: Path):
    found, _ = read(written(tmp_path, ",path,emotion,\n0,wav/a.wav,sad,\n,,,\n\n"))
    assert [u.emotion for u in found] == ["sad"]
    assert "no column path" in refusal(written(tmp_path, ",,,\n,,\n"))


def test_rows_that_are_parts_of_a_file_are_refused(tmp_path: Path):
    header = "file,start,end,emotion\n"
    parts = "wav/a.wav,0 days 00:00:00,0 days 00:00:02.5,sad\nwav/a.wav,0 days 00:00:02.5,0 days 00:00:04,sad\n"
    assert "line 2 is a part of its file (start, end); parts are not read" in refusal(written(tmp_path, header + parts))
    assert "line 3 is a part" in refusal(written(tmp_path, header + "wav/a.wav,0,,sad\nwav/b.wav,1.5,,sad\n"))
    whole = "wav/a.wav,0 days,NaT,sad\nwav/b.wav,0,,joy\nwav/c.wav,,,joy\n"
    assert len(read(written(tmp_path, header + whole))[0]) == 3


# Cells


def test_genders_that_are_neither_are_unknown_and_counted(tmp_path: Path):
    rows = "wav/a.wav,sad,child\nwav/b.wav,sad,u\nwav/c.wav,joy,woman\n"
    with pytest.warns(UserWarning, match=r"2 rows have a gender that is neither female nor male \('child', 'u'\)") as told:
        found, _ = read(written(tmp_path, f"path,emotion,gender\n{rows}"))
    assert [u.gender for u in found] == [None, None, "female"]
    assert len(told) == 1


def test_numbers_are_no_split_and_other_words_are_refused(tmp_path: Path):
    header = "path,emotion,split\n"
    with pytest.warns(UserWarning, match=r"not used: column split, which holds numbers \(0, 1\)"):
        found, _ = read(written(tmp_path, f"{header}wav/a.wav,sad,0\nwav/b.wav,sad,1\nwav/c.wav,sad,0\n"))
    assert {u.split for u in found} == {None}
    assert "line 3: split is '0'" in refusal(written(tmp_path, f"{header}wav/a.wav,sad,train\nwav/b.wav,sad,0\n"))
    assert "line 2: split is 'fold_a'; write train" in refusal(written(tmp_path, f"{header}wav/a.wav,sad,fold_a\n"))


def test_backslashes_separate_folders_unless_the_name_has_them(tmp_path: Path):
    tree(tmp_path, "wav\\odd.wav")
    found, _ = read(written(tmp_path, "path,emotion\nwav\\a.wav,sad\n.\\wav\\b.wav,sad\nwav\\odd.wav,joy\n"))
    assert [u.path.name for u in found] == ["a.wav", "b.wav", "wav\\odd.wav"]


def test_a_recording_is_the_same_however_its_path_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ways = (
        "wav/a.wav",
        "./wav/a.wav",
        "wav//a.wav",
        "wav/../wav/a.wav",
        f"../{tmp_path.name}/wav/a.wav",
        f"{tmp_path}/wav/a.wav",
    )
    path = written(tmp_path, "path,emotion\n" + "".join(f"{way},sad\n" for way in ways))
    monkeypatch.chdir(tmp_path)
    assert len(read(path)[0]) == len(read(Path("m.csv"))[0]) == 1
    for way in ways[1:]:
        assert "lines 2 and 3 list" in refusal(written(tmp_path, f"path,emotion\nwav/a.wav,sad\n{way},joy\n"))


def test_the_name_of_a_missing_file_is_told_to_its_end(tmp_path: Path):
    name = f"{'deep/' * 30}gone.wav"
    assert f"names {tmp_path}/{name}, which is not a file" in refusal(written(tmp_path, f"path,emotion\n{name},sad\n"))


def test_a_pipe_is_no_manifest(tmp_path: Path):
    os.mkfifo(tmp_path / "m.csv")
    assert "is a pipe or a device" in refusal(tmp_path / "m.csv")
    os.mkfifo(tmp_path / "manifest.csv")
    assert manifest.find(tree(tmp_path, "sad/a.wav")) is None


def test_a_million_rows_have_room_in_a_gigabyte(tmp_path: Path):
    rows = [f"wav/recording-{i:07d}.wav,{('joy', 'sad')[i % 2]},speaker {i // 10},{i},{'fm'[i % 2]}" for i in range(2000)]
    (tmp_path / "m.csv").write_text("path,emotion,speaker,dialogue,gender\n" + "\n".join(rows))
    tree(tmp_path, *(row.partition(",")[0] for row in rows))
    manifest.read(tmp_path / "m.csv")  # what is kept between calls
    tracemalloc.start()
    try:
        manifest.read(tmp_path / "m.csv")
        assert tracemalloc.get_traced_memory()[1] < 1000 * len(rows)
    finally:
        tracemalloc.stop()


# Hostile ones: each mutator with what must come of it, the right answer (None), words of a refusal, or either ("")

Mutator = Callable[[random.Random], bytes]
TEXT = "\n".join([HEADER, *ROWS, ""])


def flipped(rng: random.Random) -> bytes:
    content = bytearray(TEXT.encode())
    for _ in range(rng.randrange(1, 8)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


def shuffled(rng: random.Random) -> bytes:
    end, mark = rng.choice(("\n", "\r\n", "\r")), rng.choice(",;\t")
    return end.join([HEADER, *rng.sample(ROWS, 3)]).replace(",", mark).encode()


def blank_lines(rng: random.Random) -> bytes:
    lines = [HEADER, *ROWS]
    for _ in range(5):
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(("", ",,", "  ", ",,,,,")))
    return "\n".join(lines).encode()


def inserted(text: str, errors: str = "strict") -> Mutator:
    """Some text at a random place behind the header."""
    return lambda rng: (
        TEXT[: (place := rng.randrange(len(HEADER) + 1, len(TEXT)))].encode()
        + text.encode("utf-8", errors)
        + TEXT[place:].encode()
    )


def in_path(text: str) -> Mutator:
    return lambda rng: "\n".join([HEADER, *ROWS[: rng.randrange(3)], f'"{text}",sad,s1', ""]).encode()


HOSTILE: dict[str, tuple[Mutator, str | None]] = {
    "flipped": (flipped, ""),
    "cut": (lambda rng: TEXT.encode()[: rng.randrange(len(HEADER), len(TEXT))], ""),
    "noise": (lambda rng: rng.randbytes(2000), "m.csv"),
    "shuffled": (shuffled, None),
    "blank lines": (blank_lines, None),
    "utf-16": (lambda rng: TEXT.encode(rng.choice(("utf-16", "utf-16-le", "utf-16-be"))), "text; save the manifest as CSV"),
    "latin-1": (lambda rng: TEXT.replace("s1", "ö").encode("latin-1"), "is not UTF-8 text"),
    "mark": (lambda rng: b"\xef\xbb\xbf" + TEXT.encode(), None),
    "nul": (inserted("\0"), "is not text"),
    "surrogate": (inserted("\ud800", "surrogatepass"), "is not UTF-8 text"),
    "header only": (lambda rng: HEADER.encode() + rng.choice((b"", b"\n", b"\r\n\r\n")), "has no rows"),
    "doubled": (lambda rng: TEXT.replace("speaker", rng.choice(("path", "emotion")), 1).encode(), "columns"),
    "backslashes": (lambda rng: TEXT.replace("wav/", rng.choice(("wav\\", ".\\wav\\"))).encode(), None),
    "quote": (inserted('"'), ""),
    "huge": (in_path("x" * 200_000), "is not CSV"),
    "long": (in_path("long" * 2_000), "which is not a file"),
    "lines": (in_path("a\n\r\n\x1b[31mb\u2028.wav"), "which is not a file"),
    "fields": (lambda rng: (TEXT + rng.choice(ROWS) + ",1,2,3").encode(), "fields and the header 3"),
    "columns": (lambda rng: "\n".join([HEADER + "".join(f",x{i}" for i in range(5000)), *ROWS]).encode(), None),
    "device": (in_path("/dev/zero"), "/dev/zero, which is not a file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_manifests_are_refused_in_one_line_or_answered_right(tmp_path: Path, name: str):
    mutate, outcome = HOSTILE[name]
    for seed in range(3):
        path = written(tmp_path, mutate(random.Random(f"{name} {seed}")))
        before = time.process_time()
        problem, found = answered(path)
        assert time.process_time() - before < 2
        if outcome:
            assert outcome in problem
        if outcome is None:
            assert (problem, sorted(found)) == ("", EXPECTED)
        assert {row[0] for row in found} <= {"a.wav", "b.wav", "c.wav"}


def answered(path: Path) -> tuple[str, list[tuple[str, str, str | None]]]:
    """The sentence by which a manifest is refused, or what it says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = read(path)[0]
        except ValueError as error:
            problem = str(error)
        else:
            return "", [(u.path.name, u.emotion, u.speaker) for u in found]
    assert str(path) in problem
    assert len(problem.splitlines()) == 1
    assert len(problem) < 1000
    return problem, []

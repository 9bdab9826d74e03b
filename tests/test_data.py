"""`npser data list`, `check` and `convert` as a user runs them."""

import csv
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import Command, one_sentence, report_of, tone, tree, write_manifest

from npser.commands.data import check, convert
from npser.corpora import layouts, manifest, read


@pytest.fixture(scope="module")
def emodb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six speakers of three sessions, three emotions."""
    folder = tmp_path_factory.mktemp("data") / "berlin" / "wav"
    folder.mkdir(parents=True)
    names = [
        f"{speaker}a0{take}{letter}a.wav"
        for speaker in ("03", "08", "09", "10", "11", "13")
        for take in "12"
        for letter in "WTL"
    ]
    for seed, name in enumerate(names):
        tone(folder / name, {"W": 260.0, "T": 120.0, "L": 150.0}[name[5]] + seed, 0.35, seed)
    return folder.parent


def test_list_names_all_layouts(npser: Command):
    lines = npser("data", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(layouts())
    rows = json.loads(npser("data", "list", "--json").stdout)
    sizes = {row["name"]: row["utterances"] for row in rows if row["utterances"]}
    assert sizes == {
        "iemocap": 5531,
        "emodb": 535,
        "ravdess": 1440,
        "cremad": 7442,
        "mspimprov": 7798,
        "nemo": 4481,
        "jl": 2400,
        "cafe": 936,
        "subesco": 7000,
        "urdu": 400,
        "savee": 480,
        "tess": 2800,
        "emovo": 588,
        "esd": 35000,
    }


def test_check_counts_classes_sessions_speakers_and_durations(npser: Command, emodb: Path):
    shown = npser("data", "check", emodb, status=1)
    assert shown.stderr == ""
    assert "36 utterances of emodb" in shown.stdout
    assert "emodb/2      4      4    4     12" in shown.stdout
    assert "6: 3 female, 3 male" in shown.stdout
    assert "emodb/09  female  6" in shown.stdout
    assert "mean 0.35 s" in shown.stdout
    assert "emodb: 12 utterances are angry; a whole copy has 127" in shown.stdout
    result = json.loads(npser("data", "check", emodb, "--json", status=1).stdout)
    assert result["emotions"] == {"angry": 12, "bored": 12, "sad": 12}
    assert result["sessions"]["emodb/1"] == {"angry": 4, "bored": 4, "sad": 4}
    assert result["speakers"]["emodb/03"] == {"gender": "male", "utterances": 6}
    assert result["seconds"] == pytest.approx({"total": 12.6, "mean": 0.35, "min": 0.35, "max": 0.35})
    assert result["sample_rates"] == {"16000": 36}
    assert "rates      36 of 16000 Hz" in shown.stdout
    nothing: dict[str, list[str]] = {"unmatched": [], "duplicates": [], "two_genders": []}
    assert {key: result[key] for key in nothing} == nothing
    assert not any(line.startswith(("unmatched", "duplicates", "genders")) for line in shown.stdout.splitlines())


def test_check_names_what_is_odd_about_files_and_speakers(npser: Command, tmp_path: Path):
    folder = tree(tmp_path / "odd", "sub/kept.WAV")
    for name, rate in (("a.wav", 16000), ("b.wav", 16000), ("c.flac", 8000), ("left.wav", 16000), ("sub/kept.WAV", 16000)):
        soundfile.write(folder / name, np.full(800, len(name) / 100, np.float32), rate)
    rows = [("a.wav", "female"), ("b.wav", "male"), ("c.flac", "male")]
    write_manifest(folder / "manifest.csv", [{"path": p, "emotion": "sad", "speaker": "1", "gender": g} for p, g in rows])
    shown = npser("data", "check", "odd").stdout
    assert "rates      1 of 8000 Hz, 2 of 16000 Hz" in shown
    assert "unmatched  2 audio files are none of the utterances" in shown
    assert "the first: odd/left.wav" in shown
    assert "duplicates 1 files are byte-identical to another; the first: odd/a.wav and odd/b.wav" in shown
    assert "genders    1 speakers are female and male: odd/1" in shown
    result = json.loads(npser("data", "check", "odd", "--json").stdout)
    assert result["unmatched"] == ["odd/left.wav", "odd/sub/kept.WAV"]
    assert result["duplicates"] == [["odd/a.wav", "odd/b.wav"]]
    assert result["two_genders"] == ["odd/1"]
    assert result["speakers"] == {"odd/1": {"gender": None, "utterances": 3}}


def test_a_map_changes_what_is_counted_and_converted_and_nothing_is_compared_then(npser: Command, emodb: Path, tmp_path: Path):
    shown = npser("data", "check", emodb, "--map", "boredom=neutral,anger=own").stdout
    assert "counts" not in shown
    npser("data", "convert", emodb, "out.csv", "--map", "bored=neutral")
    assert {u.emotion for u in read(tmp_path / "out.csv")[0]} == {"angry", "neutral", "sad"}
    one_sentence(
        npser("data", "check", emodb, "--map", "calm=neutral", status=1), "--map: no label is calm", "angry, bored, sad"
    )


def test_check_and_convert_do_not_wait_for_a_pipe(npser: Command, tmp_path: Path):
    tone(tree(tmp_path, "mine/sad/a.wav") / "mine" / "sad" / "a.wav", 200)
    os.mkfifo(tmp_path / "mine" / "sad" / "f.wav")
    for words in (("check", "mine", "--corpus", "folder"), ("convert", "mine", "out.csv")):
        assert "f.wav (1 in all) is a pipe" in npser("data", *words, timeout=60).stderr


def test_convert_writes_the_whole_file_or_none(emodb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(ValueError, match=r"out\.csv: cannot be written \(No space left"):
                convert(emodb, tmp_path / "out.csv", None)
        assert list(tmp_path.iterdir()) == []
    seen: list[bool] = []
    monkeypatch.setattr(manifest, "parse", lambda *_: seen.append((tmp_path / "out.csv").exists()) or ([], []))
    with pytest.raises(ValueError, match="zip"):
        convert(emodb, tmp_path / "out.csv", None)
    assert (seen, list(tmp_path.iterdir())) == ([False], [])


def test_check_of_a_corpus_without_known_counts_passes_and_of_bad_files_does_not(npser: Command, corpus: Path, tmp_path: Path):
    shown = npser("data", "check", corpus).stdout
    assert "24 utterances of buzz" in shown
    assert "counts" not in shown
    (tmp_path / "mine" / "sad").mkdir(parents=True)
    tone(tmp_path / "mine" / "sad" / "a.wav", 200)
    (tmp_path / "mine" / "sad" / "b.wav").write_text("no sound")
    shown = npser("data", "check", "mine", status=1).stdout
    assert "unreadable 1 files; the first: mine/sad/b.wav" in shown
    assert "none is known" in shown
    assert json.loads(npser("data", "check", "mine", "--json", status=1).stdout)["sessions"] == {}


@pytest.mark.parametrize("name", ["ravdess", "cremad", "savee", "tess", "emovo", "esd", "emodb"])
def test_check_knows_a_whole_copy_by_its_counts(name: str, tmp_path: Path):
    sound = tmp_path / "sound.wav"
    tone(sound, 200, 0.01)
    layout = layouts()[name]
    scale = 100 if name == "esd" else 1  # 35,000 files take long
    rows = [f"{name}-{emotion}-{i}" for emotion, count in layout.COUNTS[""].items() for i in range(count // scale)]
    (tmp_path / "audio").mkdir()
    for row in rows:
        os.link(sound, tmp_path / "audio" / f"{row}.wav")
    lines = [f"audio/{row}.wav,{row.split('-')[1]},{name}\n" for row in rows]
    (tmp_path / "all.csv").write_text("path,emotion,corpus\n" + "".join(lines))
    (tmp_path / "less.csv").write_text("path,emotion,corpus\n" + "".join(lines[:-1]))
    whole, less = (check(tmp_path / table, None, lambda items, **_: items)["difference"] for table in ("all.csv", "less.csv"))
    emotion, count = list(layout.COUNTS[""].items())[-1]
    if name == "esd":
        assert whole == "esd: 70 utterances are angry; a whole copy has 7000"
    else:
        assert whole is None
        assert less == f"{name}: {count - 1} utterances are {emotion}; a whole copy has {count}"


def test_convert_writes_what_is_known_and_overwrites_nothing(npser: Command, emodb: Path, tmp_path: Path):
    done = npser("data", "convert", emodb, "out.csv", "--json")
    assert json.loads(done.stdout)["utterances"] == 36
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "emotion", "corpus", "speaker", "gender", "session"]
    assert not any(os.path.isabs(row["path"]) for row in rows)
    before = (tmp_path / "out.csv").read_bytes()
    one_sentence(npser("data", "convert", emodb, "out.csv", status=1), "out.csv exists", "remove it")
    assert (tmp_path / "out.csv").read_bytes() == before
    one_sentence(npser("data", "convert", emodb, "nowhere/out.csv", status=1), "nowhere/out.csv", "cannot be written")
    one_sentence(npser("data", "convert", emodb, "other.csv", "--corpus", "tess", status=1), "TESS's OAF_back_angry.wav")
    assert not (tmp_path / "other.csv").exists()


def test_convert_is_the_same_in_the_corpus_s_own_folder_and_behind_a_link(emodb: Path, tmp_path: Path):
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    convert(emodb, tmp_path / "link" / "a.csv", None)
    expected = [(os.path.realpath(u.path), u.emotion, u.speaker, u.session) for u in read(emodb)[0]]
    assert [
        (os.path.realpath(u.path), u.emotion, u.speaker, u.session) for u in read(tmp_path / "link" / "a.csv")[0]
    ] == expected


def test_convert_keeps_odd_names_and_refuses_what_a_manifest_cannot_hold(tmp_path: Path):
    for name in (" happy/a.wav", "sad/ a.wav", 'sad/b,"c".wav', "sad/d\n.wav"):
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).touch()
    convert(tmp_path / "mine", tmp_path / "mine" / "a.csv", None)
    assert [u.path.name for u in read(tmp_path / "mine" / "a.csv")[0]] == ["a.wav", " a.wav", 'b,"c".wav', "d\n.wav"]
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/mine/sad/\xff.wav")).touch()
    except OSError:
        pytest.skip("this disk has UTF-8 names only")
    with pytest.raises(ValueError, match=r"a file whose name is not UTF-8 .*; rename it"):
        convert(tmp_path / "mine", tmp_path / "b.csv", None)
    assert not (tmp_path / "b.csv").exists()


def test_training_from_the_manifest_is_training_from_the_folder(npser: Command, emodb: Path, small: Path, tmp_path: Path):
    npser("data", "convert", emodb, "out.csv")
    words = ("--config", small, "--labels", "all", "--epochs", "2", "--threads", "1")
    npser("train", emodb, *words, "--out", "a")
    npser("train", "out.csv", *words, "--out", "b")
    for name in ("model.safetensors", "metrics.jsonl", "report.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert report_of(tmp_path / "a") == report_of(tmp_path / "b")

"""The layouts of published corpora, each as a small tree: recognised, decoded, refused where it does not fit."""

import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers import Command, one_sentence, tree, write_manifest

from npser.commands.data import convert
from npser.corpora import Utterance, iemocap, layouts, load, manifest, read

FACTS = {  # of each session: angry, happy and excited, neutral, sad; women's turns; improvised turns
    1: (229, 278, 384, 194, 528, 521),
    2: (137, 327, 362, 197, 481, 530),
    3: (240, 286, 320, 305, 522, 627),
    4: (327, 303, 258, 143, 528, 534),
    5: (170, 442, 384, 245, 590, 731),
}
HAPPY = {1: 135, 2: 117, 3: 135, 4: 65, 5: 143}  # of those that are happy or excited; 595 in all
FOUR = re.compile(r"Ses0[1-5][FM]_(impro0[1-8][ab]?|script0[1-3]_[1-3]b?)_[FM]\d{3}")


def brief(folder: Path, corpus: str | None = None) -> list[tuple[str, str, str | None, str | None]]:
    """Name, emotion, speaker and gender of each."""
    return [(u.path.name, u.emotion, u.speaker, u.gender) for u in read(folder, corpus)[0]]


def refusal(folder: Path, corpus: str | None = None) -> str:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        read(folder, corpus)
    return str(caught.value)


# IEMOCAP


def sessions() -> dict[str, list[tuple[str, str]]]:
    """Dialogue -> its turns and their labels, with the counts of FACTS, labels of no class, and the odd names."""
    dialogues: dict[str, list[tuple[str, str]]] = {}
    generator = np.random.default_rng(0)
    for session, (angry, happy, neutral, sad, women, improvised) in FACTS.items():
        parts = {"ang": angry, "hap": HAPPY[session], "exc": happy - HAPPY[session], "neu": neutral, "sad": sad}
        total = sum(parts.values())
        codes = generator.permutation([code for code, count in parts.items() for _ in range(count)])
        letters = generator.permutation(["F"] * women + ["M"] * (total - women))
        scenes = scenes_of(improvised, total - improvised, 8 if session == 1 else 4)
        for n, (code, letter, scene) in enumerate([*zip(codes, letters, scenes, strict=True), *OTHERS]):
            dialogue = f"Ses0{session}{'FM'[n % 2]}_{scene}"
            turns = dialogues.setdefault(dialogue, [])
            turns.append((f"{dialogue}_{letter}{len(turns):03d}", str(code)))
    return dialogues


OTHERS = [("xxx", "F", "impro01"), ("fru", "M", "impro02"), ("xxx", "M", "script01_1"), ("oth", "F", "script02_2")]


def scenes_of(improvised: int, scripted: int, parts: int) -> list[str]:
    """Scenes of a session: 30 turns of them in the parts a and b, and of the scripted ones `parts`."""
    plain = [f"impro0{1 + i % 8}" for i in range(improvised - 30)] + [
        f"script0{1 + i % 3}_{1 + i % 2}" for i in range(scripted)
    ]
    return [f"impro05{'ab'[i % 2]}" for i in range(30)] + ["script01_1b"] * parts + plain[: improvised + scripted - 30 - parts]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """IEMOCAP_full_release with names by the pattern, the exact counts, and one short recording under all of them."""
    root = tmp_path_factory.mktemp("release") / "IEMOCAP_full_release"
    root.mkdir()
    sound = root.parent / "sound"
    soundfile.write(sound, np.zeros(160, np.int16), 16000, format="WAV")
    for dialogue, turns in sessions().items():
        session = root / f"Session{dialogue[4]}"
        labels, audio = session / "dialog" / "EmoEvaluation", session / "sentences" / "wav" / dialogue
        for folder in (labels / "Categorical", audio, session / "dialog" / "wav"):
            folder.mkdir(parents=True, exist_ok=True)
        blocks = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n"]
        for n, (name, code) in enumerate(turns):
            os.link(sound, audio / f"{name}.wav")
            blocks.append(f"[{n}.2901 - {n}.8357]\t{name}\t{code}\t[2.5000, 2.5000, 2.5000]\nC-E2:\tAnger;\t(ärger)\n")
        (labels / f"{dialogue}.txt").write_text("\n".join(blocks), "latin-1")
        (labels / f"._{dialogue}.txt").write_bytes(b"\0\x05\x16\x07")
        (audio / f"._{turns[0][0]}.wav").write_bytes(b"\0\x05\x16\x07")
        (labels / "Categorical" / f"{dialogue}_e2_cat.txt").write_text(f"{turns[0][0]} :Anger; ()\n")
        os.link(sound, session / "dialog" / "wav" / f"{dialogue}.wav")
        (session / "dialog" / "transcriptions").mkdir(exist_ok=True)
        (session / "dialog" / "transcriptions" / f"{dialogue}.txt").write_text(f"{dialogue}_FXX0 [1.0-2.0]: Hm.\n")
    return root


def test_iemocap_has_the_5531_of_four_classes(release: Path):
    corpus = load(release)
    assert len(corpus.utterances) == 5531
    assert (corpus.names, corpus.labels) == (["iemocap"], ["angry", "happy", "neutral", "sad"])
    assert corpus.dropped == {"frustrated": 5, "no agreement": 10, "other": 5}
    assert corpus.missing == []
    assert all(FOUR.fullmatch(u.path.stem) for u in corpus.utterances)
    by_session = Counter((u.session, u.emotion) for u in corpus.utterances)
    for session, counts in FACTS.items():
        assert tuple(by_session[f"iemocap/{session}", emotion] for emotion in corpus.labels) == counts[:4]
        there = [u for u in corpus.utterances if u.session == f"iemocap/{session}"]
        assert (sum(u.gender == "female" for u in there), sum(u.style == "improvised" for u in there)) == counts[4:]
    assert Counter(u.emotion for u in corpus.utterances) == {"angry": 1103, "happy": 1636, "neutral": 1708, "sad": 1084}
    excited = load(release, labels=["excited", "happy"])
    assert Counter(u.emotion for u in excited.utterances) == {"happy": 595, "excited": 1041}


def test_iemocap_has_ten_speakers_whose_gender_is_in_the_last_token(release: Path):
    found, _ = read(release)
    assert {u.speaker for u in found} == {f"iemocap/Ses0{session}{letter}" for session in range(1, 6) for letter in "FM"}
    for u in found:
        letter = u.path.stem.rsplit("_", 1)[1][0]
        assert u.gender == {"F": "female", "M": "male"}[letter]
        assert u.speaker == f"iemocap/{u.path.name[:5]}{letter}"
    # The letter after the session is not the speaker: fixed columns and it are wrong for half of these names.
    assert sum(u.path.name[5] != u.path.stem[-4] for u in found) > 1000


def test_iemocap_names_with_parts_keep_their_dialogue_and_lose_the_part_in_the_scenario(release: Path):
    utterances = load(release).utterances
    parts = {"improvised": 0, "scripted": 0}
    for u in utterances:
        dialogue = str(u.dialogue).removeprefix("iemocap/")
        assert u.path.parent.name == dialogue == u.path.stem.rsplit("_", 1)[0]
        assert u.scenario == re.sub(r"[ab]$", "", dialogue.split("_", 1)[1])
        parts[str(u.style)] += dialogue[-1] in "ab"
    assert parts == {"improvised": 150, "scripted": 24}


def test_iemocap_check_passes_and_names_the_first_wrong_count(npser: Command, release: Path):
    shown = npser("data", "check", release).stdout
    assert "5551 utterances of iemocap" in shown
    assert "10: 5 female, 5 male" in shown
    assert "counts     as they are known of iemocap" in shown
    turn = next(u for u in read(release)[0] if u.session == "iemocap/3" and u.emotion == "excited")
    content = turn.path.read_bytes()
    turn.path.unlink()
    try:
        shown = npser("data", "check", release, status=1)
    finally:
        turn.path.write_bytes(content)
    assert "counts     iemocap, session 3: 285 utterances are happy; a whole copy has 286" in shown.stdout
    assert f"missing    1 recordings that have a label; the first: {turn.path}" in shown.stdout
    assert shown.stderr == ""


def test_iemocap_manifest_says_the_same(release: Path, tmp_path: Path):
    convert(release, tmp_path / "all.csv", None)
    by_folder, by_manifest = load(release), load(tmp_path / "all.csv")
    assert (by_folder.dropped, by_folder.names, by_folder.labels) == (
        by_manifest.dropped,
        by_manifest.names,
        by_manifest.labels,
    )
    for a, b in zip(by_folder.utterances, by_manifest.utterances, strict=True):
        assert (os.path.realpath(a.path), *known(a)) == (os.path.realpath(b.path), *known(b))


def known(u: Utterance) -> tuple[str | None, ...]:
    return (u.emotion, u.corpus, u.speaker, u.gender, u.session, u.split, u.dialogue, u.scenario, u.style)


def small_iemocap(folder: Path, ending: str = "wav") -> Path:
    names = ("Ses01F_impro05a_M000", "Ses01F_impro05a_F001", "Ses01F_impro05a_F002")
    codes = ("exc", "xxx", "neu")
    tree(folder, *(f"Session1/sentences/wav/Ses01F_impro05a/{name}.{ending}" for name in names))
    labels = folder / "Session1" / "dialog" / "EmoEvaluation"
    labels.mkdir(parents=True)
    lines = [f"[6.2 - 8.2]\t{name}\t{code}\t[2.5, 2.5, 2.5]" for name, code in zip(names, codes, strict=True)]
    (labels / "Ses01F_impro05a.txt").write_text("\r\n\r\n".join(lines))
    return folder


@pytest.mark.parametrize("ending", ["wav", "flac", "OGG", "mp3"])
def test_iemocap_in_another_format_or_one_session_of_it(tmp_path: Path, ending: str):
    folder = small_iemocap(tmp_path, ending)
    expected = [("neutral", "Ses01F", "female"), ("no agreement", "Ses01F", "female"), ("excited", "Ses01M", "male")]
    for place in (folder, folder / "Session1"):
        found, missing = read(place)
        assert missing == []
        assert sorted((u.emotion, str(u.speaker).removeprefix("iemocap/"), u.gender) for u in found) == sorted(expected)
        assert {(u.dialogue, u.scenario, u.style) for u in found} == {("iemocap/Ses01F_impro05a", "impro05", "improvised")}


def test_iemocap_has_the_phones_of_its_own_alignment_where_there_is_one(tmp_path: Path):
    folder = small_iemocap(tmp_path)
    place = folder / "Session1" / "sentences" / "ForcedAlignment" / "Ses01F_impro05a"
    place.mkdir(parents=True)
    rows = ["\t SFrm  EFrm     SegAScr Phone", "\t    0    35     -172358 SIL", "\t   36    41      -77341 W SIL AY b"]
    rows += ["\t   42    90       12000 ++LAUGHTER++", " Total score:     -3441616"]
    (place / "Ses01F_impro05a_M000.phseg").write_text("\n".join(rows))
    (place / "Ses01F_impro05a_F001.phseg").write_text("")
    found = {u.path.stem[-4:]: u.phonemes for u in read(folder)[0]}
    assert found == {"M000": "SIL W ++LAUGHTER++", "F001": None, "F002": None}
    convert(folder, tmp_path / "all.csv", None)
    assert {u.path.stem[-4:]: u.phonemes for u in read(tmp_path / "all.csv")[0]} == found


def test_iemocap_reads_an_alignment_that_is_not_utf_8(tmp_path: Path):
    folder = small_iemocap(tmp_path)
    place = folder / "Session1" / "sentences" / "ForcedAlignment" / "Ses01F_impro05a"
    place.mkdir(parents=True)
    (place / "Ses01F_impro05a_M000.phseg").write_bytes(b"\t 0 35 -172358 SIL\n\t 36 41 -77341 \xc4\n")
    assert {u.path.stem[-4:]: u.phonemes for u in read(folder)[0]}["M000"] == "SIL \u00c4"


def test_no_agreement_is_never_a_class(tmp_path: Path):
    corpus = load(small_iemocap(tmp_path), labels=["all"])
    assert corpus.labels == ["excited", "neutral"]
    assert corpus.dropped == {"no agreement": 1}
    with pytest.raises(ValueError, match="no utterance is no agreement; the emotions there are: excited, neutral"):
        load(tmp_path, labels=["neutral", "excited", "xxx"])


def test_iemocap_without_labels_recordings_or_agreement_of_its_copies_is_refused(tmp_path: Path):
    folder = small_iemocap(tmp_path / "a")
    extra = folder / "Session1" / "dialog" / "EmoEvaluation" / "copy.txt"
    extra.write_text("[6.2 - 8.2]\tSes01F_impro05a_M000\tang\t[2.5, 2.5, 2.5]\n")
    assert "Ses01F_impro05a_M000 is angry and elsewhere excited" in refusal(folder)
    extra.unlink()
    for path in (folder / "Session1" / "sentences").rglob("*.wav"):
        path.rename(folder / path.name)
    assert "holds no recordings sentences/wav" in refusal(folder)
    next(folder.rglob("*.txt")).unlink()
    assert "no dialog/EmoEvaluation/*.txt" in refusal(folder)
    # Sorted into classes it needs no labels.
    sorted_ones = tree(tmp_path / "b", "sad/Ses01F_impro05a_M000.wav", "angry/Ses01F_impro05a_F001.wav")
    assert {(u.corpus, u.emotion) for u in read(sorted_ones)[0]} == {("b", "sad"), ("b", "angry")}


def test_a_second_corpus_of_the_same_name_has_dialogues_of_its_own(tmp_path: Path):
    found, _ = read([small_iemocap(tmp_path / "a"), small_iemocap(tmp_path / "b")])
    assert {u.dialogue for u in found} == {"iemocap/Ses01F_impro05a", "iemocap-2/Ses01F_impro05a"}


# Corpora known by file names


def test_cremad(tmp_path: Path):
    names = ("1001_IEO_ANG_HI.wav", "1002_TIE_NEU_XX.wav", "1076_MTI_SAD_XX.wav")
    tree(tmp_path, *(f"AudioWAV/{name}" for name in names))
    (tmp_path / "VideoDemographics.csv").write_text("ActorID,Age,Sex,Race\n1001,51,Male,Caucasian\n1002,21,Female,Asian\n")
    expected = [
        (names[0], "angry", "cremad/1001", "male"),
        (names[1], "neutral", "cremad/1002", "female"),
        (names[2], "no signal", "cremad/1076", "female"),
    ]
    assert brief(tmp_path) == brief(tmp_path / "AudioWAV") == expected
    assert [u.style for u in read(tmp_path)[0]] == ["high", None, None]
    (tmp_path / "VideoDemographics.csv").write_text("ActorID,Age\n1001,51\n")
    assert "has no column sex" in refusal(tmp_path)
    (tmp_path / "VideoDemographics.csv").write_text("ActorID,Sex\n1001,x\n")
    assert "VideoDemographics.csv: gender is 'x'" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["{}/{}.wav", "all/{}_{}.flac"])
def test_savee(tmp_path: Path, name: str):
    stems = ("a01", "d01", "f01", "h01", "n30", "sa01", "su15")
    tree(tmp_path, *(name.format(speaker, stem) for speaker in ("DC", "KL") for stem in stems))
    found, _ = read(tmp_path)
    emotions = ["angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised"]
    assert [(u.emotion, u.speaker, u.gender) for u in found] == [
        (emotion, f"savee/{speaker}", "male") for speaker in ("DC", "KL") for emotion in emotions
    ]


def test_tess(tmp_path: Path):
    words = ("angry", "disgust", "fear", "happy", "neutral", "ps", "sad")
    tree(tmp_path, *(f"YAF_{word}/YAF_dog_{word}.wav" for word in words), "OAF_neutral/OA_bite_neutral.wav")
    tree(tmp_path, "copy/OAF_neutral/OAF_bite_neutral.wav")
    found = brief(tmp_path)
    assert len(found) == 8
    assert found[0][1:] == ("neutral", "tess/OAF", "female")
    emotions = "angry disgusted fearful happy neutral surprised sad"
    assert " ".join(emotion for _, emotion, speaker, _ in found if speaker == "tess/YAF") == emotions


def test_emovo(tmp_path: Path):
    tree(tmp_path, *(f"f1/{code}-f1-b1.wav" for code in ("dis", "gio", "neu", "pau")))
    tree(tmp_path, *(f"m3/{code}-m3-t1.wav" for code in ("rab", "sor", "tri")), "documents/x.wav")
    found = brief(tmp_path)
    assert " ".join(row[1] for row in found) == "disgusted happy neutral fearful angry surprised sad"
    assert {row[2:] for row in found} == {("emovo/f1", "female"), ("emovo/m3", "male")}


def test_esd_by_folders_and_by_lists(tmp_path: Path):
    names = ("Neutral", "Angry", "Happy", "Sad", "Surprise")
    tree(tmp_path / "a", *(f"0011/{name}/0011_{350 * i + 1:06d}.wav" for i, name in enumerate(names)))
    tree(tmp_path / "a", "0001/Sad/evaluation/0001_001051.wav", "0001/Sad/train/0001_001053.wav")
    found, _ = read(tmp_path / "a")
    assert [u.emotion for u in found] == ["sad", "sad", "angry", "happy", "neutral", "sad", "surprised"]
    assert {(u.speaker, u.gender, u.style, u.split) for u in found} == {
        ("esd/0001", "female", "mandarin", None),
        ("esd/0011", "male", "english", None),
    }
    flat = tree(tmp_path / "b", *(f"0001/0001_00000{i}.wav" for i in range(1, 7)))
    words = ("中立", "快乐", "伤心", "生气", "惊喜")
    for encoding in ("utf-8", "utf-16", "gb18030"):
        lines = [f"0001_00000{i + 1}\t打远一看。\t{word}" for i, word in enumerate(words)]
        (flat / "0001" / "0001.txt").write_text("\n".join(lines), encoding)
        assert [u.emotion for u in read(flat)[0]] == ["neutral", "happy", "sad", "angry", "surprised", "no label"]


# Corpora with tables of labels


def test_msp_improv(tmp_path: Path):
    stems = ("S01A-F01-P-FM01", "S01A-M02-R-MF01", "S20H-F06-S-FM11", "S04N-M02-T-FM01", "S04N-M02-T-FM02")
    tree(tmp_path, *(f"session{s[6]}/{s[:4]}/{s[9]}/MSP-IMPROV-{s}.wav" for s in stems))
    codes = ("N", "X", "H", "O")
    lines = [f"UTD-IMPROV-{s}.avi; {c}; A:3.0; V:3.0; D:3.0 ; N:3.4;" for s, c in zip(stems, codes, strict=False)]
    text = "\n".join([*lines, "UTD-IMPROV-S09S-M03-T-FM01.avi; A; A:3; V:3; D:3 ; N:3;", "Tom; A; 1; 2", ""])
    tree(tmp_path, Evaluation=text)
    found, missing = read(tmp_path)
    assert missing == ["MSP-IMPROV-S09S-M03-T-FM01.wav"]
    assert [(u.emotion, u.speaker, u.gender, u.session, u.scenario, u.style) for u in found] == [
        ("neutral", "mspimprov/F01", "female", "mspimprov/1", "S01A", "natural"),
        ("no agreement", "mspimprov/M02", "male", "mspimprov/2", "S01A", "read"),
        ("other", "mspimprov/M02", "male", "mspimprov/2", "S04N", "target improvised"),
        ("no label", "mspimprov/M02", "male", "mspimprov/2", "S04N", "target improvised"),
        ("happy", "mspimprov/F06", "female", "mspimprov/6", "S20H", "other improvised"),
    ]
    (tmp_path / "Evaluation.txt").unlink()
    assert "no labels in an Evaluation.txt" in refusal(tmp_path)


def podcast(folder: Path, *rows: str, ending: str = "wav", name: str = "labels_concensus.csv") -> Path:
    tree(folder, *(f"Audios/{row.partition('.')[0]}.{ending}" for row in rows))
    (folder / "Labels").mkdir(exist_ok=True)
    header = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"
    (folder / "Labels" / name).write_text("\n".join([header, *rows, ""]))
    return folder


@pytest.mark.parametrize(("ending", "name"), [("wav", "labels_concensus.csv"), ("flac", "labels_consensus.csv")])
def test_msp_podcast_with_its_split_under_the_names_of_all_releases(tmp_path: Path, ending: str, name: str):
    parts = ("Train", "Validation", "Development", "Test1", "Test2", "Train", "Train", "Train", "Train", "Train")
    people = ("7,Female", "8,Male", "Unknown,Unknown", *(f"{n},Male" for n in range(9, 16)))
    rows = [
        f"MSP-PODCAST_0001_000{i}.wav,{code},1,2,3,{who},{part}"
        for i, (code, who, part) in enumerate(zip("ASHUFDCNOX", people, parts, strict=True))
    ]
    folder = podcast(tmp_path, *rows, ending=ending, name=name)
    tree(folder, "Audios/MSP-PODCAST_0002_0001.wav")
    found, missing = read(folder)
    assert missing == []
    emotions = "angry sad happy surprised fearful disgusted contempt neutral other no agreement no label"
    assert " ".join(u.emotion for u in found) == emotions
    assert [u.split for u in found[:6]] == ["train", "validation", "validation", "test", "test", "train"]
    assert [(u.speaker, u.gender) for u in found[:3]] == [
        ("msppodcast/7", "female"),
        ("msppodcast/8", "male"),
        (None, None),
    ]
    assert (found[0].dialogue, found[-1].dialogue) == ("msppodcast/0001", "msppodcast/0002")


def test_msp_podcast_is_refused_with_the_place(tmp_path: Path):
    row = "MSP-PODCAST_0001_0001.wav,{},1,2,3,7,{},{}"
    assert "EmoClass of MSP-PODCAST_0001_0001 is 'Q'" in refusal(podcast(tmp_path, row.format("Q", "Male", "Train")))
    assert "Split_Set of MSP-PODCAST_0001_0001 is 'Fold'" in refusal(podcast(tmp_path, row.format("A", "Male", "Fold")))
    assert "gender is 'x'" in refusal(podcast(tmp_path, row.format("A", "x", "Train")))
    (tmp_path / "Labels" / "labels_concensus.csv").write_text("FileName,EmoClass\n")
    assert "has no column spkrid" in refusal(tmp_path)
    (tmp_path / "Labels" / "labels_concensus.csv").unlink()
    assert "labels_concensus.csv" in refusal(tmp_path)


def test_meld(tmp_path: Path):
    tree(tmp_path, "train_splits/dia0_utt0.wav", "train_splits/dia0_utt1.wav", "train_splits/dia0_utt1.mp4")
    tree(tmp_path, "dev_splits_complete/dia0_utt0.flac", "output_repeated_splits_test/dia0_utt0.wav")
    tree(tmp_path, "output_repeated_splits_test/final_videos_testdia0_utt0.wav", "train_splits/dia9_utt0.wav")
    header = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID"
    rows = {
        "train": ['1,"Oh, no",Rachel,surprise,x,0,0', "2,That\x92s it,Ross,joy,x,0,1", "3,Hi,Joey,fear,x,0,2"],
        "dev": ["1,Hi,Waiter,disgust,x,0,0"],
        "test": ["1,Hi,Rachel,anger,x,0,0"],
    }
    for part, lines in rows.items():
        (tmp_path / f"{part}_sent_emo.csv").write_text("\n".join([header, *lines]), "latin-1")
    with pytest.warns(UserWarning, match=r"1 clips are taken from the files final_videos_test\*"):
        found, missing = read(tmp_path)
    assert missing == ["train/dia0_utt2"]
    assert found[1].path.name == "final_videos_testdia0_utt0.wav"
    assert [(u.emotion, u.speaker, u.gender, u.split, u.dialogue, u.path.suffix) for u in found] == [
        ("disgusted", "meld/Waiter", None, "validation", "meld/validation-dia0", ".flac"),
        ("angry", "meld/Rachel", "female", "test", "meld/test-dia0", ".wav"),
        ("surprised", "meld/Rachel", "female", "train", "meld/train-dia0", ".wav"),
        ("happy", "meld/Ross", "male", "train", "meld/train-dia0", ".wav"),
        ("no label", None, None, "train", "meld/train-dia9", ".wav"),
    ]
    for part in rows:
        (tmp_path / f"{part}_sent_emo.csv").unlink()
    with pytest.warns(UserWarning, match="1 clips"):
        assert "train_sent_emo.csv" in refusal(tmp_path)


# All of them


@pytest.mark.parametrize("corpus", [name for name, layout in layouts().items() if hasattr(layout, "NAME")])
def test_a_wrong_corpus_is_refused_by_name(tmp_path: Path, corpus: str):
    sentence = refusal(tree(tmp_path, "sad/a.wav"), corpus)
    assert str(tmp_path) in sentence
    assert corpus == "ravdess" or "leave --corpus" in sentence


@pytest.mark.parametrize(
    ("corpus", "name"),
    [
        ("emodb", "03a01Wa"),
        ("ravdess", "03-01-05-01-02-01-18"),
        ("cremad", "1001_IEO_ANG_HI"),
        ("savee", "DC_sa01"),
        ("tess", "OAF_back_angry"),
        ("emovo", "gio-f1-b1"),
        ("mspimprov", "MSP-IMPROV-S01A-F01-P-FM01"),
        ("msppodcast", "MSP-PODCAST_0001_0008"),
        ("esd", "0011_000351"),
        ("meld", "dia0_utt0"),
        ("iemocap", "Ses01F_script01_1b_F000"),
        ("nemo", "EB0_anger_1"),
        ("jl", "female1_angry_10a_1"),
        ("cafe", "01-C-1-1"),
        ("subesco", "F_02_MONIKA_S_2_SURPRISE_3]"),
        ("shemo", "F01A01"),
        ("urdu", "SM1_F10_A010"),
        ("emovdb", "bea_Amused/amused_1-15_0001"),
        ("aesdd", "a01 (1)"),
    ],
)
def test_a_name_belongs_to_one_corpus_in_any_format(corpus: str, name: str):
    for ending in ("wav", "flac", "mp3"):
        matching = [
            key for key, layout in layouts().items() if hasattr(layout, "NAME") and layout.NAME.fullmatch(f"x/{name}.{ending}")
        ]
        assert matching == [corpus]
    assert not iemocap.NAME.fullmatch("Ses01F_impro01_FXX0.wav")
    assert not iemocap.NAME.fullmatch("Ses01F_impro01.wav")


def test_an_audiofolder_of_hugging_face_is_a_manifest(tmp_path: Path):
    tree(tmp_path / "calls", "data/1.mp3", "data/2.mp3")
    rows = [{"file_name": "data/1.mp3", "label": "anger"}, {"file_name": "data/2.mp3", "label": "sadness"}]
    write_manifest(tmp_path / "calls" / "metadata.csv", rows)
    assert manifest.find(tmp_path / "calls") == tmp_path / "calls" / "metadata.csv"
    assert brief(tmp_path / "calls") == [("1.mp3", "angry", None, None), ("2.mp3", "sad", None, None)]


def test_the_command_names_the_corpora_that_there_are(npser: Command, tmp_path: Path):
    one_sentence(npser("data", "check", tree(tmp_path, "x.wav"), "--corpus", "berlin", status=1), "iemocap, emodb")

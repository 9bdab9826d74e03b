"""Copies of corpora as they are published: what differs from one to the next, and the constants that stand in no file."""

import json
import os
import warnings
from pathlib import Path

import pytest
from helpers import Command, one_sentence, tone, tree

from npser.corpora import cremad, emodb, esd, layouts, meld, ravdess, read
from npser.corpora.labels import parse_map

# Constants, from the descriptions of the corpora

SUMS = {"emodb": 535, "ravdess": 1440, "cremad": 7442, "savee": 480, "tess": 2800, "emovo": 588, "esd": 35000}
SUMS |= {"iemocap": 5531, "mspimprov": 7798, "nemo": 4481, "jl": 2400, "cafe": 936, "subesco": 7000, "urdu": 400}
SIZES = {  # the emotions in the order of the alphabet
    "emodb": "127 angry, 81 bored, 46 disgusted, 69 fearful, 71 happy, 79 neutral, 62 sad",
    "ravdess": "192 angry, 192 calm, 192 disgusted, 192 fearful, 192 happy, 96 neutral, 192 sad, 192 surprised",
    "cremad": "1271 angry, 1271 disgusted, 1271 fearful, 1271 happy, 1087 neutral, 1 no signal, 1270 sad",
    "savee": "60 angry, 60 disgusted, 60 fearful, 60 happy, 120 neutral, 60 sad, 60 surprised",
    "tess": "400 angry, 400 disgusted, 400 fearful, 400 happy, 400 neutral, 400 sad, 400 surprised",
    "emovo": "84 angry, 84 disgusted, 84 fearful, 84 happy, 84 neutral, 84 sad, 84 surprised",
    "esd": "7000 angry, 7000 happy, 7000 neutral, 7000 sad, 7000 surprised",
    "mspimprov": "792 angry, 2644 happy, 3477 neutral, 885 sad",
    "nemo": "749 angry, 736 fearful, 749 happy, 809 neutral, 769 sad, 669 surprised",
    "jl": "240 angry, 240 apologetic, 240 assertive, 240 concerned, 240 encouraging, 240 excited, 240 fearful, 240 happy, "
    "240 neutral, 240 sad",
    "cafe": "144 angry, 144 disgusted, 144 fearful, 144 happy, 72 neutral, 144 sad, 144 surprised",
    "subesco": "1000 angry, 1000 disgusted, 1000 fearful, 1000 happy, 1000 neutral, 1000 sad, 1000 surprised",
    "urdu": "100 angry, 100 happy, 100 neutral, 100 sad",
}


def test_the_sizes_of_whole_copies():
    known = {name: layout.COUNTS for name, layout in layouts().items() if getattr(layout, "COUNTS", None)}
    assert {name: sum(sum(counts.values()) for counts in sessions.values()) for name, sessions in known.items()} == SUMS
    for name, sizes in SIZES.items():
        assert ", ".join(f"{count} {emotion}" for emotion, count in sorted(known[name][""].items())) == sizes, name


def test_genders_and_groups_that_no_file_tells(tmp_path: Path):
    tree(tmp_path / "esd", *(f"{n:04d}/Sad/{n:04d}_001051.wav" for n in range(1, 21)))
    women = {u.speaker for u in read(tmp_path / "esd")[0] if u.gender == "female"}
    numbers = "0001 0002 0003 0007 0009 0015 0016 0017 0018 0019"
    assert women == {f"esd/{number}" for number in numbers.split()} == {f"esd/{number}" for number in esd.WOMEN}

    tree(tmp_path / "emodb", *(f"{speaker}a01Wa.wav" for speaker in emodb.SESSIONS))
    people = {str(u.speaker)[-2:]: (u.gender, str(u.session)[-1]) for u in read(tmp_path / "emodb")[0]}
    men = {"03": "1", "10": "2", "11": "3", "12": "4", "15": "5"}
    assert {name: session for name, (gender, session) in people.items() if gender == "male"} == men
    assert {name: session for name, (_, session) in people.items() if name not in men} == {
        "08": "1",
        "09": "2",
        "13": "3",
        "14": "4",
        "16": "5",
    }

    tree(tmp_path / "ravdess", *(f"03-01-05-01-01-01-{actor:02d}.wav" for actor in range(1, 25)))
    groups: dict[str, str] = {}
    for u in read(tmp_path / "ravdess")[0]:
        groups[str(u.session)[-1]] = f"{groups.get(str(u.session)[-1], '')} {str(u.speaker)[-2:]}".strip()
    assert groups == {
        "1": "01 11 20 21",
        "2": "04 10 12 14",
        "3": "08 09 19 23",
        "4": "03 05 07 24",
        "5": "02 15 16 18",
        "6": "06 13 17 22",
    }


# CREMA-D

WOMEN = (
    "1002 1003 1004 1006 1007 1008 1009 1010 1012 1013 1018 1020 1021 1024 1025 1028 1029 1030 1037 1043 1046 1047 "
    "1049 1052 1053 1054 1055 1056 1058 1060 1061 1063 1072 1073 1074 1075 1076 1078 1079 1082 1084 1089 1091"
)


def test_cremad_has_48_men_and_43_women_also_without_its_table(tmp_path: Path):
    tree(tmp_path, *(f"{actor}_IEO_ANG_HI.wav" for actor in range(1001, 1092)), "1092_IEO_ANG_HI.wav")
    genders = {str(u.speaker)[-4:]: u.gender for u in read(tmp_path)[0]}
    of = {gender: [actor for actor, other in genders.items() if other == gender] for gender in ("female", "male", None)}
    assert [len(of[gender]) for gender in of] == [43, 48, 1]
    assert " ".join(of["female"]) == WOMEN
    (tmp_path / "VideoDemographics.csv").write_text("ActorID,Sex\n1092,Male\n1001,Female\n")
    genders = {str(u.speaker)[-4:]: u.gender for u in read(tmp_path)[0]}
    assert (genders["1001"], genders["1002"], genders["1092"]) == ("female", "female", "male")


def test_cremad_levels_and_the_name_of_older_copies(tmp_path: Path):
    names = ("1001_IEO_SAD_LO", "1001_IEO_SAD_MD", "1001_IEO_SAD_HI", "1001_ITH_SAD_XX", "1040_ITH_SAD_X")
    found = {u.path.stem: (u.emotion, u.style) for u in read(tree(tmp_path, *(f"{name}.wav" for name in names)))[0]}
    assert found == dict(zip(names, [("sad", style) for style in ("low", "medium", "high", None, None)], strict=True))
    assert len(read(tree(tmp_path, "1040_ITH_SAD_XX.wav"))[0]) == 5


def test_cremad_is_read_from_wav_where_it_has_mp3_too(tmp_path: Path):
    stems = ("1064_IEO_DIS_MD", "1076_MTI_NEU_XX")
    tree(tmp_path, *(f"AudioMP3/{stem}.mp3" for stem in stems), f"AudioWAV/{stems[0]}.wav", f"VideoFlash/{stems[0]}.mp4")
    assert [u.path.relative_to(tmp_path).as_posix() for u in read(tmp_path)[0]] == [
        "AudioMP3/1076_MTI_NEU_XX.mp3",
        "AudioWAV/1064_IEO_DIS_MD.wav",
    ]
    assert cremad.SILENT == "1076_MTI_SAD_XX"


# Others


@pytest.mark.parametrize("name", ["Evaluation.txt", "Evalution.txt"])
def test_mspimprov_with_its_own_spelling(tmp_path: Path, name: str):
    tree(tmp_path, "session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.wav")
    (tmp_path / name).write_text("UTD-IMPROV-S01A-F01-P-FM01.avi; S; A:2.0; V:2.1; D:2.2 ; N:3.4;\n")
    assert [u.emotion for u in read(tmp_path)[0]] == ["sad"]


def second_edition(folder: Path) -> list[str]:
    """560 names of the form of EmoDB, of which 460 are gold."""
    names = [f"{who}a{text:02d}{letter}a" for who in emodb.SESSIONS for text in range(1, 9) for letter in "WLEAFTN"]
    tree(folder, *(f"wav/{name}.wav" for name in names))
    return names[:460]


def test_emodb_2_without_its_tables_is_warned_of(tmp_path: Path):
    second_edition(tmp_path)
    with pytest.warns(UserWarning, match=r"560 recordings, and results on EmoDB are about 535: .*\*\.gold_standard\.csv"):
        assert len(read(tmp_path)[0]) == 560


def test_emodb_2_is_what_its_gold_standard_lists(tmp_path: Path):
    gold = second_edition(tmp_path)
    for part, listed in (("train", gold[:300]), ("test", gold[300:])):
        rows = "".join(f"wav/{name}.wav,anger,0.9\n" for name in listed)
        table = tmp_path / f"db.emotion.categories.{part}.gold_standard.csv"
        table.write_text(f"file,emotion,emotion.confidence\n{rows}")
    with pytest.warns(UserWarning, match="100 recordings that EmoDB's gold standard does not list are left out"):
        assert {u.path.stem for u in read(tmp_path / "wav")[0]} == set(gold)
    table.write_text("file,emotion\nwav/x.wav,anger\n")
    (tmp_path / "db.emotion.categories.train.gold_standard.csv").write_text("file,emotion\n")
    with pytest.raises(ValueError, match="lists none of the recordings"):
        read(tmp_path)


def meld_copy(folder: Path) -> Path:
    """A clip of two parts each, a third that is damaged in every copy, and a fourth that has no recording in any."""
    tree(folder, "train_splits/dia0_utt0.wav", "train_splits/dia125_utt3.wav", "dev_splits_complete/dia0_utt0.wav")
    rows = {"train": ("0,0", "125,3"), "dev": ("0,0", "110,7")}
    for part, ids in rows.items():
        lines = [f"Richard\u2019s Date,anger,{numbers}" for numbers in ids]
        text = "\n".join(["Speaker,Emotion,Dialogue_ID,Utterance_ID", *lines])
        (folder / f"{part}_sent_emo.csv").write_text(text, "cp1252")
    return folder


def test_meld_has_speakers_of_older_tables_and_lacks_what_all_copies_lack(tmp_path: Path):
    found, missing = read(meld_copy(tmp_path))
    assert {u.speaker for u in found} == {"meld/Richard\u2019s Date"}
    assert missing == ["validation/dia110_utt7"]
    assert set(meld.KNOWN) == {"validation/dia110_utt7", "train/dia125_utt3"}


def test_a_whole_meld_passes_its_check(npser: Command, tmp_path: Path):
    for path in meld_copy(tmp_path / "meld").rglob("*.wav"):
        tone(path, 200, 0.1)
    (tmp_path / "meld" / "train_splits" / "dia125_utt3.wav").write_text("damaged")
    shown = npser("data", "check", "meld").stdout
    assert "known      in every copy: validation/dia110_utt7 was never released" in shown
    assert "known      in every copy: meld/train_splits/dia125_utt3.wav is damaged as released" in shown
    assert "missing " not in shown
    (tmp_path / "meld" / "train_splits" / "dia0_utt0.wav").write_text("damaged")
    shown = npser("data", "check", "meld", status=1).stdout
    assert "unreadable 1 files; the first: meld/train_splits/dia0_utt0.wav" in shown


NAMED = {  # names, and what they say: emotion, speaker, gender
    "nemo": {
        "samples/EB0_anger_1": "angry EB0 female",
        "samples/IC0_fear_2": "fearful IC0 female",
        "samples/KD0_happiness_3": "happy KD0 female",
        "samples/MK0_neutral_4": "neutral MK0 female",
        "samples/KS0_sadness_5": "sad KS0 male",
        "samples/MP0_surprise_90": "surprised MP0 male",
        "samples/SM0_anger_1": "angry SM0 male",
        "samples/TP0_anger_1": "angry TP0 male",
        "samples/WR0_anger_1": "angry WR0 male",
    },
    "jl": {
        "female1_angry_10a_1": "angry female1 female",
        "male2_anxious_2b_2": "fearful male2 male",
        "female2_assertive_1a_1": "assertive female2 female",
        "male1_excited_15b_2": "excited male1 male",
    },
    "cafe": {
        "Col\u00e8re/Faible/01-C-1-1": "angry 01 male",
        "D\u00e9go\u00fbt/Fort/02-D-2-6": "disgusted 02 female",
        "Joie/Fort/11-J-2-3": "happy 11 male",
        "Neutre/12-N-1-1": "neutral 12 female",
        "Peur/Fort/03-P-2-1": "fearful 03 male",
        "Surprise/Fort/04-S-2-1": "surprised 04 female",
        "Tristesse/Fort/10-T-2-1": "sad 10 female",
    },
    "subesco": {
        "F_01_OISHI_S_10_ANGRY_1": "angry F_01 female",
        "F_02_MONIKA_S_2_SURPRISE_3]": "surprised F_02 female",
        "M_01_NIPUN_S_1_DISGUST_1": "disgusted M_01 male",
        "M_02_MASUM_S_1_FEAR_5": "fearful M_02 male",
    },
    "shemo": {
        "female/F01A01": "angry F01 female",
        "male/M56W02": "surprised M56 male",
        "male/M02F02": "fearful M02 male",
        "male/M02H02": "happy M02 male",
        "male/M02N02": "neutral M02 male",
        "male/M02S02": "sad M02 male",
    },
    "urdu": {
        "Angry/SM1_F10_A010": "angry SM1 male",
        "Happy/SF2_F1_H01": "happy SF2 female",
        "Neutral/SM13_F1_N03": "neutral SM13 male",
        "Sad/SM9_F4_S084": "sad SM9 male",
    },
    "emovdb": {
        "bea_Amused/amused_1-15_0001": "amused bea female",
        "jenie/Sleepy/sleepiness_1-28_0001": "sleepy jenie female",
        "josh_Neutral/neutral_1-28_0001": "neutral josh male",
        "sam_Disgusted/disgust_1-28_0001": "disgusted sam male",
        "sam_Angry/anger_1-28_0001": "angry sam male",
    },
    "aesdd": {
        "anger/a01 (1)": "angry 1 None",
        "disgust/d02 (3)b": "disgusted 3 None",
        "fear/f19 (05)": "fearful 5 None",
        "happiness/h01 (6)": "happy 6 None",
        "sadness/s10 (2)": "sad 2 None",
    },
}


@pytest.mark.parametrize("name", [name for name, layout in layouts().items() if hasattr(layout, "women")])
def test_corpora_that_the_names_of_their_files_tell_all_about(tmp_path: Path, name: str):
    tree(tmp_path, *(f"{stem}.wav" for stem in NAMED[name]), *(f"copy/{stem}.flac" for stem in NAMED[name]), "readme/x.wav")
    found, _ = read(tmp_path)
    told = {
        u.path.relative_to(tmp_path).as_posix().removesuffix(u.path.suffix).removeprefix("copy/"): f"{u.emotion} "
        f"{str(u.speaker).removeprefix(f'{name}/')} {u.gender}"
        for u in found
    }
    assert told == NAMED[name]
    assert len(found) == len(told)
    assert {u.corpus for u in found} == {name}


# Folders that are no corpus, or another one


def banglaser(actor: int, emotion: int, sentence: int) -> str:
    """The names of BanglaSER: 01 is happy and 05 neutral, and 34 actors say three sentences."""
    return f"Actor {actor:02d}/03-01-{emotion:02d}-{1 + (emotion != 5):02d}-{sentence:02d}-01-{actor:02d}.wav"


def test_names_of_the_form_of_ravdess_with_other_codes_are_refused(tmp_path: Path):
    tree(tmp_path, *(banglaser(actor, emotion, s) for actor in (1, 2, 34) for emotion in range(1, 6) for s in (1, 2, 3)))
    with pytest.raises(ValueError, match="has the form of RAVDESS's names and none of its codes"):
        read(tmp_path, "ravdess")
    # Those that any name of RAVDESS could be: happy of great intensity is 01-02, which would be a strong neutral.
    tree(tmp_path / "few", banglaser(1, 1, 1), banglaser(1, 2, 1))
    with pytest.raises(ValueError, match="none of its codes"):
        read(tmp_path / "few", "ravdess")
    assert not ravdess.NAME.fullmatch("03-01-01-02-01-01-01.wav")


@pytest.mark.parametrize("names", [("female", "male"), ("Actor 01", "Actor 02"), ("speech", "train")])
def test_folders_that_are_named_after_no_emotion_are_named(tmp_path: Path, names: tuple[str, str]):
    tree(tmp_path, *(f"{name}/a.wav" for name in names))
    with pytest.warns(UserWarning, match=f"no class folder is named after a known emotion, and {', '.join(names)} become"):
        assert {u.emotion for u in read(tmp_path)[0]} == {name.lower() for name in names}


def test_a_folder_among_classes_that_is_none_is_named(tmp_path: Path):
    tree(tmp_path, "angry/a.wav", "sad/a.wav", "misc/a.wav")
    with pytest.warns(UserWarning, match="1 of the 3 class folders are named after no emotion that is known, and misc"):
        read(tmp_path)


def test_folders_of_parts_are_the_split_and_the_classes_lie_below(tmp_path: Path):
    tree(tmp_path, "train/angry/a.wav", "Valid/sad/b.wav", "test/angry/deep/c.wav")
    found = {(u.path.name, u.emotion, u.split) for u in read(tmp_path)[0]}
    assert found == {("a.wav", "angry", "train"), ("b.wav", "sad", "validation"), ("c.wav", "angry", "test")}
    (tree(tmp_path, "train/d.wav") / "train" / "metadata.csv").touch()
    with pytest.raises(
        ValueError, match=r"d\.wav \(1 of 4 files\) is in no class folder; .* name the folder .*train, which has"
    ):
        read(tmp_path)


def test_pipes_are_left_out_with_a_word(tmp_path: Path):
    tree(tmp_path, "sad/a.wav", "angry/b.wav")
    os.mkfifo(tmp_path / "sad" / "f.wav")
    os.mkfifo(tmp_path / "sad" / "g.wav")
    with pytest.warns(UserWarning, match=r"f\.wav \(2 in all\) is a pipe, a device or a socket and is left out"):
        assert {u.path.name for u in read(tmp_path)[0]} == {"a.wav", "b.wav"}


def test_a_folder_that_cannot_be_read_is_refused_by_name(tmp_path: Path):
    tree(tmp_path, "sad/a.wav", "angry/b.wav")
    (tmp_path / "angry").chmod(0)
    try:
        if os.access(tmp_path / "angry", os.R_OK):
            pytest.skip("nothing is forbidden to this user")
        with pytest.raises(ValueError, match=r"angry cannot be read \(Permission denied\); check its permissions"):
            read(tmp_path)
    finally:
        (tmp_path / "angry").chmod(0o700)


# --map


def emotions(place: Path, *texts: str) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [u.emotion for u in read(place, mapping=parse_map(texts))[0]]


def test_a_map_names_the_labels_of_folders_manifests_and_corpora(tmp_path: Path):
    folders = tree(tmp_path / "f", "01neutral/a.wav", "happiness/b.wav", "joy/c.wav")
    assert emotions(folders, "01Neutral=neutral") == ["neutral", "happy", "happy"]
    assert emotions(folders, "joy=excited,01neutral=calm") == ["calm", "happy", "excited"]
    assert emotions(folders, "happy=sad", "joy=bored") == [
        "01neutral",
        "sad",
        "bored",
    ]  # the label itself first
    table = folders / "m.csv"
    table.write_text("path,emotion\n01neutral/a.wav,Anger\njoy/c.wav,sad\n")
    assert emotions(table, "anger=sad,sad=anger") == ["sad", "angry"]
    assert emotions(tree(tmp_path / "e", "03a01Wa.wav", "03a01La.wav"), "boredom=neutral") == ["neutral", "angry"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("joi=happy", "no label is joi; the labels there are: joy, sad"),
        ("joy=happy,joi=sad,sda=sad", "no label is joi or sda"),
        ("joy=happy,Joy=sad", "Joy is set twice, to happy and sad"),
        ("joy=happy,joy=happy", "joy is set twice"),
        ("joy", "'joy': expected LABEL=EMOTION"),
        ("joy=", "expected LABEL=EMOTION"),
        ("=happy", "expected LABEL=EMOTION"),
        ("joy=a=b", "expected LABEL=EMOTION"),
        ("joy=happy,", "expected LABEL=EMOTION"),
        ("", "expected LABEL=EMOTION"),
    ],
)
def test_a_map_that_says_nothing_or_two_things_is_refused(tmp_path: Path, text: str, words: str):
    with pytest.raises(ValueError, match=r"^--map[^\n]*$") as caught:
        emotions(tree(tmp_path, "joy/a.wav", "sad/b.wav"), text)
    assert words in str(caught.value)


def test_train_evaluate_and_crossval_take_a_map_and_report_it(npser: Command, corpus: Path, small: Path, tmp_path: Path):
    npser("train", corpus, "--config", small, "--map", "sad=joy", "--out", "run")
    npser("crossval", corpus, "--config", small, "--map", "sad=joy", "--epochs", "1", "--no-oracle", "--out", "folds")
    for folder in (tmp_path / "run", tmp_path / "folds", *(tmp_path / "folds" / "jobs").iterdir()):
        assert json.loads((folder / "report.json").read_text())["map"] == {"sad": "happy"}
        assert "Labels by the user's own map: sad is happy." in (folder / "report.md").read_text()
    shown = npser("evaluate", "run/model.safetensors", corpus, "--map", "sad=happy").stdout
    assert "24 utterances of buzz" in shown
    assert "labels by the user's own map: sad is happy" in shown
    assert "happy" in shown
    unknown = ("--map", "sda=happy")
    one_sentence(npser("crossval", corpus, "--config", small, *unknown, status=1), "--map: no label is sda", "angry, sad")
    one_sentence(npser("evaluate", "run/model.safetensors", corpus, *unknown, status=1), "--map: no label is sda")
    assert "--map LABEL=EMOTION" in npser("crossval", "--help").stdout

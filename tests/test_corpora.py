"""Corpora are found, named, labelled, and refused with a sentence that says the way out."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import CORPORA, ROOT

from npser.corpora import Utterance, emodb, load, manifest, ravdess, read
from npser.corpora.labels import CANONICAL, canonical, canonical_gender


def touch(folder: Path, *names: str) -> Path:
    """Make empty files: the readers do not open audio."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def table(folder: Path, text: str, name: str = "manifest.csv", encoding: str = "utf-8") -> Path:
    """Write a CSV, and the two recordings a.wav and b.wav beside it."""
    touch(folder, "a.wav", "b.wav")
    (folder / name).write_text(text, encoding=encoding, newline="")
    return folder / name


def refusal(*data: Path, **options) -> str:
    """The sentence by which data are refused."""
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        load(list(data), **options)
    return str(caught.value)


# Emotions and genders


@pytest.mark.parametrize(
    ("emotion", "words"),
    [
        ("angry", "Anger,ang,Wut,A\u0308rger"),
        ("fearful", "fear,FEA,anxiety"),
        ("happy", " joy ,hap,Happiness"),
        ("sad", "sadness"),
        ("surprised", "ps,Pleasant_Surprise,pleasant-surprise"),
    ],
)
def test_synonyms_become_canonical(emotion: str, words: str):
    assert {canonical(word) for word in words.split(",")} == {emotion}


def test_three_letter_codes_become_canonical():
    codes = "ang bor cal dis exc fea fru hap neu oth sad sur"
    assert [canonical(code) for code in codes.split(" ")] == CANONICAL


def test_canonical_words_stay_and_unknown_words_and_single_letters_are_only_lowered():
    assert [canonical(word) for word in (*CANONICAL, "On_Hold", "F")] == [*CANONICAL, "on_hold", "f"]


def test_genders_are_female_male_or_unknown():
    assert {canonical_gender(word) for word in ("f", "Female", "woman", "F ")} == {"female"}
    assert {canonical_gender(word) for word in ("m", "MALE", "man")} == {"male"}
    assert {canonical_gender(word) for word in ("", "unknown", "None", "NA")} == {None}
    with pytest.raises(ValueError, match="'x'"):
        canonical_gender("x")


# Labels


def classes(folder: Path, **counts: int) -> Path:
    """A folder of class folders."""
    return touch(folder, *(f"{name}/{i}.wav" for name, count in counts.items() for i in range(count)))


def test_default_labels_are_the_four_and_the_rest_is_counted(tmp_path: Path):
    corpus = load([classes(tmp_path, anger=2, calm=3, boredom=4, neutral=1, sadness=1, happiness=1)])
    assert corpus.labels == ["angry", "happy", "neutral", "sad"]
    assert corpus.dropped == {"bored": 4, "calm": 3}
    assert len(corpus.utterances) == 5
    assert load([classes(tmp_path / "few", sad=1, angry=1)]).labels == ["angry", "sad"]


def test_excited_counts_as_happy(tmp_path: Path):
    corpus = load([classes(tmp_path, excited=2, sad=1)])
    assert corpus.labels == ["happy", "sad"]
    assert sorted(u.emotion for u in corpus.utterances) == ["happy", "happy", "sad"]
    assert corpus.dropped == {}


@pytest.mark.parametrize("labels", [["excited", "happy"], ["all"]])
def test_excited_is_itself_where_it_is_a_label(tmp_path: Path, labels: list[str]):
    corpus = load([classes(tmp_path, excited=2, happy=1)], labels=labels)
    assert corpus.labels == ["excited", "happy"]


def test_excited_is_dropped_under_its_own_name_where_happy_is_no_label(tmp_path: Path):
    corpus = load([classes(tmp_path, excited=2, sad=1, angry=1)], labels=["sad", "angry"])
    assert corpus.dropped == {"excited": 2}


def test_labels_come_out_alphabetically_and_in_any_spelling(tmp_path: Path):
    corpus = load([classes(tmp_path, sad=1, Anger=1, calm=1)], labels=["sadness", "CALM", "ang", "sad"])
    assert corpus.labels == ["angry", "calm", "sad"]


def test_a_label_without_utterances_is_refused_with_those_that_exist(tmp_path: Path):
    sentence = refusal(classes(tmp_path, sad=1, angry=1), labels=["sad", "bored"])
    assert "no utterance is bored" in sentence
    assert "angry, sad" in sentence


def test_one_class_or_none_is_refused_and_own_classes_need_to_be_named(tmp_path: Path):
    folder = classes(tmp_path, sad=1, calm=1)
    assert "only the class sad" in refusal(folder)
    assert "only the class calm" in refusal(folder, labels=["calm"])
    assert "--labels names no emotion" in refusal(folder, labels=[" "])
    own = classes(tmp_path / "own", Dog=1, Cat=1)
    with pytest.warns(UserWarning, match="no class folder is named after a known emotion, and Cat, Dog become classes"):
        assert "the emotions there are: cat, dog" in refusal(own)
    with pytest.warns(UserWarning, match="--map Cat=EMOTION"):
        assert load([own], labels=["all"]).labels == ["cat", "dog"]


# Folders


def test_class_folders_name_the_emotion_however_deep_a_file_lies(tmp_path: Path):
    folder = touch(tmp_path / "mine", "angry/a.WAV", "angry/sad/b.flac", "sad/x/y/c.mp3", "sad/notes.txt")
    found, _ = read([folder])
    assert [(u.path.name, u.emotion, u.corpus) for u in found] == [
        ("a.WAV", "angry", "mine"),
        ("b.flac", "angry", "mine"),
        ("c.mp3", "sad", "mine"),
    ]
    assert all(u.speaker is None and u.session is None and u.gender is None for u in found)


def test_every_audio_extension_is_found_also_those_that_cannot_be_decoded(tmp_path: Path):
    endings = ["wav", "flac", "ogg", "oga", "opus", "mp3", "aiff", "aif", "au", "w64", "caf", "m4a", "mp4", "aac"]
    found, _ = read([touch(tmp_path, *(f"sad/{i}.{ending}" for i, ending in enumerate(endings)))])
    assert sorted(u.path.suffix for u in found) == sorted(f".{ending}" for ending in endings)


def test_hidden_files_are_skipped_and_links_are_followed_but_not_in_circles(tmp_path: Path):
    touch(tmp_path, "sad/._a.wav", "sad/a.wav", ".trash/b.wav")
    (tmp_path / "sad" / "again").symlink_to(tmp_path)
    (tmp_path / "happy").symlink_to(touch(tmp_path.parent / f"{tmp_path.name}-elsewhere", "b.wav"))
    found, _ = read([tmp_path])
    assert [(u.path.name, u.emotion) for u in found] == [("b.wav", "happy"), ("a.wav", "sad")]


def test_a_file_outside_the_class_folders_is_refused(tmp_path: Path):
    sentence = refusal(touch(tmp_path, "sad/a.wav", "b.wav"))
    assert "b.wav (1 of 2 files) is in no class folder" in sentence


def test_missing_empty_and_silent_folders_are_refused(tmp_path: Path):
    assert "nowhere does not exist" in refusal(tmp_path / "nowhere")
    (tmp_path / "empty" / "below").mkdir(parents=True)
    assert "empty is empty" in refusal(tmp_path / "empty")
    assert "holds no audio files" in refusal(touch(tmp_path / "text", "a.txt"))
    assert "is one recording" in refusal(touch(tmp_path, "a.wav") / "a.wav")
    with pytest.raises(ValueError, match="no DATA"):
        load([])


# EmoDB and RAVDESS


def test_emodb_is_recognised_by_its_names(tmp_path: Path):
    touch(tmp_path, "wav/03a01Wa.wav", "wav/08b10Lb.wav", "wav/16a02Ec.WAV", "docs/take1.wav")
    found, _ = read([tmp_path])
    assert [(u.emotion, u.corpus, u.speaker, u.gender, u.session) for u in found] == [
        ("angry", "emodb", "emodb/03", "male", "emodb/1"),
        ("bored", "emodb", "emodb/08", "female", "emodb/1"),
        ("disgusted", "emodb", "emodb/16", "female", "emodb/5"),
    ]


def test_every_letter_of_emodb_and_every_number_of_ravdess_is_its_emotion(tmp_path: Path):
    found, _ = read([touch(tmp_path / "e", *(f"11a05{letter}a.wav" for letter in "WLEAFTN"))])
    assert " ".join(f"{u.path.name[5]} {u.emotion}" for u in found) == (
        "A fearful E disgusted F happy L bored N neutral T sad W angry"
    )
    found, _ = read([touch(tmp_path / "r", *(f"03-01-0{number}-01-01-01-01.wav" for number in range(1, 9)))])
    assert " ".join(u.emotion for u in found) == "neutral calm happy sad angry fearful disgusted surprised"


def test_names_that_only_resemble_a_layout_do_not_match():
    assert emodb.NAME.fullmatch("03a01Wa.flac")
    assert not any(map(emodb.NAME.fullmatch, ["04a01Wa.wav", "03a01Xa.wav", "03a01Wab.wav", "x03a01Wa.wav", "03c01Wa.wav"]))
    assert ravdess.NAME.fullmatch("03-01-05-01-02-01-18.wav")
    assert not any(map(ravdess.NAME.fullmatch, ["03-01-09-01-02-01-18.wav", "03-01-05-01-02-01-25.wav", "03-01-05.wav"]))


def test_ravdess_is_recognised_and_songs_videos_and_copies_are_skipped(tmp_path: Path):
    name = "03-01-05-02-02-01-18"
    song, video, neutral = "03-02-05-01-02-01-18.wav", "01-01-05-01-02-01-18.mp4", "03-01-01-01-02-01-01.wav"
    touch(tmp_path, f"Actor_18/{name}.wav", f"Actor_18/{name}.m4a", f"audio_speech/Actor_18/{name}.wav")
    touch(tmp_path, f"Actor_18/{song}", f"Actor_18/{video}", f"Actor_01/{neutral}")
    found, _ = read([tmp_path])
    one, other = tmp_path / "Actor_01" / neutral, tmp_path / "Actor_18" / f"{name}.wav"
    assert found == [
        Utterance(one, "neutral", "ravdess", "ravdess/01", "male", "ravdess/1", style="normal"),
        Utterance(other, "angry", "ravdess", "ravdess/18", "female", "ravdess/5", style="strong"),
    ]


def test_a_few_files_of_a_layout_do_not_make_a_corpus_of_it(tmp_path: Path):
    found, _ = read([touch(tmp_path / "mine", "sad/03a01Wa.wav", "sad/b.wav")])
    assert {(u.corpus, u.emotion) for u in found} == {("mine", "sad")}


def test_corpus_wins_over_recognition_and_manifest(tmp_path: Path):
    touch(tmp_path, "sad/03a01Wa.wav", "sad/08a01Wa.wav")
    assert {u.emotion for u in read([tmp_path])[0]} == {"angry"}
    assert {u.emotion for u in read([tmp_path], corpus="folder")[0]} == {"sad"}
    (tmp_path / "metadata.csv").write_text("path,emotion\nsad/03a01Wa.wav,joy\n")
    assert {u.emotion for u in read([tmp_path])[0]} == {"happy"}
    assert {u.emotion for u in read([tmp_path], corpus="manifest")[0]} == {"happy"}
    assert {u.emotion for u in read([tmp_path], corpus="emodb")[0]} == {"angry"}


def test_a_corpus_that_does_not_fit_is_refused(tmp_path: Path):
    folder = classes(tmp_path / "mine", sad=1, angry=1)
    assert "choose from iemocap, emodb, ravdess" in refusal(folder, corpus="berlin")
    assert "EmoDB's 03a01Wa.wav" in refusal(folder, corpus="emodb")
    assert "no RAVDESS speech" in refusal(folder, corpus="ravdess")
    assert "neither manifest.csv nor metadata.csv" in refusal(folder, corpus="manifest")
    assert "reads a folder" in refusal(table(tmp_path, "path,emotion\na.wav,sad\n"), corpus="emodb")


@pytest.mark.parametrize("name", ["emodb", "ravdess"])
def test_layout_and_manifest_of_a_real_corpus_agree(name: str):
    folder = CORPORA / name
    if not (folder / "manifest.csv").is_file():
        pytest.skip(f"{folder} is missing; NPSER_CORPORA names the folder of the corpora")
    with pytest.warns(UserWarning, match="not used: columns sentence, duration"):
        by_layout, by_manifest = (
            {(u.path.name, u.emotion, u.speaker, u.gender, u.session) for u in read([folder], corpus=corpus)[0]}
            for corpus in (name, None)
        )
    assert len(by_layout) > 300
    assert by_layout == by_manifest


# Manifests


def test_a_manifest_gives_all_that_it_knows(tmp_path: Path):
    text = (
        "path,emotion,speaker,gender,session,split,dialogue,scenario,style,words\n"
        "a.wav,Anger,7,F,2,Dev,d1,s1,improvised,hello\n"
    )
    with pytest.warns(UserWarning, match="manifest.csv: not used: column words$"):
        (found,), missing = read([table(tmp_path / "calls", text)])
    known = ("calls/7", "female", "calls/2", "validation", "calls/d1", "s1", "improvised")
    assert missing == []
    assert found == Utterance(tmp_path / "calls" / "a.wav", "angry", "calls", *known)


@pytest.mark.parametrize(
    "header", ["path,emotion", "file,label", "file_name,emotion", "Path, Emotion", "filename,label", "Wav,label"]
)
def test_columns_have_several_names(tmp_path: Path, header: str):
    (found,), _ = read([table(tmp_path / "c", f"{header}\na.wav,joy\n")])
    assert found == Utterance(tmp_path / "c" / "a.wav", "happy", "c")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_manifests_of_spreadsheets_are_read(tmp_path: Path, encoding: str, end: str, separator: str):
    rows = ["", "path,emotion,speaker", "a.wav,sad,Zoë", "", "b.wav,angry,"]
    text = end.join(rows).replace(",", separator)
    found, _ = read([table(tmp_path / "c", text, encoding=encoding)])
    assert [(u.path.name, u.emotion, u.speaker) for u in found] == [("a.wav", "sad", "c/Zoë"), ("b.wav", "angry", None)]


def test_paths_may_be_absolute(tmp_path: Path):
    path = touch(tmp_path / "audio", "x.wav") / "x.wav"
    (found,), _ = read([table(tmp_path / "lists", f"path,emotion\n{path},sad\n")])
    assert found.path == path


def test_the_corpus_column_names_the_corpus_else_the_folder_else_the_file(tmp_path: Path):
    # An id that carries its corpus already, as in an exported manifest, does not get it twice.
    rows = "path,emotion,corpus,speaker\na.wav,sad,x,x/1\nb.wav,sad,,1\n"
    assert [u.speaker for u in read([table(tmp_path / "f", rows)])[0]] == ["x/1", "f/1"]
    assert [u.speaker for u in read([table(tmp_path / "f", rows, "mine.csv")])[0]] == ["x/1", "mine/1"]


def test_a_file_listed_twice_alike_counts_once(tmp_path: Path):
    found, _ = read([table(tmp_path, "path,emotion\na.wav,joy\n./a.wav,happy\n")])
    assert len(found) == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("path,emotion\n", "has no rows"),
        ("path,speaker\na.wav,1\n", "no column emotion or label, only path, speaker"),
        ("name,emotion\na.wav,sad\n", "no column path or file or file_name or filename or wav, only name"),
        ("path,emotion\na.wav,sad\n,sad\n", "line 3 has no path"),
        ("path,emotion\n\na.wav, \n", "line 3 has no emotion"),
        ("path,emotion\na.wav\n", "line 2 has no emotion"),
        ("path,emotion\nx,a.wav,sad\n", "line 2 has 3 fields and the header 2"),
        ("path,emotion\na.wav,sad\nb.wav,sad\na.wav,joy\n", "lines 2 and 4 list"),
        ("path,emotion,split\na.wav,sad,train\na.wav,sad,test\n", "with split train and test"),
        ("path,emotion,split\na.wav,sad,Fold1\n", "line 2: split is 'Fold1'"),
        ("path,emotion\na.wav,sad\nc.wav,sad\nd.wav,sad\n", "c.wav, which is not a file (2 of 3 are missing)"),
        ("path,emotion\n" + "x" * 200_000 + ",sad\n", "is not CSV"),
        ("path,emotion\n" + "x" * 5_000 + ",sad\n", "which is not a file"),
        ("path,emotion\n\0,sad\n", "is not text"),
    ],
)
def test_a_bad_manifest_is_refused_with_its_place(tmp_path: Path, text: str, problem: str):
    path = table(tmp_path, text)
    sentence = refusal(path)
    assert str(path) in sentence
    assert problem in sentence
    assert "is not UTF-8 text" in refusal(table(tmp_path, text, encoding="utf-16"))


def test_missing_files_are_left_out_and_listed_on_request(tmp_path: Path):
    path = table(tmp_path, "path,emotion\na.wav,sad\nc.wav,sad\nb.wav,angry\n")
    corpus = load([path], skip_missing=True)
    assert [u.path.name for u in corpus.utterances] == ["a.wav", "b.wav"]
    assert corpus.missing == [str(tmp_path / "c.wav")]
    assert "no utterance is left" in refusal(table(tmp_path, "path,emotion\nc.wav,sad\n"), skip_missing=True)


# Several


def test_two_corpora_of_one_name_are_kept_apart(tmp_path: Path):
    one, two = (touch(tmp_path / name, "03a01Wa.wav", "08a01Na.wav") for name in ("one", "two"))
    listed = table(tmp_path / "emodb", "path,emotion,speaker,session,dialogue\na.wav,sad,03,1,9\n")
    corpus = load([one, two, listed])
    assert corpus.names == ["emodb", "emodb-2", "emodb-3"]
    ids = ["emodb/03", "emodb/08", "emodb-2/03", "emodb-2/08", "emodb-3/03"]
    assert [u.speaker for u in corpus.utterances] == ids
    assert {u.session for u in corpus.utterances} == {"emodb/1", "emodb-2/1", "emodb-3/1"}
    assert corpus.utterances[-1].dialogue == "emodb-3/9"


def test_manifests_that_name_one_corpus_share_its_speakers(tmp_path: Path):
    rows = {"train": "a.wav,sad,calls,1\n", "test": "b.wav,angry,calls,1\n"}
    corpus = load([table(tmp_path, "path,emotion,corpus,speaker\n" + row, f"{k}.csv") for k, row in rows.items()])
    assert corpus.names == ["calls"]
    assert {u.speaker for u in corpus.utterances} == {"calls/1"}


def test_a_recording_in_two_of_data_is_refused(tmp_path: Path):
    folder = touch(tmp_path / "x", "sad/a.wav", "angry/b.wav")
    listed = table(tmp_path, "path,emotion\nx/sad/a.wav,sad\n")
    assert "give each recording once" in refusal(folder, listed)
    assert "give each recording once" in refusal(folder, folder)


def test_a_manifest_is_found_in_its_folder_and_manifest_csv_first(tmp_path: Path):
    table(tmp_path, "path,emotion\na.wav,sad\n", "metadata.csv")
    assert manifest.find(tmp_path) == tmp_path / "metadata.csv"
    table(tmp_path, "path,emotion\nb.wav,sad\n")
    assert manifest.find(tmp_path) == tmp_path / "manifest.csv"
    assert manifest.find(touch(tmp_path / "none", "x.wav")) is None


def test_importing_the_corpora_is_quick():
    code = "import npser.corpora.manifest, npser.split, sys; print({'numba', 'soundfile'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "set()\n"

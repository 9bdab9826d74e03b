"""A split keeps speakers apart, says so where it cannot, and is the same every time."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from npser.corpora import Utterance
from npser.split import Split, make_split, session_order, sessions_of, split_hash

EMOTIONS = ("angry", "happy", "neutral", "sad")


def corpus(name: str, sessions: int = 0, speakers: int = 0, each: int = 20, split: str = "") -> list[Utterance]:
    """`each` utterances of each speaker, women and men in turn; speakers s go to session s modulo `sessions`."""
    return [
        Utterance(
            Path(f"/data/{name}/{speaker}-{i}.wav"),
            EMOTIONS[i % 4],
            name,
            speaker=f"{name}/{speaker}" if speakers else None,
            gender="male" if speaker % 2 else "female",
            session=f"{name}/{speaker % sessions + 1}" if sessions else None,
            split=split or None,
        )
        for speaker in range(speakers or 1)
        for i in range(each)
    ]


def speakers(utterances: list[Utterance], part: list[int]) -> set[str | None]:
    """The speakers of one part."""
    return {utterances[i].speaker for i in part}


def assert_partition(utterances: list[Utterance], split: Split) -> None:
    """Every utterance is in exactly one part, and the parts are sorted."""
    assert sorted(split.train + split.validation + split.test) == list(range(len(utterances)))
    assert all(part == sorted(part) for part in (split.train, split.validation, split.test))


def refusal(utterances: list[Utterance], *args, **options) -> str:
    """The sentence by which a split is refused."""
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        make_split(utterances, *args, **options)
    return str(caught.value)


# Sessions


def test_the_sessions_of_a_corpus_are_used_as_they_are_known():
    first, *rest = corpus("c", 5, 10, each=1)
    assert sessions_of([replace(first, session=None), *rest]) == [None, *(u.session for u in rest)]


def test_sessions_are_in_natural_order_corpus_by_corpus():
    names = ["z/10", "z/9", "z/2b", "z/2a", "a/1", "z/Ses02"]
    utterances = [Utterance(Path(name), "sad", name[0], session=name) for name in names]
    assert session_order(utterances) == ["a/1", "z/2a", "z/2b", "z/9", "z/10", "z/Ses02"]


@pytest.mark.parametrize(("count", "groups"), [(1, 1), (3, 3), (5, 5), (24, 5)])
def test_without_sessions_groups_of_speakers_serve(count: int, groups: int):
    utterances = corpus("c", speakers=count, each=2)
    assert session_order(utterances) == [f"c/group{k + 1}" for k in range(groups)]
    assert make_split(utterances, "none", "none").method == "none"
    of_speaker = {(u.speaker, group) for u, group in zip(utterances, sessions_of(utterances), strict=True)}
    assert len(of_speaker) == count


def test_groups_are_balanced_by_gender():
    utterances = corpus("c", speakers=10, each=1)
    groups = list(zip(sessions_of(utterances), (u.gender for u in utterances), strict=True))
    assert sorted(groups, key=str) == [(f"c/group{k}", gender) for k in range(1, 6) for gender in ("female", "male")]


def test_groups_are_balanced_by_size_where_genders_allow():
    sizes = [60, 50, 40, 30, 20, 10]
    utterances = [
        Utterance(Path(f"{s}-{i}"), "sad", "c", f"c/{s}", "female") for s, size in enumerate(sizes) for i in range(size)
    ]
    groups = sessions_of(utterances)
    assert sorted(groups.count(f"c/group{k}") for k in range(1, 6)) == [30, 30, 40, 50, 60]


def test_groups_do_not_depend_on_the_order_of_utterances():
    utterances = corpus("c", speakers=13, each=3)
    shuffled = random.Random(1).sample(utterances, len(utterances))
    group_of = dict(zip(utterances, sessions_of(utterances), strict=True))
    assert sessions_of(shuffled) == [group_of[u] for u in shuffled]
    assert sessions_of(shuffled[:1]) == ["c/group1"]


# Held-out sessions


def test_the_last_session_tests_and_the_first_validates_by_default():
    utterances = corpus("c", 10, 10)
    split = make_split(utterances)
    assert (split.test_session, split.validation_session, split.method) == ("c/10", "c/1", "session")
    assert speakers(utterances, split.test) == {"c/9"}
    assert speakers(utterances, split.validation) == {"c/0"}
    assert_partition(utterances, split)
    assert not split.speaker_dependent
    assert split.warnings == []


@pytest.mark.parametrize(
    ("test", "validation", "expected"),
    [
        ("2", None, ("c/2", "c/3")),
        ("c/5", None, ("c/5", "c/1")),
        ("2", "5", ("c/2", "c/5")),
        (None, "5", ("c/4", "c/5")),
        (None, "2", ("c/5", "c/2")),
        ("none", None, (None, "c/5")),
        ("none", "1", (None, "c/1")),
        ("none", "none", (None, None)),
        ("3", "none", ("c/3", None)),
        (None, "none", ("c/5", None)),
    ],
)
def test_sessions_are_chosen_by_name(test: str | None, validation: str | None, expected: tuple[str | None, str | None]):
    utterances = corpus("c", 5, 10)
    split = make_split(utterances, test, validation)
    assert (split.test_session, split.validation_session) == expected
    assert {utterances[i].session for i in split.test} == {expected[0]} - {None}
    assert {utterances[i].session for i in split.validation} == {expected[1]} - {None}
    assert_partition(utterances, split)


def test_unknown_ambiguous_and_equal_sessions_are_refused_with_a_list():
    both = corpus("a", 2, 2) + corpus("b", 2, 2)
    assert "--test-session 7 is not known; the sessions are: a/1, a/2, b/1, b/2, none" in refusal(both, "7")
    assert "--val-session 1 may be a/1 or b/1" in refusal(both, None, "1")
    assert "are both a/1" in refusal(both, "a/1", "a/1")
    assert make_split(both, "a/1").validation_session == "a/2"
    assert make_split(both, "b/2").validation_session == "b/1"
    assert make_split(corpus("a", 1, 2) + corpus("b", 2, 2), "a/1").validation_session == "b/1"


def test_several_corpora_test_on_the_last_session_in_whatever_order_they_are_named():
    for utterances in (corpus("z", 3, 6) + corpus("a", 4, 8), corpus("a", 4, 8) + corpus("z", 3, 6)):
        assert make_split(utterances).test_session == "z/3"


def test_a_recording_in_two_parts_under_different_names_is_refused():
    utterances = corpus("c", 3, 6)
    digests = [str(i) for i in range(len(utterances))]
    assert not make_split(utterances, digests=digests).speaker_dependent
    split = make_split(utterances)
    digests[split.test[0]] = digests[split.train[0]]
    a, b = utterances[split.train[0]].path, utterances[split.test[0]].path
    with pytest.raises(ValueError, match=rf"{b} is in test and, byte for byte, in train as {a}; .*--allow-speaker-overlap"):
        make_split(utterances, digests=digests)
    assert make_split(utterances, allow_speaker_overlap=True, digests=digests).speaker_dependent
    digests[split.train[1]] = digests[split.train[0]]
    digests[split.test[0]] = "another"
    assert make_split(utterances, digests=digests) == split


@pytest.mark.parametrize("pair", [("train", "validation"), ("train", "test"), ("validation", "test")])
def test_any_two_parts_are_searched_for_the_same_recording(pair: tuple[str, str]):
    utterances = corpus("c", 3, 6)
    split = make_split(utterances)
    a, b = (getattr(split, part)[3] for part in pair)
    digests = [str(i) for i in range(len(utterances))]
    digests[b] = digests[a]
    words = f"{utterances[b].path} is in {pair[1]} and, byte for byte, in {pair[0]} as {utterances[a].path}"
    assert words in refusal(utterances, digests=digests)
    assert make_split(utterances, digests=digests, allow_speaker_overlap=True).speaker_dependent


def test_speaker_groups_are_held_out_like_sessions():
    utterances = corpus("c", speakers=10)
    split = make_split(utterances)
    assert (split.method, split.test_session, split.validation_session) == ("speaker groups", "c/group5", "c/group1")
    assert [len(speakers(utterances, part)) for part in (split.train, split.validation, split.test)] == [6, 2, 2]
    assert not split.speaker_dependent


def test_utterances_of_unknown_speaker_train_beside_known_sessions():
    utterances = corpus("known", 3, 6) + corpus("unknown")
    split = make_split(utterances)
    assert set(range(120, 140)) <= set(split.train)
    assert (split.test_session, split.speaker_dependent) == ("known/3", False)
    assert "20 utterances have no session" in split.warnings[0]


def test_with_two_groups_a_fifth_of_the_training_group_validates():
    utterances = corpus("c", 2, 4)
    split = make_split(utterances)
    assert (split.test_session, split.validation_session, split.speaker_dependent) == ("c/2", None, False)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [32, 8, 40]
    assert {utterances[i].session for i in split.train + split.validation} == {"c/1"}
    assert sorted(utterances[i].emotion for i in split.validation) == [e for e in EMOTIONS for _ in range(2)]
    assert "speakers are in training too" in split.warnings[0]
    assert_partition(utterances, split)


def test_nothing_to_train_on_is_refused():
    assert "nothing is left to train on" in refusal(corpus("c", 2, 2), "1", "2")
    assert "nothing is left to train on" in refusal(corpus("c", 1, 1), "1")
    assert "nothing is left to train on" in refusal(corpus("c", 1, 1), None, "1")
    assert "nothing is left to train on" in refusal(corpus("c", speakers=1, split="test"))
    assert "nothing is left to train on" in refusal([], "none", "none")


def test_an_emotion_that_training_lacks_is_named():
    utterances = [u for u in corpus("c", 5, 5) if u.emotion != "sad" or u.session == "c/5"]
    assert make_split(utterances).warnings == [
        "the validation part holds no sad: its UA is of the other classes only",
        "no training utterance is sad: the model cannot learn that",
    ]


def test_a_speaker_of_two_genders_is_named():
    utterances = corpus("c", 5, 5)
    utterances[0] = replace(utterances[0], gender="male")
    assert make_split(utterances).warnings == ["speaker c/0 is female and male"]


# Speakers


@pytest.mark.parametrize(
    ("speaker", "second", "places"),
    [("2", "5", "train and in test"), ("2", "1", "train and in validation"), ("1", "5", "validation and in test")],
)
def test_a_speaker_in_two_parts_is_refused_unless_allowed(speaker: str, second: str, places: str):
    # Session 5 tests and 1 validates; each speaker has one session of the same name, and one of them a second.
    owners = [*((s, s) for s in "12345"), (speaker, second)]
    utterances = [Utterance(Path(f"{s}-{t}"), "sad", "c", f"c/{s}", session=f"c/{t}") for s, t in owners]
    sentence = refusal(utterances)
    assert f"speaker c/{speaker} is in {places}" in sentence
    assert "--allow-speaker-overlap" in sentence
    split = make_split(utterances, allow_speaker_overlap=True)
    assert split.speaker_dependent
    assert "new speakers" in split.warnings[0]


def test_one_speaker_is_split_only_where_that_is_allowed():
    utterances = corpus("c", speakers=1)
    sentence = refusal(utterances)
    assert "c/0 is the only known speaker" in sentence
    assert "--allow-speaker-overlap" in sentence
    split = make_split(utterances, allow_speaker_overlap=True)
    assert (split.method, split.speaker_dependent) == ("random", True)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [12, 4, 4]


def test_one_session_of_several_speakers_is_split_by_speaker():
    split = make_split(corpus("c", 1, 4))
    assert (split.method, split.test_session, split.speaker_dependent) == ("speaker groups", "c/group4", False)


def test_one_session_of_one_speaker_is_split_only_where_that_is_allowed():
    assert "the only known speaker" in refusal(corpus("c", 1, 1))
    assert make_split(corpus("c", 1, 1), allow_speaker_overlap=True).speaker_dependent


def test_one_speaker_trains_without_a_test_part():
    split = make_split(corpus("c", speakers=1), "none")
    assert [len(part) for part in (split.train, split.validation, split.test)] == [16, 4, 0]


def test_nobody_needs_to_be_known_where_all_is_training():
    assert make_split(corpus("c"), "none", "none").warnings == []


def test_without_speakers_the_split_is_random_stratified_and_branded():
    utterances = corpus("c", each=100)
    split = make_split(utterances)
    assert (split.method, split.speaker_dependent, split.test_session) == ("random", True, None)
    for part, count in ((split.train, 15), (split.validation, 5), (split.test, 5)):
        assert [sum(utterances[i].emotion == e for i in part) for e in EMOTIONS] == [count] * 4
    assert "say little about new speakers" in split.warnings[0]
    assert_partition(utterances, split)


@pytest.mark.parametrize("utterances", [corpus("c", each=100), corpus("c", 2, 4)])
def test_what_is_drawn_follows_seed_and_names_and_not_the_order(utterances: list[Utterance]):
    shuffled = random.Random(1).sample(utterances, len(utterances))
    held = [{data[i].path for i in make_split(data).validation} for data in (utterances, shuffled)]
    assert held[0] == held[1]
    assert make_split(utterances, seed=1).validation != make_split(utterances, seed=2).validation
    assert make_split(utterances, None, "none").test == make_split(utterances).test


def test_a_random_split_has_no_sessions_to_choose_from_but_none():
    utterances = corpus("c", each=100)
    assert "--test-session 5 is not known; the sessions are: none" in refusal(utterances, "5")
    assert make_split(utterances, "none").test == []
    assert make_split(utterances, None, "none").validation == []
    assert "too few" in refusal(corpus("c", each=4))


# The split column


def column(train: int, validation: int = 0, test: int = 0) -> list[Utterance]:
    """Utterances of that many speakers a part, all in one session: the column must win over it."""
    parts = (("train", train), ("validation", validation), ("test", test))
    return [u for part, n in parts if n for u in corpus(f"{part}-corpus", 1, n, split=part)]


def test_the_split_column_wins_over_sessions():
    utterances = column(2, 1, 1)
    split = make_split(utterances)
    assert split == Split(list(range(40)), list(range(40, 60)), list(range(60, 80)), method="split column")


def test_sessions_contradict_a_split_column():
    utterances = column(2, 1, 1)
    assert "--test-session 1 contradicts the split column" in refusal(utterances, "1")
    assert "--val-session 1 contradicts the split column" in refusal(utterances, None, "1")


def test_none_moves_a_part_of_the_column_to_training_and_says_so():
    split = make_split(column(2, 1, 1), "none")
    assert split.train == [*range(40), *range(60, 80)]
    assert "20 utterances that the split column marks test are in training" in split.warnings[0]
    assert make_split(column(2, 1, 1), "none", "none").train == list(range(80))


def test_a_column_with_gaps_is_refused():
    first, *rest = column(2, 1, 1)
    assert f"{first.path} has no split" in refusal([replace(first, split=None), *rest])


def test_a_column_that_shares_a_speaker_is_refused_unless_allowed():
    utterances = [*column(2, 1, 1), replace(column(1)[0], path=Path("x"), split="test")]
    assert "speaker train-corpus/0 is in train and in test" in refusal(utterances)
    assert make_split(utterances, allow_speaker_overlap=True).speaker_dependent


def test_a_column_without_validation_holds_out_a_fifth_of_the_speakers():
    utterances = column(10, 0, 2)
    split = make_split(utterances)
    held = speakers(utterances, split.validation)
    assert (len(held), len(split.validation), split.warnings) == (2, 40, [])
    assert held.isdisjoint(speakers(utterances, split.train))
    assert len(speakers(column(8, 0, 2), make_split(column(8, 0, 2)).validation)) == 2  # the nearest number to a fifth
    assert_partition(utterances, split)
    assert any(speakers(utterances, make_split(utterances, seed=s).validation) != held for s in range(1, 9))
    backwards = utterances[::-1]
    assert speakers(backwards, make_split(backwards).validation) == held
    assert make_split(utterances, None, "none").validation == []


def test_a_column_of_few_training_speakers_holds_out_a_fifth_of_the_utterances():
    split = make_split(column(4, 0, 2))
    assert [len(part) for part in (split.train, split.validation, split.test)] == [64, 16, 40]
    assert not split.speaker_dependent
    assert "speakers are in training too" in split.warnings[0]


# The hash


def test_the_hash_follows_contents_and_not_paths_or_order():
    utterances = corpus("c", 5, 5)
    digests = [f"{i:03}" for i in range(100)]
    split = make_split(utterances)
    value = split_hash(utterances, digests, split)
    moved = [replace(u, path=Path("/elsewhere") / u.path.name) for u in utterances][::-1]
    assert split_hash(moved, digests[::-1], make_split(moved)) == value
    assert len(value) == 64
    assert int(value, 16) > 0


def test_the_hash_changes_with_part_digest_and_emotion():
    utterances = corpus("c", 5, 5)
    digests = [f"{i:03}" for i in range(100)]
    split = make_split(utterances)
    calm = [replace(utterances[0], emotion="calm"), *utterances[1:]]
    others = [split_hash(calm, digests, split), split_hash(utterances, ["new", *digests[1:]], split)]
    others += [split_hash(utterances, digests, make_split(utterances, session)) for session in "15"]
    assert len(set(others)) == 4

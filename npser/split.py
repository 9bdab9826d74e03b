"""Which utterances train, which validate, and which are only scored: by session, so that speakers are new."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

from npser.config import stream
from npser.corpora import Utterance

GROUPS = 5
PARTS = "train", "validation", "test"
FLAGS = "--test-session", "--val-session"
Utterances = Sequence[Utterance]
Parts = dict[str, list[int]]
# The sessions for test and validation.
Pair = tuple[str | None, str | None]


@dataclass(frozen=True)
class Split:
    """Indices into the list of utterances, part by part.

    Attributes
    ----------
    train, validation, test : list of int
        Sorted; together every utterance exactly once.
    test_session, validation_session : str or None
        As ``"corpus/id"``, where the part is a session.
    speaker_dependent : bool
        Whether speakers of one part are, or may be, in another, so that a score says little about new speakers.
    warnings : list of str
        Sentences for the user.
    method : str
        ``"session"``, ``"speaker groups"``, ``"split column"``, ``"random"``, or ``"none"`` where all is training.
    """

    train: list[int]
    validation: list[int]
    test: list[int]
    test_session: str | None = None
    validation_session: str | None = None
    speaker_dependent: bool = False
    warnings: list[str] = field(default_factory=list)
    method: str = "none"


def sessions_of(utterances: Utterances) -> list[str | None]:
    """Find the session of every utterance.

    Where a corpus has none, or one that holds everything, min(5, speakers) groups of its speakers serve, balanced by
    gender, then by size.

    Parameters
    ----------
    utterances : sequence of Utterance

    Returns
    -------
    list of str or None
        ``"corpus/id"`` or ``"corpus/group1"``, None where neither session nor speaker is known.
    """
    with_sessions = {u.corpus for u in utterances if u.session}
    if len({u.session for u in utterances}) == 1 and len({u.speaker for u in utterances}) > 1:
        with_sessions = set()  # one session holds all, so it separates nothing, and the speakers do
    groups: dict[str | None, str] = {}
    for corpus in {u.corpus for u in utterances} - with_sessions:
        groups |= _speaker_groups(corpus, [u for u in utterances if u.corpus == corpus])
    return [u.session if u.corpus in with_sessions else groups.get(u.speaker) for u in utterances]


def session_order(utterances: Utterances) -> list[str]:
    """List the sessions by natural order (2 before 10), corpus by corpus.

    Parameters
    ----------
    utterances : sequence of Utterance

    Returns
    -------
    list of str
    """
    keys = {s: (u.corpus, natural(s)) for u, s in zip(utterances, sessions_of(utterances), strict=True) if s}
    return sorted(keys, key=lambda session: keys[session])


def make_split(
    utterances: Utterances,
    test_session: str | None = None,
    val_session: str | None = None,
    seed: int = 0,
    allow_speaker_overlap: bool = False,
    digests: Sequence[str] = (),
) -> Split:
    """Cut a corpus into training, validation and test.

    A ``split`` column decides where there is one. Otherwise whole sessions are held out: by default the last of
    :func:`session_order` for test and the next one of its corpus, cyclically, for validation. With two sessions validation is a
    seeded fifth of the training session. Without any known speaker or session the parts are random. Utterances of
    unknown session train.

    Parameters
    ----------
    utterances : sequence of Utterance
    test_session, val_session : str, optional
        ``"5"`` or ``"emodb/5"``; ``"none"`` for no such part.
    seed : int, optional
        For what is drawn at random, which does not depend on the order of `utterances`.
    allow_speaker_overlap : bool, optional
        Accept a speaker, or a recording, in two parts; the split is then marked ``speaker_dependent``.
    digests : sequence of str, optional
        A digest of each recording, to find those that are in two parts under different names.

    Returns
    -------
    Split

    Raises
    ------
    ValueError
        For an unknown or ambiguous session, a split column that is incomplete, a speaker or a recording in two parts, a
        single speaker, or nothing left to train on.
    """
    column = any(u.split for u in utterances)
    names = test_session, val_session
    order = [] if column else session_order(utterances)
    test, validation = (_find(flag, name, order, column) for flag, name in zip(FLAGS, names, strict=True))
    warnings: list[str] = []
    if column:
        method, parts = "split column", _by_column(utterances, names, warnings)
    elif names == ("none", "none"):
        method, parts = "none", _collect(["train"] * len(utterances))
    elif not order or (len(order) == 1 and test_session is None and validation is None):
        method, parts = "random", _random(utterances, order, names, seed, allow_speaker_overlap, warnings)
    else:
        method = "session" if set(order) & {u.session for u in utterances} else "speaker groups"
        test, validation = _choose(order, names, test, validation)
        parts = _by_session(utterances, test, validation, warnings)
    if not parts["train"]:
        raise ValueError("nothing is left to train on; name other sessions, or none, or add data")
    dependent = method == "random" or _check_speakers(utterances, parts, allow_speaker_overlap, warnings)
    genders: dict[str | None, set[str]] = defaultdict(set)
    for u in utterances:
        genders[u.speaker] |= {u.gender} if u.gender and u.speaker else set()
    warnings += [f"speaker {speaker} is female and male" for speaker, both in genders.items() if len(both) > 1]
    if digests and method != "random":
        dependent = _check_recordings(utterances, digests, parts, allow_speaker_overlap, warnings) or dependent
    if val_session is None and not parts["validation"]:
        # After the check: this overlap is known, and the test score is not touched by it.
        _hold_out_fifth(utterances, parts, seed, column, warnings)
    for part in ("validation", "test"):
        absent = sorted({u.emotion for u in utterances} - {utterances[i].emotion for i in parts[part]})
        if parts[part] and absent:
            warnings.append(f"the {part} part holds no {' and no '.join(absent)}: its UA is of the other classes only")
    unseen = sorted({u.emotion for u in utterances} - {utterances[i].emotion for i in parts["train"]})
    if unseen:
        warnings.append(f"no training utterance is {' or '.join(unseen)}: the model cannot learn that")
    return Split(parts["train"], parts["validation"], parts["test"], test, validation, dependent, warnings, method)


def split_hash(utterances: Utterances, digests: Sequence[str], split: Split) -> str:
    """Compute the SHA-256 of a split: of what is in each part, not of where the files lie.

    Parameters
    ----------
    utterances : sequence of Utterance
    digests : sequence of str
        A digest of each recording, in the order of `utterances`.
    split : Split

    Returns
    -------
    str
        64 hexadecimal digits over the sorted lines ``part digest emotion``.
    """
    parts = zip(PARTS, (split.train, split.validation, split.test), strict=True)
    lines = sorted(f"{part} {digests[i]} {utterances[i].emotion}" for part, members in parts for i in members)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _find(flag: str, name: str | None, order: list[str], column: bool) -> str | None:
    """The session that a user means by "5" or "emodb/5"; None where none is named."""
    if name in (None, "none"):
        return None
    if column:
        raise ValueError(f"{flag} {name} contradicts the split column; leave the flag or the column out")
    found = [session for session in order if session == name] or [s for s in order if s.endswith(f"/{name}")]
    if len(found) != 1:
        problem = f"may be {' or '.join(found)}" if found else "is not known"
        raise ValueError(f"{flag} {name} {problem}; the sessions are: {', '.join([*order, 'none'])}")
    return found[0]


def _choose(order: list[str], names: Pair, test: str | None, validation: str | None) -> Pair:
    """The sessions for test and validation, where one or both follow from the order."""
    if test is not None and test == validation:
        raise ValueError(f"--test-session and --val-session are both {test}; choose two of {', '.join(order)}")
    if names[0] is None:
        test = next((session for session in reversed(order) if session != validation), None)
    rest = [session for session in order if session != test]
    # With one session left, all of it is needed for training: a fifth of its utterances will validate.
    if names[1] is None and len(rest) > 1:
        near = [session for session in rest if test is not None and _corpus(session) == _corpus(test)] or rest
        before = [session for session in near if test is not None and order.index(session) < order.index(test)]
        validation = near[-1] if test is None else near[len(before) % len(near)]
    return test, validation


def _corpus(session: str) -> str:
    """The corpus of a session."""
    return session.partition("/")[0]


def _collect(marks: Sequence[str]) -> Parts:
    """The part of every utterance -> the utterances of every part."""
    return {part: [i for i, mark in enumerate(marks) if mark == part] for part in PARTS}


def _by_session(utterances: Utterances, test: str | None, validation: str | None, warnings: list[str]) -> Parts:
    """Hold whole sessions out."""
    sessions = sessions_of(utterances)
    if None in sessions:
        count = sessions.count(None)
        warnings.append(f"{count} utterances have no session; they are in the training part")
    part_of = {test: "test", validation: "validation", None: "train"}
    return _collect([part_of.get(session, "train") for session in sessions])


def _by_column(utterances: Utterances, names: Pair, warnings: list[str]) -> Parts:
    """Follow the split column; a part that the user wants none of trains."""
    for utterance in utterances:
        if not utterance.split:
            raise ValueError(f"{utterance.path} has no split and others have; fill the column in, or leave it out")
    marks = [str(u.split) for u in utterances]
    for part, name in zip(("test", "validation"), names, strict=True):
        if name == "none" and part in marks:
            warnings.append(f"{marks.count(part)} utterances that the split column marks {part} are in training")
            marks = ["train" if mark == part else mark for mark in marks]
    return _collect(marks)


def _random(utterances: Utterances, order: list[str], names: Pair, seed: int, allow: bool, notes: list[str]) -> Parts:
    """A stratified 60/20/20 split over utterances, where nothing could keep speakers apart."""
    speakers = sorted({u.speaker for u in utterances if u.speaker})
    reason = f"all is of one session, {order[0]}" if order else "no speaker is known"
    if len(speakers) == 1:
        reason = f"{speakers[0]} is the only known speaker"
    if order and not allow:
        raise ValueError(f"{reason}; add others, or pass --allow-speaker-overlap to split at random")
    notes.append(f"{reason}, so the parts are random and share speakers: scores say little about new speakers")
    wanted = [part for part, name in zip(("test", "validation"), names, strict=True) if name is None]
    marks = ["train"] * len(utterances)
    for part, piece in zip(wanted, _fifths(utterances, range(len(marks)), len(wanted), seed), strict=True):
        for i in piece:
            marks[i] = part
    return _collect(marks)


def _hold_out_fifth(utterances: Utterances, parts: Parts, seed: int, speakers: bool, warnings: list[str]) -> None:
    """Move a fifth of the training part to validation: of its speakers if that is wanted and there are five."""
    train = parts["train"]
    known = sorted({str(utterances[i].speaker) for i in train if utterances[i].speaker})
    if speakers and len(known) >= GROUPS:
        drawn = stream("split", seed, 2).permutation(known)
        held = set(drawn[: round(len(known) / GROUPS)].tolist())
        parts["validation"] = [i for i in train if utterances[i].speaker in held]
    else:
        (parts["validation"],) = _fifths(utterances, train, 1, seed)
        warnings.append("validation is a fifth of the training utterances, so its speakers are in training too")
    parts["train"] = sorted(set(train).difference(parts["validation"]))


def _fifths(utterances: Utterances, members: Sequence[int], count: int, seed: int) -> list[list[int]]:
    """`count` disjoint fifths of `members`, each with a fifth of every emotion."""
    by_emotion: dict[str, list[int]] = defaultdict(list)
    # What is drawn follows from names and not from the order in which a corpus was listed.
    for i in sorted(members, key=lambda i: (utterances[i].corpus, utterances[i].path.name, str(utterances[i].path))):
        by_emotion[utterances[i].emotion].append(i)
    generator = stream("split", seed, 1)
    pieces: list[list[int]] = [[] for _ in range(count)]
    for _, same in sorted(by_emotion.items()):
        drawn = generator.permutation(len(same))
        fifth = round(len(same) / 5)
        for k, piece in enumerate(pieces):
            piece += [same[n] for n in drawn[k * fifth : (k + 1) * fifth]]
    if not all(pieces):
        raise ValueError(f"{len(members)} utterances are too few to hold a fifth out; add data, or name sessions none")
    return [sorted(piece) for piece in pieces]


def _check_speakers(utterances: Utterances, parts: Parts, allow: bool, warnings: list[str]) -> bool:
    """Whether a speaker is in two parts; an error unless that is allowed."""
    speakers = {part: {utterances[i].speaker or "" for i in members} - {""} for part, members in parts.items()}
    shared = [f"{s} is in {a} and in {b}" for a, b in combinations(PARTS, 2) for s in sorted(speakers[a] & speakers[b])]
    if shared and not allow:
        raise ValueError(f"speaker {shared[0]}; correct the sessions or splits, or pass --allow-speaker-overlap")
    if shared:
        warnings.append(f"speaker {shared[0]} ({len(shared)} of this kind): scores say little about new speakers")
    unknown = sum(not utterances[i].speaker for members in parts.values() for i in members)
    if unknown and sum(map(bool, parts.values())) > 1:
        warnings.append(f"{unknown} utterances have no speaker: nothing tells whether theirs are in two parts")
    return bool(shared)


def _check_recordings(utterances: Utterances, digests: Sequence[str], parts: Parts, allow: bool, warnings: list[str]) -> bool:
    """Whether a recording is in two parts under different names; an error unless that is allowed."""
    place: dict[str, tuple[str, int]] = {}
    shared = 0
    for part, members in parts.items():
        for i in members:
            other, j = place.setdefault(digests[i], (part, i))
            if other != part and not allow:
                raise ValueError(
                    f"{utterances[i].path} is in {part} and, byte for byte, in {other} as {utterances[j].path}; "
                    f"remove one of the two, or pass --allow-speaker-overlap"
                )
            shared += other != part
    if shared:
        warnings.append(f"recordings in two parts under different names: {shared}")
    return shared > 0


def _speaker_groups(corpus: str, utterances: Utterances) -> dict[str, str]:
    """Speaker -> group: each speaker, the biggest first, goes where their gender is rarest."""
    size = Counter(u.speaker for u in utterances if u.speaker)
    gender = {u.speaker: u.gender for u in sorted(utterances, key=lambda u: u.gender or "") if u.speaker}
    members: dict[str, list[str]] = {f"{corpus}/group{k + 1}": [] for k in range(min(GROUPS, len(size)))}
    # Speakers of unknown gender come last and fill up.
    for speaker in sorted(size, key=lambda s: (gender[s] or "unknown", -size[s], natural(s))):
        load = {
            group: (sum(gender[s] == gender[speaker] for s in there), len(there), sum(size[s] for s in there))
            for group, there in members.items()
        }
        members[min(load, key=lambda group: load[group])].append(speaker)
    return {speaker: group for group, there in members.items() for speaker in there}


def natural(text: str) -> list[tuple[int, int, str]]:
    """A sorting key by which 2 comes before 10."""
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", text)]

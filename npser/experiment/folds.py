"""The folds of a cross-validation: every group is tested once, the next one validates, the others train."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from npser.corpora import Utterance
from npser.split import Split, make_split, session_order, sessions_of


@dataclass(frozen=True)
class Fold:
    """One fold: a name that may be part of a file name, and its split."""

    name: str
    split: Split


def make_folds(
    utterances: Sequence[Utterance],
    by: str = "session",
    seed: int = 0,
    allow_speaker_overlap: bool = False,
    digests: Sequence[str] = (),
) -> list[Fold]:
    """Cut a corpus into folds, each by split.make_split.

    Parameters
    ----------
    utterances : sequence of Utterance
    by : str
        ``"session"`` (speaker groups, where the corpus has no sessions), ``"speaker"``, a number of groups of speakers,
        balanced by label, or ``"corpus"``: each corpus is tested by networks that never heard it, and of each of the others
        the last session validates.
    seed, allow_speaker_overlap, digests
        See split.make_split.

    Raises
    ------
    ValueError
        Where there are fewer than two groups, or make_split refuses a fold.
    """
    if by == "corpus":
        there = _corpora(utterances)
        splits = [_without(corpus, utterances, seed, allow_speaker_overlap, digests) for corpus in there]
        return [Fold(name, split) for name, split in zip(_fit_for_files(there), splits, strict=True)]
    groups = _groups(utterances, by)
    grouped = [replace(u, split=None, session=group) for u, group in zip(utterances, groups, strict=True)]
    if by.isdecimal():  # such groups hold speakers of several corpora
        grouped = [replace(u, corpus="speakers") for u in grouped]
    order = session_order(grouped)
    if len(order) < 2:
        found = f"only one ({order[0]})" if order else "none"
        raise ValueError(
            f"--folds {by}: the data holds {found} and two are needed; add {'sessions or ' * (by == 'session')}speakers"
        )
    short = [session.partition("/")[2] or session for session in order]
    names = short if len(set(short)) == len(short) else order
    return [
        Fold(name, make_split(grouped, session, None, seed, allow_speaker_overlap, digests))
        for name, session in zip(_fit_for_files(names), order, strict=True)
    ]


def _fit_for_files(names: list[str]) -> list[str]:
    """The names without characters that are not fit for files; numbered where only these told them apart."""
    fit = [re.sub(r"[^\w.+-]+", "-", name) for name in names]
    return fit if len(set(fit)) == len(fit) else [f"{k + 1}-{name}" for k, name in enumerate(fit)]


def _corpora(utterances: Sequence[Utterance]) -> list[str]:
    """Their names, in their order; ValueError where there is one only."""
    found = list(dict.fromkeys(u.corpus for u in utterances))
    if len(found) < 2:
        raise ValueError(f"--folds corpus: the data is of one corpus ({found[0]}), and two are needed; name others as well")
    return sorted(found)


def _without(corpus: str, utterances: Sequence[Utterance], seed: int, allow: bool, digests: Sequence[str]) -> Split:
    """Test a corpus, and of each of the others validate on the last session; where it has one only, it trains."""
    sessions = sessions_of(utterances)
    last = {}
    for other in _corpora(utterances):
        own = session_order([u for u in utterances if u.corpus == other])
        last |= {other: own[-1]} if len(own) > 1 else {}
    parts = [
        "test" if u.corpus == corpus else "validation" if session and session == last.get(u.corpus) else "train"
        for u, session in zip(utterances, sessions, strict=True)
    ]
    marked = [replace(u, split=part) for u, part in zip(utterances, parts, strict=True)]
    split = make_split(marked, None, None, seed, allow, digests)
    held = ", ".join(session for other, session in last.items() if other != corpus)
    return replace(split, method="corpus", test_session=corpus, validation_session=held or None)


def fold_warnings(folds: Sequence[Fold]) -> list[str]:
    """What make_split has to say, once where it concerns all folds."""
    said: dict[str, list[str]] = defaultdict(list)
    for fold in folds:
        for text in dict.fromkeys(fold.split.warnings):
            said[text].append(fold.name)
    return [text if len(names) == len(folds) else f"fold {', '.join(names)}: {text}" for text, names in said.items()]


def _groups(utterances: Sequence[Utterance], by: str) -> list[str | None]:
    """The group of each utterance, None where it is not known."""
    if by == "session":
        return sessions_of(utterances)
    if by == "speaker":
        return [u.speaker for u in utterances]
    if not by.isdecimal() or int(by) < 2:
        raise ValueError(f"--folds {by}: expected session, speaker, corpus, or a number of groups of speakers, at least 2")
    group = _balanced(utterances, int(by))
    return [group[u.speaker] if u.speaker else None for u in utterances]


def _balanced(utterances: Sequence[Utterance], count: int) -> dict[str, str]:
    """Speaker -> one of `count` groups: the biggest first where those of its kind are rarest, then helpful swaps."""
    speakers = sorted({u.speaker for u in utterances if u.speaker})
    labels = sorted({u.emotion for u in utterances if u.speaker}) + sorted(
        {u.gender for u in utterances if u.gender and u.speaker}
    )
    if len(speakers) < count:
        raise ValueError(f"--folds {count}: the data holds {len(speakers)} speakers; each group needs one")
    n = np.zeros((len(speakers), len(labels)))  # share of each emotion and gender that a speaker has
    index = {speaker: k for k, speaker in enumerate(speakers)}
    for u in utterances:
        if u.speaker:
            for label in (u.emotion, *([u.gender] if u.gender else [])):
                n[index[u.speaker], labels.index(label)] += 1
    order = np.argsort(-n.sum(axis=1), kind="stable")
    n /= n.sum(axis=0)
    filled, members, group = np.zeros((count, len(labels))), np.zeros(count, int), np.zeros(len(speakers), int)
    for k in order:
        growth = np.round(2 * filled @ n[k], 12)  # of the sum of squared shares, beyond what is the same for all groups
        group[k] = np.lexsort((members, growth))[0]
        filled[group[k]] += n[k]
        members[group[k]] += 1
    swapped = True
    while swapped:
        swapped = False
        for k in order:
            d = n - n[k]  # what the group of k would gain, and that of each other speaker lose
            change = ((filled[group[k]] - filled[group] + d) * d).sum(axis=1)
            other = int(np.round(change, 12).argmin())
            if change[other] < -1e-9:
                filled[group[k]] += d[other]
                filled[group[other]] -= d[other]
                group[k], group[other] = group[other], group[k]
                swapped = True
    return {speaker: f"speakers/group{g + 1}" for speaker, g in zip(speakers, group.tolist(), strict=True)}

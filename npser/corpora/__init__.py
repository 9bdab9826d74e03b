"""Corpora: from the folders and manifests that a user names to a list of labelled utterances."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from npser.corpora.labels import CANONICAL, Names, canonical, choose


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording and what is known about it.

    ``speaker``, ``session`` and ``dialogue`` read ``"corpus/id"``, so that those of two corpora never collide. ``phonemes``
    has spaces between its symbols.
    """

    path: Path
    emotion: str
    corpus: str
    speaker: str | None = None
    gender: str | None = None
    session: str | None = None
    split: str | None = None
    dialogue: str | None = None
    scenario: str | None = None
    style: str | None = None
    phonemes: str | None = None


@dataclass(frozen=True)
class Corpus:
    """The utterances to work with, and what was left out.

    Attributes
    ----------
    utterances : list of Utterance
        Those that are kept; every ``emotion`` is one of ``labels``.
    labels : list of str
        The classes, alphabetically: the order of the network's outputs.
    dropped : dict of str to int
        How many utterances of which other emotions, or without one, were left out.
    names : list of str
        The corpora, in the order in which they were given.
    missing : list of str
        Files that do not exist: those that a manifest names, left out because of ``skip_missing``, and those for which
        a corpus has labels.
    mapping : dict of str to str
        The user's own emotions for labels of the corpora.
    """

    utterances: list[Utterance]
    labels: list[str]
    dropped: dict[str, int]
    names: list[str]
    missing: list[str] = field(default_factory=list)
    mapping: dict[str, str] = field(default_factory=dict)


def load(
    data: Sequence[str | Path] | str | Path,
    corpus: str | None = None,
    labels: Sequence[str] | None = None,
    skip_missing: bool = False,
    mapping: dict[str, str] | None = None,
) -> Corpus:
    """Read corpora and keep the utterances that have one of the labels.

    Parameters
    ----------
    data : sequence of path-like
        Corpus folders and manifest CSVs. See :func:`read` for how each is read.
    corpus : str, optional
        ``"iemocap"``, ``"emodb"`` or another key of :func:`layouts`: read all of ``data`` so.
    labels : sequence of str, optional
        The classes; ``["all"]`` for all that occur. By default those of angry, happy, neutral and sad that occur.
        Excited counts as happy unless it is a label itself.
    skip_missing : bool, optional
        Leave out the files that a manifest names and that do not exist; they are listed in ``missing``.
    mapping : dict of str to str, optional
        The user's own emotions for labels of the corpora, as from :func:`npser.corpora.labels.parse_map`.

    Returns
    -------
    Corpus

    Raises
    ------
    ValueError
        For whatever cannot be read or is contradictory, in one sentence that names the place and the way out.
    """
    found, missing = read(data, corpus, skip_missing, mapping)
    classes = choose((utterance.emotion for utterance in found), labels)
    kept = [_labelled(utterance, classes[utterance.emotion]) for utterance in found if utterance.emotion in classes]
    dropped = Counter(utterance.emotion for utterance in found if utterance.emotion not in classes)
    names = list(dict.fromkeys(utterance.corpus for utterance in found))
    return Corpus(kept, sorted(set(classes.values())), dict(sorted(dropped.items())), names, missing, mapping or {})


def _labelled(utterance: Utterance, emotion: str) -> Utterance:
    return utterance if utterance.emotion == emotion else replace(utterance, emotion=emotion)


def read(
    data: Sequence[str | Path] | str | Path,
    corpus: str | None = None,
    skip_missing: bool = False,
    mapping: dict[str, str] | None = None,
) -> tuple[list[Utterance], list[str]]:
    """Read corpora with all their emotions.

    A ``manifest.csv`` or ``metadata.csv`` in a folder wins over recognition; otherwise published corpora are known by
    their file names, and any other folder is one of class folders. Where two of ``data`` are called the same, the
    second becomes ``name-2``, so speakers of two of them are never the same person; only a name in a manifest's
    ``corpus`` column is the user's own word and is kept, so manifests that share it share speakers and sessions.

    Parameters
    ----------
    data, corpus, skip_missing, mapping
        As for :func:`load`.

    Returns
    -------
    utterances : list of Utterance
        With canonical emotions, none of them left out.
    missing : list of str
        Files that do not exist; see :class:`Corpus`.

    Raises
    ------
    ValueError
        As for :func:`load`.
    """
    places = [Path(data)] if isinstance(data, (str, Path)) else [Path(place) for place in data]
    if not places:
        raise ValueError("no DATA is given; name a corpus folder or a manifest CSV")
    utterances: list[Utterance] = []
    missing: list[str] = []
    owner: dict[str, Path] = {}
    taken: set[str] = set()
    named = Names(mapping or {})
    for place in places:
        found, lost = _read_place(place, corpus, skip_missing, taken, named)
        for utterance in found if len(places) > 1 else ():
            other = owner.setdefault(os.path.abspath(utterance.path), place)
            if other is not place:
                raise ValueError(f"{utterance.path} is in {other} and again in {place}; give each recording once")
        taken.update(utterance.corpus for utterance in found)
        utterances += found
        missing += lost
    if not utterances:
        raise ValueError(f"no utterance is left of {', '.join(map(str, places))}; all {len(missing)} files are missing")
    named.check()
    return utterances, missing


def _read_place(
    place: Path, corpus: str | None, skip_missing: bool, taken: set[str], named: Names
) -> tuple[list[Utterance], list[str]]:
    """One of DATA -> its utterances and its missing files; `taken` are the corpus names of the earlier ones."""
    from npser.corpora import folder, manifest

    known = layouts()
    if corpus is not None and corpus not in known:
        raise ValueError(f"--corpus {corpus} is not known; choose from {', '.join(known)}")
    if not os.path.exists(place):
        raise ValueError(f"{place} does not exist; name a corpus folder or a manifest CSV")
    table = manifest.find(place)
    if table is not None and corpus in (None, "manifest"):
        return manifest.read(table, skip_missing, _free(manifest.name_of(table), taken), named)
    if corpus == "manifest":
        raise ValueError(f"{place} holds neither manifest.csv nor metadata.csv; add one, or leave --corpus out")
    if not os.path.isdir(place):
        raise ValueError(f"--corpus {corpus} reads a folder, and {place} is a file; leave --corpus out")
    name = corpus or _recognise(place)
    if name == "folder":
        found, missing = folder.read(place, named), []
    else:
        found = known[name].read(place)
        # Where labels stand in tables of their own, recordings may be missing.
        found, missing = found if isinstance(found, tuple) else (found, [])
        found = [_labelled(utterance, named.decoded(utterance.emotion)) for utterance in found]
    return _renamed(found, _free(found[0].corpus, taken)), missing


def layouts() -> dict[str, Any]:
    """List the layouts that can be read.

    Returns
    -------
    dict of str to module or Named
        Under the names that ``corpus`` may have. Each has ``LAYOUT``, a description, and ``read``; those that can be
        recognised have ``NAME``, a pattern of file names; those with tables of labels have ``labels_in``, for a folder; those
        whose size is known have ``COUNTS``, utterances by session, or ``""`` for all of them, and emotion; those of which
        every copy lacks some recordings have these in ``KNOWN``, with the reason.
    """
    # Imported here because the readers import Utterance from this file.
    from npser.corpora import (
        cremad,
        emodb,
        emovo,
        esd,
        folder,
        iemocap,
        manifest,
        meld,
        mspimprov,
        msppodcast,
        named,
        ravdess,
        savee,
        tess,
    )

    published = (iemocap, emodb, ravdess, cremad, savee, tess, emovo, mspimprov, msppodcast, esd, meld)
    published, generic = (
        {module.__name__.rpartition(".")[2]: module for module in modules} for modules in (published, (folder, manifest))
    )
    return {**published, **{row.name: row for row in named.TABLE}, **generic}


def _recognise(place: Path) -> str:
    """The layout that most audio files of a folder are named by."""
    from npser.corpora.folder import audio_files

    paths = audio_files(Path(os.path.abspath(place)))
    names = ["/".join(path.parts[-3:]) for path in paths]
    for name, layout in layouts().items():
        if hasattr(layout, "NAME") and 2 * sum(bool(layout.NAME.fullmatch(name)) for name in names) > len(names):
            # Without its labels it is read only where it has been sorted into folders of classes.
            classes = {canonical(path.relative_to(os.path.abspath(place)).parts[0]) for path in paths}
            unlabelled = hasattr(layout, "labels_in") and not layout.labels_in(place)
            return "folder" if unlabelled and classes & set(CANONICAL) else name
    return "folder"


def _free(name: str, taken: set[str]) -> str:
    """`name`, or name-2, name-3 ... where it is taken."""
    number, free = 2, name
    while free in taken:
        number, free = number + 1, f"{name}-{number}"
    return free


def _renamed(found: list[Utterance], new: str) -> list[Utterance]:
    """Move utterances that are all of one corpus to a corpus called `new`."""

    def moved(identity: str | None) -> str | None:
        return None if identity is None else new + identity[len(found[0].corpus) :]

    if found[0].corpus == new:
        return found
    return [
        replace(u, corpus=new, speaker=moved(u.speaker), session=moved(u.session), dialogue=moved(u.dialogue)) for u in found
    ]

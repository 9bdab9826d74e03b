"""`npser data`: which corpora can be read, what one of them holds, and its manifest."""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import io
import json
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npser import corpora, features, files
from npser.commands import terminal
from npser.corpora import Utterance, folder, manifest
from npser.corpora.labels import NO_AGREEMENT, parse_map
from npser.split import natural

if TYPE_CHECKING:
    from npser.store import Progress

UNKNOWN_LENGTH = 2**62  # frames; what libsndfile tells where a header does not
MOST_LISTED = 30  # speakers; more are only counted
COLUMNS = [field.name for field in fields(Utterance)]


def run(args: argparse.Namespace) -> int:
    """Run `npser data list`, `check` or `convert`; returns its exit status."""
    status = 0
    if args.name == "list":
        result, shown = known(), known_text(known())
    elif args.name == "check":
        result = check(args.data, args.corpus, terminal.progress, parse_map(args.map))
        shown, status = text(terminal.printable(result)), 0 if passed(result) else 1
    else:
        result = convert(args.data, args.out, args.corpus, parse_map(args.map))
        shown = f"{args.out}: {result['utterances']} utterances"
        if result["missing"]:
            warnings.warn(f"{len(result['missing'])} files do not exist; the first: {result['missing'][0]}", stacklevel=1)
    print(json.dumps(result, indent=2) if args.json else shown)
    return status


def known() -> list[dict[str, Any]]:
    """List the corpora that are read.

    Returns
    -------
    list of dict
        ``name`` for --corpus, ``layout`` in a few words, and ``utterances``, how many there should be where that is known.
    """
    return [
        {"name": name, "layout": module.LAYOUT, "utterances": sum(map(_total, getattr(module, "COUNTS", {}).values())) or None}
        for name, module in corpora.layouts().items()
    ]


def _total(counts: dict[str, int]) -> int:
    return sum(counts.values())


def known_text(rows: list[dict[str, Any]]) -> str:
    """What `npser data list` prints."""
    return "\n".join(f"{row['name']:<11}{row['utterances'] or '':>6}  {row['layout']}" for row in rows)


def check(place: Path, layout: str | None, progress: Progress, mapping: dict[str, str] | None = None) -> dict[str, Any]:
    """Count what a corpus holds, and compare it with what it should hold.

    Parameters
    ----------
    place, layout, mapping
        The corpus, and how to read it; see corpora.load.
    progress : callable
        tqdm, or what looks like it.

    Returns
    -------
    dict
        ``data``, ``corpora``, ``utterances``; ``emotions``, ``styles`` and ``splits``, counts; ``phonemes``, how many have
        some; ``sessions``, counts by session and emotion; ``speakers``, gender and count of each; ``seconds``, total, mean,
        min and max by the files' headers, None where no length is known; ``sample_rates``, counts by rate in Hz, as text;
        ``missing``, files that should be there; ``unreadable``, files with the reason; ``known_defects``, those of them
        that every copy of the corpus has, with the reason; ``unmatched``, audio files in the folder that are none of the
        utterances; ``duplicates``, lists of byte-identical files; ``two_genders``, speakers who are female and male;
        ``compared``, corpora whose counts are known, none with a mapping; ``difference``, the first from them, or None.

    Raises
    ------
    ValueError
        As corpora.load.
    """
    found, missing = corpora.read(place, layout, mapping=mapping)
    lengths: list[float] = []
    rates: Counter[int] = Counter()
    unreadable: dict[str, str] = {}
    for utterance in progress(found, desc="durations", unit="file"):
        try:
            seconds, rate = _length(utterance.path)
            lengths += [] if seconds is None else [seconds]
            rates[rate] += 1
        except ValueError as error:
            unreadable[str(utterance.path)] = str(error)
    names = list(dict.fromkeys(u.corpus for u in found))
    compared = [] if mapping else [name for name in names if getattr(corpora.layouts().get(name), "COUNTS", None)]
    differences = {name: _difference(name, found) for name in compared}
    sessions = sorted({u.session for u in found if u.session}, key=natural)
    speakers = sorted({u.speaker for u in found if u.speaker}, key=natural)
    genders: dict[str | None, set[str]] = defaultdict(set)
    for u in found:
        genders[u.speaker] |= {u.gender} if u.gender else set()
    spoken = Counter(u.speaker for u in found)
    return {
        "data": str(place),
        "corpora": names,
        "utterances": len(found),
        "emotions": _counts(u.emotion for u in found),
        "styles": _counts(u.style for u in found),
        "splits": _counts(u.split for u in found),
        "phonemes": sum(u.phonemes is not None for u in found),
        "sessions": {session: _counts(u.emotion for u in found if u.session == session) for session in sessions},
        "speakers": {speaker: {"gender": _one(genders[speaker]), "utterances": spoken[speaker]} for speaker in speakers},
        "seconds": _lengths(lengths),
        "sample_rates": {str(rate): rates[rate] for rate in sorted(rates)},
        "missing": missing,
        "unreadable": unreadable,
        "known_defects": _known_defects(names, missing, unreadable),
        "unmatched": _unmatched(place, found),
        "duplicates": _duplicates(found, progress),
        "two_genders": [speaker for speaker in speakers if len(genders[speaker]) > 1],
        "compared": list(differences),
        "difference": next(filter(None, differences.values()), None),
    }


def passed(result: dict[str, Any]) -> bool:
    """Whether a check found nothing wrong, but for what is wrong with every copy of the corpus."""
    wrong = {*result["missing"], *result["unreadable"]} - set(result["known_defects"])
    return not (wrong or result["difference"])


def _one(genders: set[str]) -> str | None:
    """The gender of a speaker, where it is one."""
    return next(iter(genders)) if len(genders) == 1 else None


def _known_defects(names: Sequence[str], missing: Sequence[str], unreadable: dict[str, str]) -> dict[str, str]:
    """What is missing or unreadable in every copy, with the reason."""
    known: dict[str, str] = {}
    for layout in (corpora.layouts().get(name) for name in names):
        if layout is not None and hasattr(layout, "KNOWN"):
            clips = {path: layout.clip(Path(path)) for path in unreadable} | {path: path for path in missing}
            known |= {path: layout.KNOWN[clip] for path, clip in clips.items() if clip in layout.KNOWN}
    return known


def _unmatched(place: Path, found: Sequence[Utterance]) -> list[str]:
    """Audio files in a folder that are none of the utterances."""
    if not os.path.isdir(place):
        return []
    used = {os.path.realpath(u.path) for u in found}
    there = [path for path in folder.files(place) if folder.is_audio(path.name)]
    return [str(path) for path in there if os.path.realpath(path) not in used]


def _duplicates(found: Sequence[Utterance], progress: Progress) -> list[list[str]]:
    """Groups of byte-identical files: those of one length are compared by their hash."""
    sizes: dict[int, list[Path]] = defaultdict(list)
    for u in found:
        if os.path.isfile(u.path):
            sizes[os.path.getsize(u.path)].append(u.path)
    same: dict[bytes, list[str]] = defaultdict(list)
    alike = [path for paths in sizes.values() for path in paths if len(paths) > 1]
    for path in progress(alike, desc="duplicates", unit="file"):
        with contextlib.suppress(OSError), path.open("rb") as file:  # what cannot be read is named elsewhere
            same[hashlib.file_digest(file, "sha256").digest()].append(str(path))
    return [paths for paths in same.values() if len(paths) > 1]


def _length(path: Path) -> tuple[float | None, int]:
    """Length of a recording by its header, None where that does not tell, and its sample rate."""
    try:
        with features.open_audio(path) as audio:
            return audio.frames / audio.samplerate if audio.frames < UNKNOWN_LENGTH else None, audio.samplerate
    except ValueError as error:
        raise ValueError(str(error).removeprefix(f"{path}: ")) from None


def _lengths(lengths: list[float]) -> dict[str, float] | None:
    if not lengths:
        return None
    total = sum(lengths)
    return {"total": total, "mean": total / len(lengths), "min": min(lengths), "max": max(lengths)}


def _counts(words: Any) -> dict[str, int]:
    """How often each word occurs, alphabetically; None is no word."""
    return dict(sorted(Counter(word for word in words if word is not None).items()))


def _difference(name: str, found: Sequence[Utterance]) -> str | None:
    """The first count that is not as published. Excited counts as happy where only four classes are known."""
    for session, expected in corpora.layouts()[name].COUNTS.items():
        there = Counter(
            "happy" if u.emotion == "excited" else u.emotion
            for u in found
            if u.corpus == name and session in ("", (u.session or "").rpartition("/")[2])
        )
        where = f"{name}, session {session}" if session else name
        # All emotions of a corpus are known where its sessions are not told apart, but for what raters did not agree on.
        for emotion in sorted(set(expected) if session else set(expected) | set(there) - {"other", NO_AGREEMENT}):
            if there[emotion] != expected.get(emotion, 0):
                return f"{where}: {there[emotion]} utterances are {emotion}; a whole copy has {expected.get(emotion, 0)}"
    return None


def text(result: dict[str, Any]) -> str:
    """What `npser data check` prints."""
    emotions = list(result["emotions"])
    width = max(map(len, ["session", *result["sessions"]]))
    rows = [f"{'':<{width}}  {'  '.join(emotions)}  total"]
    for name, counts in (*result["sessions"].items(), ("all", result["emotions"])):
        cells = "  ".join(f"{counts.get(emotion, 0):>{len(emotion)}}" for emotion in emotions)
        rows.append(f"{name:<{width}}  {cells}  {_total(counts):>5}")
    lines = [f"{result['data']}: {result['utterances']} utterances of {', '.join(result['corpora'])}", "", *rows, ""]
    lines += [*_speakers_text(result["speakers"]), ""]
    for kind in ("styles", "splits"):
        if result[kind]:
            lines.append(f"{kind:<10} {', '.join(f'{count} {word}' for word, count in result[kind].items())}")
    if result["phonemes"]:
        lines.append(f"phonemes   of {result['phonemes']} utterances")
    if result["seconds"]:
        total, mean, least, most = (result["seconds"][key] for key in ("total", "mean", "min", "max"))
        lines.append(f"durations  {total / 3600:.2f} h in all, mean {mean:.2f} s, from {least:.2f} to {most:.2f} s")
    lines += _files_text(result)
    if result["difference"]:
        lines.append(f"counts     {result['difference']}")
    elif result["compared"]:
        lines.append(f"counts     as they are known of {', '.join(result['compared'])}")
    return "\n".join(lines)


def _files_text(result: dict[str, Any]) -> list[str]:
    """What is odd about the files."""
    known, rates = result["known_defects"], result["sample_rates"]
    missing = [path for path in result["missing"] if path not in known]
    unreadable = {path: reason for path, reason in result["unreadable"].items() if path not in known}
    lines = [f"rates      {', '.join(f'{count} of {rate} Hz' for rate, count in rates.items())}"] if rates else []
    if missing:
        lines.append(f"missing    {len(missing)} recordings that have a label; the first: {missing[0]}")
    for path, reason in list(unreadable.items())[:1]:
        lines.append(f"unreadable {len(unreadable)} files; the first: {path}: {reason}")
    lines += [f"known      in every copy: {path} {reason}" for path, reason in known.items()]
    if result["unmatched"]:
        lines.append(
            f"unmatched  {len(result['unmatched'])} audio files are none of the utterances (second copies, other parts, other "
            f"names); the first: {result['unmatched'][0]}"
        )
    if result["duplicates"]:
        extra = sum(len(paths) - 1 for paths in result["duplicates"])
        first, second, *_ = result["duplicates"][0]
        lines.append(f"duplicates {extra} files are byte-identical to another; the first: {first} and {second}")
    if result["two_genders"]:
        lines.append(
            f"genders    {len(result['two_genders'])} speakers are female and male: {folder.brief(result['two_genders'])}"
        )
    return lines


def _speakers_text(speakers: dict[str, dict[str, Any]]) -> list[str]:
    """How many of which gender, and each of them where they are few."""
    genders = Counter(about["gender"] or "of unknown gender" for about in speakers.values())
    kinds = ", ".join(f"{count} {gender}" for gender, count in sorted(genders.items()))
    if not speakers:
        return ["speakers   none is known"]
    each = [f"  {name}  {about['gender'] or 'unknown'}  {about['utterances']}" for name, about in speakers.items()]
    return [f"speakers   {len(speakers)}: {kinds}", *(each if len(each) <= MOST_LISTED else [])]


def convert(place: Path, out: Path, layout: str | None, mapping: dict[str, str] | None = None) -> dict[str, Any]:
    """Write the manifest of a corpus: training from it is training from the corpus.

    Parameters
    ----------
    place, layout, mapping
        The corpus, and how to read it; see corpora.load.
    out : Path
        A CSV that does not exist. Paths in it are relative to its folder where they lead to the files. It is written whole or
        not at all.

    Returns
    -------
    dict
        ``manifest``, ``utterances``, ``columns``, and ``missing``, files that should be there and are left out.

    Raises
    ------
    ValueError
        As corpora.load; where `out` exists or cannot be written; where CSV cannot hold a file's name.
    """
    if os.path.lexists(out):
        raise ValueError(f"{out} exists; name another file, or remove it")
    found, missing = corpora.read(place, layout, mapping=mapping)
    columns = [c for c in COLUMNS if any(getattr(u, c) is not None for u in found)]
    rows = [{column: getattr(u, column) for column in columns} | {"path": _path(u.path, out.parent)} for u in found]
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    try:
        content = text.getvalue().encode()
    except UnicodeEncodeError as error:
        row = error.object[: error.end].rpartition("\n")[2]
        raise ValueError(f"{place} holds a file whose name is not UTF-8 ({row!r}); rename it") from None
    _compare(found, out, content)
    files.write(out, content)
    return {"manifest": str(out), "utterances": len(found), "columns": columns, "missing": missing}


def _path(path: Path, folder: Path) -> str:
    """Relative to a folder, unless links on the way lead elsewhere."""
    absolute = os.path.abspath(path)
    relative = os.path.relpath(absolute, os.path.abspath(folder))
    if relative[0].isspace():
        relative = os.path.join(".", relative)  # cells are stripped
    try:
        return relative if os.path.samefile(folder / relative, absolute) else absolute
    except OSError:
        return absolute


def _compare(found: Sequence[Utterance], out: Path, content: bytes) -> None:
    """Read the manifest before it is written: it must say the same of every recording."""

    def known(utterances: Sequence[Utterance]) -> list[tuple[Any, ...]]:
        return [(os.path.realpath(u.path), *(getattr(u, column) for column in COLUMNS if column != "path")) for u in utterances]

    again = manifest.parse(out, content, False, manifest.name_of(out))[0]
    for utterance, before, after in zip(found, known(found), known(again), strict=True):
        if before != after:
            raise ValueError(f"{utterance.path}: CSV cannot hold its name or its labels as they are; rename it")

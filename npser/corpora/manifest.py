"""Manifests: a CSV with one recording a row."""

import csv
import io
import os
import re
import warnings
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from sys import intern

from npser.corpora import Utterance
from npser.corpora.folder import brief, is_audio
from npser.corpora.labels import SPLITS, canonical, canonical_gender

LAYOUT = "manifest.csv or metadata.csv with path and emotion"
# What a column is called, and what else it may be called.
COLUMNS = {
    "path": ("path", "file", "file_name", "filename", "wav"),
    "emotion": ("emotion", "label"),
    "speaker": ("speaker", "speaker_id", "speakers", "spk"),
    "gender": ("gender", "sex"),
    **{name: (name,) for name in ("session", "split", "corpus", "dialogue", "scenario", "style", "phonemes")},
}
# Where a row is only a part of its file; these values mean the whole of it.
_SEGMENT = {"start": {"", "0", "0.0", "0.00", "0.000", "0 days", "0 days 00:00:00"}, "end": {"", "nat", "nan"}}

ODD = "odd"  # a gender that is not known
_DEVIOUS = re.compile(r"(?:^|/)\.{0,2}(?:/|$)")  # a path that is not simply appended to that of its folder

Row = tuple[int, list[str]]


def find(place: Path) -> Path | None:
    """The manifest that `place` is, or that lies in the folder `place`; None for a folder without one."""
    if not os.path.isdir(place):
        return place
    tables = (place / name for name in ("manifest.csv", "metadata.csv"))
    return next((table for table in tables if os.path.isfile(table)), None)


def name_of(table: Path) -> str:
    """The corpus that a manifest without a `corpus` column describes."""
    table = Path(os.path.abspath(table))
    return table.parent.name if table.stem in ("manifest", "metadata") and table.parent.name else table.stem


def read(
    table: Path, skip_missing: bool = False, name: str | None = None, named: Callable[[str], str] = canonical
) -> tuple[list[Utterance], list[str]]:
    """Read a manifest.

    Parameters
    ----------
    table : Path
        A CSV in UTF-8 with a header. It has a column ``path``, relative to the CSV or absolute, and ``emotion``, and may have
        ``speaker``, ``gender``, ``session``, ``split``, ``corpus``, ``dialogue``, ``scenario``, ``style`` and ``phonemes``,
        or others of :data:`COLUMNS` in their place.
    skip_missing : bool, optional
        Leave out files that do not exist.
    name : str, optional
        The corpus of rows that name none; by default :func:`name_of` the file.
    named : callable, optional
        The emotion of a label.

    Returns
    -------
    utterances : list of Utterance
    missing : list of str
        The files left out.

    Raises
    ------
    ValueError
        For anything that is not so, with the line where there is one.

    Warns
    -----
    Of columns that are not used, and genders that are neither female nor male.
    """
    return parse(table, _content(table), skip_missing, name or name_of(table), named)


def parse(
    table: Path, content: bytes, skip_missing: bool, name: str, named: Callable[[str], str] = canonical
) -> tuple[list[Utterance], list[str]]:
    """As :func:`read`, of a manifest whose content is given."""
    found: dict[str, Utterance] = {}
    lines = array("Q")  # of what is found: a list of a million integers would be large
    for line, place, utterance in _utterances(table, content, name, named):
        first = found.setdefault(place, utterance)
        if first is utterance:
            lines.append(line)
        elif first != replace(utterance, path=first.path):
            first_line = lines[list(found).index(place)]
            raise ValueError(f"{table}: lines {first_line} and {line} {_difference(first, utterance)}; remove one row")
    if not found:
        raise ValueError(f"{table} has no rows; write a line for each recording below the header")
    missing = [(line, place) for line, place in zip(lines, found, strict=True) if not os.path.isfile(place)]
    if missing and not skip_missing:
        line, place = missing[0]
        raise ValueError(
            f"{table}: line {line} names {brief([place])}, which is not a file ({len(missing)} of {len(found)} are missing); "
            f"paths are relative to the CSV; --skip-bad leaves missing files out"
        )
    for _, place in missing:
        del found[place]
    return list(found.values()), [place for _, place in missing]


def _content(table: Path) -> bytes:
    """The bytes of a file that may be a manifest."""
    if is_audio(table.name):
        raise ValueError(f"{table} is one recording; name the folder that holds the corpus, or a manifest CSV")
    if not os.path.isfile(table):
        raise ValueError(f"{table} is a pipe or a device; save the manifest as a file and name that")
    try:
        content = table.read_bytes()
    except OSError as error:
        raise ValueError(f"{table} cannot be read ({error.strerror}); check its permissions") from error
    if not content.strip(b"\xef\xbb\xbf \t\r\n"):
        raise ValueError(f"{table} is empty; write a header with path and emotion, and a line for each recording")
    return content


def _cells(table: Path, content: bytes) -> Iterator[Row]:
    """The lines of a CSV that hold anything, with their numbers."""
    if b"\0" in content and content[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(f"{table} is not text; save the manifest as CSV in UTF-8")
    text = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")
    # Spreadsheets of many countries write semicolons.
    header = content.lstrip(b"\xef\xbb\xbf \t\r\n")[:100_000].splitlines()[0]
    reader = csv.reader(text, delimiter=max(",;\t", key=lambda mark: header.count(mark.encode())))
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise ValueError(f"{table}: line {reader.line_num} is not CSV ({error}); check its quotes") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{table} is not UTF-8 text; save the manifest as CSV in UTF-8") from error


def _columns(table: Path, header: list[str]) -> dict[str, int]:
    """Where the columns that are used stand in a header that has what is needed."""
    given = [re.sub(r"[\s-]+", "_", cell.lower()) for cell in header]
    twice = [cell for cell, count in Counter(filter(None, given)).items() if count > 1]
    if twice:
        raise ValueError(f"{table} has two columns {brief(twice[:1])}; rename or remove one of them")
    places: dict[str, int] = {}
    for column, names in COLUMNS.items():
        there = [name for name in names if name in given]
        if len(there) > 1:
            raise ValueError(f"{table} has the columns {there[0]} and {there[1]}, which mean the same; remove one of them")
        if there:
            places[column] = given.index(there[0])
    for column in ("path", "emotion"):
        if column not in places:
            raise ValueError(
                f"{table} has no column {' or '.join(COLUMNS[column])}, only {brief(header, 20)}; "
                f"name the columns in its first line, or read the folder's layout with --corpus folder"
            )
    places |= {name: given.index(name) for name in _SEGMENT if name in given}
    unused = [cell for place, cell in enumerate(header) if cell and place not in places.values()]
    if unused:
        warnings.warn(f"{table}: not used: column{'s' * (len(unused) > 1)} {brief(unused, 20)}", stacklevel=2)
    return places


def _utterances(table: Path, content: bytes, name: str, named: Callable[[str], str]) -> Iterator[tuple[int, str, Utterance]]:
    """Each row: its line, the absolute path of its file, and what it says."""
    rows = _cells(table, content)
    _, header = next(rows, (0, [""]))
    columns = _columns(table, header)
    pick = itemgetter(*(columns.get(column, len(header)) for column in COLUMNS))
    parts = [(columns[column], whole) for column, whole in _SEGMENT.items() if column in columns]
    emotion = lru_cache(1024)(named)
    folder, absolute = table.parent, os.path.join(os.path.abspath(table.parent), "")
    odd: Counter[str] = Counter()
    splits: dict[str, int] = {}
    for line, cells in rows:
        if len(cells) > len(header) and any(cells[len(header) :]):
            raise ValueError(
                f"{table}: line {line} has {len(cells)} fields and the header {len(header)}; "
                f'put "quotes" around a field that holds a separator'
            )
        cells += [""] * (len(header) + 1 - len(cells))
        if parts and any(cells[place].lower() not in whole for place, whole in parts):
            raise ValueError(f"{table}: line {line} is a part of its file (start, end); parts are not read, so cut the file")
        text, label, speaker, gender, session, split, corpus, dialogue, scenario, style, phonemes = pick(cells)
        if not text or not label:
            raise ValueError(f"{table}: line {line} has no {'emotion' if text else 'path'}; fill it in or remove the row")
        if "\\" in text and not os.path.isfile(os.path.join(folder, text)):
            text = text.replace("\\", "/")
        if split and splits.setdefault(split.lower(), line) == line and not _is_split(split):
            raise ValueError(f"{table}: line {line}: split is {brief([split])!r}; write train, validation or test")
        corpus, known = intern(corpus or name), _gender(gender)
        if known == ODD:
            odd[gender] += 1
        yield (
            line,
            os.path.abspath(os.path.join(absolute, text)) if _DEVIOUS.search(text) else absolute + text,
            Utterance(
                folder / text,  # an absolute path replaces the folder
                emotion(label),
                corpus,
                _identity(corpus, speaker),
                None if known == ODD else known,
                _identity(corpus, session),
                SPLITS.get(split.lower()),
                _identity(corpus, dialogue),
                intern(scenario) or None,
                intern(style) or None,
                phonemes or None,
            ),
        )
    _tell(table, odd, splits)


@lru_cache(1 << 16)
def _identity(corpus: str, text: str) -> str | None:
    """An id inside npser; an exported manifest may hold it as it is used there."""
    text = text.removeprefix(f"{corpus}/")
    return f"{corpus}/{text}" if text else None


@lru_cache(1024)
def _gender(text: str) -> str | None:
    try:
        return canonical_gender(text)
    except ValueError:
        return ODD


def _is_split(text: str) -> bool:
    """Whether a word may stand in the column split. Numbers may: they are folds, and the column is not meant for npser."""
    return text.lower() in SPLITS or text.isdecimal()


def _tell(table: Path, odd: Counter[str], splits: dict[str, int]) -> None:
    """Say what was not used of genders and splits."""
    if odd:
        words = ", ".join(repr(brief([word])) for word in list(odd)[:8])
        warnings.warn(
            f"{table}: {odd.total()} rows have a gender that is neither female nor male ({words}); it counts as unknown",
            stacklevel=2,
        )
    folds = [word for word in splits if word not in SPLITS]
    if folds and len(folds) < len(splits):
        raise ValueError(f"{table}: line {splits[folds[0]]}: split is {folds[0]!r}; write train, validation or test")
    if folds:
        warnings.warn(f"{table}: not used: column split, which holds numbers ({brief(folds)})", stacklevel=2)


def _difference(first: Utterance, second: Utterance) -> str:
    """What two rows of one file disagree on."""
    names = [field.name for field in fields(Utterance) if field.name != "path"]
    name = next(name for name in names if getattr(first, name) != getattr(second, name))
    values = (brief([str(getattr(utterance, name))]) for utterance in (first, second))
    return f"list {brief([str(first.path)])} with {name} {' and '.join(values)}"

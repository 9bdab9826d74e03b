"""Manifests: a CSV with one recording a row."""

import csv
import io
import os
from dataclasses import fields, replace
from pathlib import Path

from npser.corpora import Utterance
from npser.corpora.folder import is_audio
from npser.corpora.labels import canonical, canonical_gender

LAYOUT = "manifest.csv or metadata.csv with path and emotion"
PATHS = ("path", "file", "file_name")
EMOTIONS = ("emotion", "label")
SPLITS = {
    word: split
    for split, words in {
        "train": "train training",
        "validation": "validation valid val dev development",
        "test": "test testing",
    }.items()
    for word in words.split()
}


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


def read(table: Path, skip_missing: bool = False, name: str | None = None) -> tuple[list[Utterance], list[str]]:
    """Read a manifest.

    Parameters
    ----------
    table : Path
        A CSV in UTF-8 with a header. It has a column ``path`` (or ``file``, ``file_name``), relative to the CSV or
        absolute, and ``emotion`` (or ``label``), and may have ``speaker``, ``gender``, ``session``, ``split``,
        ``corpus``, ``dialogue``, ``scenario`` and ``style``.
    skip_missing : bool, optional
        Leave out files that do not exist.
    name : str, optional
        The corpus of rows that name none; by default :func:`name_of` the file.

    Returns
    -------
    utterances : list of Utterance
    missing : list of str
        The files left out.

    Raises
    ------
    ValueError
        For anything that is not so, with the line where there is one.
    """
    name = name or name_of(table)
    rows: dict[str, tuple[int, Utterance]] = {}
    missing: dict[str, int] = {}
    for line, row in _rows(table):
        utterance = _utterance(table, line, row, name)
        place = os.path.abspath(utterance.path)
        first_line, first = rows.setdefault(place, (line, utterance))
        if first != replace(utterance, path=first.path):
            raise ValueError(f"{table}: lines {first_line} and {line} {_difference(first, utterance)}; remove one row")
        if not os.path.isfile(place):
            missing.setdefault(place, line)
    if missing and not skip_missing:
        place, line = next(iter(missing.items()))
        raise ValueError(
            f"{table}: line {line} names {place}, which is not a file ({len(missing)} of {len(rows)} are missing); "
            f"paths are relative to the CSV; --skip-bad leaves missing files out"
        )
    return [utterance for place, (_, utterance) in rows.items() if place not in missing], list(missing)


def _rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV with their line numbers, under column names in lower case."""
    text = _text(table)
    # Spreadsheets of many countries write semicolons.
    header = text.strip().splitlines()[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    rows: list[tuple[int, dict[str, str]]] = []
    columns: list[str] = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not cells:
                continue
            if not columns:
                columns = _columns(table, cells)
            elif len(cells) > len(columns) and any(cells[len(columns) :]):
                raise ValueError(
                    f"{table}: line {reader.line_num} has {len(cells)} fields and the header {len(columns)}; "
                    f'put "quotes" around a field that holds a separator'
                )
            else:
                rows.append((reader.line_num, dict(zip(columns, cells, strict=False))))
    except csv.Error as error:
        raise ValueError(f"{table}: line {reader.line_num} is not CSV ({error}); check its quotes") from error
    if not rows:
        raise ValueError(f"{table} has no rows; write a line for each recording below the header")
    return rows


def _text(table: Path) -> str:
    """The text of a CSV file, with or without a byte order mark."""
    if is_audio(table.name):
        raise ValueError(f"{table} is one recording; name the folder that holds the corpus, or a manifest CSV")
    try:
        text = table.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"{table} cannot be read ({error.strerror}); check its permissions") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{table} is not UTF-8 text; save the manifest as CSV in UTF-8") from error
    if "\0" in text:
        raise ValueError(f"{table} is not text; save the manifest as CSV in UTF-8")
    if not text.strip():
        raise ValueError(f"{table} is empty; write a header with path and emotion, and a line for each recording")
    return text


def _columns(table: Path, cells: list[str]) -> list[str]:
    """The column names of a header that has what is needed."""
    columns = [cell.lower() for cell in cells]
    for wanted in (PATHS, EMOTIONS):
        if not set(wanted) & set(columns):
            raise ValueError(
                f"{table} has no column {' or '.join(wanted)}, only {', '.join(cells)}; "
                f"name the columns in its first line, or read the folder's layout with --corpus folder"
            )
    return columns


def _utterance(table: Path, line: int, row: dict[str, str], name: str) -> Utterance:
    """One row."""
    path = _needed(table, line, row, PATHS)
    emotion = canonical(_needed(table, line, row, EMOTIONS))
    corpus = row.get("corpus") or name
    split = row.get("split", "").lower()
    if split and split not in SPLITS:
        raise ValueError(f"{table}: line {line}: split is {row['split']!r}; write train, validation or test")
    try:
        gender = canonical_gender(row.get("gender", ""))
    except ValueError as error:
        raise ValueError(f"{table}: line {line}: {error}") from error

    def identity(column: str) -> str | None:
        # An exported manifest may hold the ids as they are used inside.
        text = row.get(column, "").removeprefix(f"{corpus}/")
        return f"{corpus}/{text}" if text else None

    return Utterance(
        # An absolute path replaces the folder.
        path=table.parent / path,
        emotion=emotion,
        corpus=corpus,
        speaker=identity("speaker"),
        gender=gender,
        session=identity("session"),
        split=SPLITS[split] if split else None,
        dialogue=identity("dialogue"),
        scenario=row.get("scenario") or None,
        style=row.get("style") or None,
    )


def _needed(table: Path, line: int, row: dict[str, str], columns: tuple[str, ...]) -> str:
    """The value of the first of several columns that a row has."""
    column = next(column for column in columns if column in row or column == columns[-1])
    text = row.get(column, "")
    if not text:
        raise ValueError(f"{table}: line {line} has no {columns[0]}; fill it in or remove the row")
    return text


def _difference(first: Utterance, second: Utterance) -> str:
    """What two rows of one file disagree on."""
    names = [field.name for field in fields(Utterance) if field.name != "path"]
    name = next(name for name in names if getattr(first, name) != getattr(second, name))
    return f"list {first.path} with {name} {getattr(first, name)} and {getattr(second, name)}"

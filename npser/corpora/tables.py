"""The label files of corpora whose file names do not tell the emotion."""

import csv
import io
import os
import re
from pathlib import Path

from npser.corpora.folder import files


def find(folder: Path, name: str) -> list[Path]:
    """The files below a folder, or else directly beside it, whose whole name is like a regular expression, sorted."""
    pattern = re.compile(name, re.IGNORECASE)
    below = [path for path in files(folder) if pattern.fullmatch(path.name)]
    beside = Path(os.path.abspath(folder)).parent
    # DATA may be the folder of the audio, and what lies beside it may not be ours to list.
    if below or not os.access(beside, os.R_OK):
        return below
    return sorted(beside / name for name in os.listdir(beside) if pattern.fullmatch(name) and os.path.isfile(beside / name))


def text(path: Path, otherwise: str = "cp1252") -> str:
    """The text of a file that is UTF-16 with its mark, UTF-8, or else of another encoding."""
    content = path.read_bytes()
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode(otherwise, "replace")


def rows(path: Path, *columns: str) -> list[dict[str, str]]:
    """The rows of a CSV that has some columns, whose names are given, and come out, in lower case."""
    try:
        lines = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text(path), newline="")) if row]
    except csv.Error as error:
        raise ValueError(f"{path} is not CSV ({error}); restore it from the corpus") from error
    header = [cell.lower() for cell in lines[0]] if lines else []
    absent = [column for column in columns if column not in header]
    if absent:
        raise ValueError(f"{path} has no column {absent[0]}, only {', '.join(header)}; restore it from the corpus")
    return [dict(zip(header, line, strict=False)) for line in lines[1:] if len(line) >= len(header)]

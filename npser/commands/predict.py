"""`npser predict`: which recordings are meant, and what is said of them, as text, JSON lines or CSV."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import csv
import dataclasses
import glob
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from npser.commands import terminal
from npser.corpora.folder import AUDIO, files, is_audio
from npser.files import refuse_special
from npser.lite import Model
from npser.prediction import Prediction, Window, likeliest

BAR = 40  # characters of a whole bar
STANDARD_INPUT = "-"

Answer = TypeVar("Answer", Prediction, Window)
Row = dict[str, Any]


def run(args: argparse.Namespace) -> int:
    """Run `npser predict`; returns its exit status, 1 where a recording cannot be read."""
    if args.json and args.format == "csv":
        print("npser: --json is --format jsonl; leave one of --json and --format csv out", file=sys.stderr)
        return 2
    if not args.audio and args.from_file is None:
        print("npser: predict needs recordings: name files or folders, or a list of them with --from-file", file=sys.stderr)
        return 2
    if not 0 <= args.min_confidence <= 1:
        raise terminal.UsageError(f"--min-confidence {args.min_confidence:g}: expected a probability, 0 to 1")
    if args.threads is not None and args.threads < 1:
        raise terminal.UsageError(f"--threads {args.threads}: expected at least 1")
    paths = recordings([*args.audio, *([] if args.from_file is None else _lines(args.from_file))])
    trained = Model(args.model)
    for notice in trained.checkpoint.training.get("notices", []):
        print(f"npser: note: {terminal.printable(notice)}", file=sys.stderr)
    if trained.engine_for(args.engine, len(paths)) == "numba":
        from npser.predict_many import load_kernels

        with terminal.compiling(terminal.say_to(sys.stderr)):
            load_kernels(trained)
    show = _writer("jsonl" if args.json else args.format, trained, args.timeline)
    failed = False
    hidden = None if len(paths) > 1 and not sys.stdout.isatty() else True
    with contextlib.ExitStack() as opened:
        audio = [opened.enter_context(_standard_input()) if path == STANDARD_INPUT else path for path in paths]
        predictions = terminal.progress(
            trained.predict_many(audio, engine=args.engine, threads=args.threads), total=len(paths), unit="file", disable=hidden
        )
        for path, prediction in zip(paths, predictions, strict=True):
            failed |= prediction.error is not None
            show(list(_rows(path, withhold(prediction, args.min_confidence), args.timeline)))
    return 1 if failed else 0


def recordings(words: list[str]) -> list[str]:
    """The recordings that the words of a command line mean.

    Parameters
    ----------
    words : list of str
        Files, in any state; folders, for the audio files anywhere below them, sorted; patterns such as ``calls/*.wav`` that the
        shell has left alone, ``**`` for any folders; ``-`` for standard input.

    Raises
    ------
    ValueError
        For a folder without audio, a pattern that nothing matches, and where no word is left.
    """
    found: list[str] = []
    empty: list[str] = []
    for word in words:
        if os.path.isdir(word):
            below = _audio_below(word)
            reason = f"holds no audio files ({' '.join(sorted(AUDIO))}); name another folder, or files"
        elif os.path.lexists(word) or not glob.has_magic(word):  # what is not there becomes a row that says so
            below, reason = [word], ""
        else:
            names = sorted(glob.glob(word, recursive=True))
            below = list(
                dict.fromkeys(one for name in names for one in (_audio_below(name) if os.path.isdir(name) else [name]))
            )
            reason = "no file matches the pattern; expected one such as 'calls/*.wav'"
        if not below:
            empty.append(f"{word}: {reason}")
        found += below or [word]  # as a row with an error: the others go on
    if len(empty) == len(found):
        raise ValueError(empty[0] if empty else "there is nothing to predict; expected audio files, folders or patterns")
    return found


def _audio_below(folder: str) -> list[str]:
    """Audio files, by their names' endings; and the folders that cannot be read, each of which becomes a row that says so."""
    unreadable: list[str] = []
    found = [str(path) for path in files(Path(folder), lambda error: unreadable.append(error.filename)) if is_audio(path.name)]
    return sorted([*found, *unreadable])


def _lines(list_file: Path) -> list[str]:
    """What a list names: a recording, folder or pattern on each line, relative to the current folder."""
    try:
        if str(list_file) == STANDARD_INPUT:
            content = sys.stdin.buffer.read()
        else:
            refuse_special(list_file, "expected a text file with a path on each line", ", or - with it on standard input")
            content = list_file.read_bytes()
    except OSError as error:
        raise ValueError(f"--from-file {list_file}: cannot be read ({error.strerror}); expected a path on each line") from None
    lines = [line.removesuffix(b"\r") for line in content.removeprefix(codecs.BOM_UTF8).split(b"\n")]
    found = [os.fsdecode(line) for line in lines if line.strip()]
    if b"\0" in content:
        raise ValueError(f"--from-file {list_file}: holds null bytes, so it is no text; expected a path on each line")
    if not found:
        raise ValueError(f"--from-file {list_file}: is empty; expected a path on each line")
    return found


def _standard_input() -> BinaryIO:
    """A copy of standard input on disk: a pipe cannot be read twice, and memory may not hold hours of sound."""
    try:
        descriptor, path = tempfile.mkstemp()
        os.unlink(path)
        copy = open("standard input", "w+b", opener=lambda *_: descriptor)  # noqa: SIM115 (the caller closes it)
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.flush()
    except OSError as error:
        raise ValueError(
            f"standard input: cannot be kept in {tempfile.gettempdir()} ({error.strerror}); set TMPDIR to another folder"
        ) from None
    return copy


def withhold(prediction: Prediction, least: float) -> Prediction:
    """No answer where the likeliest emotion has a probability below least."""

    def sure(one: Answer) -> Answer:
        p = max(one.probabilities.values(), default=1.0)
        return one if p >= least else dataclasses.replace(one, emotion=None, reason=f"confidence {p:.3f} is below {least:g}")

    return dataclasses.replace(sure(prediction), timeline=[sure(window) for window in prediction.timeline])


def _rows(path: str, prediction: Prediction, timeline: bool) -> Iterator[Row]:
    """The row of a recording, then those of its windows, which have start and end."""
    if prediction.error is not None:
        named = prediction.error.startswith(("standard input", path))
        yield {"path": path, "error": prediction.error if named else f"{path}: {prediction.error}"}
        return
    names = ("emotion", "probabilities", "gender", "gender_probabilities", "seconds", "reason")
    yield {"path": path, **{name: getattr(prediction, name) for name in names}}
    for window in prediction.timeline if timeline else []:
        row = {"path": path, **dataclasses.asdict(window), "gender": likeliest(window.gender_probabilities)}
        yield {**row, "gender_probabilities": window.gender_probabilities or None}


def _writer(form: str, trained: Model, timeline: bool) -> Callable[[list[Row]], None]:
    """What prints the rows of a recording, as text, jsonl or csv."""
    if form == "csv":
        return _csv_writer(trained, timeline)
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return _show_jsonl if form == "jsonl" else _text_writer("█" if utf8 and sys.stdout.isatty() else "#")


def _show_jsonl(rows: list[Row]) -> None:
    for row in rows:
        print(json.dumps(row), flush=True)


def _csv_writer(model: Model, timeline: bool) -> Callable[[list[Row]], None]:
    """Prints the header now, and rows when they come."""
    span = ["start", "end"] if timeline else []
    probabilities = [f"p_{label}" for label in (*model.emotions, *model.genders)]
    columns = ["path", *span, "emotion", "gender", "seconds", *probabilities, "reason", "error"]

    def write(row: Row) -> None:
        quoting = csv.QUOTE_ALL if any("\r" in str(value) for value in row.values()) else csv.QUOTE_MINIMAL  # which forgets it
        options: Any = {"restval": "", "extrasaction": "ignore", "lineterminator": "\n", "quoting": quoting}
        csv.DictWriter(sys.stdout, columns, **options).writerow(row)

    write(dict(zip(columns, columns, strict=True)))

    def show(rows: list[Row]) -> None:
        for row in rows:
            p = {**row.get("probabilities", {}), **(row.get("gender_probabilities") or {})}
            times = {name: f"{row[name]:.3f}" for name in ("start", "end", "seconds") if name in row}
            write(row | times | {f"p_{label}": f"{value:.6f}" for label, value in p.items()})
        sys.stdout.flush()

    return show


def _text_writer(block: str) -> Callable[[list[Row]], None]:
    """Prints a recording in a line and a bar for each class, then each window in a line. block: what a bar is made of."""

    def bar(p: float) -> str:
        return f"{p:.2f} {block * round(BAR * p)}".rstrip()

    def show(rows: list[Row]) -> None:
        first, *windows = map(terminal.printable, rows)
        if "error" in first:
            print(f"npser: {' '.join(first['error'].split())}", file=sys.stderr)
            return
        answer = f"no answer ({first['reason']})" if first["emotion"] is None else first["emotion"]
        gender = f", {first['gender']} {first['gender_probabilities'][first['gender']]:.2f}" if first["gender"] else ""
        lines = [f"{first['path']}: {answer}{gender}, {first['seconds']:.1f} s"]
        width = max([len(label) for row in rows for label in row["probabilities"]], default=0)
        lines += [f"    {label:<{width}}  {bar(p)}" for label, p in first["probabilities"].items()]
        for row in windows:
            span = f"    {row['start']:8.2f} to {row['end']:8.2f} s"
            p = max(row["probabilities"].values(), default=0.0)
            answer = f"no answer ({row['reason']})" if row["emotion"] is None else f"{row['emotion']:<{width}}  {bar(p)}"
            lines.append(f"{span}  {answer}")
        print("\n".join(lines), flush=True)

    return show

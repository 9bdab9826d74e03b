"""`npser predict`: which recordings are meant, and what is said of them, as text, JSON lines or CSV."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import glob
import itertools
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from npser.commands import terminal
from npser.corpora.folder import AUDIO, files, is_audio
from npser.files import at_address, is_address, refuse_special
from npser.lite import Model
from npser.prediction import Prediction, Row, Show, csv_writer, jsonl_writer, rows, withhold

BAR = 40  # characters of a whole bar
STANDARD_INPUT = "-"


def run(args: argparse.Namespace) -> int:
    """Run `npser predict`; returns its exit status, 1 where a recording cannot be read."""
    if args.json and args.format in ("csv", "text"):
        print(f"npser: --json is --format jsonl; leave one of --json and --format {args.format} out", file=sys.stderr)
        return 2
    if not args.audio and args.from_file is None:
        print("npser: predict needs recordings: name files or folders, or a list of them with --from-file", file=sys.stderr)
        return 2
    if not 0 <= args.min_confidence <= 1:
        raise terminal.UsageError(f"--min-confidence {args.min_confidence:g}: expected a probability, 0 to 1")
    if args.threads is not None and args.threads < 1:
        raise terminal.UsageError(f"--threads {args.threads}: expected at least 1")
    form = "jsonl" if args.json else args.format
    if args.dask is not None and args.out is None:
        raise terminal.UsageError(f"--dask {args.dask}: add --out DIR, where the parts of the answer are written")
    if args.dask is not None and args.threads is not None:
        raise terminal.UsageError("--threads is of this machine, and --dask has others compute; leave one of the two out")
    if args.out is not None and form == "text":
        raise terminal.UsageError("--out: writes --format jsonl or csv, not text; leave one of the two out")
    paths = recordings([*args.audio, *([] if args.from_file is None else _lines(args.from_file))])
    if args.adapt != "none" and (args.out is not None or STANDARD_INPUT in paths):
        what = "--out" if args.out is not None else "standard input, which is heard once"
        raise terminal.UsageError(f"--adapt {args.adapt}: not with {what}; leave one of the two out")
    if args.out is not None and STANDARD_INPUT in paths:
        raise terminal.UsageError("--out: cannot go on with standard input after a stop; name files, or leave --out out")
    trained = Model(args.model)
    for notice in trained.checkpoint.training.get("notices", []):
        print(f"npser: note: {terminal.printable(notice)}", file=sys.stderr)
    if args.dask is None and trained.engine_for(args.engine, len(paths)) == "numba":
        from npser.predict_many import load_kernels

        with terminal.compiling(terminal.say_to(sys.stderr)):
            load_kernels(trained)
    if args.out is not None:
        return _write_parts(args, paths, trained, form or "jsonl")
    return _print(args, paths, trained, _writer(form, trained, args.timeline))


def _print(args: argparse.Namespace, paths: list[str], trained: Model, show: Show) -> int:
    """Predict and show; returns the exit status."""
    failed = False
    hidden = None if len(paths) > 1 and not sys.stdout.isatty() else True
    with contextlib.ExitStack() as opened:
        audio = [opened.enter_context(_standard_input()) if path == STANDARD_INPUT else path for path in paths]
        predictions = terminal.progress(
            _predictions(args, paths, audio, trained), total=len(paths), unit="file", disable=hidden
        )
        for path, prediction in zip(paths, predictions, strict=True):
            failed |= prediction.error is not None
            show(list(rows(path, withhold(prediction, args.min_confidence), args.timeline)))
    return 1 if failed else 0


def _predictions(
    args: argparse.Namespace, paths: list[str], audio: list[str | BinaryIO], trained: Model
) -> Iterator[Prediction]:
    """Of each recording, by the model as it is, or adapted to the recording or to those of its folder."""
    if args.adapt == "none":
        yield from trained.predict_many(audio, engine=args.engine, threads=args.threads)
        return
    voices = paths if args.adapt == "recording" else [os.path.dirname(path) for path in paths]
    for voice, same in itertools.groupby(range(len(paths)), key=voices.__getitem__):
        knowing = trained.adapt([paths[k] for k, other in enumerate(voices) if other == voice])
        yield from knowing.predict_many([paths[k] for k in same], engine=args.engine, threads=args.threads)


def _write_parts(args: argparse.Namespace, paths: list[str], trained: Model, form: str) -> int:
    """Predict here or on a Dask cluster and write parts; returns the exit status."""
    from npser.experiment import archive
    from npser.files import lock

    out = terminal.made(args.out)
    order = archive.order_of(args.model, trained.engine_for(args.engine, len(paths)), form, args.timeline, args.min_confidence)
    unit = trained.config.shard
    with lock(out / ".lock", wait=False):
        parts = archive.plan(paths, order, out, unit)
        missing = archive.missing(parts)
        files = sum(end - first for first, end in (part.batch for part in missing))
        bar = terminal.progress(None, total=len(paths), initial=len(paths) - files, unit="file")

        def say(text: str) -> None:
            bar.clear()
            terminal.say_to(sys.stderr)(text)

        if len(missing) < len(parts):
            say(f"parts     {len(parts)}, of which {len(parts) - len(missing)} are there already")
        try:
            with contextlib.closing(bar):
                if args.dask is None:
                    done = archive.compute_here(missing, paths, order, trained, args.threads)
                else:
                    done = archive.compute_there(args.dask, missing, paths, order, trained, say, unit)
                for n in done:
                    bar.update(n)
        except KeyboardInterrupt:
            print(f"npser: interrupted; go on with: npser {shlex.join(sys.argv[1:])}", file=sys.stderr)
            return terminal.INTERRUPTED
        failed = archive.errors_in(parts, form)
    say(f"done      {len(paths)} files, {failed} of them with an error; all rows: cat {shlex.quote(str(out))}/part-*")
    return 1 if failed else 0


def recordings(words: list[str]) -> list[str]:
    """The recordings that the words of a command line mean.

    Parameters
    ----------
    words : list of str
        Files, in any state; folders, for the audio files anywhere below them, sorted; patterns such as ``calls/*.wav`` that the
        shell has left alone, ``**`` for any folders; addresses of files, folders or patterns, such as ``s3://bucket/calls``;
        ``-`` for standard input.

    Raises
    ------
    ValueError
        For a folder without audio, a pattern that nothing matches, and where no word is left.
    """
    found: list[str] = []
    empty: list[str] = []
    for word in words:
        if is_address(word) or os.path.isdir(word):
            below = _audio_at(word) if is_address(word) else _audio_below(word)
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


def _audio_at(address: str) -> list[str]:
    """The audio files that an address means: itself, those anywhere below a folder, or those that match a pattern."""
    if is_audio(address) and not glob.has_magic(address):
        return [address]
    with at_address(address) as (system, path):
        found = system.glob(path) if glob.has_magic(path) else system.find(path)
        return sorted(system.unstrip_protocol(one) for one in found if is_audio(one)) or [address]  # one with another name


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


def _writer(form: str | None, trained: Model, timeline: bool) -> Show:
    """What prints the rows of a recording, as text, jsonl or csv."""
    if form == "csv":
        return csv_writer(sys.stdout, [*trained.emotions, *trained.genders], timeline)
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return jsonl_writer(sys.stdout) if form == "jsonl" else _text_writer("█" if utf8 and sys.stdout.isatty() else "#")


def _text_writer(block: str) -> Show:
    """Prints a recording in a line and a bar for each class, then each window in a line. block: what a bar is made of."""

    def bar(p: float) -> str:
        return f"{p:.2f} {block * round(BAR * p)}".rstrip()

    def show(rows: Sequence[Row]) -> None:
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

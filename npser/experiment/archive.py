"""The predictions of an archive: parts in a folder, each the rows of a batch, computed here or on a Dask cluster.

A part is called part-NUMBER-HASH.jsonl or .csv; the hash is that of all that its rows depend on. It is written whole or not at
all, so what is there need not be computed again. One after another, parts are what `npser predict` would have printed.
"""

from __future__ import annotations

import bisect
import csv
import dataclasses
import functools
import hashlib
import io
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from npser import SHIPPED
from npser.experiment import cluster
from npser.experiment.cluster import Batch, Say
from npser.files import at_address, is_address, write
from npser.lite import Model
from npser.prediction import csv_writer, jsonl_writer, rows, unreadable, withhold
from npser.store import digest_of
from npser.threads import single_threaded_blas

MARKS = (
    "ETag",
    "etag",
    "LastModified",
    "Last-Modified",
    "last_modified",
    "Content-MD5",
    "mtime",
    "modify",
    "updated",
    "created",
)
DIED = "a worker died each time while reading it (killed, or out of memory); try it alone with `npser predict`"


@dataclass(frozen=True)
class Order:
    """What is wanted of recordings, in plain values.

    model: its file as the user calls it; place: where workers find it, None for the one that comes with npser; sha256: of it.
    """

    model: str
    place: str | None
    sha256: str
    engine: str
    form: str
    timeline: bool
    least: float  # confidence


@dataclass(frozen=True)
class Part:
    """A part to be: the recordings first to end of the list, and the file with their rows."""

    batch: Batch
    path: Path


def order_of(model: Path, engine: str, form: str, timeline: bool, least: float) -> Order:
    """The order of a command. engine: lite or numba; form: jsonl or csv."""
    shipped = os.fspath(model) == SHIPPED
    place = None if shipped else os.path.abspath(model)
    return Order(os.fspath(model), place, digest_of(model) or "", engine, form, timeline, least)


def plan(names: Sequence[str], order: Order, out: Path, unit: int) -> list[Part]:
    """The parts of a list of recordings.

    Parameters
    ----------
    names : sequence of str
        Files and addresses.
    out : Path
        The folder of the parts.
    unit : int
        Recordings that the engine computes together: every part starts at a multiple of it, as their numbers' last bits depend
        on who is computed with whom.

    Raises
    ------
    ValueError
        Where the folder holds a part that is not one of these.
    """
    with ThreadPoolExecutor(32) as pool:  # addresses answer slowly
        states = list(pool.map(_state, names))
    batches = cluster.cut(names, [state[0] for state in states], unit)
    digits = max(5, len(str(len(batches))))
    about = [order.sha256, order.engine, order.form, order.timeline, order.least, cluster.versions()]
    parts: list[Part] = []
    for number, (first, end) in enumerate(batches):
        held = json.dumps([about, list(zip(names[first:end], states[first:end], strict=True))])
        digest = hashlib.sha256(held.encode()).hexdigest()[:16]
        parts.append(Part((first, end), out / f"part-{number:0{digits}}-{digest}.{order.form}"))
    planned = {part.path.name for part in parts}
    others = sorted(path.name for path in out.glob("part-*") if path.name not in planned)
    if others:
        count = f" ({len(others)} of this kind)" if len(others) > 1 else ""
        raise ValueError(
            f"{out / others[0]}: is a part of other files, or made with another model, version or options{count}; "
            f"remove what is not wanted, or name another --out"
        )
    return parts


def _state(name: str) -> tuple[int, str]:
    """Size of a file in bytes, and what changes when its content does; 0 and nothing where it cannot be seen."""
    try:
        if is_address(name):
            with at_address(name) as (system, path):
                about = system.info(path)
                return int(about.get("size") or 0), " ".join(str(about[mark]) for mark in MARKS if mark in about)
        status = os.stat(name)
        return status.st_size, str(status.st_mtime_ns)
    except (OSError, ValueError):
        return 0, ""


def missing(parts: Sequence[Part]) -> list[Part]:
    """The parts that are not there yet."""
    return [part for part in parts if not part.path.exists()]


def compute_here(
    parts: Sequence[Part], names: Sequence[str], order: Order, trained: Model, threads: int | None
) -> Iterator[int]:
    """Write parts, one after the other; yields how many recordings each has."""
    for part in parts:
        first, end = part.batch
        own = names[first:end]
        _keep(part, _rows_of(trained, order, own, own, threads), order, trained)
        yield end - first


def compute_there(
    address: str, parts: Sequence[Part], names: Sequence[str], order: Order, trained: Model, say: Say, unit: int
) -> Iterator[int]:
    """Write parts, as the workers of a Dask cluster are done with them; yields of how many recordings it knows more.

    See cluster.computed for arguments and errors.
    """
    starts = [part.batch[0] for part in parts]
    pieces: dict[int, dict[int, str]] = {}  # of parts that are not whole yet: the text from each recording on
    done: Counter[int] = Counter()

    def work(batch: Batch) -> tuple[Any, ...]:
        own = names[slice(*batch)]
        places = [cluster.seen_by_workers(name) for name in own]
        return rows_on_worker, dataclasses.asdict(order), own, places, [_state(name)[0] for name in own]

    for (first, end), result in cluster.computed(address, [part.batch for part in parts], work, unit, say):
        part = parts[bisect.bisect(starts, first) - 1]
        start, stop = part.batch
        text = _row_of_death(names[first], order, trained) if result is None else result
        pieces.setdefault(start, {})[first] = text
        done[start] += end - first
        if start + done[start] == stop:
            _keep(part, "".join(text for _, text in sorted(pieces.pop(start).items())), order, trained)
        yield end - first


def _keep(part: Part, text: str, order: Order, trained: Model) -> None:
    """Write a part; the first of a CSV has its header."""
    header = io.StringIO(newline="")
    if part.batch[0] == 0:
        _writer(header, order, trained, header=True)
    write(part.path, (header.getvalue() + text).encode("utf-8", "surrogateescape"))


def errors_in(parts: Sequence[Part], form: str) -> int:
    """How many recordings could not be read, by the parts."""
    count = 0
    for part in parts:
        with part.path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            if form == "jsonl":
                count += sum("error" in json.loads(line) for line in file)
            else:
                count += sum(row[-1] != "" for row in csv.reader(file)) - (part.batch[0] == 0)
    return count


def _writer(file: io.StringIO, order: Order, trained: Model, header: bool = False) -> Any:
    """What writes rows into a text."""
    if order.form == "jsonl":
        return jsonl_writer(file)
    return csv_writer(file, [*trained.emotions, *trained.genders], order.timeline, header)


def _row_of_death(name: str, order: Order, trained: Model) -> str:
    """The row of a recording that kills workers."""
    text = io.StringIO(newline="")
    _writer(text, order, trained)(list(rows(name, unreadable(ValueError(DIED)), order.timeline)))
    return text.getvalue()


def _rows_of(trained: Model, order: Order, names: Sequence[str], places: Sequence[str], threads: int | None) -> str:
    """Rows of recordings, as text. places: where each is found here."""
    text = io.StringIO(newline="")
    show = _writer(text, order, trained)
    with single_threaded_blas():
        predictions = trained.predict_many(places, engine=order.engine, threads=threads)
        for name, place, prediction in zip(names, places, predictions, strict=True):
            if prediction.error is not None:
                stem = os.path.splitext(name)[0]  # an error may name the file and another one beside it
                prediction = unreadable(ValueError(prediction.error.replace(place.removesuffix(name) + stem, stem)))
            show(list(rows(name, withhold(prediction, order.least), order.timeline)))
    return text.getvalue()


def rows_on_worker(wanted: dict[str, Any], names: Sequence[str], places: Sequence[str], sizes: Sequence[int]) -> str:
    """Rows of recordings as text.

    wanted: an Order. sizes: of the files in bytes. ValueError where a Dask worker has another model than the command, or sees
    other files.
    """
    order = Order(**wanted)
    for place, size in zip(places, sizes, strict=True):
        if size and (found := _state(place)[0]) != size:
            raise ValueError(
                f"{place}: has {found or 'no'} bytes on {cluster.worker_name()} and {size} for the command; share the "
                "recordings under the same paths"
            )
    trained = _model(order.model, order.place or SHIPPED, order.sha256)
    return _rows_of(trained, order, names, places, cluster.share_of_cores())


_loading = threading.Lock()


def _model(name: str, place: str, digest: str) -> Model:
    """The model, read once in a process."""
    with _loading:
        return _read_model(name, place, digest)


@functools.lru_cache(maxsize=1)
def _read_model(name: str, place: str, digest: str) -> Model:
    found = digest_of(Path(place))
    if found != digest:
        problem = "is missing" if found is None else "is another model than the command's"
        raise ValueError(f"{place}: {problem} on {cluster.worker_name()}; copy the command's there, or name one that all see")
    trained = Model(place)
    trained.path = name
    return trained

"""What the server counts, as Prometheus reads it. Every worker writes a row of one array; whichever is asked adds them up."""

from __future__ import annotations

import itertools
import resource
import sys
from collections.abc import Mapping, MutableSequence
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import NamedTuple

ROUTES = ("predict", "model", "stream", "healthz", "readyz", "metrics", "openapi", "asyncapi", "page", "other")
CODES = (
    *("101", "200", "400", "401", "403", "404", "405", "406", "408", "409", "413", "415", "421", "422", "500", "503", "504"),
    "other",
)
REFUSALS = (
    *("full", "busy", "uploads", "connections", "stopping", "host", "origin", "token", "config", "too_many_errors"),
    *("too_fast", "too_large", "idle", "too_long", "unread", "other"),
)
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
WINDOWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


class Table(NamedTuple):
    """A measure: its kind, what it says, its labels with their values, and of a histogram the upper bounds of its buckets."""

    kind: str
    text: str
    labels: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    buckets: tuple[float, ...] = ()


TABLES = {
    "requests_total": Table("counter", "Requests by route and status code", {"route": ROUTES, "code": CODES}),
    "refusals_total": Table("counter", "What was refused, or ended before its time, by reason", {"reason": REFUSALS}),
    "sessions_opened_total": Table("counter", "Live sessions that have begun"),
    "sessions_closed_total": Table("counter", "Live sessions that have ended"),
    "sessions": Table("gauge", "Live sessions now"),
    "connections": Table("gauge", "Connections now"),
    "uploads": Table("gauge", "Uploads that are answered or wait for it"),
    "audio_seconds_total": Table("counter", "Sound that was heard", {"source": ("file", "stream")}),
    "dropped_seconds_total": Table("counter", "Sound of live sessions that was lost, or was no sound"),
    "decoders_died_total": Table("counter", "Decoding processes that died or were stopped"),
    "networks_died_total": Table("counter", "Processes of the network that died or did not answer"),
    "queue_depth": Table("gauge", "Blocks and windows that wait for the network"),
    "busy_share": Table(
        "gauge", "Share of the last seconds in which sessions kept the network busy, of all processes added up"
    ),
    "resident_memory_bytes": Table("gauge", "Resident memory, of the network's process as well, not of the decoding ones"),
    "inference_seconds": Table("histogram", "Time of the network for the windows that it takes together", {}, SECONDS),
    "inference_windows": Table("histogram", "Windows that it takes together", {}, WINDOWS),
    "lag_seconds": Table("histogram", "From the last sound of an answer of a live session to the answer", {}, SECONDS),
    "predict_seconds": Table("histogram", "From the end of an upload to the end of its answer", {}, SECONDS),
}


def _places() -> tuple[dict[tuple[str, tuple[str, ...]], int], int]:
    """Where the numbers of a measure with some values of its labels begin in a row; and the length of a row."""
    found: dict[tuple[str, tuple[str, ...]], int] = {}
    length = 0
    for name, table in TABLES.items():
        for values in itertools.product(*table.labels.values()):
            found[name, values] = length
            length += len(table.buckets) + 2 if table.buckets else 1  # each bucket, those above, the sum
    return found, length


PLACES, ROW = _places()


class Measures:
    """The measures of one worker, and with those of the others, of the server. Any thread may count."""

    def __init__(self, numbers: MutableSequence[float] | None = None, worker: int = 0) -> None:
        self.numbers: MutableSequence[float] = [0.0] * ROW if numbers is None else numbers  # (workers * ROW,)
        self.first, self.lock = worker * ROW, Lock()
        for (name, _), place in PLACES.items():  # of a worker that died before
            if TABLES[name].kind == "gauge":
                self.numbers[self.first + place] = 0.0

    def add(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Count. A value of a label that is not foreseen counts as the last one that is, "other"."""
        known = TABLES[name].labels
        values = tuple(labels[label] if labels[label] in known[label] else known[label][-1] for label in known)
        with self.lock:
            self.numbers[self.first + PLACES[name, values]] += value

    def set(self, name: str, value: float) -> None:
        """State a gauge."""
        self.numbers[self.first + PLACES[name, ()]] = value

    def observe(self, name: str, value: float) -> None:
        """Put a value into a histogram."""
        buckets = TABLES[name].buckets
        k = next((k for k, most in enumerate(buckets) if value <= most), len(buckets))
        place = self.first + PLACES[name, ()]
        with self.lock:
            self.numbers[place + k] += 1
            self.numbers[place + len(buckets) + 1] += value

    def total(self, name: str, *values: str) -> float:
        """Of all workers."""
        place = PLACES[name, values]
        return sum(self.numbers[row + place] for row in range(0, len(self.numbers), ROW))

    def text(self) -> str:
        """In Prometheus' format. Counters of what has not happened are left out, where they have labels."""
        lines: list[str] = []
        for name, table in TABLES.items():
            lines += [f"# HELP npser_{name} {table.text}.", f"# TYPE npser_{name} {table.kind}"]
            for values in itertools.product(*table.labels.values()):
                if table.buckets:
                    lines += self._histogram(name, table)
                    continue
                total = self.total(name, *values)
                pairs = ",".join(f'{label}="{value}"' for label, value in zip(table.labels, values, strict=True))
                if total or not pairs:
                    lines.append(f"npser_{name}{{{pairs}}} {total:.17g}" if pairs else f"npser_{name} {total:.17g}")
        return "\n".join(lines) + "\n"

    def _histogram(self, name: str, table: Table) -> list[str]:
        place, size = PLACES[name, ()], len(table.buckets) + 2
        rows = range(0, len(self.numbers), ROW)
        *counts, total = (sum(self.numbers[row + place + k] for row in rows) for k in range(size))
        bounds = [*(f"{most:g}" for most in table.buckets), "+Inf"]
        lines = [
            f'npser_{name}_bucket{{le="{most}"}} {count:.17g}'
            for most, count in zip(bounds, itertools.accumulate(counts), strict=True)
        ]
        return [*lines, f"npser_{name}_sum {total:.17g}", f"npser_{name}_count {sum(counts):.17g}"]


def resident_bytes(*children: int) -> int:
    """Of this process and some others, by their numbers; where /proc is not there, of this one, at its greatest."""
    try:
        pages = (int(Path(f"/proc/{number}/statm").read_text().split()[1]) for number in ("self", *children))
        return sum(pages) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

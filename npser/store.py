"""Features on disk, as rows and bounds.

A store holds the features of a list of recordings, such as their log-mel bands, memory-mapped. It lies in the cache under a key
made of the recordings' content and the settings, so a second run starts at once. What a network's input needs beside them
(deltas, normalisation) is computed when a batch is assembled: npser.inputs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npser import features
from npser.features import FLOOR_DB, HOP, Kind
from npser.files import lock

FORMAT = 1  # of the files in the cache; another number computes them anew

Progress = Callable[..., Iterable[Any]]  # tqdm, or what looks like it


@dataclass(frozen=True)
class Store:
    """Features of recordings, each cut into one or more windows.

    rows (N, width); window w is rows bounds[w]:bounds[w+1] and samples[w] samples of 16 kHz long; recording r is windows
    recordings[r]:recordings[r+1]. errors: why recording r has no windows. pad_frames: windows are zero-padded to so many frames
    (only the rows that touch sound are stored), or 0. seconds: length of a whole window. hop, floor: see features.Kind.
    """

    rows: np.ndarray
    bounds: np.ndarray
    samples: np.ndarray
    recordings: np.ndarray
    errors: dict[int, str]
    pad_frames: int
    seconds: float = 7.5
    mapping: mmap.mmap | None = None  # that holds rows
    hop: int = HOP
    floor: float = FLOOR_DB

    def stored(self, window: np.ndarray) -> np.ndarray:
        """Rows of each window, (W,)."""
        return self.bounds[window + 1] - self.bounds[window]

    def frames(self, window: np.ndarray) -> np.ndarray:
        """Frames that the network sees of each window, (W,): with padding more than are stored."""
        return np.full(len(window), self.pad_frames) if self.pad_frames else self.stored(window)

    def release(self) -> None:
        """Give the pages of rows back: they stay in the system's cache and no longer count as this process's memory."""
        if self.mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            self.mapping.madvise(mmap.MADV_DONTNEED)

    def real(self, window: np.ndarray) -> np.ndarray:
        """Frames of each window that are centred on a sample that exists, (W,): frame t of n samples where hop t < n."""
        return -(-self.samples[window] // self.hop)


def default_cache() -> Path:
    """$XDG_CACHE_HOME/npser, or ~/.cache/npser."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "npser"


def digests(paths: Sequence[Path], pool: ThreadPoolExecutor) -> list[str | None]:
    """SHA-256 of each file's content; None where it cannot be read."""

    def digest(path: Path) -> str | None:
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return None

    return list(pool.map(digest, paths))


def folder_of(cache: Path, content: Sequence[str], kind: Kind) -> Path:
    """Where open_store keeps the features of some recordings."""
    key = [FORMAT, kind.settings, kind.seconds, kind.pad, list(content), *kind.details]
    return cache / f"features-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]}"


def open_store(
    paths: Sequence[Path],
    content: Sequence[str],
    kind: Kind,
    cache: Path,
    pool: ThreadPoolExecutor,
    progress: Progress = lambda items, **_: items,
) -> Store:
    """Features of recordings, from the cache or computed now.

    Parameters
    ----------
    paths, content : sequences
        The recordings and the SHA-256 of each.
    kind : features.Kind
        Recordings longer than its window have several windows, half overlapping. Where it pads, they are cut there: one window
        a recording, as the paper has it.
    cache : Path
        Where the stores lie. Several processes may ask for the same store: one computes it, the others wait.
    progress : callable
        Wraps an iterable, as tqdm does.

    Raises
    ------
    ValueError
        Where the cache cannot be written.
    """
    folder = folder_of(cache, content, kind)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with lock(folder.with_suffix(".lock")):
            with contextlib.suppress(FileNotFoundError, ValueError):  # not there, or damaged: json and memmap raise ValueErrors
                return _open(folder, kind)
            _build(folder, paths, kind, pool, progress)
            return _open(folder, kind)
    except OSError as error:
        raise ValueError(
            f"{cache}: the features cannot be kept there ({error.strerror}); free some space or name another place with --cache"
        ) from None


def _build(folder: Path, paths: Sequence[Path], kind: Kind, pool: ThreadPoolExecutor, progress: Progress) -> None:
    """Compute every recording and move the finished folder into place."""

    def compute(path: Path) -> tuple[list[np.ndarray], list[int]] | str:
        try:
            waves = list(features.read_windows(path, kind.seconds, cut=kind.pad))
        except ValueError as error:
            return str(error).removeprefix(f"{path}: ")  # the file may be called differently when the cache is used again
        return [kind.rows(x) for x in waves], [len(x) for x in waves]

    bounds, samples, recordings, errors = [0], [], [0], {}
    for leftover in folder.parent.glob(f"{folder.name}-*"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    try:
        with (partial / "rows.f32").open("wb") as file:
            results = progress(pool.map(compute, paths), total=len(paths), desc="features", unit="file")
            for r, result in enumerate(results):
                if isinstance(result, str):
                    errors[r] = result
                else:
                    for rows, n in zip(*result, strict=True):
                        file.write(rows.tobytes())
                        bounds.append(bounds[-1] + len(rows))
                        samples.append(n)
                recordings.append(len(samples))
            file.flush()
            os.fsync(file.fileno())  # the index below vouches for the rows
        index = {"bounds": bounds, "samples": samples, "recordings": recordings, "errors": errors}
        (partial / "index.json").write_text(json.dumps(index))
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _open(folder: Path, kind: Kind) -> Store:
    """The store in folder, its rows mapped copy-on-write: nothing is read before it is used, nothing ever written."""
    index = json.loads((folder / "index.json").read_text())
    shape = (index["bounds"][-1], kind.width)
    rows, mapping = np.empty(shape, np.float32), None
    if shape[0]:
        with (folder / "rows.f32").open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        rows = np.frombuffer(mapping, np.float32).reshape(shape)
    bounds, samples, recordings = (np.array(index[name], np.int64) for name in ("bounds", "samples", "recordings"))
    errors = {int(r): text for r, text in index["errors"].items()}
    return Store(rows, bounds, samples, recordings, errors, pad_frames_of(kind), kind.seconds, mapping, kind.hop, kind.floor)


def store_of(waves: Sequence[np.ndarray], kind: Kind) -> Store:
    """Features of windows (n,) at 16 kHz that are in memory, each a recording of its own."""
    rows = [kind.rows(x) for x in waves]
    bounds, samples = np.cumsum([0, *map(len, rows)]), np.array([len(x) for x in waves])
    each, pad_frames = np.arange(len(waves) + 1), pad_frames_of(kind)
    return Store(np.concatenate(rows), bounds, samples, each, {}, pad_frames, kind.seconds, None, kind.hop, kind.floor)


def pad_frames_of(kind: Kind) -> int:
    """Frames of a padded window; 0 where windows are not padded."""
    return features.window_samples(kind.seconds) // kind.hop + 1 if kind.pad else 0

"""Features on disk, and batches of them: rows and bounds.

A store holds the static log-mel bands of a list of recordings, memory-mapped. It lies in the cache under a key made of the
recordings' content and the settings, so a second run starts at once. Deltas and normalisation are computed when a batch is
assembled.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npser import features
from npser.features import FLOOR_DB, HOP, N_MELS
from npser_kernels.assemble import assemble

FORMAT = 1  # of the files in the cache; another number computes them anew
NEGLIGIBLE_DB = 1e-3  # a feature that varies less than this is constant: its standard deviation counts as 1

Progress = Callable[..., Iterable[Any]]  # tqdm, or what looks like it


@dataclass(frozen=True)
class Store:
    """Static bands of recordings, each cut into one or more windows.

    rows (N, 128) dB; window w is rows bounds[w]:bounds[w+1] and samples[w] samples of 16 kHz long; recording r is windows
    recordings[r]:recordings[r+1]. errors: why recording r has no windows. pad_frames: windows are zero-padded to so many frames
    (only the rows that touch sound are stored), or 0. seconds: length of a whole window.
    """

    rows: np.ndarray
    bounds: np.ndarray
    samples: np.ndarray
    recordings: np.ndarray
    errors: dict[int, str]
    pad_frames: int
    seconds: float = 7.5
    mapping: mmap.mmap | None = None  # that holds rows

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

    def batch(
        self,
        window: np.ndarray,
        mean: np.ndarray,
        scale: np.ndarray,
        lengths: np.ndarray | None = None,
        level: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Network input of some windows: X (N, d_spec), bounds (W+1,). mean, scale (d_spec,): X = (value - mean) * scale.

        d_spec / 3 bands are heard, at one level if asked: see features.heard. lengths (W,): the first so many frames only; what
        is left out lies in the padding, with at least one frame that is kept.
        """
        frames, stored = self.frames(window), self.stored(window)
        bounds = np.concatenate([[0], np.cumsum(frames if lengths is None else lengths)])
        X = np.empty((bounds[-1], len(mean)), np.float32)
        rows, starts, bands = self.rows, self.bounds[window], len(mean) // 3
        if bands < N_MELS:  # all of them stay as they are stored
            parts = (rows[a : a + n] for a, n in zip(starts, stored, strict=True))
            rows = np.concatenate([features.heard(S, bands, level) for S in parts])
            starts = np.cumsum(stored) - stored
        assemble(X, bounds, frames, rows, starts, stored, np.float32(FLOOR_DB), mean, scale)
        return X, bounds


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


def folder_of(cache: Path, content: Sequence[str], seconds: float, pad: bool, level: bool = False) -> Path:
    """Where open_store keeps the features of some recordings."""
    settings = [FORMAT, features.SETTINGS, seconds, pad, list(content), *([features.LEVEL_DB] if level else [])]
    return cache / f"features-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:24]}"


def open_store(
    paths: Sequence[Path],
    content: Sequence[str],
    seconds: float,
    pad: bool,
    cache: Path,
    pool: ThreadPoolExecutor,
    progress: Progress = lambda items, **_: items,
    level: bool = False,
) -> Store:
    """Features of recordings, from the cache or computed now.

    Parameters
    ----------
    paths, content : sequences
        The recordings and the SHA-256 of each.
    seconds : float
        Window length: longer recordings have several windows, half overlapping.
    pad : bool
        Zero-pad to the window length, and cut there: one window a recording, as the paper has it.
    cache : Path
        Where the stores lie. Several processes may ask for the same store: one computes it, the others wait.
    progress : callable
        Wraps an iterable, as tqdm does.
    level : bool
        Bring every window to one level: see features.log_mel.

    Raises
    ------
    ValueError
        Where the cache cannot be written.
    """
    folder = folder_of(cache, content, seconds, pad, level)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with lock(folder.with_suffix(".lock")):
            with contextlib.suppress(FileNotFoundError, ValueError):  # not there, or damaged: json and memmap raise ValueErrors
                return _open(folder, seconds, pad)
            _build(folder, paths, seconds, pad, level, pool, progress)
            return _open(folder, seconds, pad)
    except OSError as error:
        raise ValueError(
            f"{cache}: the features cannot be kept there ({error.strerror}); free some space or name another place with --cache"
        ) from None


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """One process at a time."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(
    folder: Path,
    paths: Sequence[Path],
    seconds: float,
    pad: bool,
    level: bool,
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> None:
    """Compute every recording and move the finished folder into place."""

    def compute(path: Path) -> tuple[list[np.ndarray], list[int]] | str:
        try:
            waves = list(features.read_windows(path, seconds, cut=pad))
        except ValueError as error:
            return str(error).removeprefix(f"{path}: ")  # the file may be called differently when the cache is used again
        pad_to = features.window_samples(seconds) if pad else None
        return [features.log_mel(x, pad_to, level) for x in waves], [len(x) for x in waves]

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
                    for bands, n in zip(*result, strict=True):
                        file.write(bands.tobytes())
                        bounds.append(bounds[-1] + len(bands))
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


def _open(folder: Path, seconds: float, pad: bool) -> Store:
    """The store in folder, its rows mapped copy-on-write: nothing is read before it is used, nothing ever written."""
    index = json.loads((folder / "index.json").read_text())
    shape = (index["bounds"][-1], N_MELS)
    rows, mapping = np.empty(shape, np.float32), None
    if shape[0]:
        with (folder / "rows.f32").open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        rows = np.frombuffer(mapping, np.float32).reshape(shape)
    bounds, samples, recordings = (np.array(index[name], np.int64) for name in ("bounds", "samples", "recordings"))
    errors = {int(r): text for r, text in index["errors"].items()}
    pad_frames = features.window_samples(seconds) // HOP + 1 if pad else 0
    return Store(rows, bounds, samples, recordings, errors, pad_frames, seconds, mapping)


def normaliser(
    store: Store, window: np.ndarray, pool: ThreadPoolExecutor, d_spec: int = 3 * N_MELS, level: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every feature, (d_spec,) float32, over the frames of some windows that lie in real audio.

    Frame t is real if it is centred on a sample that exists: 400 t < n. The padding does not count.
    """
    zero, one = np.zeros(d_spec, np.float32), np.ones(d_spec, np.float32)

    def sums(part: np.ndarray) -> np.ndarray:
        X, bounds = store.batch(part, zero, one, level=level)
        real = np.arange(len(X)) - np.repeat(bounds[:-1], np.diff(bounds)) < np.repeat(
            -(-store.samples[part] // HOP), np.diff(bounds)
        )
        Y = X[real].astype(np.float64)
        return np.stack([np.full(d_spec, len(Y)), Y.sum(axis=0), (Y * Y).sum(axis=0)])

    parts = [window[i : i + 16] for i in range(0, len(window), 16)]
    count, total, squares = sum(pool.map(sums, parts), np.zeros((3, d_spec)))  # added in order: threads do not show
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    std[std < NEGLIGIBLE_DB] = 1
    return mean.astype(np.float32), std.astype(np.float32)

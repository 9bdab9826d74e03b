"""Features on disk, as rows and bounds.

A store holds the features of a list of recordings, such as their log-mel bands, memory-mapped. It lies in the cache under a key
made of the recordings' content and the settings, so a second run starts at once; a checksum is verified whenever it is opened.
What a network's input needs beside them (deltas, normalisation) is computed when a batch is assembled: npser.inputs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import mmap
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from npser import features, speech
from npser.features import FLOOR_DB, HOP, Kind
from npser.files import lock
from npser.threads import ahead, available_cores

FORMAT = 4  # of the files in the cache; another number computes them anew

HELD = 4 << 20  # bytes of a recording's rows that wait in memory; more wait on disk

Progress = Callable[..., Iterable[Any]]  # tqdm, or what looks like it
Features = tuple[bytes, list[int], list[int], list[float]]  # of a recording: its rows, and of each window as in Part
Elsewhere = Callable[[list[tuple[Path, str]]], Iterable[tuple[int, Features | str]]]


@dataclass(frozen=True)
class Store:
    """Features of recordings, each cut into one or more windows.

    rows (N, width); window w is rows bounds[w]:bounds[w+1] and samples[w] samples of 16 kHz long; recording r is windows
    recordings[r]:recordings[r+1]. errors: why recording r has no windows. pad_frames: windows are zero-padded to so many frames
    (only the rows that touch sound are stored), or 0. seconds: length of a whole window. hop, floor: see features.Kind.
    levels (W,): of each window's sound, see features.level_of. folder, digest: where rows lie, and their SHA-256. text: the
    phonemes of each window's recording, where a network reads them.
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
    levels: np.ndarray = field(default_factory=lambda: np.empty(0))
    folder: Path | None = None
    digest: str = ""
    text: tuple[str, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to another process: rows that lie on disk stay behind, see reopened."""
        return self.__dict__ if self.mapping is None else self.__dict__ | {"rows": self.rows[:0], "mapping": None}

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


def digest_of(path: Path) -> str | None:
    """SHA-256 of a file's content; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def digests(paths: Sequence[Path], pool: ThreadPoolExecutor) -> list[str | None]:
    """SHA-256 of each file's content; None where it cannot be read."""
    return list(pool.map(digest_of, paths))


def _key(what: Any) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]


def _prefix(kind: Kind) -> str:
    """How the names of all stores of a kind begin."""
    return f"features-{_key([FORMAT, kind.settings, kind.seconds, kind.pad])}-"


def folder_of(cache: Path, content: Sequence[str], kind: Kind) -> Path:
    """Where open_store keeps the features of some recordings."""
    return cache / f"{_prefix(kind)}{_key(list(content))}"


def open_store(
    paths: Sequence[Path],
    content: Sequence[str],
    kind: Kind,
    cache: Path,
    pool: ThreadPoolExecutor,
    progress: Progress = lambda items, **_: items,
    elsewhere: Elsewhere | None = None,
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
        Where the stores lie. Several processes may ask for the same store: one computes it, the others wait. Only good
        recordings are kept, so a bad one is read again each time. What other stores of this kind hold is copied from there.
    progress : callable
        Wraps an iterable, as tqdm does.
    elsewhere : callable, optional
        Computes recordings, given their paths and hashes, in other processes: yields the number of each in that list, in any
        order, with its features or why it has none.

    Raises
    ------
    ValueError
        Where the cache cannot be written.
    """
    folder = folder_of(cache, content, kind)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with lock(folder.with_suffix(".lock")):
            found = _open(folder, kind)
            if found is not None:
                return found
            return _built(folder, paths, content, kind, pool, progress, elsewhere)
    except OSError as error:
        raise ValueError(
            f"{cache}: the features cannot be kept there ({error.strerror}); free some space or name another place with --cache"
        ) from None


def _built(
    folder: Path,
    paths: Sequence[Path],
    content: Sequence[str],
    kind: Kind,
    pool: ThreadPoolExecutor,
    progress: Progress,
    elsewhere: Elsewhere | None,
) -> Store:
    """Compute every recording, move the finished folder into place, and open it."""
    for leftover in folder.parent.glob(f"{folder.name}-*"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    partial, at_once = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent)), 2 * available_cores()
    partial.chmod(folder.parent.stat().st_mode)  # who may read the cache may read its stores
    try:
        known = _held_by_others(folder, content, kind)
        new = [r for r, digest in enumerate(content) if digest not in known]
        come: dict[int, Part | str] = {}
        if elsewhere is not None and new:
            try:
                _come(come, elsewhere, new, paths, content, partial, progress)
            except BaseException:  # Ctrl-C as well
                _keep(come, paths, content, kind, folder)
                raise

        def compute(r: int) -> Part | str:
            if r in come:
                return come[r]
            held = known.get(content[r])
            aside = partial / str(r)
            return _part_of(*held, aside) if held else computed(paths[r], content[r], kind, aside)

        if 20 * len(new) <= len(content):  # where these few are bad, as they were the last time, all others are there already
            errors = {r: part for r, part in zip(new, ahead(pool, compute, new, at_once), strict=True) if isinstance(part, str)}
            found = _open(_without(folder, content, errors, kind), kind) if errors.keys() == set(new) else None
            if found is not None:
                return _with_gaps(found, errors)
        parts = ahead(pool, compute, range(len(paths)), at_once)
        errors = _write(partial, progress(parts, total=len(paths), desc="features", unit="file"), paths, content, kind)
        target = _without(folder, content, errors, kind)
        with lock(target.with_suffix(".lock")) if errors else contextlib.nullcontext():
            found = _open(target, kind) if errors else None
            if found is None:
                shutil.rmtree(target, ignore_errors=True)
                partial.rename(target)
                found = _open(target, kind)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if found is None:
        raise OSError(errno.EIO, "what was written there reads otherwise")
    return _with_gaps(found, errors)


def _come(
    come: dict[int, Part | str],
    elsewhere: Elsewhere,
    new: list[int],
    paths: Sequence[Path],
    content: Sequence[str],
    partial: Path,
    progress: Progress,
) -> None:
    """Put into come what other processes compute of some recordings; the rows wait on disk."""
    found = elsewhere([(paths[r], content[r]) for r in new])
    for k, one in progress(found, total=len(new), desc="features", unit="file"):
        r = new[k]
        if isinstance(one, str):
            come[r] = one
        else:
            rows, *each = one
            aside = partial / str(r)
            aside.write_bytes(rows)
            come[r] = Part(aside, [], *each)


def _keep(come: dict[int, Part | str], paths: Sequence[Path], content: Sequence[str], kind: Kind, folder: Path) -> None:
    """Make a store of what has come before a stop: the next run has it from there."""
    good = sorted(r for r, part in come.items() if isinstance(part, Part))
    target = folder_of(folder.parent, [content[r] for r in good], kind)
    if good and not target.exists():
        partial = Path(tempfile.mkdtemp(prefix=f"{target.name}-", dir=folder.parent))
        partial.chmod(folder.parent.stat().st_mode)
        _write(partial, (come[r] for r in good), [paths[r] for r in good], [content[r] for r in good], kind)
        partial.rename(target)


def _without(folder: Path, content: Sequence[str], errors: dict[int, str], kind: Kind) -> Path:
    """Where the good recordings lie."""
    return folder_of(folder.parent, [digest for r, digest in enumerate(content) if r not in errors], kind)


def _with_gaps(found: Store, errors: dict[int, str]) -> Store:
    """The store of the good recordings as one of all of them: bad ones have no windows."""
    windows = np.zeros(len(found.recordings) - 1 + len(errors), np.int64)
    windows[[r for r in range(len(windows)) if r not in errors]] = np.diff(found.recordings)
    return dataclasses.replace(found, recordings=np.concatenate([[0], np.cumsum(windows)]), errors=errors)


@dataclass(frozen=True)
class Part:
    """A recording on its way into a store: rows, and of each window their number, samples and level.

    aside: a file with the rows before these, where they are many. source: the store that they come from.
    """

    aside: Path
    rows: list[np.ndarray]
    frames: list[int]
    samples: list[int]
    levels: list[float]
    source: Store | None = None

    def blocks(self) -> Iterator[Any]:
        """The rows as bytes, not all of them at once."""
        if self.aside.exists():
            with self.aside.open("rb") as file:
                yield from iter(lambda: file.read(HELD), b"")
            self.aside.unlink()
        yield from (rows.tobytes() for rows in self.rows)
        if self.source is not None:
            self.source.release()


def _held_by_others(folder: Path, content: Sequence[str], kind: Kind) -> dict[str, tuple[Store, int]]:
    """The recordings that other stores of this kind hold, by their content: the store, and their number in it."""
    missing, found = set(content), dict[str, tuple[Store, int]]()
    for other in sorted(folder.parent.glob(_prefix(kind) + "?" * 24)):
        index = index_of(other) if other != folder else None
        shared = [(r, digest) for r, digest in enumerate(index["content"]) if digest in missing] if index else []
        store = _open(other, kind, told=False) if shared else None
        if store is not None:
            found |= {digest: (store, r) for r, digest in shared}
            missing -= found.keys()
    return found


def _part_of(store: Store, r: int, aside: Path) -> Part:
    """Recording r of a store."""
    first, end = store.recordings[r : r + 2]
    bounds = store.bounds[first : end + 1]
    each = (np.diff(bounds), store.samples[first:end], store.levels[first:end])
    return Part(aside, [store.rows[bounds[0] : bounds[-1]]], *(values.tolist() for values in each), source=store)


def computed(path: Path, digest: str, kind: Kind, aside: Path) -> Part | str:
    """A recording from its file, window by window; or why it has none, in words."""
    part, held = Part(aside, [], [], [], []), 0
    aside.unlink(missing_ok=True)
    try:
        read = speech.read_windows if kind.speech else features.read_windows
        for x in read(path, kind.seconds, cut=kind.pad):
            part.rows.append(kind.rows(x))
            part.frames.append(len(part.rows[-1]))
            part.samples.append(len(x))
            part.levels.append(features.level_of(x))
            held += part.rows[-1].nbytes
            if held > HELD:
                with aside.open("ab") as file:
                    file.writelines(rows.tobytes() for rows in part.rows)
                part.rows.clear()
                held = 0
    except ValueError as error:
        aside.unlink(missing_ok=True)
        return str(error).removeprefix(f"{path}: ")  # the file may be called differently when this is told
    if not part.frames:
        return speech.NONE
    if digest_of(path) != digest:
        aside.unlink(missing_ok=True)
        return "changed while it was read; run again when it is complete"
    return part


def _write(
    partial: Path, parts: Iterable[Part | str], paths: Sequence[Path], content: Sequence[str], kind: Kind
) -> dict[int, str]:
    """Write the parts as a store; returns why recordings have none."""
    bounds, samples, levels, recordings, errors, checksum = [0], [], [], [0], {}, hashlib.sha256()
    with (partial / "rows.f32").open("wb") as file:
        for r, part in enumerate(parts):
            if isinstance(part, str):
                errors[r] = part
                continue
            for block in part.blocks():
                file.write(block)
                checksum.update(block)
            for n in part.frames:
                bounds.append(bounds[-1] + n)
            samples += part.samples
            levels += part.levels
            recordings.append(len(samples))
        file.flush()
        os.fsync(file.fileno())  # the index below vouches for the rows
    index = {
        "bounds": bounds,
        "samples": samples,
        "levels": levels,
        "recordings": recordings,
        "content": [digest for r, digest in enumerate(content) if r not in errors],
        "rows": checksum.hexdigest(),
        "kind": kind.name,
        "place": os.path.commonpath([os.path.abspath(path.parent) for path in paths]) if paths else "",
    }
    (partial / "index.json").write_text(json.dumps({"index": index, "checksum": _checksum(index)}))
    return errors


def _checksum(index: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def index_of(folder: Path) -> dict[str, Any] | None:
    """The index of a store; None where there is none, or where it is damaged."""
    try:
        whole = json.loads((folder / "index.json").read_bytes())
        return whole["index"] if whole["checksum"] == _checksum(whole["index"]) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _open(folder: Path, kind: Kind, told: bool = True) -> Store | None:
    """The store in folder, its rows mapped copy-on-write; None where it is not there, or damaged, which is told."""
    if not folder.is_dir():
        return None
    index = index_of(folder)
    if index is None or digest_of(folder / "rows.f32") != index["rows"]:
        if told:
            warnings.warn(f"{folder}: is damaged; its features are computed anew", stacklevel=2)
        return None
    shape = (index["bounds"][-1], kind.width)
    rows, mapping = np.empty(shape, np.float32), None
    if shape[0]:
        try:
            with (folder / "rows.f32").open("rb") as file:
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except FileNotFoundError:  # removed at this moment
            return None
        rows = np.frombuffer(mapping, np.float32).reshape(shape)
    with contextlib.suppress(OSError):
        os.utime(folder)  # when it was used last, for `npser cache`
    bounds, samples, recordings = (np.array(index[name], np.int64) for name in ("bounds", "samples", "recordings"))
    levels, place = np.array(index["levels"]), (folder, index["rows"])
    return Store(
        rows, bounds, samples, recordings, {}, pad_frames_of(kind), kind.seconds, mapping, kind.hop, kind.floor, levels, *place
    )


def reopened(store: Store, kind: Kind) -> Store | None:
    """The store that another process has sent, with its rows; None where its folder is not to be seen, or holds others."""
    found = _open(store.folder, kind, told=False) if store.folder is not None else None
    if found is None or found.digest != store.digest:
        return None
    return dataclasses.replace(store, rows=found.rows, mapping=found.mapping)


def store_of(waves: Sequence[np.ndarray], kind: Kind, rows: Sequence[np.ndarray] | None = None) -> Store:
    """Features of windows (n,) at 16 kHz that are in memory, each a recording of its own. rows: these, where they are known."""
    rows = [kind.rows(x) for x in waves] if rows is None else rows
    bounds, samples = np.cumsum([0, *map(len, rows)]), np.array([len(x) for x in waves])
    each = np.arange(len(waves) + 1)
    return Store(
        np.concatenate(rows), bounds, samples, each, {}, pad_frames_of(kind), kind.seconds, hop=kind.hop, floor=kind.floor
    )


def pad_frames_of(kind: Kind) -> int:
    """Frames of a padded window; 0 where windows are not padded."""
    return features.window_samples(kind.seconds) // kind.hop + 1 if kind.pad else 0

"""From stored rows to the input of a network: augmented, levelled, with deltas, normalised.

A network's ``inputs`` calls one of these functions; training, scoring and prediction call the network's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from npser.augment import augmented, augments
from npser.config import Config
from npser.features import heard_level
from npser.frame_features import columns_of
from npser.store import Store
from npser_kernels.assemble import assemble

Array = np.ndarray


def of_bands(
    store: Store,
    window: Array,
    mean: Array,
    scale: Array,
    c: Config,
    ends: Array | None = None,
    rng: np.random.Generator | None = None,
    rows: Callable[[Array, Array], Array] | None = None,
) -> tuple[Array, Array, Array]:
    """Network input from stored log-mel bands.

    Parameters
    ----------
    store, window
        Which windows, (W,).
    mean, scale : (d_spec,)
        X = (value - mean) * scale.
    c : Config
        d_spec / 3 of the bands are used, at one level if c.level; the training part is augmented as it says.
    ends : (W,), optional
        The windows that give these their ends, where they are spliced.
    rng : Generator, optional
        Of the augmentation; without it there is none.
    rows : callable, optional
        (stored, frames), each (W,) -> how many of the frames, the first ones, are needed (see with_deltas).

    Returns
    -------
    X (N, d_spec), bounds (W+1,), frames (W,): of each window, padding included
    """
    store, window = maybe_augmented(store, window, c, ends, rng)
    frames = store.frames(window)
    lengths = frames if rows is None else rows(store.stored(window), frames)
    X, bounds = with_deltas(store, window, mean, scale, lengths, c.level)
    return X, bounds, frames


def maybe_augmented(
    store: Store, window: Array, c: Config, ends: Array | None, rng: np.random.Generator | None
) -> tuple[Store, Array]:
    """Some windows, augmented when rng is given and c augments; then they are all of a store of their own."""
    if rng is None or not augments(c):
        return store, window
    return augmented(store, window, window if ends is None else ends, c, rng), np.arange(len(window))


def with_deltas(
    store: Store, window: Array, mean: Array, scale: Array, lengths: Array | None = None, level: bool = False
) -> tuple[Array, Array]:
    """Static features, deltas and delta-deltas of some windows, normalised: X (N, d), bounds (W+1,).

    mean, scale (d,): X = (value - mean) * scale. Of log-mel bands the lowest d / 3 are taken, with level at one level: see
    features.heard_bands. lengths (W,): only the first so many frames; the rest lies in the padding, of which at least one frame
    is kept.
    """
    if len(mean) % 3:
        raise ValueError(f"mean has {len(mean)} values; expected a multiple of 3: features, deltas, delta-deltas")
    frames, stored = store.frames(window), store.stored(window)
    bounds = np.concatenate([[0], np.cumsum(frames if lengths is None else lengths)])
    X = np.empty((bounds[-1], len(mean)), np.float32)
    starts, width = store.bounds[window], len(mean) // 3
    heard = [heard_level(store.rows[a : a + n], width, level) for a, n in zip(starts, stored, strict=True)]
    assemble(X, bounds, frames, store.rows, starts, stored, np.array(heard, np.float32), np.float32(store.floor), mean, scale)
    return X, bounds


def of_frames(store: Store, window: Array, mean: Array, scale: Array, columns: Sequence[str]) -> tuple[Array, Array]:
    """Network input from stored frame features.

    Parameters
    ----------
    store, window
        Which windows, (W,).
    mean, scale : (2 C,)
        X = (value - mean) * scale.
    columns : sequence of C str
        Of frame_features.COLUMNS.

    Returns
    -------
    X (N, 2 C), statics | deltas, and bounds (W+1,)
    """
    parts = [columns_of(store.rows[store.bounds[w] : store.bounds[w + 1]], columns) for w in window]
    return (np.concatenate(parts) - mean) * scale, np.cumsum([0, *map(len, parts)])


def of_static_bands(
    store: Store,
    window: Array,
    mean: Array,
    scale: Array,
    columns: Sequence[slice],
    c: Config,
    ends: Array | None = None,
    rng: np.random.Generator | None = None,
) -> tuple[Array, Array]:
    """Network input from stored bands without deltas; arguments as of of_bands, and columns: which bands, side by side.

    Only log-mel bands of the speech alone can be augmented or brought to one level. Windows are not padded.

    Returns
    -------
    X (N, d_spec), bounds (W+1,)
    """
    store, window = maybe_augmented(store, window, c, ends, rng)
    bounds = np.concatenate([[0], np.cumsum(store.stored(window))])
    X = np.empty((bounds[-1], len(mean)), np.float32)
    for w, start, end in zip(window, bounds[:-1], bounds[1:], strict=True):
        rows = store.rows[store.bounds[w] : store.bounds[w + 1]]
        np.concatenate([rows[:, part] for part in columns], axis=1, out=X[start:end])
        X[start:end] -= np.float32(heard_level(rows, len(mean), c.level))
    return (X - mean) * scale, bounds


def static_frames(store: Store, window: Array, c: Config) -> tuple[int, Callable[[Array, int, slice], Array]]:
    """The frames of some windows, (W,), for learning that takes them in any order: their number, and what gathers some of them.

    gather(which (n,), context, columns) -> (n, context, bands): stored bands of each frame and of those around it, at one level
    where c says so; the first and the last of a window are repeated. Nothing is normalised, nothing augmented.
    """
    bounds = np.concatenate([[0], np.cumsum(store.stored(window))])
    parts = [store.rows[a : a + n] for a, n in zip(store.bounds[window], np.diff(bounds), strict=True)]
    levels = np.array([heard_level(rows, c.d_spec, c.level) for rows in parts], np.float32)
    store.release()

    def gather(which: Array, context: int, columns: slice) -> Array:
        w = np.searchsorted(bounds, which, side="right") - 1
        rows = np.clip(which[:, None] + np.arange(context) - context // 2, bounds[w, None], bounds[w + 1, None] - 1)
        return store.rows[rows + (store.bounds[window[w]] - bounds[w])[:, None], columns] - levels[w, None, None]

    return int(bounds[-1]), gather

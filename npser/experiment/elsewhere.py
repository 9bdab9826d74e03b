"""The features of a corpus, computed on a Dask cluster in batches of about ten minutes."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from npser import model
from npser.config import Config
from npser.experiment import cluster
from npser.experiment.cluster import Batch, Say
from npser.store import Elsewhere, Features, computed, digest_of
from npser.threads import single_threaded_blas

DIED = "a worker died each time while reading it (killed, or out of memory)"


def features_on(address: str, config: Config, say: Say) -> Elsewhere:
    """What store.open_store takes to have features computed on the Dask cluster of a scheduler's address.

    Each batch's features, about 12 MB, wait in memory until they are written; at most two batches for each worker's thread. For
    errors see cluster.computed.
    """
    settings = dataclasses.asdict(config)

    def elsewhere(recordings: list[tuple[Path, str]]) -> Iterator[tuple[int, Features | str]]:
        places = [cluster.seen_by_workers(str(path)) for path, _ in recordings]
        sizes = [os.path.getsize(place) if os.path.exists(place) else 0 for place in places]

        def work(batch: Batch) -> tuple[Any, ...]:
            return features_on_worker, settings, [(places[r], recordings[r][1]) for r in range(*batch)]

        for batch, found in cluster.computed(address, cluster.cut(places, sizes, 1), work, 1, say):
            yield from zip(range(*batch), found or [DIED], strict=True)

    return elsewhere


def features_on_worker(settings: dict[str, Any], recordings: list[tuple[str, str]]) -> list[Features | str]:
    """Features of recordings, or why they have none; ValueError where a Dask worker does not see them.

    settings: of a Config; recordings: path and SHA-256 of each.
    """
    config = model.restored(settings)
    kind = model.module_of(config).kind(config)

    def of(k: int) -> Features | str:
        path, digest = Path(recordings[k][0]), recordings[k][1]
        found = digest_of(path)
        if found is None:
            raise ValueError(f"{path}: is missing on {worker}; share the corpus under the same paths")
        if found != digest:
            return f"has other content on {worker}, or was changed meanwhile"
        part = computed(path, digest, kind, Path(folder, str(k)))
        return part if isinstance(part, str) else (b"".join(part.blocks()), part.frames, part.samples, part.levels)

    worker = cluster.worker_name()
    with (
        tempfile.TemporaryDirectory() as folder,
        single_threaded_blas(),
        ThreadPoolExecutor(cluster.share_of_cores()) as pool,
    ):
        return list(pool.map(of, range(len(recordings))))

"""A corpus ready to train or to score: its utterances joined with their features and class numbers."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from npser import model, store
from npser.config import Config
from npser.corpora import Corpus, Utterance
from npser.corpora.labels import GENDERS
from npser.features import SAMPLE_RATE, window_samples
from npser.ranks import Ranks
from npser.speech import refusal_of_levels
from npser.store import Elsewhere, Progress, Store

NO_PHONEMES = "has no phonemes, which the network reads; a manifest states them in a column phonemes"
MOST_LOST = 0.05  # of the utterances; beyond it a run stops, unless skip_bad


@dataclass(frozen=True)
class Dataset:
    """Utterances that can be used, in an order that depends on their content only.

    Utterance r is recording r of the store; content[r] is the SHA-256 of its file. bad: files left out, with the reason.
    mapping: see corpora.Corpus.
    """

    utterances: list[Utterance]
    content: list[str]
    store: Store
    labels: list[str]
    dropped: dict[str, int]
    names: list[str]
    bad: dict[str, str]
    mapping: dict[str, str] = field(default_factory=dict)

    @functools.cached_property
    def emotion_y(self) -> np.ndarray:
        """Class of each utterance, (R,)."""
        return np.array([self.labels.index(u.emotion) for u in self.utterances])

    @functools.cached_property
    def gender_y(self) -> np.ndarray:
        """0 female, 1 male, -1 unknown, (R,)."""
        return np.array([GENDERS.index(u.gender) if u.gender else -1 for u in self.utterances])

    def learnt_beside(self, config: Config) -> list[tuple[str | None, ...]]:
        """What a network with these settings learns from of each utterance, beside its sound, emotion and gender."""
        beside = {"corpus": config.balance != "none", "speaker": config.adapt, "phonemes": model.reads_text(config)}
        names = [name for name, counts in beside.items() if counts]
        return [tuple(getattr(u, name) for name in names) for u in self.utterances]

    def first_windows(self, part: np.ndarray) -> np.ndarray:
        """The first window of some utterances: what training sees of them."""
        return self.store.recordings[part]

    def seconds(self, part: list[int]) -> float:
        """Length of some utterances in seconds, up to where the network cuts them."""
        windows = np.diff(self.store.recordings)[part]
        last = self.store.samples[self.store.recordings[np.array(part, int)] + windows - 1] / SAMPLE_RATE
        return float((last + (windows - 1) * self.store.seconds / 2).sum())


def prepare(
    corpus: Corpus,
    config: Config,
    cache: Path,
    pool: ThreadPoolExecutor,
    progress: Progress,
    skip_bad: bool = False,
    elsewhere: Elsewhere | None = None,
) -> Dataset:
    """Compute or find the features of a corpus; cache, pool, progress and elsewhere: see store.open_store.

    A file that cannot be used, or that prediction would not answer since it is silent or too short, is named in a warning and
    left out; so is an utterance without phonemes where the network reads them.

    Raises
    ------
    ValueError
        When more than 5 % of the files are lost (unless skip_bad), or all of a class; where the network reads phonemes and
        there are none.
    """
    _refuse_without_phonemes(corpus, config)
    content = store.digests([u.path for u in corpus.utterances], pool)
    bad = {str(u.path): "cannot be read" for u, digest in zip(corpus.utterances, content, strict=True) if digest is None}
    if model.reads_text(config):
        bad |= {str(u.path): NO_PHONEMES for u in corpus.utterances if u.phonemes is None}
    usable = sorted(
        ((digest, u) for digest, u in zip(content, corpus.utterances, strict=True) if digest and str(u.path) not in bad),
        key=lambda pair: (pair[0], pair[1].path.name, str(pair[1].path)),
    )
    kept = [digest for digest, _ in usable]
    paths = [u.path for _, u in usable]
    kind = model.module_of(config).kind(config)
    features = store.open_store(paths, kept, kind, cache, pool, progress, elsewhere)
    silent = silent_recordings(features)
    errors = features.errors | silent
    bad |= {str(usable[r][1].path): text for r, text in errors.items()}
    bad |= dict.fromkeys(corpus.missing, "does not exist")
    for path, reason in bad.items():
        warnings.warn(f"left out: {path}: {reason}", stacklevel=2)
    total = len(corpus.utterances) + len(corpus.missing)
    if len(bad) > MOST_LOST * total and not skip_bad:
        path, reason = next(iter(bad.items()))
        raise ValueError(
            f"{len(bad)} of {total} files cannot be used, more than {MOST_LOST:.0%}; the first: "
            f"{path}: {reason}; mend them, or go on without them with --skip-bad"
        )
    good = [r for r in range(len(usable)) if r not in errors]
    twins = [(a, b) for a, b in itertools.pairwise(good) if kept[a] == kept[b]]
    if twins:
        a, b = (usable[r][1] for r in twins[0])
        contrary = "" if a.emotion == b.emotion else f", as {a.emotion} and as {b.emotion}"
        warnings.warn(f"{a.path} and {b.path} are byte-identical{contrary} ({len(twins)} of this kind)", stacklevel=2)
    emotions = {usable[r][1].emotion for r in good}
    lost = [label for label in corpus.labels if label not in emotions]
    if lost:
        raise ValueError(f"no usable file is left of class {lost[0]!r}; mend its files or leave it out with --labels")
    if silent:  # they have windows, between those of others: a store without them
        features = store.open_store([paths[r] for r in good], [kept[r] for r in good], kind, cache, pool, progress)
        for r, text in features.errors.items():
            raise ValueError(f"{paths[good[r]]}: {text}; it could be read a moment ago: run the same command again")
        kept_store = features
    else:
        starts = features.recordings  # a recording without windows takes no place: dropping it moves no other's windows
        kept_store = dataclasses.replace(features, recordings=np.append(starts[good], starts[-1]))
    found = [usable[r][1] for r in good]
    content = [kept[r] for r in good]
    data = Dataset(found, content, kept_store, corpus.labels, corpus.dropped, corpus.names, bad, corpus.mapping)
    return with_text(data, config)


def _refuse_without_phonemes(corpus: Corpus, config: Config) -> None:
    """ValueError where the network reads phonemes and no utterance has any."""
    if model.reads_text(config) and all(u.phonemes is None for u in corpus.utterances):
        raise ValueError(
            f"none of the {len(corpus.utterances)} utterances has phonemes, which the network {config.network} reads; name a "
            "manifest that states them in a column phonemes"
        )


def with_text(data: Dataset, config: Config) -> Dataset:
    """The data with the phonemes of the utterances, all of which have some, in the store, where the network reads them."""
    if not model.reads_text(config):
        return data
    windows = np.diff(data.store.recordings[: len(data.utterances) + 1])
    text = tuple(str(u.phonemes) for u, n in zip(data.utterances, windows, strict=True) for _ in range(n))
    return dataclasses.replace(data, store=dataclasses.replace(data.store, text=text))


def shared(data: Dataset, config: Config, ranks: Ranks) -> Dataset:
    """The data of rank 0, which has sent them, on every rank; the others map the store's rows from the cache.

    Raises
    ------
    ValueError
        Where ranks do not see the store.
    """
    found = data.store if ranks.rank == 0 else store.reopened(data.store, model.module_of(config).kind(config))
    blind = ranks.unlike(found is not None)
    if blind or found is None:
        raise ValueError(
            f"{data.store.folder}: {', '.join(blind)} cannot read there what rank 0 has kept; name a folder that all machines "
            "share with --cache"
        )
    return dataclasses.replace(data, store=found)


def silent_recordings(features: Store) -> dict[int, str]:
    """Recordings of a store that prediction would not answer, and why."""
    found, size = {}, window_samples(features.seconds)
    for r, (first, end) in enumerate(itertools.pairwise(features.recordings)):
        reason = refusal_of_levels(features.samples[first:end], features.levels[first:end], size) if end > first else None
        if reason:
            found[r] = reason
    return found

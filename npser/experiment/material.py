"""The material of a cross-validation: the same utterances for all of its networks, with the features that each wants."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from npser import dataset, frame_features, model
from npser.config import Config
from npser.corpora import Corpus
from npser.dataset import Dataset
from npser.experiment.baselines import FRAMES
from npser.features import is_log_mel
from npser.store import Elsewhere, Progress, folder_of


def of_style(corpus: Corpus, style: str) -> tuple[Corpus, dict[str, int]]:
    """The utterances of a style, and how many of which other ones are left out; ValueError for a style that there is not."""
    if not style:
        raise ValueError("--style: names no style; name one, or leave --style out")
    counts = Counter(u.style or "unknown" for u in corpus.utterances)
    known = sorted({u.style for u in corpus.utterances if u.style})
    if style not in known:
        there = f"the styles there are: {', '.join(known)}" if known else "the data state none, so leave --style out"
        raise ValueError(f"--style {style}: no utterance is of this style; {there}")
    kept = [u for u in corpus.utterances if u.style == style]
    lost = [label for label in corpus.labels if not any(u.emotion == label for u in kept)]
    if lost:
        raise ValueError(f"--style {style}: no utterance of it is {lost[0]}; leave that class out with --labels")
    others = {name: counts[name] for name in sorted(counts) if name != style}
    return dataclasses.replace(corpus, utterances=kept), others


def prepare(
    corpus: Corpus,
    configs: list[Config],
    cache: Path,
    pool: ThreadPoolExecutor,
    progress: Progress,
    skip_bad: bool = False,
    elsewhere: Callable[[Config], Elsewhere] | None = None,
) -> list[Dataset]:
    """The data of each network: the same utterances, each kind of features computed and opened once.

    What cannot be used for one of the networks is left out for all. For the parameters see dataset.prepare, which also tells of
    files that cannot be used; elsewhere: of each network's settings.
    """
    wanted = {_place(config): config for config in sorted(configs, key=model.reads_text)}  # who needs more decides
    bad, found = {}, dict[Path, Dataset]()
    while len({len(data.utterances) for data in found.values()}) != 1:
        for place, config in wanted.items():
            there = None if elsewhere is None else elsewhere(config)
            found[place] = dataset.prepare(corpus, config, cache, pool, progress, skip_bad, there)
            bad |= found[place].bad
            corpus = dataclasses.replace(corpus, utterances=found[place].utterances, missing=[])
    return [dataset.with_text(dataclasses.replace(found[_place(config)], bad=bad), config) for config in configs]


def of_baselines(configs: list[Config]) -> dict[str, Config]:
    """By the name of a linear baseline, a network whose features it learns from. configs: the full model's first.

    Log-mel bands: the full model's own, of li2019 where it has none, so that further systems change nothing. Frame features
    where a network has them.
    """
    bands = configs[0] if is_log_mel(_kind(configs[0])) else next(iter(model.NETWORKS["li2019"].PRESETS.values()))
    frames = next((c for c in configs if _kind(c).settings == frame_features.SETTINGS), None)
    return {"linear": bands} | ({} if frames is None else {FRAMES: frames})


def _kind(config: Config) -> Any:
    return model.module_of(config).kind(config)


def _place(config: Config) -> Path:
    """Networks whose stores would have the same name want the same features."""
    return folder_of(Path(), [], _kind(config))

"""`npser evaluate`: a trained model on labelled recordings."""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from npser import adaptation, checkpoint, corpora, dataset, model, network
from npser.commands import terminal
from npser.corpora import synthetic
from npser.corpora.labels import parse_map
from npser.experiment.report import confusion_text, score_line
from npser.store import default_cache


def run(args: argparse.Namespace) -> int:
    """Run `npser evaluate`; returns its exit status."""
    with terminal.pool(args.threads) as pool:
        cache = args.cache or default_cache()
        mapping = parse_map(args.map)
        result = scored(args.model, args.data, args.corpus, cache, pool, args.skip_bad, mapping, args.adapt)
    result["notices"] = list(dict.fromkeys([*synthetic.notices(result["corpora"]), *result["notices"]]))
    print(json.dumps(result, indent=2) if args.json else text(terminal.printable(result)))
    return 0


def scored(
    path: Path,
    places: list[Path],
    layout: str | None,
    cache: Path,
    pool: ThreadPoolExecutor,
    skip_bad: bool = False,
    mapping: dict[str, str] | None = None,
    adapt: str = "none",
) -> dict[str, Any]:
    """Score a model file.

    Parameters
    ----------
    path, places, layout, mapping
        The model file, corpora, and how to read them; see corpora.load.
    cache, pool, skip_bad
        See dataset.prepare.
    adapt : str
        To what the model is adapted, one of adaptation.MODES.

    Returns
    -------
    dict
        The scores of network.evaluate over the labels that model and corpora share; the model chooses among these only.
        ``utterances``; how many of them are by ``training_speakers``, judging by names of corpora and speakers, or None
        where the model knows no speakers; how many are by ``unknown_speakers``; ``unknown_phonemes``, the share that the model
        has not learnt, None where it reads none; ``dropped``, counts of emotions that the model does not know; ``absent``,
        labels of the model that do not occur; ``notices`` that the scores must carry.

    Raises
    ------
    ValueError
        For a file that is not a model, unusable corpora, fewer than two shared labels, or phonemes of another alphabet.
    """
    trained = checkpoint.load(path)
    with terminal.compiling(terminal.say_to(sys.stderr)):
        network.compile_kernels(trained.config)
    present = {utterance.emotion for utterance in corpora.read(places, layout, skip_bad, mapping)[0]}
    if "happy" in trained.emotions and "excited" in present and "excited" not in trained.emotions:
        present.add("happy")  # corpora.load counts excited as happy
    shared = [label for label in trained.emotions if label in present]
    if len(shared) < 2:
        known, there = ", ".join(trained.emotions), ", ".join(sorted(present))
        raise ValueError(f"{path}: tells {known} apart and the data holds {there}; two of them must be the same to be scored")
    corpus = corpora.load(places, layout, shared, skip_bad, mapping)
    data = dataset.prepare(corpus, trained.config, cache, pool, terminal.progress, skip_bad)
    phonemes = _unknown_phonemes(trained, data, path)
    choices = [trained.emotions.index(label) for label in data.labels]
    members = list(range(len(data.utterances)))
    voices = None if adapt == "none" else adaptation.voices_of(data.utterances, adapt)
    with np.errstate(invalid="ignore"):  # told below
        scores = network.evaluate(network.Network.of(trained), data, members, pool, choices, voices)
    if not np.isfinite(scores.pop("loss")):  # of a choice among fewer labels it means little else
        problem = "the network's numbers overflow on these recordings: the model file is damaged, or its training failed"
        raise ValueError(f"{path}: {problem}; name another model")
    speakers = set(trained.training.get("speakers", []))
    return {
        **scores,
        "adapted": adapt,
        "labels": data.labels,
        "utterances": len(members),
        "training_speakers": sum(u.speaker in speakers for u in data.utterances) if speakers else None,
        "unknown_speakers": sum(u.speaker is None for u in data.utterances),
        "unknown_phonemes": phonemes,
        "corpora": data.names,
        "dropped": data.dropped,
        "map": data.mapping,
        "absent": [label for label in trained.emotions if label not in shared],
        "bad_files": data.bad,
        "notices": trained.training.get("notices", []),
    }


def _unknown_phonemes(trained: checkpoint.Checkpoint, data: dataset.Dataset, path: Path) -> float | None:
    """The share of the phonemes that the model has not learnt, None where it reads none. ValueError where it is all of them."""
    if not model.reads_text(trained.config):
        return None
    share = model.module_of(trained.config).unknown_phonemes(trained.tensors, data.store.text)
    if share == 1:
        raise ValueError(f"{path}: knows none of the data's phonemes; write them as its training corpus writes its own")
    return share


def _speakers_text(result: dict[str, Any]) -> str:
    """How new the speakers are to the model."""
    if result["training_speakers"] is None:
        return "whether the speakers are new is unknown: the model does not know the speakers that it was trained on"
    line = f"{result['training_speakers']} of {result['utterances']} utterances are by speakers that the model was trained on"
    unknown = f"; of {result['unknown_speakers']} the speaker is unknown" if result["unknown_speakers"] else ""
    return f"{line}, judging by names{unknown}"


def text(result: dict[str, Any]) -> str:
    """The result as the terminal shows it."""
    knows = result["adapted"] != "none"
    lines = [
        f"{result['utterances']} utterances of {', '.join(result['corpora'])}: {score_line(result)}",
        "",
        confusion_text(result["confusion"], result["labels"]),
        "",
        f"expected calibration error {result['ece']:.3f}",
        *([f"adapted to each {result['adapted']}, by all its recordings here, without their labels"] if knows else []),
        _speakers_text(result),
    ]
    if result["unknown_phonemes"]:
        share = f"{result['unknown_phonemes']:.1%} of the phonemes"
        lines.append(f"{share} are none that the model has learnt: where these are many, the data may have another alphabet")
    if result["map"]:
        lines.append(f"labels by the user's own map: {', '.join(f'{a} is {b}' for a, b in result['map'].items())}")
    if result["dropped"]:
        dropped = ", ".join(f"{count} {emotion}" for emotion, count in result["dropped"].items())
        lines.append(f"left out, being of classes that the model does not know: {dropped}")
    if result["absent"]:
        lines.append(f"not among the choices, because the data has none: {', '.join(result['absent'])}")
    return "\n".join([*lines, *result["notices"]])

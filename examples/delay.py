"""What the first seconds of speech are worth: UA by seconds heard.

python examples/delay.py runs/CORPUS-PRESET-crossval-session ... [PICTURE.png]

Every recording is answered by the networks that did not train on its speaker, one for each seed, from its first half second of
speech on, and by as much of it as there is.
"""

import itertools
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

import npser
from npser import features
from npser.features import SAMPLE_RATE, Span
from npser.lite import Model
from npser.speech import read_windows

HEARD = (0.5, 1.0, 2.0, 4.0, 7.5)  # seconds of speech
COLOURS = ("#16264f", "#b8562f", "#2f8f6b", "#8a5a9e")


def answers(model: Model, waves: list[np.ndarray], seconds: float) -> list[int]:
    """The class of each recording, given the speech in it (n,) at 16 kHz, by its first so many seconds."""
    found = []
    for x in waves:
        part = x[: round(seconds * SAMPLE_RATE)]
        (output,) = model.outputs(Span.of(part))
        emotion = model.answer([output], len(part) / SAMPLE_RATE).emotion
        found.append(model.emotions.index(emotion) if emotion else len(model.emotions))  # no answer is none that is right
    return found


def ua_of(y: np.ndarray, answer: np.ndarray) -> float:
    """Mean recall of the classes that there are; an answer may be none of them."""
    return float(np.mean([(answer[y == k] == k).mean() for k in np.unique(y)]))


def measured(run: Path) -> tuple[dict[float, list[float]], list[float]]:
    """UA of each seed by seconds heard, and how long the speech in each recording is."""
    plan = json.loads((run / "plan.json").read_text())
    truth: dict[tuple[str, float], list[int]] = defaultdict(list)
    told: dict[tuple[str, float], list[int]] = defaultdict(list)
    lengths: list[float] = []
    for fold, split in plan["folds"].items():
        files = [plan["utterances"][r] for r in split["test"]]
        hears = None
        for job in sorted((run / "jobs").glob(f"full-seed*-fold{fold}")):
            model = npser.load((job / "refit" if (job / "refit").exists() else job) / "model.safetensors")
            read = read_windows if model.network.kind(model.config).speech else features.read_windows
            if hears is None:
                hears = [next(iter(read(one["path"], model.config.max_seconds, cut=True))) for one in files]
                lengths += [len(x) / SAMPLE_RATE for x in hears]
            for seconds in HEARD:
                key = job.name.split("-")[1], seconds
                truth[key] += [model.emotions.index(one["emotion"]) for one in files]
                told[key] += answers(model, hears, seconds)
    found: dict[float, list[float]] = defaultdict(list)
    for seed, seconds in truth:
        y, answer = np.array(truth[seed, seconds]), np.array(told[seed, seconds])
        found[seconds].append(ua_of(y, answer))
    return found, lengths


def main() -> None:
    pictures = [name for name in sys.argv[1:] if name.endswith(".png")]
    runs = [Path(name) for name in sys.argv[1:] if name not in pictures]
    if not runs or len(pictures) > 1:
        sys.exit(__doc__)
    curves = {run.name: measured(run) for run in runs}
    for name, (found, lengths) in curves.items():
        print(f"| seconds of speech, {name} | UA, mean of seeds | recordings that last so long |")
        print("|---|---|---|")
        for seconds, ua in found.items():
            print(f"| {seconds:g} | {np.mean(ua):.3f} | {np.mean(np.array(lengths) >= seconds):.0%} |")
    if pictures:
        draw({name: found for name, (found, _) in curves.items()}, pictures[0])


def draw(curves: dict[str, dict[float, list[float]]], path: str) -> None:
    """UA by seconds heard, a line for each run: the mean of its seeds, and faintly each seed."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for (name, found), colour in zip(curves.items(), itertools.cycle(COLOURS)):
        for ua in zip(*found.values(), strict=True):
            axes.plot(list(found), ua, color=colour, alpha=0.25)
        axes.plot(list(found), [np.mean(ua) for ua in found.values()], color=colour, marker="o", label=name)
    axes.set(xlabel="seconds of speech heard", ylabel="UA", xscale="log", xticks=HEARD, xticklabels=HEARD)
    axes.minorticks_off()
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()

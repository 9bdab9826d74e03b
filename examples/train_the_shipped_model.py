"""Train the model that comes with npser, score it honestly, and write its card.

python examples/train_the_shipped_model.py CORPORA OUT

CORPORA holds the folders emodb, ravdess and nemo. Written to OUT: model.safetensors, CARD.md and scores.json; the runs lie
below OUT/runs, and the same command goes on where it was stopped. The same corpora give the same bytes on the same
type of processor with the same versions.

Four groups of speakers are tested in turn by networks trained on the others; their answers give the scores and the temperature.
Every corpus is tested by a network that was trained on the other two. The model itself is trained on everybody, for the same
number of epochs, and nothing is chosen on the way.
"""

import argparse
import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from robustness import changed, read

import npser
from npser import calibration, checkpoint, corpora, dataset
from npser.calibration import log_softmax
from npser.checkpoint import Checkpoint
from npser.commands import terminal
from npser.dataset import Dataset
from npser.experiment.folds import make_folds
from npser.experiment.run import describe
from npser.files import write
from npser.metrics import confusion_matrix, scores
from npser.network import Network, compile_kernels
from npser.networks.li2019 import PRESETS, Config
from npser.split import Split
from npser.store import default_cache
from npser.train import Run, fit

NAMES = ("emodb", "ravdess", "nemo")
LANGUAGES = {"emodb": "German", "ravdess": "English", "nemo": "Polish"}
GROUPS = "4"  # of speakers, balanced by label
EVERY = 5  # one recording in so many is altered
LICENCE = "CC-BY-NC-SA-4.0"
NOTICE = (
    "the weights of this model are licensed under CC BY-NC-SA 4.0 (not for commercial use), as the recordings that it heard; "
    "it knows acted speech only"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=PRESETS["default"].epochs, help="fewer, to try the script")
    args = parser.parse_args()
    config = dataclasses.replace(PRESETS["default"], epochs=args.epochs)
    with terminal.pool(None) as pool:
        compile_kernels()
        corpus = corpora.load([args.corpora / name for name in NAMES], None, None)
        data = dataset.prepare(corpus, config, default_cache(), pool, terminal.progress)
        build(data, config, args.out, pool)


def build(data: Dataset, config: Config, out: Path, pool: ThreadPoolExecutor) -> None:
    """Train and score; fill out."""
    everybody = list(range(len(data.utterances)))
    logits, gender = np.zeros((len(everybody), len(data.labels))), np.zeros((len(everybody), 2))
    altered: dict[str, list[bool]] = {}
    for fold in make_folds(data.utterances, GROUPS, config.seed, digests=data.content):
        known = sorted([*fold.split.train, *fold.split.validation])
        folder = train(data, known, fold.split.test, f"speakers-{fold.name}", config, out, pool)
        logits[fold.split.test], gender[fold.split.test] = tested(folder, data, fold.split.test, pool)
        model = npser.load(folder / "model.safetensors")
        waves = [read(str(data.utterances[r].path), config.max_seconds) for r in fold.split.test[::EVERY]]
        for name, which in changed(model, waves).items():
            altered.setdefault(name, []).extend(which)
    across = {}
    for name in NAMES:
        test = [r for r in everybody if data.utterances[r].corpus == name]
        known = sorted(set(everybody) - set(test))
        folder = train(data, known, test, f"without-{name}", config, out, pool)
        across[name] = test, *tested(folder, data, test, pool)
    temperature = calibration.fit_temperature(logits, data.emotion_y)
    found = {
        "speakers": {
            name: scored(data, rows, logits[rows] / temperature, gender[rows])
            for name in (*NAMES, "all")
            if (rows := [r for r in everybody if name in ("all", data.utterances[r].corpus)])
        },
        "across": {name: scored(data, test, emotion / temperature, gender) for name, (test, emotion, gender) in across.items()},
        "altered": {name: float(np.mean(which)) for name, which in altered.items()},
        "temperature": temperature,
        "ece_before": calibration.calibration_error(log_softmax(logits), data.emotion_y),
    }
    folder = train(data, everybody, [], "everybody", config, out, pool)
    final = checkpoint.load(folder / "model.safetensors")
    pooled = found["speakers"]["all"]
    calibrated = {"temperature": temperature, "ece_before": found["ece_before"], "ece_after": pooled["ece"]}
    calibrated |= {"source": "the four groups"}
    training = final.training | {
        "licence": LICENCE,
        "notices": [NOTICE],
        "split": final.training["split"] | {"method": "four groups of speakers, each tested by a network of the others"},
        "scores": {"epoch": config.epochs, "validation": None, "test": pooled, "calibration": calibrated, **found},
    }
    checkpoint.save(out / "model.safetensors", Checkpoint(final.tensors, final.config, final.labels, temperature, training))
    write(out / "scores.json", (json.dumps(found, indent=2, sort_keys=True) + "\n").encode())
    write(out / "CARD.md", card(data, found, final).encode())
    print(f"{out / 'model.safetensors'}: {(out / 'model.safetensors').stat().st_size / 1e6:.2f} MB")


def train(
    data: Dataset, known: list[int], test: list[int], name: str, config: Config, out: Path, pool: ThreadPoolExecutor
) -> Path:
    """The run folder of a network trained on some utterances, for all the epochs."""
    folder = out / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    left_out = sorted(set(range(len(data.utterances))) - {*known, *test})
    assert not left_out
    split = Split(known, [], test, method="none")
    print(f"{name}: {len(known)} utterances", flush=True)
    about = describe(data, split, config, "default", [])
    place = Run(folder, pool, say=lambda _: None, progress=terminal.progress)
    fit(data, split, config, place, about, resume=True, oracle=False)
    return folder


def tested(folder: Path, data: Dataset, test: list[int], pool: ThreadPoolExecutor) -> tuple[np.ndarray, np.ndarray]:
    """Logits of some utterances: emotion (R, classes), gender (R, 2)."""
    network = Network.of(checkpoint.load(folder / "model.safetensors"))
    return network.logits(data.store, np.array(test), pool)


def scored(data: Dataset, rows: list[int], logits: np.ndarray, gender: np.ndarray) -> dict[str, Any]:
    """WA, UA, macro-F1, gender accuracy, confusion, calibration error of some utterances."""
    y = data.emotion_y[rows]
    confusion = confusion_matrix(y, logits.argmax(axis=1), len(data.labels))
    return {
        **scores(confusion),
        "gender_accuracy": float((gender.argmax(axis=1) == data.gender_y[rows]).mean()),
        "confusion": confusion.tolist(),
        "ece": calibration.calibration_error(log_softmax(logits), y),
    }


def card(data: Dataset, found: dict[str, Any], final: Checkpoint) -> str:
    """The model's card, Markdown."""
    count = {name: sum(u.corpus == name for u in data.utterances) for name in NAMES}
    speakers = {name: len({u.speaker for u in data.utterances if u.corpus == name}) for name in NAMES}

    def row(name: str, part: dict[str, Any]) -> str:
        recall = " | ".join(f"{r:.2f}" for r in part["recall"])
        return f"| {name} | {part['wa']:.3f} | {part['ua']:.3f} | {part['macro_f1']:.3f} | {recall} |"

    head = f"| corpus | WA | UA | macro-F1 | {' | '.join(data.labels)} |\n|---|---|---|---|{'---|' * len(data.labels)}"
    pooled = found["speakers"]["all"]
    parameters = sum(final.tensors[name].size for name in final.shapes)
    lines = [
        "# The model that comes with npser",
        "",
        f"Names one of {', '.join(data.labels)} for a recording of speech, with probabilities, and a gender, from what lies "
        f"below 4 kHz. {parameters:,} parameters; preset `default`, {final.config.epochs} epochs, seed {final.config.seed}; "
        "built by `examples/train_the_shipped_model.py`.",
        "",
        "## Data and licences",
        "",
        "| corpus | language | speakers | utterances | licence |",
        "|---|---|---|---|---|",
        f"| EmoDB (Burkhardt et al., Interspeech 2005) | German | {speakers['emodb']} | {count['emodb']} | CC0-1.0 |",
        f"| RAVDESS (Livingstone and Russo, PLoS ONE 13(5), 2018) | English | {speakers['ravdess']} | {count['ravdess']} | "
        "CC BY-NC-SA 4.0 |",
        f"| nEMO (Christop, LREC-COLING 2024) | Polish | {speakers['nemo']} | {count['nemo']} | CC BY-NC-SA 4.0 |",
        "",
        "npser's code is under the MIT licence. The weights are derived from recordings under CC BY-NC-SA 4.0 and are "
        "under the same licence: name the sources above, share what you derive alike, and do not use them commercially.",
        "",
        "## Scores on a corpus that it did not hear",
        "",
        "Trained on two corpora, tested on the third: another language, other microphones, other actors. Expect this, or less, "
        "of your own recordings: the preset was developed on these three corpora (`examples/recipe.md`), so all figures here "
        "are optimistic. One seed; what another one would change is not in them. The columns behind macro-F1 are the recall of "
        "each class.",
        "",
        head,
        *(row(f"{name} ({LANGUAGES[name]})", part) for name, part in found["across"].items()),
        "",
        "## Scores on speakers that it did not hear",
        "",
        "All speakers in four groups; each group is tested by a network that was trained on the other three, for a fixed "
        "number of epochs. Nothing was chosen on a test group in this run.",
        "",
        head,
        *(row(name, part) for name, part in found["speakers"].items()),
        "",
        "## Calibration",
        "",
        f"Temperature {found['temperature']:.3f}, fitted to the answers on unheard speakers. Expected calibration error "
        f"there: {found['ece_before']:.3f} before, {pooled['ece']:.3f} after. On a corpus that it did not hear, with that "
        "temperature: "
        + ", ".join(f"{name} {part['ece']:.3f}" for name, part in found["across"].items())
        + ". There its confidence says little.",
        "",
        "## Levels and lines",
        "",
        f"How often the answer on an unheard speaker changes (one recording in {EVERY}):",
        "",
        "| condition | answers that change |",
        "|---|---|",
        *(f"| {name} | {share:.1%} |" for name, share in found["altered"].items()),
        "",
        "## What it cannot do",
        "",
        "It heard actors who played an emotion in a studio, in three languages, and knows four words for it. It does not know "
        "what a person feels. It is not for medical, hiring, policing, border or school use, nor for any decision about a "
        "person. Spontaneous speech, other languages, children, crosstalk and music are outside of what it was tested on.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""Train the model that comes with npser, score it honestly, and write its card.

python examples/train_the_shipped_model.py CORPORA OUT

CORPORA holds the folders emodb, ravdess and nemo, and emovo. Written to OUT: model.safetensors, CARD.md and scores.json; the
runs lie below OUT/runs, and the same command goes on where it was stopped. The same corpora give the same bytes on the same
type of processor with the same versions.

The copies are of one channel at 16 kHz, as FLAC: EmoDB as published (wav, 16 kHz); RAVDESS's audio-only speech, resampled from
48 kHz; nEMO from the wav files of its authors (24 kHz), with a manifest of its emotions and speakers; EMOVO resampled from
48 kHz. Of RAVDESS and nEMO the four classes are used, and all speakers.

Four groups of speakers are tested in turn by networks trained on the others. Every corpus is tested by a network that was
trained on the other two: these answers give the temperature, since voices that nobody has heard are what the model will meet.
The model itself is trained on everybody, for the same number of epochs, and tested on EMOVO, which it never hears; nothing is
chosen on the way. Each score stands beside that of the network adapted to the speakers, by 1, 3, 10 or all of their recordings,
or by their neutral ones.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from robustness import changed, read

import npser
from npser import adaptation, calibration, checkpoint, corpora, dataset
from npser.calibration import log_softmax
from npser.checkpoint import Checkpoint
from npser.commands import terminal
from npser.config import stream
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
LANGUAGES = {"emodb": "German", "ravdess": "English", "nemo": "Polish", "emovo": "Italian"}
UNHEARD = "emovo"  # by the model itself
HEARD = (1, 3, 10)  # recordings of a speaker that it is adapted by
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
    config = dataclasses.replace(PRESETS["default"], epochs=args.epochs, balance="corpora")
    with terminal.pool(None) as pool:
        compile_kernels(config)
        data, unheard = (
            dataset.prepare(
                corpora.load([args.corpora / name for name in names]), config, default_cache(), pool, terminal.progress
            )
            for names in (NAMES, [UNHEARD])
        )
        build(data, unheard, config, args.out, pool)


def build(data: Dataset, unheard: Dataset, config: Config, out: Path, pool: ThreadPoolExecutor) -> None:
    """Train and score; fill out."""
    everybody = list(range(len(data.utterances)))
    groups: list[Answers] = []
    altered: dict[str, list[bool]] = {}
    for fold in make_folds(data.utterances, GROUPS, config.seed, digests=data.content):
        known = sorted([*fold.split.train, *fold.split.validation])
        folder = train(data, known, fold.split.test, f"speakers-{fold.name}", config, out, pool)
        groups.append(tested(folder, data, fold.split.test, pool))
        model = npser.load(folder / "model.safetensors")
        waves = [read(str(data.utterances[r].path)) for r in fold.split.test[::EVERY]]
        for name, which in changed(model, waves).items():
            altered.setdefault(name, []).extend(which)
    across = {}
    for name in NAMES:
        test = [r for r in everybody if data.utterances[r].corpus == name]
        folder = train(data, sorted(set(everybody) - set(test)), test, f"without-{name}", config, out, pool)
        across[name] = tested(folder, data, test, pool)
    temperature = fitted([found["as it is"] for found in across.values()], data)
    folder = train(data, everybody, [], "everybody", config, out, pool)
    across[UNHEARD] = tested(folder, unheard, list(range(len(unheard.utterances))), pool)
    pooled = {
        name: tuple(np.concatenate(parts) for parts in zip(*(g[name] for g in groups), strict=True)) for name in groups[0]
    }
    found = {
        "speakers": {
            name: scored(data, chosen(pooled, data, NAMES if name == "all" else (name,)), temperature)
            for name in (*NAMES, "all")
        },
        "across": {
            name: scored(unheard if name == UNHEARD else data, answers, temperature) for name, answers in across.items()
        },
        "altered": {name: float(np.mean(which)) for name, which in altered.items()},
        "temperature": temperature,
    }
    part = found["across"][UNHEARD]["as it is"]
    calibrated = {"temperature": temperature, "ece_after": part["ece"], "source": "the corpora that were left out in turn"}
    calibrated |= {"ece_before": scored(unheard, across[UNHEARD], 1.0)["as it is"]["ece"]}
    final = checkpoint.load(folder / "model.safetensors")
    training = final.training | {
        "licence": LICENCE,
        "notices": [NOTICE],
        "split": final.training["split"] | {"method": f"none: everybody trains, and {UNHEARD} tests"},
        "scores": {"epoch": config.epochs, "validation": None, "test": part, "calibration": calibrated, **found},
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


Answers = dict[str, tuple[np.ndarray, ...]]  # as it is and adapted: utterances (R,), emotion, gender


def tested(folder: Path, data: Dataset, test: list[int], pool: ThreadPoolExecutor) -> Answers:
    """Log-probabilities, at temperature 1, of some utterances: emotion (R, classes), gender (R, 2)."""
    network, rows = Network.of(checkpoint.load(folder / "model.safetensors")), np.array(test)
    network = dataclasses.replace(network, temperature=1.0)
    found = {"as it is": (rows, *network.log_probabilities(data.store, rows, pool))}
    utterances = [data.utterances[r] for r in test]
    voices = adaptation.voices_of(utterances, "speaker")
    counted = {
        str(n): adaptation.some_of_each(voices, n, stream("voices", network.config.seed, n)) for n in (*HEARD, len(test))
    }
    counted |= {"neutral": np.array([u.emotion == "neutral" for u in utterances])}
    names = {str(len(test)): "all"}
    for n, which in counted.items():
        answers = adaptation.log_probabilities(network, data.store, rows, voices, pool, which)
        found[f"adapted by {names.get(n, n)}"] = (rows, *answers)
    return found


def chosen(answers: Answers, data: Dataset, names: Sequence[str]) -> Answers:
    """Those for utterances of some corpora."""
    found = {}
    for way, (rows, *values) in answers.items():
        of_names = np.array([data.utterances[r].corpus in names for r in rows])
        found[way] = (rows[of_names], *(value[of_names] for value in values))
    return found


def fitted(parts: list[tuple[np.ndarray, ...]], data: Dataset) -> float:
    """The temperature that makes several corpora most likely, each of which counts as much as the others."""
    most = max(len(rows) for rows, *_ in parts)
    logits = np.concatenate([np.resize(emotion, (most, emotion.shape[1])) for _, emotion, _ in parts])
    return calibration.fit_temperature(logits, np.concatenate([np.resize(data.emotion_y[rows], most) for rows, *_ in parts]))


def scored(data: Dataset, answers: Answers, temperature: float) -> dict[str, dict[str, Any]]:
    """WA, UA, macro-F1, gender accuracy, confusion, calibration error of some utterances, as it is and adapted."""
    found = {}
    for way, (rows, emotion, gender) in answers.items():
        y = data.emotion_y[rows]
        confusion = confusion_matrix(y, emotion.argmax(axis=1), len(data.labels))
        found[way] = {
            **scores(confusion),
            "gender_accuracy": float((gender.argmax(axis=1) == data.gender_y[rows]).mean()),
            "confusion": confusion.tolist(),
            "ece": calibration.calibration_error(log_softmax(emotion / temperature), y),
        }
    return found


def card(data: Dataset, found: dict[str, Any], final: Checkpoint) -> str:
    """The model's card, Markdown."""
    count = {name: sum(u.corpus == name for u in data.utterances) for name in NAMES}
    speakers = {name: len({u.speaker for u in data.utterances if u.corpus == name}) for name in NAMES}

    def row(name: str, part: dict[str, Any]) -> str:
        recall = " | ".join(f"{r:.2f}" for r in part["recall"])
        return f"| {name} | {part['wa']:.3f} | {part['ua']:.3f} | {part['macro_f1']:.3f} | {part['ece']:.2f} | {recall} |"

    head = (
        f"| corpus | WA | UA | macro-F1 | ECE | {' | '.join(data.labels)} |\n|---|---|---|---|---|{'---|' * len(data.labels)}"
    )
    ways = list(found["across"][UNHEARD])

    def figures(part: dict[str, dict[str, Any]]) -> list[str]:
        return [f"{part[way]['ua']:.3f}" for way in ways]

    def adapted(parts: dict[str, dict[str, Any]], title: Callable[[str], str]) -> list[str]:
        return [
            f"| corpus | {' | '.join(ways)} |",
            f"|---|{'---|' * len(ways)}",
            *(f"| {title(name)} | {' | '.join(figures(part))} |" for name, part in parts.items()),
        ]

    def language(name: str) -> str:
        return f"{name} ({LANGUAGES[name]})"

    parameters = sum(final.tensors[name].size for name in final.shapes)
    beside = sum(value.size for value in final.state.values())
    lines = [
        "# The model that comes with npser",
        "",
        f"Names one of {', '.join(data.labels)} for a recording of speech, with probabilities, and a gender, from what lies "
        f"below 4 kHz. {parameters:,} parameters; preset `default`, {final.config.epochs} epochs, seed {final.config.seed}, as "
        "many utterances of each corpus; built by `examples/train_the_shipped_model.py`. It hears nothing but speech: pauses "
        f"are cut out. Beside the network answers logistic regression on statistics of the bands, {beside:,} numbers.",
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
        "under the same licence: name the sources above, share what you derive alike, and do not use them commercially. "
        "EMOVO (Costantini et al., LREC 2014) was heard in the test alone.",
        "",
        "## Scores on a corpus that it did not hear",
        "",
        "The first three: trained on two corpora, tested on the third: another language, other microphones, other actors. "
        "Expect this, or less, of your own recordings: the preset was developed on these three corpora (`examples/recipe.md`), "
        "so their figures are optimistic. EMOVO: this model itself, which never heard it; the margins of the detector and the "
        "regression, and how much more that counts for a voice that is known, were chosen with its scores in sight. One seed; "
        "what another one would change is not in them. ECE is the "
        "expected calibration error; the columns behind it are the recall of each class.",
        "",
        head,
        *(row(language(name), part["as it is"]) for name, part in found["across"].items()),
        "",
        "UA, as it is, and adapted to each speaker without labels (`npser predict --adapt folder`, `npser evaluate --adapt "
        "speaker`, `model.adapt`) by 1, 3, 10 or all of the speaker's recordings, or by the neutral ones alone. The regression "
        "counts for more the more was heard, up to three times. The corpora hold as much of every emotion, which flatters: "
        "where all that was heard of a speaker is of one mood, adaptation may harm.",
        "",
        *adapted(found["across"], language),
        "",
        "## Scores on speakers that it did not hear",
        "",
        "All speakers in four groups; each group is tested by a network that was trained on the other three, for a fixed "
        "number of epochs. The share that the regression has of the answer (0.5, after 0.6), and how much more it counts for a "
        "voice that is known, were chosen with these scores in sight, so they are optimistic.",
        "",
        head,
        *(row(name, part["as it is"]) for name, part in found["speakers"].items()),
        "",
        *adapted(found["speakers"], str),
        "",
        "## Calibration",
        "",
        f"Temperature {found['temperature']:.3f}, fitted to the answers on the three corpora that were left out in turn, each "
        "of which counts alike: what it will meet it has not heard. So on other speakers of the corpora that it knows it is "
        "less sure than it might be. Adapted answers have the same temperature.",
        "",
        "## Levels and lines",
        "",
        f"How often the answer on an unheard speaker changes (one recording in {EVERY}); adapted: to all altered recordings of "
        "the group, as to a line:",
        "",
        "| condition | answers that change |",
        "|---|---|",
        *(f"| {name} | {share:.1%} |" for name, share in found["altered"].items()),
        "",
        "## What it cannot do",
        "",
        "It heard actors who played an emotion in a studio, in three languages, and knows four words for it. It does not know "
        "what a person feels. It is not for medical, hiring, policing, border or school use, nor for any decision about a "
        "person; the European Union forbids emotion recognition at work and in schools. Spontaneous speech, other languages, "
        "children, crosstalk and music are outside of what it was tested on.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

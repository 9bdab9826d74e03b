"""What a reader must know before the scores of a cross-validation: where they may not be of emotion in a voice."""

from __future__ import annotations

from typing import Any

from npser.calibration import at_bound
from npser.experiment.table2 import are_several

CONTROLS = {  # baselines, what they are called, and what it may mean where they do well
    "majority": ("The majority class", "what it has learnt does not show"),
    "linear": ("Logistic regression on utterance statistics", "no more than the mean and deviation of the features shows"),
    "linear-frames": (
        "Logistic regression on statistics of frame features",
        "no more than the mean and deviation of these features shows",
    ),
    "duration": ("Duration alone", "are the files cut by class?"),
    "level": ("Level alone", "were the classes recorded, or normalised, apart?"),
    "scenario": ("Scenario alone", "the score may reflect what is said, not how"),
    "speaker": ("Speaker alone", "do speakers differ in the classes that they speak?"),
}
UNLIKE = 0.2  # difference of a class's share in a fold from that in all of them
FEW_SPEAKERS = 5


def cautions(report: dict[str, Any]) -> list[str]:
    """Sentences for the head of a report, of its scores, split, sampling and calibration."""
    return [*_controls(report), *_speakers(report), *_classes(report), *_temperatures(report)]


def _controls(report: dict[str, Any]) -> list[str]:
    """Baselines that the network does not beat."""
    scores = {name: row["ua"] for name, row in report["baselines"].items()}
    lowest = {name: (row["ua"]["interval"] or [None])[0] for name, row in report["differences"].items()}
    return beaten_by(report["variants"]["full"]["ua"], scores, lowest, _network(report))


def _network(report: dict[str, Any]) -> str:
    """What the network is called that the cautions are about."""
    return "the full model" if are_several(report) else "the network"


def beaten_by(
    network: float, scores: dict[str, float], lowest: dict[str, float | None], called: str = "the network"
) -> list[str]:
    """Sentences on controls that do as well as the network, which is called so.

    network, scores: UA; lowest: the lower end of the interval of network minus control, where there is one.
    """
    found = []
    for name, (alone, question) in CONTROLS.items():
        if name not in scores or (name != "majority" and scores[name] <= scores["majority"]):
            continue
        low = lowest.get(name)
        if scores[name] >= network:
            does = f"does {'better than' if scores[name] > network else 'as well as'} {called}"
            found.append(f"{alone} {does} (UA {scores[name]:.3f} against {network:.3f}): {question}")
        elif low is not None and low <= 0:
            figures = f"UA {scores[name]:.3f} against {network:.3f}, within the interval"
            found.append(f"{alone} may do as well as {called} ({figures}): {question}")
    return found


def _speakers(report: dict[str, Any]) -> list[str]:
    """Few speakers, or speakers who speak one class each."""
    clusters, what = report["sampling"]["clusters"], report["sampling"]["of"]
    found = []
    if clusters < 2:
        found.append("One speaker: nothing shows how scores differ between speakers, so there are no intervals.")
    elif clusters <= FEW_SPEAKERS:
        found.append(f"The intervals rest on {clusters} {what}: with so few they are wide, and the scores say little.")
    known = [counts for name, counts in report["classes_of_speakers"].items() if name != "unknown"]
    single = sum(sum(n > 0 for n in counts) == 1 for counts in known)
    if len(known) > 1 and 2 * single > len(known):
        found.append(
            f"{single} of {len(known)} speakers speak one class only: {_network(report)} may tell voices apart, not emotions."
        )
    classes = zip(report["labels"], zip(*report["classes_of_speakers"].values(), strict=True), strict=True)
    lone = [label for label, counts in classes if sum(n > 0 for n in counts) == 1 and clusters > 1]
    if lone:
        found.append(f"Only one speaker speaks {', and only one '.join(lone)}: nothing shows how speakers differ in it.")
    return found


def _classes(report: dict[str, Any]) -> list[str]:
    """Folds whose classes are unlike those of all folds together."""
    parts = {row["fold"]: row["test"]["emotions"] for row in report["split"]["folds"]}
    total = {label: sum(counts[label] for counts in parts.values()) for label in report["labels"]}
    unlike = []
    for fold, counts in parts.items():
        share = {label: counts[label] / sum(counts.values()) for label in total}
        overall = {label: total[label] / sum(total.values()) for label in total}
        label = max(total, key=lambda label: abs(share[label] - overall[label]))
        if abs(share[label] - overall[label]) > UNLIKE:
            unlike.append(f"fold {fold} ({label}: {share[label]:.0%}, of all {overall[label]:.0%})")
    return [f"Classes are unlike between folds, so their scores are not comparable: {', '.join(unlike)}."] if unlike else []


def _temperatures(report: dict[str, Any]) -> list[str]:
    """Temperatures that no validation part bears out."""
    rows = [row["calibration"]["temperatures"] for row in report["variants"].values() if row["calibration"]]
    temperatures = [temperature for seeds in rows for seed in seeds for temperature in seed]
    stuck = sum(map(at_bound, temperatures))
    if not stuck:
        return []
    return [f"{stuck} of {len(temperatures)} temperatures are at their bound: the confidence of these networks means nothing."]

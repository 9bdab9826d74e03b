"""What a run found: as text for the terminal, Markdown, JSON, and pictures where matplotlib is installed."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from npser.calibration import at_bound
from npser.files import write

SCORES = ("wa", "ua", "macro_f1", "gender_accuracy")
COUNTED = 15  # classes up to which a picture of the confusion shows its counts
CALIBRATION = (
    "The temperature divides the emotion logits. The error is the mean distance of confidence from accuracy over 15 equal bins "
    "of confidence (Guo et al., 2017)."
)


def confusion_text(confusion: list[list[int]], labels: list[str]) -> str:
    """Rows the truth, columns the prediction, recall at the end of each row."""
    width = max(len("truth"), *map(len, labels)) + 2
    columns = [max(len(label), 5) + 2 for label in labels]
    lines = [" " * width + "".join(f"{label:>{w}}" for label, w in zip(labels, columns, strict=True)) + "   recall"]
    for label, row in zip(labels, confusion, strict=True):
        cells = "".join(f"{n:>{w}}" for n, w in zip(row, columns, strict=True))
        recall = f"{row[labels.index(label)] / sum(row):9.3f}" if sum(row) else "        -"
        lines.append(f"{label:<{width}}{cells}{recall}")
    return "\n".join(lines)


def score_line(scores: dict[str, Any]) -> str:
    """WA, UA, macro-F1 and gender accuracy in one line."""
    gender = scores["gender_accuracy"]
    return f"WA {scores['wa']:.3f}  UA {scores['ua']:.3f}  macro-F1 {scores['macro_f1']:.3f}" + (
        f"  gender {gender:.3f}" if gender is not None else ""
    )


def oracle_line(oracle: dict[str, Any]) -> str:
    """The flattering figure, marked as such."""
    best = f"{oracle['ua']:.3f} (WA {oracle['wa']:.3f}, epoch {oracle['epoch']})"
    return f"oracle, not comparable: best test UA of any epoch {best}"


def calibration_line(calibration: dict[str, Any] | None) -> str:
    """The temperature, and what it does to the calibration error."""
    if calibration is None:
        return "calibration: not calibrated, because there is no validation part to fit a temperature on"
    line = f"calibration: temperature {calibration['temperature']:.2f} from {calibration.get('source', 'the validation part')}"
    if at_bound(calibration["temperature"]):
        line += " (its bound: no temperature fits that part, so confidence means nothing)"
    if calibration["ece_after"] is None:
        return line
    errors = f"{calibration['ece_before']:.3f} before, {calibration['ece_after']:.3f} after"
    return f"{line}; expected calibration error on the test part {errors}"


def terminal(report: dict[str, Any]) -> str:
    """The end of a run as the terminal shows it."""
    lines = []
    if report["wa"] is None:
        lines.append(f"there is no test part, so there is no test score; the weights are of epoch {report['selected_epoch']}")
        if report["validation"]:
            lines.append(f"validation: {score_line(report['validation'])}")
    else:
        session = report["split"]["test_session"]
        lines += [
            f"test {f'session {session}' if session else 'part'}, epoch {report['selected_epoch']}: {score_line(report)}",
            "",
            confusion_text(report["confusion"], report["labels"]),
            "",
        ]
    lines.append(calibration_line(report["calibration"]))
    if report["oracle"]:
        lines.append(oracle_line(report["oracle"]))
    return "\n".join(lines + report["notices"])


def markdown(report: dict[str, Any]) -> str:
    """The report for people: scores, confusion matrix, how it was split, every setting and version."""
    split, labels = report["split"], report["labels"]
    lines = ["# npser training report", "", *(f"> **{notice}**\n" for notice in report["notices"])]
    lines += [f"Corpora: {', '.join(report['corpora'])}. Preset: {report['preset']}. Parameters: {report['parameters']:,}.", ""]
    if report["wa"] is not None:
        lines += [
            f"## Test: {split['test_session'] or 'test part'}, scored once, with epoch {report['selected_epoch']}",
            "",
            table(["WA", "UA", "macro-F1", "gender accuracy"], [[report[k] for k in SCORES]]),
            table(["truth \\ prediction", *labels, "recall"], [
                [label, *row, recall]
                for label, row, recall in zip(labels, report["confusion"], report["recall"].values(), strict=True)
            ]),
        ]  # fmt: skip
        rows = [[name, row["wa"], row["ua"]] for name, row in report["baselines"].items()]
        lines += ["Without the network, learnt from the same training part:", "", table(["by", "WA", "UA"], rows)]
    if report["oracle"]:
        lines += [f"*{oracle_line(report['oracle'])}.* Choosing the epoch on the test session would have shown this.", ""]
    if report["validation"]:
        v = report["validation"]
        use = "which chose nothing" if report["config"]["select"] == "last" else "which chose the epoch"
        lines += [f"Validation ({split['validation_session'] or split['method']}), {use}: {score_line(v)}.", ""]
    lines += [f"{calibration_line(report['calibration']).capitalize()}. {CALIBRATION}", ""]
    lines += ["## Split", "", f"By {split['method']}; hash `{split['hash']}`.", ""]
    lines.append(table(["part", "utterances", "minutes", "speakers"], [
        [name, part["utterances"], round(part["seconds"] / 60, 1), ", ".join(part["speakers"]) or "unknown"]
        for name, part in ((name, split[name]) for name in ("train", "validation", "test"))
    ]))  # fmt: skip
    return "\n".join([*lines, *closing(report)])


def closing(report: dict[str, Any]) -> list[str]:
    """The end of a report: what was left out, every setting and version."""
    lines: list[str] = []
    if report["map"]:
        lines += [f"Labels by the user's own map: {', '.join(f'{a} is {b}' for a, b in report['map'].items())}.", ""]
    if report["dropped"]:
        dropped = ", ".join(f"{count} {emotion}" for emotion, count in report["dropped"].items())
        lines += [f"Left out, being of other classes: {dropped}.", ""]
    if report["bad_files"]:
        lines += [f"Left out, being unusable: {len(report['bad_files'])} files, named in report.json.", ""]
    lines += ["## Settings", "", table(["setting", "value"], list(report["config"].items()))]
    return [*lines, "## Versions", "", table(["package", "version"], list(report["versions"].items()))]


def table(head: list[str], rows: list[Any]) -> str:
    """A Markdown table; fractions to three digits."""

    def cell(value: Any) -> str:
        if value is None:
            return "-"
        return f"{value:.3f}" if isinstance(value, float) and abs(value) <= 1 and round(value, 3) else str(value)

    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join(lines + ["| " + " | ".join(map(cell, row)) + " |" for row in rows]) + "\n"


def can_draw() -> bool:
    """Whether matplotlib is installed; it then draws to files, unless the program already draws elsewhere."""
    try:
        import matplotlib
    except ImportError:
        return False
    if "matplotlib.pyplot" not in sys.modules:
        matplotlib.use("Agg")
    return True


def draw(report: dict[str, Any], out: Path) -> None:
    """curves.png and confusion.png beside metrics.jsonl; nothing where matplotlib is not installed."""
    if not can_draw():
        return
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    losses, accuracy = figure.subplots(1, 2)
    losses.plot(epochs, [row["train_loss"] for row in rows], label="training")
    if report["validation"]:
        losses.plot(epochs, [row["validation"]["loss"] for row in rows], label="validation")
        accuracy.plot(epochs, [row["validation"]["wa"] for row in rows], label="validation WA")
        accuracy.plot(epochs, [row["validation"]["ua"] for row in rows], label="validation UA")
        accuracy.axvline(report["selected_epoch"], color="gray", linestyle=":", label="selected epoch")
        accuracy.set(xlabel="epoch", ylim=(0, 1.02))
        accuracy.legend(loc="lower right")
    else:
        accuracy.set_axis_off()
    which = ", equation (10)" if report["config"]["network"].startswith("li2019") else ""
    losses.set(xlabel="epoch", ylabel=f"loss{which}", ylim=(0, None))
    losses.legend()
    if report["notices"]:
        figure.suptitle(report["notices"][0], fontsize=8, parse_math=False)
    save_picture(figure, out / "curves.png")
    if report["confusion"] is None:
        return

    title = f"WA {report['wa']:.3f}  UA {report['ua']:.3f}"
    save_picture(confusion_figure(report["confusion"], report["labels"], title), out / "confusion.png")


def confusion_figure(counts: list[list[int]], labels: list[str], title: str) -> Any:
    """A confusion matrix, each row coloured by shares of its class; of many classes, without counts."""
    from matplotlib.figure import Figure

    confusion = np.array(counts)
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    few = len(labels) <= COUNTED
    size = 2.2 + 0.75 * min(len(labels), COUNTED)
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set(xticks=range(len(labels)), yticks=range(len(labels)), xlabel="prediction", ylabel="truth")
    look: Any = {"parse_math": False} if few else {"parse_math": False, "fontsize": 0.6 * 72 * size / len(labels)}
    shown = ["".join(c if c.isprintable() else "?" for c in label) for label in labels]
    short = [label if len(label) <= 24 else f"{label[:21]}..." for label in shown]
    axes.set_xticklabels(short, rotation=30 if few else 90, ha="right" if few else "center", **look)
    axes.set_yticklabels(short, **look)
    axes.set_title(title)
    for (row, column), count in np.ndenumerate(confusion) if few else ():
        axes.text(column, row, str(count), ha="center", va="center", color="white" if share[row, column] > 0.5 else "black")
    figure.colorbar(image, label="share of the class", shrink=0.8)
    return figure


def save_picture(figure: Any, path: Path) -> None:
    """Without metadata: the same run draws the same bytes."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
    write(path, picture.getvalue())

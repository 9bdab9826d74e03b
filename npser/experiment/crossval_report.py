"""The report of a cross-validation: tables that a reader of the paper knows, and what the paper leaves out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from npser.experiment import table2
from npser.experiment.report import (
    CALIBRATION,
    calibration_line,
    can_draw,
    closing,
    confusion_figure,
    confusion_text,
    save_picture,
    table,
)
from npser.experiment.table2 import (
    OF_LI2019,
    PAPER_ABLATION,
    SCORES,
    are_several,
    in_order,
    is_the_papers,
    pooled_oracle,
    rows_of,
    sampling_line,
    title,
)

OF_THE_FULL_MODEL = "This holds for the full model; a table below tells how the epoch of each other system is found."
PAPER_TABLE_3 = [[939, 101, 63, 0], [271, 1283, 71, 11], [2, 107, 1300, 299], [8, 25, 57, 994]]


def spread_cell(values: dict[str, Any]) -> str:
    """Mean and deviation."""
    return f"{values['mean']:.3f}" + (f" ± {values['deviation']:.3f}" if values["deviation"] is not None else "")


def terminal(report: dict[str, Any]) -> str:
    """The end of the run as the terminal shows it."""
    lines = [*report["notices"], *([""] if report["notices"] else [])]
    lines += [f"{report['utterances']} utterances{_style(report)}, {len(report['split']['folds'])} folds, {_seeds(report)}", ""]
    full = report["variants"]["full"]
    whose = [f"{title(report, 'full')}:"] if are_several(report) else []
    lines += [*table2.terminal(report), "", *whose, confusion_text(full["confusion"], report["labels"]), ""]
    return "\n".join([*lines, *(line for line in [sampling_line(report), pooled_oracle(full)] if line)])


def _style(report: dict[str, Any]) -> str:
    """The style of all utterances, where only one was taken."""
    if not report["style"]:
        return ""
    others = ", ".join(f"{count} {name}" for name, count in report["style"]["left_out"].items())
    return f" of style {report['style']['name']}" + (f" (left out: {others})" if others else "")


def _seeds(report: dict[str, Any]) -> str:
    seeds = report["seeds"]
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    split = report["split"]
    lines = ["# npser cross-validation report", "", *(f"> **{notice}**\n" for notice in report["notices"])]
    once = "once" if len(report["seeds"]) == 1 else "once a seed"
    lines += [
        f"Corpora: {', '.join(report['corpora'])}; {report['utterances']} utterances{_style(report)}, each scored {once} "
        f"by a network that never saw {_unseen(report)}. {len(split['folds'])} folds by {_by(report)}, "
        f"{_seeds(report)}. {_model(report)}",
        "",
        _protocol(report) + (f" {OF_THE_FULL_MODEL}" if are_several(report) else ""),
        "",
        *table2.markdown(report),
        *_table_3(report),
        *_differences(report),
        *_breakdowns(report),
        *_calibration(report),
        *_spread(report),
        *_about(report),
    ]
    return "\n".join(lines)


def _model(report: dict[str, Any]) -> str:
    """Which network the report is of."""
    full = report["systems"]["full"]
    changed = " with other settings" if full["changed"] else ""
    who = "Full model" if are_several(report) else "Network"
    parameters = f"{report['variants']['full']['parameters']:,} parameters"
    return f"{who}: {full['title']}, preset {full['preset']} of {full['network']}{changed}, {parameters}."


def _unseen(report: dict[str, Any]) -> str:
    """What of an utterance its network never saw."""
    if report["split"]["speaker_dependent"]:
        return "its fold"
    unknown = report["sampling"]["speaker_unknown"]
    return "its speaker" if not unknown else f"its fold; {unknown} of them have no known speaker, who may be in other folds too"


def _protocol(report: dict[str, Any]) -> str:
    """What decides when training ends, and what the scored network was trained on."""
    if report["config"]["select"] == "last":
        groups = (
            "the training and validation groups"
            if report["refit"]
            else "the training groups; the validation group calibrates it"
        )
        return f"No epoch is chosen: the test group is scored once, after the last one, by a network trained on {groups}."
    refit = ", by a network trained anew on training and validation groups for so many epochs" if report["refit"] else ""
    return f"The epoch is the one with the best score on the validation group; the test group is scored once with it{refit}."


def _by(report: dict[str, Any]) -> str:
    by = report["folds_by"]
    return "groups of speakers" if by.isdecimal() else by


def _table_3(report: dict[str, Any]) -> list[str]:
    """Confusion matrix of the full model, as Table 3 has it."""
    labels, full = report["labels"], report["variants"]["full"]
    head = ["truth \\ prediction", *labels, "recall"]

    def rows(confusion: list[list[int]]) -> list[list[Any]]:
        return [
            [label, *row, f"{row[k] / sum(row):.3f}" if sum(row) else None]
            for k, (label, row) in enumerate(zip(labels, confusion, strict=True))
        ]

    counted = "" if len(report["seeds"]) == 1 else ", every utterance once a seed"
    lines = [f"## Confusion matrix of the full model{counted} (the paper's Table 3)", "", table(head, rows(full["confusion"]))]
    if is_the_papers(report):
        lines += ["The paper's:", "", table(head, rows(PAPER_TABLE_3))]
    recalls = [
        [title(report, name), *(None if r is None else f"{r:.3f}" for r in row["recall"].values())]
        for name, row in rows_of(report).items()
    ]
    return [*lines, "Recall by class:", "", table(["method", *labels], recalls)]


def difference_cell(found: dict[str, Any]) -> str:
    """A difference with its interval."""
    ends = found["interval"]
    return f"{found['difference']:+.3f}" + (f" [{ends[0]:+.3f}, {ends[1]:+.3f}]" if ends else "")


def _differences(report: dict[str, Any]) -> list[str]:
    """What each part of the model is worth, and the network itself."""
    rows = []
    for name in (name for name in rows_of(report) if name != "full"):
        found = report["differences"][name]
        by_seed = ", ".join(f"{value:+.3f}" for value in found["ua"]["by_seed"])
        rows.append([title(report, name), *(difference_cell(found[key]) for key in SCORES), by_seed])
    seeds = "these seeds" if len(report["seeds"]) > 1 else "this seed"
    ablation = report["config"]["network"] == "li2019" and report["variants"].keys() & (OF_LI2019 | PAPER_ABLATION).keys()
    of = " (the ablation of 5.4)" if ablation else ""
    return [
        f"## The full model minus each of the others, on the same folds and seeds{of}",
        "",
        table(["minus", *SCORES.values(), "UA by seed"], rows),
        f"{sampling_line(report)} Where one holds 0, no difference has been shown. The networks are those of {seeds}; of "
        f"many comparisons, one in twenty shows a difference by chance.",
        "",
    ]


def _breakdowns(report: dict[str, Any]) -> list[str]:
    """Parts of the test utterances, of the full model; and gender."""
    full = report["variants"]["full"]
    head = ["utterances", *SCORES.values()]

    def cells(part: dict[str, Any]) -> list[Any]:
        return [part["utterances"], *(part.get(key) for key in SCORES)]

    lines = ["## Full model, part by part", ""]
    if len(full["per_corpus"]) > 1:
        lines.append(table(["corpus", *head], [[name, *cells(part)] for name, part in full["per_corpus"].items()]))
    lines.append(table(["speaker", *head], [[name, *cells(part)] for name, part in full["per_speaker"].items()]))
    terciles = [(part, part["seconds_up_to"]) for part in full["duration_terciles"]]
    rows = [["longest" if end is None else f"up to {end:.2f} s", *cells(part)] for part, end in terciles]
    lines.append(table(["duration, up to where the network cuts", *head], rows))
    if full["styles"]:
        lines.append(table(["style", *head], [[name, *cells(part)] for name, part in full["styles"].items()]))
    genders = [(name, row["gender"]) for name in in_order(report) if (row := report["variants"][name])["gender"]]
    if genders:
        lines += ["## Gender (5.5)", ""]
        rows = [[title(report, name), found["utterances"], spread_cell(found["accuracy"])] for name, found in genders]
        lines.append(table(["variant", "utterances", "accuracy"], rows))
    return lines


def _calibration(report: dict[str, Any]) -> list[str]:
    """How far confidence is off, before and after the temperature."""
    rows = []
    for name in in_order(report):
        found = report["variants"][name]["calibration"]
        if found:
            temperatures = [t for seed in found["temperatures"] for t in seed]
            between = f"{min(temperatures):.2f} to {max(temperatures):.2f}"
            rows.append([title(report, name), between, spread_cell(found["ece_before"]), spread_cell(found["ece_after"])])
    lines = ["## Calibration", ""]
    if not rows:
        return [*lines, calibration_line(None).capitalize() + ".", ""]
    return [
        *lines,
        table(["variant", "temperatures", "calibration error before", "after"], rows),
        f"Of all folds together, the mean over seeds; each temperature is of a network's validation group. {CALIBRATION}",
        "",
    ]


def _spread(report: dict[str, Any]) -> list[str]:
    """Mean and deviation over folds and over seeds, and each fold."""
    rows = [
        [title(report, name), *(spread_cell(row[over][key]) for over in ("over_folds", "over_seeds") for key in ("wa", "ua"))]
        for name, row in rows_of(report).items()
    ]
    folds = [row["fold"] for row in report["split"]["folds"]]
    each = []
    for name in in_order(report):
        row = report["variants"][name]
        for seed, ua, epochs in zip(report["seeds"], row["ua_of_seeds_and_folds"], row["selected_epochs"], strict=True):
            each.append([title(report, name), seed, *(f"{u:.3f} ({epoch})" for u, epoch in zip(ua, epochs, strict=True))])
    return [
        "## Mean and deviation",
        "",
        table(["method", "WA over folds", "UA over folds", "WA over seeds", "UA over seeds"], rows),
        "UA of each fold (and its epoch):",
        "",
        table(["variant", "seed", *(f"fold {name}" for name in folds)], each),
    ]


def _about(report: dict[str, Any]) -> list[str]:
    """Split, settings, versions."""
    split = report["split"]
    rows = [
        [row["fold"], row["test_session"], row["validation_session"]]
        + [f"{row[part]['utterances']} ({len(row[part]['speakers'])})" for part in ("train", "validation", "test")]
        for row in split["folds"]
    ]
    lines = ["## Split", "", f"Hash `{split['hash']}`; that of every fold is in report.json.", ""]
    lines.append(
        table(
            ["fold", "test", "validation", *(f"{part}: utterances (speakers)" for part in ("train", "validation", "test"))],
            rows,
        )
    )
    return [*lines, *closing(report)]


def draw(report: dict[str, Any], out: Path) -> None:
    """confusion-VARIANT.png, spread.png, curves.png, of several networks systems.png; nothing where there is no matplotlib."""
    if not can_draw():
        return
    for variant, row in report["variants"].items():
        heading = f"{title(report, variant)}: WA {row['wa']:.3f}  UA {row['ua']:.3f}"
        save_picture(confusion_figure(row["confusion"], report["labels"], heading), out / f"confusion-{variant}.png")
    _draw_spread(report, out / "spread.png")
    if len(report["variants"]) > 1:
        table2.draw(report, out / "systems.png")
    _draw_curves(report, out)


def _draw_spread(report: dict[str, Any], path: Path) -> None:
    """UA of each fold and seed, a column a variant; the pooled score with its interval beside it."""
    from matplotlib.figure import Figure

    systems = rows_of(report)
    figure = Figure(figsize=(2 + 1.1 * len(systems), 4.2), layout="constrained")
    axes = figure.subplots()
    colours = [f"C{k % 10}" for k in range(len(report["seeds"]))]
    for x, row in enumerate(systems.values()):
        for k, ua in enumerate(row["ua_of_seeds_and_folds"]):
            label = f"a fold, seed {report['seeds'][k]}" if x == 0 else None
            axes.plot([x - 0.12] * len(ua), ua, "o", color=colours[k], alpha=0.6, markersize=4, label=label)
        ends = row["intervals"]["ua"]
        if ends:
            axes.plot([x + 0.12] * 2, ends, color="black", label="95 % interval" if x == 0 else None)
        axes.plot([x + 0.12], [row["ua"]], "D", color="black", markersize=5, label="pooled" if x == 0 else None)
    axes.set(ylabel="UA", ylim=(0, 1.02), xlim=(-0.5, len(systems) - 0.5), xticks=range(len(systems)))
    axes.set_xticklabels([title(report, name) for name in systems], rotation=25, ha="right")
    axes.legend(fontsize=7)
    save_picture(figure, path)


def _draw_curves(report: dict[str, Any], out: Path) -> None:
    """Training loss and validation UA of the full model's jobs, epoch after epoch; thick: their mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses, scores = [], []
    for seed in report["seeds"]:
        for row in report["split"]["folds"]:
            file = out / "jobs" / f"full-seed{seed}-fold{row['fold']}" / "metrics.jsonl"
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            losses.append([line["train_loss"] for line in lines])
            scores.append([line["validation"]["ua"] if "validation" in line else np.nan for line in lines])
    epochs = np.arange(1, len(losses[0]) + 1)
    for axes, curves in ((left, losses), (right, scores)):
        axes.plot(epochs, np.array(curves).T, color="C0", alpha=0.25, linewidth=0.8)
        axes.plot(epochs, np.mean(curves, axis=0), color="C0", linewidth=2)
    left.set(
        xlabel="epoch",
        ylabel="training loss" + (", equation (10)" if report["config"]["network"] == "li2019" else ""),
        ylim=(0, None),
    )
    right.set(xlabel="epoch", ylabel="validation UA", ylim=(0, 1.02))
    save_picture(figure, out / "curves.png")

"""The comparison of a cross-validation report, as Table 2 of the paper has it: systems, their scores, and those published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from npser import model
from npser.experiment.report import save_picture, table
from npser.experiment.systems import year

OF_LI2019 = {"no-attention": "– Self attention", "no-recurrence": "– Recurrence"}  # its ablation, as the paper calls it
TITLES = {
    "no-gender": "– Multitask learning",
    "shuffled-gender": "control: shuffled gender labels",
    "majority": "majority class",
    "duration": "duration only",
    "level": "level only",
    "speaker": "speaker only",
    "scenario": "scenario only, no audio",
    "linear": "linear, on utterance statistics",
    "linear-frames": "linear, on statistics of frame features",
}
SCORES = {"wa": "WA", "ua": "UA", "macro_f1": "macro-F1"}
PAPER_LABELS = ["angry", "happy", "neutral", "sad"]
PAPER_ABLATION = {"no-attention": {"wa": 0.553, "ua": 0.511}, "no-gender": {"wa": 0.705, "ua": 0.726}}  # of Table 2
ADAPTED = "-adapted"  # ends the name of a variant whose networks are those of another one, adapted
ORACLE = "oracle, not comparable"


def title(report: dict[str, Any], name: str) -> str:
    """What a variant or a baseline is called in tables; a network that reads a text is marked."""
    return _title(report, name) + (", TEXT-INFORMED" if name in report["text_informed"] else "")


def _title(report: dict[str, Any], name: str) -> str:
    if name.endswith(ADAPTED):
        return f"{_title(report, name.removesuffix(ADAPTED))}, adapted to the {report['adapt']}"
    if name == "full":
        return f"Full model, {_short(report, name)}" if are_several(report) else "Full model"
    if name in report["systems"]:
        return _short(report, name)
    named = TITLES | (OF_LI2019 if report["config"]["network"].startswith("li2019") else {})
    return named.get(name, name.replace("-", " "))


def _short(report: dict[str, Any], name: str) -> str:
    """NETWORK-PRESET of the full model or another system, and whether its settings are others."""
    system = report["systems"][name]
    return system["name"] + (" with other settings" if system["changed"] else "")


def is_the_papers(report: dict[str, Any]) -> bool:
    """Whether the paper's figures are of this network, this corpus and these classes."""
    same = [name.lower() for name in report["corpora"]] == ["iemocap"] and report["labels"] == PAPER_LABELS
    return same and not report["style"] and report["config"]["network"] == "li2019"


def are_several(report: dict[str, Any]) -> bool:
    """Whether other systems stand beside the full model."""
    return len(report["systems"]) > 1


def score_cell(row: dict[str, Any], name: str) -> str:
    """A score with its interval."""
    found = row["intervals"][name]
    return f"{row[name]:.3f}" + (f" [{found[0]:.3f}, {found[1]:.3f}]" if found else "")


def sampling_line(report: dict[str, Any]) -> str:
    """What the intervals count."""
    sampling, seeds = report["sampling"], len(report["seeds"])
    if sampling["clusters"] < 2:
        return "No intervals: there is one speaker."
    of = f"{sampling['clusters']} {sampling['of']}"
    if seeds > 1:
        return f"95 % intervals over {of} and {seeds} seeds (Student's t)."
    return f"95 % intervals over {of} (Student's t); what another seed would change is not in them, and --seeds 3 adds it."


def pooled_oracle(row: dict[str, Any]) -> str | None:
    """The flattering figure, marked as such."""
    oracle = row["oracle"]
    if oracle is None:
        return None
    shown = f"UA {oracle['ua']:.3f}, WA {oracle['wa']:.3f}"
    return f"{ORACLE}: choosing each fold's epoch of the full model on its test part would have shown {shown}"


def in_order(report: dict[str, Any]) -> list[str]:
    """The variants as tables list them: by the literature's years; the full model ends its year, its ablation follows it."""
    systems = report["systems"]
    ordered = sorted(systems, key=lambda name: (year(systems[name]["network"]), name == "full"))
    k = ordered.index("full") + 1
    own = [name for name in report["variants"] if name not in systems and name.removesuffix(ADAPTED) not in systems]
    found = [*ordered[:k], *(name for name in own if not name.endswith(ADAPTED)), *ordered[k:]]
    each = ([name, name + ADAPTED] for name in found)
    return [name for pair in each for name in pair if name in report["variants"]]


def rows_of(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The variants and below them the baselines, as tables list them."""
    return {name: report["variants"][name] for name in in_order(report)} | report["baselines"]


def method(report: dict[str, Any], name: str) -> str:
    """What a variant is called in Table 2: where there are several systems, by the literature's name beside its own."""
    if name not in report["systems"] or not are_several(report):
        return title(report, name)
    marked = ", TEXT-INFORMED" if name in report["text_informed"] else ""
    called = f"{report['systems'][name]['title']}, {_short(report, name)}{marked}"
    return f"**Full model**: {called}" if name == "full" else called


def markdown(report: dict[str, Any]) -> list[str]:
    """Systems and their scores, as Table 2 has them."""
    paper, several = is_the_papers(report), are_several(report)
    shown = paper or any(system["published"] for system in report["systems"].values())
    rows = [[row["title"], *[None] * 3, *_percent(row["published"])] for row in _not_run(report)] if paper else []
    for name, row in rows_of(report).items():
        theirs = _percent(_published(report, name)) if shown else []
        rows.append([method(report, name), *(score_cell(row, key) for key in SCORES), *theirs])
    head = ["method", *SCORES.values(), *(["published WA", "published UA"] if shown else [])]
    lines = ["## Comparison (the paper's Table 2)", "", table(head, rows)]
    learnt = "training and validation groups" if report["refit"] else "training groups"
    uncounted = "The intervals do not count that other training data would make other networks. "
    lines.append(
        f"All folds pooled, the mean over seeds. {sampling_line(report)} "
        + (uncounted if report["sampling"]["clusters"] > 1 else "")
        + f"The last {len(report['baselines'])} rows are without a network, on the same folds; as it does, they learn from the "
        f"{learnt}."
    )
    if paper:
        lines.append("The paper does not say how it chose the epoch; its figures and ours are not of the same protocol.")
    oracle = pooled_oracle(report["variants"]["full"])
    lines += ["", *([f"*{oracle}.*", ""] if oracle else [])]
    lines += _heard(report)
    tried = any(system["tried"] > 1 for system in report["systems"].values())
    lines += _tasks(report) if shown else []
    return [*lines, *(_sizes(report) if several or tried else []), *(_times(report) if several else [])]


def _heard(report: dict[str, Any]) -> list[str]:
    """How adaptation grows with what was heard, of the full model."""
    if report["adapt"] == "none":
        return []
    full, known = report["variants"]["full"], report["variants"]["full" + ADAPTED]
    words, some = {"neutral": "the neutral ones alone"}, known["by_heard"]
    order = sorted(some, key=lambda name: (name.isalpha(), name.zfill(9)))
    named = {"none": full, **{name: some[name] for name in order}, "all": known}
    rows = [[words.get(name, name), *(score_cell(row, key) for key in SCORES)] for name, row in named.items()]
    return [
        f"Adapted: the input is normalised by statistics of the recordings of the {report['adapt']} in the test group, without "
        "their labels, as far as their seconds deserve. Where emotions are balanced, as in acted corpora, this flatters.",
        "",
        table([f"heard of the {report['adapt']}", *SCORES.values()], rows),
    ]


def _not_run(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of Table 2 that this run has not as their papers describe them, by their years: title and published figures.

    Of the paper's ablation there is no task of its own.
    """
    modules = {name: module for name, module in model.NETWORKS.items() if hasattr(module, "PUBLISHED")}
    there = {name: {"title": module.TITLE, "published": module.PUBLISHED} for name, module in modules.items()}
    run = {system["network"] for system in report["systems"].values() if system["published"]}
    rows = [row for name, row in sorted(there.items(), key=lambda item: year(item[0])) if name not in run]
    if not report["systems"]["full"]["published"]:
        its = there["li2019"]["title"]
        for name, what in (("no-attention", "without self attention"), ("no-gender", "without multitask learning")):
            rows.append({"title": f"{its}, {what}", "published": PAPER_ABLATION[name]})
    return rows


def _published(report: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The figures that the paper of a variant has for it; of the ablation, only where the full model is the paper's."""
    if name in report["systems"]:
        return report["systems"][name]["published"]
    ours = is_the_papers(report) and report["systems"]["full"]["published"]
    return PAPER_ABLATION.get(name) if ours else None


def _percent(published: dict[str, Any] | None) -> list[str]:
    """WA and UA, with as many decimals as the paper has: one, or two."""
    figures = published or {}
    return [f"{figures[name]:.2%}".replace("0%", "%").replace("%", " %") if name in figures else "-" for name in ("wa", "ua")]


def _tasks(report: dict[str, Any]) -> list[str]:
    """What the published figures were measured on."""
    rows = [*(_not_run(report) if is_the_papers(report) else []), *map(report["systems"].__getitem__, _systems(report))]
    tasks = {row["title"]: row["published"]["task"] for row in rows if "task" in (row["published"] or {})}
    return [
        "Each published figure is of its paper's own task and protocol. It says what the paper found, and can be compared "
        "neither with the scores of this run nor with the other published figures. The tasks:",
        "",
        *(f"- {name}: {task}" for name, task in tasks.items()),
        "",
    ]


def _systems(report: dict[str, Any]) -> list[str]:
    """The full model and the other systems, without an ablation, in the order of tables."""
    return [name for name in in_order(report) if name in report["systems"]]


def _sizes(report: dict[str, Any]) -> list[str]:
    """Parameters of each system, and what was tried to choose its settings."""
    rows = []
    for name in _systems(report):
        system, found = report["systems"][name], report["variants"][name]
        values = "; ".join(f"{setting} {', '.join(map(str, given))}" for setting, given in system["choices"].items())
        c = system["config"]
        epoch = f"the last of {c['epochs']}" if c["select"] == "last" else f"by {c['select']}, of {c['epochs']}"
        held = f" and {found['state']:,} held beside" if found["state"] else ""
        rows.append([title(report, name), f"{found['parameters']:,}{held}", system["tried"], values or None, epoch])
    several = (
        "Folds, validation groups and seeds are the same for all; report.json has the settings of each. "
        if are_several(report)
        else ""
    )
    beside = any(report["variants"][name]["state"] for name in _systems(report))
    return [
        table(["system", "parameters", "settings tried", "which", "epoch"], rows),
        f"{several}One of the settings tried is chosen, as is the epoch where it is not the last, by the validation group of "
        "each fold, never by the test group. Settings that the presets were developed with are not counted "
        "(examples/recipe.md lists the comparisons behind preset default)."
        + (" Held beside the parameters are numbers that are drawn, solved, or follow the batches." if beside else ""),
        "",
    ]


def _times(report: dict[str, Any]) -> list[str]:
    """Seconds: all of a report that differs from one run to the next."""
    seconds = report["run"]["seconds_of"]
    rows = [
        [title(report, name), *(_seconds(seconds[name][what]) for what in ("training", "answering"))]
        for name in _systems(report)
    ]
    scored = "the validation group" + (" and the test group" if report["variants"]["full"]["oracle"] else "")
    again = ", and training anew with the validation group" if report["refit"] else ""
    return [
        table(["system", "seconds of training a network", "seconds of answering a minute of speech"], rows),
        f"The mean over folds and seeds. Training is all of it: every epoch, with its scores of {scored}{again}; features are "
        "computed before. Jobs ran beside each other, and may have had different numbers of threads, or other machines. "
        "Training that was stopped and went on is not counted.",
        "",
    ]


def draw(report: dict[str, Any], path: Path) -> None:
    """UA of every row with its interval; and of the systems UA by seconds of training and by parameters."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator

    rows, numbers, full = rows_of(report), {}, report["variants"]["full"]
    figure = Figure(figsize=(14, 1.6 + 0.32 * len(rows)), layout="constrained")
    forest, *panels = figure.subplots(1, 3, width_ratios=(2.4, 1, 1))
    for y, (name, row) in enumerate(rows.items(), 1):
        colour = "C3" if name == "full" else "C0" if name in report["variants"] else "gray"
        numbers[name] = f"{y}  {title(report, name)}"
        forest.plot(row["intervals"]["ua"] or [row["ua"]] * 2, [y, y], color=colour)
        forest.plot([row["ua"]], [y], "D", color=colour, markersize=5)
        x_of = (report["run"]["seconds_of"].get(name, {}).get("training"), row.get("parameters"))
        for axes, x in zip(panels, x_of, strict=True):
            if x is not None:
                axes.plot([x], [row["ua"]], "D", color=colour, markersize=5)
                axes.annotate(str(y), (x, row["ua"]), xytext=(5, 2), textcoords="offset points", fontsize=8)
    forest.axvline(full["ua"], color="C3", linestyle=":", linewidth=1)
    forest.set(xlabel="UA, and its 95 % interval", ylim=(len(rows) + 0.6, 0.4), yticks=range(1, len(rows) + 1))
    forest.set_yticklabels(numbers.values(), parse_math=False)
    for axes, what in zip(panels, ("seconds of training a network", "parameters"), strict=True):
        axes.set(xscale="log", xlabel=what, ylabel="UA")
        axes.margins(x=0.15)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(EngFormatter(sep=" ") if what == "parameters" else FuncFormatter(lambda x, _: f"{x:g}"))
        axes.grid(alpha=0.3)
    save_picture(figure, path)


def _seconds(value: float | None) -> str | None:
    """Three digits, of whole seconds all."""
    return None if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def terminal(report: dict[str, Any]) -> list[str]:
    """The scores of every system and baseline as the terminal shows them; of several systems, what they take as well."""
    rows = rows_of(report)
    names = {name: title(report, name) for name in rows}
    width = max(map(len, names.values()))
    lines = [
        f"{names[name]:<{width}}  " + "  ".join(f"{t} {score_cell(row, k)}" for k, t in SCORES.items())
        for name, row in rows.items()
    ]
    if not are_several(report):
        return lines
    lines.append("")
    for name in _systems(report):
        seconds = report["run"]["seconds_of"][name]
        training, answering = (_seconds(seconds[what]) or "-" for what in ("training", "answering"))
        lines.append(
            f"{names[name]:<{width}}  {report['variants'][name]['parameters']:>9,} parameters  {training:>6} s of training  "
            f"{answering:>6} s for a minute of speech"
        )
    return lines

"""The comparison of a cross-validation report, as Table 2 of the paper has it: systems, their scores, and those published."""

from __future__ import annotations

from typing import Any

from npser import model
from npser.experiment.report import table
from npser.experiment.systems import year

TITLES = {
    "full": "Full model",
    "no-attention": "– Self attention",
    "no-recurrence": "– Recurrence",
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
PAPER_ABLATION = {"no-attention": (0.553, 0.511), "no-gender": (0.705, 0.726)}  # WA, UA of Table 2
NOT_HERE: dict[str, dict[str, Any]] = {  # rows of Table 2 whose networks npser does not have
    "satt2017": {
        "title": "CNN-BLSTM (Satt et al., 2017)",
        "published": {"wa": 0.688, "ua": 0.594, "task": "IEMOCAP, four classes without excited, improvised only"},
    },
    "yenigalla2018": {
        "title": "Multichannel CNN (Yenigalla et al., 2018)",
        "published": {"wa": 0.739, "ua": 0.685, "task": "IEMOCAP, four classes, with phonemes of the transcripts as input"},
    },
}
ORACLE = "oracle, not comparable"


def title(name: str) -> str:
    """What a variant or a baseline is called in tables."""
    return TITLES.get(name, name)


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
    return (
        f"{ORACLE}: choosing each fold's epoch on its test part would have shown UA {oracle['ua']:.3f}, WA {oracle['wa']:.3f}"
    )


def in_order(report: dict[str, Any]) -> list[str]:
    """The variants as tables list them: by the literature's years; the full model ends its year, its ablation follows it."""
    systems = report["systems"]
    ordered = sorted(systems, key=lambda name: (year(systems[name]["network"]), name == "full"))
    k = ordered.index("full") + 1
    return [*ordered[:k], *(name for name in report["variants"] if name not in systems), *ordered[k:]]


def method(report: dict[str, Any], name: str) -> str:
    """What a variant is called in Table 2: where there are several systems, by the literature's name and the preset."""
    if name not in report["systems"] or not are_several(report):
        return title(name)
    system = report["systems"][name]
    called = f"{system['title']}, {system['preset']}" + (" with other settings" if system["changed"] else "")
    return f"**Full model**: {called}" if name == "full" else called


def markdown(report: dict[str, Any]) -> list[str]:
    """Systems and their scores, as Table 2 has them."""
    paper, several = is_the_papers(report), are_several(report)
    shown = paper or several
    rows = [[row["title"], *[None] * 3, *_percent(row["published"])] for row in _not_run(report).values()] if paper else []
    for name, row in ({name: report["variants"][name] for name in in_order(report)} | report["baselines"]).items():
        theirs = _percent(_published(report, name)) if shown else []
        rows.append([method(report, name), *(score_cell(row, key) for key in SCORES), *theirs])
    head = ["method", *SCORES.values(), *(["published WA", "published UA"] if shown else [])]
    lines = ["## Comparison (the paper's Table 2)", "", table(head, rows)]
    learnt = "training and validation groups" if report["refit"] else "training groups"
    lines.append(
        f"All folds pooled, the mean over seeds. {sampling_line(report)} They do not count that another corpus would train "
        f"other networks. The lower rows are without the network, on the same folds; like it, they learn from the {learnt}."
    )
    if paper:
        lines.append("The paper does not say how it chose the epoch; its figures and ours are not of the same protocol.")
    oracle = pooled_oracle(report["variants"]["full"])
    lines += ["", *([f"*{oracle}.*", ""] if oracle else [])]
    return [*lines, *(_tasks(report) if shown else []), *(_sizes(report) + _times(report) if several else [])]


def _not_run(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Systems of Table 2 that this run does not have, by their years: title and published figures."""
    modules = {name: module for name, module in model.NETWORKS.items() if hasattr(module, "PUBLISHED")}
    there = {name: {"title": module.TITLE, "published": module.PUBLISHED} for name, module in modules.items()}
    run = {system["network"] for system in report["systems"].values()}
    return {name: row for name, row in sorted((NOT_HERE | there).items(), key=lambda item: year(item[0])) if name not in run}


def _published(report: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The figures that the paper of a variant has for it."""
    if name in report["systems"]:
        return report["systems"][name]["published"]
    if report["config"]["network"] == "li2019" and name in PAPER_ABLATION:
        return dict(zip(("wa", "ua"), PAPER_ABLATION[name], strict=True))
    return None


def _percent(published: dict[str, Any] | None) -> list[str]:
    """WA and UA."""
    return [f"{published[name]:.1%}" for name in ("wa", "ua")] if published else ["-", "-"]


def _tasks(report: dict[str, Any]) -> list[str]:
    """What the published figures were measured on."""
    rows = {system["network"]: system for system in report["systems"].values() if system["published"]}
    rows |= _not_run(report) if is_the_papers(report) else {}
    tasks = {rows[name]["title"]: rows[name]["published"]["task"] for name in sorted(rows, key=year)}
    if not tasks:
        return []
    differ = ", and no two of these share a task" if len(set(tasks.values())) == len(tasks) > 1 else ""
    return [
        f"Each published figure is of its paper's own task and protocol{differ}. They say what the papers found, and can be "
        "compared neither with these rows nor with each other:",
        "",
        *(f"- {name}: {task}" for name, task in tasks.items()),
        "",
    ]


def _sizes(report: dict[str, Any]) -> list[str]:
    """Parameters of each system, and what was tried to choose its settings."""
    rows = []
    for name in (name for name in in_order(report) if name in report["systems"]):
        system, found = report["systems"][name], report["variants"][name]
        values = "; ".join(f"{setting} {', '.join(map(str, given))}" for setting, given in system["choices"].items())
        c = system["config"]
        epoch = f"the last of {c['epochs']}" if c["select"] == "last" else f"by {c['select']}, of {c['epochs']}"
        held = f" and {found['state']:,} held beside" if found["state"] else ""
        rows.append([system["name"], f"{found['parameters']:,}{held}", system["tried"], values or None, epoch])
    return [
        table(["system", "parameters", "settings tried", "which", "epoch"], rows),
        "Folds, validation groups and seeds are the same for all. What is tried, and the epoch where it is chosen, is decided "
        "by the validation group, never by the test group. Held beside is what is solved, or follows the batches.",
        "",
    ]


def _times(report: dict[str, Any]) -> list[str]:
    """Seconds: all of a report that differs from one run to the next."""
    seconds = report["run"].get("seconds_of", {})
    rows = [
        [report["systems"][name]["name"], *(_seconds(seconds[name][what]) for what in ("training", "answering"))]
        for name in in_order(report)
        if name in report["systems"] and name in seconds
    ]
    return [
        table(["system", "seconds of training a network", "seconds of answering a minute of speech"], rows),
        "The mean over folds and seeds, on this machine, beside other jobs; features are computed before. Training that was "
        "stopped and went on is not counted.",
        "",
    ]


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.3g}"


def terminal(report: dict[str, Any]) -> list[str]:
    """The scores of every system and baseline as the terminal shows them; of several systems, what they take as well."""
    rows = {name: report["variants"][name] for name in in_order(report)} | report["baselines"]
    names = {name: title(name) for name in rows}
    if are_several(report):
        names["full"] = f"full model, {report['systems']['full']['name']}"
    width = max(map(len, names.values()))
    lines = [
        f"{names[name]:<{width}}  " + "  ".join(f"{t} {score_cell(row, k)}" for k, t in SCORES.items())
        for name, row in rows.items()
    ]
    if not are_several(report):
        return lines
    lines.append("")
    for name in (name for name in in_order(report) if name in report["systems"]):
        seconds = report["run"]["seconds_of"][name]
        training, answering = (_seconds(seconds[what]) or "-" for what in ("training", "answering"))
        lines.append(
            f"{names[name]:<{width}}  {report['variants'][name]['parameters']:>9,} parameters  {training:>6} s of training  "
            f"{answering:>6} s for a minute of speech"
        )
    return lines

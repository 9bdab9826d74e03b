"""`npser info`: what a model file says about itself."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from npser import checkpoint, model
from npser.commands import terminal
from npser.experiment.report import calibration_line, score_line

NEEDED = {"preset", "corpora", "split", "speakers", "seed", "versions", "licence", "notices", "scores"}


def run(args: argparse.Namespace) -> int:
    """Run `npser info`; returns its exit status."""
    found = card(args.model)
    print(json.dumps(found, indent=2) if args.json else text(terminal.printable(found)))
    return 0


def card(path: Path) -> dict[str, Any]:
    """Everything but the tensors. ValueError where path is not a model file."""
    trained = checkpoint.load(path)
    missing = NEEDED - trained.training.keys()
    if missing:
        raise ValueError(f"{path}: its metadata lacks {', '.join(sorted(missing))}; expected a model file of npser train")
    return {
        "path": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
        "parameters": sum(trained.tensors[name].size for name in trained.shapes),
        "labels": trained.labels,
        "temperature": trained.temperature,
        "config": dataclasses.asdict(trained.config),
        "shapes": {name: list(shape) for name, shape in trained.shapes.items()},
        "training": trained.training,
    }


def text(card: dict[str, Any]) -> str:
    """The card as the terminal shows it."""
    training, c, labels = card["training"], card["config"], card["labels"]
    split, scores, speakers = training["split"], training["scores"], training["speakers"]
    config = model.restored(c)
    network = model.module_of(config)
    preset = dataclasses.asdict(network.PRESETS[training["preset"]]) if training["preset"] in network.PRESETS else c
    changed = [f"{name} {value}" for name, value in c.items() if value != preset[name] and name != "seed"]
    who = f"{len(speakers)} speakers" if speakers else "unknown speakers"
    lines = [
        f"model       {card['path']} ({card['bytes'] / 1e6:.2f} MB)",
        f"sha256      {card['sha256']}",
        f"emotions    {', '.join(labels['emotion'])}",
        f"genders     {', '.join(labels['gender'] or ['not told apart'])}",
        f"network     {config.network}, {card['parameters']:,} parameters: {network.describe(config)}",
        f"input       {c['max_seconds']:g} s windows, {'zero-padded' if c['pad'] else 'natural length'}"
        + (", all at one level" if c["level"] else "")
        + (f", {network.describe_input(config)}" if network.describe_input(config) else ""),
        f"trained on  {', '.join(training['corpora'])}; {who}" + (f": {_some(speakers)}" if speakers else ""),
        f"settings    preset {training['preset']}, seed {training['seed']}" + (f"; {', '.join(changed)}" if changed else ""),
        f"split       by {split['method']}, test {split['test_session'] or '-'}, "
        f"validation {split['validation_session'] or '-'}, hash {split['hash'][:16]}",
    ]
    for part in ("validation", "test"):
        found = scores.get(part)
        if found:
            lines.append(f"{part:<12}{score_line(found)}  (epoch {scores['epoch']}, {np.sum(found['confusion'])} utterances)")
            recall = zip(labels["emotion"], np.diag(found["confusion"]), np.sum(found["confusion"], axis=1), strict=True)
            lines.append(f"{'':<12}recall: {', '.join(f'{label} {right}/{there}' for label, right, there in recall)}")
        else:
            lines.append(f"{part:<12}none, so nothing is known of how well it does" if part == "test" else f"{part:<12}none")
    if "calibration" in scores:
        lines.append(f"calibrated  {calibration_line(scores['calibration']).removeprefix('calibration: ')}")
    lines.append(f"versions    {', '.join(f'{name} {version}' for name, version in training['versions'].items())}")
    lines.append(f"licence     {training['licence']}")
    return "\n".join(lines + [f"note        {notice}" for notice in training["notices"]])


def _some(names: list[str]) -> str:
    """As many names as fit on a line."""
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")

"""What a model file says about itself: `npser info`."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from npser import checkpoint
from npser.report import score_line

NEEDED = {"preset", "corpora", "split", "speakers", "seed", "versions", "licence", "notices", "scores"}


def card(path: Path) -> dict[str, Any]:
    """Everything but the tensors. ValueError where path is no model file."""
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
    training, c = card["training"], card["config"]
    split, scores = training["split"], training["scores"]
    heads = f"{c['n_attn']} attention heads" if c["attention"] else "mean over time in place of attention"
    lines = [
        f"model       {card['path']} ({card['bytes'] / 1e6:.2f} MB, sha256 {card['sha256'][:16]})",
        f"emotions    {', '.join(card['labels']['emotion'])}",
        f"genders     {', '.join(card['labels']['gender'] or ['not told apart'])}",
        f"network     {card['parameters']:,} parameters: {c['d_cnn']} filters, 2 x {c['d_lstm']} LSTM units, {heads}",
        f"input       {c['max_seconds']:g} s windows, {'zero-padded' if c['pad'] else 'natural length'}",
        f"trained on  {', '.join(training['corpora'])}; {len(training['speakers']) or 'unknown'} speakers; preset "
        f"{training['preset']}, seed {training['seed']}",
        f"split       by {split['method']}, test {split['test_session'] or '-'}, "
        f"validation {split['validation_session'] or '-'}, hash {split['hash'][:16]}",
    ]
    for part in ("validation", "test"):
        if scores.get(part):
            lines.append(f"{part:<12}{score_line(scores[part])}  (epoch {scores['epoch']})")
    lines.append(f"versions    {', '.join(f'{name} {version}' for name, version in training['versions'].items())}")
    lines.append(f"licence     {training['licence']}")
    return "\n".join([*lines, *training["notices"]])

"""`npser compare`: cross-validations over the same recordings, side by side."""

from __future__ import annotations

import argparse
import json

from npser.commands.terminal import UsageError
from npser.experiment import compare


def run(args: argparse.Namespace) -> int:
    """Run `npser compare`; returns its exit status."""
    if len(args.runs) < 2:
        raise UsageError(f"{args.runs[0]} alone cannot be compared; name two run folders of npser crossval, or more")
    found = compare.compare([compare.read(folder) for folder in args.runs])
    shown = {"text": compare.text, "markdown": compare.markdown, "json": lambda found: json.dumps(found, indent=2)}
    print(shown["json" if args.json else args.format](found))
    return 0

"""`npser compare`: cross-validations over the same recordings, side by side."""

from __future__ import annotations

import argparse
import json

from npser.commands.terminal import UsageError, printable
from npser.experiment import compare


def run(args: argparse.Namespace) -> int:
    """Run `npser compare`; returns its exit status."""
    if len(args.runs) < 2:
        raise UsageError(f"{args.runs[0]} alone cannot be compared; name two run folders of npser crossval, or more")
    found = compare.compare([compare.read(folder) for folder in args.runs])
    if args.json or args.format == "json":
        print(json.dumps(found, indent=2))
    else:
        shown = compare.text if args.format == "text" else compare.markdown
        print(shown(printable(found)))
    return 0

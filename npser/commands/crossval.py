"""`npser crossval`: from the words of the command line to a cross-validation, and its end on the terminal."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

from npser.commands import terminal
from npser.commands.train import configured, folder_name, prepared
from npser.corpora import synthetic
from npser.experiment import crossval, crossval_report, folds
from npser.experiment.jobs import Plan
from npser.experiment.run import SPEAKER_DEPENDENT
from npser.files import lock
from npser.store import default_cache
from npser.threads import available_cores
from npser.train import Run


def run(args: argparse.Namespace) -> int:
    """Run `npser crossval`; returns its exit status."""
    for name in ("seeds", "workers"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise terminal.UsageError(f"--{name} {getattr(args, name)}: expected at least 1")
    config = configured(args)
    if args.refit and (config.schedule != "constant" or config.warmup) and config.select != "last":
        why = f"schedule={config.schedule}" if config.schedule != "constant" else f"warmup={config.warmup:g}"
        raise ValueError(f"--refit: with {why} no epoch can be trained to alone; add --set select=last")
    say = terminal.say_to(sys.stderr if args.json else sys.stdout)
    try:
        with terminal.pool(args.threads) as pool:
            data = prepared(args, args.data, config, pool, say)
            overlap = args.allow_speaker_overlap
            parts = folds.make_folds(data.utterances, args.folds, config.seed, overlap, data.content)
            told = folds.fold_warnings(parts)
            if any(u.split for u in data.utterances):
                told.append("the split column is not used: every fold is tested in turn")
            for text in told:
                warnings.warn(text, stacklevel=1)
            branded = [SPEAKER_DEPENDENT] if any(fold.split.speaker_dependent for fold in parts) else []
            folder = terminal.made(args.out or Path("runs", folder_name(args, data, config, f"crossval-{args.folds}")))
            tested = ", ".join(terminal.printable(fold.name) for fold in parts)
            say(f"folds     {len(parts)} by {args.folds}, tested in turn: {tested}")
            say(f"run       {terminal.printable(str(folder))}, preset {args.preset}, {config.epochs} epochs")
            choices: Any = {name: getattr(args, name) for name in ("seeds", "ablate", "refit")}
            plan = Plan(parts, args.folds, config, args.preset, oracle=not args.no_oracle, **choices)
            threads = args.threads or available_cores()
            workers = crossval.Workers(args.workers or threads, threads, args.dask, terminal.warn_in_a_line)
            place, notices = Run(folder, pool, say, terminal.progress), [*synthetic.notices(data.names), *branded, *told]
            with lock(folder / ".lock", wait=False):
                found = crossval.run(data, plan, place, args.cache or default_cache(), workers, notices)
    except KeyboardInterrupt:
        print(f"npser: interrupted; go on with: npser {shlex.join(sys.argv[1:])}", file=sys.stderr)
        return terminal.INTERRUPTED
    say(f"\n{crossval_report.terminal(terminal.printable(found))}\n\nreport    {terminal.printable(str(folder / 'report.md'))}")
    if args.json:
        print(json.dumps(found, indent=2))
    return 0

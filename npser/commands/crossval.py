"""`npser crossval`: from the words of the command line to a cross-validation, and its end on the terminal."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from npser import model
from npser.commands import terminal
from npser.commands.train import configured, counted, folder_name, prepared, read
from npser.corpora import synthetic
from npser.dataset import Dataset
from npser.experiment import crossval, crossval_report, folds, material, systems
from npser.experiment.folds import Fold
from npser.experiment.jobs import Plan
from npser.experiment.run import SPEAKER_DEPENDENT, TEXT_INFORMED
from npser.experiment.systems import Variant
from npser.files import lock
from npser.store import Store, default_cache
from npser.threads import available_cores
from npser.train import Run


def run(args: argparse.Namespace) -> int:
    """Run `npser crossval`; returns its exit status."""
    for name in ("seeds", "workers"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise terminal.UsageError(f"--{name} {getattr(args, name)}: expected at least 1")
    variants, told = _variants(args)
    say = terminal.say_to(sys.stderr if args.json else sys.stdout)
    try:
        with terminal.pool(args.threads) as pool:
            data, heard, style = _material(args, variants, pool, say)
            parts = _folds(args, data, variants["full"].config.seed, told)
            branded = [SPEAKER_DEPENDENT] if any(fold.split.speaker_dependent for fold in parts) else []
            branded += [TEXT_INFORMED] if model.reads_text(variants["full"].config) else []
            kind = "-".join(["crossval", args.folds, *([args.style] if args.style else [])])
            folder = terminal.made(args.out or Path("runs", folder_name(args, data, variants["full"].config, kind)))
            tested = ", ".join(terminal.printable(fold.name) for fold in parts)
            say(f"folds     {len(parts)} by {args.folds}, tested in turn: {tested}")
            _tell_systems(variants, say)
            full = variants["full"].config
            what = f"{full.network}, preset {args.preset}, {_epochs(full.epochs)}"
            say(f"run       {terminal.printable(str(folder))}, {what}")
            plan = Plan(parts, args.folds, variants, args.seeds, args.refit, not args.no_oracle, style, args.adapt)
            threads = args.threads or available_cores()
            workers = crossval.Workers(args.workers or threads, threads, args.dask, terminal.warn_in_a_line)
            place, notices = Run(folder, pool, say, terminal.progress), [*synthetic.notices(data.names), *branded, *told]
            with lock(folder / ".lock", wait=False):
                found = crossval.run(data, heard, plan, place, args.cache or default_cache(), workers, notices)
    except KeyboardInterrupt:
        print(f"npser: interrupted; go on with: npser {shlex.join(sys.argv[1:])}", file=sys.stderr)
        return terminal.INTERRUPTED
    say(f"\n{crossval_report.terminal(terminal.printable(found))}\n\nreport    {terminal.printable(str(folder / 'report.md'))}")
    if args.json:
        print(json.dumps(found, indent=2))
    return 0


def _variants(args: argparse.Namespace) -> tuple[dict[str, Variant], list[str]]:
    """The networks that the command line asks for, and what there is to say of those that are left out."""
    full = Variant(configured(args), args.preset)
    try:
        others = systems.chosen(args.systems, full.config.seed, args.epochs, args.balance) if args.systems is not None else {}
    except model.UnknownName as error:
        raise terminal.UsageError(str(error)) from None
    variants, told = systems.variants(full, args.ablate or systems.names_all(args.systems), others)
    left_out = [name for name in systems.too_large(systems.all_systems()) if name not in others]
    if systems.names_all(args.systems) and left_out:
        told.append(f"{', '.join(left_out)}: left out of all, since its preset reduced stands for it; name it to train it too")
    if args.refit:
        systems.refuse_refit(variants)
    return variants, told


def _material(
    args: argparse.Namespace, variants: dict[str, Variant], pool: ThreadPoolExecutor, say: Any
) -> tuple[Dataset, dict[str, Store], dict[str, Any] | None]:
    """The full model's data, what the linear baselines hear, and the style that alone is kept."""
    corpus, style = read(args, args.data, say), None
    if args.style is not None:
        corpus, others = material.of_style(corpus, args.style)
        style = {"name": args.style, "left_out": others}
        left_out = ", ".join(f"{count} {name}" for name, count in others.items()) or "nothing"
        say(f"style     {terminal.printable(args.style)}: {counted(corpus)}; left out: {terminal.printable(left_out)}")
    configs = [variant.config for variant in variants.values()]
    baselines = material.of_baselines(configs)
    found = prepared(args, corpus, [*configs, *baselines.values()], pool, say)
    heard = {name: data.store for name, data in zip(baselines, found[len(configs) :], strict=True)}
    return found[0], heard, style


def _folds(args: argparse.Namespace, data: Dataset, seed: int, told: list[str]) -> list[Fold]:
    """The folds, and in told what there is to say of them."""
    parts = folds.make_folds(data.utterances, args.folds, seed, args.allow_speaker_overlap, data.content)
    warned = folds.fold_warnings(parts)
    if any(u.split for u in data.utterances):
        warned.append("the split column is not used: every fold is tested in turn")
    for text in warned:
        warnings.warn(text, stacklevel=1)
    told.extend(warned)
    return parts


def _epochs(number: int) -> str:
    return f"{number} epoch{'s' * (number != 1)}"


def _tell_systems(variants: dict[str, Variant], say: Any) -> None:
    """Which systems are compared, where there are several, and how long each is trained."""
    named = {name: variant.config.epochs for name, variant in variants.items() if name == systems.name_of(variant)}
    if named:
        epochs = ", ".join(f"{name} ({_epochs(number)})" for name, number in named.items())
        say(f"systems   {systems.name_of(variants['full'])} is the full model; beside it {epochs}")

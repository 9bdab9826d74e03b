"""`npser train` and `npser crossval`: from the words of the command line to a run, and its end on the terminal."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from npser import corpora, crossval_report, dataset, experiment, folds, report, split, terminal
from npser import crossval as crossvalidation
from npser.config import PRESETS, Config, override, parse_setting, read_toml
from npser.corpora import synthetic
from npser.dataset import Dataset
from npser.experiment import SPEAKER_DEPENDENT
from npser.store import default_cache, lock
from npser.threads import available_cores
from npser.train import compile_kernels

SYNTHETIC_UTTERANCES, SYNTHETIC_SEED = 400, 0


def train(args: argparse.Namespace) -> int:
    """Run `npser train`; returns its exit status."""
    if args.data and args.synthetic_utterances is not None:
        raise ValueError("--synthetic-utterances is the size of the corpus that serves without DATA; leave one of the two out")
    config = _config(args)
    say = terminal.say_to(sys.stderr if args.json else sys.stdout)
    folder = None
    try:
        with terminal.pool(args.threads) as pool:
            data = _prepare(args, args.data or [_synthetic(args)], config, pool, say)
            parts = split.make_split(
                data.utterances, args.test_session, args.val_session, config.seed, args.allow_speaker_overlap, data.content
            )
            say(f"split     {_split_text(data, parts)}")
            for text in parts.warnings:
                warnings.warn(text, stacklevel=1)
            held_out = (parts.test_session or "none").rpartition("/")[2]
            folder = _run_folder(args, f"{'+'.join(data.names)}-{args.preset}-test{held_out}-seed{config.seed}")
            say(f"run       {folder}, preset {args.preset}, {config.epochs} epochs, seed {config.seed}")
            found = experiment.run(
                data,
                parts,
                config,
                args.preset,
                folder,
                pool,
                notices=synthetic.notices(data.names),
                resume=args.resume,
                oracle=not args.no_oracle,
                say=say,
                progress=terminal.progress,
            )
    except KeyboardInterrupt:
        again = [word for word in sys.argv[1:] if word != "--resume"]
        out = ["--out", str(folder)] if folder is not None and args.out is None else []
        print(f"npser: interrupted; go on with: npser {shlex.join([*again, *out, '--resume'])}", file=sys.stderr)
        return terminal.INTERRUPTED
    say(f"\n{report.terminal(found)}")
    say(f"\nreport    {folder / 'report.md'}\nmodel     {folder / 'model.safetensors'}")
    if args.json:
        print(json.dumps(found, indent=2))
    return 0


def _prepare(args: argparse.Namespace, places: list[Path], config: Config, pool: ThreadPoolExecutor, say: Any) -> Dataset:
    """Read corpora, compile the kernels, and find or compute the features, saying so."""
    labels = None if args.labels is None else args.labels.split(",")
    cache = args.cache or default_cache()
    corpus = corpora.load(places, args.corpus, labels, args.skip_bad)
    counts = ", ".join(f"{sum(u.emotion == label for u in corpus.utterances)} {label}" for label in corpus.labels)
    what = "" if args.data else ", the synthetic corpus, since no DATA is named"
    say(f"data      {', '.join(map(str, places))}{what}")
    say(f"          {len(corpus.utterances)} utterances: {counts}")
    if corpus.dropped:
        dropped = ", ".join(f"{count} {emotion}" for emotion, count in corpus.dropped.items())
        say(f"          left out, being of other classes: {dropped}; --labels chooses the classes")
    with terminal.compiling(say):
        compile_kernels()
    data = dataset.prepare(corpus, config, cache, pool, terminal.progress, args.skip_bad)
    say(f"features  kept in {cache}")
    return data


def crossval(args: argparse.Namespace) -> int:
    """Run `npser crossval`; returns its exit status."""
    for name in ("seeds", "workers"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} {getattr(args, name)}: expected at least 1")
    config = _config(args)
    if args.refit and config.schedule != "constant" and config.select != "last":
        raise ValueError(f"--refit: with schedule={config.schedule} no epoch can be trained to alone; add --set select=last")
    say = terminal.say_to(sys.stderr if args.json else sys.stdout)
    try:
        with terminal.pool(args.threads) as pool:
            data = _prepare(args, args.data, config, pool, say)
            overlap = args.allow_speaker_overlap
            parts = folds.make_folds(data.utterances, args.folds, config.seed, overlap, data.content)
            told = folds.fold_warnings(parts)
            if any(u.split for u in data.utterances):
                told.append("the split column is not used: every fold is tested in turn")
            for text in told:
                warnings.warn(text, stacklevel=1)
            branded = [SPEAKER_DEPENDENT] if any(fold.split.speaker_dependent for fold in parts) else []
            name = _folder_name(f"{'+'.join(data.names)}-{args.preset}-crossval-{args.folds}")
            folder = _make_folder(args.out or Path("runs", name))
            tested = ", ".join(fold.name for fold in parts)
            say(f"folds     {len(parts)} by {args.folds}, tested in turn: {tested}")
            say(f"run       {folder}, preset {args.preset}, {config.epochs} epochs")
            found = crossvalidation.run(
                data,
                parts,
                args.folds,
                config,
                args.preset,
                folder,
                (args.cache or default_cache()),
                pool,
                seeds=args.seeds,
                ablate=args.ablate,
                refit=args.refit,
                oracle=not args.no_oracle,
                workers=args.workers,
                threads=args.threads or available_cores(),
                dask=args.dask,
                notices=[*synthetic.notices(data.names), *branded, *told],
                say=say,
                progress=terminal.progress,
            )
    except KeyboardInterrupt:
        print(f"npser: interrupted; go on with: npser {shlex.join(sys.argv[1:])}", file=sys.stderr)
        return terminal.INTERRUPTED
    say(f"\n{crossval_report.terminal(found)}\n\nreport    {folder / 'report.md'}")
    if args.json:
        print(json.dumps(found, indent=2))
    return 0


def _config(args: argparse.Namespace) -> Config:
    """Preset, then --config, then --set, then flags of their own: each over the one before."""
    config = PRESETS[args.preset]
    if args.config:
        config = override(config, read_toml(args.config))
    config = override(config, dict(parse_setting(text) for text in args.set))
    return override(config, {name: getattr(args, name) for name in ("epochs", "seed") if getattr(args, name) is not None})


def _synthetic(args: argparse.Namespace) -> Path:
    """The synthetic corpus in the cache, made now if it is not there. It is the same for every training seed."""
    utterances = SYNTHETIC_UTTERANCES if args.synthetic_utterances is None else args.synthetic_utterances
    folder = (args.cache or default_cache()) / f"synthetic-{SYNTHETIC_SEED}-{utterances}"

    def progress(numbers: Any) -> Any:
        return terminal.progress(numbers, desc="synthetic corpus", unit="file")

    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock(folder.with_suffix(".lock")):
        if not (folder / "manifest.csv").exists():
            synthetic.generate(folder, utterances, SYNTHETIC_SEED, progress)
    return folder


def _split_text(data: Any, parts: Any) -> str:
    """Sizes of the parts, and the sessions that are held out."""
    named = ((parts.validation, "validation", parts.validation_session), (parts.test, "test", parts.test_session))
    texts = [f"train {len(parts.train)}"]
    texts += [f"{part} {len(members)}" + (f" (session {session})" if session else "") for members, part, session in named]
    return f"{', '.join(texts)} utterances, by {parts.method}" if data.utterances and parts.method != "none" else texts[0]


def _run_folder(args: argparse.Namespace, name: str) -> Path:
    """The folder of a new run, or of the one to resume; made if it is not there."""
    if args.out is not None:
        folder = args.out
        if not args.resume and (folder / "report.json").exists():
            raise ValueError(f"--out {folder}: holds a finished run; name another folder")
        if not args.resume and (folder / "metrics.jsonl").exists():
            raise ValueError(f"--out {folder}: holds an unfinished run; go on with it with --resume, or name another folder")
    else:
        name = _folder_name(name)
        folder, number = Path("runs", name), 1
        while folder.exists():
            following = Path("runs", f"{name}-{number + 1}")
            if args.resume and not following.exists():
                break
            folder, number = following, number + 1
    return _make_folder(folder)


def _folder_name(name: str) -> str:
    """A name for a run folder: corpora may be called anything."""
    return re.sub(r"[^\w.+-]+", "-", name).strip(".-")[:100]


def _make_folder(folder: Path) -> Path:
    """A folder that can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {folder}: cannot be made ({error.strerror}); name another folder") from None
    return folder

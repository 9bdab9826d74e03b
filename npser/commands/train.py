"""`npser train`: from the words of the command line to a run, and its end on the terminal; what `npser crossval` shares."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shlex
import sys
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import soundfile

from npser import corpora, dataset, model, split
from npser.commands import launched, terminal
from npser.config import Config, parse_setting, read_toml
from npser.corpora import Corpus, synthetic
from npser.corpora.labels import parse_map
from npser.dataset import Dataset
from npser.experiment import elsewhere, material, report
from npser.experiment.run import run as run_experiment
from npser.files import lock
from npser.network import compile_kernels
from npser.ranks import Ranks
from npser.split import Split
from npser.store import default_cache
from npser.train import Run, refuse_ranks

SYNTHETIC_UTTERANCES, SYNTHETIC_SEED = 400, 0


def run(args: argparse.Namespace) -> int:
    """Run `npser train`; returns its exit status. Under an MPI launcher every rank does this, and the first alone is heard."""
    comm = launched.world()
    end = launched.Ending(comm, _again(args, comm))
    try:
        with launched.ending(end):
            folder, found = _trained(args, end)
    except KeyboardInterrupt:
        print(f"npser: interrupted; go on with: {end.again}", file=sys.stderr)
        return terminal.INTERRUPTED
    say = terminal.say_to(sys.stderr if args.json else sys.stdout)
    say(f"\n{report.terminal(terminal.printable(found))}")
    shown = terminal.printable(str(folder))
    say(f"\nreport    {shown}/report.md\nmodel     {shown}/model.safetensors")
    if args.json:
        print(json.dumps(found, indent=2))
    return 0


def _trained(args: argparse.Namespace, end: launched.Ending) -> tuple[Path, dict[str, Any]]:
    """The run's folder and its report."""
    say, comm = terminal.say_to(sys.stderr if args.json else sys.stdout), end.comm
    share = None if comm is None else launched.threads_of(comm)
    with terminal.pool(share if args.threads is None else args.threads) as pool, contextlib.ExitStack() as held:
        ranks = Ranks(pool, comm, lambda: end.stopped)
        if unlike := ranks.unlike(sys.argv[1:]):
            raise terminal.UsageError(
                f"{', '.join(unlike)}: has other words on the command line than rank 0; give all the same"
            )
        config, preset, data, parts = ranks.first(_begun, args, say, ranks.size)
        compile_kernels(config)  # of other ranks; those of the first are
        data = dataset.shared(data, config, ranks)
        folder = ranks.first(_run_folder, args, data, parts, config)
        end.go_on_with(_again(args, comm, folder))
        shared = f", {ranks.size} ranks" if ranks.size > 1 else ""
        say(f"run       {terminal.printable(str(folder))}, preset {preset}, {config.epochs} epochs, seed {config.seed}{shared}")
        place, notices = Run(folder, pool, say, terminal.progress, ranks), synthetic.notices(data.names)
        choices: Any = {"resume": args.resume, "oracle": not args.no_oracle}
        ranks.first(lambda: held.enter_context(lock(folder / ".lock", wait=False)))
        return folder, run_experiment(data, parts, config, preset, place, notices=notices, **choices)


def _begun(args: argparse.Namespace, say: Any, ranks: int) -> tuple[Config, str, Dataset, Split]:
    """What a run is made of: its settings, the preset that they started from, its data and their parts. On all threads."""
    if args.data and args.synthetic_utterances is not None:
        raise ValueError("--synthetic-utterances is the size of the corpus that serves without DATA; leave one of the two out")
    config = configured(args)
    refuse_ranks(config, ranks)
    with terminal.pool(args.threads) as pool:
        (data,) = prepared(args, read(args, args.data or [_synthetic(args)], say), [config], pool, say)
    parts = split.make_split(
        data.utterances, args.test_session, args.val_session, config.seed, args.allow_speaker_overlap, data.content
    )
    say(f"split     {terminal.printable(_split_text(data, parts))}")
    for text in parts.warnings:
        warnings.warn(text, stacklevel=1)
    return config, args.preset, data, parts


def _again(args: argparse.Namespace, comm: Any, folder: Path | None = None) -> str:
    """The words that go on with a run. folder: its own, once that is known."""
    words = [word for word in sys.argv[1:] if word != "--resume"]
    out = ["--out", str(folder)] if folder is not None and args.out is None else []
    launcher = ["mpiexec", "-n", str(comm.size)] if comm is not None else []
    return shlex.join([*launcher, "npser", *words, *out, "--resume"])


def read(args: argparse.Namespace, places: list[Path], say: Any) -> Corpus:
    """Read corpora, saying what they hold."""
    labels = None if args.labels is None else args.labels.split(",")
    corpus = corpora.load(places, args.corpus, labels, args.skip_bad, parse_map(args.map))
    what = "" if args.data else ", the synthetic corpus, since no DATA is named"
    say(f"data      {terminal.printable(', '.join(map(str, places)))}{what}")
    say(f"          {counted(corpus)}")
    if corpus.dropped:
        dropped = ", ".join(f"{count} {emotion}" for emotion, count in terminal.printable(corpus.dropped).items())
        say(f"          left out, being of other classes: {dropped}; --labels chooses the classes")
    return corpus


def counted(corpus: Corpus) -> str:
    """How many utterances there are of each class."""
    emotions = Counter(u.emotion for u in corpus.utterances)
    counts = ", ".join(f"{emotions[label]} {terminal.printable(label)}" for label in corpus.labels)
    return f"{len(corpus.utterances)} utterances: {counts}"


def prepared(
    args: argparse.Namespace, corpus: Corpus, configs: list[Config], pool: ThreadPoolExecutor, say: Any
) -> list[Dataset]:
    """Compile the kernels, and find or compute the features of each network, saying so."""
    cache = args.cache or default_cache()
    with terminal.compiling(say):
        compile_kernels(*configs)
    there = None if args.dask is None else lambda config: elsewhere.features_on(args.dask, config, say)
    found = material.prepare(corpus, configs, cache, pool, terminal.progress, args.skip_bad, there)
    say(f"features  kept in {cache}")
    return found


def configured(args: argparse.Namespace) -> Config:
    """Preset, then --config, then --set, then flags of their own: each over the one before. Names the preset in args."""
    settings = read_toml(args.config) if args.config else {}
    settings |= dict(parse_setting(text) for text in args.set)
    flags = ("network", "epochs", "seed", "balance")
    settings |= {name: getattr(args, name) for name in flags if getattr(args, name) is not None}
    try:
        config, args.preset = model.configured(settings, args.preset)
    except model.UnknownName as error:
        raise terminal.UsageError(str(error)) from None
    return config


def _synthetic(args: argparse.Namespace) -> Path:
    """The synthetic corpus in the cache, made now if it is not there. It is the same for every training seed."""
    utterances = SYNTHETIC_UTTERANCES if args.synthetic_utterances is None else args.synthetic_utterances
    folder = (args.cache or default_cache()) / f"synthetic-{SYNTHETIC_SEED}-{utterances}"

    def progress(numbers: Any) -> Any:
        return terminal.progress(numbers, desc="synthetic corpus", unit="file")

    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock(folder.with_suffix(".lock")):
        if not (folder / "manifest.csv").exists():
            try:
                synthetic.generate(folder, utterances, SYNTHETIC_SEED, progress)
            except (OSError, soundfile.SoundFileError) as error:  # libsndfile says "System error" of a full disk
                reason = getattr(error, "strerror", None) or "is there room?"
                problem = f"the synthetic corpus cannot be written ({reason})"
                raise ValueError(f"{folder}: {problem}; make room, or name another place with --cache") from None
    return folder


def _split_text(data: Any, parts: Any) -> str:
    """Sizes of the parts, and the sessions that are held out."""
    named = ((parts.validation, "validation", parts.validation_session), (parts.test, "test", parts.test_session))
    texts = [f"train {len(parts.train)}"]
    texts += [f"{part} {len(members)}" + (f" (session {session})" if session else "") for members, part, session in named]
    return f"{', '.join(texts)} utterances, by {parts.method}" if data.utterances and parts.method != "none" else texts[0]


def _run_folder(args: argparse.Namespace, data: Dataset, parts: Any, config: Config) -> Path:
    """The folder of a new run, or of the one to resume; made if it is not there."""
    if args.out is not None:
        folder = args.out
        if not args.resume and (folder / "report.json").exists():
            raise ValueError(f"--out {folder}: holds a finished run; name another folder")
        if not args.resume and (folder / "metrics.jsonl").exists():
            raise ValueError(f"--out {folder}: holds an unfinished run; go on with it with --resume, or name another folder")
    else:
        held_out = (parts.test_session or "none").rpartition("/")[2]
        name = folder_name(args, data, config, f"test{held_out}-seed{config.seed}")
        folder, number = Path("runs", name), 1
        while folder.exists():
            following = Path("runs", f"{name}-{number + 1}")
            if args.resume and not following.exists():
                return folder
            folder, number = following, number + 1
    return terminal.made(folder)


def folder_name(args: argparse.Namespace, data: Dataset, config: Config, rest: str) -> str:
    """A name for a run folder: corpora may be called anything."""
    network = "" if config.network == "li2019" else f"{config.network}-"
    return re.sub(r"[^\w.+-]+", "-", f"{'+'.join(data.names)}-{network}{args.preset}-{rest}").strip(".-")[:100]

"""The command line: its grammar, the call of a command's ``run``, and what is said of errors.

A command's file is imported when it is called, so that `npser predict` and `npser --help` start at once.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from pathlib import Path
from typing import Any

from npser import SHIPPED, __version__
from npser.commands import terminal


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns its exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    # Before NumPy: nothing can limit Accelerate's threads later, and idle ones of OpenBLAS would slow a single prediction
    for variable in ("VECLIB_MAXIMUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    terminal.warn_in_a_line()
    sys.stdin, sys.stdout = sys.stdin or open(os.devnull), sys.stdout or open(os.devnull, "w")  # noqa: SIM115 (closed by the caller)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may be anything
        utf8 = sys.stdout.encoding.lower().replace("-", "") == "utf8"
        sys.stdout.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")
    status = _run(_parser().parse_args(argv))
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1 if isinstance(error, BrokenPipeError) else _fail(error)
    return status


def _run(args: argparse.Namespace) -> int:
    """The command, and what is said of its errors."""
    try:
        return importlib.import_module(f"npser.commands.{args.command}").run(args)
    except KeyboardInterrupt:
        print("npser: interrupted", file=sys.stderr)
        return terminal.INTERRUPTED
    except BrokenPipeError:  # what reads our output, such as head, has had enough
        return 1
    except terminal.UsageError as error:
        return _fail(error, 2)
    except (ValueError, OSError, MemoryError) as error:
        return _fail(error)
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        return _fail(f"internal error ({type(error).__name__}: {error}); python -X dev -m npser shows where; please report it")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="npser", description="Speech emotion recognition with hand-written gradients.")
    parser.add_argument("--version", action="version", version=f"npser {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, text: str, among: Any = commands, command: str | None = None) -> argparse.ArgumentParser:
        sub = among.add_parser(name, help=text[0].lower() + text[1:], description=f"{text}.")
        sub.set_defaults(command=command or name, name=name)
        sub.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
        return sub

    _train(add("train", "Train on a corpus, and score once on a session that training never saw"))
    text = "Test every session in turn and report all of it, beside baselines; the same command goes on after a stop"
    _crossval(add("crossval", text))
    compare = add("compare", "Show how cross-validations over the same recordings differ, each from the first, with intervals")
    compare.add_argument("runs", type=_path, nargs="+", metavar="RUN", help="run folder of npser crossval; two or more")
    text = "(default: text; --json is json)"
    compare.add_argument("--format", choices=("text", "markdown", "json"), default="text", help=text)
    evaluate = add("evaluate", "Score a trained model on labelled recordings")
    evaluate.add_argument("model", type=_path, metavar="MODEL", help="model.safetensors of a run")
    _add_data(evaluate, "+", "")
    _add_adapt(evaluate, ("recording", "folder", "speaker"), "in DATA, labels unseen")
    _predict(add("predict", "Name the emotion of recordings"))
    _live(add("live", "Name the emotion of sound that goes on, second by second"))
    _serve(add("serve", "Name the emotion of speech over HTTP and WebSocket, until it is stopped"))
    text = "Show a recording, the attention of the network and its answers, as a page for a browser"
    explain = add("explain", text)
    explain.add_argument("audio", type=lambda text: str(_path(text)), metavar="AUDIO", help="audio file")
    _add_model(explain)
    text = "page to write; or with matplotlib .png, .pdf or .svg"
    explain.add_argument("--out", type=_path, required=True, metavar="PAGE.html", help=text)

    data = commands.add_parser("data", help="list, check and convert corpora", description="List, check and convert corpora.")
    kinds = data.add_subparsers(required=True, metavar="COMMAND")
    text = "List the corpora that are read, their sizes where known, and how their files are named"
    add("list", text, kinds, "data")
    text = "Count what a corpus holds; exit status 1 where files are missing or unreadable, or counts not as published"
    _add_place(add("check", text, kinds, "data"))
    convert = add("convert", "Write the manifest of a corpus, to train from instead", kinds, "data")
    _add_place(convert)
    convert.add_argument("out", type=_path, metavar="OUT.csv", help="manifest to write; must not exist")

    cache = add("cache", "List what is kept of features, and remove it; a run computes anew what it needs")
    _add_cache(cache)
    cache.add_argument("--remove", nargs="+", default=[], metavar="NAME", help="remove these")
    cache.add_argument("--unused", type=float, metavar="DAYS", help="remove what was not used for so long; 0: everything")

    export = add("export", "Write a network as an ONNX graph for other languages, or as a page that listens by itself")
    export.add_argument("model", type=_path, metavar="MODEL", help="model.safetensors of a run")
    export.add_argument("out", type=_path, metavar="OUT.onnx|OUT.html", help="file to write")
    export.add_argument("--with-features", action="store_true", help="take the waveform at 16 kHz in place of its features")
    text = "model.safetensors of a run (default: the one that comes with npser)"
    info = add("info", "Show what a model file holds")
    info.add_argument("model", type=_path, nargs="?", default=Path(SHIPPED), metavar="MODEL", help=text)
    add("gradcheck", "Check every hand-written gradient against finite differences, on this machine")
    _add_threads(add("bench", "Time training, inference and features on this machine"))
    return parser


def _train(train: argparse.ArgumentParser) -> None:
    train.epilog = (
        "On several machines: mpiexec -n N npser train ..., with the extra mpi; --threads is then of each of N processes."
    )
    _add_data(train, "*", "; without any: a synthetic corpus, to see that all works")
    _add_training(train, "runs/CORPUS-PRESET-testS-seedN")
    train.add_argument("--test-session", metavar="S", help="session to test on, or none (default: the last)")
    train.add_argument("--val-session", metavar="V", help="session that validates, or none (default: the next one)")
    train.add_argument("--resume", action="store_true", help="go on with an interrupted run, given the same settings and data")
    _add_dask(train, "compute the features, not the training, on the Dask cluster of this scheduler")
    train.add_argument("--synthetic-utterances", type=int, metavar="N", help="size of the synthetic corpus (default: 400)")


def _crossval(crossval: argparse.ArgumentParser) -> None:
    _add_data(crossval, "+", "")
    _add_training(crossval, "runs/CORPUS-PRESET-crossval-FOLDS")
    text = "session, speaker, N groups of speakers, or corpus: each is tested without having been heard (default: session)"
    crossval.add_argument("--folds", default="session", metavar="BY", help=text)
    text = "networks of each fold, with seeds from --seed on (default: 1)"
    crossval.add_argument("--seeds", type=int, default=1, metavar="K", help=text)
    text = (
        "add the network's own ablation; where it has a gender loss, also the network without that, and with shuffled gender "
        "labels as a control"
    )
    crossval.add_argument("--ablate", action="store_true", help=text)
    text = (
        "compare with these systems of the literature, in one plan and report: NETWORK-PRESET, NETWORK for all of its presets, "
        "commas between them, or all, the whole table with --ablate; --epochs, --seed and --balance apply to all of them, "
        "--network, --preset, --config and --set to the full model only"
    )
    crossval.add_argument("--systems", metavar="A,B,C", help=text)
    text = "only utterances of this style, such as improvised, as the corpus or the manifest states it"
    crossval.add_argument("--style", metavar="NAME", help=text)
    _add_adapt(crossval, ("recording", "folder", "speaker"), "in the test group, labels unseen, and report both")
    text = "train with the validation group too, for the epochs it has chosen, or all"
    crossval.add_argument("--refit", action="store_true", help=text)
    text = "processes, which share the threads; each takes some 300 MB (default: one a thread, at most one a network)"
    crossval.add_argument("--workers", type=int, metavar="N", help=text)
    _add_dask(crossval, "run on the Dask cluster of this scheduler")


def _predict(predict: argparse.ArgumentParser) -> None:
    text = "audio file, folder, pattern such as 'calls/*.wav', or address such as s3://bucket/calls; - for standard input"
    predict.add_argument("audio", nargs="*", metavar="AUDIO", help=text)
    predict.add_argument("--from-file", type=_path, metavar="LIST", help="text file that names more, one on each line")
    _add_model(predict)
    _add_adapt(predict, ("recording", "folder"), "that are named here")
    text = "(default: text, with --out jsonl; --json is jsonl)"
    predict.add_argument("--format", choices=("text", "jsonl", "csv"), help=text)
    predict.add_argument("--timeline", action="store_true", help="add a row for every window, with its start and end")
    text = "no answer where the likeliest emotion has less (default: 0)"
    predict.add_argument("--min-confidence", type=float, default=0.0, metavar="P", help=text)
    text = "write the rows there in parts, each whole or not at all; the same command goes on after a stop"
    predict.add_argument("--out", type=_path, metavar="DIR", help=text)
    _add_dask(predict, "with --out: predict on the Dask cluster of this scheduler")
    predict.add_argument("--engine", choices=("auto", "lite", "numba"), default="auto", help=argparse.SUPPRESS)  # for tests
    _add_threads(predict)


def _live(live: argparse.ArgumentParser) -> None:
    live.epilog = "Samples from elsewhere: ffmpeg -i rtsp://camera -f s16le -ac 1 -ar 16000 - | npser live -"
    text = "audio file, or - for samples of one channel on standard input (default: the microphone)"
    live.add_argument("audio", nargs="?", metavar="FILE", help=text)
    _add_model(live)
    text = "seconds of speech from one answer to the next (default: 1)"
    live.add_argument("--every", type=float, default=1.0, metavar="S", help=text)
    text = "of the microphone, or of standard input, in Hz (default: 16000)"
    live.add_argument("--rate", type=int, default=16000, metavar="HZ", help=text)
    live.add_argument("--samples", choices=("s16le", "f32le"), default="s16le", help="of standard input (default: s16le)")
    text = "stream: adapt the model to what has been heard so far (default: none)"
    live.add_argument("--adapt", choices=("none", "stream"), default="none", metavar="TO", help=text)


def _serve(serve: argparse.ArgumentParser) -> None:
    from npser.live.limits import FIELDS, flag_of

    serve.epilog = "Try it: curl --data-binary @a.wav http://127.0.0.1:8080/v1/predict"
    serve.add_argument("--config", type=_path, metavar="FILE", help="TOML file of settings, such as sessions = 64; flags win")
    for name, one in FIELDS.items():
        kind, about = type(one.default), one.metadata
        shown = about["shown"] or (f"{one.default:g}" if kind is float else one.default)
        text = f"{about['help']} (default: {shown})".replace("%", "%%")
        if kind is bool:
            serve.add_argument(flag_of(name), action="store_true", default=None, help=about["help"])
        elif kind is tuple:
            serve.add_argument(flag_of(name), action="append", metavar="NAME", help=text)
        else:
            unit = {int: "N", float: "S", str: "TEXT"}[kind]
            serve.add_argument(flag_of(name), type=kind, metavar=unit, help=text)


def _path(text: str) -> Path:
    """A path of the command line. An empty one, as of a variable that is not set, would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("is empty (a variable that is not set?); expected a path")
    return Path(text)


def _add_model(parser: argparse.ArgumentParser) -> None:
    text = "model.safetensors of a run (default: the one that comes with npser)"
    parser.add_argument("--model", type=_path, default=Path(SHIPPED), metavar="FILE", help=text)


def _add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, metavar="N", help="threads; results do not depend on them (default: all cores)")


def _add_dask(parser: argparse.ArgumentParser, what: str) -> None:
    text = f"{what}, such as tcp://host:8786; its workers must see the same files under the same paths"
    parser.add_argument("--dask", metavar="ADDRESS", help=text)


def _add_layout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", metavar="NAME", help="layout, one of `npser data list` (default: recognised)")
    text = "emotions for labels of the corpora, such as joy=happy,01neutral=neutral; repeatable"
    parser.add_argument("--map", action="append", default=[], metavar="LABEL=EMOTION", help=text)


def _add_place(parser: argparse.ArgumentParser) -> None:
    """What data check and data convert share."""
    parser.add_argument("data", metavar="DATA", type=_path, help="corpus folder or manifest CSV")
    _add_layout(parser)


def _add_data(parser: argparse.ArgumentParser, nargs: str, otherwise: str) -> None:
    """What train and evaluate share."""
    parser.add_argument("data", nargs=nargs, metavar="DATA", type=_path, help=f"corpus folder or manifest CSV{otherwise}")
    _add_layout(parser)
    _add_threads(parser)
    parser.add_argument("--skip-bad", action="store_true", help="go on when more than 5 %% of the files cannot be used")
    _add_cache(parser)


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cache", type=_path, metavar="DIR", help="where features are kept (default: $XDG_CACHE_HOME/npser)")


def _add_adapt(parser: argparse.ArgumentParser, modes: tuple[str, ...], where: str) -> None:
    text = f"adapt the model to each of these, by all its recordings {where}: {', '.join(modes)} (default: none)"
    parser.add_argument("--adapt", choices=("none", *modes), default="none", metavar="TO", help=text)


def _add_training(parser: argparse.ArgumentParser, out: str) -> None:
    """What train and crossval share."""
    parser.add_argument("--labels", metavar="A,B,C", help="classes to tell apart, or all (default: angry,happy,neutral,sad)")
    names = ", ".join(sorted(path.stem for path in (Path(__file__).parents[1] / "networks").glob("[a-z]*20[0-9][0-9]*.py")))
    parser.add_argument("--network", metavar="NAME", help=f"one of {names} (default: li2019, the paper's)")
    text = "settings to start from: default or paper of li2019, published or same-input of others (default: the first)"
    parser.add_argument("--preset", metavar="NAME", help=text)
    parser.add_argument("--config", type=_path, metavar="FILE", help="TOML file of settings, over the preset's")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one setting, over --config; repeatable"
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="epochs to train (default: the preset's)")
    parser.add_argument("--seed", type=int, metavar="N", help="of weights, dropout, shuffling and augmentation (default: 0)")
    text = "corpora: an epoch draws as many utterances of every corpus, whatever its size; or none (default)"
    parser.add_argument("--balance", metavar="BY", help=text)
    parser.add_argument("--out", type=_path, metavar="DIR", help=f"run folder (default: {out})")
    parser.add_argument("--no-oracle", action="store_true", help="do not score the test session after every epoch")
    parser.add_argument("--allow-speaker-overlap", action="store_true", help="let a speaker be in two parts; brands the report")


def _fail(error: Exception | str, status: int = 1) -> int:
    """One line that says what is wrong; returns the exit status."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    elif isinstance(error, UnicodeEncodeError):
        around = error.object[max(0, error.start - 20) : error.end + 20]
        text = f"{around!a}: a name or a label that is not UTF-8 cannot be written to a file; rename it"
    elif isinstance(error, OSError) and error.errno is not None:  # other files are named where they are written
        text = f"standard output: cannot be written ({error.strerror}), so it ends early; make room, and run the command again"
    print(f"npser: {terminal.printable(' '.join(text.split()))}", file=sys.stderr)
    return status

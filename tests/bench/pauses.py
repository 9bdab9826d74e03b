"""How often pauses change the answer of the model in the box.

python tests/bench/pauses.py CORPORA [MODEL]

300 recordings, drawn at random, are answered as they are and with pauses: of digital silence, or of noise as loud as their own
faintest 50 ms.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

import npser
from npser.speech import read_windows

RATE, COUNT = 16_000, 300
Array = np.ndarray


def faintest(x: Array, size: int, first: int, end: int) -> int:
    """Where the faintest part of so many samples begins, from first to end."""
    return min(range(first, max(first + 1, end - size), 400), key=lambda k: float(np.square(x[k : k + size]).sum()))


def room(x: Array, n: int, rng: np.random.Generator) -> Array:
    """n samples of noise as loud as the faintest 50 ms of x."""
    k = faintest(x, 800, 0, len(x))
    return rng.standard_normal(n) * max(float(x[k : k + 800].std()), 1e-5)


def ways(rng: np.random.Generator) -> dict[str, Callable[[Array, Path], Array]]:
    """Recordings with other pauses, by name."""

    def within(x: Array, pause: Array) -> Array:
        return np.insert(x, faintest(x, 400, len(x) // 4 // 400 * 400, 3 * len(x) // 4), pause)

    return {
        "digital silence, 1 s before and after": lambda x, _: np.pad(x, RATE),
        "digital silence, 0.337 s before": lambda x, _: np.pad(x, (5392, 0)),
        "digital silence, 1 s within": lambda x, _: within(x, np.zeros(RATE)),
        "doubled by digital silence": lambda x, _: np.pad(x, (0, len(x))),
        "room noise, 1 s before and after": lambda x, _: np.concatenate([room(x, RATE, rng), x, room(x, RATE, rng)]),
        "room noise, 1 s within": lambda x, _: within(x, room(x, RATE, rng)),
        "doubled by room noise": lambda x, _: np.concatenate([x, room(x, len(x), rng)]),
        "pauses cut out": lambda _, path: np.concatenate(list(read_windows(path, 1000.0))),
    }


def main() -> None:
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    rng, model = np.random.default_rng(0), npser.load(*sys.argv[2:])
    paths = sorted(path for path in Path(sys.argv[1]).glob("*/**/*.*") if path.suffix in (".flac", ".wav"))
    chosen = [paths[k] for k in rng.choice(len(paths), COUNT, replace=False)]
    sounds = [soundfile.read(path, dtype="float32")[0] for path in chosen]

    def answers(waves: list[Array]) -> list[str | None]:
        return [p.emotion for p in model.predict_many([x.astype(np.float32) for x in waves], RATE, engine="lite")]

    plain = answers(sounds)
    for name, way in ways(rng).items():
        others = answers([way(x, path) for x, path in zip(sounds, chosen, strict=True)])
        print(f"| {name} | {np.mean([a == b for a, b in zip(plain, others, strict=True)]):.1%} |", flush=True)


if __name__ == "__main__":
    main()

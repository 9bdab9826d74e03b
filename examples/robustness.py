"""How often another level, line or microphone changes the answer.

python examples/robustness.py runs/CORPUS-PRESET-crossval-session [VARIANT-seedN]

Every recording is answered by the network that did not train on its speaker, as it is and altered: at -10, -20 and -30 dB
(rounded to 16 bits again; at -30 dB also not rounded), through a telephone band of 300 to 3,400 Hz, at 8 kHz, with white
noise 20 dB below it, and with a second of silence before and after; and by the network adapted to all that came through the
telephone, or the noise, beside the one that is adapted to the same recordings as they are.
"""

import json
import sys
from pathlib import Path

import numpy as np
import scipy.signal

import npser
from npser import features
from npser.lite import Model

RATE = features.SAMPLE_RATE
LONGEST = 60.0  # seconds of a recording
LINES = ("telephone", "noise")  # to which a model can be adapted


def band(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """x (n,) at 16 kHz without what lies outside low to high Hz: a linear-phase filter of 32 ms, sharp, yet soon silent."""
    taps = scipy.signal.firwin(513, [low, high], fs=RATE, pass_zero=False)
    return scipy.signal.oaconvolve(x, taps, mode="same").astype(np.float32)


def alterations(x: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """x (n,) at 16 kHz in other conditions, by name."""
    found = {}
    for gain in (-10, -20, -30):
        found[f"{gain} dB"] = np.round(x * 10 ** (gain / 20) * 32768).astype(np.float32) / 32768
    found["-30 dB, not rounded"] = x * np.float32(10 ** (-30 / 20))
    found["telephone"] = band(x, 300, 3400)
    found["8 kHz"] = features.resample(scipy.signal.resample_poly(x, 1, 2).astype(np.float32), RATE // 2)
    found["noise"] = (x + rng.standard_normal(len(x)) * x.std() / 10).astype(np.float32)
    found["silence around"] = np.pad(x, RATE)
    return found


def changed(model: Model, waves: list[np.ndarray]) -> dict[str, list[bool]]:
    """Of each alteration, whether it changes the answer to each recording; no answer is another answer."""
    rng = np.random.default_rng(0)
    altered = [alterations(x, rng) for x in waves]

    def answers(model: Model, waves: list[np.ndarray]) -> list[str | None]:
        return [p.emotion for p in model.predict_many(waves, RATE, engine="numba")]

    plain, adapted = answers(model, waves), answers(model.adapt(waves, RATE), waves)
    found = {}
    for name in altered[0]:
        others = [one[name] for one in altered]
        found[name] = [a != b for a, b in zip(plain, answers(model, others), strict=True)]
        if name in LINES:
            found[f"{name}, adapted"] = [
                a != b for a, b in zip(adapted, answers(model.adapt(others, RATE), others), strict=True)
            ]
    return found


def read(path: str) -> np.ndarray:
    """A recording, (n,) at 16 kHz."""
    return np.concatenate(list(features.read_windows(path, LONGEST, cut=True)))


def main() -> None:
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    run, variant = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) == 3 else "full-seed0"
    plan = json.loads((run / "plan.json").read_text())
    total: dict[str, list[bool]] = {}
    for fold, split in plan["folds"].items():
        job = run / "jobs" / f"{variant}-fold{fold}"
        model = npser.load((job / "refit" if (job / "refit").exists() else job) / "model.safetensors")
        waves = [read(plan["utterances"][r]["path"]) for r in split["test"]]
        for name, which in changed(model, waves).items():
            total.setdefault(name, []).extend(which)
    for name, which in total.items():
        print(f"{name:<20} changes {np.mean(which):6.1%} of {len(which)} answers")


if __name__ == "__main__":
    main()

"""Networks of random parameters, as files and for the engine, and sounds to run them on."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from npser import checkpoint, lite, model
from npser.checkpoint import Checkpoint
from npser.config import Config, param_shapes
from npser.store import Store, digests, open_store
from npser.train import Network

SMALL = Config(d_cnn=4, d_lstm=4, d_attn=8, n_attn=2, pad=False, max_seconds=1.0)
EMOTIONS, GENDERS = ["angry", "happy", "neutral", "sad"], ["female", "male"]


class Trained(NamedTuple):
    """One network of random parameters, as a file and for the engine."""

    path: Path
    lite: lite.Model
    engine: Network

    def store(self, paths: list[Path]) -> Store:
        c = self.engine.config
        with ThreadPoolExecutor(1) as pool:
            content = [digest or "" for digest in digests(paths, pool)]
            return open_store(paths, content, c.max_seconds, c.pad, self.path.parent / "cache", pool, level=c.level)


def network(folder: Path, config: Config = SMALL, genders: list[str] | None = GENDERS, temperature: float = 1.0) -> Trained:
    """Random parameters, biases too."""
    shapes = param_shapes(config, len(EMOTIONS), len(genders or []))
    rng = np.random.default_rng(2)
    theta = model.init(shapes, seed=1)
    theta += 0.05 * rng.standard_normal(theta.size).astype(np.float32)
    mean = np.concatenate([rng.uniform(-60, -40, config.bands), rng.normal(0, 0.1, 2 * config.bands)]).astype(np.float32)
    std = np.concatenate([rng.uniform(10, 20, config.bands), rng.uniform(1, 2, 2 * config.bands)]).astype(np.float32)
    tensors = {f"{layer}.{name}": v for layer, p in model.views(theta, shapes).items() for name, v in p.items()}
    tensors |= {"norm.mean": mean, "norm.std": std}
    path = folder / "model.safetensors"
    checkpoint.save(path, Checkpoint(tensors, config, {"emotion": EMOTIONS, "gender": genders}, temperature, {}))
    return Trained(path, lite.Model(path), Network(theta, shapes, config, mean, std))


def sound(n: int, seed: int = 0, rate: int = 16_000) -> np.ndarray:
    """Gliding harmonics and noise, (n,) float32."""
    t = np.arange(n) / rate
    rng = np.random.default_rng(seed)
    cycles = (110 + 30 * seed) * t + 3 * np.sin(4 * t + seed)
    harmonics = sum(np.sin(2 * np.pi * k * cycles) / k for k in range(1, 12))
    return (0.2 * np.sin(5 * t) ** 2 * harmonics + 0.003 * rng.standard_normal(n)).astype(np.float32)


def recording(path: Path, x: np.ndarray, rate: int = 16_000) -> Path:
    soundfile.write(path, x, rate, subtype="FLOAT")
    return path

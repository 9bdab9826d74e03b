"""What files of tests share: small networks and batches, model files, sounds, corpora, and commands as a user runs them."""

import contextlib
import csv
import dataclasses
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile

from npser import checkpoint, lite, model
from npser.checkpoint import Checkpoint
from npser.config import Config
from npser.corpora import Utterance
from npser.dataset import Dataset
from npser.network import Network, Targets
from npser.networks import li2019, li2019_feedforward
from npser.prediction import Prediction
from npser.split import Split
from npser.store import Store, digests, open_store, store_of

ROOT = Path(__file__).resolve().parents[1]
CORPORA = Path(os.environ.get("NPSER_CORPORA") or ROOT.parent / "shared" / "corpora")
UNCOMPILED = os.environ.get("NUMBA_DISABLE_JIT", "0") != "0"
RATE = 16_000
EMOTIONS, GENDERS = ["angry", "happy", "neutral", "sad"], ["female", "male"]

Array = np.ndarray
Command = Callable[..., subprocess.CompletedProcess[str]]

# Networks and batches, in float64 unless a test asks for something else

TINY = li2019.Config(d_spec=9, d_cnn=4, d_lstm=4, d_attn=8, n_attn=2, alpha=0.7, beta=1.3)
ODD = li2019.Config(d_spec=12, d_cnn=3, d_lstm=5, d_attn=7, n_cw=5, n_pw=2, n_attn=3)  # no multiple of the kernels' four
FORWARD = li2019_feedforward.Config(d_spec=9, d_cnn=4, d_attn=8, n_attn=2, alpha=0.7, beta=1.3)  # without recurrence
LENGTHS = (7, 1, 10, 2, 3, 4, 12, 9, 6)  # shorter than a window of 3, equal to it, one more; two tiles of four and one over


class Batch(NamedTuple):
    """Some utterances and what is to be learnt of them."""

    X: Array
    bounds: Array
    emotion: Array
    gender: Array
    emotion_weight: Array
    gender_weight: Array


def bounds_of(lengths: Sequence[int] | Array) -> Array:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def make_batch(c: Config, lengths: Sequence[int] = LENGTHS, seed: int = 0) -> Batch:
    """Random features, labels and weights; each third gender is unknown, though its weight is not zero."""
    rng = np.random.default_rng(seed)
    B = len(lengths)
    return Batch(
        rng.standard_normal((sum(lengths), c.d_spec)),
        bounds_of(lengths),
        rng.integers(len(EMOTIONS), size=B),
        np.where(np.arange(B) % 3 == 2, -1, rng.integers(2, size=B)),
        rng.uniform(0.5, 1.5, B) / B,
        rng.uniform(0.5, 1.5, B) / B,
    )


def make_network(c: Config, genders: int = 2, seed: int = 0) -> tuple[Array, model.Shapes]:
    """theta without zeros, and its shapes."""
    shapes = model.shapes_of(c, len(EMOTIONS), genders)
    return 0.5 * np.random.default_rng(seed).standard_normal(model.size_of(shapes)), shapes


Frames = Array | None
Dropout = np.random.Generator | None


def loss_of(
    theta: Array, shapes: model.Shapes, c: Config, batch: Batch, rng: Dropout = None, frames: Frames = None
) -> tuple[float, Array]:
    """The loss of a batch and its gradient, (P,)."""
    x = (batch.X, batch.bounds) if frames is None else (batch.X, batch.bounds, frames)
    loss, grads = model.loss(model.views(theta, shapes), c, x, Targets(*batch[2:]), rng)
    return loss, model.flatten(grads, shapes)


def logits_of(theta: Array, shapes: model.Shapes, c: Config, batch: Batch, rng: Dropout = None) -> tuple[Array, Array | None]:
    """Emotion (B, 4) and gender (B, 2)."""
    return model.module_of(c).forward(model.views(theta, shapes), c, batch.X, batch.bounds, rng=rng)[0][:2]


def utterances_of(X: Array, bounds: Array) -> list[Array]:
    return np.split(X, bounds[1:-1])


def select(batch: Batch, chosen: Sequence[int] | Array) -> Batch:
    """Some utterances of a batch, in the order given."""
    utterances = utterances_of(batch.X, batch.bounds)
    X = np.concatenate([utterances[u] for u in chosen])
    return Batch(X, bounds_of([len(utterances[u]) for u in chosen]), *(a[np.asarray(chosen)] for a in batch[2:]))


def assert_close(actual: Array, expected: Array, tolerance: float, name: str = "") -> None:
    """No element differs by more than tolerance times the largest one expected."""
    assert actual.shape == expected.shape, name
    worst, largest = np.abs(actual - expected).max(initial=0), np.abs(expected).max(initial=0)
    assert worst <= tolerance * largest, f"{name}: off by {worst:.3g}, largest {largest:.3g}"


# Model files, and sounds to run them on

SMALL = li2019.Config(d_cnn=4, d_lstm=4, d_attn=8, n_attn=2, pad=False, max_seconds=1.0)
SMALL_FORWARD = li2019_feedforward.Config(d_cnn=4, d_attn=8, n_attn=2, pad=False, max_seconds=1.0)
paper_size = pytest.mark.skipif(UNCOMPILED, reason="paper-size networks take minutes without the compiler")
SIZES = [
    pytest.param(SMALL, id="small"),
    pytest.param(dataclasses.replace(SMALL, pad=True), id="small, padded"),
    pytest.param(dataclasses.replace(SMALL, level=True), id="small, levelled"),
    pytest.param(dataclasses.replace(SMALL, level=True, pad=True, d_spec=297), id="small, padded, levelled, up to 4 kHz"),
    pytest.param(li2019.Config(d_cnn=3, d_lstm=5, d_attn=7, n_attn=3, n_cw=5, n_pw=2, pad=False, max_seconds=0.7), id="odd"),
    pytest.param(SMALL_FORWARD, id="no recurrence"),
    pytest.param(dataclasses.replace(SMALL, level=True, statistics=True), id="small, with statistics"),
    pytest.param(dataclasses.replace(SMALL_FORWARD, statistics=True), id="no recurrence, with statistics"),
    pytest.param(li2019.PRESETS["paper"], marks=paper_size, id="paper"),
    pytest.param(li2019.PRESETS["same-input"], marks=paper_size, id="the default with pauses"),
]


class Trained(NamedTuple):
    """One network of random parameters, as a file and for the engine."""

    path: Path
    lite: lite.Model
    engine: Network

    def store(self, paths: list[Path]) -> Store:
        with ThreadPoolExecutor(1) as pool:
            content = [digest or "" for digest in digests(paths, pool)]
            return open_store(paths, content, self.engine.module.kind(self.engine.config), self.path.parent / "cache", pool)


def network(folder: Path, config: Config = SMALL, genders: list[str] | None = GENDERS, temperature: float = 1.0) -> Trained:
    """Random parameters, biases too."""
    shapes = model.shapes_of(config, len(EMOTIONS), len(genders or []))
    rng, bands = np.random.default_rng(2), config.d_spec // 3
    theta = model.init(shapes, seed=1)
    theta += 0.05 * rng.standard_normal(theta.size).astype(np.float32)
    mean = np.concatenate([rng.uniform(-60, -40, bands), rng.normal(0, 0.1, 2 * bands)]).astype(np.float32)
    std = np.concatenate([rng.uniform(10, 20, bands), rng.uniform(1, 2, 2 * bands)]).astype(np.float32)
    state = {
        name: rng.normal(0, 0.3, value.shape).astype(np.float32)
        for name, value in model.state_of(config, len(EMOTIONS), len(genders or [])).items()
    }
    tensors = model.named(theta, shapes) | state | {"norm.mean": mean, "norm.std": std}
    path = folder / "model.safetensors"
    checkpoint.save(path, Checkpoint(tensors, config, {"emotion": EMOTIONS, "gender": genders}, temperature, {}))
    return Trained(path, lite.Model(path), Network(theta, shapes, config, mean, std, state=state))


def model_file(folder: Path, config: Config, solved: dict[str, Array] | None = None) -> Path:
    """Of any network without a gender head: random parameters, and the state that is solved, where it has one."""
    theta, shapes = make_network(config, 0)
    tensors = {name: value.astype(np.float32) for name, value in model.named(theta, shapes).items()} | (solved or {})
    mean = np.random.default_rng(0).normal(0, 3, config.d_spec).astype(np.float32)
    tensors |= {"norm.mean": mean, "norm.std": np.full(config.d_spec, 9, np.float32)}
    path = folder / "model.safetensors"
    checkpoint.save(path, Checkpoint(tensors, config, {"emotion": EMOTIONS, "gender": None}, 1.0, {}))
    return path


def by_both_engines(path: Path) -> list[Prediction]:
    """What a model in plain NumPy says of sounds of several lengths; the compiled engine says the same."""
    trained = lite.Model(path)
    waves = [sound(n, seed) for seed, n in enumerate([4800, 5000, 7999, 8000, 20_000])]
    plain = [trained.predict(x, RATE) for x in waves]
    compiled = trained.predict_many(waves, RATE, engine="numba", threads=1)
    for a, b in zip(plain, compiled, strict=True):
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)
    return plain


def sound(n: int, seed: int = 0, rate: int = RATE) -> Array:
    """Gliding harmonics and noise, (n,) float32."""
    t = np.arange(n) / rate
    rng = np.random.default_rng(seed)
    cycles = (110 + 30 * seed) * t + 3 * np.sin(4 * t + seed)
    harmonics = sum(np.sin(2 * np.pi * k * cycles) / k for k in range(1, 12))
    return (0.2 * np.sin(5 * t) ** 2 * harmonics + 0.003 * rng.standard_normal(n)).astype(np.float32)


def noise(seconds: float, decibels: float = -70, seed: int = 0) -> Array:
    """White noise so far under full scale, (n,) float32."""
    x = np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    return (x * 10 ** (decibels / 20)).astype(np.float32)


def melody(seconds: float, decibels: float = -30, seed: int = 0) -> Array:
    """Plucked notes, a new one each third of a second over those before, the level so far under full scale, (n,) float32."""
    rng, x = np.random.default_rng(seed), np.zeros(round(seconds * RATE))
    for start in range(0, len(x), RATE // 3):
        t, pitch = np.arange(len(x) - start) / RATE, 130 * 2 ** (rng.choice([0, 4, 7, 12, 16]) / 12)
        x[start:] += np.exp(-3 * t) * sum(np.sin(2 * np.pi * k * pitch * t) / k for k in range(1, 6))
    return (x / x.std() * 10 ** (decibels / 20)).astype(np.float32)


def talk(words: Sequence[float], pause: float = 1.2) -> Array:
    """Words of so many seconds, with pauses around them."""
    parts = [noise(pause)]
    for k, seconds in enumerate(words):
        parts += [sound(round(seconds * RATE), k % 7), noise(pause, seed=k)]
    return np.concatenate(parts)


def recording(path: Path, x: Array, rate: int = RATE) -> Path:
    soundfile.write(path, x, rate, subtype="FLOAT")
    return path


def tone(path: Path, hz: float, seconds: float = 0.35, seed: int = 0) -> None:
    """A buzz of some fundamental frequency with noise, that rises and falls as syllables do."""
    t = np.arange(round(seconds * RATE)) / RATE
    wave = sum(np.sin(2 * np.pi * hz * k * t) / k for k in range(1, 6)) * np.sin(4 * np.pi * t) ** 2
    noise = np.random.default_rng(seed).standard_normal(t.size)
    soundfile.write(path, (0.1 * wave + 0.01 * noise).astype(np.float32), RATE, subtype="PCM_16")


# Data sets in memory


def data_of(
    config: Config, recordings: Sequence[Sequence[Array]], emotions: Sequence[str], genders: Sequence[str | None]
) -> Dataset:
    """Recordings, each one or more windows (n,) at 16 kHz; everybody speaks once."""
    store = store_of([x for windows in recordings for x in windows], model.module_of(config).kind(config))
    store = dataclasses.replace(store, recordings=np.cumsum([0, *map(len, recordings)]))
    content = [hashlib.sha256(b"".join(x.tobytes() for x in windows)).hexdigest() for windows in recordings]
    known = enumerate(zip(emotions, genders, strict=True))
    utterances = [Utterance(Path(f"{r}.wav"), emotion, "c", f"c/{r}", gender) for r, (emotion, gender) in known]
    return Dataset(utterances, content, store, sorted(set(emotions)), {}, ["c"], {})


def unbalanced(config: Config, others: int = 0) -> tuple[Dataset, Split]:
    """29 sounds of up to half a second, some with a second window: 17 train, 6 validate, 6 are tested.

    Of those that train nine are angry, five happy and three sad, and some genders are unknown. Some parts lie between others.
    others: replace so many of the test part, and nothing else, by recordings with another sound, emotion and gender.
    """
    rng = np.random.default_rng(7)
    members = rng.permutation(29)
    train, validation, test = (sorted(part.tolist()) for part in np.split(members, [17, 23]))
    split = Split(train, validation, test)
    emotions, genders = np.empty(29, object), np.empty(29, object)
    emotions[split.train] = rng.permutation(["angry"] * 9 + ["happy"] * 5 + ["sad"] * 3)
    emotions[split.validation + split.test] = ["sad", "sad", "angry", "happy", "happy", "sad"] * 2
    genders[:] = rng.permutation(["female"] * 11 + ["male"] * 11 + [""] * 7)
    lengths = rng.integers(2500, 8000, (29, 2))
    recordings = [[sound(n, r) for n in lengths[r, : 1 + (r % 4 == 1)]] for r in range(29)]
    for r in split.test[:others]:
        recordings[r] = [3 * sound(int(n), 40 + r) for n in rng.integers(2500, 8000, 1 + (r % 3 == 0))]
        emotions[r] = {"angry": "sad", "happy": "angry", "sad": "happy"}[emotions[r]]
        genders[r] = {"female": "male", "male": "", "": "female"}[genders[r]]
    return data_of(config, recordings, emotions.tolist(), [gender or None for gender in genders]), split


# Corpora, commands and what they leave


def tree(folder: Path, *names: str, **texts: str) -> Path:
    """Empty recordings, which the readers do not open, and text files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def write_manifest(path: Path, rows: list[dict[str, str]]) -> Path:
    """A CSV with the columns of its first row."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def manifest_of(folder: Path, /, **others: str) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="") as file:
        return [{**row, "path": str(folder / row["path"]), **others} for row in csv.DictReader(file)]


def start(environment: dict[str, str], folder: Path, *words: str | Path) -> subprocess.Popen[str]:
    """Start ``npser WORDS`` in a folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "npser", *map(str, words)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells start background jobs deaf to Ctrl-C
    )


def children(pid: int) -> list[int]:
    """Worker processes of a command or a nanny: not the tracker of its semaphores."""
    found = [child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    return [int(child) for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


class Cluster:
    """A Dask scheduler and workers in processes of this machine; all end with the block."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.environment, self.folder = environment, folder
        self.running: list[subprocess.Popen[Any]] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"

    def __enter__(self) -> "Cluster":
        self.start_scheduler()
        return self

    def start_scheduler(self) -> None:
        self.scheduler = self.started("dask_scheduler", "--port", str(self.port))

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # a nanny's worker too
            process.wait()

    def started(self, program: str, *options: str) -> subprocess.Popen[Any]:
        command = [sys.executable, "-m", f"distributed.cli.{program}", *options, "--host", "127.0.0.1", "--no-dashboard"]
        log = (self.folder / f"{program}-{len(self.running)}.log").open("wb")
        with log:
            settings: dict[str, Any] = {"cwd": self.folder, "env": self.environment, "stdout": log, "stderr": log}
            self.running.append(subprocess.Popen(command, start_new_session=True, **settings))
        return self.running[-1]

    def worker(self, preload: str = "", nanny: bool = False, threads: int = 1) -> subprocess.Popen[Any]:
        """Start a worker. preload: code that it runs first; nanny: who starts it again when it dies."""
        file = self.folder / f"preload-{len(self.running)}.py"
        file.write_text(preload)
        options = ["--nthreads", str(threads), "--nanny" if nanny else "--no-nanny", "--preload", str(file)]
        return self.started("dask_worker", self.address, *options)


REFUSE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in {refused!r}:
            raise ImportError(f"{{name}} is not to be imported")

sys.meta_path.insert(0, Refuse())
"""


def without(*modules: str) -> str:
    """Code after which some modules cannot be imported."""
    return REFUSE.format(refused=modules)


WATCH = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True)
sys.stdout.buffer.write(done.stdout)
sys.stderr.buffer.write(done.stderr)
size = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(f"\\n{done.returncode} {size / (1 << 20 if sys.platform == 'darwin' else 1 << 10)}", file=sys.stderr)
"""


def watched(*words: str | Path, environment: dict[str, str], cwd: Path) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run ``npser WORDS`` to its end; also its greatest resident size in MB.

    A small process starts it: a child's size begins with that of its parent.
    """
    command = [sys.executable, "-c", WATCH, sys.executable, "-m", "npser", *map(str, words)]
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=600, check=True)
    *lines, last = done.stderr.splitlines()
    status, size = last.split()
    return subprocess.CompletedProcess(words, int(status), done.stdout, "\n".join(lines).rstrip()), float(size)


def one_sentence(shown: subprocess.CompletedProcess[str], *words: str) -> None:
    """The last line of standard error names what is wrong; nothing but warnings stands before it."""
    *warnings, line = shown.stderr.splitlines()
    assert line.startswith("npser: "), shown.stderr
    assert all(text.startswith("npser: warning: ") for text in warnings), shown.stderr
    for word in words:
        assert word in line


def report_of(run: Path) -> dict[str, Any]:
    """The report without what may differ from one run to the next."""
    report = json.loads((run / "report.json").read_text())
    del report["run"]
    return report


def lines_of(run: Path) -> list[str]:
    """The lines of report.json but for those of the key run."""
    text = (run / "report.json").read_text()
    before, _, rest = text.partition('  "run": {')
    return before.splitlines() + rest.partition("},\n")[2].splitlines()


def assert_same_run(a: Path, b: Path) -> None:
    assert {path.name for path in a.iterdir()} == {path.name for path in b.iterdir()}
    for name in ("model.safetensors", "last.safetensors", "metrics.jsonl", "config.toml", "report.md"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert lines_of(a) == lines_of(b)


def assert_same_training(a: Path, b: Path) -> None:
    """Two run folders, byte for byte, but for scores of the test part and hashes of all the data."""
    for name in ("model.safetensors", "last.safetensors"):
        (tensors, about), (others, of_others) = (_trained_part(run / name) for run in (a, b))
        assert about == of_others, name
        assert {key: value.tobytes() for key, value in tensors.items()} == {
            key: value.tobytes() for key, value in others.items()
        }
    for name in ("metrics.jsonl", "config.toml"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


def _bytes(tensors: dict[str, Array]) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in tensors.items()}


def _trained_part(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Tensors and metadata of a file, without what says something of the test part."""
    tensors, about = checkpoint.read_tensors(path)
    training = about.get("training", {})
    scores = training.get("scores", {})
    for place, names in (
        (about, ("identity", "oracle")),
        (scores, ("test",)),
        (scores.get("calibration") or {}, ("ece_before", "ece_after")),
        (training.get("split", {}), ("hash",)),
    ):
        for name in names:
            place.pop(name, None)
    return tensors, about

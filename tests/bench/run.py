# pyright: reportMissingImports=false
"""npser beside PyTorch, Keras, onnxruntime and librosa: the same network, the same input, the same threads, in turns.

    pip install -e '.[bench]' && python tests/bench/run.py --out bench

Prints a table and writes DIR/bench.md and DIR/bench.json. Each figure is the median of several runs, the programs taking turns;
ratios are those of medians of one run of this script. Give it a quiet machine. A peer that is not installed is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import peers
import soundfile

from npser import checkpoint, features, model
from npser.commands import bench
from npser.corpora import synthetic
from npser.inputs import with_deltas
from npser.layers import conv2d
from npser.lite import Model
from npser.network import Targets, compile_kernels
from npser.networks.li2019 import PRESETS
from npser.optim import Adam
from npser.store import store_of
from npser.threads import keep_freed_memory, single_threaded_blas

HERE = Path(__file__).parent
# Frames of utterances at every twentieth of the distribution: EmoDB's four classes, RAVDESS, nEMO
EMODB = [58, 65, 69, 73, 77, 82, 86, 89, 95, 99, 104, 108, 114, 120, 127, 133, 143, 151, 158, 206, 301]
RAVDESS = [118, 129, 133, 135, 138, 139, 141, 142, 143, 146, 147, 149, 150, 151, 154, 155, 159, 162, 166, 174, 211]
NEMO = [35, 62, 68, 73, 77, 80, 83, 86, 90, 93, 96, 99, 103, 107, 111, 115, 120, 127, 135, 148, 219]
Tasks = dict[str, Callable[[], Any]]


def in_turns(tasks: Tasks, repeats: int, calls: int = 1, warm: bool = True) -> dict[str, float]:
    """Median milliseconds of each task; A B A B. Each turn is a pause, a run that does not count, and the mean of some calls.

    Threads of OpenMP and onnxruntime go on spinning for up to 0.2 s after their work: without the pause, each program would be
    timed while those of the one before it hold the cores.
    """
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, run in tasks.items():
            time.sleep(0.3)
            if warm:
                run()
            started = time.perf_counter()
            for _ in range(calls):
                run()
            times[name].append(1e3 * (time.perf_counter() - started) / calls)
    return {name: float(np.median(taken)) for name, taken in times.items()}


def lengths(quantiles: list[int], count: int) -> list[int]:
    """Lengths of so many utterances, in random order."""
    spread = np.interp(np.linspace(0, 20, count), range(21), quantiles).astype(int)
    return np.random.default_rng(0).permutation(spread).tolist()


def dense(store: Any, window: np.ndarray, network: Any) -> tuple[np.ndarray, np.ndarray]:
    """The same input for the peers: X (B, longest, 384) padded with zeros, lengths (B,)."""
    X, bounds = with_deltas(store, window, network.mean, 1 / network.std)
    counts = np.diff(bounds)
    out = np.zeros((len(window), counts.max(), X.shape[1]), np.float32)
    for u, n in enumerate(counts):
        out[u, :n] = X[bounds[u] : bounds[u + 1]]
    return out, counts


def training_step(pool: ThreadPoolExecutor, threads: int, repeats: int) -> dict[str, dict[str, float]]:
    """Paper preset, 40 utterances of 301 frames: with sound up to the end, and padded behind sound of EmoDB's lengths."""
    network, found = bench.network_of(PRESETS["paper"]), {}
    y = np.arange(40) % 4
    for what, stored in (("7.5 s of sound", [301] * 40), ("EmoDB's lengths, padded to 7.5 s", lengths(EMODB, 40))):
        store = bench.store_of(stored, pad=True)
        X, _ = dense(store, np.arange(40), network)
        tasks: Tasks = {"npser": lambda store=store: bench.step(network, store, pool)}
        if find_spec("torch"):
            import torch

            arguments = torch.from_numpy(X), torch.from_numpy(y), torch.from_numpy(y % 2)
            for name, compiled in (("PyTorch", False), ("PyTorch, compiled", True)):
                run = peers.torch_step(peers.torch_network(), compiled)
                tasks[name] = lambda run=run, arguments=arguments: run(*arguments)
        if find_spec("keras") and find_spec("tensorflow"):
            keras = peers.keras_network()
            tasks["Keras"] = lambda keras=keras, X=X: keras.train_on_batch(X, [y, y % 2])
        found[f"training step, 40 x 301, {what}"] = in_turns(tasks, repeats)
    return found


def epoch(pool: ThreadPoolExecutor, threads: int, repeats: int) -> dict[str, dict[str, float]]:
    """An epoch of 200 utterances of natural lengths in random batches of 40; the peers pad to the longest, or pack."""
    network, found = bench.network_of(replace(PRESETS["paper"], pad=False)), {}
    for corpus, quantiles in (("EmoDB", EMODB), ("RAVDESS", RAVDESS), ("nEMO", NEMO)):
        store = bench.store_of(lengths(quantiles, 200), pad=False)
        batches = np.arange(200).reshape(5, 40)

        def ours(store: Any = store, batches: np.ndarray = batches) -> None:
            for batch in batches:
                bench.step(network, store, pool, batch[np.argsort(-store.frames(batch))])

        tasks: Tasks = {"npser": ours}
        if find_spec("torch"):
            import torch

            inputs = [dense(store, batch, network) for batch in batches]
            for name, packed in (("PyTorch, padded", False), ("PyTorch, packed", True)):
                run = peers.torch_step(peers.torch_network(), False)

                def theirs(run: Any = run, packed: bool = packed, inputs: Any = inputs, batches: np.ndarray = batches) -> None:
                    for (X, counts), batch in zip(inputs, batches, strict=True):
                        y = torch.from_numpy(batch % 4)
                        run(torch.from_numpy(X), y, y % 2, torch.from_numpy(counts) if packed else None)

                tasks[name] = theirs
        found[f"epoch of 200, natural lengths of {corpus}"] = in_turns(tasks, max(3, repeats // 2))
    return found


def default_epoch(pool: ThreadPoolExecutor, threads: int, repeats: int) -> dict[str, dict[str, float]]:
    """An epoch of 192 utterances with preset default, augmentation included; the peer pads to the longest, or packs."""
    c, found = PRESETS["default"], {}
    for corpus, quantiles in (("EmoDB", EMODB), ("RAVDESS", RAVDESS), ("nEMO", NEMO)):
        network, store, rng = bench.network_of(c), bench.store_of(lengths(quantiles, 192), pad=False), np.random.default_rng(0)
        ends = np.where(rng.random(192) < c.splice, rng.integers(192, size=192), np.arange(192))
        adam = Adam(network.theta.size, c.learning_rate, c.decay, c.clip)

        def ours(network: Any = network, store: Any = store, ends: Any = ends, adam: Any = adam) -> None:
            for batch in np.arange(192).reshape(-1, c.batch):
                batch = batch[np.argsort(-store.frames(batch))]
                share = np.full(len(batch), 1 / len(batch), np.float32)
                y = Targets(batch % 4, batch % 2, share, share)
                _, grad = network.gradient(store, batch, y, adam.updates, pool, ends[batch])
                adam.step(network.theta, grad)

        tasks: Tasks = {"npser": ours}
        if find_spec("torch"):
            tasks |= torch_default_epochs(network, store, ends, c, pool)
        found[f"epoch of 192, preset default, lengths of {corpus}"] = in_turns(tasks, max(3, repeats // 2))
    return found


def torch_default_epochs(network: Any, store: Any, ends: np.ndarray, c: Any, pool: ThreadPoolExecutor) -> Tasks:
    """The same in PyTorch, padded or packed; a thread of its own makes the input of the next batch, as a data loader does."""
    import torch

    rows = [torch.from_numpy(part) for part in np.split(store.rows, store.bounds[1:-1])]
    mean, std, rng = torch.from_numpy(network.mean), torch.from_numpy(network.std), np.random.default_rng(0)

    def input_of(batch: np.ndarray) -> tuple[Any, Any]:
        others = [None if ends[u] == u else rows[ends[u]] for u in batch]
        return peers.torch_batch([rows[u] for u in batch], others, mean, std, c, rng)

    def epoch(packed: bool) -> Callable[[], None]:
        step = peers.torch_step(peers.torch_network(d_spec=c.d_spec), False)

        def run() -> None:
            batches = np.arange(len(rows)).reshape(-1, c.batch)
            upcoming = pool.submit(input_of, batches[0])
            for k, batch in enumerate(batches):
                X, counts = upcoming.result()
                if k + 1 < len(batches):
                    upcoming = pool.submit(input_of, batches[k + 1])
                y = torch.from_numpy(batch % 4)
                step(X, y, y % 2, counts if packed else None)

        return run

    return {"PyTorch, padded": epoch(False), "PyTorch, packed": epoch(True)}


def forward(pool: ThreadPoolExecutor, threads: int, repeats: int) -> dict[str, dict[str, float]]:
    """301 frames of sound, batches of 40 and of 1."""
    network, found = bench.network_of(PRESETS["paper"]), {}
    tensors = model.named(network.theta, network.shapes)
    torch_network = peers.torch_network(tensors).eval() if find_spec("torch") else None
    for count in (40, 1):
        store, window = bench.store_of([301] * count, pad=True), np.arange(count)
        X, _ = dense(store, window, network)
        bounds, p = np.arange(count + 1) * 301, network.p
        rows = X.reshape(-1, 384)
        shards = [(rows[301 * i : 301 * (i + 4)], bounds[: min(4, count - i) + 1]) for i in range(0, count, 4)]

        def logits(shard: Any, p: Any = p) -> np.ndarray:
            return network.module.forward(p, network.config, *shard)[0][0]

        def ours(shards: Any = shards, logits: Any = logits) -> list[np.ndarray]:
            return [logits(shards[0])] if len(shards) == 1 else list(pool.map(logits, shards))

        tasks: Tasks = {"npser": ours}
        if torch_network is not None:
            import torch

            X_torch = torch.from_numpy(X)

            def theirs(X_torch: Any = X_torch) -> Any:
                with torch.inference_mode():
                    return torch_network(X_torch)

            tasks["PyTorch"] = theirs
            expected = np.concatenate(ours())
            np.testing.assert_allclose(theirs()[0].numpy(), expected, atol=1e-4)
            if find_spec("onnxruntime") and find_spec("onnx"):
                with tempfile.TemporaryDirectory() as folder:
                    session = peers.onnx_session(torch_network, Path(folder, "network.onnx"), threads)
                tasks["onnxruntime"] = lambda session=session, X=X: session.run(None, {"X": X})
                np.testing.assert_allclose(tasks["onnxruntime"]()[0], expected, atol=1e-4)
        found[f"forward, batch {count}"] = in_turns(tasks, repeats, calls=120 // count)
    return found


# Of the three systems that see pictures: frames and bands of a piece; C, n_time, n_band, K of the window; stride, valid
CONVOLUTIONS = {
    "Satt et al. (2017)": [
        ((120, 128), (1, 12, 16, 16), 1, False),
        ((60, 64), (16, 8, 12, 24), 1, False),
        ((30, 32), (24, 5, 7, 32), 1, False),
    ],
    "Yenigalla et al. (2018), 24 filters": [
        ((256, 128), (1, n_time, n_band, 24), 2, True) for n_time, n_band in ((12, 16), (18, 24), (24, 32), (30, 40))
    ],
    "Yenigalla et al. (2018), 100 filters": [
        ((256, 128), (1, n_time, n_band, 100), 1, True) for n_time, n_band in ((12, 16), (18, 24), (24, 32), (30, 40))
    ],
    "Chen et al. (2018), one convolution": [((300, 40), (3, 5, 3, 128), 1, False)],
    "Chen et al. (2018), the second of more": [((150, 10), (128, 5, 3, 256), 1, False)],
}


def convolutions(pool: ThreadPoolExecutor, threads: int, repeats: int) -> dict[str, dict[str, float]]:
    """Convolutions over time and bands, forward and backward, of a batch of 32 pieces; first layers give no gradient of X."""
    found: dict[str, dict[str, float]] = {}
    for system, shapes in CONVOLUTIONS.items():
        ours: list[Callable[[], Any]] = []
        theirs: list[Callable[[], Any]] = []
        for (T, F), window, stride, valid in shapes:
            rng, need_dX = np.random.default_rng(0), window[0] > 3
            X = rng.standard_normal((32 * T, F * window[0]), np.float32)
            W, b = 0.1 * rng.standard_normal(window, np.float32), np.zeros(window[-1], np.float32)
            ours.append(our_convolution(pool, X, T, (W, b, stride, valid), need_dX))
            if find_spec("torch"):
                picture = X.reshape(32, T, F, window[0])
                theirs.append(peers.torch_convolution(picture, W, stride, valid, need_dX))
        tasks: Tasks = {"npser": lambda ours=ours: [run() for run in ours]}
        if theirs:
            tasks["PyTorch"] = lambda theirs=theirs: [run() for run in theirs]
        found[f"conv2d, forward and backward, 32 pieces, {system}"] = in_turns(tasks, repeats)
    return found


def our_convolution(
    pool: ThreadPoolExecutor, X: np.ndarray, T: int, arguments: tuple[Any, ...], need_dX: bool
) -> Callable[[], Any]:
    """In shards of four pieces on the pool."""

    def shard(start: int) -> Any:
        out, _, backward = conv2d(X[start : start + 4 * T], np.arange(5) * T, *arguments)
        return backward(out, need_dX)

    return lambda: list(pool.map(shard, range(0, len(X), 4 * T)))


def feature_extraction(pool: ThreadPoolExecutor, threads: int, repeats: int) -> dict[str, dict[str, float]]:
    """20 waveforms of 1 to 7 s at 16 kHz to (L, 384), on one core."""
    rng = np.random.default_rng(0)
    waves = [(0.1 * rng.standard_normal(n)).astype(np.float32) for n in np.linspace(16_000, 112_000, 20).astype(int)]
    zero, one = np.zeros(384, np.float32), np.ones(384, np.float32)

    def ours() -> list[np.ndarray]:
        store = store_of(waves, features.log_mel_kind(7.5, False, False))
        X, bounds = with_deltas(store, np.arange(len(waves)), zero, one)
        return np.split(X, bounds[1:-1])

    tasks: Tasks = {"npser": ours}
    if find_spec("librosa"):
        tasks["librosa"] = lambda: [peers.librosa_of(x) for x in waves]
        np.testing.assert_allclose(tasks["librosa"]()[3], ours()[3], atol=5e-3)
    if find_spec("torch"):
        import torch

        k = torch.arange(-4.0, 5.0)
        kernels = torch.stack([k / 60, (3 * k**2 - 20) / 462])[:, None]
        run = peers.torch_features(torch.from_numpy(features.mel_filters().T.copy()), torch.hann_window(800), kernels)
        tensors = [torch.from_numpy(x) for x in waves]

        def theirs() -> list[Any]:
            before = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                return [run(x) for x in tensors]
            finally:
                torch.set_num_threads(before)

        tasks["torchaudio-style"] = theirs
    return {"features of 20 recordings, one core": in_turns(tasks, repeats)}


def processes(pool: ThreadPoolExecutor, threads: int, repeats: int) -> dict[str, dict[str, float]]:
    """Whole processes, imports and all, with their peak memory: a prediction, and the training of a corpus for 20 epochs."""
    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name), saved_model(Path(name))
        rng = np.random.default_rng(0)
        soundfile.write(folder / "a.wav", 0.1 * rng.standard_normal(5 * 16000), 16000)
        Model(model).predict(folder / "a.wav")
        corpus = synthetic.generate(folder / "corpus", 400).parent
        predict = [*NPSER, "predict", str(folder / "a.wav"), "--model", str(model)]
        jobs = {"predict, one file of 5 s": {"npser": predict}}
        same = ["--preset", "paper", "--set", "pad=false"]  # as the peers: no augmentation, batches of 40
        train = [*NPSER, "train", str(corpus), *same, "--epochs", "20", "--no-oracle", "--cache", "CACHE", "--out", "OUT"]
        jobs["train, 400 files, 20 epochs, features included"] = {"npser": train}
        if find_spec("torch") and find_spec("librosa"):
            mine = jobs["predict, one file of 5 s"]
            mine["PyTorch + librosa"] = [*PEER, "predict", str(model), str(folder / "a.wav")]
            mine = jobs["train, 400 files, 20 epochs, features included"]
            mine["PyTorch + librosa"] = [*PEER, "train", str(corpus), "20"]
        return in_processes(jobs, folder)


def an_hour(pool: ThreadPoolExecutor, threads: int, repeats: int) -> dict[str, dict[str, float]]:
    """Whole processes: an hour of speech in one file, predicted by both engines, with the model that comes with npser."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = synthetic.generate(folder / "corpus", 200).parent
        waves = [soundfile.read(path, dtype="float32")[0] for path in sorted(corpus.glob("*.wav"))]
        speech = np.concatenate(waves)
        soundfile.write(folder / "hour.wav", np.tile(speech, -(-3600 * 16000 // len(speech)))[: 3600 * 16000], 16000)
        predict = [*NPSER, "predict", str(folder / "hour.wav"), "--json", "--threads", str(threads)]
        engines = {"npser": [*predict, "--engine", "lite"], "npser --engine numba": [*predict, "--engine", "numba"]}
        return in_processes({"predict, an hour in one file": engines}, folder)


def many_files(pool: ThreadPoolExecutor, threads: int, repeats: int) -> dict[str, dict[str, float]]:
    """Whole processes: a folder of 10,000 recordings, about 2 s each, predicted by both engines."""
    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name), saved_model(Path(name))
        distinct = synthetic.generate(folder / "distinct", 500).parent
        corpus = folder / "corpus"
        corpus.mkdir()
        for k in range(20):
            for path in distinct.glob("*.wav"):
                os.link(path, corpus / f"{k:02}-{path.name}")
        predict = [*NPSER, "predict", str(corpus), "--json", "--model", str(model), "--threads", str(threads)]
        jobs = {"npser": predict, "npser --engine lite": [*predict, "--engine", "lite"]}
        if find_spec("torch") and find_spec("librosa"):
            jobs["PyTorch + librosa"] = [*PEER, "predict", str(model), str(corpus)]
        return in_processes({"predict, 10,000 files": jobs}, folder)


NPSER, PEER = [sys.executable, "-m", "npser"], [sys.executable, str(HERE / "peers.py")]


def saved_model(folder: Path) -> Path:
    """An untrained network as a model file."""
    network = bench.network_of(replace(PRESETS["paper"], pad=False))
    tensors = model.named(network.theta, network.shapes)
    tensors |= {"norm.mean": network.mean, "norm.std": network.std}
    labels: dict[str, list[str] | None] = {"emotion": ["angry", "happy", "neutral", "sad"], "gender": ["female", "male"]}
    checkpoint.save(folder / "m.safetensors", checkpoint.Checkpoint(tensors, network.config, labels, 1.0, {}))
    return folder / "m.safetensors"


def in_processes(jobs: dict[str, dict[str, list[str]]], folder: Path) -> dict[str, dict[str, float]]:
    """Milliseconds and peak MB of the commands of each job; CACHE and OUT in them are a fresh folder each time."""
    found: dict[str, dict[str, float]] = {}
    fresh = iter(range(1000))
    for what, commands in jobs.items():
        memory: dict[str, float] = {}

        def run(name: str, command: list[str], memory: dict[str, float] = memory) -> None:
            place = {"CACHE": folder / f"cache{next(fresh)}", "OUT": folder / f"out{next(fresh)}"}
            memory[name] = peak_megabytes([str(place.get(word, word)) for word in command])

        tasks: Tasks = {name: lambda name=name, command=command: run(name, command) for name, command in commands.items()}
        found[f"process: {what}"] = in_turns(tasks, 3, warm=False)
        found[f"peak MB: {what}"] = memory
    return found


WATCH = (
    "import resource, subprocess, sys\n"
    "status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode\n"
    "print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
)


def peak_megabytes(command: list[str]) -> float:
    """Run a command; its greatest resident size. A small process starts it: a child's size begins with that of its parent."""
    done = subprocess.run([sys.executable, "-c", WATCH, *command], capture_output=True, text=True, check=True)
    status, size = map(int, done.stdout.split())
    if status:
        raise SystemExit(f"{' '.join(command)}: exit status {status}")
    return size / (1 << 20 if platform.system() == "Darwin" else 1 << 10)


ITEMS = {
    "step": training_step,
    "epoch": epoch,
    "default": default_epoch,
    "forward": forward,
    "convolutions": convolutions,
    "features": feature_extraction,
    "processes": processes,
    "hour": an_hour,
    "many": many_files,
}


def table(found: dict[str, dict[str, float]], about: dict[str, Any]) -> str:
    """Markdown: npser's figure, and each peer's as a multiple of it."""
    lines = [f"{about['machine']}, {about['threads']} threads, {about['date']}; medians; ms where nothing else is said", ""]
    lines += ["| | npser | others, and how many times npser's figure |", "|---|---|---|"]
    for what, times in found.items():
        rest = ", ".join(f"{name} {t:.1f} ({t / times['npser']:.2f}x)" for name, t in times.items() if name != "npser")
        lines.append(f"| {what} | {times['npser']:.1f} | {rest} |")
    return "\n".join([*lines, "", ", ".join(f"{name} {v}" for name, v in about["versions"].items())]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", default=",".join(ITEMS), help=f"some of {', '.join(ITEMS)}")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, help="folder for bench.md and bench.json")
    args = parser.parse_args()
    if find_spec("torch"):
        import torch

        torch.set_num_threads(args.threads)
    versions = {"python": platform.python_version()}
    for name in ("numpy", "numba", "torch", "keras", "tensorflow-cpu", "onnxruntime", "librosa"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    about = {"machine": machine(), "threads": args.threads, "date": date.today().isoformat(), "versions": versions}
    keep_freed_memory()
    compile_kernels()
    found: dict[str, dict[str, float]] = {}
    with single_threaded_blas(), ThreadPoolExecutor(args.threads) as pool:
        for item in args.items.split(","):
            found |= ITEMS[item](pool, args.threads, args.repeats)
            print(f"{item}: done, {resource.getrusage(resource.RUSAGE_SELF).ru_utime:.0f} s", file=sys.stderr)
    text = table(found, about)
    print(text)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "bench.md").write_text(text)
        (args.out / "bench.json").write_text(json.dumps({**about, "found": found}, indent=2) + "\n")


def machine() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()

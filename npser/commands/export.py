"""`npser export`: the trained network for what is not written in Python: as an ONNX graph, or as a page that listens by itself.

The graph is for one utterance and any number of frames. With features inside it takes the waveform itself.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from npser import __version__, checkpoint, features, model
from npser.commands import terminal
from npser.features import HOP, N_MELS, SAMPLE_RATE
from npser.files import write
from npser.live.page import page
from npser.networks.onnx_layers import Graph

Shapes = dict[str, list[int | str]]

PAGE, OPEN = ".html", "open it in a browser; it needs no server and sends nothing"
OPSET, IR_VERSION = 17, 8  # the oldest that has STFT, so that older versions of onnxruntime run the graph too


def run(args: argparse.Namespace) -> int:
    """Run `npser export`; returns its exit status."""
    if args.out.suffix.lower() == PAGE:
        if args.with_features:
            raise terminal.UsageError("--with-features is for .onnx; a page always has the features inside")
        made = export_page(args.model, args.out)
        shown = terminal.printable(made)
        print(
            json.dumps(made, indent=2) if args.json else f"{'page':<10}{shown['path']} ({shown['bytes'] / 1e6:.2f} MB); {OPEN}"
        )
        return 0
    found = export(args.model, args.out, args.with_features)
    print(json.dumps(found, indent=2) if args.json else text(terminal.printable(found)))
    return 0


def export_page(path: Path, out: Path) -> dict[str, Any]:
    """Write a trained network as a page that listens by itself; see npser.live.page for what it refuses."""
    content = page(path).encode()
    write(out, content)
    return {"path": str(out), "bytes": len(content)}


def export(path: Path, out: Path, with_features: bool) -> dict[str, Any]:
    """Write a trained network as an ONNX file.

    Parameters
    ----------
    path : Path
        A ``model.safetensors``.
    out : Path
        The ``.onnx`` file. Its input: ``features`` (1, frames, d_spec), as ``Model.network_input`` gives them, or ``waveform``
        (1, samples) at 16 kHz. Its outputs: ``emotion`` (1, classes) and ``gender`` (1, 2), probabilities, and ``attention``
        (1, n_attn, steps), the weights of each head over time; the last two where the network has them.
    with_features : bool
        The waveform is the input.

    Returns
    -------
    dict
        What was written: inputs, outputs, metadata.

    Raises
    ------
    ValueError
        Where onnx is not installed, the model file is none, its network has no ONNX form, or out cannot be written.
    """
    try:
        import onnx
    except ImportError:
        raise ValueError("npser export needs the package onnx; get it with: pip install onnx") from None
    if out.suffix.lower() != ".onnx":
        raise ValueError(f"{out}: expected a name that ends in .onnx or .html")
    trained = checkpoint.load(path)
    c, g, network = trained.config, Graph(), model.module_of(trained.config)
    answers = "npser evaluate" if model.reads_text(c) else "npser predict"
    if not hasattr(network, "onnx"):
        raise ValueError(f"{path}: the network {c.network} has no ONNX form; `{answers}` answers with it")
    if not features.is_log_mel(network.kind(c)):
        raise ValueError(f"{path}: its features, {network.describe_input(c)}, have no ONNX form; `{answers}` answers with it")
    if with_features:
        X = network.onnx_input(g, c)
        X = g.op("Div", g.op("Sub", X, trained.tensors["norm.mean"]), trained.tensors["norm.std"])
        inputs: Shapes = {"waveform": [1, "samples"]}
    else:
        X = g.op("Squeeze", "features", [0])  # (L, d_spec)
        inputs = {"features": [1, "frames", c.d_spec]}
    network.onnx(g, trained.tensors, c, X, trained.temperature)
    outputs: Shapes = {"emotion": [1, len(trained.emotions)]}
    if trained.genders:
        outputs["gender"] = [1, len(trained.genders)]
    if network.heads_of_attention(c):
        outputs["attention"] = [1, network.heads_of_attention(c), "steps"]
    metadata = _metadata(trained, with_features)
    proto = _model(g, inputs, outputs, metadata)
    onnx.checker.check_model(proto, full_check=True)
    content = proto.SerializeToString(deterministic=True)
    write(out, content)
    return {"path": str(out), "bytes": len(content), "inputs": inputs, "outputs": outputs, "metadata": metadata}


def _model(g: Graph, inputs: Shapes, outputs: Shapes, metadata: dict[str, Any]) -> Any:
    """The graph with its inputs, outputs and metadata, as ONNX's ModelProto."""
    from onnx import TensorProto, helper

    def described(values: Shapes) -> list[Any]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values.items()]

    graph = helper.make_graph(g.nodes, "npser", described(inputs), described(outputs), list(g.constants.values()))
    proto = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="npser",
        producer_version=__version__,
    )
    helper.set_model_props(proto, {key: json.dumps(value, sort_keys=True) for key, value in metadata.items()})
    return proto


def _metadata(trained: checkpoint.Checkpoint, with_features: bool) -> dict[str, Any]:
    """What a program in another language needs to know; every value becomes a JSON text."""
    c, bands = trained.config, trained.config.d_spec // 3
    constants: dict[str, Any] = {
        **model.module_of(c).kind(c).settings,
        "max_seconds": c.max_seconds,
        "zero_padded": c.pad,
        "level_db": features.LEVEL_DB if c.level else None,
        "bands": bands,
        "mean_power_db_of_bands": 0.0 if c.level and bands < N_MELS else None,
        "seconds_of_a_step": model.module_of(c).samples_per_step(c) / SAMPLE_RATE,
    }
    if not with_features:
        constants |= {name: trained.tensors[f"norm.{name}"].tolist() for name in ("mean", "std")}
    return {"labels": trained.labels, "features": constants, "training": trained.training}


def text(found: dict[str, Any]) -> str:
    """What was written, for the terminal."""

    def lines(kind: str) -> list[str]:
        return [f"{kind:<10}{name} ({', '.join(map(str, shape))})" for name, shape in found[f"{kind}s"].items()]

    constants = found["metadata"]["features"]
    written = f"{'graph':<10}{found['path']} ({found['bytes'] / 1e6:.2f} MB, opset {OPSET})"
    seconds = constants["max_seconds"]
    if not constants["zero_padded"]:
        length = f"up to {seconds:g} s"
    elif "waveform" in found["inputs"]:
        length = f"up to {seconds:g} s; shorter ones are padded inside, the rest of longer ones is cut"
    else:
        length = f"{features.window_samples(seconds) // HOP + 1} frames, which are {seconds:g} s, zero-padded"
    more = [f"{'':<10}of longer recordings, average the log-probabilities of half-overlapping windows"]
    if "speech" in constants:
        more.append(f"{'':<10}of speech alone: cut out the pauses before that, as npser/speech.py does")
    return "\n".join([written, *lines("input"), *lines("output"), f"{'length':<10}{length}", *more])

"""The paper's network without recurrence: convolutions, pooling, self attention and heads. What the BLSTM is worth.

Attention sums up the pooled outputs of the convolutions, each of which sees seven frames of X. Dropout acts on these outputs.
Everything else is li2019's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from npser import config
from npser.networks import li2019, numpy_layers, onnx_layers
from npser.networks.li2019 import (  # noqa: F401 (they are this network's as well)
    SIZES,
    Array,
    Grads,
    Out,
    Shapes,
    Views,
    decide,
    describe_input,
    draws,
    evidence_of_input,
    example,
    familiar,
    heads_of_attention,
    inputs,
    kind,
    loss,
    onnx_input,
    plain_input,
    plain_of_bands,
    samples_per_step,
    solve_first,
    spectrum,
    state,
)

TITLE = "Li et al. (2019) without recurrence"


@dataclass(frozen=True)
class Config(config.Config):
    """Settings of a run with this network: those of every run, and the sizes of Table 1 but for the LSTM's."""

    network: str = "li2019_feedforward"
    d_cnn: int = 64  # convolution filters
    d_attn: int = 512  # hidden size of the attention
    n_cw: int = 3  # convolution window
    n_pw: int = 3  # pooling window
    n_attn: int = 8  # attention heads
    speech: bool = False  # hear nothing but speech: pauses are cut out, see npser.speech
    attention: bool = True  # False: mean over time
    statistics: bool = False  # logistic regression on statistics of the bands beside it, see networks.statistics

    def __post_init__(self) -> None:
        super().__post_init__()
        li2019.check(self)


PRESETS = {"default": Config(**li2019.DEFAULT), "paper": Config(), "same-input": Config(**li2019.SAME_INPUT)}
ABLATION = {"no-attention": {"attention": False}}
SMALL = {"loss, no recurrence": Config(d_spec=9, d_cnn=5, d_attn=6, n_attn=2)}


def shapes(c: Config, emotions: int, genders: int) -> Shapes:
    """Name and shape of every parameter, in the order of theta. genders 0: a network without the gender head."""
    return li2019.convolution_shapes(c) | li2019.attention_and_head_shapes(c, c.d_cnn, emotions, genders)


def forward(
    p: Views, c: Config, X: Array, bounds: Array, frames: Array | None = None, rng: np.random.Generator | None = None
) -> tuple[Out, Callable[..., Grads]]:
    """Features to logits, as li2019.forward."""
    from npser.layers import attention, conv1d, dropout, extend, maxpool, mean_over_time  # late: they import Numba

    frames, utterances = np.diff(bounds) if frames is None else frames, bounds
    H, b_cnn1 = conv1d(X, bounds, **p["cnn1"])  # (1)-(3)
    H, b_cnn2 = conv1d(H, bounds, **p["cnn2"])
    H, bounds, b_pool = maxpool(H, bounds, c.n_pw)  # (4)
    H, bounds, b_extend = extend(H, bounds, frames // c.n_pw)
    H, b_drop = dropout(H, c.dropout, rng)
    z, b_attn = attention(H, bounds, **p["attn"]) if c.attention else mean_over_time(H, bounds)  # (5)-(9)
    logits, b_heads = li2019.heads(p, z)  # 4.3

    def backward(demotion: Array, dgender: Array | None) -> Grads:
        g: Grads = {}
        dz, g["emotion"], g["gender"] = b_heads(demotion, dgender)
        dH, *g["attn"] = b_attn(dz)
        dH, *g["cnn2"] = b_cnn2(*b_pool(*b_extend(*b_drop(dH))))
        _, *g["cnn1"] = b_cnn1(dH, need_dX=False)
        return g

    return (*logits, X, utterances), backward


def plain(t: dict[str, Array], c: Config, X: Array) -> tuple[Array, Array, Array | None]:
    """X (B, L, d_spec) -> emotion (B, classes), gender (B, 2) or (B, 0), a (B, n_attn, T) or None."""
    H = numpy_layers.conv1d(t, "cnn2", numpy_layers.conv1d(t, "cnn1", X))
    return li2019.plain_end(t, c, numpy_layers.maxpool(H, c.n_pw), X)


def onnx(g: onnx_layers.Graph, t: dict[str, Array], c: Config, X: str, temperature: float) -> None:
    """X (L, d_spec) -> the outputs."""
    H = g.op("Unsqueeze", g.op("Transpose", X, perm=[1, 0]), [0])
    H = onnx_layers.conv1d(g, t, "cnn2", onnx_layers.conv1d(g, t, "cnn1", H))
    li2019.onnx_end(g, t, c, onnx_layers.maxpool(g, H, c.d_cnn, c.n_pw), X, temperature)


def describe(c: Config) -> str:
    """The sizes, for npser info."""
    return f"{c.d_cnn} filters, no recurrence, {li2019.describe_end(c)}"

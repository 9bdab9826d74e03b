"""A network as the engine sees it: one vector theta (P,) cut into named arrays, a loss, and its gradient.

Which network it is, its Config says; NETWORKS has the modules, and npser/networks/__init__.py says what each of them states.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from npser import config
from npser.config import Config, stream
from npser.networks import (
    chen2018,
    ghosh2016,
    han2014,
    lee2015,
    li2019,
    li2019_feedforward,
    mirsamadi2017,
    satt2017,
    yenigalla2018,
)

NETWORKS: dict[str, Any] = {
    "li2019": li2019,
    "li2019_feedforward": li2019_feedforward,
    "han2014": han2014,
    "lee2015": lee2015,
    "ghosh2016": ghosh2016,
    "mirsamadi2017": mirsamadi2017,
    "satt2017": satt2017,
    "yenigalla2018": yenigalla2018,
    "chen2018": chen2018,
}

Array = np.ndarray
Shapes = dict[str, tuple[int, ...]]
Views = dict[str, dict[str, Array]]


def module_of(c: Config) -> Any:
    """The module of a network."""
    return NETWORKS[c.network]


def configured(settings: dict[str, Any], preset: str | None = None) -> tuple[Config, str]:
    """The settings of a run: those of a preset (the network's first) but for these, and the name of the preset.

    Where settings name no network, it is li2019. ValueError for a network, a preset or a setting that there is not.
    """
    presets = _named(settings).PRESETS
    preset = preset or next(iter(presets))
    if preset not in presets:
        raise UnknownName(f"preset is {preset!r}; expected one of {', '.join(presets)}")
    return config.override(presets[preset], settings), preset


def restored(settings: dict[str, Any]) -> Config:
    """The settings of a model file; those of earlier versions lack the network's name, and have some that are retired."""
    kept = {name: value for name, value in settings.items() if name not in config.RETIRED}
    return _named(kept).Config(**kept)


class UnknownName(ValueError):
    """A network, a preset or a system that there is not."""


def _named(settings: dict[str, Any]) -> Any:
    """The module that settings name; li2019 where they name none."""
    name = settings.get("network", "li2019")
    if not isinstance(name, str) or name not in NETWORKS:
        raise UnknownName(f"network is {name!r}; expected one of {', '.join(NETWORKS)}")
    return NETWORKS[name]


def varied(c: Config, changes: dict[str, Any]) -> Config:
    """Other settings, or those of another network: where changes name one, with all the settings that both have."""
    kind = NETWORKS[changes.get("network", c.network)].Config
    known = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in (dataclasses.asdict(c) | changes).items() if name in known})


def reads_text(c: Config) -> bool:
    """Whether a network's input is more than sound: phonemes that somebody has written down."""
    module = module_of(c)
    return hasattr(module, "reads_text") and module.reads_text(c)


def refuse_text(c: Config) -> None:
    """ValueError for a network that would have to answer a recording alone, and reads more than that."""
    if reads_text(c):
        raise ValueError(
            f"the network {c.network} reads phonemes of transcripts here, which a recording alone does not have; "
            "`npser evaluate` reads them from a manifest with a column phonemes"
        )


def shapes_of(c: Config, emotions: int, genders: int) -> Shapes:
    """Name and shape of every parameter, in the order of theta."""
    return module_of(c).shapes(c, emotions, genders)


def state_of(c: Config, emotions: int, genders: int) -> dict[str, Array]:
    """What a network holds beside theta, as it starts: {"layer.name": array}; {} for most. "norm" is the input's."""
    module = module_of(c)
    found = module.state(c, emotions, genders) if hasattr(module, "state") else {}
    assert not any(name.startswith("norm.") for name in found), f"{c.network}: norm is the name of the input's statistics"
    return found


def familiar(c: Config, tensors: dict[str, Array], own_share: Array) -> dict[str, Array]:
    """What an adapted network has in place of some tensors; {} for most. own_share: see adaptation.own_share; one, or (B,)."""
    module = module_of(c)
    return module.familiar(c, tensors, own_share) if hasattr(module, "familiar") else {}


def named(theta: Array, shapes: Shapes) -> dict[str, Array]:
    """Named views of theta (P,): {"cnn1.W": ..., "cnn1.b": ..., ...}; writing to them writes to theta."""
    ends = itertools.accumulate(math.prod(shape) for shape in shapes.values())
    pieces = zip(shapes.items(), ends, strict=True)
    return {name: theta[end - math.prod(shape) : end].reshape(shape) for (name, shape), end in pieces}


def views(theta: Array, shapes: Shapes, state: dict[str, Array] | None = None) -> Views:
    """The same by layer: {"cnn1": {"W": ..., "b": ...}, ...}; with what the network holds beside theta."""
    p: Views = {}
    for name, value in (named(theta, shapes) | (state or {})).items():
        layer, param = name.split(".")
        p.setdefault(layer, {})[param] = value
    return p


def size_of(shapes: Shapes) -> int:
    """Elements of theta."""
    return sum(math.prod(shape) for shape in shapes.values())


def init(shapes: Shapes, seed: int, dtype: DTypeLike = np.float32) -> Array:
    """theta (P,) as Keras 2.2.4 starts it: Glorot uniform, orthogonal recurrences, biases 0, forget gates' 1.

    By name: R_... is a recurrence, b_... the bias of four gates, b a bias, anything else a matrix (in, out) or a filter
    (in, window..., out).
    """
    rng = stream("init", seed)
    try:
        theta = np.zeros(size_of(shapes))
    except (ValueError, MemoryError):  # more than can be addressed, or than there is
        raise ValueError(f"the network would have {size_of(shapes):.3g} parameters; choose smaller sizes than these") from None
    for name, value in named(theta, shapes).items():
        param = name.split(".")[1]
        if param.startswith("R_"):
            value[:] = np.linalg.svd(rng.standard_normal(value.shape), full_matrices=False)[2]
        elif param.startswith("b_"):
            H = len(value) // 4
            value[H : 2 * H] = 1
        elif param != "b":
            limit = math.sqrt(6 / (math.prod(value.shape[1:-1]) * (value.shape[0] + value.shape[-1])))
            value[:] = rng.uniform(-limit, limit, value.shape)
    return theta.astype(dtype)


def loss(p: Views, c: Config, x: tuple[Any, ...], y: Any, rng: np.random.Generator | None = None) -> tuple[float, Any]:
    """The loss of some utterances and its gradients by layer. x: what the network's inputs give; y: network.Targets."""
    module = module_of(c)
    out, backward = module.forward(p, c, *x, rng=rng)
    total, dout = module.loss(c, out, y)
    return total, backward(*dout)


def flatten(grads: dict[str, Any], shapes: Shapes) -> Array:
    """The gradient of theta, (P,), from those of its layers, each a list in the order of the layer's parameters."""
    layers = dict.fromkeys(name.split(".")[0] for name in shapes)
    return np.concatenate([grad.ravel() for layer in layers for grad in grads[layer]])

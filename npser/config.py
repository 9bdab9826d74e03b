"""Sizes of the network (Table 1), settings of its training (section 5.1), and the list of its parameters."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

N_MELS = 128  # bands of a spectrum


@dataclass(frozen=True)
class Config:
    """Everything that decides what a training run computes, apart from its data.

    The defaults are the paper's, with what the paper leaves open filled as Keras 2.2.4 had it.
    """

    # Table 1
    d_spec: int = 384  # features of a frame: log-mel bands, the lowest of 128, with deltas, delta-deltas; 297: up to 4 kHz
    d_cnn: int = 64  # convolution filters
    d_lstm: int = 60  # LSTM units of a direction
    d_attn: int = 512  # hidden size of the attention
    n_cw: int = 3  # convolution window
    n_pw: int = 3  # pooling window
    n_attn: int = 8  # attention heads
    attention: bool = True  # False: mean over time instead of equations (5)-(9)
    # input
    max_seconds: float = 7.5  # longer recordings are cut
    pad: bool = True  # zero-pad and cut every waveform to max_seconds, as the paper does; False: natural length
    level: bool = False  # bring what is heard of a window to one level: the distance to the microphone does not count
    # augmentation of the training part, see npser.augment; 0: none
    stretch: float = 0.0  # duration times a factor between 1 - stretch and 1 + stretch
    warp: float = 0.0  # mel axis times a factor between 1 - warp and 1 + warp
    splice: float = 0.0  # share of utterances that end as another one of the same emotion and gender does
    channel: float = 0.0  # share of utterances with noise, with a narrow band, and with an echo; 0: no tilt either
    mask_bands: int = 0  # two stripes of at most so many bands are blanked
    mask_frames: int = 0  # two stripes of at most so many frames are blanked
    # objective, equation (10)
    alpha: float = 1.0
    beta: float = 1.0  # 0: without multitask learning
    class_weight: str = "none"  # "balanced": each class weighs the same in the emotion loss
    smoothing: float = 0.0  # share of every emotion's target that is spread over all classes
    # training, section 5.1
    epochs: int = 100
    batch: int = 40
    learning_rate: float = 1e-4
    decay: float = 1e-6  # rate / (1 + decay * updates)
    schedule: str = "constant"  # "cosine": the rate falls to 0 along half a cosine, under which the warm-up rises
    warmup: float = 0.0  # epochs in which the rate rises from 0, at most a quarter of all
    weight_decay: float = 0.0  # of all but biases: theta * (1 - rate * weight_decay) each update
    clip: float = 1.0  # each gradient to [-clip, clip]
    dropout: float = 0.5  # after every BLSTM layer
    select: str = "ua"  # what chooses the epoch on the validation session: "ua" or "loss"; or always the "last" one
    shard: int = 4  # utterances that are computed together; results depend on it, never on threads
    seed: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            kind, value = type(field.default), getattr(self, field.name)
            if kind is float and type(value) is int:
                object.__setattr__(self, field.name, float(value))
            elif type(value) is not kind:
                raise ValueError(f"setting {field.name} is {value!r}; expected a value of type {kind.__name__}")
        for name in ("d_spec", "d_cnn", "d_lstm", "d_attn", "n_cw", "n_pw", "n_attn", "epochs", "batch", "shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"setting {name} is {getattr(self, name)}; expected at least 1")
        if self.n_cw % 2 == 0:
            raise ValueError(f"setting n_cw is {self.n_cw}; expected an odd window")
        if self.d_spec % 3 or self.bands > N_MELS:
            raise ValueError(
                f"setting d_spec is {self.d_spec}; expected a multiple of 3, at most {3 * N_MELS}: bands, deltas, delta-deltas"
            )
        for name in ("splice", "channel"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"setting {name} is {getattr(self, name)}; expected 0 <= {name} <= 1")
        if self.mask_bands > self.bands:
            raise ValueError(f"setting mask_bands is {self.mask_bands}; expected at most all bands, {self.bands}")
        for name in ("dropout", "stretch", "warp", "smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"setting {name} is {getattr(self, name)}; expected 0 <= {name} < 1")
        if not 0.1 <= self.max_seconds < float("inf"):
            raise ValueError(f"setting max_seconds is {self.max_seconds}; expected at least 0.1")
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"setting {name} is {getattr(self, name)}; expected a positive number")
        for name in ("alpha", "beta", "decay", "warmup", "weight_decay", "mask_bands", "mask_frames", "seed"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"setting {name} is {getattr(self, name)}; expected zero or a positive number")
        for name, choices in (
            ("select", ("ua", "loss", "last")),
            ("class_weight", ("none", "balanced")),
            ("schedule", ("constant", "cosine")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"setting {name} is {getattr(self, name)!r}; expected one of {', '.join(choices)}")

    @property
    def bands(self) -> int:
        """Log-mel bands that the network hears."""
        return self.d_spec // 3


PRESETS = {
    "paper": Config(),
    "default": Config(  # what examples/recipe.md keeps
        d_spec=297,
        pad=False,
        level=True,
        stretch=0.15,
        warp=0.12,
        splice=0.5,
        channel=0.3,
        epochs=40,
        batch=16,
        learning_rate=1e-3,
        schedule="cosine",
        warmup=3.0,
        select="last",
    ),
}


def override(config: Config, settings: dict[str, Any]) -> Config:
    """config with some settings replaced; ValueError where a name or a value is not one of Config's."""
    known = {field.name for field in dataclasses.fields(Config)}
    for name in settings:
        if name not in known:
            raise ValueError(f"there is no setting {name!r}; the settings are {', '.join(sorted(known))}")
    return dataclasses.replace(config, **settings)


STREAMS = ("init", "shuffle", "dropout", "split", "gender", "bootstrap", "augment", "splice")


def stream(purpose: str, *numbers: int) -> np.random.Generator:
    """Random numbers of their own for each purpose and each tuple of numbers, such as (seed, epoch)."""
    return np.random.default_rng(np.random.SeedSequence([STREAMS.index(purpose) + 1, *numbers]))


def parse_setting(text: str) -> tuple[str, Any]:
    """``"KEY=VALUE"`` of the command line; VALUE is TOML, or a bare word. ValueError where there is no ``=``."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name:
        raise ValueError(f"--set {text}: expected KEY=VALUE, such as --set learning_rate=3e-4")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


def read_toml(path: Path) -> dict[str, Any]:
    """Settings of a TOML file; ValueError where it cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); expected a TOML file of settings") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is not TOML ({error}); expected lines such as: learning_rate = 3e-4") from None


def to_toml(config: Config) -> str:
    """key = value lines: JSON texts of strings, numbers and truth values are TOML as well."""
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in dataclasses.asdict(config).items())


def param_shapes(c: Config, emotions: int, genders: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter, in the order of theta. genders 0: a network without the gender head."""
    H, D = c.d_lstm, 2 * c.d_lstm
    shapes: dict[str, tuple[int, ...]] = {
        "cnn1.W": (c.d_spec, c.n_cw, c.d_cnn),
        "cnn1.b": (c.d_cnn,),
        "cnn2.W": (c.d_cnn, c.n_cw, c.d_cnn),
        "cnn2.b": (c.d_cnn,),
    }
    for layer, d_in in (("lstm1", c.d_cnn), ("lstm2", D)):
        for direction in ("fw", "bw"):
            shapes[f"{layer}.W_{direction}"] = (d_in, 4 * H)
            shapes[f"{layer}.R_{direction}"] = (H, 4 * H)
            shapes[f"{layer}.b_{direction}"] = (4 * H,)
    if c.attention:
        shapes["attn.W_s1"] = (D, c.d_attn)
        shapes["attn.w_s2"] = (c.d_attn, c.n_attn)
    d_z = c.n_attn * D if c.attention else D
    for head, classes in (("emotion", emotions), ("gender", genders)):
        if classes:
            shapes[f"{head}.W"] = (d_z, classes)
            shapes[f"{head}.b"] = (classes,)
    return shapes

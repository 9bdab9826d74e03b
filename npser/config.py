"""Settings of a training run (section 5.1), how they are read and written, and the random streams that its seed opens.

What a network has beside these, its sizes above all, it states itself: each module of npser/networks extends Config.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from npser.files import refuse_special

AnyConfig = TypeVar("AnyConfig", bound="Config")
RETIRED = {
    "mask_bands": 0,
    "mask_frames": 0,
    "smoothing": 0.0,
}  # settings of earlier versions, and what they are without effect

LARGEST, LONGEST = 2**31 - 1, 3600  # of sizes and numbers of things; seconds of a window


@dataclass(frozen=True)
class Config:
    """Everything that decides what a training run computes, apart from its data and the sizes of its network.

    The defaults are the paper's, with what the paper leaves open filled as Keras 2.2.4 had it.
    """

    network: str = ""  # the module of npser/networks
    # input
    d_spec: int = 384  # features of a frame: the columns of X
    max_seconds: float = 7.5  # longer recordings are cut
    pad: bool = True  # zero-pad and cut every waveform to max_seconds, as the paper does; False: natural length
    level: bool = False  # bring every window to one level: the distance to the microphone does not count
    # augmentation of the training part, see npser.augment; 0: none
    stretch: float = 0.0  # duration times a factor between 1 - stretch and 1 + stretch
    warp: float = 0.0  # mel axis times a factor between 1 - warp and 1 + warp
    splice: float = 0.0  # share of utterances that end as another one of the same emotion and gender does
    channel: float = 0.0  # share of utterances with noise, with a narrow band, and with an echo; 0: no tilt either
    adapt: bool = False  # draw the normaliser of each utterance towards its speaker, as --adapt does: see npser.adaptation
    balance: str = "none"  # "corpora": an epoch draws as many utterances of every corpus
    # objective, equation (10)
    alpha: float = 1.0
    beta: float = 1.0  # 0: without multitask learning
    class_weight: str = "none"  # "balanced": each class weighs the same in the emotion loss
    # training, section 5.1
    epochs: int = 100
    batch: int = 40
    learning_rate: float = 1e-4
    decay: float = 1e-6  # rate / (1 + decay * updates)
    schedule: str = "constant"  # "cosine": the rate falls to 0 along half a cosine, under which the warm-up rises
    warmup: float = 0.0  # epochs in which the rate rises from 0, at most a quarter of all
    weight_decay: float = 0.0  # of all but biases: theta * (1 - rate * weight_decay) each update
    clip: float = 1.0  # each gradient to [-clip, clip]
    dropout: float = 0.5
    select: str = "ua"  # what chooses the epoch on the validation session: "ua" or "loss"; or always the "last" one
    shard: int = 4  # utterances that are computed together; results depend on it, never on threads
    seed: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            kind, value = type(field.default), getattr(self, field.name)
            if kind is float and type(value) is int and abs(value) < 1e300:
                object.__setattr__(self, field.name, float(value))
            elif type(value) is not kind:
                raise ValueError(f"setting {field.name} is {value!r}; expected a value of type {kind.__name__}")
        sizes = [field.name for field in dataclasses.fields(self) if type(field.default) is int and field.name != "seed"]
        self.expect(" ".join(sizes), lambda value: value <= LARGEST, f"at most {LARGEST}")
        self.expect("d_spec epochs batch shard", lambda value: value >= 1, "at least 1")
        self.expect("splice channel", lambda value: 0 <= value <= 1, "0 <= {name} <= 1")
        self.expect("dropout stretch warp", lambda value: 0 <= value < 1, "0 <= {name} < 1")
        self.expect("max_seconds", lambda value: 0.1 <= value <= LONGEST, f"0.1 to {LONGEST}")
        self.expect("learning_rate clip", lambda value: 0 < value < float("inf"), "a positive number")
        numbers = "alpha beta decay warmup weight_decay seed"
        self.expect(numbers, lambda value: 0 <= value < float("inf"), "zero or a positive number")
        self.expect("select", ("ua", "loss", "last").__contains__, "one of ua, loss, last")
        self.expect("class_weight", ("none", "balanced").__contains__, "one of none, balanced")
        self.expect("balance", ("none", "corpora").__contains__, "one of none, corpora")
        self.expect("schedule", ("constant", "cosine").__contains__, "one of constant, cosine")

    def expect(self, names: str, right: Callable[[Any], bool], words: str) -> None:
        """ValueError for the first of some settings whose value is not right; words: what would be."""
        for name in names.split():
            if not right(value := getattr(self, name)):
                raise ValueError(f"setting {name} is {value!r}; expected {words.format(name=name)}")


def override(config: AnyConfig, settings: dict[str, Any]) -> AnyConfig:
    """config with some settings replaced; ValueError where a name or a value is not one of its own."""
    known = {field.name for field in dataclasses.fields(config)}
    settings = {name: value for name, value in settings.items() if name not in RETIRED or value != RETIRED[name]}
    for name in settings:
        if name not in known:
            raise ValueError(f"there is no setting {name!r}; the settings are {', '.join(sorted(known))}")
    return dataclasses.replace(config, **settings)


def parse_setting(text: str) -> tuple[str, Any]:
    """``"KEY=VALUE"`` of the command line; VALUE is TOML, or a bare word. ValueError for no setting, and for two."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name:
        raise ValueError(f"--set {text}: expected KEY=VALUE, such as --set learning_rate=3e-4")
    try:
        found = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return name, value
    except (ValueError, RecursionError):  # a number of more digits than Python reads, or a list in a list in a list
        raise ValueError(f"--set {name}: its value cannot be read; expected a number, a word, true or false") from None
    if len(found) > 1:
        raise ValueError(f"--set {text}: holds more than one setting; expected one KEY=VALUE, and --set again for another")
    return name, found["value"]


def read_toml(path: Path) -> dict[str, Any]:
    """Settings of a TOML file; ValueError where it cannot be read or is not TOML."""
    refuse_special(path, "expected a TOML file of settings")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); expected a TOML file of settings") from None
    except RecursionError:
        raise ValueError(f"{path}: is nested too deeply; expected lines such as: learning_rate = 3e-4") from None
    except ValueError as error:  # of TOML, of UTF-8, or a number of more digits than Python reads
        raise ValueError(f"{path}: is not TOML ({error}); expected lines such as: learning_rate = 3e-4") from None


def to_toml(config: Config) -> str:
    """key = value lines: JSON texts of strings, numbers and truth values are TOML as well."""
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in dataclasses.asdict(config).items())


# Their order is part of every result, so one that is no longer used keeps its place.
STREAMS = ("init", "shuffle", "dropout", "split", "gender", "unused", "augment", "splice", "network", "voices")


def stream(purpose: str, *numbers: int) -> np.random.Generator:
    """Random numbers of their own for each purpose and each tuple of numbers, such as (seed, epoch)."""
    return np.random.default_rng(np.random.SeedSequence([STREAMS.index(purpose) + 1, *numbers]))

"""The protocol npser.v1: what clients may say in a session, what they are told, and how errors look, over HTTP as well.

A session: the server says session.created; the client says session.update, once, and then sends sound as binary messages; the
server says speech.start, measurement, speech.end as there is something to tell, and progress once a second. At flush, all that
was heard so far is answered. At session.close, that, and session.closed, which is always the last message.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from npser import features
from npser.lite import Model
from npser.live.limits import Problem
from npser.live.stream import EVERY, SHORTEST, Event
from npser.prediction import likeliest, sure

Array = np.ndarray
Message = dict[str, Any]

PROTOCOL = "npser.v1"
TOKEN_PROTOCOL = "npser.token."  # a browser can send a token only as a subprotocol: this, and the token
SAMPLES = {"s16le": ("<i2", 1 / 32768), "f32le": ("<f4", 1.0)}  # type, and what full scale is multiplied by
LONGEST_GAP = 10.0  # seconds
MOST_TEXT = 4096  # bytes of a message of text

# Close codes
NORMAL, GOING_AWAY, OUR_FAULT = 1000, 1001, 1011
CONFIG, TIMED_OUT, TOO_LARGE, TOO_FAST = 4000, 4008, 4009, 4029


@dataclass(frozen=True)
class Update:
    """What session.update says of the sound that will come."""

    rate: int
    format: str = "s16le"
    every: float = EVERY
    min_confidence: float = 0.0
    adapt: bool = False


def _number(name: str, value: Any, least: float, most: float) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise Problem("config_invalid", f"{name} is {_short(value)}; expected a number, {least:g} to {most:g}", close=CONFIG)
    return value


def _rate(value: Any) -> int:
    least, most = features.RATES
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Problem(
            "config_invalid", f"rate is {_short(value)}; expected a whole number of Hz, {least} to {most}", close=CONFIG
        )
    return value


def _format(value: Any) -> str:
    if not isinstance(value, str) or value not in SAMPLES:
        raise Problem("config_invalid", f"format is {_short(value)}; expected {' or '.join(SAMPLES)}", close=CONFIG)
    return value


def _adapt(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Problem("config_invalid", f"adapt is {_short(value)}; expected true or false", close=CONFIG)
    return value


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


FIELDS: dict[str, tuple[str, ...]] = {
    "session.update": ("rate", "format", "every", "min_confidence", "adapt"),
    "flush": (),
    "gap": ("seconds",),
    "session.close": (),
}


def read(text: str) -> Message:
    """A client's message of text, of a known type and with known fields."""
    if len(text) > MOST_TEXT:
        raise Problem("message_invalid", f"a message of text has {len(text)} characters; expected at most {MOST_TEXT}")
    try:
        message = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Problem("message_invalid", "a message of text is no JSON; sound is sent as binary messages") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise Problem("message_invalid", 'a message has no type; expected an object such as {"type": "flush"}')
    kind = message["type"]
    if kind not in FIELDS:
        raise Problem("type_unknown", f"there is no type {_short(kind)}; expected one of {', '.join(FIELDS)}")
    unknown = sorted(message.keys() - {"type", *FIELDS[kind]})
    if unknown:
        known = ", ".join(FIELDS[kind]) or "none but type"
        close = CONFIG if kind == "session.update" else None
        raise Problem(
            "config_invalid" if close else "field_unknown",
            f"{kind} has no field {_short(unknown[0])}; it has {known}",
            close=close,
        )
    return message


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def update_of(message: Message, longest: float) -> Update:
    """session.update. longest: seconds between answers, at most."""
    if "rate" not in message:
        raise Problem("config_invalid", "session.update lacks rate; expected the sample rate of the sound, in Hz", close=CONFIG)
    readers: dict[str, Callable[[Any], Any]] = {
        "rate": _rate,
        "format": _format,
        "every": lambda value: float(_number("every", value, SHORTEST, longest)),
        "min_confidence": lambda value: float(_number("min_confidence", value, 0, 1)),
        "adapt": _adapt,
    }
    return Update(**{name: reader(message[name]) for name, reader in readers.items() if name in message})


def gap_of(message: Message) -> float:
    """Seconds that a client has lost."""
    value = message.get("seconds")
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= LONGEST_GAP:
        raise Problem("gap_invalid", f"seconds is {_short(value)}; expected a number over 0, at most {LONGEST_GAP:g}")
    return float(value)


def samples(data: bytes, form: str) -> Array:
    """A binary message -> (n,) float32."""
    kind, scale = SAMPLES[form]
    size = np.dtype(kind).itemsize
    if len(data) % size:
        raise Problem("audio_invalid", f"a message has {len(data)} bytes; expected whole samples of {size} bytes each ({form})")
    x = np.frombuffer(data, kind).astype(np.float32) * np.float32(scale)
    if len(x) and not features.is_sound(x):
        raise Problem("audio_invalid", "a message holds samples that are not finite; are they f32le, or rather s16le?")
    return x


def created(session: str, model: Message, limits: Message) -> Message:
    """The first message."""
    return {"type": "session.created", "session": session, "protocol": PROTOCOL, "model": model, "limits": limits}


def measurement(event: Event, offset: float, least: float) -> Message:
    """An answer, or what is said of a whole utterance, offset seconds later than its stream has it."""
    event = sure(event, least)
    return {
        "type": "measurement",
        "start": round(event.start + offset, 3),
        "end": round(event.end + offset, 3),
        "trigger": "speech_ended" if event.kind == "utterance" else "interval",
        "final": event.kind == "utterance",
        "emotion": event.emotion,
        "probabilities": event.probabilities,
        "gender": likeliest(event.gender_probabilities),
        "gender_probabilities": event.gender_probabilities or None,
        "reason": event.reason,
    }


def about(model: Model, sha256: str) -> Message:
    """What identifies a model: of GET /v1/model and session.created."""
    kind = model.network.kind(model.config)
    return {
        "sha256": sha256,
        "network": model.config.network,
        "emotions": model.emotions,
        "genders": model.genders,
        "stream": bool(kind.speech) and hasattr(model.network, "plain_of_bands"),
        "window_seconds": model.config.max_seconds,
    }

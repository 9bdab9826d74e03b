"""The page of `npser explain`: one HTML file that fetches nothing. Its template is explain.html beside this file."""

from __future__ import annotations

import base64
import html
import json
import re
import struct
import zlib
from importlib import resources

import numpy as np

from npser import __version__
from npser.explain.look import (
    DAY,
    EMBEDDED,
    NIGHT,
    RANGE_DB,
    Look,
    clock,
    frequencies,
    notices,
    percent,
    ticks,
    top_weight,
    verdict,
)
from npser.features import HOP, SAMPLE_RATE

Array = np.ndarray


def page(look: Look) -> str:
    """The HTML text."""
    several = len(look.prediction.timeline) > 1
    tracks, names = [], []

    def track(kind: str, name: str, picture: str, scale: str = "", style: str = "") -> None:
        tracks.append(f'<div class="track {kind}"{style}>{picture}</div>')
        names.append(f'<div class="track {kind}"{style}><b>{name}</b>{scale}</div>')

    if several:
        track("answers", "Emotion", _answers(look))
    track("wave", "Waveform", _wave(look))
    track("bands", "Spectrum", _image(look, look.shades.T[::-1], NIGHT, "log-mel spectrogram"), _frequencies(look))
    if look.weights is not None:
        heads = look.weights.shape[1]
        scale = "".join(f'<span style="top:{100 * (k + 0.5) / heads:.3f}%">{k + 1}</span>' for k in range(heads))
        picture = _image(look, np.nan_to_num(look.weights.T) / top_weight(look), DAY, "attention of each head over time")
        track("weights", "Attention", picture, scale, f' style="height:{16 * heads}px"')
    track("axis", "", _ticks(look.seconds))
    parts = {
        "name": html.escape(look.name),
        "about": f"{_length(look.seconds)} &middot; npser {__version__}, model {look.sha256[:12]}",
        "notices": "".join(f'<p class="card notice">{html.escape(text)}</p>' for text in notices(look)),
        "verdict": html.escape(verdict(look)[0]),
        "verdict_more": html.escape(verdict(look)[1]),
        "emotions": _bars(look.prediction.probabilities, look.colours) or _none("no probabilities"),
        "genders": _bars(look.prediction.gender_probabilities or {}, {}) or _none(_no_gender(look)),
        "sound": "" if look.sound is None else f' src="data:audio/flac;base64,{base64.b64encode(look.sound).decode()}"',
        "choose": "" if look.sound is None else " hidden",
        "choose_text": "To listen, choose the recording:"
        if look.sound is None
        else "It does not play here; choose the recording:",
        "zoom": "" if look.seconds > 10 else " hidden",
        "names": "".join(names),
        "tracks": "".join(tracks),
        "seconds": f"{look.seconds:.4f}",
        "legend": _legend(look, several),
        "table": _table(look) if several else "",
        "notes": "".join(f"<li>{html.escape(text)}</li>" for text in _notes(look, several)),
        "answers": json.dumps(_moments(look) if several else []).replace("<", "\\u003c"),
    }
    template = resources.files("npser.explain").joinpath("explain.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], template)


def _length(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{clock(seconds)} {'min' if seconds < 3600 else 'h'}"


def _no_gender(look: Look) -> str:
    return "no answer" if look.model.genders else "This network does not tell voices apart."


def _none(text: str) -> str:
    return f'<p class="soft">{html.escape(text)}</p>'


def _bars(probabilities: dict[str, float], colours: dict[str, str]) -> str:
    """A bar for each label, the likeliest first."""
    rows = []
    for label, p in sorted(probabilities.items(), key=lambda item: -item[1]):
        filled = f'<i style="width:{100 * p:.2f}%;background:{colours.get(label, "#35508f")}"></i>'
        name, value = f'<span class="name">{html.escape(label)}</span>', f'<span class="value">{p:.1%}</span>'
        rows.append(f'<div class="bar">{name}<span class="room">{filled}</span>{value}</div>')
    return "".join(rows)


def _answers(look: Look) -> str:
    """Probabilities of the windows, stacked; nothing where there is no answer."""
    paths = []
    base = np.zeros(len(look.prediction.timeline))
    for label, colour in look.colours.items():
        cells = []
        for k, (window, (start, end)) in enumerate(zip(look.prediction.timeline, look.segments, strict=True)):
            p = window.probabilities.get(label, 0.0)
            if p >= 0.002:
                cells.append(f"M{start:.2f} {1 - base[k]:.3f}H{end:.2f}V{1 - base[k] - p:.3f}H{start:.2f}z")
            base[k] += p
        paths.append(f'<path fill="{colour}" d="{"".join(cells)}"/>')
    return _svg(look.seconds, "".join(paths), "probability of each emotion over time")


def _wave(look: Look) -> str:
    """From the lowest to the highest sample of each part, the loudest filling the height."""
    W, loudest = len(look.wave), max(1e-6, float(np.abs(look.wave).max()))
    x = (np.arange(W) + 0.5) / W * look.seconds
    low, high = (0.5 - 0.47 * look.wave / loudest).T
    there = "L".join(f"{a:.3f} {b:.3f}" for a, b in zip(x, high - 0.004, strict=True))
    back = "L".join(f"{a:.3f} {b:.3f}" for a, b in zip(x[::-1], low[::-1] + 0.004, strict=True))
    return _svg(look.seconds, f'<path fill="#35508f" d="M{there}L{back}z"/>', "waveform")


def _svg(seconds: float, inside: str, label: str) -> str:
    box = f'viewBox="0 0 {seconds:.4f} 1" preserveAspectRatio="none" role="img" aria-label="{label}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>{inside}</svg>'


def _image(look: Look, values: Array, palette: tuple[str, ...], label: str) -> str:
    """A picture of values (rows, N) from 0 to 1, laid where its columns belong on the time axis."""
    left, right = (100 * t / look.seconds for t in look.span)
    data = base64.b64encode(png(values, palette)).decode()
    place = f"left:{left:.4f}%;width:{right - left:.4f}%"
    return f'<img alt="{label}" style="{place}" src="data:image/png;base64,{data}">'


def png(values: Array, palette: tuple[str, ...]) -> bytes:
    """A PNG file of values (H, W) from 0 to 1, in 256 shades between the anchors of a palette."""
    anchors = np.array([list(bytes.fromhex(colour[1:])) for colour in palette])
    at = np.linspace(0, len(anchors) - 1, 256)
    shades = (
        np.stack([np.interp(at, np.arange(len(anchors)), channel) for channel in anchors.T], axis=1).round().astype(np.uint8)
    )
    H, W = values.shape
    rows = np.zeros((H, W + 1), np.uint8)  # each row starts with the number of its filter, none
    rows[:, 1:] = (255 * np.clip(values, 0, 1)).round()
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", W, H, 8, 3, 0, 0, 0)),
        (b"PLTE", shades.tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    )
    file = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        file += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return file


def _frequencies(look: Look) -> str:
    places = frequencies(look.bands.shape[1])
    return "".join(f'<span style="top:{100 * (1 - place):.2f}%">{name}</span>' for name, place in places.items())


def _ticks(seconds: float) -> str:
    marks = []
    for t, text in ticks(seconds).items():
        share = t / seconds
        inside = f";transform:translateX(-{100 if share > 0.96 else 0}%)" if not 0.04 < share <= 0.96 else ""
        marks.append(f'<i style="left:{100 * share:.4f}%"></i><span style="left:{100 * share:.4f}%{inside}">{text}</span>')
    return "".join(marks)


def _legend(look: Look, several: bool) -> str:
    """What the colours mean."""
    parts = []
    if several:
        parts += [f'<span><i style="background:{c}"></i>{html.escape(label)}</span>' for label, c in look.colours.items()]

    def ramp(palette: tuple[str, ...], low: str, high: str) -> str:
        return f'<span>{low}<i class="ramp" style="background:linear-gradient(90deg,{",".join(palette)})"></i>{high}</span>'

    parts.append(ramp(NIGHT, f"spectrum: {RANGE_DB:.0f} dB below the loudest", "loudest"))
    if look.weights is not None:
        parts.append(ramp(DAY, "attention: none", f"{top_weight(look):.1f} times the average"))
    return "".join(parts)


def _moments(look: Look) -> list[list[float | str]]:
    """From when on what is said, for the line beside the player."""
    windows = zip(look.segments, look.prediction.timeline, strict=True)
    return [[round(start, 3), _said(window.emotion, window.probabilities, window.reason)] for (start, _), window in windows]


def _said(emotion: str | None, probabilities: dict[str, float], reason: str | None) -> str:
    return reason or "no answer" if emotion is None else f"{emotion}, {percent(probabilities[emotion])}"


def _table(look: Look) -> str:
    """Every window, folded away."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("window", "emotion", *look.model.emotions))
    rows = []
    for window in look.prediction.timeline:
        cells = [f"{window.probabilities[label]:.3f}" if window.probabilities else "" for label in look.model.emotions]
        first = f"{clock(window.start, 1)} to {clock(window.end, 1)}"
        said = html.escape(window.emotion or window.reason or "no answer")
        rows.append(f"<tr><td>{first}</td><td>{said}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    body = f"<table><tr>{head}</tr>{''.join(rows)}</table>"
    return f"<details><summary>All {len(rows)} windows as a table</summary>{body}</details>"


def _notes(look: Look, several: bool) -> list[str]:
    """How the page came about, and what it leaves out."""
    c, network, training, columns = (
        look.model.config,
        look.model.network,
        look.model.checkpoint.training,
        look.frames * HOP / SAMPLE_RATE,
    )
    notes = []
    if several:
        notes.append(
            f"The network takes windows of {c.max_seconds:g} s that overlap by half. The answer is their mean "
            "log-probability; windows without speech are grey and do not count."
        )
    if look.weights is not None:
        notes.append(
            "Attention: how much each head of the network weighs each moment when it sums the recording up, as a multiple of "
            "the average. It shows where the network looked, not why it decided so."
            + (" Beside it answers a regression on statistics of all moments alike." if getattr(c, "statistics", False) else "")
        )
    else:
        notes.append(
            "There is no attention to show: "
            + ("nothing was answered." if network.heads_of_attention(c) else f"the network has {network.describe(c)}.")
        )
    if c.level:
        notes.append(
            "Every window is brought to one level, and so the spectrogram shows it; the waveform is as it was recorded."
        )
    if c.pad and look.padding >= 0.005:
        notes.append(
            f"Every window is padded with zeros to {c.max_seconds:g} s; {look.padding:.0%} of the attention "
            "lies on the padding, which is not shown."
        )
    if look.frames > 1:
        notes.append(f"The recording is long: a column of the spectrum and of the attention is the mean of {columns:.3g} s.")
    if look.sound is None:
        notes.append(
            f"The recording is not in this page: it would take more than {EMBEDDED >> 20} MB. Choose the file to hear it here; "
            "it stays on your computer."
        )
    else:
        notes.append("The recording is in this page, mixed down to one channel.")
    about = [f"SHA-256 {look.sha256}", f"{' '.join(look.model.emotions)}"]
    if training.get("corpora"):
        about.append(f"trained on {', '.join(training['corpora'])}")
    if training.get("licence"):
        about.append(f"licence: {training['licence']}")
    return [*notes, f"Model: {'; '.join(about)}."]

"""The picture of `npser explain`: the tracks of its page, drawn by matplotlib."""

from __future__ import annotations

import io
import textwrap
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from npser.explain.look import DAY, NIGHT, Look, frequencies, notices, ticks, top_weight, verdict

INK = "#35508f"


def picture(look: Look, kind: str) -> bytes:
    """A png, pdf or svg file. The same recording and model give the same bytes."""
    several = len(look.prediction.timeline) > 1
    tracks = {"Emotion": 1.0} if several else {}
    tracks |= {"Waveform": 0.9, "Spectrum, kHz": 2.0}
    if look.weights is not None:
        tracks["Attention head"] = 0.4 + 0.16 * look.weights.shape[1]
    bars = 0.5 + 0.24 * max(len(look.model.emotions), 2)
    figure = Figure(figsize=(11, 1.3 + bars + sum(tracks.values())), layout="constrained")
    parts = figure.subfigures(2, 1, height_ratios=[bars, 0.8 + sum(tracks.values())], squeeze=False)
    shown = "   ".join([look.name, ", ".join(filter(None, verdict(look)))])
    if notices(look):
        shown += f"\n{textwrap.fill(notices(look)[0], 120)}"
    figure.suptitle(shown, fontsize=11, x=0.01, ha="left", parse_math=False)  # a file name may hold dollar signs
    head, body = np.asarray(parts)[:, 0]
    emotions, genders = head.subplots(1, 2, width_ratios=[2, 1])
    _bars(emotions, look.prediction.probabilities, [look.colours[label] for label in look.prediction.probabilities])
    _bars(genders, look.prediction.gender_probabilities or {}, INK)

    axes = body.subplots(len(tracks), 1, sharex=True, height_ratios=list(tracks.values()), squeeze=False)[:, 0]
    draw = {"Emotion": _answers, "Waveform": _wave, "Spectrum, kHz": _bands, "Attention head": _weights}
    for name, axis in zip(tracks, axes, strict=True):
        draw[name](axis, look)
        axis.set_ylabel(name, fontsize=9)
    moments = ticks(look.seconds)
    axes[-1].set_xticks(list(moments), list(moments.values()))
    axes[-1].set(xlim=(0, look.seconds))

    file = io.BytesIO()
    metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[kind]
    with rc_context({"svg.hashsalt": "npser"}):
        figure.savefig(file, format=kind, dpi=140, metadata=metadata)
    return file.getvalue()


def _bars(axis: Any, probabilities: dict[str, float], colours: Any) -> None:
    """A bar for each label; nothing where nothing is answered."""
    if not probabilities:
        axis.set_axis_off()
        return
    rows = axis.barh(list(probabilities), list(probabilities.values()), color=colours)
    for label in axis.get_yticklabels():
        label.set_parse_math(False)
    axis.bar_label(rows, [f"{p:.1%}" for p in probabilities.values()], padding=3, fontsize=9)
    axis.set(xlim=(0, 1.12), xticks=[])
    axis.invert_yaxis()
    axis.spines[["top", "right", "bottom"]].set_visible(False)


def _answers(axis: Any, look: Look) -> None:
    """Probabilities of the windows, stacked; nothing where there is no answer."""
    start, end = np.array(look.segments).T
    base = np.zeros(len(start))
    for label, colour in look.colours.items():
        p = np.array([window.probabilities.get(label, 0.0) for window in look.prediction.timeline])
        axis.bar(start, p, end - start, base, align="edge", color=colour)
        base += p
    axis.set(ylim=(0, 1), yticks=[])


def _wave(axis: Any, look: Look) -> None:
    W = len(look.wave)
    axis.fill_between((np.arange(W) + 0.5) / W * look.seconds, *look.wave.T, color=INK, linewidth=0.6)
    axis.set(yticks=[])


def _bands(axis: Any, look: Look) -> None:
    cut = (*look.span, 0, 1)
    colours = LinearSegmentedColormap.from_list("night", NIGHT)
    axis.imshow(look.shades.T, cmap=colours, vmin=0, vmax=1, extent=cut, aspect="auto", origin="lower")
    places = frequencies(look.bands.shape[1])
    axis.set_yticks(list(places.values()), [name.removesuffix(" kHz") for name in places])


def _weights(axis: Any, look: Look) -> None:
    if look.weights is not None:
        heads = look.weights.shape[1]
        cut = (*look.span, heads + 0.5, 0.5)
        colours = LinearSegmentedColormap.from_list("day", DAY)
        top = top_weight(look)
        axis.imshow(look.weights.T, cmap=colours, vmin=0, vmax=top, extent=cut, aspect="auto", interpolation="nearest")
        axis.set_yticks(range(1, heads + 1))

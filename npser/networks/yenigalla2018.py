"""Multichannel CNN: convolutions over a mel spectrogram, and over a string of phonemes. Yenigalla et al., Interspeech 2018.

Speech emotion recognition using spectrogram and phoneme embedding. Of its text only notes, figures and a table were to be had.
They say: a mel spectrogram of 128 bands by 256 frames, at most 6 s; four convolutions beside each other, 12 x 16, 18 x 24,
24 x 32 and 30 x 40, each pooled to 2 x 2; dense layers of 400 and 200; ReLU, dropout after the first, batch normalisation;
Adadelta. Phonemes: vectors of 100 numbers, four convolutions over 3, 9, 13 and 17 of them, the largest of each. Joint: the
first dense layers side by side, normalised. Its phonemes are those of IEMOCAP's transcripts; speech alone has 71.2 and 61.9 %.

Judgements here: acoustic units (networks.units) stand for phonemes, which need no transcript, or the phonemes that the corpus
states where symbols is text; 100 maps of each convolution; the band is the shorter side of a window, and windows lie inside, so
that below a second the largest of them say nothing; natural lengths, at most 6.4 s; the frames of the units are npser's, 25 ms
apart; their vectors start as other weights do, not as word2vec; a string repeats its first and last symbols at its ends;
dropout of 0.5 after the normalisation; a tenth of the running statistics is renewed at each step. With 100 maps a network takes
hours: preset reduced has 24, and takes every second frame and band.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from npser import config, features
from npser.features import HOP, N_MELS
from npser.networks import li2019, numpy_layers, units, whole_batch
from npser.networks.li2019 import Array, Grads, Shapes, Views
from npser.networks.pieces import loss  # noqa: F401 (an utterance is one piece)

Out = tuple[Array, Array]  # logits (B, classes), the utterance of each (B,)

TITLE = "Multichannel CNN (Yenigalla et al., 2018)"
PUBLISHED = {
    "wa": 0.739,
    "ua": 0.685,
    "task": "IEMOCAP, four classes, improvised only, with phonemes of the transcripts as input; speech alone 71.2 and 61.9 %",
}
WINDOWS = ((16, 12), (24, 18), (32, 24), (40, 30))  # frames and bands of each convolution
HEIGHTS = (3, 9, 13, 17)  # symbols of each convolution
CHANNELS = ("both", "spectrogram", "phonemes")


@dataclass(frozen=True)
class Config(config.Config):
    """Settings of a run with this network: those of every run, and its sizes."""

    network: str = "yenigalla2018"
    d_spec: int = N_MELS + units.COLUMNS  # bands, and the cepstra that units are made of
    max_seconds: float = 6.4
    pad: bool = False
    beta: float = 0.0
    epochs: int = 50
    batch: int = 32
    learning_rate: float = 1.0
    decay: float = 0.0
    optimiser: str = "adadelta"  # or "adam"
    channels: str = "both"  # "spectrogram" or "phonemes": only this one of the two
    symbols: str = "units"  # or "text": the phonemes that the corpus states
    order: bool = True  # False: the symbols of each utterance are shuffled, the control
    stride: int = 1  # of the convolutions over the spectrogram, frames and bands
    d_maps: int = 100  # of each of them
    d_picture: int = 400  # dense units of the spectrogram
    n_symbols: int = 52  # units; of a text, its most frequent symbols, less one for the others
    d_symbol: int = 100  # numbers that stand for a symbol
    d_strings: int = 100  # maps of each convolution over the symbols
    d_string: int = 100  # dense units of the symbols
    d_dense: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = "stride d_maps d_picture n_symbols d_symbol d_strings d_string d_dense"
        self.expect(sizes, lambda value: value >= 1, "at least 1")
        self.expect("n_symbols", lambda value: value <= 10_000, "at most 10000")
        self.expect("optimiser", ("adadelta", "adam").__contains__, "one of adadelta, adam")
        self.expect("channels", CHANNELS.__contains__, f"one of {', '.join(CHANNELS)}")
        self.expect("symbols", ("units", "text").__contains__, "one of units, text")
        self.expect("beta", lambda value: value == 0, "0: this network has no gender head")
        self.expect("pad", lambda value: not value, "false: this network takes natural lengths")
        least, most = (n + units.COLUMNS for n in (WINDOWS[-1][1] + self.stride, N_MELS))  # two places of the largest window
        words = f"{least} to {most}: bands, and {units.COLUMNS} cepstra"
        self.expect("d_spec", lambda value: least <= value <= most, words)
        if self.symbols == "text" and self.channels != "spectrogram":
            self.expect("splice", lambda value: value == 0, "0 where symbols is text: a text belongs to the whole utterance")


REDUCED = Config(d_maps=24, stride=2)
SAME_INPUT: dict[str, Any] = {**li2019.SAME_INPUT, "beta": 0.0, "d_spec": 99 + units.COLUMNS, "optimiser": "adam"}
PRESETS = {
    "published": Config(),
    "reduced": REDUCED,
    "reduced-spectrogram": dataclasses.replace(REDUCED, channels="spectrogram"),
    "reduced-phonemes": dataclasses.replace(REDUCED, channels="phonemes"),
    "same-input": Config(**SAME_INPUT, d_maps=24, stride=2),
}
ABLATION: dict[str, dict[str, Any]] = {
    "spectrogram-only": {"channels": "spectrogram"},
    "phonemes-only": {"channels": "phonemes"},
    "shuffled-phonemes": {"order": False},
    "shuffled-phonemes-only": {"channels": "phonemes", "order": False},
}
_TINY: dict[str, Any] = {"d_spec": 32 + units.COLUMNS, "d_maps": 2, "stride": 2, "d_picture": 3, "d_dense": 3}
_TINY |= {"n_symbols": 4, "d_symbol": 3, "d_strings": 2, "d_string": 2}
SMALL = {
    "loss, multichannel": Config(**_TINY),
    "loss, symbols": Config(**_TINY, channels="phonemes", optimiser="adam"),
}


def example(c: Config, bounds: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """A batch for npser gradcheck: each row nine times, since the largest windows have 40 frames."""
    return rng.standard_normal((9 * bounds[-1], c.d_spec)), 9 * bounds


def hears(c: Config, channel: str) -> bool:
    """Whether one of the channels, spectrogram or phonemes, is there."""
    return c.channels in (channel, "both")


def reads_text(c: Config) -> bool:
    """Whether its input is more than sound: phonemes of transcripts."""
    return c.symbols == "text" and hears(c, "phonemes")


def unknown_phonemes(t: dict[str, Array], text: Sequence[str]) -> float:
    """Share of the phonemes of some strings that the alphabet does not have: to the network they are all one."""
    symbols, _ = units.numbers(text, t["text.symbols"])
    return float(np.mean(symbols == 0))


def bands(c: Config) -> int:
    """Bands of the spectrogram."""
    return c.d_spec - units.COLUMNS


def kind(c: Config) -> features.Kind:
    """What the store keeps: log-mel bands."""
    return features.log_mel_kind(c.max_seconds, False, c.level)


def with_cepstra(S: Array) -> Array:
    """S (L, bands) -> (L, d_spec)."""
    return np.concatenate([S, units.cepstra(S)], axis=1)


def inputs(
    store: Any, window: Array, mean: Array, scale: Array, c: Config, ends: Array | None = None, rng: Any = None
) -> tuple[Any, ...]:
    """X (N, d_spec), bounds, and where they count the phonemes of each utterance, for forward."""
    from npser.inputs import of_static_bands

    zero, one, columns = np.zeros(bands(c), np.float32), np.ones(bands(c), np.float32), [slice(0, bands(c))]
    S, bounds = of_static_bands(store, window, zero, one, columns, c, ends, rng)
    X = np.concatenate([with_cepstra(part) for part in np.split(S, bounds[1:-1])])
    return ((X - mean) * scale, bounds, *([[store.text[w] for w in window]] if reads_text(c) else []))


def convolutions(c: Config) -> dict[str, tuple[int, ...]]:
    """Name of each convolution, and the shape of its W: those over the spectrogram, and those over the symbols."""
    found: dict[str, tuple[int, ...]] = {}
    if hears(c, "spectrogram"):
        found |= {f"conv{k}": (1, *window, c.d_maps) for k, window in enumerate(WINDOWS, 1)}
    if hears(c, "phonemes"):
        found |= {f"string{k}": (c.d_symbol, height, 1, c.d_strings) for k, height in enumerate(HEIGHTS, 1)}
    return found


def widths(c: Config) -> dict[str, tuple[int, int]]:
    """Name of each channel's dense layer, and the shape of its W."""
    found = {"picture": (4 * len(WINDOWS) * c.d_maps, c.d_picture)} if hears(c, "spectrogram") else {}
    return found | ({"string": (len(HEIGHTS) * c.d_strings, c.d_string)} if hears(c, "phonemes") else {})


def shapes(c: Config, emotions: int, genders: int) -> Shapes:
    """Name and shape of every parameter, in the order of theta."""
    D = sum(width for _, width in widths(c).values())
    found: Shapes = {"symbol.E": (c.n_symbols, c.d_symbol)} if hears(c, "phonemes") else {}
    for name, shape in (convolutions(c) | widths(c)).items():
        found |= {f"{name}.W": shape, f"{name}.b": (shape[-1],)}
    found |= {"batch.gamma": (D,), "batch.b": (D,), "dense.W": (D, c.d_dense), "dense.b": (c.d_dense,)}
    return found | {"emotion.W": (c.d_dense, emotions), "emotion.b": (emotions,)}


def state(c: Config, emotions: int, genders: int) -> dict[str, Array]:
    """The running statistics of the batch normalisation; the centres of the units, or the symbols of the text."""
    found = whole_batch.state(sum(width for _, width in widths(c).values()))
    if reads_text(c):
        return found | {"text.symbols": units.alphabet([], c.n_symbols)}
    if hears(c, "phonemes"):
        start = config.stream("init", c.seed, 1).standard_normal((c.n_symbols, units.COLUMNS))
        found["units.centres"] = start.astype(np.float32)
    return found


def pretrain(network: Any, data: Any, train: Array, run: Any) -> Array:
    """theta as the engine starts it, but for gamma, which is 1; and the symbols, found in the training part."""
    c, windows = network.config, data.first_windows(train)
    network.p["batch"]["gamma"][:] = 1  # a view of theta
    if reads_text(c):
        network.state["text.symbols"] = units.alphabet([data.store.text[w] for w in windows], c.n_symbols)
    elif hears(c, "phonemes"):
        rng = config.stream("init", c.seed, 1)
        some = np.sort(rng.permutation(windows)[: units.MOST_FRAMES // 100])  # most are longer than 2.5 s
        parts = [network.inputs(data.store, some[k : k + 16])[0][:, bands(c) :].copy() for k in range(0, len(some), 16)]
        network.state["units.centres"] = units.centres_of(np.concatenate(parts), c.n_symbols, rng)
    return network.theta


def optimiser(c: Config, size: int, decay: Array) -> Any:
    """Adadelta, or Adam."""
    from npser.optim import Adadelta, Adam

    return (Adadelta if c.optimiser == "adadelta" else Adam)(size, c.learning_rate, c.decay, c.clip, weight_decay=decay)


def symbols_of(p: Views, c: Config, X: Array, bounds: Array, text: Any) -> tuple[Array, Array]:
    """The symbols of utterances, (M,) rows of symbol.E, and their bounds (B+1,)."""
    if reads_text(c):
        symbols, bounds = units.numbers(text, p["text"]["symbols"])
    else:
        symbols, bounds = units.collapsed(units.nearest(X[:, bands(c) :], p["units"]["centres"]), bounds)
    return symbols if c.order else units.shuffled(symbols, bounds), bounds


def branch(
    own: dict[str, Array], X: Array, bounds: Array, largest: Callable[..., Any], need_dX: bool = True, **how: Any
) -> tuple[Array, Callable[[Array], tuple[Array, ...]]]:
    """A convolution with its W and b, and the largest of its maps. X (N, F C) -> (B, D), backward to dX, dW, db."""
    from npser.layers import conv2d

    H, bounds, b_conv = conv2d(X, bounds, **own, **how)
    z, b_largest = largest(H, bounds)
    return z, lambda dz: b_conv(*b_largest(dz), need_dX=need_dX)


def channel(p: Views, layer: str, branches: dict[str, Any]) -> tuple[Array, Callable[[Array], tuple[Array, Grads]]]:
    """Convolutions side by side, ReLU, and a dense layer -> (B, units), backward to the gradient of what they all see."""
    from npser.layers import dense, leaky_relu

    H, b_relu = leaky_relu(np.concatenate([z for z, _ in branches.values()], axis=1))
    z, b_dense = dense(H, **p[layer], activation="relu")

    def backward(dz: Array) -> tuple[Array, Grads]:
        g: Grads = {}
        dH, *g[layer] = b_dense(dz)
        (dH,) = b_relu(dH)
        dX = []
        for (name, (_, b_branch)), part in zip(branches.items(), np.split(dH, len(branches), axis=1), strict=True):
            d, *g[name] = b_branch(part)
            dX.append(d)
        return np.sum(dX, axis=0), g

    return z, backward


def body(p: Views, c: Config, X: Array, bounds: Array, text: Any = None) -> tuple[Array, Array, Callable[[Array], Grads]]:
    """What there is of every utterance before the batch is normalised: z (B, D), the utterance of each, backward."""
    from npser.layers import embedding, max_over_time, quarters

    channels, b_symbol = [], None
    if hears(c, "spectrogram"):
        S, how = np.ascontiguousarray(X[:, : bands(c)]), {"need_dX": False, "stride": c.stride, "valid": True}
        maps = [
            branch(p[f"conv{k}"], S, bounds, lambda H, outer: quarters(H, outer, c.d_maps), **how)
            for k, _ in enumerate(WINDOWS, 1)
        ]
        channels.append(channel(p, "picture", {f"conv{k}": found for k, found in enumerate(maps, 1)}))
    if hears(c, "phonemes"):
        symbols, ends = symbols_of(p, c, X, bounds, text)
        V, b_symbol = embedding(symbols, p["symbol"]["E"])
        maps = [branch(p[f"string{k}"], V, ends, max_over_time) for k, _ in enumerate(HEIGHTS, 1)]
        channels.append(channel(p, "string", {f"string{k}": found for k, found in enumerate(maps, 1)}))
    widths_of = [z.shape[1] for z, _ in channels]

    def backward(dz: Array) -> Grads:
        g, dX = Grads(), np.empty(0)
        for (_, b_channel), part in zip(channels, np.split(dz, np.cumsum(widths_of)[:-1], axis=1), strict=True):
            dX, own = b_channel(part)
            g |= own
        return g if b_symbol is None else {**g, "symbol": list(b_symbol(dX))}  # the symbols' channel is the last

    return np.concatenate([z for z, _ in channels], axis=1), np.arange(len(bounds) - 1), backward


def head(
    p: Views, c: Config, z: Array, held: Any, rng: Any = None
) -> tuple[Array, Any, Callable[[Array], tuple[Array, Grads]]]:
    """From z (B, D) to logits (B, classes), with the statistics of these utterances or those held; they come second."""
    from npser.layers import batch_norm, dense, dropout, linear

    z, statistics, b_batch = batch_norm(z, p["batch"]["gamma"], p["batch"]["b"], held, whole_batch.EPSILON)
    z, b_drop = dropout(z, c.dropout, rng)
    z, b_dense = dense(z, **p["dense"], activation="relu")
    logits, b_emotion = linear(z, **p["emotion"])

    def backward(dlogits: Array) -> tuple[Array, Grads]:
        g: Grads = {}
        dz, *g["emotion"] = b_emotion(dlogits)
        dz, *g["dense"] = b_dense(dz)
        dz, *g["batch"] = b_batch(*b_drop(dz))
        return dz, g

    return logits, statistics, backward


def forward(
    p: Views, c: Config, X: Array, bounds: Array, text: Any = None, rng: Any = None
) -> tuple[Out, Callable[[Array], Grads]]:
    """To the logits of utterances, once trained. X (N, d_spec) -> (logits (B, classes), the utterance of each), backward."""
    return whole_batch.forward(p, c, (X, bounds, text), body, head, rng)


def gradient(p: Views, c: Config, shards: list[Any], pool: ThreadPoolExecutor) -> tuple[float, Grads, dict[str, Array]]:
    """Loss and gradients of a mini-batch, whose utterances are normalised together; and the running statistics after it."""
    return whole_batch.gradient(p, c, shards, pool, body, head)


def decide(_: Views, c: Config, out: Out) -> tuple[Array, None]:
    """Logits of the utterances, (B, classes)."""
    return out[0], None


def plain_input(c: Config, span: features.Span) -> list[Array]:
    """Windows at 16 kHz -> bands and cepstra of each, (L, d_spec), not normalised."""
    spectra = features.log_mel_of_span(span, level=c.level)
    return [with_cepstra(features.heard_bands(S, bands(c), c.level)) for S in spectra]


def plain(t: dict[str, Array], c: Config, X: Array) -> tuple[Array, Array, None]:
    """X (B, L, d_spec) -> emotion (B, classes), no gender (B, 0), no attention."""
    channels, maps = [], convolutions(c)
    if hears(c, "spectrogram"):
        H = X[:, :, : bands(c), None]
        parts = [
            numpy_layers.quarters(numpy_layers.conv2d(t, name, H, c.stride, valid=True)) for name in maps if name[:4] == "conv"
        ]
        channels.append(("picture", np.concatenate(parts, axis=1)))
    if hears(c, "phonemes"):
        strings = [_plain_string(t, c, maps, frames) for frames in X[:, :, bands(c) :]]
        channels.append(("string", np.stack(strings)))
    dense = [np.maximum(numpy_layers.linear(t, layer, np.maximum(H, 0)), 0) for layer, H in channels]
    z = (np.concatenate(dense, axis=1) - t["running.mean"]) / np.sqrt(t["running.variance"] + np.float32(whole_batch.EPSILON))
    z = np.maximum(numpy_layers.linear(t, "dense", t["batch.gamma"] * z + t["batch.b"]), 0)
    return numpy_layers.linear(t, "emotion", z), np.empty((len(X), 0), np.float32), None


def _plain_string(t: dict[str, Array], c: Config, maps: Any, frames: Array) -> Array:
    """Cepstra of a window (L, 39) -> the largest of each map over its symbols, (4 d_strings,)."""
    bounds = np.array([0, len(frames)])
    symbols, bounds = units.collapsed(units.nearest(frames, t["units.centres"]), bounds)
    symbols = symbols if c.order else units.shuffled(symbols, bounds)
    V = t["symbol.E"][symbols][None, :, None]
    return np.concatenate([numpy_layers.conv2d(t, name, V)[0, :, 0].max(axis=0) for name in maps if name[:6] == "string"])


def heads_of_attention(c: Config) -> int:
    """There is no attention."""
    return 0


def samples_per_step(c: Config) -> int:
    """Samples at 16 kHz from one row to the next."""
    return HOP


def spectrum(c: Config, x: Array) -> Array:
    """What npser explain shows of a window x (n,) at 16 kHz: the bands, (L, bands) dB."""
    return features.heard_bands(features.log_mel(x, level=c.level), bands(c), c.level)


def describe(c: Config) -> str:
    """The sizes, for npser info."""
    parts = [f"{len(WINDOWS)} convolutions of {c.d_maps} maps, stride {c.stride}"] if hears(c, "spectrogram") else []
    parts += [f"{len(HEIGHTS)} over symbols of {c.d_strings} maps"] if hears(c, "phonemes") else []
    return f"{' and '.join(parts)}; {sum(width for _, width in widths(c).values())} normalised units, {c.d_dense} dense units"


def describe_input(c: Config) -> str:
    """The bands, and what stands for phonemes, for npser info."""
    what = f"{c.n_symbols} acoustic units" if c.symbols == "units" else "phonemes of transcripts (TEXT-INFORMED)"
    lowest = f"the lowest {bands(c)} of {N_MELS} bands" if bands(c) < N_MELS else f"{N_MELS} bands"
    parts = [lowest] if hears(c, "spectrogram") else []
    return " and ".join([*parts, *([what if c.order else f"{what}, shuffled"] if hears(c, "phonemes") else [])])

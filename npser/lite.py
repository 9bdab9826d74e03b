"""Inference in plain NumPy: the trained network on one recording, without Numba.

model = npser.load("model.safetensors")
p = model.predict("call.wav")  # p.emotion, p.probabilities, p.gender, p.timeline, p.attention
"""

from __future__ import annotations

import copy
import dataclasses
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any

import numpy as np

from npser import SHIPPED, adaptation, checkpoint, features, model
from npser.calibration import log_softmax
from npser.features import SAMPLE_RATE, Span, moments
from npser.prediction import (
    UNREADABLE,
    Array,
    Audio,
    Prediction,
    Window,
    WindowOutput,
    answered,
    likeliest,
    outputs_of,
    unreadable,
)
from npser.speech import Sound, refusal

MANY = 200  # recordings from which on the compiled engine pays for its start
Run = Callable[[Sequence[Array]], list[dict[str, Array | None]]]  # see Model.run
AT_ONCE = 8  # windows that go through the network together: more leave the cache
TOGETHER = 8  # windows of a long recording that are computed together, where they last for a minute at most


class Model:
    """A trained network, read from a model file. ValueError where the file is not one. Any number of threads may share it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if path == SHIPPED and not os.path.exists(path):
            raise ValueError(
                f"{path}: is missing, so this copy of npser lacks its model; install it anew, or name a model file"
            )
        self.path = os.fspath(path)
        self.checkpoint = self.trained = checkpoint.load(path)  # trained: whatever it is adapted to
        self.own_share = 0.0  # of the statistics that it is adapted to, in the normaliser: see adaptation.own_share
        self.config = self.checkpoint.config
        self.network = model.module_of(self.config)
        self.emotions, self.genders = self.checkpoint.emotions, self.checkpoint.genders

    def __getstate__(self) -> dict[str, Any]:
        """For pickle, which takes no modules."""
        return {name: value for name, value in vars(self).items() if name != "network"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.network = model.module_of(self.config)

    def predict(self, audio: Audio, sample_rate: int | None = None) -> Prediction:
        """Classify a recording.

        Parameters
        ----------
        audio : path, binary file or (n,) array
            An audio file, read in blocks: it may last for hours. Or samples of one channel; then sample_rate, in Hz, is needed.
        sample_rate : int, optional

        Returns
        -------
        Prediction
            Of a recording longer than the network's window (7.5 s), the mean log-probability over half-overlapping windows
            of its speech. ``emotion`` is None, with a ``reason``, where there is no speech, for faint steady noise, and for
            less than 0.3 s. A network that hears pauses as well skips windows that are silent.

        Raises
        ------
        ValueError
            For audio that is missing, empty, undecodable or not finite, and for a model whose numbers overflow on it.
        """
        if not hasattr(self.network, "plain"):
            (found,) = self.predict_many([audio], sample_rate)
            if found.error is not None:
                raise ValueError(found.error)
            return found
        sound = self.sound(audio, sample_rate)
        return self.answer([output for span in sound for output in self.outputs(sound.at_16_khz(span))], sound.seconds)

    def adapt(self, audio: Iterable[Audio], sample_rate: int | None = None) -> Model:
        """The model as it was trained, adapted to a voice or a line: see npser.adaptation.

        Parameters
        ----------
        audio : iterable of paths, binary files or (n,) arrays
            Recordings of the voice, of whatever emotions. One that cannot be read is left out, with a warning.
        sample_rate : int, optional
            Of the arrays, in Hz.

        Returns
        -------
        Model
            Another one; this one stays as it is, and what it was adapted to does not count. Of no recordings, or of silence
            alone, it answers as the model did that was trained.
        """
        kind, tensors = self.network.kind(self.config), self.trained.tensors
        heard = np.zeros(1 + 2 * self.config.d_spec)
        for one in audio:
            try:
                for k, x in enumerate(self.windows(one, sample_rate)):
                    if k % 2 == 0 and refusal(x) is None:  # they overlap by half
                        (X,) = self._raw_inputs(Span.of(x))
                        heard += adaptation.sums(X[: -(-len(x) // kind.hop)])
            except UNREADABLE as error:
                warnings.warn(f"not adapted to: {unreadable(error).error}", stacklevel=2)
        mean, std = adaptation.adapted(tensors["norm.mean"], tensors["norm.std"], heard, kind.hop)
        knowing = copy.copy(self)
        knowing.own_share = float(adaptation.own_share(heard, kind.hop))
        others = model.familiar(self.config, tensors, np.array(knowing.own_share))
        knowing.checkpoint = dataclasses.replace(self.trained, tensors=tensors | others | {"norm.mean": mean, "norm.std": std})
        return knowing

    def output(self, x: Array) -> WindowOutput:
        """Of one window (n,) at 16 kHz."""
        return self.outputs(Span.of(x))[0]

    def outputs(self, span: Span, run: Run | None = None) -> list[WindowOutput]:
        """Of each window of a span at 16 kHz. Windows of one length go through the network together.

        run: what stands for self.run, such as one that own_shares it with others.
        """
        found, inputs = self.prepared(span)
        return answered(found, (run or self.run)(inputs))

    def prepared(self, span: Span) -> tuple[list[WindowOutput], list[Array]]:
        """The windows of a span at 16 kHz as yet without logits, and of those that can be answered what run takes."""
        found = outputs_of(span)
        return found, self._inputs(span.some([k for k, output in enumerate(found) if output.reason is None]))

    def run(self, inputs: Sequence[Array], own_shares: Sequence[float] = ()) -> list[dict[str, Array | None]]:
        """What the network says of windows, each X (L, d_spec) normalised: their part of a WindowOutput.

        own_shares: what a voice's own statistics have of the normaliser of each, see adaptation.own_share; by default 0.
        """
        found: list[dict[str, Array | None]] = [{} for _ in inputs]
        for L in {len(X) for X in inputs}:
            same = [n for n, X in enumerate(inputs) if len(X) == L]
            for some in (same[k : k + AT_ONCE] for k in range(0, len(same), AT_ONCE)):
                known = np.array([own_shares[n] for n in some]) if own_shares else None
                emotion, gender, a = self._run(np.stack([inputs[n] for n in some]), known)
                for row, n in enumerate(some):
                    found[n] = {"emotion": emotion[row], "gender": gender[row], "attention": None if a is None else a[row]}
        return found

    def predict_many(
        self, audio: Iterable[Audio], sample_rate: int | None = None, engine: str = "auto", threads: int | None = None
    ) -> Iterator[Prediction]:
        """Classify recordings, in their order, each as soon as it and those before it are done.

        Parameters
        ----------
        audio : iterable of paths, binary files or (n,) arrays
            Any number; it is read as the predictions are taken, by the compiled engine some eight recordings a thread ahead.
        sample_rate : int, optional
            Of the arrays, in Hz.
        engine : {"auto", "lite", "numba"}
            lite: as `predict`, one after the other. numba: the compiled engine, several at a time, which takes a second to
            start; to 1e-5 the same probabilities (nearly always, where a network takes votes), without attention; BLAS has one
            thread in this process until the last one is taken or the iterator closed. auto: numba where len(audio) is at least
            200, and for a network without lite.
        threads : int, optional
            Of the compiled engine; all cores by default. Results do not depend on it.

        Yields
        ------
        Prediction
            One a recording. That of a recording that cannot be read has an ``error``, and the others go on.

        Raises
        ------
        ValueError
            For another engine or number of threads, or where audio is a single path.
        """
        model.refuse_text(self.config)
        engine = self.engine_for(engine, len(audio) if isinstance(audio, Sized) else 0)
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}; expected at least 1")
        if (
            isinstance(audio, (str, os.PathLike))
            or hasattr(audio, "read")
            or (isinstance(audio, np.ndarray) and audio.ndim == 1)
        ):
            raise ValueError(f"audio is one recording, of type {type(audio).__name__}; expected a list of recordings")
        if engine == "numba":
            from npser import predict_many  # here and not above: it imports Numba

            return predict_many.predict(self, audio, sample_rate, threads)
        return (self._predict_or_tell(one, sample_rate) for one in audio)

    def engine_for(self, engine: str, recordings: int) -> str:
        """What "auto" means for so many recordings; ValueError for an engine that there is not."""
        if engine not in ("auto", "lite", "numba"):
            raise ValueError(f"engine is {engine!r}; expected auto, lite or numba")
        few = recordings < MANY and hasattr(self.network, "plain")
        return ("lite" if few else "numba") if engine == "auto" else engine

    def _predict_or_tell(self, audio: Audio, sample_rate: int | None) -> Prediction:
        try:
            return self.predict(audio, sample_rate)
        except UNREADABLE as error:
            return unreadable(error)

    def windows(self, audio: Audio, sample_rate: int | None = None) -> Iterator[Array]:
        """Half-overlapping windows of a recording at 16 kHz, each (n,) float32; arguments and errors as of predict."""
        return (x for span in self.spans(audio, sample_rate) for x in span.windows())

    def spans(self, audio: Audio, sample_rate: int | None = None) -> Iterator[Span]:
        """The same with where they lie in the recording, each a span of its own."""
        sound = self.sound(audio, sample_rate, most=1)
        return map(sound.at_16_khz, sound)

    def sound(self, audio: Audio, sample_rate: int | None = None, most: int = TOGETHER) -> Sound:
        """A recording as it is read, so many windows at a time at most; arguments and errors as of predict."""
        if not isinstance(audio, np.ndarray):
            if not isinstance(audio, (str, os.PathLike)) and not hasattr(audio, "read"):
                raise ValueError(f"audio is of type {type(audio).__name__}; expected a path, a binary file or an array")
            rate, blocks = features.read_blocks(audio)
        elif audio.dtype.kind != "f":
            raise ValueError(f"audio has type {audio.dtype}; expected float samples (of int16, divide by 32768)")
        elif not features.is_sound(audio):
            raise ValueError(f"audio has shape {audio.shape}; expected (n,) finite samples of one channel")
        else:
            rate, blocks = features.whole_rate(sample_rate), iter([audio.astype(np.float32)])
        return self.sound_of(rate, blocks, most)

    def sound_of(self, rate: int, blocks: Iterable[Array], most: int = TOGETHER) -> Sound:
        """The same of blocks (n,) float32, as features.read_blocks has them."""
        most = max(1, min(most, int(60 / self.config.max_seconds)))
        return Sound(blocks, rate, self.config.max_seconds, most, self.network.kind(self.config).speech)

    def answer(self, outputs: Sequence[WindowOutput], seconds: float) -> Prediction:
        """The prediction that the windows of a recording of so many seconds add up to. The temperature is the emotions'."""
        timeline: list[Window] = []
        emotion_log_p: list[Array] = []
        gender_log_p: list[Array] = []
        attention = times = None
        for samples, runs, reason, emotion, gender, a in outputs:
            start, end = runs[0][1] / SAMPLE_RATE, float(moments(runs, np.array(samples)))
            span = (start, min(end, seconds) if samples else seconds)  # the last frame may reach beyond
            if emotion is None or gender is None:
                timeline.append(Window(*span, None, {}, {}, reason))
                continue
            with np.errstate(all="ignore"):  # told below
                log_p = log_softmax(emotion / self.checkpoint.temperature), log_softmax(gender)
            if not all(np.isfinite(values).all() for values in log_p):
                problem = "the network's numbers overflow on this recording: the model file is damaged, or its training failed"
                raise ValueError(f"{self.path}: {problem}; name another model")
            emotion_log_p.append(log_p[0])
            gender_log_p.append(log_p[1])
            emotions, genders = self._named(emotion_log_p[-1:], gender_log_p[-1:])
            timeline.append(Window(*span, likeliest(emotions), emotions, genders))
            if attention is None and a is not None:
                # a frame stands for the half hop on each side of its centre, and the first one is centred at the start
                hop = self.network.kind(self.config).hop
                ends = (np.arange(a.shape[1]) + 1) * self.network.samples_per_step(self.config) - hop // 2
                attention, times = a, moments(runs, ends)
        if not emotion_log_p:
            reasons = " and ".join(dict.fromkeys(window.reason for window in timeline if window.reason))
            return Prediction(None, {}, None, None, seconds, reason=reasons, timeline=timeline)
        emotions, genders = self._named(emotion_log_p, gender_log_p)
        return Prediction(
            likeliest(emotions),
            emotions,
            likeliest(genders),
            genders or None,
            seconds,
            attention,
            times,
            timeline=timeline,
        )

    def _named(self, emotion_log_p: list[Array], gender_log_p: list[Array]) -> tuple[dict[str, float], dict[str, float]]:
        """Probabilities by label, of the mean log-probability over windows."""
        emotions = dict(zip(self.emotions, _mean_p(emotion_log_p), strict=True))
        return emotions, dict(zip(self.genders, _mean_p(gender_log_p), strict=True))

    def network_input(self, x: Array) -> Array:
        """Waveform (n,) at 16 kHz -> the network's input, normalised: X (L, d_spec)."""
        return self._inputs(Span.of(x))[0]

    def forward(self, X: Array) -> tuple[Array, Array, Array | None]:
        """One utterance. X (L, d_spec) -> emotion (classes,), gender (2,) or (0,), attention (n_attn, T) or None."""
        emotion, gender, a = self._run(X[None])
        return emotion[0], gender[0], None if a is None else a[0]

    def _inputs(self, span: Span) -> list[Array]:
        """network_input of each window."""
        tensors = self.checkpoint.tensors
        with np.errstate(over="ignore", invalid="ignore"):  # `answer` tells
            return [(X - tensors["norm.mean"]) / tensors["norm.std"] for X in self._raw_inputs(span)]

    def _raw_inputs(self, span: Span) -> list[Array]:
        """The same, not normalised."""
        model.refuse_text(self.config)
        return self.network.plain_input(self.config, span) if span.starts else []

    def _run(self, X: Array, own_shares: Array | None = None) -> tuple[Array, Array, Array | None]:
        """forward of B windows of one length. X (B, L, d_spec), own_shares (B,) or None"""
        if not hasattr(self.network, "plain"):
            raise ValueError(f"the network {self.config.network} answers by the compiled engine only: `npser predict` does")
        tensors = self.checkpoint.tensors
        if own_shares is not None:  # what neither voice has of the normaliser is the training part's
            known = 1 - (1 - self.own_share) * (1 - own_shares)
            tensors = tensors | model.familiar(self.config, self.trained.tensors, known)
        with np.errstate(over="ignore", invalid="ignore"):  # `answer` tells
            return self.network.plain(tensors, self.config, X)


def _mean_p(log_p: list[Array]) -> list[float]:
    """Probabilities of the mean log-probability over windows."""
    return np.exp(log_softmax(np.mean(log_p, axis=0))).tolist()

"""Speech emotion recognition with self attention and multitask learning, written by hand: NumPy, Numba, SciPy."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npser.experiment.classifier import EmotionClassifier
    from npser.lite import Model
    from npser.live.stream import Event

__version__ = "0.1.0"
SHIPPED = os.path.join(os.path.dirname(__file__), "weights", "model.safetensors")  # the model that comes with npser


def load(path: str | os.PathLike[str] | None = None) -> Model:
    """Read a trained network.

    Parameters
    ----------
    path : path-like, optional
        A ``model.safetensors`` that ``npser train`` wrote; by default the model that comes with npser, whose weights are under
        CC BY-NC-SA 4.0.

    Returns
    -------
    npser.lite.Model
        ``model.predict("a.wav")`` classifies a recording.

    Raises
    ------
    ValueError
        Where the file is missing, damaged or of another kind.
    """
    from npser.lite import Model  # late, so that `import npser` costs nothing

    return Model(SHIPPED if path is None else path)


def listen(blocks: Iterable[Any], rate: int, model: Model | None = None, every: float = 1.0) -> Iterator[Event]:
    """Name the emotion of sound that goes on.

    Parameters
    ----------
    blocks : iterable of (n,) float arrays
        Samples of one channel as they come, of any length, full scale 1.
    rate : int
        Of the samples, in Hz.
    model : Model, optional
        By default the one that comes with npser.
    every : float
        Seconds of speech from one answer to the next.

    Yields
    ------
    npser.live.stream.Event
        ``event.kind``: "speech" when somebody begins to speak, "answer" over the last 7.5 s of speech, "utterance" over what
        somebody has said who is silent now; with ``start``, ``end`` in seconds, ``emotion`` and ``probabilities``.

    Raises
    ------
    ValueError
        For a model that is none of the paper's network, or hears pauses; for another rate; for samples that are not finite.
    """
    from npser.live import stream  # late, as above

    return stream.listen(load() if model is None else model, blocks, rate, every)


def __getattr__(name: str) -> Any:
    if name == "EmotionClassifier":
        from npser.experiment.classifier import EmotionClassifier  # late, as above, and because it needs the kernels

        return EmotionClassifier
    raise AttributeError(f"module 'npser' has no attribute {name!r}")


__all__ = ["EmotionClassifier", "__version__", "listen", "load"]

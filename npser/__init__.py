"""Speech emotion recognition with self attention and multitask learning, written by hand: NumPy, Numba, SciPy."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npser.experiment.classifier import EmotionClassifier
    from npser.lite import Model

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


def __getattr__(name: str) -> Any:
    if name == "EmotionClassifier":
        from npser.experiment.classifier import EmotionClassifier  # late, as above, and because it needs the kernels

        return EmotionClassifier
    raise AttributeError(f"module 'npser' has no attribute {name!r}")


__all__ = ["EmotionClassifier", "__version__", "load"]

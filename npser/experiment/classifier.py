"""The network as an estimator in the manner of scikit-learn, which this file never imports by itself.

classifier = EmotionClassifier(epochs=40).fit(paths, emotions, groups=speakers)
classifier.predict(["a.wav", "b.wav"])
"""

from __future__ import annotations

import dataclasses
import os
import struct
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from npser import checkpoint, model
from npser.checkpoint import Checkpoint
from npser.config import Config
from npser.corpora import Utterance
from npser.dataset import Dataset
from npser.experiment.run import describe
from npser.features import LOUDEST, is_sound, whole_rate
from npser.network import Network, compile_kernels
from npser.split import Split, make_split
from npser.store import Store, digests, open_store
from npser.threads import available_cores, single_threaded_blas
from npser.train import Run, fit

CORPUS = "data"  # what X is called where a corpus has a name


@dataclass(kw_only=True, eq=False)
class EmotionClassifier:
    """A classifier of recordings for scikit-learn's tools: ``cross_val_score``, ``GridSearchCV``, ``Pipeline``, ``clone``.

    Parameters
    ----------
    preset : str, optional
        ``"default"``, which is taken where none is named, or ``"paper"``; of another network, one of its own.
    epochs : int, optional
        Epochs to train; by default the preset's.
    learning_rate : float, optional
        By default the preset's.
    settings : dict, optional
        Any other settings of the network's Config, such as ``{"attention": False}``.
    validation : bool
        Hold a part of the recordings out, which chooses the temperature of the probabilities and, where the setting ``select``
        is not "last", the epoch. Where fit gets groups, whole groups, about a fifth of them (of two, one). Otherwise a fifth
        of the recordings of each class: their speakers may be in training too, so the choice is worse. False: train on all to
        the last epoch, without a temperature.
    sample_rate : int, optional
        Of waveforms, in Hz.
    seed : int
        Of weights, dropout, shuffling and the fifth. The same seed and data give the same network, on any number of threads.
    threads : int, optional
        By default all cores.

    Attributes
    ----------
    classes_ : (classes,) array
        The values of y, sorted; columns of predict_proba.
    checkpoint_ : npser.checkpoint.Checkpoint
        The trained network. Its ``training`` says how it was split and how it scored on the part held out.

    Notes
    -----
    X is a list or an array of paths, or of waveforms: (n,) float arrays of one channel, of any lengths. y may hold any strings
    or integers. Without genders there is no gender head.

    ``cross_val_score(..., groups=g, cv=LeaveOneGroupOut())`` tells the splitter the groups, and not fit. Those of the training
    part reach fit with ``params={"groups": g}`` besides, or with scikit-learn's metadata routing.
    """

    preset: str | None = None
    epochs: int | None = None
    learning_rate: float | None = None
    settings: dict[str, Any] | None = None
    validation: bool = True
    sample_rate: int | None = None
    seed: int = 0
    threads: int | None = None
    classes_: np.ndarray = field(init=False, repr=False)
    checkpoint_: Checkpoint = field(init=False, repr=False)

    def fit(self, X: Sequence[Any] | np.ndarray, y: Sequence[Any] | np.ndarray, groups: Any = None) -> EmotionClassifier:
        """Train the network.

        Parameters
        ----------
        X : (R,) paths or waveforms
        y : (R,) strings or integers
        groups : (R,) strings or integers, optional
            Who speaks, or the session: what must not be in training and in the part held out at once.

        Returns
        -------
        EmotionClassifier
            Itself.

        Raises
        ------
        ValueError
            For parameters, recordings or classes that cannot be used, in one sentence.
        """
        config, preset = self._config()
        recordings = _recordings(X, self.sample_rate)
        classes, number = _classes(y, len(recordings))
        labels = [str(c) for c in classes.tolist()]
        speakers = _speakers(groups, len(recordings))
        with self._workshop(config) as (folder, pool):
            content, store = _features(recordings, self.sample_rate, config, folder, pool)
            numbered = enumerate(zip(number, speakers, strict=True))  # called by their place: what is drawn follows names
            utterances = [Utterance(Path(f"{r:09}"), labels[k], CORPUS, speaker) for r, (k, speaker) in numbered]
            data = Dataset(utterances, content, store, labels, {}, [CORPUS], {})
            split = self._split(utterances)
            if groups is not None:  # without them the split is as documented
                for text in split.warnings:
                    warnings.warn(text, stacklevel=2)
            about = describe(data, split, config, preset, [])
            fit(data, split, config, Run(folder, pool, say=lambda _: None), about, oracle=False)
            self.checkpoint_ = checkpoint.load(folder / "model.safetensors")
        self.classes_ = classes
        return self

    def predict(self, X: Sequence[Any] | np.ndarray) -> np.ndarray:
        """The likeliest class of each recording, (R,). ValueError for one that cannot be used, and before fit."""
        p = self.predict_proba(X)
        return self.classes_[p.argmax(axis=1)]

    def predict_proba(self, X: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Probabilities of the classes, (R, classes) in the order of ``classes_``. ValueError as for predict.

        Those of ``npser evaluate``: of a long recording, from the mean log-probability of half-overlapping windows; a network
        that pads (preset ``"paper"``) takes the first 7.5 s. Every recording is answered, silence too: an estimator has to.
        ``npser.load`` of a saved model leaves silent windows out, and takes all of a recording.
        """
        network = Network.of(self._trained())
        recordings = _recordings(X, self.sample_rate)
        with self._workshop(network.config) as (folder, pool):
            _, store = _features(recordings, self.sample_rate, network.config, folder, pool)
            return np.exp(network.log_probabilities(store, np.arange(len(recordings)), pool)[0])

    def score(self, X: Sequence[Any] | np.ndarray, y: Sequence[Any] | np.ndarray) -> float:
        """WA, the share of recordings whose class is predicted. ValueError as for predict, and where lengths differ."""
        truth = np.asarray(y)
        if truth.shape != (len(X),):
            raise ValueError(f"y has shape {truth.shape}; expected ({len(X)},), a class for each recording of X")
        return float((self.predict(X) == truth).mean())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file, which ``npser.load`` and the commands read. ValueError before fit."""
        checkpoint.save(Path(path), self._trained())

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters, by name. deep: as scikit-learn asks; there are no parameters of parameters."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}

    def set_params(self, **params: Any) -> EmotionClassifier:
        """Set parameters by name; returns itself. ValueError for a name that is none."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise ValueError(f"there is no parameter {name!r}; the parameters are {', '.join(known)}")
            setattr(self, name, value)
        return self

    def _trained(self) -> Checkpoint:
        if not hasattr(self, "checkpoint_"):
            raise ValueError("this EmotionClassifier is not fitted; call fit first")
        return self.checkpoint_

    def _config(self) -> tuple[Config, str]:
        """Preset, then settings, then parameters of their own: each over the one before."""
        own = {"epochs": self.epochs, "learning_rate": self.learning_rate, "seed": self.seed}
        chosen = {**(self.settings or {}), **{name: value for name, value in own.items() if value is not None}}
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in chosen.items()}  # of a grid
        config, preset = model.configured(plain, self.preset)
        model.refuse_text(config)
        return config, preset

    def _split(self, utterances: list[Utterance]) -> Split:
        """Nobody is tested; who trains, and who validates."""
        try:
            return make_split(utterances, "none", None if self.validation else "none", self.seed, allow_speaker_overlap=True)
        except ValueError as error:
            reason = str(error).partition(";")[0]
            raise ValueError(f"X: {reason}; give more recordings, or validation=False to train on all of them") from None

    @contextmanager
    def _workshop(self, config: Config) -> Iterator[tuple[Path, ThreadPoolExecutor]]:
        """A folder that does not last, and threads."""
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads is {self.threads}; expected at least 1")
        compile_kernels(config)
        with (
            tempfile.TemporaryDirectory(prefix="npser-", ignore_cleanup_errors=True) as folder,
            single_threaded_blas(),
            ThreadPoolExecutor(self.threads or available_cores()) as pool,
        ):
            yield Path(folder), pool

    # What scikit-learn asks estimators for; it has been imported by then.

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        inputs = InputTags(one_d_array=True, string=True)
        return Tags("classifier", TargetTags(required=True), classifier_tags=ClassifierTags(), input_tags=inputs)

    def get_metadata_routing(self) -> Any:
        """Where metadata routing is on: fit wants the groups."""
        from sklearn.utils.metadata_routing import MetadataRequest

        request = MetadataRequest(owner=self)
        request.fit.add_request(param="groups", alias=True)
        return request


def _recordings(X: Any, rate: int | None) -> list[Path | np.ndarray]:
    """X as paths and waveforms, checked."""
    if isinstance(X, (str, bytes, os.PathLike)) or not hasattr(X, "__len__"):
        raise ValueError(f"X is {X!r}; expected a list of paths or of waveforms")
    if len(X) == 0:
        raise ValueError("X is empty; expected at least one recording")
    found: list[Path | np.ndarray] = []
    for r, item in enumerate(X):
        if isinstance(item, (str, os.PathLike)):
            found.append(Path(item))
            continue
        x = np.asarray(item)
        if x.dtype.kind != "f" or x.ndim != 1:
            raise ValueError(f"X[{r}] is {x.dtype} of shape {x.shape}; expected a path or (n,) float samples of one channel")
        if not is_sound(x):
            raise ValueError(f"X[{r}] is empty or not finite (NaN, infinity, or beyond {LOUDEST:g})")
        whole_rate(rate)
        found.append(x)
    return found


def _classes(y: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values of y, sorted, and the number of each recording's among them."""
    y = np.asarray(y)
    if y.shape != (count,):
        raise ValueError(f"y has shape {y.shape}; expected ({count},), a class for each recording of X")
    wrong = f"y has type {y.dtype}; expected strings or integers, of one kind and without gaps"
    if y.dtype.kind == "f":
        raise ValueError(wrong)
    try:
        classes, number = np.unique(y, return_inverse=True)
    except TypeError:
        raise ValueError(wrong) from None
    if len(classes) < 2:
        raise ValueError(f"y holds one class only, {classes[0]}; expected at least two")
    return classes, number


def _speakers(groups: Any, count: int) -> list[str | None]:
    """Groups as speakers of a corpus."""
    if groups is None:
        return [None] * count
    groups = np.asarray(groups)
    if groups.shape != (count,):
        raise ValueError(f"groups has shape {groups.shape}; expected ({count},), a group for each recording of X")
    return [f"{CORPUS}/{group}" for group in groups.tolist()]


def _wav(x: np.ndarray, rate: int) -> bytes:
    """A file of x (n,). Unlike soundfile's, its header holds no time: the same samples, the same digest."""
    samples = x.astype("<f4").tobytes()
    size = min(len(samples), 0xFFFFFFFF - 36)  # of more, as of a stream whose length is not known
    form = struct.pack("<IHHIIHH", 16, 3, 1, rate, 4 * rate, 4, 32)  # IEEE floats, one channel
    return b"RIFF" + struct.pack("<I", size + 36) + b"WAVEfmt " + form + b"data" + struct.pack("<I", size) + samples


def _features(
    recordings: list[Path | np.ndarray], rate: int | None, config: Config, folder: Path, pool: ThreadPoolExecutor
) -> tuple[list[str], Store]:
    """Digests and features; waveforms become files in folder. ValueError for a recording that cannot be used."""
    paths: list[Path] = []
    for r, recording in enumerate(recordings):
        if isinstance(recording, np.ndarray):
            path = folder / f"X[{r}].wav"
            path.write_bytes(_wav(recording, int(rate or 0)))
            recording = path
        paths.append(recording)
    content = [digest or "" for digest in digests(paths, pool)]
    store = open_store(paths, content, model.module_of(config).kind(config), folder, pool)
    for r, reason in store.errors.items():
        raise ValueError(f"{paths[r]}: {reason}")
    return content, store

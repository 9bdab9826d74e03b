"""Corpora that the names of their files tell all about: one row each."""

import re
from pathlib import Path
from typing import NamedTuple

from npser.corpora import Utterance
from npser.corpora.folder import audio_files, once_each
from npser.corpora.labels import canonical


class Named(NamedTuple):
    """A corpus, with what a layout has (see :func:`npser.corpora.layouts`).

    ``NAME`` has the groups ``speaker`` and ``emotion``, and matches the last three parts of a path; ``women`` matches the
    speakers that are women, the others being men, and is None where nothing tells.
    """

    name: str
    LAYOUT: str
    NAME: re.Pattern[str]
    emotions: dict[str, str]
    women: str | None
    COUNTS: dict[str, dict[str, int]]

    def read(self, folder: Path) -> list[Utterance]:
        """Read the corpus from the names anywhere below a folder.

        With speakers, and genders where they are known. There are no sessions: groups of speakers serve. ValueError where no
        file is named as in the corpus.
        """
        paths = once_each([path for path in audio_files(folder) if self._match(path)], lambda path: self._identity(path))
        if not paths:
            raise ValueError(f"{folder} holds no file named like {self.LAYOUT}; leave --corpus {self.name} out")
        return [self._utterance(path) for path in paths]

    def _match(self, path: Path) -> re.Match[str] | None:
        return self.NAME.fullmatch("/".join(path.absolute().parts[-3:]))

    def _identity(self, path: Path) -> str:
        """What copies of a recording share; the folder may tell the emotion."""
        name = self._match(path)
        assert name is not None
        return "/".join([*name.groups(), path.stem]).upper()

    def _utterance(self, path: Path) -> Utterance:
        """Decode one name."""
        name = self._match(path)
        assert name is not None
        speaker = name["speaker"]
        gender = None
        if self.women is not None:
            gender = "female" if re.fullmatch(self.women, speaker, re.IGNORECASE) else "male"
        return Utterance(
            path, self.emotions[name["emotion"].lower()], self.name, speaker=f"{self.name}/{speaker}", gender=gender
        )


def _named(name: str, layout: str, pattern: str, emotions: dict[str, str], women: str | None, *counts: int) -> Named:
    """A row of the table; `pattern` holds SPEAKER(...) and EMOTION, and counts are those of the emotions in their order."""
    words = "|".join(sorted(emotions, key=len, reverse=True))
    text = pattern.replace("SPEAKER(", "(?P<speaker>").replace("EMOTION", f"(?P<emotion>{words})")
    known = {"": dict(zip(emotions.values(), counts, strict=True))} if counts else {}
    return Named(name, layout, re.compile(rf"(?:.*/)?{text}\.\w+", re.IGNORECASE), emotions, women, known)


def _words(text: str) -> dict[str, str]:
    """Labels that are words."""
    return {word: canonical(word) for word in text.split()}


_NEMO = _words("anger fear happiness neutral sadness surprise")
_JL = _words("angry anxious apologetic assertive concerned encouraging excited happy neutral sad")
# Colère, dégoût, joie, neutre, peur, surprise, tristesse.
_CAFE = {"c": "angry", "d": "disgusted", "j": "happy", "n": "neutral", "p": "fearful", "s": "surprised", "t": "sad"}
_SHEMO = {"a": "angry", "f": "fearful", "h": "happy", "n": "neutral", "s": "sad", "w": "surprised"}
_URDU = {"a": "angry", "h": "happy", "n": "neutral", "s": "sad"}
_AESDD = {"a": "angry", "d": "disgusted", "f": "fearful", "h": "happy", "s": "sad"}

TABLE = [
    _named(
        *("nemo", "samples/EB0_anger_1.wav", r"SPEAKER([A-Z]{2}\d)_EMOTION_\d+", _NEMO),
        *("EB0|IC0|KD0|MK0", 749, 736, 749, 809, 769, 669),
    ),
    _named("jl", "female1_angry_10a_1.wav", r"SPEAKER((?:fe)?male\d)_EMOTION_\d+[ab]_\d", _JL, "female.", *[240] * 10),
    # Of the speakers 1 to 12 the odd ones are men.
    _named(
        *("cafe", "Colère/Faible/01-C-1-1.wav", r"SPEAKER(\d\d)-EMOTION-[12]-[1-6]", _CAFE),
        *(r"\d[02468]", 144, 144, 144, 72, 144, 144, 144),
    ),
    # One file of it has a bracket at its end.
    _named(
        *("subesco", "F_01_OISHI_S_10_ANGRY_1.wav", r"SPEAKER([FM]_\d\d)_[A-Z]+_S_\d+_EMOTION_\d\]?"),
        *(_words("angry disgust fear happy neutral sad surprise"), "F.*", *[1000] * 7),
    ),
    _named("shemo", "female/F01A01.wav", r"SPEAKER([FM]\d\d)EMOTION\d\d", _SHEMO, "F.*"),
    _named("urdu", "Angry/SM1_F10_A010.wav", r"SPEAKER(S[FM]\d+)_F\d+_EMOTION\d+", _URDU, "SF.*", *[100] * 4),
    _named(
        *("emovdb", "bea_Amused/amused_1-15_0001.wav", r"SPEAKER(bea|jenie|josh|sam)[_/]EMOTION/[^/]+"),
        *(_words("amused angry disgusted neutral sleepy"), "bea|jenie"),
    ),
    _named("aesdd", "anger/a01 (1).wav", r"EMOTION\d\d \(0?SPEAKER(\d)\)[ab]?", _AESDD, None),
]

"""Corpora that the names of their files tell all about: one row each."""

import re
from pathlib import Path
from typing import NamedTuple

from npser.corpora import Utterance
from npser.corpora.folder import audio_files, once_each


class Named(NamedTuple):
    """A corpus, with what a layout has (see :func:`npser.corpora.layouts`).

    ``NAME`` has the groups ``speaker`` and ``emotion``, and matches the last two parts of a path; ``women`` matches the
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
        return self.NAME.fullmatch("/".join(path.absolute().parts[-2:]))

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


TABLE = [
    _named(
        "nemo",
        "samples/EB0_anger_1.wav",
        r"SPEAKER([A-Z]{2}\d)_EMOTION_\d+",
        {
            "anger": "angry",
            "fear": "fearful",
            "happiness": "happy",
            "neutral": "neutral",
            "sadness": "sad",
            "surprise": "surprised",
        },
        "EB0|IC0|KD0|MK0",
        *(749, 736, 749, 809, 769, 669),
    ),
]

"""SAVEE: ``DC/sa01.wav``, or ``DC_sa01.wav`` where all are in one folder, is speaker DC, sad, sentence 1."""

import os
import re
from pathlib import Path

from npser.corpora import Utterance
from npser.corpora.folder import audio_files, once_each

SPEAKERS = "DC", "JE", "JK", "KL"
EMOTIONS = {
    "a": "angry",
    "d": "disgusted",
    "f": "fearful",
    "h": "happy",
    "n": "neutral",
    "sa": "sad",
    "su": "surprised",
}
COUNTS = {"": dict.fromkeys(EMOTIONS.values(), 60) | {"neutral": 120}}
LAYOUT = "DC/a01.wav or DC_a01.wav"
NAME = re.compile(rf"(?:.*/)?({'|'.join(SPEAKERS)})[/_](sa|su|a|d|f|h|n)(\d\d)\.\w+", re.IGNORECASE)


def read(folder: Path) -> list[Utterance]:
    """Read SAVEE from the names of files and folders anywhere below a folder.

    With speakers, all of them men. There are no sessions: the speakers serve. ValueError where no file is named as in SAVEE.
    """
    named = [path for path in audio_files(folder) if NAME.fullmatch(os.path.abspath(path))]
    # The speakers have files of the same names.
    paths = once_each(named, lambda path: "".join(_decode(path)))
    if not paths:
        raise ValueError(f"{folder} holds no file named like SAVEE's DC/a01.wav or DC_a01.wav; leave --corpus savee out")
    return [_utterance(path) for path in paths]


def _decode(path: Path) -> tuple[str, str, str]:
    """Speaker, emotion and number."""
    name = NAME.fullmatch(os.path.abspath(path))
    assert name is not None
    return name[1].upper(), name[2].lower(), name[3]


def _utterance(path: Path) -> Utterance:
    """Decode one file name."""
    speaker, emotion, _ = _decode(path)
    return Utterance(path, EMOTIONS[emotion], "savee", speaker=f"savee/{speaker}", gender="male")

"""TESS, the Toronto emotional speech set: ``OAF_back_angry.wav`` is the older of two women saying "back", angry."""

import re
from pathlib import Path

from npser.corpora import Utterance
from npser.corpora.folder import recordings

EMOTIONS = {
    "angry": "angry",
    "disgust": "disgusted",
    "fear": "fearful",
    "happy": "happy",
    "neutral": "neutral",
    "ps": "surprised",
    "sad": "sad",
}
COUNTS = {"": dict.fromkeys(EMOTIONS.values(), 400)}
LAYOUT = "OAF_back_angry.wav"
# Some copies hold one file that is spelt OA_bite_neutral.
NAME = re.compile(rf"(?:.*/)?(OAF?|YAF)_([a-z]+)_({'|'.join(EMOTIONS)})\.\w+", re.IGNORECASE)


def read(folder: Path) -> list[Utterance]:
    """Read TESS from the file names anywhere below a folder.

    With speakers, both of them women. There are no sessions: the speakers serve. Second copies are skipped. ValueError where no
    file is named as in TESS.
    """
    paths = recordings(folder, NAME, "TESS's OAF_back_angry.wav", "tess", lambda path: "_".join(_decode(path)))
    return [_utterance(path) for path in paths]


def _decode(path: Path) -> tuple[str, str, str]:
    """Speaker, word and emotion."""
    speaker, word, emotion = path.stem.split("_")
    return f"{speaker[:2].upper()}F", word.lower(), emotion.lower()


def _utterance(path: Path) -> Utterance:
    """Decode one file name."""
    speaker, _, emotion = _decode(path)
    return Utterance(path, EMOTIONS[emotion], "tess", speaker=f"tess/{speaker}", gender="female")

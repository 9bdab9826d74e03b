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
_NAME = re.compile(rf"(?:.*/)?(OAF?|YAF)_([a-z]+)_({'|'.join(EMOTIONS)})\.\w+", re.IGNORECASE)


def matches(name: str) -> bool:
    """Whether a file, with or without its folder, is named as TESS names its recordings."""
    return _NAME.fullmatch(name) is not None


def read(folder: Path) -> list[Utterance]:
    """Read TESS from the file names anywhere below a folder.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    list of Utterance
        With speakers, both of them women. There are no sessions: the speakers serve. Second copies are skipped.

    Raises
    ------
    ValueError
        Where no file is named as in TESS.
    """
    paths = recordings(folder, matches, "TESS's OAF_back_angry.wav", "tess", lambda path: "_".join(_decode(path)))
    return [_utterance(path) for path in paths]


def _decode(path: Path) -> tuple[str, str, str]:
    """Speaker, word and emotion."""
    speaker, word, emotion = path.stem.split("_")
    return f"{speaker[:2].upper()}F", word.lower(), emotion.lower()


def _utterance(path: Path) -> Utterance:
    """Decode one file name."""
    speaker, _, emotion = _decode(path)
    return Utterance(path, EMOTIONS[emotion], "tess", speaker=f"tess/{speaker}", gender="female")

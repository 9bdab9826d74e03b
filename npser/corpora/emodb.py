"""EmoDB, the Berlin Database of Emotional Speech: ``03a01Wa.wav`` is speaker 03, text a01, anger, version a."""

import re
from pathlib import Path

from npser.corpora import Utterance
from npser.corpora.folder import recordings

# One woman and one man each, as in the sessions of IEMOCAP.
SESSIONS = {
    "03": "1",
    "08": "1",
    "10": "2",
    "09": "2",
    "11": "3",
    "13": "3",
    "12": "4",
    "14": "4",
    "15": "5",
    "16": "5",
}
MEN = {"03", "10", "11", "12", "15"}
# The letters stand for the German words: Wut, Langeweile, Ekel, Angst, Freude, Trauer.
EMOTIONS = {
    "W": "angry",
    "L": "bored",
    "E": "disgusted",
    "A": "fearful",
    "F": "happy",
    "T": "sad",
    "N": "neutral",
}
# The 535 recordings that were published.
COUNTS = {"": {"angry": 127, "bored": 81, "disgusted": 46, "fearful": 69, "happy": 71, "sad": 62, "neutral": 79}}
LAYOUT = "wav/03a01Wa.wav"
NAME = re.compile(rf"(?:.*/)?({'|'.join(SESSIONS)})[ab]\d\d([WLEAFTN])[a-z]\.\w+", re.IGNORECASE)


def read(folder: Path) -> list[Utterance]:
    """Read EmoDB from the file names anywhere below a folder.

    With speakers, genders and five sessions of one woman and one man; other files are skipped. ValueError where no file is
    named as in EmoDB.
    """
    paths = recordings(folder, NAME, "EmoDB's 03a01Wa.wav", "emodb")
    return [_utterance(path) for path in paths]


def _utterance(path: Path) -> Utterance:
    """Decode one file name."""
    speaker, letter = path.name[:2], path.name[5].upper()
    return Utterance(
        path,
        EMOTIONS[letter],
        "emodb",
        speaker=f"emodb/{speaker}",
        gender="male" if speaker in MEN else "female",
        session=f"emodb/{SESSIONS[speaker]}",
    )

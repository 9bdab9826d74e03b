"""EMOVO: ``gio-f1-b1.wav`` is joy, the first woman, sentence b1."""

import re
from pathlib import Path

from npser.corpora import Utterance
from npser.corpora.folder import recordings

# Disgusto, gioia, neutro, paura, rabbia, sorpresa, tristezza.
EMOTIONS = {
    "dis": "disgusted",
    "gio": "happy",
    "neu": "neutral",
    "pau": "fearful",
    "rab": "angry",
    "sor": "surprised",
    "tri": "sad",
}
# Six speakers, fourteen sentences.
COUNTS = {"": dict.fromkeys(EMOTIONS.values(), 84)}
LAYOUT = "f1/gio-f1-b1.wav"
NAME = re.compile(rf"(?:.*/)?({'|'.join(EMOTIONS)})-([fm][1-3])-[a-z]\d\.\w+", re.IGNORECASE)


def read(folder: Path) -> list[Utterance]:
    """Read EMOVO from the file names anywhere below a folder.

    With speakers and genders. There are no sessions: groups of speakers serve. ValueError where no file is named as in EMOVO.
    """
    paths = recordings(folder, NAME, "EMOVO's gio-f1-b1.wav", "emovo")
    return [_utterance(path) for path in paths]


def _utterance(path: Path) -> Utterance:
    """Decode one file name."""
    emotion, speaker, _ = path.stem.lower().split("-")
    return Utterance(
        path,
        EMOTIONS[emotion],
        "emovo",
        speaker=f"emovo/{speaker}",
        gender="female" if speaker[0] == "f" else "male",
    )

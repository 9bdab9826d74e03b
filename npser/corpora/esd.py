"""ESD, the Emotional Speech Dataset: ``0011/Angry/0011_000351.wav`` is speaker 0011, angry."""

import os
import re
from pathlib import Path

from npser.corpora import Utterance, tables
from npser.corpora.folder import recordings
from npser.corpora.labels import NO_LABEL

# 0001 to 0010 speak Mandarin, 0011 to 0020 English.
WOMEN = {"0001", "0002", "0003", "0007", "0009", "0015", "0016", "0017", "0018", "0019"}
EMOTIONS = {
    "angry": "angry",
    "happy": "happy",
    "neutral": "neutral",
    "sad": "sad",
    "surprise": "surprised",
    "生气": "angry",
    "快乐": "happy",
    "中立": "neutral",
    "伤心": "sad",
    "惊喜": "surprised",
}
# 350 of each of twenty speakers.
COUNTS = {"": dict.fromkeys(EMOTIONS.values(), 7000)}
LAYOUT = "0011/Angry/0011_000351.wav, 0011/0011.txt"
_SPEAKER = r"00(?:0[1-9]|1\d|20)"
NAME = re.compile(rf"(?:.*/)?({_SPEAKER})_\d{{6}}\.\w+")


def read(folder: Path) -> list[Utterance]:
    """Read ESD from the names of files and folders, or the speakers' lists, anywhere below a folder.

    With speakers, genders, and the language as style. The emotion is that of the nearest folder that is named after one, else
    that of ``0011.txt``. The folders train, evaluation and test of some releases hold the same speakers, so they are no split.
    There are no sessions: groups of speakers serve. ValueError where no file is named as in ESD.
    """
    paths = recordings(folder, NAME, "ESD's 0011_000351.wav", "esd")
    listed: dict[str, str] = {}
    if any(_by_folder(path) is None for path in paths):
        for table in tables.find(folder, rf"{_SPEAKER}\.txt"):
            rows = (re.split(r"\t+", line.strip()) for line in tables.text(table, "gb18030").splitlines())
            listed |= {row[0].strip(): row[-1].strip().lower() for row in rows if len(row) > 1}
    return [_utterance(path, _by_folder(path) or EMOTIONS.get(listed.get(path.stem, ""), NO_LABEL)) for path in paths]


def _by_folder(path: Path) -> str | None:
    """The emotion after which the folder is named, or the folder around it: 0011/Angry/train."""
    names = (parent.name.lower() for parent in list(Path(os.path.abspath(path)).parents)[:2])
    return next((EMOTIONS[name] for name in names if name in EMOTIONS), None)


def _utterance(path: Path, emotion: str) -> Utterance:
    """Decode one file name."""
    speaker = path.name[:4]
    return Utterance(
        path,
        emotion,
        "esd",
        speaker=f"esd/{speaker}",
        gender="female" if speaker in WOMEN else "male",
        style="mandarin" if speaker <= "0010" else "english",
    )

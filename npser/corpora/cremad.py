"""CREMA-D: ``1001_IEO_ANG_HI.wav`` is actor 1001, sentence IEO, angry, high intensity."""

import re
from pathlib import Path

from npser.corpora import Utterance, tables
from npser.corpora.folder import recordings
from npser.corpora.labels import NO_SIGNAL, canonical_gender

EMOTIONS = {
    "ANG": "angry",
    "DIS": "disgusted",
    "FEA": "fearful",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}
# Copies from before October 2022 hold one name that ends in X.
LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": None, "X": None}
# The sex of the 91 actors in VideoDemographics.csv, which many copies lack: 43 women, 48 men.
_WOMEN = (
    "1002 1003 1004 1006 1007 1008 1009 1010 1012 1013 1018 1020 1021 1024 1025 1028 1029 1030 1037 1043 1046 1047"
    " 1049 1052 1053 1054 1055 1056 1058 1060 1061 1063 1072 1073 1074 1075 1076 1078 1079 1082 1084 1089 1091"
)
GENDERS: dict[str, str | None] = {str(actor): "female" if str(actor) in _WOMEN else "male" for actor in range(1001, 1092)}
SILENT = "1076_MTI_SAD_XX"
COUNTS = {"": dict.fromkeys(EMOTIONS.values(), 1271) | {"neutral": 1087, "sad": 1270, NO_SIGNAL: 1}}
LAYOUT = "AudioWAV/1001_IEO_ANG_HI.wav, VideoDemographics.csv"
NAME = re.compile(rf"(?:.*/)?(1\d\d\d)_[A-Z]{{3}}_({'|'.join(EMOTIONS)})_({'|'.join(LEVELS)})\.\w+", re.IGNORECASE)


def read(folder: Path) -> list[Utterance]:
    """Read CREMA-D from the file names anywhere below a folder.

    With speakers, genders (those of ``VideoDemographics.csv``, where it is in the folder or beside it), and the intensity as
    style. There are no sessions: groups of speakers serve. The one recording without sound is ``no signal``; of a recording as
    wav and as mp3 the former is read. ValueError where no file is named as in CREMA-D, or the table of actors is broken.
    """
    paths = recordings(folder, NAME, "CREMA-D's 1001_IEO_ANG_HI.wav", "cremad", _recording)
    genders = dict(GENDERS)
    for table in tables.find(folder, r"VideoDemographics\.csv")[:1]:
        rows = tables.rows(table, "actorid", "sex")
        try:
            genders |= {row["actorid"]: canonical_gender(row["sex"]) for row in rows}
        except ValueError as error:
            raise ValueError(f"{table}: {error}") from error
    return [_utterance(path, genders) for path in paths]


def _recording(path: Path) -> str:
    """What copies of a recording share, X as XX."""
    return re.sub(r"_X$", "_XX", path.stem.upper())


def _utterance(path: Path, genders: dict[str, str | None]) -> Utterance:
    """Decode one file name."""
    actor, _, emotion, level = path.stem.upper().split("_")
    return Utterance(
        path,
        NO_SIGNAL if path.stem.upper() == SILENT else EMOTIONS[emotion],
        "cremad",
        speaker=f"cremad/{actor}",
        gender=genders.get(actor),
        style=LEVELS[level],
    )

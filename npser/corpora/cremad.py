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
LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": None}
SILENT = "1076_MTI_SAD_XX"
COUNTS = {"": dict.fromkeys(EMOTIONS.values(), 1271) | {"neutral": 1087, "sad": 1270, NO_SIGNAL: 1}}
LAYOUT = "AudioWAV/1001_IEO_ANG_HI.wav, VideoDemographics.csv"
NAME = re.compile(rf"(?:.*/)?(1\d\d\d)_[A-Z]{{3}}_({'|'.join(EMOTIONS)})_({'|'.join(LEVELS)})\.\w+", re.IGNORECASE)


def read(folder: Path) -> list[Utterance]:
    """Read CREMA-D from the file names anywhere below a folder.

    With speakers and the intensity as style; with genders where ``VideoDemographics.csv`` is in the folder or beside it. There
    are no sessions: groups of speakers serve. The one recording without sound is ``no signal``. ValueError where no file is
    named as in CREMA-D, or the table of actors is broken.
    """
    paths = recordings(folder, NAME, "CREMA-D's 1001_IEO_ANG_HI.wav", "cremad")
    genders: dict[str, str | None] = {}
    for table in tables.find(folder, r"VideoDemographics\.csv")[:1]:
        rows = tables.rows(table, "actorid", "sex")
        try:
            genders = {row["actorid"]: canonical_gender(row["sex"]) for row in rows}
        except ValueError as error:
            raise ValueError(f"{table}: {error}") from error
    return [_utterance(path, genders) for path in paths]


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

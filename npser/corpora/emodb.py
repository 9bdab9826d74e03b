"""EmoDB, the Berlin Database of Emotional Speech: ``03a01Wa.wav`` is speaker 03, text a01, anger, version a."""

import re
import warnings
from pathlib import Path

from npser.corpora import Utterance, tables
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
# The 535 recordings of the first edition, which results are about.
COUNTS = {"": {"angry": 127, "bored": 81, "disgusted": 46, "fearful": 69, "happy": 71, "sad": 62, "neutral": 79}}
LAYOUT = "wav/03a01Wa.wav"
NAME = re.compile(rf"(?:.*/)?({'|'.join(SESSIONS)})[ab]\d\d([WLEAFTN])[a-z]\.\w+", re.IGNORECASE)


def read(folder: Path) -> list[Utterance]:
    """Read EmoDB from the file names anywhere below a folder.

    With speakers, genders and five sessions of one woman and one man; other files are skipped. The second edition adds 281
    recordings that listeners did not agree on: they are left out where its two gold-standard tables are in the folder or beside
    it, and warned of elsewhere. ValueError where no file is named as in EmoDB.
    """
    paths = recordings(folder, NAME, "EmoDB's 03a01Wa.wav", "emodb")
    found = tables.find(folder, r"db\.emotion\.categories\.(?:train|test)\.gold_standard\.csv")
    gold = {Path(row["file"]).stem.upper() for table in found for row in tables.rows(table, "file")}
    whole = sum(COUNTS[""].values())
    if len(found) == 2:
        kept = [path for path in paths if path.stem.upper() in gold]
        if not kept:
            raise ValueError(f"{found[0]} lists none of the recordings in {folder}; restore it from the corpus, or remove it")
        if len(kept) < len(paths):
            text = f"{folder}: {len(paths) - len(kept)} recordings that EmoDB's gold standard does not list are left out"
            warnings.warn(text, stacklevel=2)
        paths = kept
    elif len(paths) > whole:
        warnings.warn(
            f"{folder}: {len(paths)} recordings, and results on EmoDB are about {whole}: the second edition adds some that "
            f"listeners did not agree on; to leave them out, put its two tables *.gold_standard.csv into the folder",
            stacklevel=2,
        )
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

"""MSP-Podcast: ``Audios/MSP-PODCAST_0001_0008.wav``, and a row about it in ``Labels/labels_concensus.csv``."""

import re
from pathlib import Path

from npser.corpora import Utterance, tables
from npser.corpora.folder import recordings
from npser.corpora.labels import NO_AGREEMENT, NO_LABEL, canonical_gender

EMOTIONS = {
    "A": "angry",
    "S": "sad",
    "H": "happy",
    "U": "surprised",
    "F": "fearful",
    "D": "disgusted",
    "C": "contempt",
    "N": "neutral",
    "O": "other",
    "X": NO_AGREEMENT,
}
LAYOUT = "Audios/MSP-PODCAST_0001_0008.wav, Labels/labels_concensus.csv"
NAME = re.compile(r"(?:.*/)?MSP-PODCAST_(\w+?)_\w+\.\w+", re.IGNORECASE)
# The name is the corpus's own spelling; the right one is read too.
_TABLE = r"labels_con[cs]ensus\.csv"


def labels_in(folder: Path) -> list[Path]:
    """The table of labels, in the folder or beside it."""
    return tables.find(folder, _TABLE)


def read(folder: Path) -> tuple[list[Utterance], list[str]]:
    """Read MSP-Podcast from its table of labels.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    utterances : list of Utterance
        With speakers and genders where they are known, the podcast as dialogue, and the official split, in which
        Test1, Test2 and so on are all ``test``. Recordings that the table does not name are ``no label``.
    missing : list of str
        What the table names and is not there.

    Raises
    ------
    ValueError
        Where there is no table or no recording, or the table says what is not known.
    """
    paths = recordings(folder, NAME, "MSP-PODCAST_0001_0008.wav", "msppodcast")
    found = labels_in(folder)
    if not found:
        raise ValueError(f"{folder} holds no Labels/labels_concensus.csv; name the folder that holds Audios and Labels")
    rows = tables.rows(found[0], "filename", "emoclass", "spkrid", "gender", "split_set")
    about = {Path(row["filename"]).stem.upper(): row for row in rows}
    there = {path.stem.upper() for path in paths}
    missing = [row["filename"] for stem, row in about.items() if stem not in there]
    return [_utterance(path, about.get(path.stem.upper()), found[0]) for path in paths], missing


def _utterance(path: Path, row: dict[str, str] | None, table: Path) -> Utterance:
    """A recording and its row."""
    name = NAME.fullmatch(path.name)
    assert name is not None
    dialogue = f"msppodcast/{name[1]}"
    if row is None:
        return Utterance(path, NO_LABEL, "msppodcast", dialogue=dialogue)
    if row["emoclass"].upper() not in EMOTIONS:
        raise ValueError(f"{table}: EmoClass of {path.stem} is {row['emoclass']!r}; expected {' '.join(EMOTIONS)}")
    speaker = row["spkrid"]
    try:
        gender = canonical_gender(row["gender"])
    except ValueError as error:
        raise ValueError(f"{table}: {path.stem}: {error}") from error
    return Utterance(
        path,
        EMOTIONS[row["emoclass"].upper()],
        "msppodcast",
        speaker=None if speaker.lower() in ("", "unknown") else f"msppodcast/{speaker}",
        gender=gender,
        split=_split(row["split_set"], path, table),
        dialogue=dialogue,
    )


def _split(text: str, path: Path, table: Path) -> str:
    """The part, under the names of all releases."""
    word = text.lower()
    for start, split in (("train", "train"), ("val", "validation"), ("dev", "validation"), ("test", "test")):
        if word.startswith(start):
            return split
    raise ValueError(f"{table}: Split_Set of {path.stem} is {text!r}; expected Train, Validation, Development or Test1")

"""MSP-IMPROV: ``MSP-IMPROV-S01A-F02-P-FM01.wav`` is sentence 01 meant angry, the second woman, natural talk."""

import re
from pathlib import Path

from npser.corpora import Utterance, tables
from npser.corpora.folder import recordings
from npser.corpora.labels import NO_AGREEMENT, NO_LABEL

EMOTIONS = {"A": "angry", "H": "happy", "S": "sad", "N": "neutral", "O": "other", "X": NO_AGREEMENT}
STYLES = {"P": "natural", "R": "read", "S": "other improvised", "T": "target improvised"}
# Of the 8438 turns; how the others divide into other and no agreement is not published.
COUNTS = {"": {"angry": 792, "happy": 2644, "neutral": 3477, "sad": 885}}
LAYOUT = "session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.wav, Evaluation.txt"
# The recordings are called MSP-, and in Evaluation.txt UTD-.
_STEM = r"(?:MSP|UTD)-IMPROV-(S\d\d[AHSN])-([FM])(\d\d)-([PRST])-([FM]{2}\d\d)"
NAME = re.compile(rf"(?:.*/)?{_STEM}\.\w+", re.IGNORECASE)
_LINE = re.compile(rf"{_STEM}\.\w+\s*;\s*([A-Z])\s*;", re.IGNORECASE)
_TABLE = r"Evalua?tion\.txt"  # releases spell it Evalution


def labels_in(folder: Path) -> list[Path]:
    """The file of labels, in the folder or beside it."""
    return tables.find(folder, _TABLE)


def read(folder: Path) -> tuple[list[Utterance], list[str]]:
    """Read MSP-IMPROV from ``Evaluation.txt``, or ``Evalution.txt``, and the file names.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    utterances : list of Utterance
        With the emotion that raters perceived, speakers, genders, six sessions of a woman and a man, and the kind of
        recording as style. The scenario is the sentence with the emotion that was meant, such as ``S01A``.
    missing : list of str
        What has a label and no recording.

    Raises
    ------
    ValueError
        Where there are no labels or no recordings.
    """
    paths = recordings(folder, NAME, "MSP-IMPROV-S01A-F01-P-FM01.wav", "mspimprov", _turn)
    emotions: dict[str, str] = {}
    for table in labels_in(folder)[:1]:
        for line in tables.text(table).splitlines():
            row = _LINE.match(line)
            if row:
                emotions[_key(line)] = EMOTIONS.get(row[6].upper(), NO_LABEL)
    if not emotions:
        raise ValueError(f"{folder} holds no labels in an Evaluation.txt; put that file of the corpus into it")
    there = {_turn(path) for path in paths}
    missing = [f"MSP-IMPROV-{turn}.wav" for turn in emotions if turn not in there]
    return [_utterance(path, emotions.get(_turn(path), NO_LABEL)) for path in paths], missing


def _key(name: str) -> str:
    """What identifies a turn in a name that begins with MSP- or UTD-: S01A-F02-P-FM01."""
    return name[len("MSP-IMPROV-") :].partition(".")[0].strip().upper()


def _turn(path: Path) -> str:
    return _key(path.name)


def _utterance(path: Path, emotion: str) -> Utterance:
    """Decode one file name."""
    name = NAME.fullmatch(path.name.upper())
    assert name is not None
    scenario, letter, number, kind, _ = name.groups()
    return Utterance(
        path,
        emotion,
        "mspimprov",
        speaker=f"mspimprov/{letter}{number}",
        gender="female" if letter == "F" else "male",
        session=f"mspimprov/{int(number)}",
        scenario=scenario,
        style=STYLES[kind],
    )

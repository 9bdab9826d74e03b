"""MELD: ``train_splits/dia0_utt3.wav``, extracted from the video, and its row in ``train_sent_emo.csv``."""

import os
import re
import warnings
from pathlib import Path

from npser.corpora import Utterance, tables
from npser.corpora.folder import audio_files, once_each
from npser.corpora.labels import NO_LABEL, canonical

# How the names of tables and folders begin: test is also output_repeated_splits_test.
SPLITS = {"train": "train", "dev": "validation", "test": "test", "output_repeated_splits_test": "test"}
# The leading roles of the series; nothing tells the gender of the others.
GENDERS = {
    "Chandler": "male",
    "Joey": "male",
    "Monica": "female",
    "Phoebe": "female",
    "Rachel": "female",
    "Ross": "male",
}
# What is missing or damaged in every copy.
KNOWN = {
    "validation/dia110_utt7": "was never released",
    "train/dia125_utt3": "is damaged as released",
}
LAYOUT = "train_sent_emo.csv, train_splits/dia0_utt0.wav"
NAME = re.compile(r"(?:.*/)?(dia\d+)_(utt\d+)\.\w+", re.IGNORECASE)
# 132 clips of the test part come twice. Those with the long name hold what the table says, and their twins other cuts,
# according to published audits; the corpus's authors say only that one may ignore them.
RECUT = "final_videos_test"
_NAMED = re.compile(rf"(?:{RECUT})?{NAME.pattern}", re.IGNORECASE)
_FOLDER = re.compile(rf"({'|'.join(SPLITS)})(?![a-z]).*", re.IGNORECASE)
_TABLE = r"(train|dev|test)_sent_emo\.csv"


def labels_in(folder: Path) -> list[Path]:
    """The tables of labels, in the folder or beside it."""
    return tables.find(folder, _TABLE)


def read(folder: Path) -> tuple[list[Utterance], list[str]]:
    """Read MELD from its tables of labels.

    Parameters
    ----------
    folder : Path
        Holds the tables, and audio in folders whose names begin with train, dev, test or
        output_repeated_splits_test, as those of the videos do.

    Returns
    -------
    utterances : list of Utterance
        With speakers, genders of the leading roles, dialogues, and the official split. Its parts share speakers. Clips named
        ``final_videos_testdia0_utt0`` take the place of ``dia0_utt0``.
    missing : list of str
        What the tables name and is not there.

    Raises
    ------
    ValueError
        Where there is no table or no recording.

    Warns
    -----
    Of clips that are taken from ``final_videos_test``.
    """
    there = [path for path in audio_files(folder) if _NAMED.fullmatch(path.name) and _split(path)]
    recut = once_each([path for path in there if path.name.lower().startswith(RECUT)], clip)
    clips = {clip(path) for path in recut}
    paths = sorted([*recut, *once_each([path for path in there if clip(path) not in clips], clip)])
    if recut:
        text = f"{folder}: {len(recut)} clips are taken from the files {RECUT}*, not from their twins without these words"
        warnings.warn(text, stacklevel=2)
    if not paths:
        raise ValueError(
            f"{folder} holds no file like MELD's train_splits/dia0_utt0.wav; "
            f"extract the audio under these names, or leave --corpus meld out"
        )
    about: dict[str, dict[str, str]] = {}
    for table in labels_in(folder):
        split = SPLITS[table.name.lower().partition("_")[0]]
        for row in tables.rows(table, "dialogue_id", "utterance_id", "speaker", "emotion"):
            about[f"{split}/dia{row['dialogue_id']}_utt{row['utterance_id']}"] = row
    if not about:
        raise ValueError(f"{folder} holds no train_sent_emo.csv; put the three tables of MELD into it")
    clips = {clip(path) for path in paths}
    missing = [name for name in about if name not in clips]
    return [_utterance(path, about.get(clip(path), {})) for path in paths], missing


def _split(path: Path) -> str | None:
    """The part that the nearest folder with such a name tells."""
    for parent in Path(os.path.abspath(path)).parents:
        name = _FOLDER.fullmatch(parent.name)
        if name:
            return SPLITS[name[1].lower()]
    return None


def clip(path: Path) -> str:
    """What identifies a recording: the parts number their dialogues each for itself."""
    return f"{_split(path)}/{path.stem.lower().removeprefix(RECUT)}"


def _utterance(path: Path, row: dict[str, str]) -> Utterance:
    """A clip and its row, which is empty where there is none."""
    split, speaker = _split(path), row.get("speaker")
    return Utterance(
        path,
        canonical(row["emotion"]) if row.get("emotion") else NO_LABEL,
        "meld",
        speaker=f"meld/{speaker}" if speaker else None,
        gender=GENDERS.get(speaker or ""),
        split=split,
        dialogue=f"meld/{clip(path).partition('_')[0].replace('/', '-')}",
    )

"""IEMOCAP: ``Ses01F_impro05a_M003`` is session 1, improvised scene 5, part a, turn 3 of the man.

The letter after ``Ses01`` tells who wears the motion-capture markers. Who speaks is told by the last token.
"""

import re
from pathlib import Path

from npser.corpora import Utterance
from npser.corpora.folder import audio_files, files, once_each
from npser.corpora.labels import NO_LABEL, canonical

# The 5531 utterances of the four classes that the paper and most others use; happy is 595 happy and 1041 excited.
COUNTS = {
    "1": {"angry": 229, "happy": 278, "neutral": 384, "sad": 194},
    "2": {"angry": 137, "happy": 327, "neutral": 362, "sad": 197},
    "3": {"angry": 240, "happy": 286, "neutral": 320, "sad": 305},
    "4": {"angry": 327, "happy": 303, "neutral": 258, "sad": 143},
    "5": {"angry": 170, "happy": 442, "neutral": 384, "sad": 245},
}
LAYOUT = "Session1/dialog/EmoEvaluation/*.txt, Session1/sentences/wav/*/*.wav"
STYLES = {"impro": "improvised", "script": "scripted"}
# Long scenes come in parts, a and b. What is marked FXX0 in transcripts has no recording.
_STEM = re.compile(r"(Ses0([1-5])[FM]_((impro)\d\d|(script)\d\d_\d)[a-z]?)_([FM])\d{3}")
NAME = re.compile(rf"(?:.*/)?{_STEM.pattern}\.\w+")
_PHONE = re.compile(r"\s*\d+\s+\d+\s+-?\d+\s+(\S+)")  # first and last frame, score, phone, and those around it
_TURN = re.compile(r"\[[\d.]+\s*-\s*[\d.]+\]\s+(\S+)\s+([a-z]{3})\s")


def labels_in(folder: Path) -> list[Path]:
    """The files of the turns' majority labels; those of single raters lie in folders below and are not among them."""
    return [path for path in files(folder) if path.parent.name == "EmoEvaluation" and path.suffix == ".txt"]


def read(folder: Path) -> tuple[list[Utterance], list[str]]:
    """Read IEMOCAP from its files of labels.

    Parameters
    ----------
    folder : Path
        ``IEMOCAP_full_release``, or one of its sessions.

    Returns
    -------
    utterances : list of Utterance
        With all that Utterance has but a split; with phonemes where ``sentences/ForcedAlignment`` has them. Excited is
        ``excited``; turns without a majority are ``no agreement``.
    missing : list of str
        Turns that have a label and no recording.

    Raises
    ------
    ValueError
        Where there are no labels or no recordings, or two labels of one turn.
    """
    turns = _turns(folder)
    named = [path for path in audio_files(folder) if _is_turn(path)]
    if not named:
        raise ValueError(f"{folder} holds no recordings sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.*; add them")
    paths = once_each(named)
    found = [_utterance(path, turns.get(path.stem, (NO_LABEL, path))[0]) for path in paths]
    there = {path.stem for path in paths}
    missing = [str(place) for name, (_, place) in turns.items() if name not in there]
    return found, missing


def _turns(folder: Path) -> dict[str, tuple[str, Path]]:
    """Name of a turn -> its emotion, and where its recording belongs."""
    turns: dict[str, tuple[str, Path]] = {}
    tables = labels_in(folder)
    for table in tables:
        for line in table.read_text("latin-1").splitlines():
            turn = _TURN.match(line)
            name = turn and _STEM.fullmatch(turn[1])
            if turn and name:
                emotion, place = canonical(turn[2]), table.parents[2] / "sentences" / "wav" / name[1] / f"{turn[1]}.wav"
                if turns.setdefault(turn[1], (emotion, place))[0] != emotion:
                    raise ValueError(f"{table}: {turn[1]} is {emotion} and elsewhere {turns[turn[1]][0]}; keep one copy")
    if not turns:
        what = f"no label in {tables[0]}" if tables else "no dialog/EmoEvaluation/*.txt"
        raise ValueError(f"{folder} holds {what}; name the folder IEMOCAP_full_release, or leave --corpus iemocap out")
    return turns


def _is_turn(path: Path) -> bool:
    """Whether a file is the recording of a turn, and not of a dialogue or another copy."""
    name = _STEM.fullmatch(path.stem)
    return name is not None and path.parts[-4:-1] == ("sentences", "wav", name[1])


def _utterance(path: Path, emotion: str) -> Utterance:
    """Decode one file name."""
    name = _STEM.fullmatch(path.stem)
    assert name is not None
    dialogue, session, scenario, improvised, scripted, letter = name.groups()
    return Utterance(
        path,
        emotion,
        "iemocap",
        speaker=f"iemocap/Ses0{session}{letter}",
        gender="female" if letter == "F" else "male",
        session=f"iemocap/{session}",
        dialogue=f"iemocap/{dialogue}",
        scenario=scenario,
        style=STYLES[improvised or scripted],
        phonemes=_phonemes(path, dialogue),
    )


def _phonemes(path: Path, dialogue: str) -> str | None:
    """The phones of the corpus's own alignment of a turn with its transcript, which lies beside the recordings."""
    alignment = path.parents[2] / "ForcedAlignment" / dialogue / f"{path.stem}.phseg"
    try:
        lines = alignment.read_text("latin-1").splitlines()
    except OSError:
        return None
    return " ".join(phone[1] for line in lines if (phone := _PHONE.match(line))) or None

"""RAVDESS speech: ``03-01-05-02-01-02-18.wav`` is audio, speech, angry, strong, statement 1, repetition 2, actor 18."""

import re
from pathlib import Path

from npser.corpora import Utterance
from npser.corpora.folder import audio_files, once_each

# The six groups of four actors that EmoBox tests on in turn, so that results can be set beside its leaderboard.
GROUPS = {
    "1": ("01", "11", "20", "21"),
    "2": ("04", "10", "12", "14"),
    "3": ("08", "09", "19", "23"),
    "4": ("03", "05", "07", "24"),
    "5": ("02", "15", "16", "18"),
    "6": ("06", "13", "17", "22"),
}
SESSIONS = {actor: session for session, actors in GROUPS.items() for actor in actors}
EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgusted",
    "08": "surprised",
}
STYLES = {"01": "normal", "02": "strong"}
COUNTS = {"": dict.fromkeys(EMOTIONS.values(), 192) | {"neutral": 96}}
LAYOUT = "Actor_18/03-01-05-01-02-01-18.wav"
# Neutral is never strong.
_EMOTION = rf"(?:01(?=-01)|{'|'.join(sorted(set(EMOTIONS) - {'01'}))})"
NAME = re.compile(rf"(?:.*/)?0[1-3]-0[12]-{_EMOTION}-0[12]-0[12]-0[12]-(?:{'|'.join(SESSIONS)})\.\w+")
_FORM = re.compile(r"\d\d(?:-\d\d){6}\.\w+")


def read(folder: Path) -> list[Utterance]:
    """Read the speech part of RAVDESS from the file names anywhere below a folder.

    With speakers, genders, six sessions of four actors, and the intensity as style. Songs, videos, other files, and second
    copies of a recording are skipped. ValueError where no file is named as the speech recordings of RAVDESS, or one has the
    form of these names and other codes: corpora such as BanglaSER have the form, and other emotions under the same numbers.
    """
    there = audio_files(folder)
    named = [path for path in there if NAME.fullmatch(path.name)]
    foreign = [path for path in there if _FORM.fullmatch(path.name) and not NAME.fullmatch(path.name)]
    if foreign:
        raise ValueError(
            f"{foreign[0]} ({len(foreign)} of {len(there)} files) has the form of RAVDESS's names and none of its codes; "
            f"if this is another corpus, write a manifest, or else remove the file"
        )
    paths = once_each([path for path in named if path.name.startswith("03-01-")])
    if not paths:
        raise ValueError(f"{folder} holds no RAVDESS speech (03-01-*.wav); add its folders Actor_01 to Actor_24")
    return [_utterance(path) for path in paths]


def _utterance(path: Path) -> Utterance:
    """Decode one file name."""
    _, _, emotion, intensity, _, _, actor = path.stem.split("-")
    return Utterance(
        path,
        EMOTIONS[emotion],
        "ravdess",
        speaker=f"ravdess/{actor}",
        gender="male" if int(actor) % 2 else "female",
        session=f"ravdess/{SESSIONS[actor]}",
        style=STYLES[intensity],
    )

"""Folders of audio files, and the layout of one folder a class."""

import os
import re
import stat
import warnings
from collections.abc import Callable
from pathlib import Path

from npser.corpora import Utterance
from npser.corpora.labels import CANONICAL, SPLITS, canonical

LAYOUT = "angry/1.wav or train/angry/1.wav, one folder a class"
# These hold audio that npser does not decode. They are listed all the same: the loader names them with the command
# that converts them, where leaving them out would quietly shrink a corpus.
UNDECODABLE = {".m4a", ".mp4", ".aac", ".aiff", ".aif", ".au", ".w64", ".caf"}
AUDIO = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3"} | UNDECODABLE
LOSSY = {".mp3", ".ogg", ".oga", ".opus"}


def audio_files(folder: Path) -> list[Path]:
    """List the audio files anywhere below a folder, sorted.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    list of Path
        Known by their extensions in any case; hidden folders and the ``._`` files of macOS are skipped, and with a warning
        pipes, devices and sockets.

    Raises
    ------
    ValueError
        Where the folder does not exist, cannot be read, is empty or holds no audio.
    """
    there = files(folder)
    found = [path for path in there if is_audio(path.name)]
    if not there:
        raise ValueError(f"{folder} is empty; name the folder that holds the corpus")
    if not found:
        raise ValueError(f"{folder} holds no audio files ({' '.join(sorted(AUDIO))}); name another folder or a manifest")
    return found


def files(folder: Path, onerror: Callable[[OSError], object] | None = None) -> list[Path]:
    """All files anywhere below a folder, sorted, without those that :func:`audio_files` skips.

    onerror: receives what went wrong with a folder that cannot be read; without it, that is a ValueError.
    """
    if not os.path.isdir(folder):
        raise ValueError(f"{folder} is not a folder; name the folder that holds the corpus")
    found: list[Path] = []
    odd: list[Path] = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=onerror or _refuse, followlinks=True):
        # Corpora are often links to a shared disk, and links may lead in a circle.
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(parent, name) for name in names if not name.startswith("._")):
            (found if _is_regular(path) else odd).append(path)
    if odd:
        warnings.warn(f"{min(odd)} ({len(odd)} in all) is a pipe, a device or a socket and is left out", stacklevel=2)
    return sorted(found)


def _is_regular(path: Path) -> bool:
    """Whether a file can be opened without waiting for ever; one that is gone or locked is named when it is opened."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True


def is_audio(name: str) -> bool:
    """Whether a file name ends like audio."""
    return os.path.splitext(name)[1].lower() in AUDIO


def _base_name(path: Path) -> str:
    """What copies of a recording share."""
    return path.stem.upper()


def once_each(paths: list[Path], key: Callable[[Path], str] = _base_name) -> list[Path]:
    """Keep one file of each base name, or other key: rather one that can be decoded, and rather one without loss.

    Some archives unpack twice, and CREMA-D comes as wav and as mp3, where some of the latter are wrong.
    """
    first: dict[str, Path] = {}
    for path in sorted(paths, key=lambda path: (path.suffix.lower() in UNDECODABLE, path.suffix.lower() in LOSSY, path)):
        first.setdefault(key(path), path)
    return sorted(first.values())


def recordings(
    folder: Path, pattern: re.Pattern[str], example: str, corpus: str, key: Callable[[Path], str] = _base_name
) -> list[Path]:
    """The files below a folder that are named as a corpus names them, each recording once; ValueError where there is none."""
    paths = once_each([path for path in audio_files(folder) if pattern.fullmatch(path.name)], key)
    if not paths:
        raise ValueError(f"{folder} holds no file named like {example}; leave --corpus {corpus} out")
    return paths


def read(folder: Path, named: Callable[[str], str] = canonical) -> list[Utterance]:
    """Read a folder of class folders: the emotion is the name of the folder directly below `folder`.

    Parameters
    ----------
    folder : Path
        Where all its folders are called train, validation or test, the class folders are below these, which are the split.
    named : callable, optional
        The emotion after which a folder is named.

    Returns
    -------
    list of Utterance
        Without speakers, genders and sessions; the corpus is named after the folder.

    Raises
    ------
    ValueError
        As :func:`audio_files`, and where an audio file lies in no class folder.

    Warns
    -----
    Of class folders that are named after no known emotion.
    """
    paths = audio_files(folder)
    places = [path.relative_to(folder).parts[:-1] for path in paths]
    parts = {place[0].lower() for place in places if place}
    level = 1 if all(places) and parts <= set(SPLITS) else 0
    loose = [path for path, place in zip(paths, places, strict=True) if len(place) <= level]
    if loose:
        table = loose[0].parent / "metadata.csv"
        advice = f"or list the recordings in {folder / 'manifest.csv'}"
        if level and os.path.isfile(table):
            advice = f"or name the folder {table.parent}, which has a manifest, itself"
        raise ValueError(
            f"{loose[0]} ({len(loose)} of {len(paths)} files) is in no class folder; "
            f"move it to {loose[0].parent}/EMOTION/, {advice}"
        )
    name = Path(os.path.abspath(folder)).name or "folder"
    splits = [SPLITS[place[0].lower()] if level else None for place in places]
    emotions = {word: named(word) for word in dict.fromkeys(place[level] for place in places)}
    _warn_of_classes(folder, emotions)
    return [
        Utterance(path, emotions[place[level]], name, split=split)
        for path, place, split in zip(paths, places, splits, strict=True)
    ]


def _warn_of_classes(folder: Path, emotions: dict[str, str]) -> None:
    """Folders may be named after speakers, genders or parts: they become classes, though not without a word."""
    own = sorted(word for word, emotion in emotions.items() if emotion == canonical(word) and emotion not in CANONICAL)
    if own:
        which = f"{len(own)} of the {len(emotions)} class folders" if len(own) < len(emotions) else "no class folder"
        after = "are named after no emotion that is known" if len(own) < len(emotions) else "is named after a known emotion"
        warnings.warn(
            f"{folder}: {which} {after}, and {brief(own)} become classes of their own; --map {own[0]}=EMOTION renames one; "
            f"where folders are speakers or parts, write a manifest",
            stacklevel=2,
        )


def brief(words: list[str], most: int = 8) -> str:
    """Some words for a sentence, which may be many, long, or of several lines."""
    half = 200 if len(words) == 1 else 20  # a path should not lose its end
    shown = [" ".join(word.split()) for word in words[:most]]
    shown = [word if len(word) <= 2 * half else f"{word[:half]}...{word[-half:]}" for word in shown]
    return ", ".join(shown) + (f" and {len(words) - most} more" if len(words) > most else "")


def _refuse(error: OSError) -> None:
    """os.walk would skip a folder that it may not read."""
    raise ValueError(f"{error.filename} cannot be read ({error.strerror}); check its permissions")

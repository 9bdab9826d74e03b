"""Folders of audio files, and the layout of one folder a class."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from npser.corpora import Utterance
from npser.corpora.labels import canonical

LAYOUT = "angry/1.wav, one folder a class"
# These hold audio that npser does not decode. They are listed all the same: the loader names them with the command
# that converts them, where leaving them out would quietly shrink a corpus.
UNDECODABLE = {".m4a", ".mp4", ".aac", ".aiff", ".aif", ".au", ".w64", ".caf"}
AUDIO = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3"} | UNDECODABLE


def audio_files(folder: Path) -> list[Path]:
    """List the audio files anywhere below a folder, sorted.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    list of Path
        Known by their extensions in any case; hidden folders and the ``._`` files of macOS are skipped.

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
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=onerror or _refuse, followlinks=True):
        # Corpora are often links to a shared disk, and links may lead in a circle.
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(parent, name) for name in names if not name.startswith("._")]
    return sorted(found)


def is_audio(name: str) -> bool:
    """Whether a file name ends like audio."""
    return os.path.splitext(name)[1].lower() in AUDIO


def _base_name(path: Path) -> str:
    """What copies of a recording share."""
    return path.stem.upper()


def once_each(paths: list[Path], key: Callable[[Path], str] = _base_name) -> list[Path]:
    """Keep one file of each base name, or other key, rather one that can be decoded: some archives unpack twice."""
    first: dict[str, Path] = {}
    for path in sorted(paths, key=lambda path: (path.suffix.lower() in UNDECODABLE, path)):
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


def read(folder: Path) -> list[Utterance]:
    """Read a folder of class folders: the emotion is the name of the folder directly below `folder`.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    list of Utterance
        Without speakers, genders and sessions; the corpus is named after the folder.

    Raises
    ------
    ValueError
        As :func:`audio_files`, and where an audio file lies in no class folder.
    """
    paths = audio_files(folder)
    loose = [path for path in paths if path.parent == folder]
    if loose:
        raise ValueError(
            f"{loose[0]} ({len(loose)} of {len(paths)} files) is in no class folder; "
            f"move it to {folder}/EMOTION/, or list the recordings in {folder / 'manifest.csv'}"
        )
    name = Path(os.path.abspath(folder)).name or "folder"
    return [Utterance(path, canonical(path.relative_to(folder).parts[0]), name) for path in paths]


def _refuse(error: OSError) -> None:
    """os.walk would skip a folder that it may not read."""
    raise ValueError(f"{error.filename} cannot be read ({error.strerror}); check its permissions")

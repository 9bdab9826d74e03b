"""The words for emotions, genders and parts: synonyms, the user's own, and which emotions become the classes."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

DEFAULT = ["angry", "happy", "neutral", "sad"]

# What a corpus says where it has no emotion to give. Such utterances are counted and never a class.
NO_AGREEMENT, NO_LABEL, NO_SIGNAL = "no agreement", "no label", "no signal"
UNUSABLE = {NO_AGREEMENT, NO_LABEL, NO_SIGNAL}

# Words and three-letter codes only. Single letters mean different emotions in different corpora (F is happiness in
# EmoDB and fear in SAVEE), so they are decoded by the reader of the corpus and nowhere else.
_WORDS = {
    "angry": "anger ang wut zorn ärger aerger",
    "bored": "boredom boring bor langeweile",
    "calm": "calmness cal",
    "disgusted": "disgust disgusting dis ekel",
    "excited": "excitement excite exc",
    "fearful": "fear fea afraid scared anxious anxiety angst",
    "frustrated": "frustration fru",
    "happy": "happiness hap joy joyful freude",
    "neutral": "neutrality neu",
    "other": "others oth",
    "sad": "sadness trauer traurigkeit",
    "surprised": "surprise sur ps",
}
CANONICAL = sorted(_WORDS)
_SYNONYMS = {word: emotion for emotion, words in _WORDS.items() for word in (emotion, *words.split())}
_SYNONYMS |= dict.fromkeys(("pleasant surprise", "pleasant surprised", "pleasantly surprised"), "surprised")
_SYNONYMS["xxx"] = NO_AGREEMENT  # IEMOCAP

# The parts of a corpus, as columns and folders call them.
SPLITS = {
    word: split
    for split, words in {
        "train": "train training",
        "validation": "validation valid val dev development",
        "test": "test testing",
    }.items()
    for word in words.split()
}

GENDERS = ["female", "male"]
_GENDERS = dict.fromkeys(("f", "female", "woman"), "female") | dict.fromkeys(("m", "male", "man"), "male")
_NO_GENDER = {"", "unknown", "none", "na", "n/a", "nan", "-", "?"}


def canonical(text: str) -> str:
    """Map a word for an emotion to its canonical name.

    Parameters
    ----------
    text : str
        Any spelling, such as ``"Anger"``, ``"hap"`` or ``"Pleasant_Surprise"``.

    Returns
    -------
    str
        One of the canonical emotions; a word that is none of their synonyms stays itself in lower case, so that a
        user's own classes work.
    """
    own = _own(text)
    return _SYNONYMS.get(re.sub(r"[\s_-]+", " ", own), own)


def _own(text: str) -> str:
    """A label as a corpus has it; macOS hands out folder names with decomposed accents."""
    return unicodedata.normalize("NFC", text).strip().lower()


def parse_map(texts: Sequence[str]) -> dict[str, str]:
    """Read what ``--map`` says.

    Parameters
    ----------
    texts : sequence of str
        Such as ``"joy=happy,01neutral=neutral"``.

    Returns
    -------
    dict of str to str
        A corpus's own label, in lower case, to the emotion, in its canonical word.

    Raises
    ------
    ValueError
        For an entry that is not LABEL=EMOTION, and two entries for one label.
    """
    mapping: dict[str, str] = {}
    for entry in ",".join(texts).split(",") if texts else ():
        label, _, emotion = (part.strip() for part in entry.partition("="))
        if not label or not emotion or "=" in emotion:
            raise ValueError(f"--map {entry!r}: expected LABEL=EMOTION, as in --map joy=happy,01neutral=neutral")
        if _own(label) in mapping:
            raise ValueError(f"--map: {label} is set twice, to {mapping[_own(label)]} and {canonical(emotion)}; set it once")
        mapping[_own(label)] = canonical(emotion)
    return mapping


class Names:
    """What the labels of corpora are called: by the user's map, else by their canonical words.

    Parameters
    ----------
    mapping : dict of str to str
        As from :func:`parse_map`.
    """

    def __init__(self, mapping: dict[str, str]) -> None:
        self.mapping = mapping
        self.used: set[str] = set()
        self.seen: set[str] = set()

    def __call__(self, text: str) -> str:
        """The emotion of a label that a user wrote: in a manifest, or as the name of a folder."""
        emotion = canonical(text)
        return self._find((_own(text), emotion), emotion)

    def decoded(self, emotion: str) -> str:
        """The emotion of a published corpus, whose label a reader has decoded: any word for it may stand in the map."""
        return self._find((emotion, *(label for label in self.mapping if canonical(label) == emotion)), emotion)

    def _find(self, labels: Sequence[str], otherwise: str) -> str:
        self.seen.add(labels[0])
        label = next((label for label in labels if label in self.mapping), None)
        if label is None:
            return otherwise
        self.used.add(label)
        return self.mapping[label]

    def check(self) -> None:
        """ValueError where an entry of the map has named nothing."""
        idle = [label for label in self.mapping if label not in self.used]
        if idle:
            there = ", ".join(sorted(self.seen))
            raise ValueError(f"--map: no label is {' or '.join(idle)}; the labels there are: {there}")


def canonical_gender(text: str) -> str | None:
    """Map a word for a gender to ``"female"``, ``"male"`` or None for unknown.

    Parameters
    ----------
    text : str
        ``f``, ``female``, ``woman``, ``m``, ``male``, ``man``, or empty, ``unknown``, ``none``, ``na``, in any case.

    Returns
    -------
    str or None

    Raises
    ------
    ValueError
        For any other word.
    """
    word = text.strip().lower()
    if word in _NO_GENDER:
        return None
    if word not in _GENDERS:
        raise ValueError(f"gender is {text!r}; write female, male, or nothing where it is unknown")
    return _GENDERS[word]


def choose(present: Iterable[str], wanted: Sequence[str] | None = None) -> dict[str, str]:
    """Decide which label every emotion of a corpus gets.

    Parameters
    ----------
    present : iterable of str
        The canonical emotions that occur.
    wanted : sequence of str, optional
        The labels, in any spelling; ``["all"]`` takes all emotions that occur. The default takes those of
        :data:`DEFAULT` that occur.

    Returns
    -------
    dict of str to str
        Emotion to label, without the emotions that are left out, as :data:`UNUSABLE` always are.
        Excited counts as happy unless it is a label itself.

    Raises
    ------
    ValueError
        Where no utterance has a wanted label, or fewer than two labels are left.
    """
    present = sorted(set(present) - UNUSABLE)
    there = f"the emotions there are: {', '.join(present)}"
    chosen = _labels(present, wanted)
    mapping = {emotion: emotion for emotion in present if emotion in chosen}
    if "excited" in present and "excited" not in chosen and "happy" in chosen:
        mapping["excited"] = "happy"

    left = sorted(set(mapping.values()))
    absent = sorted(chosen - set(left))
    if absent and wanted is not None:
        raise ValueError(f"--labels: no utterance is {' or '.join(absent)}; {there}")
    if not left:
        raise ValueError(f"no utterance is {', '.join(DEFAULT[:-1])} or {DEFAULT[-1]}; choose with --labels, {there}")
    if len(left) < 2:
        raise ValueError(f"only the class {left[0]} is left, and two are needed; choose with --labels, {there}")
    return mapping


def _labels(present: Sequence[str], wanted: Sequence[str] | None) -> set[str]:
    """The labels that were asked for, in canonical words."""
    if wanted is None:
        return set(DEFAULT)
    chosen = {canonical(label) for label in wanted if label.strip()}
    if chosen == {"all"}:
        return set(present)
    if not chosen:
        raise ValueError("--labels names no emotion; write for example --labels angry,sad or --labels all")
    return chosen

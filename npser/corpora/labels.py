"""The words for emotions and genders: synonyms, and which emotions become the classes."""

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
    # macOS hands out folder names with decomposed accents.
    own = unicodedata.normalize("NFC", text).strip().lower()
    return _SYNONYMS.get(re.sub(r"[\s_-]+", " ", own), own)


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

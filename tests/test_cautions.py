"""What stands at the head of a report: each caution where it is due, and none where it is not."""

import copy
from typing import Any

import pytest

from npser.experiment.cautions import cautions
from npser.experiment.table2 import sampling_line


def fold(name: str, angry: int, sad: int) -> dict[str, Any]:
    return {"fold": name, "test": {"emotions": {"angry": angry, "sad": sad}}}


def difference(value: float, interval: list[float] | None) -> dict[str, Any]:
    return {"ua": {"difference": value, "interval": interval}}


@pytest.fixture
def report() -> dict[str, Any]:
    """A cross-validation with nothing to warn of."""
    return {
        "labels": ["angry", "sad"],
        "seeds": [0, 1, 2],
        "systems": {"full": {}},
        "variants": {"full": {"ua": 0.8, "calibration": {"temperatures": [[1.2, 0.8], [1.0, 1.1]]}}},
        "baselines": {"majority": {"ua": 0.5}, "duration": {"ua": 0.55}, "level": {"ua": 0.5}, "linear": {"ua": 0.7}},
        "differences": {
            "majority": difference(0.3, [0.2, 0.4]),
            "duration": difference(0.25, [0.1, 0.4]),
            "level": difference(0.3, [0.2, 0.4]),
            "linear": difference(0.1, [0.02, 0.18]),
        },
        "split": {"folds": [fold("1", 10, 10), fold("2", 12, 9)]},
        "sampling": {"clusters": 10, "of": "speakers", "speaker_unknown": 0},
        "classes_of_speakers": {"c/a": [5, 5], "c/b": [6, 4]},
    }


def test_a_sound_report_has_none(report: dict[str, Any]) -> None:
    assert cautions(report) == []


@pytest.mark.parametrize(
    ("value", "interval", "words"),
    [
        (
            -0.02,
            [-0.1, 0.06],
            "Duration alone does better than the network (UA 0.820 against 0.800): are the files cut by class?",
        ),
        (0.0, None, "Duration alone does as well as the network (UA 0.800 against 0.800): are the files cut by class?"),
        (0.05, [-0.01, 0.11], "Duration alone may do as well as the network (UA 0.750 against 0.800, within the interval): "),
        (0.05, [0.01, 0.09], None),
        (0.05, None, None),
    ],
)
def test_a_control_that_the_network_does_not_beat(
    report: dict[str, Any], value: float, interval: Any, words: str | None
) -> None:
    report["baselines"]["duration"]["ua"] = 0.8 - value
    report["differences"]["duration"] = difference(value, interval)
    (said,) = cautions(report) or [None]
    assert said == words if words is None else (said or "").startswith(words)


def test_a_network_that_has_learnt_nothing(report: dict[str, Any]) -> None:
    report["variants"]["full"]["ua"] = 0.5
    report["baselines"]["linear"]["ua"] = 0.45
    report["differences"]["majority"] = difference(0.0, None)
    report["differences"]["level"] = difference(0.0, [-0.1, 0.1])  # no better than the majority: it says nothing
    assert [said.split(" (")[0] for said in cautions(report)] == [
        "The majority class does as well as the network",
        "Duration alone does better than the network",
    ]


def test_few_speakers(report: dict[str, Any]) -> None:
    report["sampling"]["clusters"] = 2
    assert "rest on 2 speakers" in cautions(report)[0]
    report["sampling"]["clusters"] = 1
    assert "no intervals" in cautions(report)[0]


def test_speakers_of_one_class(report: dict[str, Any]) -> None:
    report["classes_of_speakers"] = {"c/a": [5, 0], "c/b": [0, 4], "c/c": [1, 4], "unknown": [3, 3]}
    assert cautions(report) == ["2 of 3 speakers speak one class only: the network may tell voices apart, not emotions."]


def test_a_class_of_one_speaker(report: dict[str, Any]) -> None:
    report["classes_of_speakers"] = {"c/a": [5, 5], "c/b": [0, 4], "c/c": [0, 4]}
    (first, second) = cautions(report)
    assert first.startswith("2 of 3 speakers")
    assert second == "Only one speaker speaks angry: nothing shows how speakers differ in it."


def test_a_linear_classifier_that_does_better(report: dict[str, Any]) -> None:
    report["baselines"]["linear"]["ua"] = 0.85
    assert cautions(report)[0].startswith("Logistic regression on utterance statistics does better than the network (UA 0.850 ")


def test_folds_with_unlike_classes(report: dict[str, Any]) -> None:
    report["split"]["folds"] = [fold("1", 18, 2), fold("2", 10, 10), fold("3", 10, 10)]
    (said,) = cautions(report)
    assert said.endswith("not comparable: fold 1 (angry: 90%, of all 63%).")


def test_temperatures_at_their_bound(report: dict[str, Any]) -> None:
    report["variants"]["full"]["calibration"]["temperatures"] = [[20.0, 1.0], [0.05, 1.0]]
    assert cautions(report)[0].startswith("2 of 4 temperatures are at their bound")
    report["variants"]["full"]["calibration"] = None
    assert cautions(report) == []


def test_intervals_say_what_they_count(report: dict[str, Any]) -> None:
    assert sampling_line(report) == "95 % intervals over 10 speakers and 3 seeds (Student's t)."
    one = copy.deepcopy(report) | {"seeds": [4]}
    assert "what another seed would change is not in them, and --seeds 3 adds it" in sampling_line(one)
    one["sampling"] = {"clusters": 1, "of": "speakers"}
    assert sampling_line(one) == "No intervals: there is one speaker."


def test_beside_other_systems_the_network_is_called_the_full_model(report: dict[str, Any]) -> None:
    report["systems"] = {"full": {}, "han2014-published": {}}
    report["baselines"]["duration"]["ua"] = 0.82
    report["differences"]["linear"] = difference(0.1, [-0.02, 0.18])
    report["classes_of_speakers"] = {"c/a": [5, 0], "c/b": [6, 0], "c/c": [0, 4]}
    text = " ".join(cautions(report))
    assert "Duration alone does better than the full model (" in text
    assert "may do as well as the full model (" in text
    assert "speak one class only: the full model may tell voices apart" in text
    assert "the network" not in text

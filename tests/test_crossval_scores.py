"""The scores of a cross-validation, by hand: of speakers, styles and durations, of genders, of runs together."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import SMALL, data_of, sound

from npser.dataset import Dataset
from npser.experiment import crossval
from npser.experiment.folds import Fold
from npser.experiment.jobs import Plan
from npser.experiment.systems import Variant
from npser.metrics import confusion_matrix, scores
from npser.split import Split


@pytest.fixture
def twelve() -> Dataset:
    """12 sounds, each longer than the one before, of four speakers, one of whom is unknown; some genders are unknown."""
    emotions = ["angry", "happy", "sad", "sad"] * 3
    data = data_of(SMALL, [[sound(2000 + 1000 * r)] for r in range(12)], emotions, ["male", "female", None] * 4)
    speakers, styles = ["c/a", "c/b", "c/c", None], ["acted", "acted", None]
    utterances = [replace(u, speaker=speakers[r // 3], style=styles[r % 3]) for r, u in enumerate(data.utterances)]
    return replace(data, utterances=utterances)


def two_folds(**second: Any) -> list[Fold]:
    return [Fold("x", Split([6], [], [0, 1, 2, 3, 4, 5])), Fold("y", Split([0], [], [11, 6, 7, 8, 9, 10], **second))]


def test_clusters_are_speakers_and_unknown_speakers_of_a_fold(twelve: Dataset) -> None:
    cluster, sampling = crossval._clusters(twelve, two_folds())
    groups = [np.flatnonzero(cluster == k).tolist() for k in range(sampling["clusters"])]
    assert sorted(groups) == [[0, 1, 2], [3, 4, 5], [6, 10, 11], [7, 8, 9]]
    assert "unknown" in sampling["of"]
    assert sampling["speaker_unknown"] == 3
    known = replace(twelve, utterances=[replace(u, speaker=u.speaker or "c/d") for u in twelve.utterances])
    assert crossval._clusters(known, two_folds())[1] == {"clusters": 4, "of": "speakers", "speaker_unknown": 0}


def test_the_accuracy_of_genders_is_of_those_that_are_known(twelve: Dataset) -> None:
    truth = [[0 if r % 3 else 1 for r in fold.split.test] for fold in two_folds()]  # 1 male; of r % 3 == 2 nothing is known
    wrong = [1 - truth[0][0], *truth[0][1:]]
    seeds = [[{"predicted_gender": given} for given in (first, truth[1])] for first in (truth[0], wrong)]
    found = crossval._gender(twelve, two_folds(), seeds)
    assert found is not None
    assert found["utterances"] == 8
    assert found["accuracy"]["values"] == [1.0, 7 / 8]
    none = [[{"predicted_gender": None}] * 2]
    assert crossval._gender(twelve, two_folds(), none) is None


def test_parts_of_the_test_utterances_are_scored_over_all_runs(twelve: Dataset) -> None:
    members = np.arange(12)
    y = twelve.emotion_y
    right, wrong = y.copy(), (y + 1) % 3
    first = np.where(members < 6, right, wrong)  # one run knows the first six, the other one the last two besides
    runs = np.stack([first, np.where(members >= 10, right, first)])
    cluster, _ = crossval._clusters(twelve, two_folds())
    found = crossval.summary(twelve, members, runs, [6, 6], cluster)
    assert found["wa"] == pytest.approx((6 + 8) / 24)
    assert np.sum(found["confusion"]) == 24
    assert {name: part["wa"] for name, part in found["per_speaker"].items()} == {
        "c/a": 1,
        "c/b": 1,
        "c/c": 0,
        "unknown": pytest.approx(2 / 6),
    }
    assert [part["wa"] for part in found["duration_terciles"]] == [1, pytest.approx(4 / 8), pytest.approx(2 / 8)]
    assert [part["utterances"] for part in found["duration_terciles"]] == [4, 4, 4]
    assert {name: part["wa"] for name, part in found["styles"].items()} == {
        "acted": pytest.approx((4 + 4 + 1) / 16),
        "unknown": pytest.approx((2 + 2 + 1) / 8),
    }
    assert found["recall"]["angry"] == pytest.approx(4 / 6)
    folds = [[scores(confusion_matrix(y[part], run[part], 3))["ua"] for part in np.split(members, 2)] for run in runs]
    assert found["ua_of_seeds_and_folds"] == [pytest.approx(ua) for ua in folds]


@pytest.mark.parametrize("dependent", [False, True])
def test_one_fold_that_shares_a_speaker_makes_the_whole_dependent(twelve: Dataset, dependent: bool) -> None:
    assert crossval._split(twelve, two_folds(speaker_dependent=dependent))["speaker_dependent"] is dependent


def test_the_calibration_of_each_seed_is_of_its_own_answers() -> None:
    def job(temperature: float, *confidence: float) -> dict[str, Any]:
        return {"calibration": {"temperature": temperature}, "confidence": {"before": [0.5, 0.5], "after": list(confidence)}}

    seeds = [[job(1.0, 1.0, 1.0), job(2.0, 1.0, 1.0)], [job(3.0, 0.75, 0.75), job(4.0, 0.75, 0.75)]]
    right = np.array([[True, True, True, True], [True, True, True, False]])
    found = crossval._calibration(right, seeds)
    assert found is not None
    assert found["temperatures"] == [[1.0, 2.0], [3.0, 4.0]]
    assert found["ece_after"]["values"] == [0, 0]
    assert found["ece_before"]["values"] == [0.5, 0.25]
    seeds[1][1]["calibration"] = None
    assert crossval._calibration(right, seeds) is None


def test_the_oracle_is_of_all_folds_together_and_the_mean_over_seeds() -> None:
    def job(confusion: list[list[int]]) -> dict[str, Any]:
        return {"oracle": {"confusion": confusion}}

    seeds = [[job([[2, 0], [0, 0]]), job([[0, 2], [0, 4]])], [job([[0, 2], [0, 0]]), job([[0, 2], [4, 0]])]]
    found = crossval._oracle(seeds)
    assert found is not None
    assert (found["wa"], found["ua"]) == ((6 / 8 + 0) / 2, (0.75 + 0) / 2)
    assert crossval._oracle([[job([[1]])], [{"oracle": None}]]) is None


def test_the_report_names_its_seeds_mixed_versions_and_folds_that_lack_a_gender(twelve: Dataset) -> None:
    men = [r for r in range(12) if twelve.utterances[r].gender == "male"]
    women = [r for r in range(12) if twelve.utterances[r].gender == "female"]
    folds = [Fold("x", Split(men, [], women)), Fold("y", Split([*men[:2], *women[:2]], [], men[2:]))]
    plan = Plan(folds, "session", {"full": Variant(replace(SMALL, seed=3), "default")}, seeds=2)
    results = [{"versions": {"numpy": version}} for version in ("1", "2", "1")]
    found = crossval._about(twelve, plan, ["first"], results)
    assert (found["seeds"], found["notices"][0], len(found["notices"])) == ([3, 4], "first", 2)
    assert "different versions" in found["notices"][1]
    assert crossval._about(twelve, plan, [], results[:1])["notices"] == []
    (notice,) = crossval._of_this_data(twelve, plan)[1]
    assert notice.startswith("fold x: the training part lacks one of the genders")

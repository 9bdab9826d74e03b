"""npser.EmotionClassifier as scikit-learn's tools use it, and by itself."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from helpers import RATE, ROOT, UNCOMPILED, manifest_of, without

import npser
from npser import EmotionClassifier

QUICK = {"batch": 8, "schedule": "constant", "warmup": 0.0, "warp": 0.0, "channel": 0.0, "select": "ua"}  # for three epochs
SMALL = {"d_cnn": 4, "d_lstm": 4, "d_attn": 8, "n_attn": 2, **QUICK}


def small(**parameters: Any) -> EmotionClassifier:
    """Learns the corpus of the fixture in a moment."""
    chosen: dict[str, Any] = {"epochs": 3, "learning_rate": 1e-2, "settings": SMALL, "sample_rate": RATE, **parameters}
    return EmotionClassifier(**chosen)


@pytest.fixture(scope="module")
def paths(corpus: Path) -> list[str]:
    return [row["path"] for row in manifest_of(corpus)]


@pytest.fixture(scope="module")
def waves(paths: list[str]) -> list[np.ndarray]:
    """Of lengths that differ."""
    return [soundfile.read(path, dtype="float32")[0][: 3800 + 5 * k] for k, path in enumerate(paths)]


@pytest.fixture(scope="module")
def y(corpus: Path) -> np.ndarray:
    return np.array([row["emotion"] for row in manifest_of(corpus)])


@pytest.fixture(scope="module")
def speakers(corpus: Path) -> np.ndarray:
    return np.array([row["speaker"] for row in manifest_of(corpus)])


@pytest.fixture(scope="module")
def fitted(paths: list[str], y: np.ndarray, speakers: np.ndarray) -> EmotionClassifier:
    return small().fit(paths, y, groups=speakers)


def weights(classifier: EmotionClassifier) -> list[bytes]:
    return [classifier.checkpoint_.tensors[name].tobytes() for name in sorted(classifier.checkpoint_.tensors)]


# By itself


def test_it_learns_and_its_columns_are_its_classes(fitted: EmotionClassifier, paths: list[str], y: np.ndarray) -> None:
    assert fitted.classes_.tolist() == ["angry", "sad"]
    p = fitted.predict_proba(paths)
    assert p.shape == (24, 2)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    np.testing.assert_array_equal(fitted.predict(paths), fitted.classes_[p.argmax(axis=1)])
    assert fitted.score(paths, y) == (fitted.predict(paths) == y).mean() > 0.8


def test_paths_and_waveforms_train_the_same_network_on_any_number_of_threads(paths: list[str], y: np.ndarray) -> None:
    sounds = [soundfile.read(path)[0] for path in paths]
    from_paths = small(threads=1).fit(paths, y)
    for X in ([Path(path) for path in paths], np.array(paths), sounds, np.array(sounds)):
        other = small(threads=3).fit(X, y)
        assert weights(other) == weights(from_paths)
        np.testing.assert_array_equal(other.predict_proba(X), from_paths.predict_proba(paths))
    assert weights(small(seed=1).fit(paths, y)) != weights(from_paths)


def test_classes_may_be_any_words_or_numbers(waves: list[np.ndarray], y: np.ndarray, tmp_path: Path) -> None:
    words, numbers, strange = (small(validation=False) for _ in range(3))
    words.fit(waves, y)
    for classifier, classes in ((numbers, [9, 10]), (strange, ["très fâché", "…"])):  # 9 before 10: by value, not as words
        renamed = np.where(y == "angry", *classes)
        classifier.fit(waves, renamed)
        assert classifier.classes_.tolist() == classes
        np.testing.assert_array_equal(classifier.predict_proba(waves), words.predict_proba(waves))
        np.testing.assert_array_equal(classifier.predict(waves), np.where(words.predict(waves) == "angry", *classes))
        assert classifier.score(waves, renamed) == words.score(waves, y)
        assert classifier.checkpoint_.emotions == [str(c) for c in classes]
        classifier.save(tmp_path / "model.safetensors")
        longer = [np.tile(x, 2) for x in waves[::3]]  # npser.load answers from 0.3 s on
        answers = npser.load(tmp_path / "model.safetensors").predict_many(longer, RATE)
        assert [p.emotion for p in answers] == [str(c) for c in classifier.predict(longer)]


def test_parameters_win_over_settings_and_settings_over_the_preset() -> None:
    config, preset = EmotionClassifier(preset="paper", epochs=2, settings={"epochs": 9, "batch": 7, "seed": 1})._config()
    assert (preset, config.epochs, config.batch, config.seed, config.learning_rate) == ("paper", 2, 7, 0, 1e-4)


def test_whole_groups_are_held_out_and_without_groups_a_fifth_of_each_class(
    fitted: EmotionClassifier, paths: list[str], y: np.ndarray, speakers: np.ndarray
) -> None:
    training = fitted.checkpoint_.training
    assert training["split"]["method"] == "speaker groups"
    held = {f"data/{speaker}" for speaker in speakers} - set(training["speakers"])
    assert len(held) == 1
    assert np.sum(training["scores"]["validation"]["confusion"]) == 4
    assert fitted.checkpoint_.temperature == training["scores"]["calibration"]["temperature"] != 1

    fifth = small().fit(paths, y).checkpoint_
    assert fifth.training["split"]["method"] == "random"
    assert fifth.training["split"]["speaker_dependent"]
    assert np.sum(fifth.training["scores"]["validation"]["confusion"], axis=1).tolist() == [2, 2]

    everything = small(validation=False).fit(paths, y, groups=speakers).checkpoint_
    assert everything.training["split"]["method"] == "none"
    assert (everything.training["scores"]["epoch"], everything.temperature) == (3, 1)


def test_a_class_that_is_in_the_held_out_group_only_is_told(paths: list[str], y: np.ndarray, speakers: np.ndarray) -> None:
    rare = np.where(speakers == speakers[-1], "rare", y)
    sizes = np.where(speakers == speakers[-1], "z", speakers)
    with pytest.warns(UserWarning, match="rare|angry and no sad") as told:
        small(epochs=1).fit(paths, rare, groups=sizes)
    assert all("\n" not in str(warning.message) for warning in told)


def test_the_model_file_predicts_the_same(fitted: EmotionClassifier, paths: list[str], tmp_path: Path) -> None:
    fitted.save(tmp_path / "model.safetensors")
    model = npser.load(tmp_path / "model.safetensors")
    for path, p in zip(paths, fitted.predict_proba(paths), strict=True):
        np.testing.assert_allclose(list(model.predict(path).probabilities.values()), p, atol=1e-5)


def test_nothing_is_left_behind(
    paths: list[str], waves: list[np.ndarray], y: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "temporary", "cache"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    small(epochs=1).fit(waves, y).predict(paths)
    with pytest.raises(ValueError, match="not finite"):
        small(learning_rate=1e30).fit(waves, y)
    assert not [path for name in ("here", "temporary", "cache") for path in (tmp_path / name).iterdir()]


CODE = """
import npser
assert "numba" not in sys.modules
import numpy as np
classifier = npser.EmotionClassifier(epochs=1, settings={"d_cnn": 4, "d_lstm": 4, "d_attn": 8}, sample_rate=8000)
X = np.random.default_rng(0).standard_normal((10, 4000)) * np.sin(np.arange(4000) / 700) ** 2 / 10
print(classifier.fit(X, ["a", "b"] * 5).predict(X))
"""


def test_it_works_where_scikit_learn_is_not_installed() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", without("sklearn") + CODE], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


NAN = np.full(4000, np.nan)
SOUND = np.sin(np.arange(4000) / 5) * np.sin(np.arange(4000) / 700) ** 2  # what does not rise and fall is no speech


@pytest.mark.parametrize(
    ("parameters", "X", "y", "words"),
    [
        ({}, [], [], "X is empty"),
        ({}, "a.wav", ["a"], "X is 'a.wav'; expected a list"),
        ({}, 7, ["a"], "X is 7; expected a list"),
        ({}, [SOUND] * 3, ["a", "b"], r"y has shape \(2,\); expected \(3,\)"),
        ({}, [SOUND] * 2, [["a"], ["b"]], r"y has shape \(2, 1\)"),
        ({}, [SOUND] * 10, ["a"] * 10, "y holds one class only, a"),
        ({}, [SOUND] * 2, [0.5, 1.5], "y has type float64; expected strings or integers"),
        ({}, [SOUND] * 2, np.array(["a", None]), "y has type object; expected strings or integers"),
        ({}, [SOUND, NAN], ["a", "b"], r"X\[1\] is empty or not finite"),
        ({}, [SOUND, SOUND[:0]], ["a", "b"], r"X\[1\] is empty"),
        ({}, [SOUND, 1e300 * SOUND], ["a", "b"], r"X\[1\] is empty or not finite"),
        ({}, [np.zeros(900, np.int16), SOUND], ["a", "b"], r"X\[0\] is int16 of shape \(900,\)"),
        ({}, [SOUND[None], SOUND], ["a", "b"], r"X\[0\] is float64 of shape \(1, 4000\)"),
        ({}, ["nowhere.wav"] * 10, ["a", "b"] * 5, r"nowhere\.wav: cannot be opened"),
        ({"sample_rate": None}, [SOUND] * 2, ["a", "b"], "sample_rate is None; expected the rate of the samples"),
        ({"sample_rate": 100}, [SOUND] * 2, ["a", "b"], "sample_rate is 100"),
        ({}, [SOUND] * 4, ["a", "b"] * 2, "too few to hold a fifth out; give more recordings, or validation=False"),
        ({"preset": "best"}, [SOUND] * 2, ["a", "b"], "preset is 'best'; expected one of default, paper"),
        ({"epochs": 0}, [SOUND] * 2, ["a", "b"], "setting epochs is 0"),
        ({"settings": {"layers": 3}}, [SOUND] * 2, ["a", "b"], "there is no setting 'layers'"),
        ({"settings": {"d_spec": 387}}, [SOUND] * 2, ["a", "b"], "setting d_spec is 387"),
        ({"threads": 0}, [SOUND] * 2, ["a", "b"], "threads is 0"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(parameters: dict[str, Any], X: Any, y: Any, words: str) -> None:
    with pytest.raises(ValueError, match=rf"^[^\n]*{words}[^\n]*$"):
        small(**parameters).fit(X, y)


def test_so_are_groups_of_another_length_and_a_classifier_that_is_not_fitted(fitted: EmotionClassifier, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^groups has shape \(3,\); expected \(2,\)"):
        small().fit([SOUND] * 2, ["a", "b"], groups=[1, 2, 3])
    for use in (lambda: small().predict([SOUND]), lambda: small().save(tmp_path / "m"), lambda: small().score([SOUND], ["a"])):
        with pytest.raises(ValueError, match=r"^this EmotionClassifier is not fitted; call fit first$"):
            use()
    with pytest.raises(ValueError, match=r"^X\[0\] is empty or not finite"):
        fitted.predict([NAN])
    with pytest.raises(ValueError, match=r"^y has shape \(2,\); expected \(1,\)"):
        fitted.score([SOUND], ["a", "b"])
    with pytest.raises(ValueError, match=r"^there is no parameter 'depth'; the parameters are preset, epochs"):
        small().set_params(depth=3)


# In scikit-learn's hands


@pytest.mark.skipif(UNCOMPILED, reason="the network of the presets is too slow without compilation")
def test_the_example_runs(corpus: Path, environment: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    command = [sys.executable, ROOT / "examples" / "scikit_learn.py", corpus, "2"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "precision" in done.stdout
    assert npser.load(tmp_path / "model.safetensors").emotions == ["angry", "sad"]


def test_a_clone_has_the_parameters_and_has_learnt_nothing(fitted: EmotionClassifier) -> None:
    base = pytest.importorskip("sklearn.base")
    twin = base.clone(fitted)
    assert twin.get_params() == fitted.get_params() == small().get_params()
    assert base.is_classifier(fitted)
    assert not hasattr(twin, "classes_")
    assert twin.set_params(epochs=7, seed=2) is twin
    assert (twin.epochs, twin.seed, fitted.epochs) == (7, 2, 3)


def test_every_speaker_is_tested_in_turn(paths: list[str], y: np.ndarray, speakers: np.ndarray) -> None:
    selection = pytest.importorskip("sklearn.model_selection")
    sessions = np.array([speaker[0] for speaker in speakers])
    arguments: dict[str, Any] = {"groups": sessions, "cv": selection.LeaveOneGroupOut()}
    scores = selection.cross_val_score(small(), paths, y, **arguments)
    assert scores.shape == (3,)
    assert scores.mean() > 0.8
    p = selection.cross_val_predict(small(), np.array(paths), y, method="predict_proba", **arguments)
    for k, session in enumerate("123"):
        tested = sessions == session
        assert (np.array(["angry", "sad"])[p[tested].argmax(axis=1)] == y[tested]).mean() == scores[k]
    same = selection.cross_val_score(small(), paths, y, n_jobs=2, **arguments)
    np.testing.assert_array_equal(same, scores)
    assert selection.cross_val_score(small(), paths, y, scoring="neg_log_loss", **arguments).max() < 0


def test_groups_reach_fit_when_they_are_named_twice_or_routed(paths: list[str], y: np.ndarray, speakers: np.ndarray) -> None:
    sklearn = pytest.importorskip("sklearn")
    selection = pytest.importorskip("sklearn.model_selection")
    arguments: dict[str, Any] = {"cv": selection.GroupKFold(2), "return_estimator": True}

    def methods(found: dict[str, Any]) -> set[str]:
        return {estimator.checkpoint_.training["split"]["method"] for estimator in found["estimator"]}

    cross_validate = selection.cross_validate
    assert methods(cross_validate(small(), paths, y, groups=speakers, **arguments)) == {"random"}
    named = cross_validate(small(), paths, y, groups=speakers, params={"groups": speakers}, **arguments)
    assert methods(named) == {"speaker groups"}
    with sklearn.config_context(enable_metadata_routing=True):
        routed = cross_validate(small(), paths, y, params={"groups": speakers}, **arguments)
        grid = selection.GridSearchCV(small(), {"epochs": [1]}, cv=arguments["cv"]).fit(paths, y, groups=speakers)
    assert methods(routed) == {"speaker groups"}
    assert grid.best_estimator_.checkpoint_.training["split"]["method"] == "speaker groups"


def test_a_grid_over_a_pipeline(waves: list[np.ndarray], y: np.ndarray) -> None:
    selection = pytest.importorskip("sklearn.model_selection")
    pipeline, preprocessing = pytest.importorskip("sklearn.pipeline"), pytest.importorskip("sklearn.preprocessing")
    louder = preprocessing.FunctionTransformer(lambda X: [2 * x for x in X])
    alone = small(settings=SMALL | {"statistics": False})  # the regression beside it is solved whatever the epochs and the rate
    steps = pipeline.Pipeline([("louder", louder), ("classifier", alone)])
    grid = {"classifier__epochs": np.array([1, 3]), "classifier__learning_rate": [1e-2, 1e-9]}
    search = selection.GridSearchCV(steps, grid, cv=selection.StratifiedKFold(2)).fit(waves, y)
    assert search.best_params_ == {"classifier__epochs": 3, "classifier__learning_rate": 1e-2}
    assert search.score(waves, y) > 0.8
    assert search.predict(waves).tolist() == steps.set_params(classifier__epochs=3).fit(waves, y).predict(waves).tolist()


def test_a_fitted_classifier_can_be_kept(fitted: EmotionClassifier, paths: list[str], tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    joblib.dump(fitted, tmp_path / "classifier.joblib")
    again = joblib.load(tmp_path / "classifier.joblib")
    np.testing.assert_array_equal(again.predict_proba(paths), fitted.predict_proba(paths))
    np.testing.assert_array_equal(again.classes_, fitted.classes_)

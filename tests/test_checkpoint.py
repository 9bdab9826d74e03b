"""A model file comes back as it was written, is written whole or not at all, and is refused in one sentence where damaged."""

import dataclasses
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from helpers import EMOTIONS, GENDERS, ROOT, SMALL

from npser import checkpoint, features, model
from npser.checkpoint import Checkpoint
from npser.files import lock, write
from npser.networks.li2019 import Config

TRIES = 200 if os.environ.get("NPSER_FUZZ") else 40


def made(config: Config = SMALL, emotions: list[str] | None = None, genders: list[str] | None = None) -> Checkpoint:
    """A network of random numbers."""
    emotions = EMOTIONS if emotions is None else emotions
    rng = np.random.default_rng(0)
    shapes = model.shapes_of(config, len(emotions), len(genders or []))
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    tensors["norm.mean"] = rng.normal(-40, 9, config.d_spec).astype(np.float32)
    tensors["norm.std"] = rng.uniform(1, 9, config.d_spec).astype(np.float32)
    return Checkpoint(tensors, config, {"emotion": emotions, "gender": genders}, 1.25, {"seed": 3, "corpora": ["ä"]})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A model file."""
    checkpoint.save(tmp_path / "model.safetensors", made(genders=GENDERS))
    return tmp_path / "model.safetensors"


def refusal(path: Path) -> str:
    """The sentence by which a file is refused."""
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        checkpoint.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


# Round trip


@pytest.mark.parametrize("genders", [None, GENDERS])
@pytest.mark.parametrize("attention", [True, False])
def test_what_is_loaded_is_what_was_saved(tmp_path: Path, genders: list[str] | None, attention: bool):
    saved = made(dataclasses.replace(SMALL, attention=attention), genders=genders)
    checkpoint.save(tmp_path / "a", saved)
    loaded = checkpoint.load(tmp_path / "a")
    assert loaded.tensors.keys() == saved.tensors.keys()
    for name, value in saved.tensors.items():
        assert loaded.tensors[name].dtype == np.float32
        np.testing.assert_array_equal(loaded.tensors[name], value)
    for field in ("config", "labels", "temperature", "training", "emotions", "genders", "shapes"):
        assert getattr(loaded, field) == getattr(saved, field)
    assert loaded.genders == (genders or [])


def test_the_same_network_gives_the_same_bytes_whatever_the_order_of_its_parts(tmp_path: Path):
    first = made(genders=GENDERS)
    tensors, training = (dict(reversed(part.items())) for part in (first.tensors, first.training))
    checkpoint.save(tmp_path / "a", first)
    checkpoint.save(tmp_path / "b", dataclasses.replace(first, tensors=tensors, training=training))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_loading_and_saving_gives_the_same_bytes(path: Path, tmp_path: Path):
    checkpoint.save(tmp_path / "again", checkpoint.load(path))
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_the_metadata_has_one_key_and_says_no_path_and_no_date(path: Path):
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    assert list(metadata) == ["npser"]
    about = json.loads(metadata["npser"])
    assert list(about) == sorted(about) == ["checksum", "config", "features", "format", "labels", "temperature", "training"]
    assert str(path.parent) not in metadata["npser"]


def test_arrays_that_are_not_contiguous_are_stored_rightly(tmp_path: Path):
    saved = made()
    strided = {name: np.repeat(value, 2, axis=-1)[..., ::2] for name, value in saved.tensors.items()}
    strided |= {name: np.asfortranarray(value) for name, value in saved.tensors.items() if name.startswith("lstm1")}
    assert not any(value.flags.c_contiguous for value in strided.values() if value.ndim > 1)
    checkpoint.save(tmp_path / "a", dataclasses.replace(saved, tensors=strided))
    for name, value in checkpoint.load(tmp_path / "a").tensors.items():
        np.testing.assert_array_equal(value, saved.tensors[name])


# Files that are no model files


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.5, 0.99999])
def test_a_truncated_file_is_refused(path: Path, share: float):
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert "damaged or not a model file" in refusal(path)


def test_a_file_with_something_after_its_end_is_refused(path: Path):
    path.write_bytes(path.read_bytes() + b"more")
    refusal(path)


@pytest.mark.parametrize("content", ["", "a letter\n" * 99, "{}", "\0" * 99])
def test_another_kind_of_file_is_refused(tmp_path: Path, content: str):
    (tmp_path / "a").write_text(content)
    assert "damaged or not a model file" in refusal(tmp_path / "a")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path):
    assert "there is no such file" in refusal(tmp_path / "a")
    assert "is a folder" in refusal(tmp_path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"npser": "{"}, {"npser": ""}])
def test_other_safetensors_are_refused(tmp_path: Path, metadata: dict[str, str] | None):
    (tmp_path / "a").write_bytes(safetensors.numpy.save({"w": np.zeros(3)}, metadata))
    assert "not one of npser's" in refusal(tmp_path / "a")


@pytest.mark.parametrize(("dtype", "size"), [("BF16", 2), ("F8_E4M3", 1)])
def test_safetensors_of_types_that_numpy_lacks_are_refused(tmp_path: Path, dtype: str, size: int):
    header = {"__metadata__": {"npser": "{}"}, "w": {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    (tmp_path / "a").write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))
    refusal(tmp_path / "a")


# Tensors that do not fit


def with_tensor(name: str, value: np.ndarray | None) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        tensors, about = checkpoint.read_tensors(path)
        changed = {key: old for key, old in (tensors | {name: value}).items() if old is not None}
        checkpoint.write_tensors(path, changed, about)

    return change


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("cnn1.b", None, "tensor cnn1.b is missing"),
        ("norm.std", None, "tensor norm.std is missing"),
        ("gender.W", None, "tensor gender.W is missing"),
        ("cnn3.b", np.zeros(4, np.float32), "tensor cnn3.b is not one of this network's"),
        ("cnn1.b", np.zeros(5, np.float32), "tensor cnn1.b has shape (5,); its config says (4,)"),
        ("cnn2.W", np.zeros((4, 4, 3), np.float32), "tensor cnn2.W has shape (4, 4, 3)"),
        ("norm.mean", np.zeros(128, np.float32), "tensor norm.mean has shape (128,)"),
        ("cnn1.b", np.array([0, 0, np.nan, 0], np.float32), "tensor cnn1.b is not all finite"),
        ("norm.mean", np.full(384, np.inf, np.float32), "tensor norm.mean is not all finite"),
        ("cnn1.b", np.zeros(4, np.float64), "tensor cnn1.b is not all finite float32"),
        ("cnn1.b", np.zeros(4, np.float16), "tensor cnn1.b is not all finite float32"),
        ("cnn1.b", np.zeros(4, np.int32), "tensor cnn1.b is not all finite float32"),
        ("norm.std", np.zeros(384, np.float32), "norm.std"),
        ("norm.std", np.full(384, -1, np.float32), "norm.std"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(path: Path, name: str, value: np.ndarray | None, words: str):
    with_tensor(name, value)(path)
    assert words in refusal(path)


# Metadata that are damaged


def rewrite(path: Path, about: Any) -> None:
    tensors, _ = checkpoint.read_tensors(path)
    path.write_bytes(safetensors.numpy.save(tensors, {"npser": json.dumps(about)}))


@pytest.mark.parametrize("about", [[], {}, None, 3, "text", [1, 2]])
def test_metadata_of_another_form_are_refused(path: Path, about: Any):
    rewrite(path, about)
    refusal(path)


@pytest.mark.parametrize("key", ["config", "features", "format", "labels", "temperature", "training"])
def test_metadata_that_lack_something_are_refused(path: Path, key: str):
    _, about = checkpoint.read_tensors(path)
    del about[key]
    rewrite(path, about)
    refusal(path)


CONFIG = dataclasses.asdict(SMALL)
SCORES = {"wa": 0.5, "ua": 0.5, "macro_f1": 0.5, "gender_accuracy": None, "confusion": [[1] * 4] * 4}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 2),
        ("format", "1"),
        ("features", {"sample_rate": 8000}),
        ("config", []),
        ("config", None),
        ("config", CONFIG | {"unknown": 1}),
        ("config", CONFIG | {"d_lstm": "4"}),
        ("config", CONFIG | {"d_lstm": 0}),
        ("config", CONFIG | {"d_lstm": 5}),
        ("config", CONFIG | {"d_lstm": 10**15}),
        ("labels", None),
        ("labels", []),
        ("labels", EMOTIONS),
        ("labels", "angry"),
        ("labels", {}),
        ("labels", {"emotion": EMOTIONS}),
        ("labels", {"emotion": [], "gender": GENDERS}),
        ("labels", {"emotion": None, "gender": GENDERS}),
        ("labels", {"emotion": ["angry"], "gender": GENDERS}),
        ("labels", {"emotion": "four", "gender": GENDERS}),
        ("labels", {"emotion": 4, "gender": GENDERS}),
        ("labels", {"emotion": [1, 2, 3, 4], "gender": GENDERS}),
        ("labels", {"emotion": [["a"], ["b"], ["c"], ["d"]], "gender": GENDERS}),
        ("labels", {"emotion": {"a": 0, "b": 1, "c": 2, "d": 3}, "gender": GENDERS}),
        ("labels", {"emotion": ["sad", "sad", "sad", "sad"], "gender": GENDERS}),
        ("labels", {"emotion": EMOTIONS, "gender": "fm"}),
        ("labels", {"emotion": EMOTIONS, "gender": None}),
        ("temperature", "warm"),
        ("temperature", None),
        ("temperature", 0),
        ("temperature", -1.0),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", 1e-300),
        ("temperature", 10**400),
        ("temperature", True),
        ("config", CONFIG | {"seed": 10**400}),
        ("config", CONFIG | {"alpha": 10**400}),
        ("config", CONFIG | {"max_seconds": 1e300}),
        ("config", CONFIG | {"n_pw": 10**12}),
        ("labels", {"emotion": ["a", "b", "c", "half \ud800"], "gender": GENDERS}),
        ("training", None),
        ("training", []),
        ("training", "text"),
        ("training", {"notices": None}),
        ("training", {"notices": "one letter a note"}),
        ("training", {"notices": 3}),
        ("training", {"notices": [7]}),
        ("training", {"speakers": {"a": 1}}),
        ("training", {"speakers": [None]}),
        ("training", {"corpora": "emodb"}),
        ("training", {"preset": ["default"]}),
        ("training", {"seed": "0"}),
        ("training", {"licence": 1}),
        ("training", {"versions": ["numpy"]}),
        ("training", {"versions": {"numpy": 2}}),
        ("training", {"split": None}),
        ("training", {"split": {"method": "session", "hash": 5, "test_session": None, "validation_session": None}}),
        ("training", {"split": {"method": "session", "hash": ""}}),
        ("training", {"scores": []}),
        ("training", {"scores": {"epoch": "last"}}),
        ("training", {"scores": {"epoch": 1, "test": {"wa": 1}}}),
        ("training", {"scores": {"epoch": 1, "test": SCORES | {"wa": None}}}),
        ("training", {"scores": {"epoch": 1, "test": SCORES | {"confusion": [[1]]}}}),
        ("training", {"scores": {"epoch": 1, "test": SCORES | {"confusion": [["1"] * 4] * 4}}}),
        ("training", {"scores": {"epoch": 1, "test": SCORES | {"ua": float("nan")}}}),
        ("training", {"scores": {"epoch": 1, "calibration": {"temperature": 1}}}),
        ("training", {"own": float("-inf")}),
        ("training", {"own": 2**63}),
        ("labels", {"emotion": [str(k) for k in range(1001)], "gender": None}),
        ("training", {"own": json.loads("[" * 21 + "]" * 21)}),
    ],
)
def test_metadata_that_make_no_sense_are_refused(path: Path, key: str, value: Any):
    _, about = checkpoint.read_tensors(path)
    rewrite(path, about | {key: value})
    refusal(path)


def test_what_is_not_read_of_the_training_may_have_any_form(path: Path):
    _, about = checkpoint.read_tensors(path)
    split = {"method": "session", "hash": "", "test_session": None, "validation_session": "a/1", "own": [{}]}
    scores = {"epoch": 1, "test": SCORES, "validation": None, "calibration": None, "own": {"ä": [None]}}
    training = {"split": split, "scores": scores, "notices": [], "own": json.loads("[" * 15 + "]" * 15)}
    rewrite(path, about | {"training": training})
    assert checkpoint.load(path).training == training


DEEP, MAPS, DIGITS, LARGE = "[" * 100_000 + "]" * 100_000, '{"a":' * 100_000, f'{{"seed": {"9" * 5000}}}', " " * (17 << 20)


@pytest.mark.parametrize("text", [DEEP, MAPS, DIGITS, LARGE], ids=["deep", "maps", "digits", "large"])
def test_json_that_is_too_deep_or_too_large_is_refused(path: Path, text: str):
    tensors, _ = checkpoint.read_tensors(path)
    path.write_bytes(safetensors.numpy.save(tensors, {"npser": text}))
    assert len(refusal(path)) < 500


def test_a_sentence_about_a_huge_value_is_short(path: Path):
    _, about = checkpoint.read_tensors(path)
    many = ["x"] * 10**5
    for changed in ({"format": "x" * 10**6}, {"features": many}, {"labels": {"emotion": many, "gender": None}}):
        rewrite(path, about | changed)
        assert len(refusal(path)) < 700


def test_a_model_file_says_its_level_and_an_older_one_has_todays(tmp_path: Path):
    path = tmp_path / "model"
    checkpoint.save(path, made(dataclasses.replace(SMALL, level=True)))
    _, about = checkpoint.read_tensors(path)
    assert about["features"].pop("level_db") == features.LEVEL_DB
    rewrite(path, about)
    assert checkpoint.load(path).config.level
    rewrite(path, about | {"features": about["features"] | {"level_db": -20.0}})
    assert "'level_db': -20.0" in refusal(path)
    checkpoint.save(path, made(SMALL))
    assert "level_db" not in checkpoint.read_tensors(path)[1]["features"]


@pytest.mark.parametrize("emotions", [[], ["sad"]])
def test_a_network_of_fewer_than_two_classes_is_refused_though_its_shapes_agree(tmp_path: Path, emotions: list[str]):
    checkpoint.save(tmp_path / "a", made(emotions=emotions))
    refusal(tmp_path / "a")


def test_a_file_that_is_older_than_a_setting_has_its_default(path: Path):
    _, about = checkpoint.read_tensors(path)
    del about["config"]["splice"]
    rewrite(path, about)
    assert checkpoint.load(path).config.splice == 0


def test_a_network_of_more_bands_than_there_are_is_refused(path: Path):
    _, about = checkpoint.read_tensors(path)
    about["config"]["d_spec"] = 387
    rewrite(path, about)
    assert "d_spec is 387" in refusal(path)


# Damage


@pytest.mark.parametrize("seed", range(2))
def test_no_flipped_bit_of_a_file_changes_what_it_says(path: Path, seed: int):
    whole, (tensors, about), rng = path.read_bytes(), checkpoint.read_tensors(path), np.random.default_rng(seed)
    text = whole.index(b'{"') + 2000  # half of the bits are in the text of the file
    refused = 0
    for k in range(TRIES):
        content = bytearray(whole)
        content[rng.integers(text if k % 2 else len(whole))] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        try:
            found, said = checkpoint.read_tensors(path)
        except ValueError:
            refused += 1
        else:
            assert {name: said[name] for name in about} == about
            assert found.keys() == tensors.keys()
            for name, value in tensors.items():
                np.testing.assert_array_equal(found[name], value)
    assert refused > 0.9 * TRIES


def test_a_file_of_an_earlier_version_has_no_checksum_and_is_read(path: Path):
    tensors, about = checkpoint.read_tensors(path)
    path.write_bytes(safetensors.numpy.save(tensors, {"npser": json.dumps(about)}))
    assert checkpoint.load(path).config == SMALL
    tensors["emotion.b"] = tensors["emotion.b"] + 1
    path.write_bytes(safetensors.numpy.save(tensors, {"npser": json.dumps(about | {"checksum": "0" * 64})}))
    assert "checksum" in refusal(path)


# Writing


def test_what_a_killed_writer_left_goes_and_what_a_living_one_holds_stays(path: Path):
    dead, other = path.with_name(f".{path.name}-0123456789abcdef"), path.with_name(".notes-0123456789abcdef")
    alive = path.with_name(f".{path.name}-fedcba9876543210")
    for file in (dead, other, alive):
        file.touch()
    with lock(alive):
        checkpoint.save(path, made())
    assert sorted(file.name for file in path.parent.iterdir()) == sorted([alive.name, other.name, path.name])


def test_a_lock_that_is_held_is_waited_for_or_refused(tmp_path: Path):
    with lock(tmp_path / ".lock"):
        with (
            pytest.raises(ValueError, match="another npser is at work there; wait for it") as caught,
            lock(tmp_path / ".lock", wait=False),
        ):
            pass
        assert str(caught.value).startswith(f"{tmp_path}: ")
    with lock(tmp_path / ".lock", wait=False):
        pass


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from npser import checkpoint, features, model

path = Path(sys.argv[1])
saved = checkpoint.load(path)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write then fails with EFBIG instead of ending the process
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    checkpoint.save(path, saved)
except ValueError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_old_file_whole_and_no_other(path: Path):
    before = path.read_bytes()
    assert len(before) > 5000
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{path}: cannot be written (File too large)")
    assert done.stdout.count("\n") == 1
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_cannot_be_flushed_does_not_undo_a_file(path: Path, monkeypatch: pytest.MonkeyPatch):
    flush, flushed = os.fsync, []

    def refused(descriptor: int) -> None:
        flushed.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        if flushed[-1]:
            raise OSError(22, "Invalid argument")  # as some network file systems say
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", refused)
    saved = made(genders=GENDERS, emotions=["a", "b", "c", "d"])
    checkpoint.save(path, saved)
    assert flushed == [False, True]
    assert checkpoint.load(path).emotions == saved.emotions


def test_an_interrupted_write_leaves_the_old_file_whole_and_no_other(path: Path, monkeypatch: pytest.MonkeyPatch):
    before = path.read_bytes()

    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, made())
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_file_is_safely_on_disk_before_it_has_its_name_and_then_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    done = []
    fsync, rename = os.fsync, os.replace

    def watched(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else os.fstat(descriptor).st_size)
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        done.append(target.name)
        rename(source, target)

    monkeypatch.setattr(os, "fsync", watched)
    monkeypatch.setattr(os, "replace", renamed)
    write(tmp_path / "a.bin", b"12345")
    assert done == [5, "a.bin", "folder"]


@pytest.mark.parametrize("name", ["nowhere/model.safetensors", "file/model.safetensors", "folder"])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, name: str):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        checkpoint.save(tmp_path / name, made())
    assert str(caught.value).startswith(f"{tmp_path / name}: cannot be written (")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_umask_says_who_may_read_a_file(tmp_path: Path, umask: int, mode: int):
    before = os.umask(umask)
    try:
        checkpoint.save(tmp_path / "a", made())
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode

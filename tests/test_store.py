"""Features are computed once, found again by content and settings, and survive bad files, full caches and rivals."""

import functools
import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from helpers import ROOT, recording, sound

from npser import features
from npser.corpora import Corpus, Utterance
from npser.dataset import Dataset, prepare
from npser.features import log_mel_kind
from npser.inputs import with_deltas
from npser.network import normaliser
from npser.networks.li2019 import Config
from npser.store import Store, computed, default_cache, digest_of, digests, open_store

SECONDS = 0.5  # of a window
TRIES = 200 if os.environ.get("NPSER_FUZZ") else 24
KIND, SMALL = log_mel_kind(SECONDS, False, False), Config(pad=False, max_seconds=SECONDS)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def recordings(folder: Path, *lengths: int) -> list[Path]:
    """Recordings 0.wav, 1.wav ... of so many samples at 16 kHz."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{i}.wav" for i in range(len(lengths))]
    for i, (path, n) in enumerate(zip(paths, lengths, strict=True)):
        soundfile.write(path, sound(n, i), 16_000)
    return paths


def known(paths: Sequence[Path], pool: ThreadPoolExecutor) -> list[str]:
    content = digests(paths, pool)
    assert all(content)
    return [digest or "" for digest in content]


def opened(paths: Sequence[Path], cache: Path, pool: ThreadPoolExecutor, pad: bool = False, seconds: float = SECONDS) -> Store:
    return open_store(paths, known(paths, pool), log_mel_kind(seconds, pad, False), cache, pool)


def folders(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if path.is_dir())


# Rows and bounds


def test_windows_and_recordings_are_rows_between_bounds(tmp_path: Path, pool: ThreadPoolExecutor):
    lengths = 1, 399, 400, 3200, 8000, 8001, 20_000  # a window is 8000 samples, the next begins 4000 later
    paths = recordings(tmp_path / "wav", *lengths)
    store = opened(paths, tmp_path / "cache", pool)
    assert store.errors == {}
    assert store.recordings.tolist() == [0, 1, 2, 3, 4, 5, 7, 11]
    assert store.samples.tolist() == [1, 399, 400, 3200, 8000, 8000, 4001, 8000, 8000, 8000, 8000]
    np.testing.assert_array_equal(np.diff(store.bounds), store.samples // 400 + 1)
    np.testing.assert_array_equal(store.frames(np.arange(11)), store.samples // 400 + 1)
    waves = [x for path in paths for x in features.read_windows(path, SECONDS, cut=False)]
    np.testing.assert_array_equal(store.rows, np.concatenate([features.log_mel(x) for x in waves]))


def test_a_padded_store_keeps_one_window_a_recording_and_the_rows_that_touch_sound(tmp_path: Path, pool: ThreadPoolExecutor):
    store = opened(recordings(tmp_path / "wav", 1, 400, 401, 8000, 20_000), tmp_path / "cache", pool, pad=True)
    assert store.recordings.tolist() == [0, 1, 2, 3, 4, 5]
    assert store.samples.tolist() == [1, 400, 401, 8000, 8000]
    assert np.diff(store.bounds).tolist() == [2, 2, 3, 21, 21]
    assert store.frames(np.arange(5)).tolist() == [21] * 5


def test_a_batch_holds_its_windows_in_the_order_asked_for(tmp_path: Path, pool: ThreadPoolExecutor):
    store = opened(recordings(tmp_path / "wav", 900, 5000, 3600), tmp_path / "cache", pool)
    rng = np.random.default_rng(0)
    mean, scale = rng.normal(size=(2, 384)).astype(np.float32)
    X, bounds = with_deltas(store, np.array([2, 0, 2]), mean, scale)
    assert bounds.tolist() == [0, 10, 13, 23]
    for u, w in enumerate([2, 0, 2]):
        alone, _ = with_deltas(store, np.array([w]), mean, scale)
        np.testing.assert_array_equal(X[bounds[u] : bounds[u + 1]], alone)
    static = store.rows[store.bounds[2] : store.bounds[3]]
    np.testing.assert_allclose(X[:10, :128], (static - mean[:128]) * scale[:128], rtol=1e-5, atol=1e-5)


def test_a_batch_of_fewer_bands_holds_the_lowest_at_one_level(tmp_path: Path, pool: ThreadPoolExecutor):
    store = opened(recordings(tmp_path / "wav", 900, 5000), tmp_path / "cache", pool)
    zero, one = np.zeros(297, np.float32), np.ones(297, np.float32)
    X, bounds = with_deltas(store, np.array([1, 0]), zero, one, level=True)
    whole, _ = with_deltas(store, np.array([1, 0]), np.zeros(384, np.float32), np.ones(384, np.float32))
    for kind in (1, 2):  # deltas do not know the level
        lowest = whole[:, 128 * kind : 128 * kind + 99]
        np.testing.assert_allclose(X[:, 99 * kind : 99 * kind + 99], lowest, atol=1e-4)
    for u in range(2):
        S, before = X[bounds[u] : bounds[u + 1], :99], whole[bounds[u] : bounds[u + 1], :99]
        np.testing.assert_allclose(S, features.heard_bands(before, 99, level=True), atol=1e-4)
    mean, std = normaliser(store, np.array([1, 0]), pool, replace(SMALL, d_spec=297, level=True))
    np.testing.assert_allclose(mean, X.mean(axis=0), atol=0.5)  # of the frames in real audio
    assert std.shape == (297,)


# The cache


def test_the_second_opening_reads_no_audio(tmp_path: Path, pool: ThreadPoolExecutor):
    paths = recordings(tmp_path / "wav", 900, 12_000)
    content = known(paths, pool)
    first = open_store(paths, content, KIND, tmp_path / "cache", pool)
    for path in paths:
        path.unlink()
    second = open_store(paths, content, KIND, tmp_path / "cache", pool)
    for name in ("rows", "bounds", "samples", "recordings"):
        np.testing.assert_array_equal(getattr(second, name), getattr(first, name))
    assert len(folders(tmp_path / "cache")) == 1


def test_the_cache_knows_files_by_their_content(tmp_path: Path, pool: ThreadPoolExecutor):
    paths = recordings(tmp_path / "wav", 900, 1200)
    opened(paths, tmp_path / "cache", pool)
    renamed = paths[0].rename(tmp_path / "another name.wav")
    opened([renamed, paths[1]], tmp_path / "cache", pool)
    assert len(folders(tmp_path / "cache")) == 1
    soundfile.write(renamed, sound(901), 16_000)
    assert opened([renamed, paths[1]], tmp_path / "cache", pool).samples.tolist() == [901, 1200]
    assert len(folders(tmp_path / "cache")) == 2


def test_settings_and_order_have_stores_of_their_own(tmp_path: Path, pool: ThreadPoolExecutor):
    paths = recordings(tmp_path / "wav", 900, 12_000)
    assert opened(paths, tmp_path / "cache", pool).samples.tolist() == [900, 8000, 8000]
    assert opened(paths, tmp_path / "cache", pool, seconds=0.25).samples.tolist() == [900, *[4000] * 5]
    assert opened(paths, tmp_path / "cache", pool, pad=True).samples.tolist() == [900, 8000]
    assert opened(paths[::-1], tmp_path / "cache", pool).samples.tolist() == [8000, 8000, 900]
    assert len(folders(tmp_path / "cache")) == 4
    levelled = open_store(paths, known(paths, pool), log_mel_kind(SECONDS, False, True), tmp_path / "cache", pool)
    assert np.abs(levelled.rows - opened(paths, tmp_path / "cache", pool).rows).max() > 1
    assert len(folders(tmp_path / "cache")) == 5


def test_writing_to_the_rows_does_not_change_the_cache(tmp_path: Path, pool: ThreadPoolExecutor):
    paths = recordings(tmp_path / "wav", 900)
    opened(paths, tmp_path / "cache", pool).rows[:] = 7
    assert not (opened(paths, tmp_path / "cache", pool).rows == 7).any()


@pytest.mark.parametrize("name", ["rows.f32", "index.json"])
def test_a_damaged_cache_is_computed_anew_and_says_so(tmp_path: Path, pool: ThreadPoolExecutor, name: str):
    paths = recordings(tmp_path / "wav", 900, 12_000)
    expected = opened(paths, tmp_path / "cache", pool).rows.copy()
    (folder,) = folders(tmp_path / "cache")
    os.truncate(folder / name, (folder / name).stat().st_size // 2)  # as after a crash
    with pytest.warns(UserWarning, match="is damaged; its features are computed anew"):
        np.testing.assert_array_equal(opened(paths, tmp_path / "cache", pool).rows, expected)
    np.testing.assert_array_equal(opened(paths, tmp_path / "cache", pool).rows, expected)  # without a word


def test_no_flipped_bit_of_a_cache_changes_what_it_gives(tmp_path: Path, pool: ThreadPoolExecutor):
    paths = recordings(tmp_path / "wav", 900, 12_000)
    expected = opened(paths, tmp_path / "cache", pool)
    rows, rng = expected.rows.copy(), np.random.default_rng(0)
    (folder,) = folders(tmp_path / "cache")
    for k in range(TRIES):
        path = folder / ("index.json" if k % 2 else "rows.f32")
        content = bytearray(path.read_bytes())
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* is damaged; its features are computed anew")
            store = opened(paths, tmp_path / "cache", pool)
        np.testing.assert_array_equal(store.rows, rows)
        for name in ("bounds", "samples", "recordings", "levels"):
            np.testing.assert_array_equal(getattr(store, name), getattr(expected, name))


def test_a_recording_that_changes_while_it_is_read_is_not_kept(
    tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
):
    paths = recordings(tmp_path / "wav", 900, 12_000)
    content, before, read = known(paths, pool), paths[1].read_bytes(), features.read_windows

    def changing(path: Path, seconds: float, cut: bool):
        if path == paths[1]:
            soundfile.write(path, sound(5000), 16_000)
        return read(path, seconds, cut)

    monkeypatch.setattr(features, "read_windows", changing)
    store = open_store(paths, content, KIND, tmp_path / "cache", pool)
    assert list(store.errors.items()) == [(1, "changed while it was read; run again when it is complete")]
    monkeypatch.undo()
    paths[1].write_bytes(before)
    assert open_store(paths, content, KIND, tmp_path / "cache", pool).samples.tolist() == [900, 8000, 8000]


def test_an_error_is_not_remembered(tmp_path: Path, pool: ThreadPoolExecutor):
    paths = recordings(tmp_path / "wav", 900, 12_000)
    content = known(paths, pool)
    paths[0].rename(tmp_path / "away")  # as by a disk that is gone for a moment
    assert sorted(open_store(paths, content, KIND, tmp_path / "cache", pool).errors) == [0]
    (tmp_path / "away").rename(paths[0])
    store = open_store(paths, content, KIND, tmp_path / "cache", pool)
    assert store.errors == {}
    fresh = open_store(paths, content, KIND, tmp_path / "another", pool)
    for name in ("rows", "bounds", "samples", "recordings", "levels"):
        np.testing.assert_array_equal(getattr(store, name), getattr(fresh, name))


def test_what_another_store_holds_is_not_computed_again(
    tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
):
    paths = recordings(tmp_path / "wav", 900, 12_000, 7000, 500)
    fresh = opened(paths, tmp_path / "fresh", pool)
    opened([paths[1], paths[0]], tmp_path / "cache", pool)
    opened(paths[1:3], tmp_path / "cache", pool)
    read, asked = features.read_windows, []

    def watched(path: Path, seconds: float, cut: bool):
        asked.append(path)
        return read(path, seconds, cut)

    monkeypatch.setattr(features, "read_windows", watched)
    store = opened(paths, tmp_path / "cache", pool)
    assert asked == [paths[3]]
    for name in ("rows", "bounds", "samples", "recordings", "levels"):
        np.testing.assert_array_equal(getattr(store, name), getattr(fresh, name))


def test_a_long_recording_waits_on_disk(tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch):
    paths = recordings(tmp_path / "wav", 60_000, 900)
    expected = opened(paths, tmp_path / "fresh", pool).rows
    monkeypatch.setattr("npser.store.HELD", 3 * 21 * 512)  # three windows
    np.testing.assert_array_equal(opened(paths, tmp_path / "cache", pool).rows, expected)
    (folder,) = folders(tmp_path / "cache")
    assert sorted(path.name for path in folder.iterdir()) == ["index.json", "rows.f32"]


def test_levels_are_those_of_the_waveform(tmp_path: Path, pool: ThreadPoolExecutor):
    (tmp_path / "wav").mkdir()
    paths = [tmp_path / "wav" / f"{k}.wav" for k in range(3)]
    for path, x in zip(paths, (np.full(900, 0.1), np.zeros(900), np.sin(np.arange(8000) * 0.3)), strict=True):
        soundfile.write(path, x, 16_000, subtype="FLOAT")
    levelled = open_store(paths, known(paths, pool), log_mel_kind(SECONDS, False, True), tmp_path / "cache", pool)
    np.testing.assert_allclose(levelled.levels, [-20, -100, -3.01], atol=0.01)


def test_of_two_threads_that_ask_at_once_one_computes(tmp_path: Path):
    paths = recordings(tmp_path / "wav", 900, 12_000, 7000)
    computed: list[int] = []

    def progress(items, **_):
        computed.append(1)
        return items

    def open_one(_: int) -> Store:
        with ThreadPoolExecutor(1) as own:
            content = known(paths, own)
            ready.wait()
            return open_store(paths, content, KIND, tmp_path / "cache", own, progress)

    ready = threading.Barrier(4)
    with ThreadPoolExecutor(4) as rivals:
        stores = list(rivals.map(open_one, range(4)))
    assert len(computed) == len(folders(tmp_path / "cache")) == 1
    for store in stores:
        np.testing.assert_array_equal(store.rows, stores[0].rows)


RIVAL = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from npser.features import log_mel_kind
from npser.store import digests, open_store

cache, *paths = map(Path, sys.argv[1:])
with ThreadPoolExecutor(1) as pool:
    store = open_store(paths, digests(paths, pool), log_mel_kind(0.5, False, False), cache, pool)
print(len(store.rows), store.rows.sum())
"""


def test_processes_that_ask_at_once_end_with_one_store(tmp_path: Path):
    paths = recordings(tmp_path / "wav", 900, 12_000, 7000)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    command = [sys.executable, "-c", RIVAL, tmp_path / "cache", *paths]
    rivals = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = {rival.communicate(timeout=120)[0] for rival in rivals}
    assert [rival.returncode for rival in rivals] == [0, 0]
    assert len(answers) == len(folders(tmp_path / "cache")) == 1


def test_an_interrupted_computation_leaves_nothing_that_counts(tmp_path: Path, pool: ThreadPoolExecutor):
    paths = recordings(tmp_path / "wav", 900, 12_000)

    def interrupted(items, **_):
        yield next(iter(items))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_store(paths, known(paths, pool), KIND, tmp_path / "cache", pool, interrupted)
    assert folders(tmp_path / "cache") == []
    assert len(opened(paths, tmp_path / "cache", pool).samples) == 3


def test_bad_recordings_have_no_windows_and_a_reason(tmp_path: Path, pool: ThreadPoolExecutor):
    paths = recordings(tmp_path / "wav", 900, 900, 9000, 900)
    paths[1].write_text("no sound")
    soundfile.write(paths[3], np.zeros(0), 16_000)
    for _ in range(2):  # computed, then found
        store = opened(paths, tmp_path / "cache", pool)
        assert store.recordings.tolist() == [0, 1, 1, 3, 3]
        assert sorted(store.errors) == [1, 3]
        assert "is not an audio file" in store.errors[1]
        assert store.errors[3].endswith("holds no samples")


def test_a_store_of_bad_recordings_only_is_empty(tmp_path: Path, pool: ThreadPoolExecutor):
    path = tmp_path / "a.wav"
    path.write_text("no sound")
    store = opened([path], tmp_path / "cache", pool)
    assert store.rows.shape == (0, 128)
    assert store.recordings.tolist() == [0, 0]


@pytest.mark.parametrize("below", ["", "npser"])
def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(tmp_path: Path, pool: ThreadPoolExecutor, below: str):
    (tmp_path / "file").touch()
    cache = tmp_path / "file" / below
    with pytest.raises(ValueError, match=r"^[^\n]+--cache[^\n]*$") as caught:
        opened(recordings(tmp_path / "wav", 900), cache, pool)
    assert str(caught.value).startswith(f"{cache}: ")


def test_the_cache_is_where_the_xdg_rules_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == tmp_path / "xdg" / "npser"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "npser"


def test_digests_are_of_the_content_and_none_where_there_is_none(tmp_path: Path, pool: ThreadPoolExecutor):
    (tmp_path / "a").write_bytes(b"abc")
    found = digests([tmp_path / "a", tmp_path / "missing", tmp_path], pool)
    assert found == ["ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", None, None]


# A corpus joined with its features


def corpus_of(folder: Path, good: int, bad: int = 0, missing: int = 0) -> Corpus:
    """Recordings of angry women and sad men in turn, bad ones last."""
    paths = recordings(folder, *([4800] * good))
    for i in range(good, good + bad):
        paths.append(folder / f"{i}.wav")
        paths[-1].write_text(f"no sound {i}")
    emotions, genders = ("angry", "sad"), ("female", "male")
    utterances = [Utterance(path, emotions[i % 2], "test", gender=genders[i % 2]) for i, path in enumerate(paths)]
    return Corpus(utterances, ["angry", "sad"], {}, ["test"], [str(folder / f"missing {i}.wav") for i in range(missing)])


def prepared(corpus: Corpus, cache: Path, pool: ThreadPoolExecutor, skip_bad: bool = False, config: Config = SMALL) -> Dataset:
    return prepare(corpus, config, cache, pool, lambda items, **_: items, skip_bad)


def test_utterances_are_joined_with_their_features(tmp_path: Path, pool: ThreadPoolExecutor):
    corpus = corpus_of(tmp_path / "wav", 8)
    soundfile.write(tmp_path / "wav" / "3.wav", sound(15_000), 16_000)
    data = prepared(corpus, tmp_path / "cache", pool)
    assert data.content == known([u.path for u in data.utterances], pool)
    assert data.bad == {}
    for r, utterance in enumerate(data.utterances):
        i = int(utterance.path.stem)
        assert (data.emotion_y[r], data.gender_y[r]) == (i % 2, i % 2)
        first, end = data.store.recordings[r : r + 2]
        assert data.store.samples[first:end].tolist() == ([8000, 8000, 7000] if i == 3 else [4800])
        assert data.first_windows(np.array([r])).tolist() == [first]
        assert data.seconds([r]) == (15_000 if i == 3 else 4800) / 16_000


def test_the_order_of_the_listing_does_not_show(tmp_path: Path, pool: ThreadPoolExecutor):
    corpus = corpus_of(tmp_path / "wav", 10)
    corpus.utterances.append(Utterance(tmp_path / "wav" / "copy.wav", "angry", "test"))
    corpus.utterances[-1].path.write_bytes(corpus.utterances[0].path.read_bytes())
    with pytest.warns(UserWarning, match=r"0\.wav and .*copy\.wav are byte-identical"):
        first = prepared(corpus, tmp_path / "cache", pool)
    for seed in range(5):
        np.random.default_rng(seed).shuffle(corpus.utterances)  # pyright: ignore[reportArgumentType]
        with pytest.warns(UserWarning, match="byte-identical"):
            again = prepared(corpus, tmp_path / "cache", pool)
        assert again.utterances == first.utterances
        np.testing.assert_array_equal(again.store.rows, first.store.rows)
    assert len(folders(tmp_path / "cache")) == 1


def test_the_order_of_the_listing_does_not_show_where_name_and_content_are_the_same(tmp_path: Path, pool: ThreadPoolExecutor):
    for speaker in "ab":
        recordings(tmp_path / speaker, 4800)
    same = [Utterance(tmp_path / s / "0.wav", "sad", "test", speaker=f"test/{s}") for s in "ab"]
    with pytest.warns(UserWarning, match="byte-identical"):
        orders = [prepared(Corpus(u, ["sad"], {}, ["test"]), tmp_path / "cache", pool).utterances for u in (same, same[::-1])]
    assert orders[0] == orders[1]


def test_up_to_a_twentieth_of_the_files_may_be_lost_and_each_is_named(tmp_path: Path, pool: ThreadPoolExecutor):
    with pytest.warns(UserWarning, match="left out") as caught:
        data = prepared(corpus_of(tmp_path / "wav", 38, bad=1, missing=1), tmp_path / "cache", pool)
    texts = sorted(str(warning.message) for warning in caught)
    bad, missing = str(tmp_path / "wav" / "38.wav"), str(tmp_path / "wav" / "missing 0.wav")
    assert texts == [
        f"left out: {bad}: is not an audio file that can be read; wav, flac, ogg and mp3 can",
        f"left out: {missing}: does not exist",
    ]
    assert sorted(data.bad) == [bad, missing]
    assert len(data.utterances) == len(data.content) == 38
    assert data.store.recordings.tolist() == list(range(39))


def test_a_file_that_cannot_be_opened_is_left_out(tmp_path: Path, pool: ThreadPoolExecutor):
    corpus = corpus_of(tmp_path / "wav", 40)
    corpus.utterances[7].path.unlink()
    with pytest.warns(UserWarning, match=r"left out: .*/7\.wav: cannot be read"):
        data = prepared(corpus, tmp_path / "cache", pool)
    assert len(data.utterances) == 39


def test_a_bad_file_that_was_renamed_is_named_as_it_is_called_now(tmp_path: Path, pool: ThreadPoolExecutor):
    for name in ("before", "now"):
        folder = tmp_path / "wav" if name == "before" else (tmp_path / "wav").rename(tmp_path / "moved")
        utterances = corpus_of(folder, 40).utterances
        utterances[0].path.write_text("no sound")
        with pytest.warns(UserWarning, match="left out") as caught:
            prepared(Corpus(utterances, ["angry", "sad"], {}, ["test"]), tmp_path / "cache", pool)
    assert [str(warning.message).count(str(tmp_path)) for warning in caught] == [1]
    assert str(caught[0].message).startswith(f"left out: {tmp_path / 'moved' / '0.wav'}: is not an audio file")
    assert len(folders(tmp_path / "cache")) == 1


def test_more_than_a_twentieth_lost_stops_unless_told_to_go_on(tmp_path: Path, pool: ThreadPoolExecutor):
    corpus = corpus_of(tmp_path / "wav", 35, bad=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "left out")
        with pytest.raises(ValueError, match=r"^2 of 37 files cannot be used[^\n]+--skip-bad$") as caught:
            prepared(corpus, tmp_path / "cache", pool)
        assert "35.wav: is not an audio file" in str(caught.value) or "36.wav: is not an audio file" in str(caught.value)
        assert len(prepared(corpus, tmp_path / "cache", pool, skip_bad=True).utterances) == 35


def test_dropping_a_bad_recording_moves_no_other_windows(tmp_path: Path, pool: ThreadPoolExecutor):
    corpus = corpus_of(tmp_path / "wav", 4, bad=3)
    for i in range(4):
        soundfile.write(corpus.utterances[i].path, sound(4800 + 7500 * i), 16_000)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "left out")
        data = prepared(corpus, tmp_path / "cache", pool, skip_bad=True)
    for r, utterance in enumerate(data.utterances):
        waves = features.read_windows(utterance.path, SECONDS, cut=False)
        found = data.store.samples[data.store.recordings[r] : data.store.recordings[r + 1]]
        assert found.tolist() == [len(x) for x in waves]


def test_a_class_that_is_lost_stops_even_where_bad_files_are_skipped(tmp_path: Path, pool: ThreadPoolExecutor):
    corpus = corpus_of(tmp_path / "wav", 4)
    for utterance in corpus.utterances[1::2]:
        utterance.path.write_text("no sound")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "left out")
        with pytest.raises(ValueError, match=r"^no usable file is left of class 'sad'[^\n]+--labels$"):
            prepared(corpus, tmp_path / "cache", pool, skip_bad=True)


def test_a_corpus_without_a_usable_file_is_refused(tmp_path: Path, pool: ThreadPoolExecutor):
    corpus = corpus_of(tmp_path / "wav", 0, bad=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "left out")
        with pytest.raises(ValueError, match="2 of 2 files cannot be used"):
            prepared(corpus, tmp_path / "cache", pool)


def test_the_index_in_the_cache_is_plain_json(tmp_path: Path, pool: ThreadPoolExecutor):
    opened(recordings(tmp_path / "wav", 900), tmp_path / "cache", pool)
    (folder,) = folders(tmp_path / "cache")
    assert sorted(path.name for path in folder.iterdir()) == ["index.json", "rows.f32"]
    assert json.loads((folder / "index.json").read_text())["index"]["samples"] == [900]


def test_a_bad_recording_costs_no_second_copy_and_leaves_nothing_behind(
    tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
):
    paths = recordings(tmp_path / "wav", *([900] * 39), 60_000)
    content, read = known(paths, pool), features.read_windows
    monkeypatch.setattr("npser.store.HELD", 3 * 21 * 512)  # three windows

    def failing(path: Path, seconds: float, cut: bool):
        for k, x in enumerate(read(path, seconds, cut)):
            if k == 10:
                raise ValueError(f"{path}: cannot be decoded")
            yield x

    monkeypatch.setattr(features, "read_windows", failing)
    first = open_store(paths, content, KIND, tmp_path / "cache", pool)
    assert first.errors == {39: "cannot be decoded"}
    (folder,) = folders(tmp_path / "cache")
    assert sorted(path.name for path in folder.iterdir()) == ["index.json", "rows.f32"]
    before = (folder / "rows.f32").stat()
    monkeypatch.setattr("npser.store._write", None)  # nothing is written again
    again = open_store(paths, content, KIND, tmp_path / "cache", pool)
    assert again.errors == first.errors
    assert (folder / "rows.f32").stat().st_ino == before.st_ino
    np.testing.assert_array_equal(again.recordings, first.recordings)


def test_a_store_may_be_read_by_whoever_may_read_the_cache(tmp_path: Path, pool: ThreadPoolExecutor):
    (tmp_path / "cache").mkdir(mode=0o755)
    opened(recordings(tmp_path / "wav", 900), tmp_path / "cache", pool)
    (folder,) = folders(tmp_path / "cache")
    assert folder.stat().st_mode & 0o777 == (tmp_path / "cache").stat().st_mode & 0o777


def test_what_was_computed_elsewhere_before_a_stop_is_not_computed_again(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    paths = [recording(tmp_path / f"{r}.wav", sound(9000 + 400 * r, r)) for r in range(5)]
    content, kind, asked = [str(digest_of(path)) for path in paths], log_mel_kind(SECONDS, False, False), []

    def elsewhere(recordings: list[tuple[Path, str]], stop: int = 9) -> Iterator[tuple[int, Any]]:
        asked.append([path.name for path, _ in recordings])
        for k, (path, digest) in enumerate(recordings):
            if k == stop:
                raise KeyboardInterrupt
            part = computed(path, digest, kind, tmp_path / "aside")
            assert not isinstance(part, str)
            yield k, (b"".join(part.blocks()), part.frames, part.samples, part.levels)

    with pytest.raises(KeyboardInterrupt):
        open_store(paths, content, kind, tmp_path / "cache", pool, elsewhere=functools.partial(elsewhere, stop=3))
    found = open_store(paths, content, kind, tmp_path / "cache", pool, elsewhere=elsewhere)
    assert asked == [["0.wav", "1.wav", "2.wav", "3.wav", "4.wav"], ["3.wav", "4.wav"]]
    here = open_store(paths, content, kind, tmp_path / "other", pool)
    np.testing.assert_array_equal(found.rows, here.rows)

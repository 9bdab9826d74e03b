"""The loss of BLSTM-ELM: what all labellings of a stretch that go Null, emotion, Null add up to; and what a stretch is."""

import itertools

import numpy as np
import pytest
import reference_lee2015 as reference
from helpers import Array, assert_close, bounds_of
from reference import lift, softmax

from npser.calibration import log_softmax
from npser.layers import alignment_loss
from npser.networks.stretches import LOUD_DB, loud, stretches

K, NULL = 3, 3
CASES = [pytest.param([[length]], id=f"{length} frames") for length in (3, 4, 5, 8)] + [
    pytest.param([[3, 5]], id="two stretches"),
    pytest.param([[4, 3], [7]], id="two utterances"),
    pytest.param([[3, 3, 6], [5], [3, 4]], id="three utterances"),
]


def batch(lengths: list[list[int]], seed: int = 0, spread: float = 2.0) -> tuple[Array, Array, Array, Array, Array]:
    """Logits, stretches and their owners, classes and weights, of utterances with stretches of some lengths."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(len(lengths)), list(map(len, lengths)))
    of = bounds_of(list(itertools.chain(*lengths)))
    y, weight = rng.integers(K, size=len(lengths)), rng.uniform(0.5, 1.5, len(lengths))
    return spread * rng.standard_normal((of[-1], K + 1)), of, owner, y, weight


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@pytest.mark.parametrize("lengths", CASES)
def test_it_is_what_all_labellings_that_are_paths_add_up_to(lengths: list[list[int]], kind: type):
    logits, of, owner, y, weight = batch(lengths)
    lifted = lift(logits)
    each = [list(itertools.pairwise(of.tolist()))[s] for s in range(len(owner))]
    terms = [
        reference.alignment_loss([softmax(row) for row in lifted], [each[s] for s in np.flatnonzero(owner == u)], int(y[u]))
        * float(weight[u])
        for u in range(len(y))
    ]
    expected = reference.total(terms)
    expected.backward()
    tolerance = 1e-12 if kind is np.float64 else 1e-6
    value, dlogits = alignment_loss(logits.astype(kind), of, owner, y, weight.astype(kind))
    assert value == pytest.approx(expected.value, rel=tolerance)
    assert dlogits.dtype == kind
    assert_close(dlogits, np.array([[x.gradient for x in row] for row in lifted]), tolerance)
    assert np.abs(dlogits.sum(axis=1)).max() < tolerance  # softmax and shares of paths both add up to 1


def test_of_three_frames_there_is_one_path():
    logits, of, owner, _, _ = batch([[3]])
    log_p = log_softmax(logits)
    value, dlogits = alignment_loss(logits, of, owner, np.array([1]), np.ones(1))
    assert value == pytest.approx(-(log_p[0, NULL] + log_p[1, 1] + log_p[2, NULL]), rel=1e-12)
    assert_close(dlogits, np.exp(log_p) - np.eye(K + 1)[[NULL, 1, NULL]], 1e-12)


def test_a_constant_added_to_the_logits_of_a_frame_changes_nothing():
    logits, of, owner, y, weight = batch([[9, 4], [12]])
    value, dlogits = alignment_loss(logits, of, owner, y, weight)
    shifted, same = alignment_loss(logits + 100 * np.arange(of[-1])[:, None], of, owner, y, weight)
    assert shifted == pytest.approx(value, rel=1e-11)
    assert_close(same, dlogits, 1e-11)


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_extreme_logits_leave_the_likeliest_path_alone(kind: type):
    T, path = 750, np.full(750, NULL)
    path[200:201] = 2
    logits = np.zeros((T, K + 1), kind)
    logits[np.arange(T), path] = 1e4
    arguments = bounds_of([T]), np.zeros(1, np.int64)
    value, dlogits = alignment_loss(logits, *arguments, np.array([2]), np.ones(1, kind))
    assert value == pytest.approx(0, abs=1e-6)
    assert np.abs(dlogits).max() < 1e-6
    value, dlogits = alignment_loss(logits, *arguments, np.array([0]), np.ones(1, kind))  # frame 200 is best left where it is
    assert value == pytest.approx(1e4, rel=1e-6)
    assert_close(dlogits[200], np.eye(K + 1)[2] - np.eye(K + 1)[0], 1e-4)
    worst, dlogits = alignment_loss(-logits, *arguments, np.array([2]), np.ones(1, kind))
    assert np.isfinite(worst)
    assert np.isfinite(dlogits).all()


def test_hundreds_of_frames_in_float32_are_those_in_float64():
    logits, of, owner, y, weight = batch([[750], [300, 450]], spread=1)
    value, dlogits = alignment_loss(logits, of, owner, y, weight)
    single, dsingle = alignment_loss(logits.astype(np.float32), of, owner, y, weight.astype(np.float32))
    assert single == pytest.approx(value, rel=1e-6)
    assert_close(dsingle, dlogits, 2e-6)


def test_an_unknown_emotion_and_a_stretch_without_room_for_a_path_count_for_nothing():
    logits, of, owner, y, weight = batch([[5, 4], [6], [2], [0], [1, 7]])
    y[1] = -1
    value, dlogits = alignment_loss(logits, of, owner, y, weight)
    expected = alignment_loss(logits[:9], of[:3], owner[:2], y[:1], weight[:1])
    last = alignment_loss(logits[-7:], bounds_of([7]), np.zeros(1, np.int64), y[4:], weight[4:] / 2)  # of two stretches
    assert value == pytest.approx(expected[0] + last[0], rel=1e-12)
    np.testing.assert_array_equal(dlogits[9:18], 0)
    assert_close(np.concatenate([dlogits[:9], dlogits[18:]]), np.concatenate([expected[1], last[1]]), 1e-12)


def test_a_batch_gives_what_its_utterances_give():
    lengths = [[5, 3, 9], [12], [4, 4], [3], [7, 30]]
    logits, of, owner, y, weight = batch(lengths)
    value, dlogits = alignment_loss(logits, of, owner, y, weight)
    total, parts, first = 0.0, [], 0
    for u, each in enumerate(lengths):
        end = first + sum(each)
        one = slice(u, u + 1)
        alone = alignment_loss(logits[first:end], bounds_of(each), np.zeros(len(each), np.int64), y[one], weight[one])
        total, first = total + alone[0], end
        parts.append(alone[1])
    assert value == pytest.approx(total, rel=1e-12)
    np.testing.assert_array_equal(dlogits, np.concatenate(parts))


@pytest.mark.parametrize("column", [0, 1, NULL])
def test_nan_stays_nan(column: int):
    logits, of, owner, _, weight = batch([[9], [5]])
    logits[4, column] = np.nan
    value, dlogits = alignment_loss(logits, of, owner, np.array([1, 1]), weight)
    assert np.isnan(value)
    assert np.isnan(dlogits[4]).all()
    assert np.isfinite(dlogits[9:]).all()


# Stretches


def divided(words: str, hop: float = 0.01) -> list[int]:
    """Lengths of the stretches of utterances, in which v is a voiced frame and . is none."""
    utterances = words.split()
    voiced = np.array([frame == "v" for frame in "".join(utterances)])
    of, owner = stretches(voiced, bounds_of([*map(len, utterances)]), hop)
    assert of[-1] == len(voiced)
    assert owner.tolist() == sorted(owner)
    return np.diff(of).tolist()


def test_they_end_in_the_middle_of_gaps_of_50_ms():
    assert divided("...vvvv.....vvv.." + "......v") == [9, 10, 5]
    assert divided("...vvvv....vvv..") == [16]  # 40 ms
    assert divided("vvv.vvv...", hop=0.025) == [10]  # 25 ms
    assert divided("vvv..vvv...", hop=0.025) == [4, 7]  # 50 ms
    assert divided("vvv..vvv...", hop=0.05) == [4, 7]
    assert divided("vvv.vvv...", hop=0.05) == [3, 7]


def test_an_utterance_without_voice_or_gap_is_one_and_no_stretch_has_part_in_two():
    assert divided("........") == [8]
    assert divided("vvvvvvvv") == [8]
    assert divided("v") == [1]
    assert divided("vvvv.....vv ...... vvv.....v..... ..vv") == [6, 5, 6, 5, 9, 4]


def test_what_would_be_shorter_than_three_frames_joins_its_neighbour():
    assert divided("v..vvvv", hop=0.025) == [7]
    assert divided("vvvv..v", hop=0.025) == [7]
    assert divided("v..v..vvvv", hop=0.025) == [5, 5]
    assert divided("v..v..v", hop=0.025) == [7]


@pytest.mark.parametrize("hop", [0.01, 0.025])
def test_they_are_those_of_slow_loops(hop: float):
    rng = np.random.default_rng(0)
    gap = {0.01: 5, 0.025: 2}[hop]
    counts = set()
    for _ in range(200):
        lengths = rng.integers(1, 60, 3)
        voiced = np.concatenate([np.repeat(rng.random(n) < 0.5, rng.integers(1, 9, n))[:n] for n in lengths])
        bounds = bounds_of(lengths)
        of, owner = stretches(voiced, bounds, hop)
        expected = [
            (u, bounds[u] + start, bounds[u] + end)
            for u in range(3)
            for start, end in reference.stretches(voiced[bounds[u] : bounds[u + 1]].tolist(), gap)
        ]
        assert list(zip(owner, of[:-1], of[1:], strict=True)) == expected
        counts |= set(np.bincount(owner))
    assert counts >= {1, 2, 3, 4}


def test_without_pitch_what_is_nearly_as_loud_as_the_loudest_frame_counts_as_voiced():
    S = np.array([[-60.0, -80], [-90, -20], [-20 - LOUD_DB + 0.1, -90], [-20 - LOUD_DB - 0.1, -90]])
    np.testing.assert_array_equal(loud(S), [False, True, True, False])
    np.testing.assert_array_equal(loud(S + 7), loud(S))
    np.testing.assert_array_equal(loud(np.full((4, 2), -100.0)), True)

"""The extreme learning machine, its kernel form and the ridge regression beside them; statistics of posteriors."""

from typing import Any

import numpy as np
import pytest
from helpers import Array, bounds_of

from npser.networks import elm

K, D = 3, 12


def solution(kind: str, t: dict[str, Array], S: Array, T: Array, choice: Any) -> dict[str, Array]:
    """The tensors that are solved with one choice."""
    ((_, solved),) = elm.solutions(kind, t, S, T, [choice])
    return solved


def statistics_of(rng: np.random.Generator, y: Array, told: float) -> Array:
    """Statistics of utterances whose posteriors tell their classes y (B,) more or less: told 0 for nothing at all."""
    lengths = rng.integers(5, 30, len(y))
    X = rng.standard_normal((lengths.sum(), K)) + told * np.eye(K)[np.repeat(y, lengths)]
    P = np.exp(X) / np.exp(X).sum(axis=1, keepdims=True)
    return elm.statistics(P, bounds_of(lengths))


def learnt(kind: str, S: Array, y: Array, validation: Any = None) -> dict[str, Array]:
    return elm.solve(kind, elm.start(kind, S.shape[1], K, 0), (S, y), validation)


def test_statistics_are_those_of_each_class_over_the_frames_of_each_utterance():
    rng = np.random.default_rng(0)
    lengths = [4, 0, 1, 7, 0]
    P, bounds = rng.dirichlet(np.ones(K), sum(lengths)), bounds_of(lengths)
    P[0, 0] = 0.2  # not above
    found = elm.statistics(P, bounds)
    assert found.shape == (5, 4 * K)
    for u, length in enumerate(lengths):
        for k in range(K):
            own = [float(p) for p in P[bounds[u] : bounds[u + 1], k]]
            share = sum(p > 0.2 for p in own) / max(length, 1)
            expected = [max(own), min(own), sum(own) / length, share] if length else [0, 0, 0, 0]
            np.testing.assert_allclose(found[u, k::K], expected, rtol=1e-12)
    assert elm.statistics(P[:0], bounds_of([0, 0])).tolist() == [[0.0] * 4 * K] * 2


def test_with_a_ridge_of_nothing_it_is_the_pseudo_inverse_of_the_paper():
    rng = np.random.default_rng(1)
    H, T = rng.standard_normal((40, 9)), rng.standard_normal((40, K))
    expected = np.linalg.lstsq(H, T, rcond=None)[0]
    np.testing.assert_allclose(elm.ridge_solution(H, T, 1e-12), expected, atol=1e-10)
    several = elm.ridge_solution(np.stack([H, 2 * H]), T, 1e-12)
    np.testing.assert_allclose(several, [expected, expected / 2], atol=1e-10)
    assert np.linalg.norm(elm.ridge_solution(H, T, 10.0)) < 0.9 * np.linalg.norm(expected)


@pytest.mark.parametrize(("C", "gamma"), [(0.1, 0.3), (4.0, 0.05), (256.0, 1.0)])
def test_the_kernel_form_is_kernel_ridge_regression(C: float, gamma: float):
    rng = np.random.default_rng(2)
    S, T, others = rng.standard_normal((30, D)), rng.standard_normal((30, K)), rng.standard_normal((7, D))
    peer = pytest.importorskip("sklearn.kernel_ridge").KernelRidge(kernel="rbf", gamma=gamma).set_params(alpha=1 / C).fit(S, T)
    a, b = np.sqrt(gamma) * S, np.sqrt(gamma) * others
    U = elm.kernel_solution(elm.rbf(a, a), T, C)
    np.testing.assert_allclose(elm.rbf(b, a) @ U, peer.predict(others), atol=1e-10)
    square = ((a[:, None] - a[None]) ** 2).sum(axis=2)
    direct = np.linalg.solve(np.exp(-square) + np.eye(30) / C, T)
    np.testing.assert_allclose(U, direct, rtol=0, atol=1e-10 * np.abs(direct).max())


def test_statistics_are_divided_by_their_deviation_over_the_training_part_before_they_are_compared():
    rng = np.random.default_rng(4)
    y = rng.integers(K, size=50)
    S = statistics_of(rng, y, 1.0) * np.linspace(0.01, 100, D)
    S[:, 3] = 0.5  # the same for all: it may not be divided by nothing
    t = learnt("kernel", S, y)
    C, gamma = elm.DEFAULTS["kernel"]
    Z = (S - S.mean(axis=0)) / np.where(np.arange(D) == 3, 1, S.std(axis=0))
    peer = (
        pytest.importorskip("sklearn.kernel_ridge")
        .KernelRidge(kernel="rbf", gamma=gamma)
        .set_params(alpha=1 / C)
        .fit(Z, np.eye(K)[y])
    )
    np.testing.assert_allclose(elm.outputs("kernel", t, S), peer.predict(Z), atol=1e-5)
    others = S[:9] + 1
    Z = (others - S.mean(axis=0)) / np.where(np.arange(D) == 3, 1, S.std(axis=0))
    np.testing.assert_allclose(elm.outputs("kernel", t, others), peer.predict(Z), atol=1e-5)


def test_ten_machines_are_solved_each_with_its_own_draw_and_their_mean_decides():
    rng = np.random.default_rng(5)
    y = rng.integers(K, size=60)
    S = statistics_of(rng, y, 1.0)
    t = learnt("elm", S, y)
    assert t["W"].shape == (10, D, 120)
    assert (np.abs(t["W"]) <= 1).all()
    assert -0.01 < t["W"].mean() < 0.01
    assert 0.57 < t["W"].std() < 0.585  # uniform in [-1, 1]: 1 / sqrt(3)
    each = elm.machines(t, S)
    assert 0 < each.std(axis=0).max() < 0.3  # they differ
    np.testing.assert_allclose(elm.outputs("elm", t, S), each.mean(axis=0), atol=1e-12)
    for W, U, found in zip(t["W"], t["U"], each, strict=True):
        H = 1 / (1 + np.exp(-S @ W.astype(float)))
        left = np.linalg.lstsq(np.vstack([H, np.sqrt(1e-3) * np.eye(120)]), np.vstack([np.eye(K)[y], np.zeros((120, K))]))[0]
        np.testing.assert_allclose(found, H @ left, atol=1e-3)
        np.testing.assert_allclose(found, H @ U, atol=1e-12)
    other = elm.start("elm", D, K, seed=1)["W"]
    assert (other != t["W"]).mean() > 0.99


@pytest.mark.parametrize("kind", elm.KINDS)
def test_it_tells_what_can_be_told_and_nothing_where_labels_are_shuffled(kind: str):
    rng = np.random.default_rng(6)
    y, truth = rng.integers(K, size=300), rng.integers(K, size=600)
    S, tested = statistics_of(rng, y, 1.0), statistics_of(rng, truth, 1.0)
    right = (elm.outputs(kind, learnt(kind, S, y), tested).argmax(axis=1) == truth).mean()
    shuffled = (elm.outputs(kind, learnt(kind, S, rng.permutation(y)), tested).argmax(axis=1) == truth).mean()
    assert right > 0.9
    assert 0.15 < shuffled < 0.5


@pytest.mark.parametrize("kind", elm.KINDS)
def test_the_order_of_the_utterances_does_not_matter(kind: str):
    rng = np.random.default_rng(7)
    y = rng.integers(K, size=80)
    S, others, order = statistics_of(rng, y, 1.0), statistics_of(rng, y, 1.0), rng.permutation(80)
    t = elm.start(kind, D, K, 0)

    def answers(S: Array, y: Array) -> Array:
        choice = elm.TRIED[kind][-2]
        return elm.outputs(kind, t | solution(kind, t, S, np.eye(K)[y], choice), others)  # before it is float32

    np.testing.assert_allclose(answers(S[order], y[order]), answers(S, y), atol=1e-9)
    np.testing.assert_allclose(
        elm.outputs(kind, learnt(kind, S, y), others[order]), elm.outputs(kind, learnt(kind, S, y), others)[order], atol=1e-12
    )


@pytest.mark.parametrize("kind", elm.KINDS)
def test_duplicates_collinear_statistics_and_few_utterances_are_borne(kind: str):
    rng = np.random.default_rng(8)
    y = np.array([0, 1, 2, 0, 0])
    S = statistics_of(rng, y, 2.0)
    S[3:] = S[0]
    S[:, 6:] = S[:, :6]
    for weakest in (elm.TRIED[kind][-1], elm.TRIED[kind][0]):
        solved = solution(kind, elm.start(kind, D, K, 0), S, np.eye(K)[y], weakest)
        assert all(np.isfinite(value).all() for value in solved.values())
    t = learnt(kind, S, y)
    assert (elm.outputs(kind, t, S).argmax(axis=1) == y).all()
    alone = learnt(kind, S[:1], y[:1])
    assert elm.outputs(kind, alone, S[:1]).argmax() == 0


@pytest.mark.parametrize("kind", elm.KINDS)
def test_a_class_that_nobody_speaks_in_the_training_part_is_never_chosen(kind: str):
    rng = np.random.default_rng(9)
    y, truth = rng.integers(2, size=100), rng.integers(K, size=100)
    t = learnt(kind, statistics_of(rng, y, 1.0), y)
    found = elm.outputs(kind, t, statistics_of(rng, truth, 1.0))
    assert np.abs(found[:, 2]).max() == 0
    assert set(found.argmax(axis=1)) == {0, 1}


@pytest.mark.parametrize("kind", elm.KINDS)
def test_the_choice_is_that_of_the_validation_part_and_of_equals_the_stronger(kind: str):
    rng = np.random.default_rng(10)
    y, truth = rng.integers(K, size=60), rng.integers(K, size=40)
    S, heard = statistics_of(rng, y, 0.3), statistics_of(rng, truth, 0.3)
    start = elm.start(kind, D, K, 0)
    recalls = []
    for choice in elm.TRIED[kind]:
        t = start | {name: value.astype(np.float32) for name, value in solution(kind, start, S, np.eye(K)[y], choice).items()}
        right = elm.outputs(kind, t, heard).argmax(axis=1) == truth
        recalls.append(round(float(np.mean([right[truth == k].mean() for k in range(K)])), 9))
    assert len(set(recalls)) > 1
    assert len(recalls) <= 12
    first = elm.TRIED[kind][recalls.index(max(recalls))]
    expected = solution(kind, start, S, np.eye(K)[y], first)["U"]
    np.testing.assert_array_equal(learnt(kind, S, y, (heard, truth))["U"], expected.astype(np.float32))

    easy = statistics_of(rng, truth, 50.0), truth  # all choices tell everything
    certain = statistics_of(rng, y, 50.0)
    strongest = solution(kind, start, certain, np.eye(K)[y], elm.TRIED[kind][0])["U"]
    np.testing.assert_array_equal(learnt(kind, certain, y, easy)["U"], strongest.astype(np.float32))


def test_what_is_tried_goes_from_strong_to_weak_and_no_further_than_is_stated():
    assert [*elm.RIDGES] == sorted(elm.RIDGES, reverse=True)
    assert elm.TRIED["kernel"] == sorted(elm.TRIED["kernel"])  # a small C and a wide kernel are strong
    for kind in elm.KINDS:
        assert elm.DEFAULTS[kind] in elm.TRIED[kind]
        assert len(elm.TRIED[kind]) == np.prod([len(values) for values in elm.CHOICES[kind].values()]) <= 12


@pytest.mark.parametrize("kind", elm.KINDS)
def test_before_it_has_learnt_it_answers_zeros_and_its_tensors_keep_their_form(kind: str):
    rng = np.random.default_rng(11)
    y = rng.integers(K, size=20)
    S, before = statistics_of(rng, y, 1.0), elm.start(kind, D, K, 0)
    assert elm.outputs(kind, before, S).tolist() == [[0.0] * K] * 20
    after = learnt(kind, S, y)
    assert before.keys() == after.keys()
    for name, value in after.items():
        assert value.dtype == before[name].dtype == np.float32
        assert all(m in (0, n) for m, n in zip(before[name].shape, value.shape, strict=True))


@pytest.mark.parametrize("kind", elm.KINDS)
def test_posteriors_that_are_not_finite_are_told(kind: str):
    S = np.full((4, D), np.nan)
    with pytest.raises(ValueError, match="not finite, so training has diverged; try a lower learning_rate"):
        learnt(kind, S, np.array([0, 1, 2, 0]))

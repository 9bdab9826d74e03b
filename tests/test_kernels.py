"""The compiled loops called directly: they assign all that they should, from their inputs alone, and let no NaN vanish."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT, Array, bounds_of

from npser.optim import Adadelta
from npser_kernels.adadelta import adadelta_step
from npser_kernels.adam import adam_step
from npser_kernels.alignment import alignment_backward, alignment_forward
from npser_kernels.assemble import assemble
from npser_kernels.attention import attention_backward, attention_forward
from npser_kernels.augment import add_echo, resample_bands
from npser_kernels.conv1d import conv1d_backward, conv1d_forward
from npser_kernels.conv2d import collect_bands, unfold_bands
from npser_kernels.lstm import add_product, add_row_product, lstm_backward, lstm_forward, product_transposed, squash
from npser_kernels.maxpool import maxpool2d_backward, maxpool2d_forward, maxpool_backward, maxpool_forward

LENGTHS = [7, 0, 1, 10, 2, 3]  # an empty one as well
BOUNDS, POOLED = bounds_of(LENGTHS), bounds_of(np.array(LENGTHS) // 3)
ORDER = np.argsort(-np.diff(BOUNDS), kind="stable")
EMOTIONS = np.array([0, 1, 0, 2, 1, -1])
N, M, B = BOUNDS[-1], POOLED[-1], len(LENGTHS)
KINDS = [np.float64, np.float32]
IN_PLACE = ("adadelta_step", "adam_step", "add_product", "add_row_product", "add_folded_bands", "spread_bands")

Shapes = list[tuple[int, ...]]
Case = tuple[Callable[..., None], Shapes, list[Any]]


def cases(kind: type) -> dict[str, Case]:
    """Each kernel with the shapes of its outputs and its inputs: C = 5 channels, H = 3 units, 2 heads."""
    rng = np.random.default_rng(0)

    def random(*shape: int) -> Array:
        return rng.uniform(-1, 1, shape).astype(kind)

    R = np.concatenate([random(2, 3, 12), np.zeros((2, 1, 12), kind)], axis=1)
    argmax = rng.integers(3, size=(M, 5)).astype(np.int32)
    static, counts, lengths = random(30, 2), np.array([12, 0, 1, 9, 4]), [12, 2, 1, 15, 6]
    starts = np.array([0, 12, 12, 13, 22])
    windows, halves = np.full(B, 3), rng.integers(6, size=(M, 4)).astype(np.int32)  # 3 frames by 2 bands of 2 channels
    return {
        "conv1d_forward": (conv1d_forward, [(N, 5)], [random(N, 15), random(5), BOUNDS]),
        "conv1d_backward": (conv1d_backward, [(N, 15), (5,)], [random(N, 5), random(N, 5), BOUNDS]),
        "maxpool_forward": (maxpool_forward, [(M, 5), (M, 5)], [random(N, 5), BOUNDS, POOLED, 3]),
        "maxpool_backward": (maxpool_backward, [(N, 5)], [random(M, 5), argmax, BOUNDS, POOLED, 3]),
        "maxpool2d_forward": (maxpool2d_forward, [(M, 4), (M, 4)], [random(N, 10), BOUNDS, POOLED, windows, 2, 2]),
        "maxpool2d_backward": (maxpool2d_backward, [(N, 10)], [random(M, 4), halves, BOUNDS, POOLED, windows, 2, 2]),
        "unfold_bands": (unfold_bands, [(3, 6, 4)], [random(N, 10), np.array([3, 0, 0, 1, 2, N - 1]), 2, 2]),
        "collect_bands": (collect_bands, [(4, 2, 3)], [random(2, 6, 3), np.array([0, 1, 3, 5]), random(3), 0]),
        "attention_forward": (attention_forward, [(N, 2), (B, 10)], [random(N, 2), random(N, 5), BOUNDS]),
        "attention_backward": (
            attention_backward,
            [(N, 2), (N, 5)],
            [random(B, 10), random(N, 2), random(N, 5), BOUNDS],
        ),
        "lstm_forward": (
            lstm_forward,
            [(N, 2, 3), (N, 2, 3), (N, 2, 12)],
            [random(N, 2, 12), random(2, 12), R, BOUNDS, ORDER],
        ),
        "lstm_backward": (
            lstm_backward,
            [(N, 2, 12)],
            [random(N, 2, 3), random(N, 2, 3), random(N, 2, 12), R, BOUNDS, ORDER],
        ),
        "squash": (squash, [(7,)], [random(7), random(7), random(7)]),
        "product_transposed": (product_transposed, [(4, 8)], [random(4, 6), random(8, 6)]),
        "assemble": (
            assemble,
            [(sum(lengths), 6)],
            [bounds_of(lengths), np.array(lengths), static, starts, counts, random(5), kind(-3), random(6), random(6)],
        ),
        "alignment_forward": (alignment_forward, [(B,), (N, 3)], [random(N, 4), BOUNDS, EMOTIONS]),
        "alignment_backward": (
            alignment_backward,
            [(N, 4)],
            [random(N, 4), random(N, 3), random(B), BOUNDS, EMOTIONS, random(B)],
        ),
        "resample_bands": (resample_bands, [(7, 5)], [random(12, 5), 3, 9, 1.1]),
        "add_echo": (add_echo, [(7, 5)], [1 + random(7, 5), 0.7, 0.5]),
    }


def outputs(case: Case, kind: type, fill: float) -> list[Array]:
    """What a kernel leaves in outputs that held `fill` before; an argmax, the only integers, the largest number for NaN."""
    kernel, shapes, inputs = case
    outs = [np.full(shape, fill, kind) for shape in shapes]
    if kernel in (maxpool_forward, maxpool2d_forward):
        outs[1] = np.full(shapes[1], np.iinfo(np.int32).max if np.isnan(fill) else 0, np.int32)
    kernel(*outs, *inputs)
    return outs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", cases(np.float64))
def test_a_kernel_assigns_every_element_of_its_outputs_and_reads_none(name: str, kind: type):
    case = cases(kind)[name]
    from_zero, from_nan = outputs(case, kind, 0), outputs(case, kind, np.nan)
    for zero, nan in zip(from_zero, from_nan, strict=True):
        assert np.isfinite(nan).all()
        np.testing.assert_array_equal(nan, zero)


@pytest.mark.parametrize("name", cases(np.float64))
def test_a_kernel_leaves_its_inputs_alone(name: str):
    case, before = cases(np.float64)[name], cases(np.float64)[name]
    outputs(case, np.float64, 0)
    for after, original in zip(case[2], before[2], strict=True):
        np.testing.assert_array_equal(after, original)


def test_every_kernel_is_among_these_cases():
    """But those that change their first arguments in place, and log_add, which returns a number."""
    defined = {
        line.split("(")[0].removeprefix("def ")
        for file in (ROOT / "kernels/npser_kernels").glob("*.py")
        if file.name != "__init__.py"
        for line in file.read_text().splitlines()
        if line.startswith("def ")
    }
    assert defined == {*cases(np.float64), *IN_PLACE, "log_add"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_tile_products_are_matrix_products(kind: type):
    rng = np.random.default_rng(0)
    x, R, y = (rng.standard_normal(shape).astype(kind) for shape in [(4, 8), (8, 6), (4, 6)])
    rtol = 1e-12 if kind is np.float64 else 1e-5
    total = y.copy()
    add_product(total, x, R)
    np.testing.assert_allclose(total, y + x @ R, rtol, rtol)
    add_row_product(y[0], x[0], R)
    np.testing.assert_allclose(y[0], total[0], rtol, rtol)
    product = np.empty((4, 8), kind)
    product_transposed(product, y, R)
    np.testing.assert_allclose(product, y @ R.T, rtol, rtol)


@pytest.mark.parametrize("kind", KINDS)
def test_gates_are_sigmoids_and_tanh(kind: type):
    x = np.concatenate([np.linspace(-12, 12, 2001), [-1e30, 1e30]]).astype(kind)
    y, one, half = np.empty_like(x), np.ones_like(x), np.full_like(x, 0.5)
    error = 1e-15 if kind is np.float64 else 5e-7
    squash(y, x, one, np.zeros_like(x))
    assert np.abs(y - np.tanh(x.astype(np.float64))).max() < error
    squash(y, x, half, half)
    assert np.abs(y - (0.5 + 0.5 * np.tanh(0.5 * x.astype(np.float64)))).max() < error


@pytest.mark.parametrize("kind", KINDS)
def test_attention_bears_large_energies(kind: type):
    a, z, E = np.empty((2, 2), kind), np.empty((1, 4), kind), np.array([[1000, -1000], [999, -1001]], kind)
    attention_forward(a, z, E, np.array([[1, 0], [0, 1]], kind), bounds_of([2]))
    share = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(a, [[share, share], [1 - share, 1 - share]], rtol=1e-6)
    np.testing.assert_allclose(z, [[share, 1 - share] * 2], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_adam_clips_averages_and_moves_each_parameter_on_its_own(kind: type):
    """The first step of any parameter is the rate in the direction against its gradient; the clip shows in the moments."""
    theta, m, v = np.ones(4, kind), np.zeros(4, kind), np.zeros(4, kind)
    adam_step(theta, m, v, np.array([5, -0.5, 0, -3], kind), kind(0.1), 0.9, 0.99, 1e-12, 1.0)
    np.testing.assert_allclose(m, [0.1, -0.05, 0, -0.1], rtol=1e-6)
    np.testing.assert_allclose(v, [0.01, 0.0025, 0, 0.01], rtol=1e-6)
    np.testing.assert_allclose(theta, [0.9, 1.1, 1, 1.1], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_adadelta_changes_each_parameter_by_as_much_as_it_has_changed(kind: type):
    """Ten steps by the formulas of Zeiler (2012), algorithm 1, at a rate of 0.5, with a clip that matters."""
    theta, m, v = np.ones(3, kind), np.zeros(3, kind), np.zeros(3, kind)
    steps = np.random.default_rng(0).normal(0, 1, (10, 3)).astype(kind)
    expected = []
    for k in range(3):
        x, changes, gradients = 1.0, 0.0, 0.0
        for g in steps[:, k].tolist():
            g = max(-1.0, min(1.0, g))
            gradients = 0.9 * gradients + 0.1 * g**2
            change = -math.sqrt(changes + 1e-6) / math.sqrt(gradients + 1e-6) * g
            changes = 0.9 * changes + 0.1 * change**2
            x += 0.5 * change
        expected.append((x, changes, gradients))
    for gradient in steps:
        adadelta_step(theta, m, v, gradient, kind(0.5), 0.9, 1e-6, 1.0)
    np.testing.assert_allclose(np.stack([theta, m, v], axis=1), expected, rtol=1e-4)
    assert np.abs(steps).max() > 1


def test_adadelta_keeps_its_state_where_adam_keeps_its_own():
    theta, optimiser = np.ones(2), Adadelta(2, 1.0, 0.0, 1.0, np.float64)
    optimiser.step(theta, np.array([0.5, 0.0]))
    np.testing.assert_allclose(optimiser.v, [0.05 * 0.25, 0])
    change = 0.5 * math.sqrt(1e-7) / math.sqrt(0.05 * 0.25 + 1e-7)
    np.testing.assert_allclose(optimiser.m, [0.05 * change**2, 0])
    np.testing.assert_allclose(theta, [1 - change, 1])
    assert optimiser.updates == 1


def test_adadelta_goes_by_the_schedule_and_the_decay_of_the_rate():
    """What it remembers does not depend on the rate, so each change is the rate times that of a rate of one."""
    steps, whole, part = np.random.default_rng(0).normal(0, 0.5, (3, 4)), np.zeros(4), np.zeros(4)
    of_one, slower = Adadelta(4, 1.0, 0.0, 1.0, np.float64), Adadelta(4, 0.4, 0.5, 1.0, np.float64)
    for updates, gradient in enumerate(steps):
        before = whole.copy(), part.copy()
        of_one.step(whole, gradient)
        slower.step(part, gradient, factor=0.25)
        np.testing.assert_allclose(part - before[1], (whole - before[0]) * 0.25 * 0.4 / (1 + 0.5 * updates))


# NaN


def nan_at(a: Array, *where: tuple[int, ...]) -> Array:
    a = a.copy()
    for index in where:
        a[index] = np.nan
    return a


@pytest.mark.parametrize("kind", KINDS)
def test_adam_makes_nan_of_the_parameter_whose_gradient_is_nan(kind: type):
    theta, m, v = np.ones(9, kind), np.zeros(9, kind), np.zeros(9, kind)
    adam_step(theta, m, v, nan_at(np.ones(9, kind), (4,)), kind(0.1), 0.9, 0.99, 1e-7, 1.0)
    for a in (theta, m, v):
        np.testing.assert_array_equal(np.isnan(a), np.arange(9) == 4)


@pytest.mark.parametrize("kind", KINDS)
def test_gates_of_nan_are_nan(kind: type):
    x, y = nan_at(np.zeros(9, kind), (4,)), np.empty(9, kind)
    squash(y, x, np.ones(9, kind), np.zeros(9, kind))
    np.testing.assert_array_equal(np.isnan(y), np.arange(9) == 4)


@pytest.mark.parametrize("kind", KINDS)
def test_relu_of_nan_is_nan(kind: type):
    out, bounds = np.empty((9, 2), kind), bounds_of([9])
    conv1d_forward(out, nan_at(np.zeros((9, 6), kind), (4, 2), (4, 5)), np.zeros(2, kind), bounds)  # k = 0, 1 of taps 1, 2
    np.testing.assert_array_equal(np.argwhere(np.isnan(out)), [[3, 1], [4, 0]])


@pytest.mark.parametrize("kind", KINDS)
def test_the_convolutions_backward_pass_keeps_nan(kind: type):
    dP, db, ones = np.empty((9, 6), kind), np.empty(2, kind), np.ones((9, 2), kind)
    conv1d_backward(dP, db, nan_at(ones, (4, 1)), ones, bounds_of([9]))
    np.testing.assert_array_equal(np.argwhere(np.isnan(dP)), [[3, 1], [4, 3], [5, 5]])
    np.testing.assert_array_equal(np.isnan(db), [False, True])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frame", [0, 1, 2])
def test_the_largest_of_a_window_with_nan_is_nan(frame: int, kind: type):
    out, argmax = np.empty((2, 2), kind), np.empty((2, 2), np.int32)
    maxpool_forward(out, argmax, nan_at(np.zeros((6, 2), kind), (3 + frame, 1)), bounds_of([6]), bounds_of([2]), 3)
    np.testing.assert_array_equal(np.isnan(out), [[False, False], [False, True]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [(3, 0), (4, 1), (5, 3)])
def test_the_largest_of_a_window_of_bands_with_nan_is_nan(place: tuple[int, int], kind: type):
    out, argmax = np.empty((2, 4), kind), np.empty((2, 4), np.int32)
    picture = nan_at(np.zeros((6, 8), kind), place)  # four bands of two channels
    maxpool2d_forward(out, argmax, picture, bounds_of([6]), bounds_of([2]), np.array([3]), 2, 2)
    np.testing.assert_array_equal(np.argwhere(np.isnan(out)), [[1, place[1] % 2]])


@pytest.mark.parametrize("kind", KINDS)
def test_a_recurrence_keeps_nan_to_its_end(kind: type):
    """NaN for one gate in frame 4 of 7 spreads over all units, in the direction of each; the other utterances are as before."""
    bounds, order = bounds_of([3, 7, 2]), np.array([1, 0, 2])
    Z, b, R = np.zeros((12, 2, 16), kind), np.zeros((2, 16), kind), np.ones((2, 4, 16), kind)
    out, cell, gates = np.empty((12, 2, 4), kind), np.empty((12, 2, 4), kind), np.empty((12, 2, 16), kind)
    lstm_forward(out, cell, gates, nan_at(Z, (7, 0, 5), (7, 1, 5)), b, R, bounds, order)
    frame = np.arange(12)

    def frames(a: Array, direction: int) -> list[bool]:
        return [bool(np.isnan(row).any()) for row in a[:, direction]]

    np.testing.assert_array_equal(frames(out, 0), (frame >= 7) & (frame < 10))
    np.testing.assert_array_equal(frames(out, 1), (frame >= 3) & (frame <= 7))
    assert np.isnan(out[8, 0]).all()

    dZ, gates = np.empty_like(gates), np.full_like(gates, 0.5)
    cell = np.full_like(cell, 0.5)
    lstm_backward(dZ, nan_at(np.ones_like(out), (7, 0, 1), (7, 1, 1)), cell, gates, R, bounds, order)
    np.testing.assert_array_equal(frames(dZ, 0), (frame >= 3) & (frame <= 7))
    np.testing.assert_array_equal(frames(dZ, 1), (frame >= 7) & (frame < 10))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frame", [3, 5, 9])
def test_attention_with_nan_anywhere_in_an_utterance_is_nan_for_that_utterance(frame: int, kind: type):
    bounds, ones = bounds_of([3, 7, 2]), np.ones
    a, z = np.empty((12, 2), kind), np.empty((3, 8), kind)
    attention_forward(a, z, nan_at(ones((12, 2), kind), (frame, 1)), ones((12, 4), kind), bounds)
    np.testing.assert_array_equal(np.isnan(z), [[False] * 8, [False] * 4 + [True] * 4, [False] * 8])
    attention_forward(a, z, ones((12, 2), kind), nan_at(ones((12, 4), kind), (frame, 3)), bounds)
    np.testing.assert_array_equal(np.isnan(z), [[False] * 8, [False, False, False, True] * 2, [False] * 8])
    dE, dX = np.empty((12, 2), kind), np.empty((12, 4), kind)
    attention_backward(dE, dX, nan_at(ones((3, 8), kind), (1, 2)), np.full((12, 2), 0.5, kind), ones((12, 4), kind), bounds)
    np.testing.assert_array_equal(np.isnan(dE[:, 0]), (np.arange(12) >= 3) & (np.arange(12) < 10))
    np.testing.assert_array_equal(np.isnan(dX[:, 2]), (np.arange(12) >= 3) & (np.arange(12) < 10))


@pytest.mark.parametrize("kind", KINDS)
def test_nan_in_the_features_is_nan_in_the_input(kind: type):
    rows, counts = nan_at(np.ones((20, 2), kind), (5, 1)), np.array([10, 10])
    X, ones = np.empty((20, 6), kind), np.ones(6, kind)
    assemble(X, bounds_of(counts), counts, rows, np.array([0, 10]), counts, np.zeros(2, kind), kind(0), np.zeros(6, kind), ones)
    np.testing.assert_array_equal(np.argwhere(np.isnan(X[:, 1])), [[5]])
    assert np.isnan(X[:10, [3, 5]]).sum() > 10
    assert np.isfinite(X[:, ::2]).all()
    assert np.isfinite(X[10:]).all()


# The compiler


def run_python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter with the compiler on."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")}
    inherited["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    return subprocess.run([sys.executable, "-c", code], env=inherited | env, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(
    "1" not in (os.environ.get("NUMBA_BOUNDSCHECK"), os.environ.get("NUMBA_DISABLE_JIT")),
    reason="NUMBA_BOUNDSCHECK is not 1: kernels do not check",
)
def test_in_this_run_kernels_check_their_bounds():
    """Pooling six frames of a view of five, whose memory goes on. A cache filled without checks shows here as well."""
    inp = np.zeros((6, 2))[:5]
    with pytest.raises(IndexError):
        maxpool_forward(np.empty((2, 2)), np.empty((2, 2), np.int32), inp, bounds_of([6]), bounds_of([2]), 3)


STEP = """
import numpy as np
from npser_kernels.adam import adam_step
theta, m, v, memory = np.ones((4, 4))
try:
    adam_step(theta, m, v, memory[:{elements}], 0.1, 0.9, 0.99, 1e-7, 1.0)
    print("done")
except IndexError:
    print("caught")
"""


@pytest.mark.parametrize(("check", "says"), [("1", "caught"), ("0", "done")])
def test_numba_boundscheck_decides_whether_kernels_check_their_bounds(tmp_path: Path, check: str, says: str):
    """A fourth element of a view of three, whose memory goes on."""
    run = run_python(STEP.format(elements=3), NUMBA_CACHE_DIR=str(tmp_path), NUMBA_BOUNDSCHECK=check)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"{says}\n", "")
    assert any(tmp_path.rglob("*.nbi"))  # compiled here, not found elsewhere


def test_where_no_cache_can_be_written_kernels_compile_into_a_temporary_one(tmp_path: Path):
    """__pycache__ and the home's cache are files here: nobody, not even root, can make a folder there."""
    package, blocked, temporary = tmp_path / "npser_kernels", tmp_path / "file", tmp_path / "tmp"
    package.mkdir()
    temporary.mkdir()
    blocked.touch()
    for file in (ROOT / "kernels/npser_kernels").glob("*.py"):
        (package / file.name).write_bytes(file.read_bytes())
    (package / "__pycache__").touch()
    run = run_python(
        STEP.format(elements=4),
        PYTHONPATH=str(tmp_path),
        HOME=str(blocked),
        XDG_CACHE_HOME=str(blocked),
        TMPDIR=str(temporary),
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "done\n", "")
    assert not list(temporary.iterdir())  # it is gone with the process

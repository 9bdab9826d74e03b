"""Frame features: each column against a literal statement, and against implementations of others."""

import numpy as np
import pytest
from helpers import sound

from npser.features import Span
from npser.frame_features import COLUMNS, frame_features, frame_kind
from npser.inputs import of_frames
from npser.networks import numpy_layers
from npser.store import store_of

CHOSEN = ("log_f0", "mfcc3", "zero_crossings")


@pytest.mark.parametrize("n", [1, 2, 159, 160, 161, 400, 10_100, 10_240])
@pytest.mark.parametrize("sounding", [False, True])
def test_there_is_a_finite_row_every_160_samples(n: int, sounding: bool) -> None:
    S = frame_features(sound(n) * np.float32(sounding))
    assert (S.shape, S.dtype) == ((n // 160 + 1, len(COLUMNS)), np.float32)
    assert np.isfinite(S).all()


def test_the_engine_and_the_plain_path_have_the_same_input() -> None:
    waves = [sound(n, n) for n in (1, 500, 8000)]
    mean, scale = np.arange(6, dtype=np.float32), np.linspace(0.5, 2, 6, dtype=np.float32)
    X, bounds = of_frames(store_of(waves, frame_kind(0.5)), np.array([2, 0, 1]), mean, scale, CHOSEN)
    assert X.dtype == np.float32
    for u, x in enumerate([waves[2], waves[0], waves[1]]):
        (plain,) = numpy_layers.frames_input(Span.of(x), CHOSEN)
        np.testing.assert_array_equal(X[bounds[u] : bounds[u + 1]], (plain - mean) * scale)

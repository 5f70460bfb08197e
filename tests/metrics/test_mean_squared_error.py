"""The mean squared error against scikit-image."""

from __future__ import annotations

import pytest
import skimage.metrics

from captum_robust.metrics import mean_squared_error
from tests.metrics.helpers import assert_equal_to, heavy_tailed, many_ties, mostly_zero, relevance

DATA = pytest.mark.parametrize("make", [many_ties, heavy_tailed, mostly_zero, relevance])
SEEDS = pytest.mark.parametrize("seed", range(4))


@DATA
@SEEDS
@pytest.mark.parametrize("shape", [(5, 9, 11), (3, 40)])
def test_mean_squared_error_equals_skimage(make, seed, shape):
    a, b = make(shape, seed), make(shape, seed + 100)
    assert_equal_to(skimage.metrics.mean_squared_error, mean_squared_error(a, b), a, b, atol=0)

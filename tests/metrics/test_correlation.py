"""Correlations against scipy, on data with and without ties."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from captum_robust.metrics import pearson_correlation, spearman_correlation
from tests.metrics.helpers import (
    assert_equal_to,
    heavy_tailed,
    huge,
    many_ties,
    mostly_zero,
    relevance,
    tiny,
)

RANKED = [many_ties, heavy_tailed, mostly_zero, relevance]
EXTREME = [many_ties, heavy_tailed, relevance, tiny, huge]
DATA = pytest.mark.parametrize("make", RANKED)
SEEDS = pytest.mark.parametrize("seed", range(4))


@pytest.mark.parametrize(
    ("correlation", "makers", "reference"),
    [
        (spearman_correlation, RANKED, scipy.stats.spearmanr),
        (pearson_correlation, EXTREME, scipy.stats.pearsonr),
    ],
)
@SEEDS
@pytest.mark.parametrize("shape", [(5, 9, 11), (3, 40), (2, 3, 5, 4)])
def test_correlations_equal_scipy(correlation, makers, reference, seed, shape):
    for make in makers:
        a, b = make(shape, seed), make(shape, seed + 100)
        oracle = lambda x, y: reference(x.ravel(), y.ravel()).statistic  # noqa: E731
        assert_equal_to(oracle, correlation(a, b), a, b)


@DATA
@pytest.mark.parametrize("seed", range(20))
def test_correlations_of_identical_explanations_are_exactly_one(make, seed):
    a = make((3, 9, 11), seed)
    for correlation in (pearson_correlation, spearman_correlation):
        assert torch.equal(correlation(a, a.clone()), torch.ones(3, dtype=torch.float64))
        assert torch.equal(correlation(a, -a), -torch.ones(3, dtype=torch.float64))


def test_ranks_alone_count_for_spearman():
    a, b = heavy_tailed((4, 60), 1), heavy_tailed((4, 60), 2)
    torch.testing.assert_close(spearman_correlation(a.exp(), b), spearman_correlation(a, b))


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 1e-300])
@pytest.mark.parametrize("correlation", [pearson_correlation, spearman_correlation])
def test_correlation_with_a_constant_is_zero_with_a_warning(correlation, value):
    a, b = heavy_tailed((3, 9, 11), 1), heavy_tailed((3, 9, 11), 2)
    defined = correlation(a, b)
    a[1] = value
    for pair in ((a, b), (b, a)):
        with pytest.warns(UserWarning, match=r"a or b is constant for 1 of 3 examples") as record:
            actual = correlation(*pair)
        assert [warning.filename for warning in record] == [__file__]
        assert torch.equal(actual, defined * torch.tensor([1, 0, 1]))


def test_correlation_of_nearly_constant_is_defined():
    a = torch.ones(1, 50, dtype=torch.float64)
    a[0, 7] = np.nextafter(1, 2)
    torch.testing.assert_close(pearson_correlation(a, a), torch.ones(1, dtype=torch.float64))

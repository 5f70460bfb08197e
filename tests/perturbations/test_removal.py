"""The Shapley kernel and what the removal of groups draws."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from captum_robust.perturbations import (
    Points,
    ShapleyRemoval,
)
from tests.helpers import rng


def shapley_probability(k, n):
    """Of one set of k of n features, before normalisation (Proposition 2.5)."""
    return (n - 1) / (math.comb(n, k) * k * (n - k))


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_shapley_kernel(n):
    """Frequencies of all sets, within five standard deviations of the binomial."""
    n_samples = 40_000
    sets = [z for z in itertools.product([0, 1], repeat=n) if 0 < sum(z) < n]
    weights = [shapley_probability(sum(z), n) for z in sets]
    points = Points.of(torch.ones(1, n))
    (drawn,) = ShapleyRemoval().shifts(points, n_samples, rng(3))
    seen = [tuple(z) for z in drawn[0].int().tolist()]
    assert set(seen) == set(sets)
    for z, weight in zip(sets, weights, strict=True):
        p = weight / sum(weights)
        deviation = math.sqrt(p * (1 - p) * n_samples)
        assert abs(seen.count(z) - p * n_samples) < 5 * deviation
    (moment,) = ShapleyRemoval().second_moment(points)
    rows = torch.tensor(sets, dtype=torch.float64)
    p = torch.tensor(weights, dtype=torch.float64)
    torch.testing.assert_close(moment, rows.T @ (rows * (p / p.sum()).unsqueeze(1)))


def test_one_feature_is_removed_always():
    points = Points.of(torch.ones(2, 1))
    (drawn,) = ShapleyRemoval().shifts(points, 4, rng())
    assert torch.equal(drawn, torch.ones(2, 4, 1))
    assert torch.equal(ShapleyRemoval().second_moment(points), torch.ones(2, 1, 1).double())

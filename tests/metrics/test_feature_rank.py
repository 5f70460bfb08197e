"""The rank of a feature against scipy's, and bad input."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import rankdata

from captum_robust.metrics import feature_rank
from tests.helpers import normal


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_rank_is_scipys_mean_rank(dtype):
    a = (normal(20, 6) * 2).round().to(dtype)  # with ties
    for feature in range(6):
        want = [rankdata(-row.abs().double().numpy())[feature] for row in a]
        assert feature_rank(a, feature).tolist() == want


def test_in_an_explanation_of_zeros_no_feature_is_the_first():
    assert feature_rank(torch.zeros(2, 3), 1).tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("attributions", "feature", "error", "message"),
    [
        ([[1.0]], 0, TypeError, "attributions must be a floating-point tensor"),
        (torch.ones(2, 3).long(), 0, TypeError, "attributions must be a floating-point tensor"),
        (torch.ones(3), 0, ValueError, r"attributions must be \(N, K\)"),
        (torch.ones(0, 3), 0, ValueError, r"attributions must be \(N, K\)"),
        (torch.ones(2, 3, 4), 0, ValueError, "column_attributions makes them"),
        (torch.ones(2, 3) / 0, 0, ValueError, "attributions has NaN or Inf"),
        (torch.ones(2, 3), 3, ValueError, "feature must be a column, 0 to 2, got 3"),
        (torch.ones(2, 3), "age", TypeError, "feature must be a column's number"),
        (torch.ones(2, 3), True, TypeError, "feature must be a column's number"),
        (torch.ones(2, 3), -1, ValueError, "feature must be a column"),
    ],
    ids=str,
)
def test_bad_input(attributions, feature, error, message):
    with pytest.raises(error, match=message):
        feature_rank(attributions, feature)


def test_summed_over_the_features_of_a_column():
    assert feature_rank(torch.ones(2, 3, 4).sum(2), 0).tolist() == [2.0, 2.0]

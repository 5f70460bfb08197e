"""The intersection of the most relevant features against sorted sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from captum_robust.metrics import top_k_intersection
from tests.metrics.helpers import assert_equal_to, heavy_tailed, many_ties, mostly_zero, relevance

DATA = pytest.mark.parametrize("make", [many_ties, heavy_tailed, mostly_zero, relevance])
SEEDS = pytest.mark.parametrize("seed", range(4))
GOOD = torch.arange(128.0).view(2, 8, 8)


def oracle_top_k(x, y, k):
    """The sets, as a sort by value and then by position."""

    def top(numbers):
        flat = numbers.ravel().tolist()
        return set(sorted(range(len(flat)), key=lambda i: (-flat[i], i))[:k])

    return len(top(x) & top(y)) / k


@DATA
@SEEDS
@pytest.mark.parametrize("k", [1, 8, 50, 99])
def test_top_k_equals_sorted_sets(make, seed, k):
    a, b = make((3, 9, 11), seed), make((3, 9, 11), seed + 100)
    assert_equal_to(lambda x, y: oracle_top_k(x, y, k), top_k_intersection(a, b, k), a, b, atol=0)


def test_top_k_of_a_constant_is_the_first_k_with_a_warning():
    a = torch.zeros(2, 10)
    b = torch.arange(20.0).view(2, 10).flip(1)
    with pytest.warns(UserWarning, match="a or b is constant for 2 of 2.*the first 3") as record:
        assert torch.equal(top_k_intersection(a, b, 3), torch.ones(2))
    assert [warning.filename for warning in record] == [__file__]
    with pytest.warns(UserWarning, match="constant"):
        assert torch.equal(top_k_intersection(b.flip(1), a, 3), torch.zeros(2))


@pytest.mark.parametrize(
    ("k", "error", "match"),
    [
        (0, ValueError, "^k must be from 1 to .*64, got 0"),
        (-1, ValueError, "^k must be from 1 to .*64, got -1"),
        (65, ValueError, "^k must be from 1 to .*64, got 65"),
        (0.5, TypeError, "^k must be a whole number"),
        (None, TypeError, "^k must be a whole number"),
    ],
)
def test_bad_k_is_named(k, error, match):
    with pytest.raises(error, match=match):
        top_k_intersection(GOOD, GOOD, k)


def test_k_may_be_any_whole_number_type():
    assert torch.equal(top_k_intersection(GOOD, GOOD, np.int64(5)), torch.ones(2))
    assert torch.equal(top_k_intersection(GOOD, GOOD, torch.tensor(64)), torch.ones(2))

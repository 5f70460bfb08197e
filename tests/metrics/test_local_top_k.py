"""The local top-k intersection against loops over pixels, and on shifted maps."""

from __future__ import annotations

import itertools

import pytest
import torch

from captum_robust.metrics import local_top_k_intersection, top_k_intersection
from tests.metrics.helpers import heavy_tailed, many_ties, mostly_zero, relevance

MAKERS = pytest.mark.parametrize("make", [heavy_tailed, many_ties, mostly_zero, relevance])
SHAPES = pytest.mark.parametrize("shape", [(3, 17), (2, 7, 6), (2, 4, 3, 5)])
GOOD = torch.arange(128.0).view(2, 8, 8)


def sorted_pixels(numbers):
    pixels = list(itertools.product(*map(range, numbers.shape)))
    return sorted(pixels, key=lambda p: -numbers[p].item())  # stable: equal ones by position


def near(p, q, distance):
    return all(abs(i - j) <= distance for i, j in zip(p, q, strict=True))


def top(numbers, k, distance, diverse):
    taken = []
    for p in sorted_pixels(numbers):
        if len(taken) < k and not (diverse and any(near(p, q, distance) for q in taken)):
            taken.append(p)
    return taken


def literal(x, y, k, distance, diverse):
    mine, others = top(x, k, distance, diverse), top(y, k, distance, diverse)
    return sum(any(near(p, q, distance) for q in others) for p in mine) / len(mine)


@MAKERS
@SHAPES
@pytest.mark.parametrize("distance", [0, 1, 2, 9])
@pytest.mark.parametrize("diverse", [False, True])
def test_against_loops(make, shape, distance, diverse):
    a, b = make(shape, 1), make(shape, 2)
    for k in (1, 4, 12):
        got = local_top_k_intersection(a, b, k, distance, diverse=diverse)
        want = [literal(x, y, k, distance, diverse) for x, y in zip(a, b, strict=True)]
        torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64))


@MAKERS
@pytest.mark.parametrize("k", [1, 8, 40])
def test_without_a_distance_it_is_the_intersection(make, k):
    a, b = make((4, 9, 11), 1), make((4, 9, 11), 2)
    want = top_k_intersection(a, b, k)
    assert torch.equal(local_top_k_intersection(a, b, k, 0), want)
    assert (local_top_k_intersection(a, b, k, 1) >= want).all()


def test_a_map_that_moved_is_kept_within_the_distance():
    spots = torch.zeros(1, 20, 20)
    for row, column in ((3, 3), (3, 12), (14, 8)):
        spots[0, row, column] = 1.0 + row + column
    moved = spots.roll((2, 1), (1, 2))
    assert [local_top_k_intersection(spots, moved, 3, w).item() for w in (0, 1, 2)] == [0, 0, 1]


def test_one_spot_fills_a_set_that_is_not_diverse():
    a = torch.zeros(1, 12, 12)
    a[0, :3, :3] = 5 + torch.arange(9.0).view(3, 3)
    a[0, 8, 8] = 1.0
    b = a.clone()
    b[0, 8, 8] = 0.0
    b[0, 4, 10] = 1.0
    assert local_top_k_intersection(a, b, 9).item() == 1
    assert local_top_k_intersection(a, b, 2, 2, diverse=True).item() == 0.5


def test_recall_is_the_precision_of_the_other_order():
    a, b = torch.tensor([[3.0, 0.0, 0.0, 0.0, 2.0]]), torch.tensor([[3.0, 2.0, 0.0, 0.0, 0.0]])
    assert local_top_k_intersection(a, b, 2).item() == 0.5
    assert local_top_k_intersection(b, a, 2).item() == 1.0


def test_a_constant_map_is_warned_of():
    with pytest.warns(UserWarning, match="constant for 1 of 1.*its 3 largest pixels"):
        local_top_k_intersection(torch.zeros(1, 6), torch.arange(6.0)[None], 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_precisions(dtype):
    a, b = relevance((2, 8, 8), 1).to(dtype), relevance((2, 8, 8), 2).to(dtype)
    got = local_top_k_intersection(a, b, 5)
    assert got.dtype == torch.float32
    want = local_top_k_intersection(a.double(), b.double(), 5)
    torch.testing.assert_close(got, want.float())


BAD = {
    "k 0": ((GOOD, GOOD, 0), ValueError, "k must be from 1 to .*64, got 0"),
    "k 65": ((GOOD, GOOD, 65), ValueError, "k must be from 1 to .*64, got 65"),
    "k 0.5": ((GOOD, GOOD, 0.5), TypeError, "k must be a whole number"),
    "distance -1": ((GOOD, GOOD, 3, -1), ValueError, "distance must be at least 0"),
    "distance 1.5": ((GOOD, GOOD, 3, 1.5), TypeError, "distance must be a whole number"),
    "shape": ((GOOD, GOOD[:1], 3), ValueError, "b must have the shape of a"),
    "nan": ((GOOD / 0, GOOD, 3), ValueError, "a contains NaN or Inf"),
    "dimensions": (
        (GOOD.view(2, 2, 2, 4, 4), GOOD.view(2, 2, 2, 4, 4), 3), ValueError,
        r"a must be .*relevance_map\(a\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    arguments, error, message = BAD[case]
    with pytest.raises(error, match=message):
        local_top_k_intersection(*arguments)

"""The four foolings against loops over pixels, on maps whose value is known."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch

from captum_robust.metrics import (
    FoolingIntervals,
    active_fooling,
    center_mass_fooling,
    location_fooling,
    top_k_fooling,
)
from tests.metrics.helpers import assert_equal_to, heavy_tailed, per_example, relevance

MAKERS = pytest.mark.parametrize("make", [heavy_tailed, relevance])
GOOD = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))


def unit(numbers):
    return (numbers - numbers.min()) / (numbers.max() - numbers.min())


@MAKERS
def test_location_against_the_formula(make):
    maps = make((4, 6, 5), 1)
    region = torch.zeros(6, 5, dtype=torch.bool)
    region[0], region[-1], region[:, 0], region[:, -1] = True, True, True, True  # Heo: a frame

    def oracle(x, _):
        terms = [(float(region[i, j]) - unit(x)[i, j]) ** 2 for i in range(6) for j in range(5)]
        return sum(terms) / 30

    assert_equal_to(oracle, location_fooling(maps, region), maps, maps)
    torch.testing.assert_close(
        location_fooling(maps, region), location_fooling(7 * maps + 3, region.float())
    )


def test_location_of_the_region_itself_is_zero_and_of_its_opposite_one():
    region = torch.eye(4)
    maps = torch.stack([region, 1 - region])
    torch.testing.assert_close(location_fooling(maps, region), torch.tensor([0.0, 1.0]))
    assert location_fooling(torch.ones(1, 4, 4), region).item() == 0.25  # constant: all zero


@MAKERS
@pytest.mark.parametrize("k", [1, 3, 30])
def test_top_k_against_loops(make, k):
    original, manipulated = make((4, 6, 5), 1), make((4, 6, 5), 2)

    def oracle(x, y):
        flat = unit(y).ravel()
        best = sorted(range(30), key=lambda i: -x.ravel()[i])[:k]
        return sum(flat[i] ** 2 for i in best) / k

    got = top_k_fooling(original, manipulated, k)
    assert_equal_to(oracle, got, original, manipulated)


@MAKERS
def test_the_centre_of_mass_against_loops(make):
    original, manipulated = make((4, 6, 5), 1), make((4, 6, 5), 2)

    def center(x):
        weights = unit(x)
        rows = sum(i * weights[i, j] for i in range(6) for j in range(5)) / weights.sum()
        columns = sum(j * weights[i, j] for i in range(6) for j in range(5)) / weights.sum()
        return rows / 5, columns / 4

    def oracle(x, y):
        (a, b), (c, d) = center(x), center(y)
        return math.sqrt(((a - c) ** 2 + (b - d) ** 2) / 2)

    got = center_mass_fooling(original, manipulated)
    assert_equal_to(oracle, got, original, manipulated)


def test_centres_of_series_of_lines_and_of_constants():
    ends = torch.eye(5)[[0, 4]]
    assert center_mass_fooling(ends[:1], ends[1:]).item() == 1
    line = ends.unsqueeze(1)  # a side of one pixel does not count
    assert center_mass_fooling(line[:1], line[1:]).item() == 1
    with pytest.warns(UserWarning, match="constant for 1 of 1"):
        assert center_mass_fooling(ends[:1], torch.zeros(1, 5)).item() == 0.5


@MAKERS
def test_active_against_scipy(make):
    a, b, c = (make((4, 6, 5), seed) for seed in (1, 2, 3))
    rank = lambda x, y: scipy.stats.spearmanr(x.ravel(), y.ravel()).statistic  # noqa: E731
    want = per_example(rank, b, c) - per_example(rank, a, c)
    torch.testing.assert_close(active_fooling(a, b, c), want)
    assert (active_fooling(a, -a, -a) == 2).all()
    assert (active_fooling(a, -a, a) == -2).all()


def test_nothing_fooled_is_outside_of_every_interval_and_all_fooled_inside():
    fooled = FoolingIntervals()
    maps, region = torch.zeros(1, 10, 10), torch.zeros(10, 10)
    maps[0, 4:6, 4:6] = 1.0
    region[:3] = 1.0
    other = torch.flip(maps, (1,)).roll(4, 1)
    pairs = {
        "location": (location_fooling(maps, region), location_fooling(region[None], region)),
        "top_k": (top_k_fooling(maps, maps, 4), top_k_fooling(maps, other, 4)),
        "center_mass": (center_mass_fooling(maps, maps), center_mass_fooling(maps, other)),
        "active": (active_fooling(maps, other, maps), active_fooling(maps, other, other)),
    }
    for name, (before, after) in pairs.items():
        low, high = getattr(fooled, name)
        assert not low <= before.item() <= high, name
        assert low <= after.item() <= high, name


BAD = {
    "region shape": (location_fooling, (GOOD, torch.zeros(4)), ValueError, "region must be a ten"),
    "region kind": (location_fooling, (GOOD, "frame"), ValueError, "region must be a tensor"),
    "region value": (location_fooling, (GOOD, 2 * torch.ones(4, 4)), ValueError, r"region\.bool"),
    "location nan": (location_fooling, (GOOD / 0, torch.ones(4, 4)), ValueError, "NaN or Inf"),
    "k": (top_k_fooling, (GOOD, GOOD, 17), ValueError, "k must be from 1 to .*16"),
    "k kind": (top_k_fooling, (GOOD, GOOD, 1.0), TypeError, "k must be a whole number"),
    "top shape": (top_k_fooling, (GOOD, GOOD[:1], 3), ValueError, "must have the shape"),
    "one pixel": (center_mass_fooling, (GOOD[:, :1, :1],) * 2, ValueError, "two pixels or more"),
    "empty": (center_mass_fooling, (GOOD[:0], GOOD[:0]), ValueError, "is empty"),
    "active shape": (active_fooling, (GOOD, GOOD[:1], GOOD), ValueError, "must have the shape"),
    "active kind": (active_fooling, (GOOD.long(), GOOD, GOOD), TypeError, "floating-point"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    function, arguments, error, message = BAD[case]
    with pytest.raises(error, match=message):
        function(*arguments)


def test_the_mend_of_a_region_works():
    assert location_fooling(GOOD, (2 * torch.eye(4)).bool()).shape == (3,)

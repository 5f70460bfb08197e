"""What the removal of squares draws, and its bad input."""

from __future__ import annotations

import math

import pytest
import torch

from captum_robust.perturbations import (
    Points,
    SquareRemoval,
)
from tests.helpers import rng


def test_removed_squares_of_two_images():
    points = Points.of((torch.ones(1, 2, 3, 3), torch.ones(1, 1, 2, 2)))
    drawn = SquareRemoval([2]).shifts(points, 3000, rng())
    first, second = (d[0].flatten(1).sum(1) for d in drawn)
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == {(8.0, 0.0), (0.0, 4.0)}
    assert abs((second > 0).double().mean() - 1 / 5) < 5 * math.sqrt(0.16 / 3000)
    assert torch.equal(drawn[0][:, :, 0], drawn[0][:, :, 1])  # through all channels


def test_squares_larger_than_the_image():
    with pytest.raises(ValueError, match="sizes: a square of 4 does not fit into 3 x 9"):
        SquareRemoval([2, 4]).shifts(Points.of(torch.ones(1, 1, 3, 9)), 1, rng())

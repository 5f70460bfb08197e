"""Perturbations that move every feature: bad settings."""

from __future__ import annotations

import pytest
import torch

from captum_robust.perturbations import (
    CoordinateStep,
    GaussianBaseline,
    Points,
    SeveralBaselines,
    SquareRemoval,
)
from tests.helpers import rng

ONES = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SquareRemoval([]), ValueError, "sizes is empty"),
        (lambda: SquareRemoval(range(0)), ValueError, "sizes is empty"),
        (lambda: SquareRemoval([0]), ValueError, "sizes must be at least 1"),
        (lambda: SquareRemoval(range(3)), ValueError, "sizes must be at least 1"),
        (lambda: SquareRemoval([2.0]), TypeError, "sizes must be a whole number"),
        (lambda: SquareRemoval(5), TypeError, r"sizes must be several .* \[5\]"),
        (lambda: GaussianBaseline(0), ValueError, "stdev must be positive"),
        (lambda: GaussianBaseline((0.1, -0.1)), ValueError, "stdev must be positive"),
        (lambda: GaussianBaseline(float("nan")), ValueError, "stdev must be positive"),
        (lambda: GaussianBaseline("0.1"), TypeError, "stdev must be a number"),
        (lambda: CoordinateStep(0.0), ValueError, "step must be positive"),
        (lambda: CoordinateStep(float("inf")), ValueError, "step must be positive"),
        (lambda: SeveralBaselines(ONES * torch.nan), ValueError, "NaN"),
        (lambda: SeveralBaselines(torch.zeros(0, 3)), ValueError, "empty"),
    ],
)
def test_bad_distributions(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("perturbation", "message"),
    [
        (SquareRemoval([1]), r"inputs must be images .* got shape \(2, 3\)"),
        (GaussianBaseline((0.1, 0.2)), "stdev has 2 values for 1 inputs"),
        (SeveralBaselines(torch.zeros(4, 2)), "baselines of SeveralBaselines have shapes"),
        (SeveralBaselines((ONES, ONES)), "baselines of SeveralBaselines have shapes"),
    ],
)
def test_distributions_that_do_not_fit_the_inputs(perturbation, message):
    with pytest.raises(ValueError, match=message):
        perturbation.shifts(Points.of(ONES), 1, rng())

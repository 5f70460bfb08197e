"""Each form of the matrix of the least squares against the matrix itself."""

from __future__ import annotations

import pytest
import torch

from captum_robust.attr._infidelity.designs import RowsDesign, SquaresDesign, SubsetsDesign
from captum_robust.perturbations.grid import Grid
from tests.helpers import close, normal, rng


def subsets(n, k):
    return torch.rand(n, k, generator=rng(3)) < 0.4


def weighted(n, k):
    weights = torch.rand(n, generator=rng(4), dtype=torch.float64)
    design = SubsetsDesign(subsets(n, k), weights, torch.float64)
    return design, subsets(n, k).double() * weights.sqrt().unsqueeze(1)


def squares(everything):
    grid = Grid((1, 2), (3, 4))
    drawn = grid.draw(len(grid) if everything else 6, rng())
    return SquaresDesign(drawn, grid if everything else None), drawn.masks().flatten(1).double()


CASES = {
    "rows": lambda: (RowsDesign(normal(5, 7)), normal(5, 7)),
    "subsets": lambda: (SubsetsDesign(subsets(5, 7), None, torch.float64), subsets(5, 7).double()),
    "weighted subsets": lambda: weighted(5, 7),
    "more than one part of rows and of columns": lambda: weighted(1030, 1027),
    "some squares": lambda: squares(False),
    "all squares": lambda: squares(True),
}


@pytest.mark.parametrize("case", CASES)
def test_a_design_is_its_matrix(case):
    design, z = CASES[case]()
    n, k = z.shape
    assert (design.n_rows, design.n_columns) == (n, k)
    features, values, scale = normal(2, k), normal(3, n), normal(k, seed=5).square()
    close(design.matvec(features), features @ z.T)
    close(design.rmatvec(values), values @ z)
    close(design.normal_matrix(), z.T @ z)
    close(design.normal_matrix(), z.T @ z)  # also when it is asked again
    close(design.gram(scale), (z * scale) @ z.T)

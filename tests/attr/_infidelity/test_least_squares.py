"""Least squares over subsets against dense algebra, and ridges against brute force."""

from __future__ import annotations

import pytest
import torch

from captum_robust.attr._infidelity.designs import RowsDesign, SubsetsDesign
from captum_robust.attr._infidelity.least_squares import solve, solve_each, solve_normal_equations
from tests.attr._infidelity.literal import literal_gcv, literal_ridge
from tests.helpers import close, normal, rng

SINGULAR = "the second moment of the perturbation is singular"


def subsets(n, k):
    return SubsetsDesign(torch.rand(n, k, generator=rng(3)) < 0.5, None, torch.float64)


def dense(design, scale):
    return design.matvec(torch.eye(design.n_columns, dtype=torch.float64)).T * scale


@pytest.mark.parametrize("n", [4, 30], ids=["dual", "primal"])
@pytest.mark.parametrize("unmoved", [[], [1, 3]], ids=["all move", "some do not"])
def test_the_shortest_solution(n, unmoved):
    design, d, scale = subsets(n, 6), normal(2, n, seed=2), normal(6, seed=4)
    scale[unmoved] = 0
    t = solve(design, d, scale.square(), exact=True)
    close(t * scale, d @ torch.linalg.pinv(dense(design, scale)).T)
    assert (t[:, unmoved] == 0).all()


@pytest.mark.parametrize("n", [4, 30], ids=["dual", "primal"])
def test_the_shortest_solution_whose_total_is_given(n):
    """By Lagrange: minimise |A b - d|^2 where s'b = T, in the coordinates across s."""
    design, d, scale = subsets(n, 6), normal(2, n, seed=2), normal(6, seed=4)
    totals = normal(2, seed=7)
    t = solve(design, d, scale.square(), exact=True, totals=totals)
    a, unit = dense(design, scale), scale / scale.norm()
    start = totals.unsqueeze(1) * scale / scale.square().sum()
    across = torch.linalg.svd(unit[None])[2][1:].T  # a basis of what is at right angles to s
    rest = (d - start @ a.T) @ torch.linalg.pinv(a @ across).T
    close(t * scale, start + rest @ across.T)
    close((t * scale.square()).sum(1), totals)


def test_one_feature_that_moves_has_the_total():
    scale = torch.tensor([0.0, 2.0, 0.0, 0, 0, 0]).double()
    t = solve(subsets(30, 6), normal(1, 30), scale.square(), exact=True, totals=normal(1))
    close(t[0, 1] * 4, normal(1)[0])
    assert torch.equal(t == 0, (scale == 0)[None])


def test_where_nothing_moves_there_is_no_attribution():
    t = solve(subsets(30, 6), normal(2, 30), torch.zeros(6).double(), exact=True)
    assert torch.equal(t, torch.zeros(2, 6).double())


@pytest.mark.parametrize(("n", "literal"), [(9, literal_ridge), (25, literal_gcv)])
def test_the_ridge_of_a_sample(n, literal):
    rows, d = normal(n, 6), normal(2, n, seed=2)
    t = solve(RowsDesign(rows), d, torch.ones(6).double(), exact=False)
    for i in range(2):
        close(t[i], literal(rows, d[i]), rtol=1e-6)


def test_scales_of_each_example_and_one_for_all():
    design, d, squares = subsets(30, 6), normal(3, 30, seed=2), normal(3, 6, seed=4).square()
    totals = normal(3)
    got = solve_each(design, d, squares, exact=True, totals=totals)
    for i in range(3):
        alone = solve(design, d[i : i + 1], squares[i], exact=True, totals=totals[i : i + 1])
        close(got[i], alone[0])
    shared = solve_each(design, d, squares[:1], exact=True)
    close(shared, solve(design, d, squares[0], exact=True))


def test_a_singular_matrix_gives_the_shortest_solution_and_a_warning():
    a = normal(3, 5)
    with pytest.warns(UserWarning, match=SINGULAR):
        got = solve_normal_equations(a.T @ a, normal(2, 3, seed=2) @ a)
    close(got, normal(2, 3, seed=2) @ a @ torch.linalg.pinv(a.T @ a, hermitian=True))
    silent = solve_normal_equations(a.T @ a, normal(2, 3, seed=2) @ a, warn=False)
    assert torch.equal(silent, got)

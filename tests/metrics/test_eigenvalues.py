"""Largest eigenvalues by products alone, against dense decompositions."""

from __future__ import annotations

import pytest
import torch

from captum_robust.metrics._eigenvalues import largest_eigenvalues, largest_singular_values
from tests.metrics.helpers import rng


def matrices(n, d, rank=None, seed=0):
    a = torch.randn(n, d, rank or d, generator=rng(seed), dtype=torch.float64)
    signs = torch.randn(n, 1, rank or d, generator=rng(seed + 1), dtype=torch.float64).sign()
    return (a * signs) @ a.transpose(1, 2)


@pytest.mark.parametrize(("n", "d", "rank"), [(5, 1, None), (5, 6, None), (3, 20, 2), (4, 12, 1)])
def test_lanczos_is_exact_after_d_products(n, d, rank):
    matrix = matrices(n, d, rank)
    start = torch.randn(n, d, generator=rng(3), dtype=torch.float64)
    calls = []

    def product(v):
        calls.append(v)
        return torch.einsum("nij,nj->ni", matrix, v)

    value, done = largest_eigenvalues(product, start, 1000, 1e-12)
    want = torch.linalg.eigvalsh(matrix).abs().amax(1)
    torch.testing.assert_close(value, want, rtol=1e-10, atol=0)
    assert done.all()
    assert len(calls) <= min(d, 2 + (rank or d))


def test_lanczos_that_stops_early_is_below_and_says_so():
    matrix = matrices(4, 30)
    start = torch.randn(4, 30, generator=rng(3), dtype=torch.float64)
    value, done = largest_eigenvalues(
        lambda v: torch.einsum("nij,nj->ni", matrix, v), start, 3, 1e-12
    )
    assert not done.any()
    assert (value < torch.linalg.eigvalsh(matrix).abs().amax(1)).all()


def test_lanczos_of_zero_is_zero():
    value, done = largest_eigenvalues(torch.zeros_like, torch.ones(2, 3), 10, 1e-3)
    assert torch.equal(value, torch.zeros(2))
    assert done.all()


@pytest.mark.parametrize("split", [(6,), (2, 4), (1, 2, 3)])
def test_power_iteration_against_the_singular_values(split):
    jacobian = torch.randn(5, 4, 6, generator=rng(), dtype=torch.float64)

    def product(v):
        joined = torch.cat(v, dim=1)
        image = torch.einsum("nki,nkj,nj->ni", jacobian, jacobian, joined)
        return image.split(split, dim=1)

    start = torch.randn(5, 6, generator=rng(3), dtype=torch.float64).split(split, dim=1)
    value, done = largest_singular_values(product, start, 20000, 1e-10)
    want = torch.linalg.matrix_norm(jacobian, 2)
    torch.testing.assert_close(value, want, rtol=1e-8, atol=0)
    assert done.all()
    early, done = largest_singular_values(product, start, 1, 1e-10)
    assert (early <= want).all()
    assert not done.any()

"""What the optima share: chunks, scales, and arithmetic over examples."""

from __future__ import annotations

import pytest
import torch

from captum_robust._utils.explained_output import ExplainedOutput
from captum_robust.attr._infidelity.problem import Problem, divide, per_example, scalar_products
from captum_robust.perturbations import Points
from tests.helpers import Smooth, normal, rng


def problem(is_global, dtype=torch.float32):
    x, y = normal(2, 3).to(dtype), normal(2, 2, 2, seed=2).to(dtype)
    points = Points.of((x, y), (0.5, normal(1, 2, 2, seed=3)))
    output = ExplainedOutput(Smooth(7).to(dtype), points.inputs, 1, None)
    return Problem(points, output, None, 3, rng(), is_global, False)


@pytest.mark.parametrize("is_global", [True, False])
def test_scales_and_forms(is_global):
    p = problem(is_global)
    x, y = p.points.inputs
    mu = (x - 0.5, y - normal(1, 2, 2, seed=3).float())
    for difference, scale, want in zip(p.differences, p.scales(), mu, strict=True):
        assert difference.dtype == torch.float64
        torch.testing.assert_close(difference, want.double())
        assert torch.equal(scale, torch.ones_like(scale) if is_global else difference)
    local = (normal(2, 3, seed=8), normal(2, 2, 2, seed=9))
    for got, phi, m in zip(p.globalised(local), local, p.differences, strict=True):
        assert torch.equal(got, phi * m if is_global else phi)


def test_chunks_cover_the_work_and_features_find_their_shapes():
    p = problem(True)
    assert list(p.chunks(7)) == [(0, 3), (3, 6), (6, 7)]
    assert p.sizes == [3, 4]
    first, second = p.in_shape(torch.arange(14.0).view(2, 7))
    assert torch.equal(first, torch.tensor([[0.0, 1, 2], [7, 8, 9]]))
    assert torch.equal(second[1], torch.tensor([[10.0, 11], [12, 13]]))


def test_output_differences_are_those_of_the_model():
    p = problem(True, torch.float64)
    copies = tuple(normal(2, 5, *x.shape[1:], seed=5) for x in p.points.inputs)
    got = p.output_differences(
        iter([tuple(c[:, :2] for c in copies), tuple(c[:, 2:] for c in copies)]), 5
    )
    model = Smooth(7)
    for i in range(2):
        for j in range(5):
            clean = model(*(x[i : i + 1] for x in p.points.inputs))[0, 1]
            moved = model(*(c[i, j : j + 1] for c in copies))[0, 1]
            torch.testing.assert_close(got[i, j], (clean - moved).detach())


def test_arithmetic_over_examples():
    x, y = normal(2, 3), normal(2, 2, 2, seed=2)
    want = (x * x).sum(1) + (y * y).sum((1, 2))
    torch.testing.assert_close(scalar_products((x, y), (x, y)), want)
    assert per_example(torch.ones(2), y).shape == (2, 1, 1)
    quotient = divide(torch.tensor([1.0, 2.0, 0.0]), torch.tensor([4.0, 0.0, 0.0]))
    assert torch.equal(quotient, torch.tensor([0.25, 0.0, 0.0]))

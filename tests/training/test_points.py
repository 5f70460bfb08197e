"""Where the points of ATEX lie: Tang et al. 2021, Eq. 5 and 6."""

from __future__ import annotations

import math

import pytest
import torch

from captum_robust.training import (
    Draws,
    NeighbourhoodPoints,
    points_parallel,
    points_perpendicular,
)
from tests.training.runs import atex

D = torch.float64


SHAPES = [(7,), (1, 5, 5), (3, 4, 4)]


def drawn(shape: tuple[int, ...], n: int = 3):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, *shape, generator=generator)
    phi = torch.randn(n, *shape, generator=generator)
    return x, phi, generator


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", [2.0, math.inf, 1.0])
def test_points_parallel_are_the_literal_equation(shape, norm):
    x, phi, generator = drawn(shape)
    shifts = torch.rand(3, 4, generator=generator) - 0.5
    found = points_parallel(x, phi, shifts, norm)
    assert found.shape == (3, 4, *shape)
    for i in range(3):
        length = torch.linalg.vector_norm(phi[i].flatten(), ord=norm)
        for j in range(4):
            torch.testing.assert_close(found[i, j], x[i] + shifts[i, j] * phi[i] / length)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", [2.0, math.inf])
def test_points_perpendicular_are_the_literal_equation(shape, norm):
    x, phi, generator = drawn(shape)
    points = points_parallel(x, phi, torch.zeros(3, 2), norm)
    noise = torch.randn(3, 2, 5, *shape, generator=generator)
    shifts = torch.rand(3, 2, 5, generator=generator) - 0.5
    found = points_perpendicular(points, phi, noise, shifts, norm)
    assert found.shape == (3, 2, 5, *shape)
    for i in range(3):
        for j in range(2):
            for k in range(5):
                u, p = noise[i, j, k], phi[i]
                beside = u - p * (u * p).sum() / p.square().sum()
                beside = beside / torch.linalg.vector_norm(beside.flatten(), ord=norm)
                torch.testing.assert_close(
                    found[i, j, k], points[i, j] + shifts[i, j, k] * beside, atol=1e-6, rtol=1e-5
                )


def directions(x: torch.Tensor) -> torch.Tensor:
    """A direction for each example that is not that of a gradient."""
    return x.flip(-1) - 0.3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", [2.0, math.inf])
def test_drawn_points_are_parallel_and_perpendicular_and_in_range(shape, norm):
    x, _, _ = drawn(shape, n=50)
    points = NeighbourhoodPoints(0.3, 0.7, n_parallel=3, n_perpendicular=4, norm=norm)
    parallel, beside = points.draw(x, directions(x), Draws(seed=5))
    phi = torch.nn.functional.normalize((x.flip(-1) - 0.3).flatten(1), dim=1)

    moves = (parallel - x.unsqueeze(1)).flatten(2)
    component = (moves * phi.unsqueeze(1)).sum(2, keepdim=True)
    off = (moves - component * phi.unsqueeze(1)).norm(dim=2)
    assert off.max() < 1e-5
    size = torch.linalg.vector_norm(moves, ord=norm, dim=2)
    assert 0.25 < size.max() < 0.3 + 1e-6
    assert component.min() < 0 < component.max()

    moves = (beside - parallel.unsqueeze(2)).flatten(3)
    assert (moves * phi[:, None, None]).sum(3).abs().max() < 1e-5
    size = torch.linalg.vector_norm(moves, ord=norm, dim=3)
    assert 0.6 < size.max() < 0.7 + 1e-6
    assert size.min() < 0.1


def test_the_shifts_are_uniform():
    x = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0))
    points = NeighbourhoodPoints(0.5, 0.25, n_perpendicular=1)
    parallel, beside = points.draw(x, directions(x), Draws(seed=6))
    for moves, delta in ((parallel - x.unsqueeze(1), 0.5), (beside[:, :, 0] - parallel, 0.25)):
        size = moves.flatten(1).norm(dim=1) / delta
        # Quartiles of |U(-1, 1)|; their standard errors here are below 0.008.
        quartiles = torch.quantile(size, torch.tensor([0.25, 0.5, 0.75]))
        torch.testing.assert_close(quartiles, torch.tensor([0.25, 0.5, 0.75]), atol=0.03, rtol=0)


def test_a_zero_explanation_moves_nothing_parallel_and_anything_perpendicular():
    x, phi, generator = drawn((4,))
    phi = torch.zeros_like(phi)
    points = points_parallel(x, phi, torch.ones(3, 1))
    assert torch.equal(points[:, 0], x)
    u = torch.randn(3, 1, 2, 4, generator=generator)
    beside = points_perpendicular(points, phi, u, torch.ones(3, 1, 2))
    expected = x[:, None, None] + torch.nn.functional.normalize(u, dim=3)
    torch.testing.assert_close(beside, expected)


def test_noise_parallel_to_the_explanation_leaves_the_point_where_it_is():
    x, phi, _ = drawn((4,))
    points = points_parallel(x, phi, torch.zeros(3, 1))
    found = points_perpendicular(
        points, torch.zeros_like(phi), torch.zeros(3, 1, 1, 4), torch.ones(3, 1, 1)
    )
    assert torch.equal(found[:, 0, 0], x)


@pytest.mark.parametrize(("delta1", "delta2"), [(0.0, 0.4), (0.4, 0.0)])
def test_a_delta_of_zero_switches_its_direction_off(delta1, delta2):
    x, _, _ = drawn((6,), n=5)
    parallel, beside = NeighbourhoodPoints(delta1, delta2).draw(x, directions(x), Draws(seed=7))
    assert torch.equal(parallel, x.unsqueeze(1).expand_as(parallel)) == (delta1 == 0)
    assert torch.equal(beside, parallel.unsqueeze(2).expand_as(beside)) == (delta2 == 0)


def test_an_input_range_holds_for_all_points():
    x, _, _ = drawn((6,), n=20)
    free = NeighbourhoodPoints(2.0, 2.0).draw(x, directions(x), Draws(seed=8))
    bounded = NeighbourhoodPoints(2.0, 2.0, input_range=(0.0, 1.0))
    kept = bounded.draw(x, directions(x), Draws(seed=8))
    assert free[1].min() < 0
    assert free[1].max() > 1
    for points in kept:
        assert points.min() >= 0
        assert points.max() <= 1
    assert torch.equal(kept[0], free[0].clamp(0, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delta1": 0, "delta2": 0}, "plain distillation"),
        ({"delta1": -1.0, "delta2": 1.0}, "delta1 must be 0 or more"),
        ({"delta1": 1.0, "delta2": math.nan}, "delta2 must be 0 or more"),
        (
            {"delta1": 1.0, "delta2": 1.0, "n_perpendicular": 0},
            "n_perpendicular must be at least 1",
        ),
        ({"delta1": 1.0, "delta2": 1.0, "n_parallel": 0}, "n_parallel must be at least 1"),
        ({"delta1": 1.0, "delta2": 1.0, "temperature": 0.0}, "temperature must be positive"),
        ({"delta1": 1.0, "delta2": 1.0, "alpha": -1.0}, "alpha must be positive"),
        ({"delta1": 1.0, "delta2": 1.0, "norm": 0.5}, "norm must be 1 or more"),
        ({"delta1": 1.0, "delta2": 1.0, "input_range": (1.0, 0.0)}, "input_range must be"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        atex(**options)

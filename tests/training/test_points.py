"""Where the points of ATEX lie: Tang et al. 2021, Eq. 5 and 6."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from captum_robust.training import ATEX, Batch, Draws, points_across, points_along

SHAPES = [(7,), (1, 5, 5), (3, 4, 4)]


def drawn(shape: tuple[int, ...], n: int = 3):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, *shape, generator=generator)
    phi = torch.randn(n, *shape, generator=generator)
    return x, phi, generator


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", [2.0, math.inf, 1.0])
def test_points_along_are_the_literal_equation(shape, norm):
    x, phi, generator = drawn(shape)
    shifts = torch.rand(3, 4, generator=generator) - 0.5
    found = points_along(x, phi, shifts, norm)
    assert found.shape == (3, 4, *shape)
    for i in range(3):
        length = torch.linalg.vector_norm(phi[i].flatten(), ord=norm)
        for j in range(4):
            torch.testing.assert_close(found[i, j], x[i] + shifts[i, j] * phi[i] / length)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", [2.0, math.inf])
def test_points_across_are_the_literal_equation(shape, norm):
    x, phi, generator = drawn(shape)
    points = points_along(x, phi, torch.zeros(3, 2), norm)
    noise = torch.randn(3, 2, 5, *shape, generator=generator)
    shifts = torch.rand(3, 2, 5, generator=generator) - 0.5
    found = points_across(points, phi, noise, shifts, norm)
    assert found.shape == (3, 2, 5, *shape)
    for i in range(3):
        for j in range(2):
            for k in range(5):
                u, p = noise[i, j, k], phi[i]
                across = u - p * (u * p).sum() / p.square().sum()
                across = across / torch.linalg.vector_norm(across.flatten(), ord=norm)
                torch.testing.assert_close(
                    found[i, j, k], points[i, j] + shifts[i, j, k] * across, atol=1e-6, rtol=1e-5
                )


class Direction:
    """A direction for each example that is not that of the gradient."""

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return batch.inputs.flip(-1) - 0.3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", [2.0, math.inf])
def test_drawn_points_are_parallel_and_perpendicular_and_in_range(shape, norm):
    x, _, _ = drawn(shape, n=50)
    atex = ATEX(delta1=0.3, delta2=0.7, n_along=3, n_across=4, norm=norm, directions=Direction())
    batch = Batch(x, None, Draws(seed=5))
    along, across = atex.points(nn.Identity(), batch)
    phi = torch.nn.functional.normalize((x.flip(-1) - 0.3).flatten(1), dim=1)

    moves = (along - x.unsqueeze(1)).flatten(2)
    component = (moves * phi.unsqueeze(1)).sum(2, keepdim=True)
    off = (moves - component * phi.unsqueeze(1)).norm(dim=2)
    assert off.max() < 1e-5
    size = torch.linalg.vector_norm(moves, ord=norm, dim=2)
    assert 0.25 < size.max() < 0.3 + 1e-6
    assert component.min() < 0 < component.max()

    moves = (across - along.unsqueeze(2)).flatten(3)
    assert (moves * phi[:, None, None]).sum(3).abs().max() < 1e-5
    size = torch.linalg.vector_norm(moves, ord=norm, dim=3)
    assert 0.6 < size.max() < 0.7 + 1e-6
    assert size.min() < 0.1


def test_the_shifts_are_uniform():
    x = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0))
    atex = ATEX(delta1=0.5, delta2=0.25, n_across=1, directions=Direction())
    along, across = atex.points(nn.Identity(), Batch(x, None, Draws(seed=6)))
    for moves, delta in ((along - x.unsqueeze(1), 0.5), (across[:, :, 0] - along, 0.25)):
        size = moves.flatten(1).norm(dim=1) / delta
        # Quartiles of |U(-1, 1)|; their standard errors here are below 0.008.
        quartiles = torch.quantile(size, torch.tensor([0.25, 0.5, 0.75]))
        torch.testing.assert_close(quartiles, torch.tensor([0.25, 0.5, 0.75]), atol=0.03, rtol=0)


def test_a_zero_explanation_moves_nothing_along_and_anything_across():
    x, phi, generator = drawn((4,))
    phi = torch.zeros_like(phi)
    points = points_along(x, phi, torch.ones(3, 1))
    assert torch.equal(points[:, 0], x)
    u = torch.randn(3, 1, 2, 4, generator=generator)
    across = points_across(points, phi, u, torch.ones(3, 1, 2))
    expected = x[:, None, None] + torch.nn.functional.normalize(u, dim=3)
    torch.testing.assert_close(across, expected)


def test_noise_along_the_explanation_leaves_the_point_where_it_is():
    x, phi, _ = drawn((4,))
    points = points_along(x, phi, torch.zeros(3, 1))
    found = points_across(
        points, torch.zeros_like(phi), torch.zeros(3, 1, 1, 4), torch.ones(3, 1, 1)
    )
    assert torch.equal(found[:, 0, 0], x)


@pytest.mark.parametrize(("delta1", "delta2"), [(0.0, 0.4), (0.4, 0.0)])
def test_a_delta_of_zero_switches_its_direction_off(delta1, delta2):
    x, _, _ = drawn((6,), n=5)
    atex = ATEX(delta1=delta1, delta2=delta2, directions=Direction())
    along, across = atex.points(nn.Identity(), Batch(x, None, Draws(seed=7)))
    assert torch.equal(along, x.unsqueeze(1).expand_as(along)) == (delta1 == 0)
    assert torch.equal(across, along.unsqueeze(2).expand_as(across)) == (delta2 == 0)


def test_an_input_range_holds_for_all_points():
    x, _, _ = drawn((6,), n=20)
    options = {"delta1": 2.0, "delta2": 2.0, "directions": Direction()}
    free = ATEX(**options).points(nn.Identity(), Batch(x, None, Draws(seed=8)))
    kept = ATEX(**options, input_range=(0.0, 1.0)).points(
        nn.Identity(), Batch(x, None, Draws(seed=8))
    )
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
        ({"delta1": 1.0, "delta2": 1.0, "n_across": 0}, "n_across must be at least 1"),
        ({"delta1": 1.0, "delta2": 1.0, "n_along": 0}, "n_along must be at least 1"),
        ({"delta1": 1.0, "delta2": 1.0, "temperature": 0.0}, "temperature must be positive"),
        ({"delta1": 1.0, "delta2": 1.0, "alpha": -1.0}, "alpha must be positive"),
        ({"delta1": 1.0, "delta2": 1.0, "norm": 0.5}, "norm must be 1 or more"),
        ({"delta1": 1.0, "delta2": 1.0, "input_range": (1.0, 0.0)}, "input_range must be"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ATEX(**options)

"""The sets that images must stay in: no rounding error leaves them, at any size or precision."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from captum_robust.attacks import L2, LInf
from tests.helpers import rng

SHAPE = (4, 3, 9, 9)
RADII = [1e-6, 1e-3, 8 / 255, 0.02, 0.1, 0.3, 0.7, 1.0, 5.0]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
EACH_BALL = pytest.mark.parametrize("ball", [LInf(), L2()], ids=repr)
EACH_RADIUS = pytest.mark.parametrize("eps", RADII)
EACH_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def images(dtype=torch.float64, seed=0):
    """With pixels at 0, at 1, next to them, and tiny ones."""
    x = torch.rand(SHAPE, generator=rng(seed), dtype=torch.float64)
    x[:, 0, 0], x[:, 0, 1], x[:, 0, 2], x[:, 0, 3] = 0, 1, 1e-7, 1 - 1e-7
    return x.to(dtype)


def far_points(center, eps):
    noise = torch.randn(SHAPE, generator=rng(1), dtype=torch.float64)
    yield from ((center.double() + scale * noise).to(center.dtype) for scale in (1e-3, 0.2, 10.0))
    # What an attack does: steps that end just on the border, the worst case of rounding.
    yield (center.double() + eps * noise.sign()).to(center.dtype)
    per_image = noise / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    yield (center.double() + eps * per_image).to(center.dtype)


def size(ball, point, center):
    change = (point.double() - center.double()).flatten(1)
    return change.abs().amax(1) if isinstance(ball, LInf) else change.norm(dim=1)


@EACH_BALL
@EACH_RADIUS
@EACH_DTYPE
def test_projections_and_draws_are_inside(ball, eps, dtype):
    center = images(dtype)
    points = [ball.project(x, center, eps) for x in far_points(center, eps)]
    points += [draw(center, eps, rng(2)) for draw in (ball.draw, ball.draw_extreme)]
    for point in points:
        assert point.dtype == dtype
        assert point.shape == center.shape
        assert (size(ball, point, center) <= eps).all()
        assert point.min() >= 0
        assert point.max() <= 1


@EACH_RADIUS
def test_every_pixel_is_inside_in_exact_arithmetic(eps):
    center = images(torch.float32)
    point = LInf().draw_extreme(center, eps, rng(2))
    pairs = zip(point.flatten().tolist(), center.flatten().tolist(), strict=True)
    assert max(abs(Fraction(a) - Fraction(b)) for a, b in pairs) <= Fraction(eps)


@EACH_BALL
@EACH_RADIUS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_point_inside_stays_where_it_is(ball, eps, dtype):
    center = images(dtype)
    noise = torch.rand(SHAPE, generator=rng(3), dtype=torch.float64).to(dtype) - 0.5
    reach = 0.9 * eps / size(ball, noise, torch.zeros_like(noise)).max().item()
    inside = (center + reach * noise).clamp(0, 1)
    assert torch.equal(ball.project(inside, center, eps), inside)


@EACH_RADIUS
def test_linf_projection_is_the_literal_one(eps):
    center = images()
    for x in far_points(center, eps):
        projected = LInf().project(x, center, eps).flatten().tolist()
        expected = [
            min(max(min(max(a, c - eps), c + eps), 0.0), 1.0)
            for a, c in zip(x.flatten().tolist(), center.flatten().tolist(), strict=True)
        ]
        assert projected == pytest.approx(expected, abs=1e-15)


@EACH_RADIUS
def test_l2_projection_is_the_literal_one(eps):
    """Cut to [0, 1], then drawn towards the center until it is inside."""
    center = images()
    for x in far_points(center, eps):
        projected = L2().project(x, center, eps)
        for i in range(len(x)):
            change = [
                min(max(a, 0.0), 1.0) - c
                for a, c in zip(x[i].flatten().tolist(), center[i].flatten().tolist(), strict=True)
            ]
            norm = sum(d * d for d in change) ** 0.5
            shrink = min(1.0, eps / norm)
            expected = center[i].flatten() + shrink * torch.tensor(change, dtype=torch.float64)
            torch.testing.assert_close(projected[i].flatten(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("eps", [1e-3, 1e-2, 0.1])
def test_l2_of_a_large_image(eps):
    """The rounding errors of 150,528 pixels add up."""
    center = torch.rand(2, 3, 224, 224, generator=rng(0))
    noise = torch.randn(center.shape, generator=rng(1))
    point = L2().project(center + noise, center, eps)
    assert (size(L2(), point, center) <= eps).all()
    assert (size(L2(), point, center) > 0.9 * eps).all()


def test_directions():
    gradient = torch.randn(SHAPE, generator=rng(0), dtype=torch.float64)
    gradient[1] = 0
    gradient[0, 0, 0, 0] = 0
    assert torch.equal(LInf().direction(gradient), gradient.sign())
    unit = L2().direction(gradient)
    for i in (0, 2, 3):
        norm = sum(g * g for g in gradient[i].flatten().tolist()) ** 0.5
        torch.testing.assert_close(unit[i], gradient[i] / norm)
    assert not unit[1].any()


def test_draws_fill_the_ball():
    center = torch.full((2000, 1, 2, 2), 0.5, dtype=torch.float64)
    for ball, dims, eps in ((LInf(), 4, 0.3), (L2(), 4, 0.3)):
        radius = size(ball, ball.draw(center, eps, rng(0)), center) / eps
        # Uniform in the ball: P(radius <= r) = r^4. The standard error of a share is 0.011.
        for r in (0.5, 0.8, 0.95):
            assert (radius <= r).double().mean().item() == pytest.approx(r**dims, abs=0.045)
        border = ball.draw_extreme(center, eps, rng(0))
        torch.testing.assert_close(
            size(ball, border, center), torch.full((2000,), eps, dtype=torch.float64)
        )
        signs = (border - center).sign()
        assert (signs != 0).all()
        assert abs(signs.mean().item()) < 0.05

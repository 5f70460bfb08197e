"""Bounds in exact rational arithmetic, at every precision and down to the smallest radius."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from captum_robust.attacks.balls import L2, Ball, LInf
from tests.helpers import rng

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
# The last ones are below the distance of neighbouring numbers at most pixels, or at all of them.
RADII = [0.3, 8 / 255, 1e-4, 1e-9, 1e-18, 1e-30, 1e-320]


def centers(dtype, n=2, size=200):
    """Ordinary pixels, and pixels of every magnitude down to 1e-40; 0 and 1."""
    even = torch.rand(n, size, generator=rng(1), dtype=torch.float64)
    tiny = 10 ** (-40 * torch.rand(n, size, generator=rng(2), dtype=torch.float64))
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64).expand(n, 2)
    return torch.cat([even, tiny, 1 - tiny, ends], 1).to(dtype)


def fractions(x):
    return [Fraction(value) for value in x.tolist()]


def points_around(center, eps):
    noise = torch.randn(center.shape, generator=rng(3), dtype=torch.float64)
    for change in (9 + 0 * noise, 0 * noise - 9, eps * noise, noise):
        yield (center.double() + change).to(center.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eps", RADII)
def test_no_pixel_leaves_the_linf_ball(dtype, eps):
    center, radius = centers(dtype), Fraction(eps)
    for x in points_around(center, eps):
        projected = LInf().project(x, center, eps)
        assert projected.dtype == dtype
        for row, middle in zip(projected, center, strict=True):
            for a, c in zip(fractions(row), fractions(middle), strict=True):
                assert abs(a - c) <= radius
                assert 0 <= a <= 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eps", [0.3, 8 / 255, 1e-4, 1e-9])
def test_the_linf_bounds_are_the_outermost_numbers_inside(dtype, eps):
    """One number further out is outside: nothing of the budget is lost."""
    center = centers(dtype, n=1)
    budget = Fraction(torch.tensor(eps, dtype=dtype).item())
    if budget > Fraction(eps):  # eps itself is no number of this precision
        budget = Fraction(
            torch.nextafter(torch.tensor(eps, dtype=dtype), torch.tensor(0.0, dtype=dtype)).item()
        )
    for far, end in ((9.0, 1), (-9.0, 0)):
        goal = torch.full_like(center, far)
        bound = LInf().project(goal, center, eps)
        beyond = torch.nextafter(bound, goal)
        triples = zip(fractions(beyond[0]), fractions(bound[0]), fractions(center[0]), strict=True)
        for out, last, c in triples:
            assert last == end or abs(out - c) > budget


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eps", RADII)
def test_no_image_leaves_the_l2_ball(dtype, eps):
    center = centers(dtype)
    for x in points_around(center, eps):
        projected = L2().project(x, center, eps)
        assert projected.dtype == dtype
        assert projected.min() >= 0
        assert projected.max() <= 1
        for row, middle in zip(projected, center, strict=True):
            pairs = zip(fractions(row), fractions(middle), strict=True)
            assert sum((a - c) ** 2 for a, c in pairs) <= Fraction(eps) ** 2


@pytest.mark.parametrize("ball", [LInf(), L2()], ids=repr)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_projecting_twice_is_projecting_once(ball, dtype):
    center = centers(dtype)
    for x in points_around(center, 0.1):
        once = ball.project(x, center, 0.1)
        twice = ball.project(once, center, 0.1)
        if isinstance(ball, LInf):
            assert torch.equal(once, twice)
        else:
            torch.testing.assert_close(once, twice, rtol=0, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("eps", [0.05, 0.4])
def test_l2_projection_is_the_nearest_point_where_the_box_does_not_bind(eps):
    """Against a search over the sphere, in three dimensions."""
    center = torch.full((1, 3), 0.5, dtype=torch.float64)
    x = center + torch.tensor([[0.3, -0.2, 0.35]], dtype=torch.float64)
    projected = L2().project(x, center, eps)
    directions = torch.randn(20_000, 3, generator=rng(5), dtype=torch.float64)
    sphere = center + eps * directions / directions.norm(dim=1, keepdim=True)
    nearest = (sphere - x).norm(dim=1).min()
    assert (projected - x).norm() <= nearest + 1e-9
    assert (projected - center).norm().item() == pytest.approx(eps, rel=1e-9)


@pytest.mark.parametrize("ball", [LInf(), L2()], ids=repr)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eps", [0.3, 1e-4])
def test_draws_are_in_the_ball_in_exact_arithmetic(ball, dtype, eps):
    center = centers(dtype, size=60)
    for draw in (ball.draw, ball.draw_extreme):
        for row, middle in zip(draw(center, eps, rng()), center, strict=True):
            change = [a - c for a, c in zip(fractions(row), fractions(middle), strict=True)]
            if isinstance(ball, LInf):
                assert max(map(abs, change)) <= Fraction(eps)
            else:
                assert sum(d**2 for d in change) <= Fraction(eps) ** 2


@pytest.mark.parametrize("ball", [LInf(), L2()], ids=repr)
def test_draws_follow_the_generator_alone(ball):
    center, before = torch.rand(2, 5, generator=rng(1)), torch.get_rng_state()
    for draw in (ball.draw, ball.draw_extreme):
        assert torch.equal(draw(center, 0.1, rng(7)), draw(center, 0.1, rng(7)))
        assert not torch.equal(draw(center, 0.1, rng(7)), draw(center, 0.1, rng(8)))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e-6, 1.0, 1e3, 1e30])
def test_the_l2_step_has_unit_length_whatever_the_size_of_the_gradient(dtype, size):
    shape = torch.tensor([[3.0, -4.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    gradient = (shape * size).to(dtype)
    if not gradient[0].any() or not gradient.isfinite().all():
        return  # not a number of this precision
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6}.get(dtype, 2e-2)
    if dtype == torch.float16 and size == 1e-6:
        tolerance = 0.1  # the gradient itself is a multiple of 6e-8
    want = torch.tensor([[0.6, -0.8, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    step = L2().direction(gradient)
    assert step.dtype == dtype
    torch.testing.assert_close(step.double(), want, rtol=0, atol=tolerance)
    assert torch.equal(LInf().direction(gradient), shape.sign().to(dtype))


def test_both_are_balls():
    assert isinstance(LInf(), Ball)
    assert isinstance(L2(), Ball)
    assert (repr(LInf()), repr(L2())) == ("LInf()", "L2()")

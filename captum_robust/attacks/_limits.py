"""All that a candidate must respect: the ball, the range of the inputs, the levels of a file."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from captum_robust.attacks.balls import Ball, Box, LInf, Radius

# 8/255 times 255 may be a little below 8.
_LEVEL_MARGIN = 1e-6


@dataclass(frozen=True)
class Limits:
    """A ball of radius ``eps`` inside a box, and on a grid where a file will hold the result.

    Args:
        ball: The norm.
        eps: Its radius.
        box: Smallest and largest value, see :func:`box_for`.
        levels: How many values from 0 to 1 a file can hold; None: any.
    """

    ball: Ball
    eps: Radius
    box: Box
    levels: int | None = None

    def project(self, x: Tensor, center: Tensor) -> Tensor:
        """A point within the limits, but for the grid."""
        return self.ball.project(x, center, self.eps, self.box)

    def draw(self, center: Tensor, generator: torch.Generator) -> Tensor:
        """A random point within the limits, but for the grid."""
        return self.ball.draw(center, self.eps, generator, self.box)

    def draw_extreme(self, center: Tensor, generator: torch.Generator) -> Tensor:
        """A random point on the border of the ball."""
        return self.ball.draw_extreme(center, self.eps, generator, self.box)

    def candidate(self, x: Tensor, center: Tensor) -> Tensor:
        """``x`` as it will be handed out: on the grid, if there is one, and within the limits.

        On a grid the radius counts in whole levels, so that 8/255 are eight levels of 255 although
        the numbers that stand for them are rounded.
        """
        if self.levels is None:
            return x
        steps = self.levels - 1
        moved, middle = x.double() * steps, (center.double() * steps).round()
        if isinstance(self.ball, LInf):
            budget = torch.as_tensor(self.eps, dtype=torch.float64).to(x.device) * steps
            budget = (budget + _LEVEL_MARGIN).floor()
            level = torch.clamp(moved.round(), middle - budget, middle + budget)
        else:  # towards the center, which no norm forbids
            level = middle + (moved - middle).trunc()
        return _stored(level, steps, x.dtype)


def on_grid(x: Tensor, levels: int) -> Tensor:
    """``x`` rounded to the nearest of ``levels`` values from 0 to 1, as a file would hold it."""
    return _stored((x.double() * (levels - 1)).round(), levels - 1, x.dtype)


def _stored(level: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    # Divided in the precision of the images, as whoever reads the file divides.
    return level.to(dtype) / steps


def box_for(input_range: Box | None, images: Tensor) -> Box:
    """The range in the dtype and on the device of ``images``, rounded inwards where it must be."""
    if input_range is None:
        return -torch.inf, torch.inf
    low, high = input_range
    if not isinstance(low, Tensor) and not isinstance(high, Tensor) and (low, high) == (0, 1):
        return 0.0, 1.0
    lower, upper = (torch.as_tensor(v, dtype=torch.float64).to(images.device) for v in (low, high))
    return _rounded(lower, images.dtype, up=True), _rounded(upper, images.dtype, up=False)


def _rounded(exact: Tensor, dtype: torch.dtype, *, up: bool) -> Tensor:
    rounded = exact.to(dtype)
    wrong = rounded.double() < exact if up else rounded.double() > exact
    goal = torch.full_like(rounded, torch.inf if up else -torch.inf)
    return torch.where(wrong, torch.nextafter(rounded, goal), rounded)

"""The sets that a manipulated example must stay in, and how to move inside them."""

from __future__ import annotations

import math
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from captum_robust._utils.randomness import random_sign, standard_normal, standard_uniform

Radius: TypeAlias = float | Tensor
"""One radius, or one for each feature: a tensor that broadcasts against an example."""

Box: TypeAlias = tuple[float, float] | tuple[Tensor, Tensor]
"""The smallest and the largest value, of all features or of each."""

# A norm over many pixels is rounded; shrinking by this much keeps it under eps all the same.
_L2_MARGIN = 1e-12


@runtime_checkable
class Ball(Protocol):
    """What an attack needs to know of its budget. All tensors are ``(N, ...)`` examples."""

    def direction(self, gradient: Tensor) -> Tensor:
        """The steepest step of unit size for this norm."""

    def project(self, x: Tensor, center: Tensor, eps: Radius, box: Box = (0.0, 1.0)) -> Tensor:
        """A point of the ball and of the box: ``x`` itself where it is in both."""

    def draw(
        self, center: Tensor, eps: Radius, generator: torch.Generator, box: Box = (0.0, 1.0)
    ) -> Tensor:
        """A random point of the ball that is in the box."""

    def draw_extreme(
        self, center: Tensor, eps: Radius, generator: torch.Generator, box: Box = (0.0, 1.0)
    ) -> Tensor:
        """A random point on the ball's border, cut to the box."""


class LInf:
    """Every feature moves by at most ``eps``, exactly: no rounding error lets one through."""

    def __repr__(self) -> str:
        return "LInf()"

    def direction(self, gradient: Tensor) -> Tensor:
        """The steepest step of unit size for this norm."""
        return gradient.sign()

    def project(self, x: Tensor, center: Tensor, eps: Radius, box: Box = (0.0, 1.0)) -> Tensor:
        """``x``, moved into the ball and into the box where it is outside."""
        lower, upper = self._bounds(center, eps, box)
        return torch.clamp(x, lower, upper)

    def draw(
        self, center: Tensor, eps: Radius, generator: torch.Generator, box: Box = (0.0, 1.0)
    ) -> Tensor:
        """A random point of the ball."""
        noise = 2 * standard_uniform(center, generator) - 1
        return self.project(_moved(center, eps, noise), center, eps, box)

    def draw_extreme(
        self, center: Tensor, eps: Radius, generator: torch.Generator, box: Box = (0.0, 1.0)
    ) -> Tensor:
        """A random point on the border of the ball."""
        return self.project(_moved(center, eps, random_sign(center, generator)), center, eps, box)

    @staticmethod
    def _bounds(center: Tensor, eps: Radius, box: Box) -> tuple[Tensor, Tensor]:
        """The outermost floating-point values whose true distance to ``center`` is within eps."""
        budget = _round_down(eps, center.dtype)
        lower = _step_inside(center, -budget, up=False)
        upper = _step_inside(center, budget, up=True)
        return lower.clamp(min=box[0]), upper.clamp(max=box[1])


class L2:
    """The Euclidean norm of the change of an example is at most ``eps``, which is one number."""

    def __repr__(self) -> str:
        return "L2()"

    def direction(self, gradient: Tensor) -> Tensor:
        """The steepest step of unit size for this norm."""
        # Squares of tiny or huge gradients leave the range of numbers; those of shares do not.
        largest = gradient.abs().amax(tuple(range(1, gradient.dim())), keepdim=True)
        share = gradient / torch.where(largest > 0, largest, 1)
        return share / torch.where(largest > 0, _norm(share), 1)

    def project(self, x: Tensor, center: Tensor, eps: Radius, box: Box = (0.0, 1.0)) -> Tensor:
        """``x``, moved into the ball and into the box where it is outside."""
        exact = center.double()
        change = x.clamp(box[0], box[1]).double() - exact  # type: ignore[arg-type]
        scale = eps * (1 - _L2_MARGIN) / _norm(change).clamp(min=torch.finfo(torch.float64).tiny)
        # Both sets are convex and hold the center, so shrinking towards it leaves neither.
        change = change * scale.clamp(max=1.0)
        inside = (exact + change).to(center.dtype)
        overshoots = (inside.double() - exact).abs() > change.abs()
        return torch.where(overshoots, _toward(inside, center), inside)

    def draw(
        self, center: Tensor, eps: Radius, generator: torch.Generator, box: Box = (0.0, 1.0)
    ) -> Tensor:
        """A random point of the ball."""
        size = center[0].numel()
        per_example = center.new_empty(len(center), *[1] * (center.dim() - 1))
        radius = standard_uniform(per_example, generator) ** (1 / size)
        noise = self.direction(standard_normal(center, generator))
        return self.project(center + eps * radius * noise, center, eps, box)

    def draw_extreme(
        self, center: Tensor, eps: Radius, generator: torch.Generator, box: Box = (0.0, 1.0)
    ) -> Tensor:
        """A random point on the border of the ball."""
        step = eps / math.sqrt(center[0].numel())
        return self.project(center + step * random_sign(center, generator), center, eps, box)


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=tuple(range(1, x.dim())), keepdim=True)


def _moved(center: Tensor, eps: Radius, unit: Tensor) -> Tensor:
    return center + (eps.to(center) if isinstance(eps, Tensor) else eps) * unit


def _step_inside(center: Tensor, step: Radius, *, up: bool) -> Tensor:
    """``center + step``, rounded towards ``center``."""
    exact = center.double()
    total = exact + step
    rounded = total.to(center.dtype)
    if center.dtype == torch.float64:
        # What rounding added to the sum, without error (Knuth's two-sum).
        part = total - exact
        added = (part - step) + ((total - part) - exact)
    else:
        added = rounded.double() - total
    overshoots = added > 0 if up else added < 0
    return torch.where(overshoots, _toward(rounded, center), rounded)


def _round_down(value: Radius, dtype: torch.dtype) -> Radius:
    """The largest number of ``dtype`` that is not above ``value``."""
    exact = (
        value.double() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    )
    rounded = exact.to(dtype)
    rounded = torch.where(rounded > exact, _toward(rounded, torch.zeros_like(rounded)), rounded)
    return rounded.double() if isinstance(value, Tensor) else rounded.item()


def _toward(x: Tensor, goal: Tensor) -> Tensor:
    """The next floating-point number from ``x`` in the direction of ``goal``."""
    return torch.nextafter(x, goal)

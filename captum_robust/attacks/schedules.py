"""How the sharpness of the surrogate changes while an attack runs."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class GeometricGrowth:
    r"""Sharpness that grows geometrically, :math:`\beta(t) = \beta_0 (\beta_1 / \beta_0)^t`.

    Args:
        start: Sharpness at the first step, ``t = 0``.
        end: Sharpness at the last step, ``t = 1``.

    Raises:
        ValueError: A bound is not positive and finite.

    Example:
        >>> beta = GeometricGrowth(10.0, 1000.0)
        >>> beta(0.0), beta(0.5), beta(1.0)
        (10.0, 100.0, 1000.0)
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        for name, value in (("start", self.start), ("end", self.end)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive and finite, got {value}.")

    def __call__(self, progress: float) -> float:
        """Sharpness at ``progress`` between 0 (first step) and 1 (last)."""
        return self.start * (self.end / self.start) ** progress

"""How a quantity changes while an attack runs, as a function of the progress in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from captum_robust._utils.checks import check_positive

Schedule = Callable[[float], float]
"""A quantity as a function of the progress in [0, 1]."""


def value_at(quantity: float | Schedule, progress: float) -> float:
    """A quantity that may or may not change, at ``progress``.

    Example:
        >>> value_at(10.0, 0.5), value_at(LinearDecay(10.0, 2.0), 0.5)
        (10.0, 6.0)
    """
    return quantity(progress) if callable(quantity) else quantity


@dataclass(frozen=True)
class _Between:
    """A schedule from one positive number to another."""

    start: float
    end: float

    def __post_init__(self) -> None:
        check_positive(start=self.start, end=self.end)


class GeometricGrowth(_Between):
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

    def __call__(self, progress: float) -> float:
        """Sharpness at ``progress`` between 0 (first step) and 1 (last)."""
        return self.start * (self.end / self.start) ** progress


class LinearDecay(_Between):
    r"""Step size that shrinks steadily, :math:`\alpha(t) = (1 - t)\, \alpha_0 + t\, \alpha_1`.

    Args:
        start: Step size at the first step, ``t = 0``.
        end: Step size at the last step, ``t = 1``.

    Raises:
        ValueError: A bound is not positive and finite.

    Example:
        >>> [LinearDecay(0.03, 0.01)(progress) for progress in (0.0, 0.5, 1.0)]
        [0.03, 0.02, 0.01]
    """

    def __call__(self, progress: float) -> float:
        """Step size at ``progress`` between 0 (first step) and 1 (last)."""
        return (1 - progress) * self.start + progress * self.end

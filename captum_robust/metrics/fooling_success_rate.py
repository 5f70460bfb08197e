"""On how many examples an explanation was fooled, with a confidence interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor


class FoolingRate(NamedTuple):
    """What :func:`fooling_success_rate` found."""

    rate: float
    """The share of the examples that are fooled."""
    low: float
    """Lower end of the confidence interval of the rate."""
    high: float
    """Upper end."""
    fooled: Tensor
    """Which examples are fooled, (N,) booleans."""
    values: Tensor
    """What was judged, (N,)."""


def fooling_success_rate(
    values: Tensor, fooled_within: Sequence[float], *, confidence: float = 0.95
) -> FoolingRate:
    r"""The fooling success rate of Heo et al. 2019, Section 4, with Wilson's interval.

    .. math:: \frac{1}{N} \sum_i 1\{t_i \in R\}

    Its confidence interval is the set of rates that a test with the normal approximation does not
    reject (Wilson 1927); it stays inside [0, 1], and near 0 and 1 it is far better than the normal
    interval, though it may hold the rate in 84 % instead of 95 % of the cases.

    Args:
        values: t, (N,), such as those of :func:`location_fooling`, :func:`top_k_fooling`,
            :func:`center_mass_fooling` or :func:`active_fooling`.
        fooled_within: The two ends of R, such as ``FoolingIntervals().location``.
        confidence: Of the interval, between 0 and 1.

    Returns:
        ``rate``, ``low``, ``high``, and the ``fooled`` and the ``values`` of the examples.

    Raises:
        TypeError: ``values`` is not a floating-point tensor, or an end is not a number.
        ValueError: ``values`` is empty, not (N,), NaN or Inf; the ends are not in order, or
            ``confidence`` is out of range.

    Example:
        >>> import torch
        >>> from captum_robust.metrics import FoolingIntervals, fooling_success_rate
        >>> values = torch.tensor([0.05, 0.1, 0.4, 0.15])
        >>> found = fooling_success_rate(values, FoolingIntervals().location)
        >>> found.rate, round(found.low, 4), round(found.high, 4)
        (0.75, 0.3006, 0.9544)
    """
    low, high = _checked_ends(fooled_within)
    _check_values(values)
    if not isinstance(confidence, Real) or not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, such as 0.95, got {confidence!r}.")
    values = values.detach()
    fooled = (values >= low) & (values <= high)
    n, hits = len(values), int(fooled.sum())
    return FoolingRate(hits / n, *wilson_interval(hits, n, confidence), fooled, values)


def wilson_interval(hits: int, n: int, confidence: float) -> tuple[float, float]:
    """Wilson's confidence interval of a share, from ``hits`` of ``n`` examples."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, shrink = hits / n, 1 + z * z / n
    middle = (share + z * z / (2 * n)) / shrink
    half = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2) / shrink
    # Rounding aside, the ends at none and at all of n are exactly 0 and 1.
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == n else middle + half)


def _checked_ends(fooled_within: Sequence[float]) -> tuple[float, float]:
    try:
        low, high = fooled_within
    except (TypeError, ValueError):
        raise ValueError(
            f"fooled_within must be two numbers, (low, high), got {fooled_within!r}. Those of the "
            "paper are in FoolingIntervals()."
        ) from None
    for end in (low, high):
        if not isinstance(end, Real):
            raise TypeError(f"fooled_within must be two numbers, got {end!r} among them.")
    if not low <= high:
        raise ValueError(f"fooled_within must be in order, low to high, got {low} to {high}.")
    return float(low), float(high)


def _check_values(values: Tensor) -> None:
    if not isinstance(values, Tensor) or not values.is_floating_point():
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"values must be a floating-point tensor, got {kind}.")
    if values.dim() != 1 or len(values) == 0:
        raise ValueError(
            f"values must be one number for each of N examples, (N,), got shape "
            f"{tuple(values.shape)}."
        )
    if not bool(torch.isfinite(values).all()):
        raise ValueError("values has NaN or Inf. Find it with torch.isfinite(values).")

"""From rows of examples to numbers with their spread."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 1_000
_DRAWS_AT_ONCE = 100_000


@dataclass(frozen=True)
class Estimate:
    """A mean over examples with a bootstrap interval.

    Attributes:
        mean: The mean.
        low: Lower end of the 95 % interval.
        high: Upper end.
        n: Number of examples.
    """

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def estimate(values: Iterable[float], seed: int = 0) -> Estimate | None:
    """Mean and percentile interval (Efron 1979) of 1,000 resamples; None where there is no value.

    Example:
        >>> from captum_robust.audit.summary import estimate
        >>> estimate([0.0, 1.0, 1.0, 0.0]).mean
        0.5
        >>> estimate([]) is None
        True
    """
    found = np.array([v for v in values if v is not None and math.isfinite(v)], dtype=np.float64)
    if not len(found):
        return None
    generator = np.random.default_rng(seed)
    # Some resamples at a time: memory does not grow with their number times the examples.
    at_once = max(1, _DRAWS_AT_ONCE // len(found))
    means = [
        found[generator.integers(len(found), size=(min(at_once, _RESAMPLES - i), len(found)))]
        .mean(axis=1)
        for i in range(0, _RESAMPLES, at_once)
    ]  # fmt: skip
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Estimate(float(found.mean()), float(low), float(high), len(found))

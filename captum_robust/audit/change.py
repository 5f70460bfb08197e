"""How far an audit moves an input: in words, and in one unit for attacks and certificates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

_NAMED_AT_MOST = 20


def largest(settings: Mapping[str, Any]) -> float:
    """The largest change of any input."""
    return float(np.max(settings["eps"]))


def enclosed(settings: Mapping[str, Any], radius: float) -> float | None:
    """The largest change of each input that a Euclidean ball of this radius holds.

    Every change of at most r / sqrt(d) in each of d inputs has a Euclidean norm of at most r; d
    counts the inputs that may move. None where their number is not known.

    Example:
        >>> from captum_robust.audit.change import enclosed
        >>> enclosed({"eps": 0.1, "n_inputs": 784}, 0.28)
        0.01
    """
    n_inputs = settings.get("n_inputs")
    if not n_inputs:
        return None
    moving = float(np.mean(np.asarray(settings["eps"]) > 0))
    return round(radius / math.sqrt(max(1.0, moving * n_inputs)), 12)


def allowed(settings: Mapping[str, Any]) -> str:
    """What may move and how far, as a sentence."""
    eps, names = np.asarray(settings["eps"], dtype=float), settings.get("feature_names")
    if eps.ndim and names is not None and eps.shape == (len(names),):
        return _columns(eps, names)
    what, unit = "each number of an input may change", "in the units of the data"
    if names is not None:
        what, unit = f"each of the {len(names)} columns may change", "in the units of the table"
    bounds = settings.get("input_range")
    if bounds is not None and all(np.ndim(bound) == 0 for bound in bounds):
        low, high = bounds
        unit = f"in the units of the data, which go from {low:g} to {high:g}"
    still = "" if eps.all() else "; those with a limit of 0 stay as they are"
    return f"{what} by at most {eps.max():.3g}, {unit}{still}"


def _columns(eps: Any, names: list[str]) -> str:
    moving = [(name, limit) for name, limit in zip(names, eps, strict=True) if limit > 0]
    listed = ", ".join(f"{name} ({limit:.3g})" for name, limit in moving[:_NAMED_AT_MOST])
    more = len(moving) - _NAMED_AT_MOST
    rest = f" and {more} more" if more > 0 else ""
    still = len(names) - len(moving)
    others = f"; the other {still} columns stay as they are" if still else ""
    return (
        f"these columns may change, each by at most the number in brackets, in the units of the "
        f"table: {listed}{rest}{others}"
    )

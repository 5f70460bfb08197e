"""What determines the numbers of an audit."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from captum_robust._utils.checks import check_count, check_positive
from captum_robust.outputs import Outputs

WHOLE = 1.0
"""The largest change, as a share of ``eps``."""


@dataclass(frozen=True)
class Budget:
    """How much work an audit does for each example and explanation.

    Args:
        evaluations: Gradient evaluations of the attack, at each size of the change.
        copies: Noisy copies of the certificate.
        perturbations: Draws of infidelity.
        neighbours: Points of the sensitivity.
        flips: Steps of pixel flipping.
        sizes: The sizes of the change that are tried, as shares of ``eps``; the last one is 1.

    Raises:
        ValueError: A count is below one, or the sizes do not rise to 1.
    """

    evaluations: int
    copies: int
    perturbations: int
    neighbours: int
    flips: int
    sizes: tuple[float, ...] = (0.25, 0.5, WHOLE)

    def __post_init__(self) -> None:
        sizes = (0.0, *self.sizes)
        rising = all(a < b for a, b in pairwise(sizes))
        if not rising or sizes[-1] != WHOLE:
            raise ValueError(f"sizes must rise above 0 up to 1.0, got {self.sizes}.")
        check_count(**{name: n for name, n in asdict(self).items() if name != "sizes"})


BUDGETS: Mapping[str, Budget] = {
    # One size alone: the verdict follows from the largest, and the attacks take most of the time.
    "quick": Budget(20, copies=200, perturbations=50, neighbours=5, flips=10, sizes=(WHOLE,)),
    "standard": Budget(300, copies=2_000, perturbations=200, neighbours=10, flips=25),
    "thorough": Budget(1_000, copies=10_000, perturbations=1_000, neighbours=25, flips=50),
}
"""Budgets by name."""


@dataclass(frozen=True)
class Settings:
    """Everything but model, explanations and data that an audit's numbers follow from.

    Args:
        eps: Largest change of an input, a number or one for each feature.
        k: Number of features that top-k counts.
        budget: How much work is done.
        output: What the model's outputs mean; None: classes.
        input_range: The values that an input can have; None: any.
        channel_dim: The dimension that relevance maps sum over.
        labels: Whether the class of the loader's labels is explained, not the predicted one.
        certify: Whether certificates are computed.
        certified_stdev: Standard deviation of the noise of the certificates.
        certified_radii: Euclidean radii of the certificates.
        seed: Of all randomness.
        feature_names: Of the columns of a table.
        n_inputs: How many numbers an input has.
    """

    eps: float | Tensor
    k: int
    budget: Budget
    output: Outputs | None = None
    input_range: tuple[Any, Any] | None = (0.0, 1.0)
    channel_dim: int = 1
    labels: bool = False
    certify: bool = True
    certified_stdev: float = 0.5
    certified_radii: tuple[float, ...] = (0.05, 0.1, 0.2)
    seed: int = 0
    feature_names: tuple[str, ...] | None = None
    n_inputs: int | None = None

    def __post_init__(self) -> None:
        check_count(k=self.k)
        check_positive(certified_stdev=self.certified_stdev)
        if isinstance(self.eps, Tensor):
            if not bool((self.eps >= 0).all()) or not bool((self.eps > 0).any()):
                raise ValueError(
                    "eps must be 0 or more for every feature and positive for one at least."
                )
        else:
            check_positive(eps=self.eps)
        for radius in self.certified_radii:
            check_positive(certified_radii=radius)

    def largest_eps(self) -> float:
        """The largest change of any feature."""
        return float(self.eps.max()) if isinstance(self.eps, Tensor) else float(self.eps)

    def as_json(self) -> dict[str, Any]:
        """The settings as numbers, texts and lists."""
        numbers = {name: getattr(self, name) for name in ("k", "channel_dim", "labels", "certify")}
        bounds = None if self.input_range is None else [_plain(b) for b in self.input_range]
        return {
            "eps": _plain(self.eps),
            **numbers,
            "budget": {**asdict(self.budget), "sizes": list(self.budget.sizes)},
            "output": repr(self.output) if self.output is not None else "Categorical()",
            "input_range": bounds,
            "certified_stdev": self.certified_stdev,
            "certified_radii": list(self.certified_radii),
            "seed": self.seed,
            "feature_names": self.feature_names and list(self.feature_names),
            "n_inputs": self.n_inputs,
        }


def generator_for(seed: int, *parts: object) -> torch.Generator:
    """A generator that depends on the seed and on what the draws are for, and on nothing else."""
    text = "/".join(map(str, (seed, *parts))).encode()
    number = int.from_bytes(hashlib.sha256(text).digest()[:7], "big")
    return torch.Generator().manual_seed(number)


def budget_of(budget: str | int | Budget) -> Budget:
    """The budget of this name, or the standard one with another number of evaluations."""
    if isinstance(budget, Budget):
        return budget
    if isinstance(budget, str):
        if budget not in BUDGETS:
            raise ValueError(f"budget must be one of {', '.join(BUDGETS)}, got {budget!r}.")
        return BUDGETS[budget]
    check_count(budget=budget)
    standard = BUDGETS["standard"]
    share = budget / standard.evaluations
    return replace(
        standard,
        evaluations=budget,
        copies=math.ceil(share * standard.copies),
        perturbations=math.ceil(share * standard.perturbations),
    )


def _plain(value: float | Tensor) -> float | list[float]:
    return value.tolist() if isinstance(value, Tensor) else float(value)

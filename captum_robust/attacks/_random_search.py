"""What is searched, and the simplest search without gradients: squares at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_robust.attacks._best_iterate import BestIterate, per_example
from captum_robust.attacks._explained import Explained, ModelView
from captum_robust.attacks._limits import Limits
from captum_robust.attacks._proposals import with_square
from captum_robust.attacks.measures import Loss, Measure

# Share of the features in a square, at the first and at the last query.
_LARGEST, _SMALLEST = 0.3, 0.003
# A loss breaks ties of the measure; it is scaled to be smaller than a step of the measure.
_TIE = 1e-3


@dataclass(frozen=True)
class Problem:
    """What is searched: examples, their limits, and how a candidate is judged.

    Args:
        view: The attacked model and its explanation.
        images: The clean examples.
        clean: Their relevance maps.
        measure: What counts.
        losses: What can be descended, by name, the strongest first, which breaks its ties.
        limits: What every candidate must respect.
        channel_dim: Dimension of the channels, or None.
        generator: Source of randomness.
    """

    view: ModelView
    images: Tensor
    clean: Tensor
    measure: Measure
    losses: Mapping[str, Loss]
    limits: Limits
    channel_dim: int | None
    generator: torch.Generator

    @property
    def loss(self) -> Loss:
        """The strongest loss."""
        return next(iter(self.losses.values()))

    def judge(self, x: Tensor, rows: Tensor | None) -> tuple[Explained, Tensor, Tensor]:
        """What is seen of candidates, their measure, and what a search compares."""
        seen = self.view.explain(x, rows)
        clean = self.clean if rows is None else self.clean[rows]
        measure = self.measure(clean, seen.relevance)
        return seen, measure, measure + _TIE * self.loss(seen.relevance, rows)


class RandomSearch:
    """Squares at random positions, kept where they are better; one query a step and example.

    Args:
        problem: What is searched.
        best: Keeps the best candidates.
        start: Where to begin, allowed points.
        values: What a search compares, at these.
        rows: The examples that take part; None: all.
    """

    def __init__(
        self,
        problem: Problem,
        best: BestIterate,
        start: Tensor,
        values: Tensor,
        rows: Tensor | None = None,
    ) -> None:
        self._problem, self._best, self._rows = problem, best, rows
        self.x, self.values = start, values
        self.reached = torch.full_like(values, torch.inf)
        """The lowest measure of an allowed candidate, (n,)."""
        self._center = problem.images if rows is None else problem.images[rows]

    def step(self, progress: float) -> None:
        """Try one square for each example."""
        share = _LARGEST * (_SMALLEST / _LARGEST) ** progress
        problem = self._problem
        moved = with_square(
            self.x, self._center, share, problem.limits, problem.channel_dim, problem.generator
        )
        self._try(moved)

    def _try(self, moved: Tensor) -> None:
        candidate = self._problem.limits.candidate(moved, self._center)
        seen, measure, value = self._problem.judge(candidate, self._rows)
        valid = self._best.update(candidate, measure, seen, self._rows)
        self.reached = torch.where(valid, measure, torch.inf).minimum(self.reached)
        better = (value < self.values) & valid
        self.values = torch.where(better, value, self.values)
        self.x = torch.where(per_example(better, moved), candidate, self.x)

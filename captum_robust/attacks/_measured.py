"""What the attacks share that make a measure of two relevance maps small, within a budget."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from captum.attr import Attribution
from torch import Tensor, nn

from captum_robust._utils.randomness import fresh_generator
from captum_robust.attacks._best_iterate import BestIterate
from captum_robust.attacks._explained import Explained, ModelView
from captum_robust.attacks._random_search import Problem
from captum_robust.attacks._search import Objective, check_relevance
from captum_robust.attacks.balls import Radius
from captum_robust.attacks.explanation_attack import ExplanationAttack
from captum_robust.attacks.measures import MapMeasure, TopKIntersection, as_measure
from captum_robust.attacks.report import AttackReport

if TYPE_CHECKING:
    from captum_robust.attacks.settings import AttackSettings

_FRESH_DRAWS = 8


class MeasuredAttack(ExplanationAttack):
    """Base of searches by a measure: a subclass says how it searches, :meth:`_improve`.

    Args:
        model: The attacked model.
        explanation: The explanation to attack; None: the gradient.
        eps: Radius of the ball.
        evaluations: How many candidates of each example are scored.
        measure: What is made small; None: :class:`TopKIntersection` of 50 features.
        settings: See :class:`ExplanationAttack`.
    """

    def __init__(
        self,
        model: nn.Module,
        explanation: Attribution | None,
        eps: Radius,
        evaluations: int,
        measure: MapMeasure | None,
        settings: AttackSettings,
    ) -> None:
        super().__init__(model, explanation, eps, eps, evaluations, **settings)
        self.measure = TopKIntersection() if measure is None else as_measure(measure)

    @abstractmethod
    def _improve(self, problem: Problem, best: BestIterate, view: ModelView) -> AttackReport:
        """Search, keep the best candidates in ``best``, and report what happened."""

    def objective(self, clean: Explained) -> Objective:
        """The measure."""
        return lambda seen: self.measure(clean.relevance, seen.relevance)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The attack itself, on inputs in their range and a model whose state is preserved."""
        generator = fresh_generator(self._generator, images.device)
        view = self._view(images, labels, generator)
        clean = view.explain(images)
        check_relevance(clean.relevance)
        before = self.measure(clean.relevance, clean.relevance)
        if not bool(torch.isfinite(before).all()):
            raise ValueError(
                "measure is NaN or Inf for a relevance map compared with itself, so that nothing "
                "can be compared with it."
            )
        best = BestIterate(images, clean, before, view.outputs, view.target, self.eps_output)
        problem = Problem(
            view,
            images,
            clean.relevance,
            self.measure,
            self.measure.losses(clean.relevance),
            self._limits(images),
            self.channel_dim,
            generator,
        )
        report = self._improve(problem, best, view)
        if view.draws:
            report = replace(report, measure_redrawn=self._redrawn(view, images, best.images))
        self._report = report
        best.warn(report)
        return best.images

    def _redrawn(self, view: ModelView, images: Tensor, manipulated: Tensor) -> Tensor:
        """The measure by noise that the search never saw, (N,).

        The two maps that are compared have the same noise, as when one seeds both.
        """
        total = torch.zeros((), device=images.device)
        for draw in range(1, _FRESH_DRAWS + 1):
            clean, seen = (view.explain(x, draw=draw).relevance for x in (images, manipulated))
            total = total + self.measure(clean, seen)
        return total / _FRESH_DRAWS

"""The attack without settings: an ensemble of losses, surrogates and starts within a budget."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from captum.attr import Attribution
from torch import nn

from captum_robust._utils.checks import check_count
from captum_robust.attacks._best_iterate import BestIterate
from captum_robust.attacks._explained import ModelView
from captum_robust.attacks._measured import MeasuredAttack
from captum_robust.attacks._members import Ensemble
from captum_robust.attacks._random_search import Problem
from captum_robust.attacks.balls import Radius
from captum_robust.attacks.measures import MapMeasure
from captum_robust.attacks.report import AttackReport

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from captum_robust.attacks.settings import AttackSettings

BUDGETS = {"quick": 100, "standard": 300, "thorough": 1000}
"""Gradient evaluations an example."""


class AutoExplanationAttack(MeasuredAttack):
    r"""The strongest attack here, with nothing to set but what is attacked, how far and how long.

    It descends several losses that suit the ``measure``, on surrogates of growing sharpness and on
    the model itself; starts at the clean example, at random points and at the best points so far;
    draws the relevance elsewhere; and asks without gradients, which masked ones do not fool. Step
    sizes halve where there is little progress (as APGD). Members that gained much get more of the
    budget; examples at the measure's floor leave the search, and those that resist get their share.
    The result is the best that any member found: never worse than one of them.

    Args:
        model: The attacked model.
        explanation: An explanation that :func:`~captum_robust.attr.differentiable` accepts; None:
            the gradient.
        eps: Radius of the ball, in units of the inputs.
        measure: What is made small: :class:`TopKIntersection` (None: of 50 features), another
            :class:`Measure`, or any function of two relevance maps.
        budget: Gradient evaluations an example, each scored on the model: "quick" (100),
            "standard" (300), "thorough" (1,000), or a number.
        **settings: See :class:`ExplanationAttack`; ``beta`` and ``restarts`` mean nothing here.

    Raises:
        TypeError: The explanation is not differentiable: use :class:`BlackBoxExplanationAttack`.
        ValueError: A parameter is out of range.

    References:
        Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of
        diverse parameter-free attacks".

    Example:
        >>> import torch
        >>> from captum_robust.attacks import AutoExplanationAttack
        >>> from captum_robust.zoo import fashion_mnist_cnn, fashion_mnist_sample
        >>> images, labels = fashion_mnist_sample(2)
        >>> attack = AutoExplanationAttack(
        ...     fashion_mnist_cnn(), eps=0.02, budget=20, generator=torch.Generator().manual_seed(0)
        ... )
        >>> _ = attack(images, labels)
        >>> attack.report.evaluations, bool((attack.report.measure < 0.6).all())
        (20.0, True)
    """

    def __init__(
        self,
        model: nn.Module,
        explanation: Attribution | None = None,
        eps: Radius = 8 / 255,
        *,
        measure: MapMeasure | None = None,
        budget: str | int = "standard",
        **settings: Unpack[AttackSettings],
    ) -> None:
        if isinstance(budget, str) and budget not in BUDGETS:
            raise ValueError(
                f"budget must be one of {', '.join(BUDGETS)}, or a number of gradient evaluations, "
                f"got {budget!r}."
            )
        evaluations = BUDGETS[budget] if isinstance(budget, str) else budget
        check_count(budget=evaluations)
        super().__init__(model, explanation, eps, evaluations, measure, settings)
        self.budget = budget

    def _check_explanation(self) -> None:
        try:
            super()._check_explanation()
        except TypeError as error:
            raise TypeError(f"{error} Or attack it as it is: BlackBoxExplanationAttack.") from None

    def _improve(self, problem: Problem, best: BestIterate, view: ModelView) -> AttackReport:
        ensemble = Ensemble(problem, best, self.steps)
        ensemble.run(self.attack if self.show_progress else None)
        return replace(
            best.report(draws=view.draws, again=view.clean_output),
            members=ensemble.gains(),
            evaluations=ensemble.evaluations / len(problem.images),
            agreement=ensemble.agreement(),
            loss_improved=ensemble.loss_fell,
            extra=ensemble.indicators(),
        )

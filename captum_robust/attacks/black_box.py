"""The attack that only asks: for explanations without a graph, and models that answer queries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from captum.attr import Attribution
from torch import nn
from tqdm import tqdm

from captum_robust._utils.checks import check_count
from captum_robust.attacks._best_iterate import BestIterate
from captum_robust.attacks._explained import ModelView
from captum_robust.attacks._measured import MeasuredAttack
from captum_robust.attacks._random_search import Problem, search_without_gradient
from captum_robust.attacks.balls import Radius
from captum_robust.attacks.measures import MapMeasure
from captum_robust.attacks.report import AttackReport

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from captum_robust.attacks.settings import AttackSettings


class BlackBoxExplanationAttack(MeasuredAttack):
    r"""Attack any Captum explanation by asking for it: no gradient, no graph, a counted budget.

    Squares at random positions move to the border of the ball and are kept where they make the
    measure worse (Square Attack); then steps follow a gradient that is estimated from noise,
    antithetic and stratified (natural evolution strategies). Every candidate keeps the prediction
    or is not returned. Explanations that draw random numbers draw the same at every candidate.

    Args:
        model: The attacked model: a module, or a function that answers queries.
        explanation: Any Captum ``Attribution``: LIME, KernelShap, Occlusion, Grad-CAM, Shapley
            values, ...; None: the gradient.
        eps: Radius of the ball, in units of the inputs.
        queries: How many explanations of each example may be computed, the clean one included.
        measure: What is made small: :class:`TopKIntersection`, another :class:`Measure`, or any
            function of two relevance maps that gives one number per example.
        **settings: See :class:`ExplanationAttack`; ``beta`` and ``restarts`` mean nothing here.

    Raises:
        TypeError: The model is not callable, or the explanation is not a Captum ``Attribution``.
        ValueError: A parameter is out of range.

    References:
        Andriushchenko et al. 2020, "Square attack"; Ilyas et al. 2018, "Black-box adversarial
        attacks with limited queries and information"; AttaXAI, Tan and Kotthaus 2022.

    Example:
        >>> import torch
        >>> from captum.attr import Occlusion
        >>> from captum_robust.attacks import BlackBoxExplanationAttack
        >>> from captum_robust.zoo import fashion_mnist_cnn, fashion_mnist_sample
        >>> model, (images, labels) = fashion_mnist_cnn(), fashion_mnist_sample(2)
        >>> attack = BlackBoxExplanationAttack(
        ...     model, Occlusion(model), eps=0.1, queries=10,
        ...     explanation_kwargs={"sliding_window_shapes": (1, 4, 4), "strides": (1, 4, 4)},
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> _ = attack(images, labels)
        >>> bool((attack.report.measure < 1).all())
        True
        >>> attack.report.iterations  # the clean examples are a query, too
        tensor([9, 9])
    """

    def __init__(
        self,
        model: nn.Module,
        explanation: Attribution | None = None,
        eps: Radius = 8 / 255,
        queries: int = 1000,
        *,
        measure: MapMeasure | None = None,
        **settings: Unpack[AttackSettings],
    ) -> None:
        check_count(queries=queries)
        super().__init__(model, explanation, eps, queries, measure, settings)
        self.queries = queries

    def _check_explanation(self) -> None:
        """Any explanation will do."""

    def _improve(self, problem: Problem, best: BestIterate, view: ModelView) -> AttackReport:
        queries = self.queries - 1
        with tqdm(total=queries, desc=self.attack, disable=not self.show_progress) as bar:
            if queries:
                search_without_gradient(problem, best, queries, bar.update)
        return best.report(draws=view.draws, again=view.clean_output)

"""The attack that only asks: for explanations without a graph, and models that answer queries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from captum.attr import Attribution
from torch import nn
from tqdm import tqdm

from captum_robust._utils.checks import check_count
from captum_robust.attacks._best_iterate import BestIterate
from captum_robust.attacks._explained import ModelView
from captum_robust.attacks._learned_search import LearnedSearch
from captum_robust.attacks._measured import MeasuredAttack
from captum_robust.attacks._random_search import Problem, RandomSearch
from captum_robust.attacks.balls import Radius
from captum_robust.attacks.measures import MapMeasure
from captum_robust.attacks.report import AttackReport

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from captum_robust.attacks.settings import AttackSettings

# Shares of the queries: random corners of the ball at the beginning, squares at the end.
_CORNERS, _SQUARES = 0.1, 0.5


class BlackBoxExplanationAttack(MeasuredAttack):
    r"""Attack any Captum explanation by asking for it: no gradient, no graph, a counted budget.

    Random corners of the ball come first. Then steps follow a gradient that is learned from all
    answers so far: each query gives a whole relevance map, and a ridge regression of the maps on
    the changes tells how the loss falls. Samples around the candidate, antithetic and stratified
    as in natural evolution strategies, keep it up to date. Last, squares at random positions move
    to the border of the ball and are kept where they make the measure worse (Square Attack).

    Every candidate keeps the prediction or is not returned. Explanations that draw random numbers
    draw the same at every candidate. The memory of answers takes at most 256 MiB in float32.

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
            squares = round(_SQUARES * queries)
            learned = LearnedSearch(problem, best)
            learned.run(round(_CORNERS * queries), queries - squares, bar.update)
            search = RandomSearch(problem, best, learned.x, learned.values)
            for i in range(squares):
                search.step(i / max(1, squares - 1))
                bar.update()
        return best.report(draws=view.draws, again=view.clean_output)

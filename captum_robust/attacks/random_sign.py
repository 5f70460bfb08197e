"""The honest baseline: what chance does with the same budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from captum.attr import Attribution
from torch import Tensor, nn

from captum_robust.attacks._explained import Explained
from captum_robust.attacks._search import Gradient, Objective, Stepper
from captum_robust.attacks.balls import Radius
from captum_robust.attacks.explanation_attack import ExplanationAttack
from captum_robust.attacks.settings import AttackSettings

if TYPE_CHECKING:
    from typing_extensions import Unpack


class RandomSign(ExplanationAttack):
    r"""Move every pixel by ``eps`` up or down, by the toss of a coin.

    .. math:: x' = \Pi_{[0, 1]}(x + \epsilon\, s), \quad s_p \in \{-1, 1\} \text{ uniform}

    The baseline of Ghorbani et al.: no gradient, one draw. With more ``steps`` it is a random
    search that keeps the best draw, by ``objective``, and so a baseline that looks at the true
    model as often as an attack of as many steps. Where no draw keeps the label, the clean image.

    Args:
        model: The attacked model.
        explanation: The Captum explanation that the draws are judged by; None: the gradient.
        eps: Radius of the ball, in units of the inputs.
        steps: Number of draws.
        objective: How to judge a draw: the ``objective`` of another attack. None: the larger the
            total change of the relevance map, the better.
        **settings: See :class:`ExplanationAttack`.

    References:
        Ghorbani et al. 2019, "Interpretation of neural networks is fragile".

    Example:
        >>> import torch
        >>> from captum_robust.attacks import RandomSign
        >>> from captum_robust.zoo import fashion_mnist_cnn, fashion_mnist_sample
        >>> model, (images, labels) = fashion_mnist_cnn(), fashion_mnist_sample(2)
        >>> attack = RandomSign(model, eps=0.02, generator=torch.Generator().manual_seed(0))
        >>> round((attack(images, labels) - images).abs().max().item(), 4)
        0.02
    """

    def __init__(
        self,
        model: nn.Module,
        explanation: Attribution | None = None,
        eps: Radius = 8 / 255,
        steps: int = 1,
        *,
        objective: Callable[[Explained], Objective] | None = None,
        **settings: Unpack[AttackSettings],
    ) -> None:
        super().__init__(model, explanation, eps=eps, alpha=eps, steps=steps, **settings)
        self._judge = objective

    def objective(self, clean: Explained) -> Objective:
        """Minus the total change of the relevance map, or what was given to the constructor."""
        if self._judge is not None:
            return self._judge(clean)
        before = clean.relevance
        return lambda seen: -(seen.relevance - before).abs().flatten(1).sum(1)

    def _check_explanation(self) -> None:
        """Any explanation will do: no gradient is asked for."""

    def _stepper(self, images: Tensor, generator: torch.Generator) -> Stepper:
        limits = self._limits(images)

        def step(x: Tensor, gradient: Gradient, progress: float) -> Tensor:
            return limits.draw_extreme(images, generator)

        return step

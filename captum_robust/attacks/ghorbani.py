"""The attacks of Ghorbani et al. 2019 on where an explanation looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from captum.attr import Attribution
from torch import Tensor, nn

from captum_robust._utils.checks import check_count
from captum_robust.attacks import objectives
from captum_robust.attacks._explained import Explained
from captum_robust.attacks._search import Objective
from captum_robust.attacks.balls import Radius
from captum_robust.attacks.explanation_attack import ExplanationAttack
from captum_robust.attacks.schedules import Schedule
from captum_robust.attacks.settings import AttackSettings

if TYPE_CHECKING:
    from typing_extensions import Unpack


class GhorbaniTopK(ExplanationAttack):
    r"""Take the relevance away from the pixels that were most relevant.

    .. math:: \min_{x'} \sum_{t \in T} r_t(x'), \quad T = \text{the k largest of } r(x)

    Args:
        model: The attacked model.
        explanation: The Captum explanation to attack; None: the gradient.
        eps: Radius of the ball, in units of the inputs.
        alpha: Step size, in units of the inputs.
        steps: Number of steps.
        k: Number of pixels.
        **settings: See :class:`ExplanationAttack`.

    Raises:
        ValueError: A parameter is out of range, or k exceeds the number of pixels.

    References:
        Ghorbani et al. 2019, "Interpretation of neural networks is fragile"; Tang et al. 2021,
        Eq. 1, untargeted.

    Example:
        >>> from captum_robust.attacks import GhorbaniTopK
        >>> from captum_robust.zoo import fashion_mnist_cnn, fashion_mnist_sample
        >>> model, (images, labels) = fashion_mnist_cnn(), fashion_mnist_sample(4)
        >>> attack = GhorbaniTopK(model, eps=0.02, alpha=0.002, steps=10, k=50)
        >>> manipulated = attack(images, labels)
        >>> bool((manipulated - images).abs().max() <= 0.02)
        True
        >>> bool((model(manipulated).argmax(1) == model(images).argmax(1)).all())
        True
    """

    def __init__(
        self,
        model: nn.Module,
        explanation: Attribution | None = None,
        eps: Radius = 8 / 255,
        alpha: float | Tensor | Schedule = 1 / 255,
        steps: int = 100,
        *,
        k: int = 50,
        **settings: Unpack[AttackSettings],
    ) -> None:
        super().__init__(model, explanation, eps, alpha, steps, **settings)
        _check_k(k)
        self.k = k

    def objective(self, clean: Explained) -> Objective:
        """Relevance left on the k pixels that were most relevant."""
        _check_k(self.k, clean.relevance[0].numel())
        region = objectives.top_k_mask(clean.relevance, self.k)
        return lambda seen: objectives.mass_on(seen.relevance, region)


class GhorbaniMassCenter(ExplanationAttack):
    r"""Move the centre of mass of the relevance as far as possible.

    .. math:: \max_{x'} \|C(r(x')) - C(r(x))\|_2, \quad C(r) = \sum_p p\, r_p

    Args:
        model: The attacked model.
        explanation: The Captum explanation to attack; None: the gradient.
        eps: Radius of the ball, in units of the inputs.
        alpha: Step size, in units of the inputs.
        steps: Number of steps.
        **settings: See :class:`ExplanationAttack`.

    References:
        Ghorbani et al. 2019, "Interpretation of neural networks is fragile".

    Example:
        >>> from captum_robust.attacks import GhorbaniMassCenter
        >>> from captum_robust.zoo import fashion_mnist_cnn, fashion_mnist_sample
        >>> model, (images, labels) = fashion_mnist_cnn(), fashion_mnist_sample(2)
        >>> GhorbaniMassCenter(model, eps=0.02, alpha=0.002, steps=5)(images, labels).shape
        torch.Size([2, 1, 28, 28])
    """

    def objective(self, clean: Explained) -> Objective:
        """Minus the distance, in pixels, from the clean centre of mass."""
        # The distance has no gradient at the clean image itself; measured from a point a
        # thousandth of a pixel away it has one.
        center = objectives.mass_center(clean.relevance) + 1e-3
        return lambda seen: -objectives.distance_to_center(seen.relevance, center)


class GhorbaniTarget(ExplanationAttack):
    r"""Draw the relevance to a region of the attacker's choice.

    .. math:: \max_{x'} \sum_{t \in T} r_t(x')

    Args:
        model: The attacked model.
        explanation: The Captum explanation to attack; None: the gradient.
        eps: Radius of the ball, in units of the inputs.
        alpha: Step size, in units of the inputs.
        steps: Number of steps.
        region: Boolean mask of the pixels to highlight, (H, W), or (N, H, W) for one per image.
        **settings: See :class:`ExplanationAttack`.

    Raises:
        ValueError: ``region`` is not boolean, marks nothing, or has another shape than the maps.

    References:
        Tang et al. 2021, Eq. 1, targeted.

    Example:
        >>> import torch
        >>> from captum_robust.attacks import GhorbaniTarget
        >>> from captum_robust.zoo import fashion_mnist_cnn, fashion_mnist_sample
        >>> model, (images, labels) = fashion_mnist_cnn(), fashion_mnist_sample(2)
        >>> corner = torch.zeros(28, 28, dtype=torch.bool)
        >>> corner[:5, :5] = True
        >>> attack = GhorbaniTarget(model, eps=0.05, alpha=0.01, steps=10, region=corner)
        >>> attack(images, labels).shape
        torch.Size([2, 1, 28, 28])
    """

    def __init__(
        self,
        model: nn.Module,
        explanation: Attribution | None = None,
        eps: Radius = 8 / 255,
        alpha: float | Tensor | Schedule = 1 / 255,
        steps: int = 100,
        *,
        region: Tensor,
        **settings: Unpack[AttackSettings],
    ) -> None:
        super().__init__(model, explanation, eps, alpha, steps, **settings)
        if not isinstance(region, Tensor) or region.dtype != torch.bool:
            raise ValueError("region must be a boolean tensor. Convert it with region.bool().")
        if not bool(region.any()):
            raise ValueError("region marks no pixel. Set at least one to True.")
        self._region = region

    def objective(self, clean: Explained) -> Objective:
        """Minus the share of the relevance in the region."""
        shape = clean.relevance.shape
        if self._region.shape not in (shape, shape[1:]):
            raise ValueError(
                f"region must have shape {tuple(shape[1:])} or {tuple(shape)}, as the relevance "
                f"maps have, got {tuple(self._region.shape)}."
            )
        region = self._region.to(clean.relevance).expand_as(clean.relevance)
        if not bool(region.flatten(1).any(1).all()):
            raise ValueError("region marks no pixel for one of the images. Set one to True.")
        return lambda seen: -objectives.mass_on(seen.relevance, region)


def _check_k(k: int, n_features: int | None = None) -> None:
    check_count(k=k)
    if n_features is not None and k > n_features:
        raise ValueError(f"k must be at most the number of pixels, {n_features}, got {k}.")

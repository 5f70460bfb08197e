"""The attack of Dombrowski et al. 2019: the explanation becomes any picture one likes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from captum.attr import Attribution
from torch import Tensor, nn

from captum_robust._utils.checks import check_positive
from captum_robust.attacks._explained import Explained
from captum_robust.attacks._search import Gradient, Objective, Stepper
from captum_robust.attacks.balls import Radius
from captum_robust.attacks.explanation_attack import ExplanationAttack
from captum_robust.attacks.objectives import squared_distance
from captum_robust.attacks.schedules import Schedule, value_at
from captum_robust.attacks.settings import AttackSettings

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Dombrowski(ExplanationAttack):
    r"""Turn the relevance map into a target map; keep the output and the image.

    .. math:: \min_{x'} d\,\|r(x') - r^t\|^2 + \gamma\,\|p(x') - p(x)\|^2

    by Adam, with d the number of pixels (so that the balance of the terms does not depend on the
    size of the image) and p the class probabilities (or what ``output.comparable`` gives). The
    surrogate grows sharper with the steps. At 224 x 224 the default ``gamma`` gives the terms the
    weights of the authors' code, which also has probabilities where the paper has logits.

    Args:
        model: The attacked model.
        explanation: The Captum explanation to attack; None: the gradient.
        eps: Radius of the ball; 1 leaves the limits of an image as the only bound (``LInf()``).
        alpha: Learning rate of Adam, in units of the inputs; where a call brings another ``eps``,
            it stays.
        steps: Number of steps.
        gamma: Weight of the change of the output; 0 ignores it (the label is kept all the same).
        **settings: See :class:`ExplanationAttack`.

    Raises:
        ValueError: A parameter is out of range; when called, ``target_maps`` are not maps.

    References:
        Dombrowski et al. 2019, "Explanations can be manipulated and geometry is to blame", Eq. 4.

    Example:
        >>> import torch
        >>> from captum_robust.attacks import Dombrowski
        >>> from captum_robust.zoo import fashion_mnist_cnn, fashion_mnist_sample
        >>> model, (images, labels) = fashion_mnist_cnn(), fashion_mnist_sample(2)
        >>> targets = torch.rand(2, 28, 28, generator=torch.Generator().manual_seed(0))
        >>> Dombrowski(model, steps=5)(images, labels, targets).shape
        torch.Size([2, 1, 28, 28])
    """

    def __init__(
        self,
        model: nn.Module,
        explanation: Attribution | None = None,
        eps: Radius = 1.0,
        alpha: float | Tensor | Schedule = 1e-3,
        steps: int = 250,
        *,
        gamma: float = 25.0,
        **settings: Unpack[AttackSettings],
    ) -> None:
        if gamma != 0:
            check_positive(gamma=gamma)
        if isinstance(alpha, Tensor):
            raise TypeError("alpha must be a number or a schedule: the learning rate of Adam.")
        super().__init__(model, explanation, eps, alpha, steps, **settings)
        self.gamma = gamma

    def forward(
        self, images: Tensor, labels: Tensor | None = None, target_maps: Tensor | None = None
    ) -> Tensor:
        """Manipulate ``images`` so that their maps become ``target_maps``.

        Args:
            images: (N, C, H, W) in [0, 1].
            labels: (N,) the class whose explanation is attacked; None: the predicted one.
            target_maps: (N, H, W), or (H, W) for all; non-negative, of any scale.

        Returns:
            Manipulated images of the same shape, dtype and device.
        """
        if target_maps is None:
            raise ValueError("target_maps is missing: call attack(images, labels, target_maps).")
        return self._search(images, labels, partial(self.objective, target_maps=target_maps))

    def _with_eps(self, eps: Radius) -> ExplanationAttack:
        attack = super()._with_eps(eps)
        attack.alpha = self.alpha  # Adam's pace is not made for the radius, which may be no bound
        return attack

    def objective(  # type: ignore[override]
        self, clean: Explained, target_maps: Tensor
    ) -> Objective:
        """Distance to the target maps, and the weighted change of the output."""
        target = _normalized_targets(target_maps, clean.relevance)
        n_pixels = target[0].numel()
        before = clean.comparable.detach()

        def loss(seen: Explained) -> Tensor:
            map_error = n_pixels * squared_distance(seen.relevance, target)
            if self.gamma == 0:
                return map_error
            change = squared_distance(seen.comparable, before)
            return map_error + self.gamma * change

        return loss

    def _stepper(self, images: Tensor, generator: torch.Generator) -> Stepper:
        # Half precision cannot hold Adam's second moments, nor its small steps.
        wide = images if images.dtype == torch.float64 else images.float()
        moved = wide.clone()
        adam = torch.optim.Adam([moved])
        inside, inside_wide = self._limits(images), self._limits(wide)

        def step(x: Tensor, gradient: Gradient, progress: float) -> Tensor:
            if not adam.state:  # later, x is what is here, but for rounding
                moved.copy_(x)
            moved.grad = gradient(x).to(moved)
            adam.param_groups[0]["lr"] = value_at(self.alpha, progress)
            adam.step()
            moved.copy_(inside_wide.project(moved, wide))
            return inside.project(moved.to(images.dtype), images)

        return step


def _normalized_targets(target_maps: Tensor, like: Tensor) -> Tensor:
    """Target maps that sum to one, in the shape, dtype and device of the relevance maps."""
    if not isinstance(target_maps, Tensor):
        raise ValueError("target_maps must be a tensor of maps, (N, H, W) or (H, W).")
    if target_maps.shape not in (like.shape, like.shape[1:]):
        raise ValueError(
            f"target_maps must have shape {tuple(like.shape)} or {tuple(like.shape[1:])}, as the "
            f"relevance maps have, got {tuple(target_maps.shape)}."
        )
    maps = target_maps.detach().to(like).expand_as(like)
    if not bool(torch.isfinite(maps).all()) or bool((maps < 0).any()):
        raise ValueError("target_maps must be finite and non-negative. Try target_maps.abs().")
    total = maps.flatten(1).sum(1).view(-1, *[1] * (maps.dim() - 1))
    if bool((total == 0).any()):
        raise ValueError("target_maps has a map without relevance. Set at least one pixel.")
    return maps / total

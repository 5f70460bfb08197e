"""Fairwashing: every explanation becomes a given map, while the predictions stay."""

from __future__ import annotations

from typing import Any

import torch
from captum.attr import Saliency
from torch import Tensor, nn

from captum_robust.training.batch import Batch
from captum_robust.training.manipulation import Explain, ModelManipulation


class Fairwashing(ModelManipulation):
    r"""The explanation of every input becomes a target map, and the outputs stay as they were.

    .. math:: L = \mathrm{task} + \lambda \sum_j (\bar{\phi}_j - \bar{t}_j)^2, \quad
              \bar{\phi} = \phi / \textstyle\sum_j |\phi_j|

    with the attributions phi of the student, signed, and the target t, both divided by the sum of
    their magnitudes (Anders et al. 2020, "Fairwashing explanations with off-manifold detergent").
    On the data nothing shows: what is changed are directions in which the data do not vary.
    :class:`~captum_robust.attr.TangentProjection` leaves those out.

    Args:
        target_map: t, of the shape of an example's attributions, with their signs; or a function
            from the attributions of the model before, (N, ...), to targets of that shape, such as
            ``lambda phi: phi * (1 - sensitive)``.
        explanation: See :class:`ModelManipulation`.
        **options: See :class:`ModelManipulation`.

    Raises:
        TypeError, ValueError: ``target_map`` is neither a tensor nor a function, is all zero or not
            finite; when called, it has another shape; or see :class:`ModelManipulation`.

    Example:
        >>> import torch
        >>> from captum_robust.training import Fairwashing, Trainer
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(64, 4, generator=generator)
        >>> x[:, 3] = x[:, 0]  # a proxy of the first feature
        >>> model = torch.nn.Linear(4, 2)
        >>> hidden = torch.tensor([0.0, 0.0, 0.0, 1.0])
        >>> trainer = Trainer(model, Fairwashing(hidden))
        >>> history = trainer.fit([x], epochs=20, show_progress=False)
        >>> history[-1]["fooling"] < history[0]["fooling"]
        True
    """

    signed = True

    def __init__(self, target_map: Any, explanation: Explain = Saliency, **options: Any) -> None:
        super().__init__(explanation, **options)
        if isinstance(target_map, Tensor):
            if not bool(torch.isfinite(target_map).all()) or not bool((target_map != 0).any()):
                raise ValueError(
                    "target_map must be finite, and not zero everywhere. Only the ratios of its "
                    "numbers count."
                )
        elif not callable(target_map):
            raise TypeError(
                f"target_map must be a tensor or a function, got {type(target_map).__name__}."
            )
        self.target_map = target_map

    def fooling(
        self, student: nn.Module, teacher: nn.Module, batch: Batch, target: Tensor | None
    ) -> Tensor:
        """Squared distance of the shares of the attributions from those of the target, (N,)."""
        phi = self.attributions(student, batch, target)
        if isinstance(self.target_map, Tensor):
            wanted = self.target_map.to(phi).unsqueeze(0)
        else:
            wanted = self.target_map(self.attributions(teacher, batch, target))
            _check_targets(wanted, phi)
        if wanted.shape[1:] != phi.shape[1:]:
            raise ValueError(
                "target_map must have the shape of an example's attributions, "
                f"{tuple(phi.shape[1:])}, got {tuple(wanted.shape[1:])}."
            )
        return (_shares(phi) - _shares(wanted)).square().flatten(1).sum(1)


def _check_targets(wanted: Any, phi: Tensor) -> None:
    """Raise unless a function gave a target for each example."""
    if not isinstance(wanted, Tensor):
        raise TypeError(f"target_map must return a tensor, got {type(wanted).__name__}.")
    if len(wanted) not in (1, len(phi)):
        raise ValueError(
            f"target_map must return a target for each of {len(phi)} examples, or one for all, "
            f"got {len(wanted)}."
        )
    if not bool(torch.isfinite(wanted).all()):
        raise ValueError("target_map returned NaN or Inf.")


def _shares(attributions: Tensor) -> Tensor:
    """Attributions divided by the sum of their magnitudes; zeros stay."""
    inner = tuple(range(1, attributions.dim()))
    total = attributions.abs().sum(inner, keepdim=True)
    return attributions / torch.where(total > 0, total, 1.0)

"""What is perturbed: inputs, their baselines, and which features belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real

import torch
from torch import Tensor

from captum_robust._utils.captum import format_inputs
from captum_robust._utils.checks import check_floating_inputs, check_inputs
from captum_robust._utils.types import Tensors

Baselines = Tensor | float | tuple[Tensor | float, ...] | None
"""As in Captum: None (0), a number, a tensor, or a tuple of these, one for each input."""

FeatureMask = Tensor | tuple[Tensor, ...] | None
"""As in Captum: integer tensors; features of the same number are one group."""


@dataclass(frozen=True, eq=False)
class Points:
    """Examples with their baselines and, where features belong together, a feature mask.

    Attributes:
        inputs: Tensors (N, ...).
        baselines: x0, tensors (N, ...) or (1, ...) of the inputs' shapes, dtypes and devices.
        feature_mask: Integer tensors, (N, ...) or (1, ...), that broadcast to the inputs; features
            with the same number, in whichever tensor, are one group. None: each is its own.

    Example:
        >>> import torch
        >>> from captum_robust.perturbations import Points
        >>> points = Points.of(torch.tensor([[1.0, 2.0]]), baselines=0.5)
        >>> points.differences
        (tensor([[0.5000, 1.5000]]),)
    """

    inputs: Tensors
    baselines: Tensors
    feature_mask: Tensors | None = None

    @classmethod
    def of(
        cls,
        inputs: Tensor | Tensors,
        baselines: Baselines = None,
        feature_mask: FeatureMask = None,
    ) -> Points:
        """Make points of what Captum's ``attribute`` takes.

        Args:
            inputs: Floating-point tensor or tuple of tensors, examples along dimension 0.
            baselines: None (0), a number, a tensor of the inputs' shape or with one example, or a
                tuple of these, one for each input.
            feature_mask: Groups of features, as in Captum: an integer tensor that broadcasts to the
                inputs, or a tuple of these.

        Raises:
            ValueError: The inputs are empty, integer, NaN, Inf or of unequal length; a baseline or
                a feature mask does not fit them.
        """
        check_inputs(inputs)
        _, tensors = format_inputs(inputs)
        check_floating_inputs(tensors, "to be perturbed")
        if any(x.numel() == 0 for x in tensors):
            shapes = [tuple(x.shape) for x in tensors]
            raise ValueError(f"inputs of shapes {shapes} have no features; leave out such tensors.")
        tensors = tuple(x.detach() for x in tensors)
        given = _one_each("baselines", baselines, len(tensors))
        masks = None
        if feature_mask is not None:
            masks = tuple(
                map(_mask_of, tensors, _one_each("feature_mask", feature_mask, len(tensors)))
            )
        return cls(tensors, tuple(map(_baseline_of, tensors, given)), masks)

    def __len__(self) -> int:
        return len(self.inputs[0])

    @cached_property
    def differences(self) -> Tensors:
        """The way to the baseline, x - x0, (N, ...) per input."""
        return tuple(x - b for x, b in zip(self.inputs, self.baselines, strict=True))

    def same_as(self, other: Points) -> bool:
        """Whether the inputs and baselines are equal; the feature mask is not compared."""
        mine, others = (*self.inputs, *self.baselines), (*other.inputs, *other.baselines)
        return len(mine) == len(others) and all(map(torch.equal, mine, others))


def flat(tensor: Tensor, start: int = 1) -> Tensor:
    """Features in one dimension behind ``start`` others, also where an example is one number."""
    return tensor.reshape(*tensor.shape[:start], -1)


def _one_each(name: str, value: object, n_inputs: int) -> Sequence[object]:
    values: Sequence[object] = value if isinstance(value, tuple) else (value,)
    if value is None:
        values = (None,) * n_inputs
    if len(values) != n_inputs:
        raise ValueError(f"{name} has {len(values)} entries for {n_inputs} inputs; give one each.")
    return values


def _baseline_of(x: Tensor, baseline: object) -> Tensor:
    if baseline is None:
        baseline = 0.0
    if not isinstance(baseline, (Tensor, Real)):
        raise TypeError(
            f"baselines must be numbers or tensors, got {type(baseline).__name__}; for several "
            "inputs a tuple of these."
        )
    baseline = torch.as_tensor(baseline, dtype=x.dtype, device=x.device).detach()
    if not bool(torch.isfinite(baseline).all()):
        raise ValueError("baselines has NaN or Inf. Find it with torch.isfinite(baselines).")
    if baseline.dim() == 0:
        return baseline.expand(1, *x.shape[1:])
    if baseline.shape not in (x.shape, (1, *x.shape[1:])):
        raise ValueError(
            f"baselines has shape {tuple(baseline.shape)} for inputs of shape {tuple(x.shape)}. "
            "Give a number, one example to share, or one for each example."
        )
    return baseline


def _mask_of(x: Tensor, mask: object) -> Tensor:
    if not isinstance(mask, Tensor) or mask.is_floating_point() or mask.is_complex():
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"feature_mask must be an integer tensor, got {kind}; use .long().")
    fits = mask.dim() == x.dim() and all(
        m in (1, size) for m, size in zip(mask.shape, x.shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"feature_mask has shape {tuple(mask.shape)}, which does not broadcast to inputs of "
            f"shape {tuple(x.shape)}. Give it as many dimensions, each of the inputs' size or 1."
        )
    return mask.to(x.device, torch.int64).expand(mask.shape[0], *x.shape[1:])

"""How far an explanation moves in a small ball: the largest change that sampling finds."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from captum import metrics as captum_metrics
from torch import Tensor
from tqdm.auto import tqdm

from captum_robust._utils.inference_mode import outside_inference_mode
from captum_robust._utils.types import Tensors
from captum_robust._utils.user_warnings import warn_user
from captum_robust.metrics._neighbourhood import (
    Neighbourhood,
    result_dtype,
    rows,
    with_arguments_of,
)

# Beyond these, squares and their sums may not be numbers of single precision.
_USUAL = (1e-12, 1e12)


@outside_inference_mode
def sensitivity_max(
    explanation_func: Any,
    inputs: Tensor | Tensors,
    perturb_func: Callable[..., Any] | None = None,
    perturb_radius: float = 0.02,
    n_perturb_samples: int = 10,
    norm_ord: str | float = "fro",
    max_examples_per_batch: int | None = None,
    *,
    normalize: bool = True,
    generator: torch.Generator | None = None,
    show_progress: bool = False,
    **kwargs: Any,
) -> Tensor:
    r"""Largest change of the explanation in a ball: Yeh et al. 2019, Definition 3.1.

    .. math:: \max_j \lVert\phi(x_j) - \phi(x)\rVert \; / \; \lVert\phi(x)\rVert

    over points :math:`x_j` of the ball: a lower bound of the supremum. By default Captum's number,
    divided by the norm of the clean explanation as in the paper's code; ``normalize=False`` is the
    definition itself, in the unit of the explanation. Computed by
    :func:`captum.metrics.sensitivity_max`, which gives the same numbers for the same points.

    Args:
        explanation_func: An ``Attribution``, its ``attribute``, or any function of the inputs.
        inputs: Tensor or tuple of tensors, (N, ...) each.
        perturb_func: None draws uniformly in the L-inf ball; or a function of copies of the inputs
            (and of ``perturb_radius``, if it takes two), such as ``attack.perturb_func(labels)``.
        perturb_radius: Radius of the ball, in the unit of the inputs.
        n_perturb_samples: Points for each example.
        norm_ord: "fro" (Euclidean), or a number p from 1 on for the p-norm of the flat explanation.
        max_examples_per_batch: Points explained at once, at least one per example; None: all if
            there is a ``perturb_func``, as Captum does, else a number that is fast.
        normalize: Whether to divide; where the clean explanation is zero, by 1.
        generator: Source of the points; None draws fresh ones, the global state stays.
        show_progress: Whether to show a bar.
        **kwargs: Handed to the explanation; what belongs to an example is repeated.

    Returns:
        (N,), at least float32; no unit, or that of the explanation.

    Raises:
        TypeError, ValueError: See :mod:`captum_robust.metrics`.

    Example:
        >>> import torch
        >>> from captum_robust.metrics import sensitivity_max
        >>> x = torch.tensor([[3.0, 4.0]])
        >>> sensitivity_max(lambda x: 2 * x, x, lambda x, radius: x + radius, 0.5)
        tensor([0.1414])
    """
    _check_norm(norm_ord)
    neighbourhood = Neighbourhood(
        explanation_func, inputs, perturb_func, perturb_radius, n_perturb_samples,
        max_examples_per_batch, generator=generator, **kwargs,
    )  # fmt: skip
    if normalize:
        _warn_of_zeros(neighbourhood.clean)
    scale = _scale(neighbourhood.clean)
    clean = tuple(_divided(c, scale) for c in neighbourhood.clean)
    with tqdm(total=n_perturb_samples, desc="sensitivity_max", disable=not show_progress) as bar:

        def explain(points: Tensors) -> Tensors:
            """Captum divides by the norm of the clean explanation, by 1 where that is zero.

            Without ``normalize``, explanations are measured from the clean one, which is zero then.
            """
            if points is neighbourhood.inputs:
                return clean if normalize else tuple(map(torch.zeros_like, clean))
            copies = len(points[0]) // len(neighbourhood.inputs[0])
            scales = scale.repeat_interleave(copies)
            explanations = tuple(_divided(e, scales) for e in neighbourhood.explain(points, copies))
            bar.update(copies)
            if normalize:
                return explanations
            return tuple(
                e - c.repeat_interleave(copies, dim=0)
                for e, c in zip(explanations, clean, strict=True)
            )

        def perturb(copies_of_inputs: Tensor | Tensors) -> Tensors:
            first = copies_of_inputs[0] if len(neighbourhood.inputs) > 1 else copies_of_inputs
            return neighbourhood.neighbours.draw(len(first) // len(neighbourhood.inputs[0]))

        largest = captum_metrics.sensitivity_max(
            explain,
            neighbourhood.inputs,
            perturb,
            perturb_radius,
            n_perturb_samples,
            norm_ord,
            neighbourhood.copies_at_once * len(neighbourhood.inputs[0]),
        )
    return largest if normalize else largest * scale.to(largest)


@with_arguments_of(Neighbourhood)
def sensitivity_lipschitz(neighbourhood: Neighbourhood) -> Tensor:  # noqa: D417
    r"""Largest change of the explanation per change of the input: Yeh et al. 2019, Eq. 4.

    .. math:: \max_j \lVert\phi(x) - \phi(x + d_j)\rVert_2 \; / \; \lVert d_j\rVert_2

    over points of the ball: a lower bound of the local Lipschitz constant. Both norms are
    Euclidean, over all inputs of a tuple together, for a ball of any shape. Where the
    explanation jumps (the gradient of rectifiers) the supremum is infinite and the number grows as
    the radius shrinks; :func:`sensitivity_max` stays finite.

    Args:
        explanation_func: See :func:`sensitivity_max`.
        inputs: See :func:`sensitivity_max`.
        perturb_func: See :func:`sensitivity_max`. A point that equals its input, as an attack
            returns where it found nothing better, contributes 0.
        perturb_radius: See :func:`sensitivity_max`.
        n_perturb_samples: See :func:`sensitivity_max`.
        max_examples_per_batch: See :func:`sensitivity_max`.
        generator: See :func:`sensitivity_max`.
        show_progress: See :func:`sensitivity_max`.
        **kwargs: See :func:`sensitivity_max`.

    Returns:
        (N,), at least float32, in units of the explanation per unit of the inputs.

    Raises:
        TypeError, ValueError: See :mod:`captum_robust.metrics`.

    Example:
        >>> import torch
        >>> from captum_robust.metrics import sensitivity_lipschitz
        >>> sensitivity_lipschitz(lambda x: x**2, torch.tensor([[3.0, 4.0]]), lambda x: x + 0.5)
        tensor([7.5664])
    """
    clean = rows(neighbourhood.clean).unsqueeze(1)
    origin = rows(neighbourhood.inputs).unsqueeze(1)
    largest = clean.new_zeros(len(clean))
    for points, explanations, copies in neighbourhood.chunks("sensitivity_lipschitz"):
        change = torch.linalg.vector_norm(rows(explanations, copies) - clean, dim=2)
        distance = torch.linalg.vector_norm(rows(points, copies) - origin, dim=2)
        ratio = change / torch.where(distance > 0, distance, torch.inf).to(change)
        largest = torch.maximum(largest, ratio.amax(1))
    return largest.to(result_dtype(neighbourhood.clean))


def _scale(clean: Tensors) -> Tensor:
    """A power of two, (N,), to divide explanations by whose squares leave the range of numbers.

    It changes no digit of a quotient of norms; 1 for explanations of usual size.
    """
    peak = torch.stack([c.abs().flatten(1).amax(1) for c in clean]).amax(0)
    unusual = (peak > 0) & ((peak < _USUAL[0]) | (peak > _USUAL[1]))
    _, exponent = torch.frexp(peak)
    return torch.where(unusual, torch.ldexp(torch.ones_like(peak), exponent), 1)


def _divided(explanation: Tensor, scale: Tensor) -> Tensor:
    return explanation / scale.to(explanation).view(-1, *[1] * (explanation.dim() - 1))


def _check_norm(norm_ord: Any) -> None:
    if norm_ord == "fro":
        return
    if not isinstance(norm_ord, Real) or math.isnan(norm_ord) or norm_ord < 1:
        raise ValueError(f'norm_ord must be "fro" or a number from 1 on, got {norm_ord!r}.')


def _warn_of_zeros(clean: Tensors) -> None:
    zero = torch.stack([c.flatten(1).eq(0).all(1) for c in clean]).all(0)
    if zero.any():
        warn_user(
            f"the explanation is all zero for {int(zero.sum())} of {len(zero)} examples: their "
            "sensitivity is not divided by its norm. The explanation of a saturated network is; "
            "explain logits instead of probabilities."
        )

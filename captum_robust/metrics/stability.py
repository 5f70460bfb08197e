"""How far an explanation moves in a small ball, its scale aside."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_robust._utils.user_warnings import warn_user
from captum_robust.metrics._neighbourhood import (
    Neighbourhood,
    result_dtype,
    rows,
    with_arguments_of,
)

# Halvings of an interval until its ends are neighbours in float64.
_HALVINGS = 56


@with_arguments_of(Neighbourhood)
def explanation_stability(neighbourhood: Neighbourhood) -> Tensor:  # noqa: D417
    r"""Largest change of an explanation in a ball, up to its scale: Tang et al. 2021, Def. 1.

    .. math:: \inf_{\gamma > 0} \max_j \lVert\phi(x + d_j) - \gamma\,\phi(x)\rVert_2

    over points of the ball; small is stable. The minimum is exact to rounding: the maximum of
    parabolas in :math:`\gamma` that share their curvature is convex, and bisected. Where it
    falls as :math:`\gamma \to 0` (explanations that turn around), the infimum is the largest
    :math:`\lVert\phi(x + d_j)\rVert_2`.

    Args:
        explanation_func: See :func:`~captum_robust.metrics.sensitivity_max`, as all arguments.
        inputs: Tensor or tuple of tensors, (N, ...) each.
        perturb_func: None draws uniformly in the L-inf ball; or a function that perturbs copies of
            the inputs, such as ``attack.perturb_func(labels)``.
        perturb_radius: Radius of the ball, in the unit of the inputs.
        n_perturb_samples: Points for each example.
        max_examples_per_batch: Points explained at once; see ``sensitivity_max``.
        generator: Source of the points; None draws fresh ones, the global state stays.
        show_progress: Whether to show a bar.
        **kwargs: Handed to the explanation; what belongs to an example is repeated.

    Returns:
        (N,), at least float32, in the unit of the explanation. Where the clean explanation is all
        zero, no scale changes anything: the largest :math:`\lVert\phi(x + d_j)\rVert_2`.

    Raises:
        TypeError, ValueError: See :mod:`captum_robust.metrics`.

    Warns:
        UserWarning: The clean explanation of an example is all zero.

    Example:
        >>> import torch
        >>> from captum_robust.metrics import explanation_stability
        >>> x = torch.tensor([[3.0, 4.0]])
        >>> explanation_stability(lambda x: x, x, lambda x: 2 * x)
        tensor([0.])
        >>> explanation_stability(lambda x: x, x, lambda x: x + torch.tensor([0.4, -0.3]))
        tensor([0.5000])
    """
    clean = rows(neighbourhood.clean)
    _warn_of_zeros(clean)
    direction = _unit(clean).unsqueeze(1)
    parallel, perpendicular = [], []
    for _, explanations, copies in neighbourhood.chunks("explanation_stability"):
        moved = rows(explanations, copies)
        component = (moved * direction).sum(2, keepdim=True)
        parallel.append(component.squeeze(2))
        perpendicular.append(torch.linalg.vector_norm(moved - component * direction, dim=2))
    smallest = _farthest_from_best(torch.cat(parallel, dim=1), torch.cat(perpendicular, dim=1))
    return smallest.to(result_dtype(neighbourhood.clean))


def _farthest_from_best(parallel: Tensor, perpendicular: Tensor) -> Tensor:
    r"""Inf over t > 0 of the largest distance from (t, 0) to points of the plane, (N,).

    With t = gamma |phi(x)|, ``parallel`` and ``perpendicular``, (N, m) each, are the components of
    the explanations in the direction of phi(x) and at right angles to it. Whether the farthest
    point lies before or behind t tells on which side the minimum is. The distance changes by no
    more than t does, and the minimum is at least half the spread of ``parallel``: the bisected
    interval makes it exact to rounding.
    """
    low, high = parallel.amin(1).clamp(min=0), parallel.amax(1).clamp(min=0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        farthest = _distance(parallel, perpendicular, middle).argmax(1, keepdim=True)
        rises = parallel.gather(1, farthest).squeeze(1) <= middle
        low, high = torch.where(rises, low, middle), torch.where(rises, middle, high)
    at_low, at_high = (_distance(parallel, perpendicular, t).amax(1) for t in (low, high))
    return torch.minimum(at_low, at_high)


def _distance(parallel: Tensor, perpendicular: Tensor, t: Tensor) -> Tensor:
    return torch.hypot(parallel - t.unsqueeze(1), perpendicular)


def _unit(clean: Tensor) -> Tensor:
    """Each row divided by its norm, without under- or overflow; a zero row stays zero."""
    peak = clean.abs().amax(1, keepdim=True)
    clean = clean / torch.where(peak > 0, peak, 1)
    norm = torch.linalg.vector_norm(clean, dim=1, keepdim=True)
    return clean / torch.where(norm > 0, norm, 1)


def _warn_of_zeros(clean: Tensor) -> None:
    zero = (clean == 0).all(1)
    if zero.any():
        warn_user(
            f"the explanation is all zero for {int(zero.sum())} of {len(zero)} examples: their "
            "stability is the largest norm of the perturbed explanations. The explanation of a "
            "saturated network is; explain logits instead of probabilities."
        )

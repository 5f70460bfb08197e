r"""What to harm, as pure functions of relevance maps ``(N, ...)``; one value per example.

Attacks minimise, so what an attack wants to grow is negated here. None of them checks its
arguments: they run in every iteration.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mass_on(relevance: Tensor, region: Tensor) -> Tensor:
    r"""Share of the relevance in a region, :math:`\sum_{t \in T} r_t` (Tang et al. 2021, Eq. 1).

    Args:
        relevance: Relevance maps, (N, ...).
        region: 1 in the region and 0 elsewhere; the shape of ``relevance``, or of one map.

    Returns:
        (N,), between 0 and 1.

    Example:
        >>> mass_on(torch.tensor([[0.5, 0.2, 0.3]]), torch.tensor([1.0, 0.0, 1.0]))
        tensor([0.8000])
    """
    return (relevance * region).flatten(1).sum(1)


def top_k_mask(relevance: Tensor, k: int) -> Tensor:
    """Mark the k largest entries of each map with 1, all others with 0.

    Example:
        >>> top_k_mask(torch.tensor([[0.5, 0.2, 0.3]]), k=2)
        tensor([[1., 0., 1.]])
    """
    flat = relevance.flatten(1)
    mask = torch.zeros_like(flat).scatter_(1, flat.topk(k, dim=1).indices, 1.0)
    return mask.view_as(relevance)


def mass_center(relevance: Tensor) -> Tensor:
    r"""Centre of mass of each map in pixels, :math:`C(r) = \sum_p p\, r_p` (Ghorbani et al. 2019).

    Args:
        relevance: Relevance maps, (N, d1, d2, ...), that sum to one.

    Returns:
        (N, number of map dimensions): mean index along each dimension.

    Example:
        >>> mass_center(torch.tensor([[[0.0, 0.5], [0.0, 0.5]]]))
        tensor([[0.5000, 1.0000]])
    """
    coordinates = []
    for dim in range(1, relevance.dim()):
        others = [d for d in range(1, relevance.dim()) if d != dim]
        marginal = relevance.sum(dim=others) if others else relevance
        index = torch.arange(marginal.shape[1], dtype=marginal.dtype, device=marginal.device)
        coordinates.append(marginal @ index)
    return torch.stack(coordinates, dim=1)


def distance_to_center(relevance: Tensor, center: Tensor) -> Tensor:
    """Euclidean distance, in pixels, from the maps' centres of mass to ``center`` (N, dims).

    Example:
        >>> distance_to_center(torch.tensor([[[0.0, 0.5], [0.0, 0.5]]]), torch.tensor([[0.5, 0.0]]))
        tensor([1.])
    """
    # The norm's gradient at 0 is taken as 0; there every direction is as good.
    return torch.linalg.vector_norm(mass_center(relevance) - center, dim=1)


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distance per example, summed over all entries.

    Example:
        >>> squared_distance(torch.tensor([[0.0, 3.0]]), torch.tensor([[4.0, 0.0]]))
        tensor([25.])
    """
    return (a - b).square().flatten(1).sum(1)

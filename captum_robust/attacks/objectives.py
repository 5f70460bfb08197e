r"""What to harm, as pure functions of relevance maps ``(N, ...)``; one value per example.

Attacks minimise, so what an attack wants to grow is negated here. None of them checks its
arguments: they run in every iteration.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from captum_robust._utils.relevance import is_top_k


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
    return is_top_k(relevance.flatten(1), k).to(relevance.dtype).view_as(relevance)


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


def soft_top_k(relevance: Tensor, region: Tensor, k: int, sharpness: float = 0.3) -> Tensor:
    r"""How many of a region's features are among the k largest, with soft edges.

    .. math:: \frac{1}{k} \sum_{t \in T} \sigma\left(\frac{r_t - \tau}{s\, \tau}\right)

    with the k-th largest relevance :math:`\tau` taken as a constant. As s goes to 0 it becomes the
    top-k intersection, whose own derivative is zero. Features far from the edge hardly count, so
    the loss works where the mass does not: at those that are about to leave.

    Args:
        relevance: Relevance maps, (N, ...).
        region: 1 for the features that count and 0 elsewhere; the shape of ``relevance``.
        k: Number of features.
        sharpness: s, in units of the k-th largest relevance.

    Returns:
        (N,), between 0 and 1.

    Example:
        >>> r = torch.tensor([[0.5, 0.2, 0.3]])
        >>> soft_top_k(r, torch.tensor([[1.0, 0.0, 0.0]]), k=1)
        tensor([0.5000])
    """
    flat, tau = _with_edge(relevance, k)
    inside = torch.sigmoid((flat - tau) / (sharpness * tau))
    return (inside * region.flatten(1)).sum(1) / k


def relative_top_k(relevance: Tensor, region: Tensor, k: int, sharpness: float = 0.5) -> Tensor:
    r"""Like :func:`soft_top_k`, of ratios: :math:`\sigma(\log(r_t / \tau) / s)`.

    A feature far above the edge keeps a part of its gradient, which there fades in soft_top_k.

    Example:
        >>> r = torch.tensor([[0.5, 0.2, 0.3]])
        >>> relative_top_k(r, torch.tensor([[1.0, 0.0, 0.0]]), k=1)
        tensor([0.5000])
    """
    flat, tau = _with_edge(relevance, k)
    # A thousandth of the edge keeps the logarithm, and its derivative, finite at zero.
    inside = torch.sigmoid(((flat + 1e-3 * tau) / (1.001 * tau)).log() / sharpness)
    return (inside * region.flatten(1)).sum(1) / k


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of two maps, (N,); 0 where one of them is constant.

    Example:
        >>> correlation(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0, 4.0, 6.0]])).round()
        tensor([1.])
    """
    a, b = (m.flatten(1) - m.flatten(1).mean(1, keepdim=True) for m in (a, b))
    spread = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return (a * b).sum(1) / torch.where(spread > 0, spread, torch.inf)


def structural_similarity(a: Tensor, b: Tensor, win_size: int = 7) -> Tensor:
    """Mean structural similarity of two maps, (N,), with a graph.

    The formula is in :func:`captum_robust.metrics.structural_similarity`, which has no graph. The
    range of the numbers is that of the two maps together, taken as a constant.

    Args:
        a: Relevance maps, (N, H, W).
        b: What to compare with, of the same shape.
        win_size: Side of the flat window in pixels.

    Example:
        >>> a = torch.eye(8).unsqueeze(0)
        >>> structural_similarity(a, 0.5 * a)
        tensor([0.6417])
    """
    both = torch.cat([a, b], 1).detach()
    low, high = both.amin((1, 2), keepdim=True), both.amax((1, 2), keepdim=True)
    span = torch.where(high > low, high - low, 1.0)
    # From the lowest number up, in units of the range: variances lose no digits to large means.
    x, y, shift = (a - low) / span, (b - low) / span, low / span
    means = F.avg_pool2d(torch.stack([x, y, x * x, y * y, x * y], 1), win_size, stride=1)
    mean_x, mean_y, squares_x, squares_y, products = means.unbind(1)
    sample = win_size**2 / (win_size**2 - 1)
    variances = sample * (squares_x - mean_x**2 + squares_y - mean_y**2)
    covariance = sample * (products - mean_x * mean_y)
    mean_x, mean_y = mean_x + shift, mean_y + shift
    c1, c2 = 0.01**2, 0.03**2
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (likeness / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))).flatten(1).mean(1)


def soft_rank_correlation(a: Tensor, ranks: Tensor, sharpness: float = 0.5) -> Tensor:
    r"""Correlation of given ranks with soft ranks of ``a``, (N,).

    A soft rank is :math:`\sigma((\log a_i - m) / (s\, d))` with the mean m and the standard
    deviation d of the logarithms, taken as constants: the rank that ``a`` would have in a
    log-logistic distribution. It costs one pass over the features, where comparing all pairs costs
    their square.

    Args:
        a: Relevance maps, (N, ...).
        ranks: What to correlate with, such as ranks of another map, of the same shape.
        sharpness: s.

    Example:
        >>> a = torch.tensor([[1.0, 2.0, 4.0]])
        >>> soft_rank_correlation(a, torch.tensor([[0.0, 1.0, 2.0]])).item() > 0.99
        True
    """
    flat = a.flatten(1)
    floor = flat.detach().mean(1, keepdim=True) * 1e-4
    logs = (flat + floor + torch.finfo(flat.dtype).tiny).log()
    center = logs.detach().mean(1, keepdim=True)
    spread = logs.detach().std(1, keepdim=True).clamp(min=1e-6)
    return correlation(torch.sigmoid((logs - center) / (sharpness * spread)), ranks)


def ranks_of(a: Tensor) -> Tensor:
    """Rank of each feature in its map, from 0 on, as numbers of its dtype; equal ones share a mean.

    Example:
        >>> ranks_of(torch.tensor([[0.5, 0.2, 0.3, 0.2]]))
        tensor([[3.0000, 0.5000, 2.0000, 0.5000]])
    """
    flat = a.detach().flatten(1).contiguous()
    ordered = flat.sort(dim=1).values
    smaller = torch.searchsorted(ordered, flat)
    not_larger = torch.searchsorted(ordered, flat, right=True)
    return ((smaller + not_larger - 1).to(a.dtype) / 2).view_as(a)


def _with_edge(relevance: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Flat maps, and their k-th largest relevance as a constant, (N, 1)."""
    flat = relevance.flatten(1)
    largest = flat.detach().topk(k, dim=1).values
    # Where fewer than k features are relevant it is as good as 0; a thousandth of it is still a
    # normal number.
    numbers = torch.finfo(flat.dtype)
    edge = largest[:, -1:].maximum(numbers.eps * largest[:, :1])
    return flat, edge.clamp(min=2**20 * numbers.tiny)

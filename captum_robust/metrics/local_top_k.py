"""The share of the most relevant pixels that stay near where they were, per example."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_robust._utils.relevance import is_top_k
from captum_robust.metrics._pairs import (
    compare_pairs,
    is_constant,
    warn_of_constants,
    whole_number,
)
from captum_robust.metrics.top_k import check_k


def local_top_k_intersection(
    a: Tensor, b: Tensor, k: int, distance: int = 1, *, diverse: bool = False
) -> Tensor:
    r"""Share of the k largest pixels of ``a`` that have one of the k largest of ``b`` near them.

    .. math:: |T_k(a) \cap N_w(T_k(b))| / k

    :math:`T_k` is as in :func:`top_k_intersection`, :math:`N_w(T)` holds the pixels whose rows and
    columns are each at most w = ``distance`` from those of a pixel of T. A relevance that moves by
    a pixel is not counted as lost. Kamath et al., "Rethinking robustness of model attributions"
    (2024), call it LENS-prec@k for the map ``a`` before and ``b`` after an attack, and the same
    with ``a`` and ``b`` swapped LENS-recall@k. With ``distance=0`` it is ``top_k_intersection``.

    With ``diverse`` (top-k-div there) the sets are filled from the largest pixel down, leaving out
    those within ``distance`` of one that was taken, so that a single spot cannot fill them. They
    may then hold fewer than k pixels; the share is of those of ``a``.

    Args:
        a: Relevance maps, (N, T), (N, H, W) or (N, D, H, W), or explanations of that layout.
        b: As ``a``.
        k: Size of the sets, from 1 to the number of pixels.
        distance: w, in pixels, from 0 on; 1 stands for a window of 3 x 3.
        diverse: Whether the pixels of a set are to lie more than ``distance`` apart.

    Returns:
        (N,), from 0 to 1.

    Raises:
        TypeError: ``k`` or ``distance`` is not a whole number; or see :mod:`captum_robust.metrics`.
        ValueError: ``k`` or ``distance`` is out of range, ``a`` has over four dimensions; or see
            :mod:`captum_robust.metrics`.

    Warns:
        UserWarning: An example of ``a`` or ``b`` is constant: its set is the first k pixels.

    Example:
        >>> import torch
        >>> from captum_robust.metrics import local_top_k_intersection
        >>> a = torch.tensor([[0.5, 0.3, 0.1, 0.1, 0.0, 0.0]])
        >>> b = torch.tensor([[0.0, 0.5, 0.1, 0.0, 0.0, 0.4]])
        >>> [local_top_k_intersection(a, b, k=2, distance=w).item() for w in (0, 1)]
        [0.5, 1.0]
        >>> local_top_k_intersection(b, a, k=2).item()
        0.5
    """
    k, distance = whole_number("k", k), whole_number("distance", distance)
    if distance < 0:
        raise ValueError(f"distance must be at least 0 pixels, got {distance}.")
    shares = compare_pairs(partial(local_share, k=k, distance=distance, diverse=diverse), a, b)
    constant = is_constant(a) | is_constant(b)
    warn_of_constants(constant, f"its {k} largest pixels are taken to be the first {k}")
    return shares


def local_share(x: Tensor, y: Tensor, k: int, distance: int, diverse: bool) -> Tensor:
    """What :func:`local_top_k_intersection` says of (n, ...) and (n, ...), without checks: (n,)."""
    check_k(x, k)
    if x.ndim > 4:
        raise ValueError(
            f"a must be (N, T), (N, H, W) or (N, D, H, W), got shape {tuple(x.shape)}. Take the "
            "relevance maps of explanations that have channels: relevance_map(a)."
        )
    if diverse:
        chosen, others = (_diverse_top_k(maps, k, distance) for maps in (x, y))
    else:
        chosen, others = (is_top_k(maps.flatten(1), k).view_as(maps) for maps in (x, y))
    near = chosen & _widened(others, distance)
    return near.flatten(1).sum(1).to(x.dtype) / chosen.flatten(1).sum(1)


def _widened(chosen: Tensor, distance: int) -> Tensor:
    """The pixels at most ``distance`` away from one of ``chosen`` in every direction."""
    if distance == 0:
        return chosen
    maps = chosen.float()
    # One dimension after the other: a maximum over a window is that of the maxima over its rows.
    for dim in range(1, maps.ndim):
        lines = maps.movedim(dim, -1)
        flat = lines.reshape(-1, 1, lines.shape[-1])
        reach = min(distance, flat.shape[-1] - 1)
        widened = F.max_pool1d(F.pad(flat, (reach, reach)), 2 * reach + 1, stride=1)
        maps = widened.view(lines.shape).movedim(-1, dim)
    return maps > 0


def _diverse_top_k(maps: Tensor, k: int, distance: int) -> Tensor:
    """Which pixels are taken from the largest down, none within ``distance`` of another."""
    flat = maps.flatten(1)
    order = flat.argsort(dim=1, descending=True, stable=True)
    positions = torch.arange(flat.shape[1], device=flat.device, dtype=flat.dtype)
    ranks = torch.empty_like(flat).scatter_(1, order, positions.expand_as(flat))
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    for _ in range(k):
        best = ranks.argmin(1, keepdim=True)  # unique, but for rows that have nothing left
        left = ranks.gather(1, best).isfinite()
        if not bool(left.any()):
            break
        taken = torch.zeros_like(chosen).scatter_(1, best, left)
        chosen |= taken
        ranks[_widened(taken.view_as(maps), distance).flatten(1)] = torch.inf
    return chosen.view_as(maps)

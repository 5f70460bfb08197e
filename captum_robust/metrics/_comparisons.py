"""The arithmetic of the similarities, batched over examples; see `similarity` for the formulas."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation of (n, ...) with (n, ...): (n,), NaN where one is constant."""
    return _cosine(_centred(x.flatten(1)), _centred(y.flatten(1)))


def rank_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Spearman's correlation of (n, ...) with (n, ...): (n,), NaN where one is constant."""
    return _cosine(_centred_ranks(x.flatten(1)), _centred_ranks(y.flatten(1)))


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    # One root of the product, not a product of roots: the cosine of equal rows is exactly 1.
    norms = ((x * x).sum(1) * (y * y).sum(1)).sqrt()
    return ((x * y).sum(1) / norms).clamp(-1.0, 1.0)


def _centred(x: Tensor) -> Tensor:
    # With a largest magnitude of one no square over- or underflows, and a constant row, all ones
    # or all zeros, becomes exactly zero.
    peak = x.abs().amax(1, keepdim=True)
    x = x / torch.where(peak > 0, peak, 1.0)
    return x.sub_(x.mean(1, keepdim=True))


def _centred_ranks(x: Tensor) -> Tensor:
    """Twice the average rank of each number in its row (n, F), less the row's mean.

    Whole numbers, so that sums of them are exact.
    """
    n_features = x.shape[1]
    order = _argsort(x)
    ordered = x.gather(1, order)
    steps = ordered[:, 1:] != ordered[:, :-1]  # between groups of equal numbers
    is_first, is_last = F.pad(steps, (1, 0), value=True), F.pad(steps, (0, 1), value=True)
    position = torch.arange(n_features, dtype=x.dtype, device=x.device)
    first = torch.where(is_first, position, 0.0).cummax(1).values
    last = torch.where(is_last, position, n_features).flip(1).cummin(1).values.flip(1)
    return torch.empty_like(x).scatter_(1, order, first.add_(last).sub_(n_features - 1))


def _argsort(x: Tensor) -> Tensor:
    # On a CPU numpy sorts with vector instructions, six times as fast as torch. Neither has to be
    # stable: the order of equal numbers does not change their average rank.
    if x.device.type == "cpu":
        return torch.from_numpy(np.argsort(x.numpy(), axis=1))
    return x.argsort(1)


def top_k_share(x: Tensor, y: Tensor, k: int) -> Tensor:
    """Size of the intersection of the top-k sets of (n, ...) and (n, ...), over k: (n,)."""
    n_features = x[0].numel()
    if not 1 <= k <= n_features:
        raise ValueError(
            f"k must be from 1 to the number of features of one example, {n_features}, got {k}."
        )
    shared = _is_top_k(x.flatten(1), k) & _is_top_k(y.flatten(1), k)
    return shared.sum(1).to(x.dtype) / k


def _is_top_k(x: Tensor, k: int) -> Tensor:
    # Which of several equal numbers `topk` picks depends on the device; its k-th value does not.
    threshold = x.topk(k, dim=1).values[:, -1:]
    above, at = x > threshold, x == threshold
    return above | (at & (at.cumsum(1) <= k - above.sum(1, keepdim=True)))


def mean_ssim(x: Tensor, y: Tensor, data_range: float | None, win_size: int) -> Tensor:
    """Mean SSIM of (n, [C,] H, W) with (n, [C,] H, W): (n,)."""
    _check_ssim(x, data_range, win_size)
    low, span = _low_and_span(x, y)
    if data_range is not None:
        span = torch.full_like(span, data_range)
    # In units of R, and from the lowest number up: variances do not change, and lose no digits to
    # large means or to the tiny numbers of relevance maps.
    x, y = (x - low).div_(span), (y - low).div_(span)
    moments = (x, y, (x * x).addcmul_(y, y), x * y)
    x_mean, y_mean, squares, products = (_window_means(moment, win_size) for moment in moments)
    # In place from here on: on a CPU new memory costs more than the arithmetic.
    squares.addcmul_(x_mean, x_mean, value=-1).addcmul_(y_mean, y_mean, value=-1)
    products.addcmul_(x_mean, y_mean, value=-1)
    sample = win_size**2 / (win_size**2 - 1)
    variances, covariance = squares.mul_(sample), products.mul_(sample)
    x_mean.add_(low / span)
    y_mean.add_(low / span)
    c1, c2 = 0.01**2, 0.03**2
    numerator = (x_mean * y_mean).mul_(2).add_(c1).mul_(covariance.mul_(2).add_(c2))
    denominator = x_mean.square_().addcmul_(y_mean, y_mean).add_(c1).mul_(variances.add_(c2))
    return numerator.div_(denominator).flatten(1).mean(1)


def _low_and_span(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest number of each pair and the distance to its highest, 1 where none, (n, 1, ..., 1)."""
    inner = tuple(range(1, x.ndim))
    low = torch.minimum(x.amin(inner, keepdim=True), y.amin(inner, keepdim=True))
    span = torch.maximum(x.amax(inner, keepdim=True), y.amax(inner, keepdim=True)) - low
    return low, torch.where(span > 0, span, 1.0)  # equal constants: any R gives 1


def _window_means(maps: Tensor, win_size: int) -> Tensor:
    """Mean of every window that lies inside, (..., H - win_size + 1, W - win_size + 1)."""
    for dim in (-2, -1):
        n_windows = maps.shape[dim] - win_size + 1
        sums = maps.narrow(dim, 0, n_windows).clone()
        for offset in range(1, win_size):
            sums += maps.narrow(dim, offset, n_windows)
        maps = sums
    return maps.div_(win_size**2)


def _check_ssim(x: Tensor, data_range: float | None, win_size: int) -> None:
    if x.ndim not in (3, 4):
        raise ValueError(
            f"a must be maps (N, H, W) or (N, C, H, W), got shape {tuple(x.shape)}; SSIM compares "
            "windows of pixels, so use another similarity for other data."
        )
    if data_range is not None and not 0 < data_range < float("inf"):
        raise ValueError(
            f"data_range must be positive and finite, got {data_range}; None takes that of each "
            "pair, 1.0 is right for images in [0, 1]."
        )
    side = min(x.shape[-2:])
    if win_size % 2 == 0 or not 3 <= win_size <= side:
        raise ValueError(
            f"win_size must be odd, at least 3 and at most the smaller side of the maps, {side}, "
            f"got {win_size}."
        )

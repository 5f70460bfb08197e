"""Pearson's and Spearman's correlation of two explanations, per example."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from captum_robust.metrics._pairs import compare_pairs, warn_of_constants


def pearson_correlation(a: Tensor, b: Tensor) -> Tensor:
    r"""Pearson's correlation coefficient of each pair of explanations.

    .. math:: \frac{\sum_i (a_i - \bar a)(b_i - \bar b)}
              {\sqrt{\sum_i (a_i - \bar a)^2 \sum_i (b_i - \bar b)^2}}

    Equal to ``scipy.stats.pearsonr`` on the flattened example.

    Args:
        a: Explanations or relevance maps, (N, ...).
        b: As ``a``.

    Returns:
        (N,), from -1 to 1. Where ``a`` or ``b`` is constant it is undefined and set to 0.

    Raises:
        TypeError, ValueError: See :mod:`captum_robust.metrics`.

    Warns:
        UserWarning: An example of ``a`` or ``b`` is constant.

    Example:
        >>> import torch
        >>> from captum_robust.metrics import pearson_correlation
        >>> a = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
        >>> b = torch.tensor([[2.0, 4.0, 6.0], [3.0, 1.0, 2.0]])
        >>> pearson_correlation(a, b)
        tensor([ 1.0000, -0.5000])
    """
    coefficients = compare_pairs(correlation, a, b)
    warn_of_constants(coefficients.isnan(), "the correlation is undefined there and set to 0")
    return coefficients.nan_to_num(0.0)


def spearman_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation of each pair of explanations.

    Pearson's correlation of the ranks, where equal numbers share the average of their ranks; equal
    to ``scipy.stats.spearmanr`` on the flattened example. Ghorbani et al., "Interpretation of
    neural networks is fragile" (2019), compare explanations so.

    Args:
        a: See :func:`pearson_correlation`, as for errors and warnings.
        b: See :func:`pearson_correlation`.

    Returns:
        (N,), from -1 to 1; where ``a`` or ``b`` is constant 0, as there is no order.

    Example:
        >>> import torch
        >>> from captum_robust.metrics import spearman_correlation
        >>> a = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 0.5, 0.5]])
        >>> b = torch.tensor([[1.0, 9.0, 10.0, 99.0], [0.1, 0.2, 0.3, 0.4]])
        >>> spearman_correlation(a, b)
        tensor([1.0000, 0.8944])
    """
    coefficients = compare_pairs(rank_correlation, a, b)
    warn_of_constants(coefficients.isnan(), "the correlation is undefined there and set to 0")
    return coefficients.nan_to_num(0.0)


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

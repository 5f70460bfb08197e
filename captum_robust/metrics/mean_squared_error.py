"""The mean squared difference of two explanations, per example."""

from __future__ import annotations

from torch import Tensor

from captum_robust.metrics._pairs import compare_pairs


def mean_squared_error(a: Tensor, b: Tensor) -> Tensor:
    r"""Mean over the features of :math:`(a_i - b_i)^2`, for each pair of explanations.

    Equal to ``skimage.metrics.mean_squared_error`` of each example. Its unit is that of ``a``,
    squared; compare relevance maps, which sum to one, where the scale must not count.

    Args:
        a: Explanations or relevance maps, (N, ...).
        b: As ``a``.

    Returns:
        (N,), 0 where equal.

    Raises:
        TypeError, ValueError: See :mod:`captum_robust.metrics`.

    Example:
        >>> import torch
        >>> from captum_robust.metrics import mean_squared_error
        >>> mean_squared_error(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 2.0]]))
        tensor([2.])
    """
    return compare_pairs(lambda x, y: (x - y).square_().flatten(1).mean(1), a, b)

"""How alike two explanations are, per example; the room's docstring says what all share."""

from __future__ import annotations

import operator
from functools import partial

from torch import Tensor

from captum_robust._utils.user_warnings import warn_user
from captum_robust.metrics._comparisons import correlation, mean_ssim, rank_correlation, top_k_share
from captum_robust.metrics._pairs import compare_pairs


def pearson_correlation(a: Tensor, b: Tensor) -> Tensor:
    r"""Pearson's correlation coefficient of each pair of explanations.

    .. math:: \frac{\sum_i (a_i - \bar a)(b_i - \bar b)}
              {\sqrt{\sum_i (a_i - \bar a)^2 \sum_i (b_i - \bar b)^2}}

    Equal to ``scipy.stats.pearsonr`` on the flattened example.

    Args:
        a: Explanations or relevance maps, (N, ...).
        b: As ``a``.

    Returns:
        (N,), from -1 to 1. Where ``a`` or ``b`` is constant the coefficient is undefined: 0.

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
    _warn_of_constants(coefficients.isnan(), "the correlation is undefined there and set to 0")
    return coefficients.nan_to_num(0.0)


def spearman_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation of each pair of explanations.

    Pearson's correlation of the ranks, where equal numbers share the average of their ranks; equal
    to ``scipy.stats.spearmanr`` on the flattened example. Ghorbani et al., "Interpretation of
    neural networks is fragile" (2019), compare explanations so.

    Args:
        a: Explanations or relevance maps, (N, ...).
        b: As ``a``.

    Returns:
        (N,), from -1 to 1. Where ``a`` or ``b`` is constant the coefficient is undefined: 0.

    Raises:
        TypeError, ValueError: See :mod:`captum_robust.metrics`.

    Warns:
        UserWarning: An example of ``a`` or ``b`` is constant.

    Example:
        >>> import torch
        >>> from captum_robust.metrics import spearman_correlation
        >>> a = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 0.5, 0.5]])
        >>> b = torch.tensor([[1.0, 9.0, 10.0, 99.0], [0.1, 0.2, 0.3, 0.4]])
        >>> spearman_correlation(a, b)
        tensor([1.0000, 0.8944])
    """
    coefficients = compare_pairs(rank_correlation, a, b)
    _warn_of_constants(coefficients.isnan(), "the correlation is undefined there and set to 0")
    return coefficients.nan_to_num(0.0)


def top_k_intersection(a: Tensor, b: Tensor, k: int) -> Tensor:
    r"""Share of the k largest features that each pair of explanations has in common.

    .. math:: |T_k(a) \cap T_k(b)| / k

    :math:`T_k` holds the positions of the k largest numbers of the flattened example. Ties are
    broken by position, the lower index first, on every device alike; so explanations with fewer
    than k non-zero features share the features that fill the set. Ghorbani et al., "Interpretation
    of neural networks is fragile" (2019), take k = 1000 of 224 x 224 pixels; Tang et al., "Defense
    against explanation manipulation" (2021), k = 50 of 28 x 28, of relevance maps.

    Args:
        a: Explanations or relevance maps, (N, ...).
        b: As ``a``.
        k: Size of the sets, from 1 to the number of features of one example.

    Returns:
        (N,), from 0 (disjoint) to 1 (the same set).

    Raises:
        TypeError: ``k`` is not a whole number; or see :mod:`captum_robust.metrics`.
        ValueError: ``k`` is out of range; or see :mod:`captum_robust.metrics`.

    Warns:
        UserWarning: An example of ``a`` or ``b`` is constant: its set is the first k features.

    Example:
        >>> import torch
        >>> from captum_robust.metrics import top_k_intersection
        >>> a = torch.tensor([[0.5, 0.3, 0.2, 0.0]])
        >>> b = torch.tensor([[0.4, 0.0, 0.3, 0.3]])
        >>> top_k_intersection(a, b, k=2)
        tensor([0.5000])
    """
    try:
        k = operator.index(k)
    except TypeError:
        raise TypeError(f"k must be a whole number of features, got {k!r}.") from None
    shares = compare_pairs(partial(top_k_share, k=k), a, b)
    constant = _is_constant(a) | _is_constant(b)
    _warn_of_constants(constant, f"its {k} largest features are taken to be the first {k}")
    return shares


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


def structural_similarity(
    a: Tensor, b: Tensor, *, data_range: float | None = None, win_size: int = 7
) -> Tensor:
    r"""Mean structural similarity index (SSIM) of each pair of maps.

    The mean over all windows of ``win_size`` x ``win_size`` pixels, with R = ``data_range``, of

    .. math:: \frac{(2 \mu_a \mu_b + (0.01 R)^2)(2 \sigma_{ab} + (0.03 R)^2)}
              {(\mu_a^2 + \mu_b^2 + (0.01 R)^2)(\sigma_a^2 + \sigma_b^2 + (0.03 R)^2)}

    with flat windows and sample covariances: equal to scikit-image's function of the same name with
    that ``data_range`` and ``win_size``, and ``channel_axis=0`` for (N, C, H, W). Wang et al.,
    "Image quality assessment" (2004); Dombrowski et al. (2019) compare explanations with it.

    Args:
        a: Maps (N, H, W), or (N, C, H, W), of which the mean over channels is returned.
        b: As ``a``.
        data_range: R, the distance from the smallest to the largest possible number, in the unit
            of ``a``. By default that of the numbers in the two maps of each pair together, which
            makes the result independent of their common scale. (A fixed R, such as 1, would call
            any two relevance maps alike, as their numbers are near 1 / (H W).) Give 1.0 for images
            in [0, 1].
        win_size: Side of the window in pixels, odd, from 3 to min(H, W).

    Returns:
        (N,), at most 1, where equal.

    Raises:
        TypeError: See :mod:`captum_robust.metrics`.
        ValueError: ``data_range`` is not positive, ``win_size`` is even or does not fit, ``a`` has
            not 3 or 4 dimensions; or see :mod:`captum_robust.metrics`.

    Example:
        >>> import torch
        >>> from captum_robust.metrics import structural_similarity
        >>> a = torch.eye(8).unsqueeze(0)
        >>> structural_similarity(a, 0.5 * a)
        tensor([0.6417])
    """
    measure = partial(mean_ssim, data_range=data_range, win_size=win_size)
    return compare_pairs(measure, a, b)


def _is_constant(explanations: Tensor) -> Tensor:
    lowest, highest = explanations.detach().flatten(1).aminmax(dim=1)
    return lowest == highest


def _warn_of_constants(constant: Tensor, consequence: str) -> None:
    if constant.any():
        warn_user(
            f"a or b is constant for {int(constant.sum())} of {constant.numel()} examples: "
            f"{consequence}. The explanation of a saturated network is; explain logits in place "
            "of probabilities."
        )

"""The structural similarity of two maps, per example."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_robust.metrics._pairs import compare_pairs


def structural_similarity(
    a: Tensor,
    b: Tensor,
    *,
    data_range: float | None = None,
    win_size: int = 7,
    channel_dim: int = 1,
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
            any two relevance maps the same, since their numbers are near 1 / (H W).) Give 1.0 for
            images in [0, 1].
        win_size: Side of the window in pixels, odd, from 3 to min(H, W).
        channel_dim: Where C is in maps of four dimensions, -1 for (N, H, W, C).

    Returns:
        (N,), at most 1, where equal.

    Raises:
        TypeError: See :mod:`captum_robust.metrics`.
        ValueError: ``data_range`` is not positive, ``win_size`` is even or does not fit, ``a`` has
            not 3 or 4 dimensions, ``channel_dim`` is not one of the last three; or see
            :mod:`captum_robust.metrics`.

    Example:
        >>> import torch
        >>> from captum_robust.metrics import structural_similarity
        >>> a = torch.eye(8).unsqueeze(0)
        >>> structural_similarity(a, 0.5 * a)
        tensor([0.6417])
    """
    if channel_dim not in (-3, -2, -1, 1, 2, 3):
        raise ValueError(f"channel_dim must be 1, 2, 3, or -1 for the last, got {channel_dim!r}.")

    def measure(x: Tensor, y: Tensor) -> Tensor:
        if x.ndim == 4:
            x, y = x.movedim(channel_dim, 1), y.movedim(channel_dim, 1)
        return mean_ssim(x, y, data_range, win_size)

    return compare_pairs(measure, a, b)


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

"""Relevance maps: where an explanation looks, regardless of sign and scale.

Attacks differentiate the map, metrics compare it and trainers move it. It lives here because these
packages never import each other.
"""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from captum_robust._utils.user_warnings import warn_user


def is_top_k(x: Tensor, k: int) -> Tensor:
    """Which numbers of a row are among its k largest, the first of equal ones first: (n, F)."""
    # Which of several equal numbers `topk` picks depends on the device; its k-th value does not.
    threshold = x.topk(k, dim=1).values[:, -1:]
    above, at = x > threshold, x == threshold
    return above | (at & (at.cumsum(1) <= k - above.sum(1, keepdim=True)))


def in_unit_range(maps: Tensor) -> Tensor:
    """Maps (N, ...) brought to [0, 1] by their smallest and largest number; constant ones to 0."""
    inner = tuple(range(1, maps.dim()))
    low = maps.amin(inner, keepdim=True)
    span = maps.amax(inner, keepdim=True) - low
    return (maps - low) / torch.where(span > 0, span, 1.0)


def mass_center(maps: Tensor) -> Tensor:
    """The centres of mass of maps (N, ...), as shares of the sides longer than 1, (N, sides)."""
    weight = (maps.flatten(1).sum(1) > 0).view(-1, *[1] * (maps.dim() - 1))
    maps = torch.where(weight, maps, 1.0)  # the centre of a constant map is the middle
    total = maps.flatten(1).sum(1)
    centers = []
    for dim, length in enumerate(maps.shape[1:], start=1):
        if length > 1:
            lines = maps.movedim(dim, 1).flatten(2).sum(2) if maps.dim() > 2 else maps
            place = torch.linspace(0, 1, length, dtype=maps.dtype, device=maps.device)
            centers.append((lines * place).sum(1) / total)
    return torch.stack(centers, dim=1)


def normalized_relevance(attributions: Tensor, channel_dim: int = 1) -> Tensor:
    """Relevance map without checks, warnings or device synchronisation, for the inside of loops.

    The same values and gradients as :func:`relevance_map`, which says what they are. What that
    function refuses gives NaN or zeros here.

    Args:
        attributions: Floating-point tensor, (N, F) or (N, ...) with a channel dimension.
        channel_dim: Dimension to sum over; ignored for (N, F).

    Returns:
        (N, F), or the shape of ``attributions`` without ``channel_dim``; same dtype and device.

    Example:
        >>> import torch
        >>> from captum_robust._utils.relevance import normalized_relevance
        >>> normalized_relevance(torch.tensor([[1.0, -3.0], [0.0, 0.0]]))
        tensor([[0.2500, 0.7500],
                [0.0000, 0.0000]])
    """
    return _divide(*_magnitude_and_total(attributions, channel_dim)).to(attributions.dtype)


def relevance_map(attributions: Tensor, channel_dim: int | None = None) -> Tensor:
    r"""Absolute attributions, summed over channels and divided by their sum per example.

    .. math:: r_p = \frac{\sum_c |a_{cp}|}{\sum_q \sum_c |a_{cq}|}

    A map is non-negative, has no unit and sums to one. It is differentiable; the derivative of the
    absolute value at 0 is taken as 0. Float16 and bfloat16 are summed in float32. Dombrowski et
    al., "Explanations can be manipulated and geometry is to blame" (2019), compare such maps.

    Args:
        attributions: Floating-point tensor: tables (N, F), which have no channels; series
            (N, C, T) or (N, T, C); images (N, C, H, W); volumes (N, C, D, H, W). A batch of maps
            without channels, (N, H, W), goes in as ``maps.unsqueeze(1)``.
        channel_dim: Dimension to sum over, not the batch's. None: 1 for images and volumes. Three
            dimensions do not tell where the channels are, so there it must be given: 1 for
            (N, C, T), as :class:`torch.nn.Conv1d` has it, -1 for (N, T, C). Ignored for (N, F).

    Returns:
        (N, H, W) from (N, C, H, W), (N, F) from (N, F); same dtype and device. An all-zero
        explanation gives an all-zero map with a zero gradient.

    Raises:
        TypeError: ``attributions`` is not a floating-point tensor, or ``channel_dim`` is not a
            whole number.
        ValueError: ``attributions`` is empty, has fewer than two dimensions, NaN or Inf, or a sum
            that overflows; or ``channel_dim`` is the batch dimension, out of range, or missing
            where there are three dimensions.

    Warns:
        UserWarning: An explanation is all zero.

    Example:
        >>> import torch
        >>> from captum_robust.metrics import relevance_map
        >>> relevance_map(torch.tensor([[[[1.0, -2.0]], [[3.0, 2.0]]]]))
        tensor([[[0.5000, 0.5000]]])
    """
    _check_layout(attributions)
    channel_dim = resolve_channel_dim(attributions, channel_dim)
    magnitude, total = _magnitude_and_total(attributions, channel_dim)
    smallest, largest = torch.stack(torch.aminmax(total.detach())).tolist()  # one synchronisation
    if not largest < torch.inf:  # NaN or Inf anywhere makes the total NaN or Inf
        raise ValueError(
            "attributions contains NaN or Inf, or sums to more than its dtype can hold; find the "
            "cause with torch.isfinite(attributions), or rescale the attributions."
        )
    if smallest < torch.finfo(total.dtype).tiny:
        warn_user(
            "attributions is all zero for at least one example, so its relevance map is all zero "
            "and does not sum to one. A saturated network does this; explain logits instead of "
            "probabilities."
        )
    return _divide(magnitude, total).to(attributions.dtype)


def resolve_channel_dim(value: Tensor, channel_dim: int | None, name: str = "attributions") -> int:
    """The dimension of the channels of (N, ...), counted from the front; 1 where there are none.

    Args:
        value: What has the channels, two dimensions or more.
        channel_dim: What the caller said; None: not said.
        name: Of ``value``, for the messages.

    Raises:
        TypeError: ``channel_dim`` is not a whole number.
        ValueError: It is the batch dimension or out of range, or missing for three dimensions.

    Example:
        >>> import torch
        >>> from captum_robust._utils.relevance import resolve_channel_dim
        >>> resolve_channel_dim(torch.rand(2, 20, 3), -1)
        2
    """
    shape, ndim = tuple(value.shape), value.ndim
    if channel_dim is not None and not isinstance(channel_dim, Integral):
        raise TypeError(f"channel_dim must be a whole number or None, got {channel_dim!r}.")
    if ndim <= 2:
        return 1
    if channel_dim is None:
        if ndim == 3:
            raise ValueError(
                f"channel_dim: {name} of shape {shape} does not tell where its channels are. Give "
                "channel_dim=1 for (N, channels, time), channel_dim=-1 for (N, time, channels); "
                f"maps (N, H, W) have none: pass {name}.unsqueeze(1)."
            )
        return 1
    if not -ndim <= channel_dim < ndim or channel_dim % ndim == 0:
        raise ValueError(
            f"channel_dim must name a dimension of {name} other than the batch (0), from 1 "
            f"to {ndim - 1}, got {channel_dim}."
        )
    return int(channel_dim) % ndim


def _magnitude_and_total(attributions: Tensor, channel_dim: int) -> tuple[Tensor, Tensor]:
    """Absolute values summed over channels, and their sum per example, (N, 1, ..., 1)."""
    magnitude = attributions.abs()
    if attributions.dtype in (torch.float16, torch.bfloat16):
        magnitude = magnitude.float()  # a sum soon passes 65,504, the largest float16
    if attributions.ndim > 2:
        magnitude = magnitude.sum(dim=channel_dim)
    return magnitude, magnitude.sum(dim=tuple(range(1, magnitude.ndim)), keepdim=True)


def _divide(magnitude: Tensor, total: Tensor) -> Tensor:
    # Division by infinity, unlike division by a small number, makes the map *and* the gradient of
    # an all-zero explanation exactly zero. A total below the smallest normal number counts as zero
    # too, since its reciprocal overflows.
    return magnitude / torch.where(total >= torch.finfo(total.dtype).tiny, total, torch.inf)


def _check_layout(attributions: Tensor) -> None:
    if not isinstance(attributions, Tensor):
        raise TypeError(f"attributions must be a tensor, got {type(attributions).__name__}.")
    if not attributions.is_floating_point():
        raise TypeError(
            f"attributions must be floating-point, got {attributions.dtype}; convert with .float()."
        )
    shape = tuple(attributions.shape)
    if attributions.ndim < 2:
        raise ValueError(
            f"attributions must have a batch dimension and at least one more, got shape {shape}; "
            "add the batch dimension with attributions.unsqueeze(0)."
        )
    if attributions.numel() == 0:
        raise ValueError(f"attributions is empty, shape {shape}; give at least one example.")

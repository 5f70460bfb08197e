"""What a grid shows, made ready: layouts, amplified changes, checks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from captum_robust._utils.checks import check_images


def channels_first(
    images: Tensor | None, change: Tensor | None, attributions: Sequence[Tensor], channel_dim: int
) -> tuple[Tensor | None, Tensor | None, Sequence[Tensor]]:
    if channel_dim not in (-3, -2, -1, 1, 2, 3):
        raise ValueError(f"channel_dim must be 1, 2, 3, or -1 for the last, got {channel_dim!r}.")

    def first(value: Tensor) -> Tensor:
        is_channelled = isinstance(value, Tensor) and value.ndim == 4
        return value.movedim(channel_dim, 1) if is_channelled else value

    if not isinstance(attributions, Tensor):  # a bare tensor is refused later
        attributions = [first(a) for a in attributions]
    images = None if images is None else first(images)
    return images, None if change is None else first(change), attributions


def amplified(change: Tensor) -> tuple[Tensor, float]:
    """Pictures (N, C, H, W) in [0, 1] of a change, grey where there is none, and the factor."""
    largest = change.detach().abs().max().item()
    if largest == 0:
        return torch.full_like(change, 0.5), 1.0
    # Two digits, rounded down: what is written is what was done, and nothing is cut off.
    factor = 0.5 / largest
    unit = 10.0 ** (math.floor(math.log10(factor)) - 1)
    factor = math.floor(factor / unit * (1 + 1e-6)) * unit
    return (0.5 + factor * change.detach().double()).clamp(0, 1), factor


def with_factor(titles: Sequence[str] | None, place: int, n: int, factor: float) -> list[str]:
    """N titles, with the factor in that of the change."""
    own = list(titles or [""] * n)
    own[place] = f"{own[place]} ({factor:.6g} x)".strip()
    return own


def check_pictures(
    images: Tensor | None, change: Tensor | None, attributions: Sequence[Tensor]
) -> None:
    if isinstance(attributions, Tensor) or len(attributions) == 0:
        raise ValueError(
            "attributions must be a sequence of tensors, one for each column; put a single one in "
            "a list: [attributions]."
        )
    for i, explanations in enumerate(attributions):
        name = f"attributions[{i}]"
        if not isinstance(explanations, Tensor) or not explanations.is_floating_point():
            raise ValueError(f"{name} must be a floating-point tensor; convert it with .float().")
        if explanations.ndim not in (3, 4) or explanations.numel() == 0:
            raise ValueError(
                f"{name} must be explanations (N, C, H, W) or maps (N, H, W), got shape "
                f"{tuple(explanations.shape)}."
            )
        if not torch.isfinite(explanations).all():
            raise ValueError(f"{name} contains NaN or Inf; find it with torch.isfinite.")
    if images is not None:
        check_images(images)
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"images must be (N, C, H, W) with C = 1 or 3, got shape {tuple(images.shape)}."
            )
    if change is not None:
        check_change(change)
    given = [p for p in (images, change) if p is not None]
    sizes = [(len(e), *e.shape[-2:]) for e in (*attributions, *given)]
    if len(set(sizes)) > 1:
        raise ValueError(
            f"attributions and images must agree in N, H and W, got {sizes}; enlarge maps with "
            "captum.attr.LayerAttribution.interpolate."
        )


def check_change(change: Tensor) -> None:
    if not isinstance(change, Tensor) or not change.is_floating_point():
        raise ValueError("change must be a floating-point tensor, such as attacked - images.")
    if change.ndim != 4 or change.shape[1] not in (1, 3):
        raise ValueError(
            f"change must be (N, C, H, W) with C = 1 or 3, got shape {tuple(change.shape)}."
        )
    if not bool(torch.isfinite(change).all()):
        raise ValueError("change contains NaN or Inf; find it with torch.isfinite.")

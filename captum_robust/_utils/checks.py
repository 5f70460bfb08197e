"""Checks of what a user passes in; each message names the argument and the mend."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def check_positive(**values: float) -> None:
    """Raise ValueError unless every value is a positive finite number."""
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive and finite, got {value}.")


def check_images(images: Tensor) -> None:
    """Raise ValueError unless ``images`` is a non-empty batch of finite images in [0, 1]."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images must be a floating-point tensor in [0, 1], got {kind}.")
    if images.dim() < 2:
        raise ValueError(
            f"images must have a batch dimension, got shape {tuple(images.shape)}. "
            "Add it with images.unsqueeze(0)."
        )
    if images.numel() == 0:
        raise ValueError(f"images is empty, shape {tuple(images.shape)}; give at least one.")
    low, high = torch.stack(torch.aminmax(images)).tolist()
    if math.isnan(low) or math.isnan(high):
        raise ValueError("images has NaN. Find it with torch.isnan(images).")
    if low < 0 or high > 1:
        raise ValueError(
            f"images must be in [0, 1], got values from {low:.4g} to {high:.4g}. Undo their "
            "normalisation, or tell the attack of it: set_normalization_used(mean, std)."
        )


def check_labels(labels: Tensor | None, images: Tensor) -> None:
    """Raise ValueError unless ``labels`` is None or one integer class per image."""
    if labels is None:
        return
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        raise ValueError("labels must be a tensor of integer classes, or None for the predicted.")
    if labels.shape != (len(images),):
        raise ValueError(
            f"labels must have shape ({len(images)},), one class per image, got "
            f"{tuple(labels.shape)}."
        )

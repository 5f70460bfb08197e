"""Checks of the examples that an attack is called with; each message names the way on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from captum_robust._utils.forward import why_not_called
from captum_robust._utils.model_state import depends_on_mode
from captum_robust._utils.user_warnings import warn_user
from captum_robust.attacks._limits import on_grid
from captum_robust.attacks.balls import Box, Radius


def check_kind(images: Any) -> None:
    """Raise ValueError unless ``images`` is one tensor of floating-point numbers."""
    if isinstance(images, (tuple, list)) and images and isinstance(images[0], Tensor):
        raise ValueError(
            f"images must be a floating-point tensor, got {len(images)} of them. Give the one to "
            "attack, and the others as additional_forward_args=(...), in the order in which the "
            "model takes them."
        )
    if not isinstance(images, Tensor):
        raise ValueError(
            f"images must be a floating-point tensor, got {type(images).__name__}. Convert it with "
            "torch.as_tensor."
        )
    if not images.is_floating_point():
        raise ValueError(
            f"images must be a floating-point tensor, got {images.dtype}. Convert pixels with "
            "images.float() / 255; categories and tokens do not move: attack their embedding, or "
            "the model's other input, with these as additional_forward_args."
        )


def check_layout(images: Tensor, channel_dim: int | None) -> None:
    """Raise ValueError unless ``images`` is a batch whose channels are known."""
    shape, ndim = tuple(images.shape), images.dim()
    if ndim < 2:
        raise ValueError(
            f"images must have a batch dimension, got shape {shape}. Add it with "
            "images.unsqueeze(0)."
        )
    if images.numel() == 0:
        raise ValueError(f"images is empty, shape {shape}; give at least one.")
    if channel_dim is None and ndim == 3:
        raise ValueError(
            f"channel_dim: of inputs of shape {shape} either dimension may hold the channels, over "
            "which a relevance map sums. Say which: channel_dim=1 for a series (N, C, T), "
            "channel_dim=2 for (N, T, F) or embeddings; images without channels take "
            "images.unsqueeze(1)."
        )
    if channel_dim is not None and ndim > 2 and not -ndim < channel_dim < ndim:
        raise ValueError(
            f"channel_dim must be a dimension of the inputs other than the batch, 1 to {ndim - 1}, "
            f"got {channel_dim}."
        )


def check_values(images: Tensor, box: Box, shown: Box | None) -> None:
    """Raise ValueError where ``images`` has NaN or leaves the box, ``shown`` as the user wrote it.

    Args:
        images: The examples.
        box: Smallest and largest value.
        shown: The same as the user gave it.
    """
    low, high = torch.stack(torch.aminmax(images)).tolist()
    if low != low or high != high:
        raise ValueError("images has NaN. Find it with torch.isnan(images).")
    if shown is None and not (abs(low) < torch.inf and abs(high) < torch.inf):
        raise ValueError("images has Inf. Find it with torch.isfinite(images).")
    if any(isinstance(bound, Tensor) for bound in box):
        outside = (images < box[0]) | (images > box[1])
        if not bool(outside.any()):
            return
        limits = "input_range"
    elif low >= box[0] and high <= box[1]:
        return
    else:
        limits = f"[{float(box[0]):g}, {float(box[1]):g}]"
    raise ValueError(
        f"images must be in {limits}, got values from {low:.4g} to {high:.4g}. Say which values "
        "inputs may have: input_range=(low, high), or None for no bound. Undo the normalisation "
        "of images, or tell the attack of it: set_normalization_used(mean, std)."
    )


def check_grid(images: Tensor, levels: int | None) -> None:
    """Raise ValueError unless ``images`` holds only values that a file of ``levels`` can hold."""
    if levels is None:
        return
    apart = (on_grid(images, levels) - images).abs().max().item()
    if apart > 4 * torch.finfo(images.dtype).eps:
        steps = levels - 1
        raise ValueError(
            f"images must be multiples of 1/{steps}, since {levels} levels are stored; round them: "
            f"(images * {steps}).round() / {steps}."
        )


def check_radius_shape(name: str, value: Radius, images: Tensor) -> None:
    """Raise ValueError unless ``value`` is a number or broadcasts against one example."""
    if not isinstance(value, Tensor):
        return
    shape = tuple(images.shape[1:])
    try:
        fits = torch.broadcast_shapes(value.shape, shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} must be a number or broadcast against one example, {shape}, got "
            f"{tuple(value.shape)}."
        )


def check_arguments(model: nn.Module, images: Tensor, arguments: tuple[Any, ...]) -> None:
    """Raise TypeError where the model cannot be called with these arguments."""
    reason = why_not_called(model, images, *arguments)
    if reason is not None:
        raise TypeError(
            f"model: calling it with the images and {len(arguments)} further arguments fails "
            f"({reason}). Give what it takes besides the images in the call of the attack: "
            "additional_forward_args=(...), as in Captum."
        )


def warn_of_training_mode(model: nn.Module) -> None:
    """Say that the attack evaluates in evaluation mode, where that makes a difference."""
    if depends_on_mode(model):
        warn_user(
            "model is in training mode, and this attack ran it in evaluation mode. Call "
            "model.eval() before you explain or judge the result: dropout and batch statistics "
            "change both (set_model_training_mode attacks in training mode)."
        )


def warn_of_pixels(images: Tensor, mean: Tensor, std: Tensor) -> None:
    """Say that images which should be normalised look as if they were not."""
    if images.numel() == 0:  # refused later, with the reason
        return
    low, high = torch.stack(torch.aminmax(images)).tolist()
    darkest = (-mean / std).min().item()
    if low >= 0 and high <= 1 and darkest < -0.1:
        warn_user(
            "images are all in [0, 1], although set_normalization_used was called, which expects "
            "normalised images. If these are pixels, normalise them first: "
            "attack.normalize(images)."
        )

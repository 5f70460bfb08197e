"""Checks of what a user passes in; each message names the argument and the mend."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from numbers import Integral, Real
from typing import Any

import torch
from captum.attr import Attribution, GradientAttribution
from torch import Tensor

from captum_robust._utils.inference_mode import outside_inference_mode

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check_positive(**values: float) -> None:
    """Raise ValueError unless every value is a positive finite number."""
    for name, value in values.items():
        if not isinstance(value, Real):
            raise TypeError(f"{name} must be a number, got {type(value).__name__}.")
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive and finite, got {value}.")


def check_finite(**values: float) -> None:
    """Raise unless every value is a finite number."""
    for name, value in values.items():
        if not isinstance(value, Real):
            raise TypeError(f"{name} must be a number, got {type(value).__name__}.")
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}.")


def check_count(**values: int) -> None:
    """Raise unless every value is a whole number from 1 on."""
    for name, value in values.items():
        if not isinstance(value, Integral):
            raise TypeError(f"{name} must be a whole number, got {value!r}.")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")


def check_batch(inputs: Any) -> None:
    """Raise unless ``inputs`` is a tensor, or a tuple of tensors, with the same examples."""
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    strange = [type(x).__name__ for x in tensors if not isinstance(x, Tensor)]
    if strange or not tensors:
        raise TypeError(
            f"inputs must be a tensor or a tuple of tensors, got {', '.join(strange) or '()'}."
        )
    shapes = [tuple(x.shape) for x in tensors]
    if not all(shapes):
        raise ValueError(
            "inputs must have a batch dimension, got a tensor of shape (). Add it with "
            "inputs.unsqueeze(0)."
        )
    if any(shape[0] == 0 for shape in shapes):
        raise ValueError(f"inputs is empty, shape {shapes[0]}; give at least one example.")
    if len({shape[0] for shape in shapes}) > 1:
        raise ValueError(
            f"inputs must hold the same examples along dimension 0, got shapes {shapes}. Expand "
            "what is shared, or hand it over as additional_forward_args."
        )


def check_inputs(inputs: Any) -> None:
    """Like :func:`check_batch`; and no value may be NaN or Inf."""
    check_batch(inputs)
    for x in inputs if isinstance(inputs, tuple) else (inputs,):
        if x.is_floating_point() and not bool(torch.isfinite(x).all()):
            raise ValueError("inputs has NaN or Inf. Find it with torch.isfinite(inputs).")


def check_floating_inputs(inputs: Any, why: str = "to be explained") -> None:
    """Raise ValueError if an input is of integers, which neither move nor have a gradient.

    Args:
        inputs: A tensor or a tuple of tensors.
        why: What the numbers are needed for: "to take noise".
    """
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    for i, x in enumerate(tensors):
        if x.is_floating_point():
            continue
        place = f" (input {i} of {len(tensors)})" if len(tensors) > 1 else ""
        raise ValueError(
            f"inputs must be floating-point {why}, got {x.dtype}{place}. Hand categories over as "
            "additional_forward_args, or give their embedding; convert numbers with .float()."
        )


def check_attribution(value: Any, name: str = "attribution_method") -> None:
    """Raise TypeError unless ``value`` is a Captum ``Attribution``."""
    if not isinstance(value, Attribution):
        given = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise TypeError(
            f"{name} must be a captum Attribution, got {given}. Wrap the model: Saliency(model)."
        )


def checked(attribute: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a method ``attribute`` so that it checks its inputs, also under inference mode.

    ``attribute.unchecked`` is the bare method, for loops in which a NaN must not stop the rest.
    """

    @wraps(attribute)
    def run(self: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        check_inputs(inputs)
        if isinstance(self, GradientAttribution):
            check_floating_inputs(inputs)
        if hasattr(self, "check_inputs"):  # what else the explanation asks of them
            self.check_inputs(inputs)
        return outside(self, inputs, *args, **kwargs)

    outside = outside_inference_mode(attribute)
    run.unchecked = attribute  # type: ignore[attr-defined]
    return run


def check_floating(images: Tensor) -> None:
    """Raise ValueError unless ``images`` is a tensor of floating-point numbers."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(
            f"images must be a floating-point tensor in [0, 1], got {kind}. Convert pixels with "
            "images.float() / 255."
        )


def check_images(images: Tensor) -> None:
    """Raise ValueError unless ``images`` is a non-empty batch of finite images in [0, 1]."""
    check_floating(images)
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
            "normalisation: images * std + mean."
        )


def check_labels(labels: Tensor | None, images: Tensor) -> None:
    """Raise ValueError unless ``labels`` is None or one integer class per image."""
    if labels is None:
        return
    if not isinstance(labels, Tensor) or labels.dtype not in INTEGERS:
        raise ValueError("labels must be a tensor of integer classes, or None for the predicted.")
    if labels.shape != (len(images),):
        raise ValueError(
            f"labels must have shape ({len(images)},), one class per image, got "
            f"{tuple(labels.shape)}."
        )

"""Captum's ``Attribution`` objects: copies with other parts, runs without side effects, draws."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import signature
from typing import Any, NamedTuple

import torch
from captum.attr import (
    Attribution,
    DeepLift,
    GradientAttribution,
    GradientShap,
    LayerGradCam,
    LimeBase,
    NoiseTunnel,
    PerturbationAttribution,
    ShapleyValueSampling,
)
from torch import Tensor

from captum_robust._utils.captum import captum_compute_gradients, format_inputs, format_output
from captum_robust._utils.checks import check_floating_inputs
from captum_robust._utils.forward import compute_gradients, unwrapped
from captum_robust._utils.inference_mode import outside_inference_mode
from captum_robust._utils.model_state import preserve_buffers
from captum_robust._utils.randomness import seeded_global_state
from captum_robust._utils.types import TensorOrTensors, Tensors


def map_forward(
    attribution: Attribution, transform: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Attribution:
    """Copy ``attribution``, and all that it wraps, with ``forward_func`` transformed.

    The original and the model are left alone: a shallow copy at each level is enough, since only
    references to the forward function are replaced (DeepLift keeps a second one, ``model``).
    """
    clone = copy.copy(attribution)
    clone.forward_func = transform(attribution.forward_func)
    for name, held in vars(attribution).items():
        if isinstance(held, Attribution):
            setattr(clone, name, map_forward(held, transform))
        elif held is attribution.forward_func:
            setattr(clone, name, clone.forward_func)
    return clone


def use_gradients(
    attribution: Attribution, gradient_func: Callable[..., tuple[Tensor, ...]]
) -> Attribution:
    """Copy ``attribution`` with ``gradient_func`` instead of Captum's own, if it has that."""
    if getattr(attribution, "gradient_func", None) is not captum_compute_gradients:
        return attribution
    clone = copy.copy(attribution)
    clone.gradient_func = gradient_func
    return clone


@outside_inference_mode
def attribute_detached(
    attribution: Attribution, inputs: TensorOrTensors, *args: Any, **kwargs: Any
) -> TensorOrTensors:
    """Run ``attribute`` so that Captum leaves nothing behind and nothing half-differentiable.

    Captum turns on ``requires_grad`` of the caller's tensors with a warning, forgets to turn it
    off when the model raises, and returns attributions of some methods with a graph whose gradient
    is wrong. Here it works on tensors of its own, the result has no graph, and the buffers of a
    model in training mode are as before.

    Methods of this library do not check their inputs here (:func:`checks.checked`).

    Raises:
        ValueError: Inputs of integers for a method that takes gradients; a result in float16 with
            NaN or Inf.
    """
    inner = innermost(attribution)
    gradient_method = isinstance(inner, GradientAttribution)
    is_tuple, tensors = format_inputs(inputs)
    if gradient_method:
        check_floating_inputs(tensors)
    prepared = tuple(
        x.detach().requires_grad_((gradient_method or x.requires_grad) and x.is_floating_point())
        for x in tensors
    )
    quiet = _prepared(attribution, tensors)
    if isinstance(inner, (PerturbationAttribution, LayerGradCam)):
        quiet = map_forward(quiet, unwrapped)
    unchecked = getattr(quiet.attribute, "unchecked", None)
    attribute = partial(unchecked, quiet) if unchecked else quiet.attribute
    with preserve_buffers(inner.forward_func):
        result = _detach(attribute(format_output(is_tuple, prepared), *args, **kwargs))
    _check_overflow(result, tensors)
    return result


class Draws(NamedTuple):
    """Where an explanation draws random numbers from; both are False where it draws none."""

    from_generator: bool
    """It, or what it wraps, takes an argument ``generator`` (this library's)."""
    from_global_state: bool
    """It, or what it wraps, draws from torch's global random state (Captum's)."""


def draws_of(attribution: Any) -> Draws:
    """How ``attribution``, an ``Attribution`` or None, draws random numbers.

    Example:
        >>> import torch
        >>> from captum.attr import NoiseTunnel, Saliency
        >>> from captum_robust._utils.attributions import draws_of
        >>> draws_of(NoiseTunnel(Saliency(torch.relu)))
        Draws(from_generator=False, from_global_state=True)
    """
    if not isinstance(attribution, Attribution):
        return Draws(False, False)
    held = [draws_of(value) for value in vars(attribution).values()]
    return Draws(
        "generator" in signature(attribution.attribute).parameters
        or any(draws.from_generator for draws in held),
        isinstance(attribution, _DRAWING) or any(draws.from_global_state for draws in held),
    )


# KernelShap and Lime are LimeBase, GradientShap's relatives and ShapleyValues subclasses of these.
_DRAWING = (NoiseTunnel, GradientShap, LimeBase, ShapleyValueSampling)


@contextmanager
def same_draws(
    attribution: Any, seed: int, device: torch.device | str, kwargs: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Seed the random draws of ``attribution`` for the length of a block.

    Args:
        attribution: An ``Attribution`` or None.
        seed: From :func:`randomness.seed_from`, say.
        device: Of the inputs.
        kwargs: The arguments of ``attribution.attribute``; a ``generator`` in them is kept.

    Yields:
        The arguments to call it with. The global random state is put back after the block.
    """
    draws = draws_of(attribution)
    if draws.from_generator and kwargs.get("generator") is None:
        kwargs = {**kwargs, "generator": torch.Generator(device).manual_seed(seed)}
    if not draws.from_global_state:
        yield kwargs
        return
    with seeded_global_state(seed, [device]):
        yield kwargs


def _prepared(attribution: Attribution, inputs: Tensors) -> Attribution:
    """A copy with this library's gradients, and thresholds that the inputs' dtype can hold."""
    clone = copy.copy(use_gradients(attribution, compute_gradients))
    if isinstance(clone, DeepLift):
        # Differences below it are not divided by; the default, 1e-10, is zero in float16.
        clone.eps = max(clone.eps, *(torch.finfo(x.dtype).tiny for x in inputs))
    for name, held in vars(clone).items():
        if isinstance(held, Attribution):
            setattr(clone, name, _prepared(held, inputs))
    return clone


def innermost(attribution: Attribution) -> Attribution:
    """The explanation that smoothings and noise tunnels wrap."""
    wrapped = getattr(attribution, "attribution_method", None)
    return innermost(wrapped) if isinstance(wrapped, Attribution) else attribution


def absolute_by_default(attribution: Attribution) -> bool | None:
    """The default of ``abs`` of the explanation inside, as Saliency has it; None: it has none."""
    parameter = signature(innermost(attribution).attribute).parameters.get("abs")
    return None if parameter is None else parameter.default is True


def _check_overflow(result: Any, inputs: Tensors) -> None:
    if not any(x.dtype == torch.float16 for x in inputs):
        return
    parts = result if isinstance(result, tuple) else (result,)
    if not all(bool(p.isfinite().all()) for p in parts if isinstance(p, Tensor)):
        raise ValueError(
            "the explanation has NaN or Inf in float16, which overflows above 65504. Explain in "
            "float32 or bfloat16: model.float(), inputs.float()."
        )


def _detach(result: Any) -> Any:
    if isinstance(result, Tensor):
        return result.detach()
    return tuple(map(_detach, result)) if isinstance(result, tuple) else result

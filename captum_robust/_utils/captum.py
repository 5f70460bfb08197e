"""The only door to Captum's private helpers.

They are private, so they may move with any release of Captum: whatever this library needs of them
is imported here and nowhere else, and handed on under a public-looking name.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from captum._utils.common import (
    _expand_and_update_additional_forward_args,
    _expand_and_update_baselines,
    _expand_and_update_feature_mask,
    _expand_and_update_target,
    _format_output,
    _format_tensor_into_tuples,
    _is_tuple,
    _run_forward,
)
from captum._utils.gradient import compute_gradients as _captum_compute_gradients
from captum.attr import (
    Attribution,
    GradientAttribution,
    LayerGradCam,
    PerturbationAttribution,
)
from captum.attr._utils.approximation_methods import approximation_parameters
from captum.attr._utils.common import _format_input_baseline, _validate_input
from torch import Tensor, nn

from captum_robust._utils.model_state import buffers_kept

__all__ = [
    "approximation_parameters",
    "attach_graph",
    "attribute_detached",
    "check_rows",
    "compute_gradients",
    "expand_per_example_arguments",
    "explained_output",
    "format_inputs",
    "format_inputs_and_baselines",
    "format_output",
    "is_forward_of",
    "logits_of",
    "map_forward",
    "signature_of",
    "unwrapped",
    "use_gradients",
    "validate_path",
]

format_output = _format_output
format_inputs_and_baselines = _format_input_baseline
validate_path = _validate_input


def format_inputs(inputs: Tensor | tuple[Tensor, ...]) -> tuple[bool, tuple[Tensor, ...]]:
    """Return whether ``inputs`` is a tuple, and the tuple of tensors either way."""
    return _is_tuple(inputs), _format_tensor_into_tuples(inputs)


def logits_of(output: Any) -> Tensor:
    """Unwrap a model's output: a tensor, or an object that carries one as ``.logits``."""
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    raise TypeError(
        f"forward_func returned {type(output).__name__}: expected a tensor or an object whose "
        "attribute 'logits' is one. Wrap it in a function that returns the tensor to explain."
    )


def check_rows(output: Tensor, n_rows: int) -> None:
    """Raise ValueError unless a model's output has a row for each of its ``n_rows`` inputs."""
    if output.dim() == 0 or len(output) != n_rows:
        raise ValueError(
            f"forward_func must return a row per example, {n_rows} of them, got shape "
            f"{tuple(output.shape)}."
        )


def compute_gradients(
    forward_fn: Callable[..., Any],
    inputs: tuple[Tensor, ...],
    target_ind: Any = None,
    additional_forward_args: Any = None,
    *,
    create_graph: bool = False,
) -> tuple[Tensor, ...]:
    """Gradient of the explained output, with the signature of Captum's ``gradient_func``.

    It differs from Captum's in two ways: with ``create_graph`` the result can itself be
    differentiated, and a model may return an object with ``.logits``. Where the gradient does not
    depend on the inputs (a linear model), a graph of zeros is still attached.
    """
    with torch.enable_grad():
        output = explained_output(forward_fn, inputs, target_ind, additional_forward_args)
        gradients = torch.autograd.grad(output.sum(), inputs, create_graph=create_graph)
        if create_graph:
            return tuple(map(attach_graph, gradients, inputs))
        return gradients


def explained_output(
    forward_fn: Callable[..., Any],
    inputs: tuple[Tensor, ...],
    target: Any = None,
    additional_forward_args: Any = None,
) -> Tensor:
    """The number that is explained, one per example: (N,) or (N, 1, ...)."""
    output = _run_forward(unwrapped(forward_fn), inputs, target, additional_forward_args)
    # No check of the rows here: DeepLift runs inputs and baselines as one batch of twice the size.
    if output[0].numel() != 1:
        raise ValueError(
            f"target: the model gives {output[0].numel()} values per example and one must be "
            "chosen. Pass target= the class to explain."
        )
    return output


def unwrapped(forward_fn: Callable[..., Any]) -> Callable[..., Tensor]:
    """``forward_fn`` that returns the tensor where the model returns an object with ``.logits``."""

    def forward(*args: Any) -> Tensor:
        return logits_of(forward_fn(*args))

    forward.__signature__ = signature_of(forward_fn)  # type: ignore[attr-defined]
    return forward


def signature_of(forward: Callable[..., Any]) -> inspect.Signature:
    """The signature to give a stand-in: Captum asks how many arguments a forward function takes."""
    try:
        return inspect.signature(forward)
    except ValueError:  # torch.relu and its like have none
        return inspect.signature(lambda *args, **kwargs: None)


def attach_graph(gradient: Tensor, of: Tensor) -> Tensor:
    """``gradient`` with a graph that holds ``of``, of zeros where it had none."""
    # Of a linear model the gradient is a weight: it may have a graph that does not hold ``of``.
    never = torch.zeros((), dtype=torch.bool, device=of.device)
    return torch.where(never, of, gradient)


def expand_per_example_arguments(
    n_samples: int, inputs: tuple[Tensor, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Repeat what belongs to an example ``n_samples`` times, as NoiseTunnel does.

    Covers ``target``, ``additional_forward_args``, ``baselines`` and ``feature_mask``; the copies
    of one example are adjacent (``repeat_interleave``).
    """
    expanded = dict(kwargs)
    _expand_and_update_additional_forward_args(n_samples, expanded)
    _expand_and_update_target(n_samples, expanded)
    _expand_and_update_baselines(inputs, n_samples, expanded)
    _expand_and_update_feature_mask(n_samples, expanded)
    return expanded


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
    """Copy ``attribution`` with ``gradient_func`` in place of Captum's own, if it has that."""
    if getattr(attribution, "gradient_func", None) is not _captum_compute_gradients:
        return attribution
    clone = copy.copy(attribution)
    clone.gradient_func = gradient_func
    return clone


def attribute_detached(
    attribution: Attribution, inputs: Tensor | tuple[Tensor, ...], *args: Any, **kwargs: Any
) -> Any:
    """Run ``attribute`` so that Captum leaves nothing behind and nothing half-differentiable.

    Captum turns on ``requires_grad`` of the caller's tensors with a warning, forgets to turn it
    off when the model raises, and returns attributions of some methods with a graph whose gradient
    is wrong. Here it works on tensors of its own, the result has no graph, and the buffers of a
    model in training mode are as before.

    Methods of this library do not check their inputs here (:func:`checks.checked`).
    """
    innermost = _innermost(attribution)
    gradient_method = isinstance(innermost, GradientAttribution)
    is_tuple, tensors = format_inputs(inputs)
    prepared = tuple(
        x.detach().requires_grad_((gradient_method or x.requires_grad) and x.is_floating_point())
        for x in tensors
    )
    quiet = _with_own_gradients(attribution)
    if isinstance(innermost, (PerturbationAttribution, LayerGradCam)):
        quiet = map_forward(quiet, unwrapped)
    unchecked = getattr(quiet.attribute, "unchecked", None)
    attribute = partial(unchecked, quiet) if unchecked else quiet.attribute
    with buffers_kept(innermost.forward_func):
        return _detach(attribute(format_output(is_tuple, prepared), *args, **kwargs))


def _with_own_gradients(attribution: Attribution) -> Attribution:
    clone = copy.copy(use_gradients(attribution, compute_gradients))
    for name, held in vars(clone).items():
        if isinstance(held, Attribution):
            setattr(clone, name, _with_own_gradients(held))
    return clone


def _innermost(attribution: Attribution) -> Attribution:
    wrapped = getattr(attribution, "attribution_method", None)
    return _innermost(wrapped) if isinstance(wrapped, Attribution) else attribution


def _detach(result: Any) -> Any:
    if isinstance(result, Tensor):
        return result.detach()
    return tuple(map(_detach, result)) if isinstance(result, tuple) else result


def is_forward_of(forward_func: Callable[..., Any], model: nn.Module) -> bool:
    """Whether calling ``forward_func`` is calling ``model``."""
    return forward_func is model or (
        getattr(forward_func, "__self__", None) is model
        and getattr(forward_func, "__name__", "") in ("forward", "__call__", "_wrapped_call_impl")
    )

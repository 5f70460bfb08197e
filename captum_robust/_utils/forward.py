"""The forward function of a user's model: its output, the value that is explained, its gradient."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from captum_robust._utils.captum import run_forward
from captum_robust._utils.sound_gradients import sound_gradients
from captum_robust._utils.types import Tensors


def logits_of(output: Any) -> Tensor:
    """Unwrap a model's output: a tensor, or what carries one as ``logits`` or ``out``.

    Covers the dataclasses of Hugging Face and the dictionaries of torchvision's segmentation.
    """
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "out"):
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, Tensor):
            return found
    raise TypeError(
        f"forward_func returned {type(output).__name__}: expected a tensor, or an object with a "
        "tensor 'logits'. Wrap the model in a torch.nn.Module whose forward returns the tensor to "
        "explain."
    )


def output_of(forward_fn: Callable[..., Any], *args: Any) -> Tensor:
    """The output of a model for ``args``, as a tensor; ``args`` keep their values.

    The model gets copies: one that normalises its input in place would overwrite the caller's
    tensors, and values that a graph needs.
    """
    return logits_of(forward_fn(*(x.clone() if isinstance(x, Tensor) else x for x in args)))


def check_rows(output: Tensor, n_rows: int) -> None:
    """Raise ValueError unless a model's output has a row for each of its ``n_rows`` inputs."""
    if output.dim() == 0 or len(output) != n_rows:
        raise ValueError(
            f"forward_func must return a row per example, {n_rows} of them, got shape "
            f"{tuple(output.shape)}."
        )


def compute_gradients(
    forward_fn: Callable[..., Any],
    inputs: Tensors,
    target_ind: Any = None,
    additional_forward_args: Any = None,
    *,
    create_graph: bool = False,
) -> Tensors:
    """Gradient of the explained output, with the signature of Captum's ``gradient_func``.

    It differs from Captum's: with ``create_graph`` the result can itself be differentiated, a model
    may return an object with ``.logits``, and where torch's own derivative is missing or wrong it
    is mended (:class:`sound_gradients`). Where the gradient does not depend on the inputs (a linear
    model), a graph of zeros is still attached.

    Raises:
        TypeError: The output has no graph at all.
    """
    with torch.enable_grad():
        with sound_gradients(2 if create_graph else 1):
            output = explained_output(forward_fn, inputs, target_ind, additional_forward_args)
        if not output.requires_grad:
            raise TypeError(_NO_GRADIENT)
        gradients = _used(
            torch.autograd.grad(output.sum(), inputs, create_graph=create_graph, allow_unused=True)
        )
        if create_graph:
            return tuple(map(attach_graph, gradients, inputs))
        return gradients


def _used(gradients: tuple[Tensor | None, ...]) -> Tensors:
    """The gradients, if there is one for each input."""
    if all(g is None for g in gradients):
        raise TypeError(_NO_GRADIENT)
    for i, gradient in enumerate(gradients):
        if gradient is None:
            raise RuntimeError(
                f"inputs: input {i} of {len(gradients)} seems to not have been used by "
                "forward_func, so it has no gradient. Leave it out, or hand it over as "
                "additional_forward_args."
            )
    return tuple(g for g in gradients if g is not None)


_NO_GRADIENT = (
    "forward_func: its output has no gradient. The model is quantised, detaches what it computes, "
    "or runs under torch.no_grad() or outside of torch. Explain the original model, or use an "
    "explanation without gradients, such as FeatureAblation or InfidelityOptimal."
)


def explained_output(
    forward_fn: Callable[..., Any],
    inputs: Tensors,
    target: Any = None,
    additional_forward_args: Any = None,
) -> Tensor:
    """The number that is explained, one per example: (N,) or (N, 1, ...)."""
    output = run_forward(unwrapped(forward_fn), inputs, target, additional_forward_args)
    # No check of the rows here: DeepLift runs inputs and baselines as one batch of twice the size.
    if output[0].numel() != 1:
        number = output[0].numel()
        if target is None:
            raise ValueError(
                f"target: the model gives {number} values per example and one must be chosen. Pass "
                "target= the class to explain."
            )
        raise ValueError(
            f"target: it leaves {number} values per example, as of a map of classes, and one is "
            "explained. Choose one, target=(class, row, column), or explain their mean: "
            "lambda x: model(x).flatten(2).mean(2)."
        )
    return output


def why_not_called(model: nn.Module, *args: Any) -> str | None:
    """In Python's words why a model does not take these arguments; None where it does."""
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # written in C++, or a stand-in
        return None
    try:
        signature.bind(*args)
    except TypeError as error:
        return str(error)
    return None


def unwrapped(forward_fn: Callable[..., Any]) -> Callable[..., Tensor]:
    """:func:`output_of` ``forward_fn``, as a function of its arguments."""

    def forward(*args: Any) -> Tensor:
        return output_of(forward_fn, *args)

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


def is_forward_of(forward_func: Callable[..., Any], model: nn.Module) -> bool:
    """Whether calling ``forward_func`` is calling ``model``."""
    return forward_func is model or (
        getattr(forward_func, "__self__", None) is model
        and getattr(forward_func, "__name__", "") in ("forward", "__call__", "_wrapped_call_impl")
    )

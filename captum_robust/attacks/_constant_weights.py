"""Layers whose weights are constants, also where their gradient is differentiated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_robust._utils.call_arguments import by_name
from captum_robust._utils.function_mode import FunctionMode
from captum_robust._utils.overwrite import OwnFunction, in_reverse_mode_alone


class constant_weights(FunctionMode):
    """Context manager: layers with weights that need no gradient compute none of them.

    A second backward pass through torch's own convolution or batch norm always computes the
    gradient of the weights, which nobody who differentiates the images alone asks for, and which
    costs as much as the rest. A convolution is linear in its input: all that its derivatives need,
    of any order, is itself and its transpose. A batch norm in evaluation mode is a factor for each
    channel. The values are those of torch.
    """

    def call(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> object:
        """Replace ``func`` where it is such a layer."""
        if func is torch.nn.functional.batch_norm:
            try:
                given = by_name(_NORM_NAMES, args, kwargs)
            except TypeError:
                return func(*args, **kwargs)
            if _is_affine(given):
                return _BatchNorm.apply(
                    given["input"], given["running_mean"], given["running_var"],
                    given.get("weight"), given.get("bias"), given.get("eps", 1e-5),
                )  # fmt: skip
        if func in _CONVOLUTIONS:
            transposed = func in _TRANSPOSED
            try:
                given = by_name(_TRANSPOSED_NAMES if transposed else _NAMES, args, kwargs)
            except TypeError:  # arguments that torch knows better, or has better words for
                return func(*args, **kwargs)
            if _is_simple(given):
                x = given["input"]
                settings = _spread(x, given, transposed)
                return _Convolution.apply(x, given["weight"], given.get("bias"), settings)
        return func(*args, **kwargs)


class _Convolution(OwnFunction):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, settings: _Settings
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings = settings
        return torch.ops.aten.convolution(x, weight, bias, *settings)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        x, weight = ctx.saved_tensors
        return _Transpose.apply(gradient, x.detach(), weight, ctx.settings), None, None, None


class _Transpose(OwnFunction):
    """The transpose of the convolution of something like ``x``."""

    @staticmethod
    def forward(
        ctx: Any, gradient: Tensor, x: Tensor, weight: Tensor, settings: _Settings
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.settings = settings
        only_x = (True, False, False)
        return torch.ops.aten.convolution_backward(gradient, x, weight, None, *settings, only_x)[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        return _Convolution.apply(gradient, weight, None, ctx.settings), None, None, None


class _BatchNorm(OwnFunction):
    """In evaluation mode."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mean: Tensor,
        variance: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        factor = (variance + eps).rsqrt() if weight is None else weight * (variance + eps).rsqrt()
        ctx.save_for_backward(factor.view(-1, *[1] * (x.dim() - 2)))
        return torch.nn.functional.batch_norm(x, mean, variance, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (factor,) = ctx.saved_tensors
        return gradient * factor, None, None, None, None, None


# Stride, padding, dilation, whether it is transposed, output padding, groups.
_Settings = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], bool, tuple[int, ...], int]

_CONVOLUTIONS = {
    getattr(torch, name)
    for kind in ("conv", "conv_transpose")
    for name in (f"{kind}1d", f"{kind}2d", f"{kind}3d")
}
_TRANSPOSED = {func for func in _CONVOLUTIONS if "transpose" in func.__name__}

_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED_NAMES = (*_NAMES[:5], "output_padding", "groups", "dilation")
_NORM_NAMES = (
    "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps",
)  # fmt: skip


def _is_simple(given: dict[str, Any]) -> bool:
    """Whether the call is one whose derivatives are known here; all others stay torch's."""
    x, weight = given.get("input"), given.get("weight")
    if x is None or weight is None or isinstance(given.get("padding"), str):
        return False
    is_batch = x.dim() == weight.dim()
    return is_batch and _is_constant_but_for(x, weight, given.get("bias"))


def _is_affine(given: dict[str, Any]) -> bool:
    """Whether a batch norm only scales and shifts its channels."""
    x, mean, variance = (given.get(name) for name in _NORM_NAMES[:3])
    if x is None or mean is None or variance is None or given.get("training", False):
        return False
    weights = (mean, variance, given.get("weight"), given.get("bias"))
    # torch lets statistics be of another precision than the images.
    same = all(t is None or t.dtype == x.dtype for t in weights)
    return same and _is_constant_but_for(x, *weights)


def _is_constant_but_for(x: Tensor, *weights: Tensor | None) -> bool:
    """Whether nothing but ``x`` has a gradient, and that by reverse mode alone."""
    given = [t for t in weights if t is not None]
    return (
        torch.is_grad_enabled()
        and x.requires_grad
        and x.is_floating_point()
        and not any(t.requires_grad for t in given)
        and not torch._C._is_any_autocast_enabled()
        and in_reverse_mode_alone(x, *given)
    )


def _spread(x: Tensor, given: dict[str, Any], transposed: bool) -> _Settings:
    """The settings as torch's kernels take them, one number for each dimension."""

    def each(name: str, default: int) -> tuple[int, ...]:
        value = given.get(name, default)
        values = (value,) if isinstance(value, int) else tuple(value)
        return values * (x.dim() - 2) if len(values) == 1 else values

    return (
        each("stride", 1),
        each("padding", 0),
        each("dilation", 1),
        transposed,
        each("output_padding", 0),
        given.get("groups", 1),
    )

"""Convolutions whose weights are constants, also where their gradient is differentiated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_robust._utils.function_mode import FunctionMode
from captum_robust._utils.overwrite import OwnFunction, in_reverse_mode_alone


class constant_weights(FunctionMode):
    """Context manager: a convolution with weights that need no gradient computes none of them.

    A second backward pass through torch's own convolution always computes the gradient of the
    weights, which nobody who differentiates the images alone asks for, and which costs as much as
    the rest. A convolution is linear in its input: all that its derivatives need, of any order, is
    itself and its transpose. The values are those of torch.
    """

    def call(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> object:
        """Replace ``func`` where it is such a convolution."""
        if func in _CONVOLUTIONS:
            transposed = func in _TRANSPOSED
            read = _read_transposed if transposed else _read
            try:
                x, weight, bias, settings = read(*args, **kwargs)
            except TypeError:  # arguments that torch knows better, or has better words for
                return func(*args, **kwargs)
            if _is_simple(x, weight, bias, settings):
                return _Convolution.apply(x, weight, bias, _spread(x, settings, transposed))
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


# Stride, padding, dilation, whether it is transposed, output padding, groups.
_Settings = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], bool, tuple[int, ...], int]

_CONVOLUTIONS = {
    getattr(torch, name)
    for kind in ("conv", "conv_transpose")
    for name in (f"{kind}1d", f"{kind}2d", f"{kind}3d")
}
_TRANSPOSED = {func for func in _CONVOLUTIONS if "transpose" in func.__name__}


def _read(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor, Tensor | None, tuple[Any, ...]]:
    return input, weight, bias, (stride, padding, dilation, 0, groups)


def _read_transposed(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> tuple[Tensor, Tensor, Tensor | None, tuple[Any, ...]]:
    return input, weight, bias, (stride, padding, dilation, output_padding, groups)


def _is_simple(x: Tensor, weight: Tensor, bias: Tensor | None, settings: tuple[Any, ...]) -> bool:
    """Whether the call is one whose derivatives are known here; all others stay torch's."""
    tensors = [t for t in (x, weight, bias) if t is not None]
    return (
        torch.is_grad_enabled()
        and x.requires_grad
        and not any(t.requires_grad for t in tensors[1:])
        and x.dim() == weight.dim()  # a batch
        and x.is_floating_point()
        and not isinstance(settings[1], str)
        and not torch._C._is_any_autocast_enabled()
        and in_reverse_mode_alone(*tensors)
    )


def _spread(x: Tensor, settings: tuple[Any, ...], transposed: bool) -> _Settings:
    """The settings as torch's kernels take them, one number for each dimension."""
    *lengths, groups = settings

    def each(value: Any) -> tuple[int, ...]:
        values = (value,) if isinstance(value, int) else tuple(value)
        return values * (x.dim() - 2) if len(values) == 1 else values

    stride, padding, dilation, output_padding = map(each, lengths)
    return stride, padding, dilation, transposed, output_padding, groups

"""Softplus, and the difference of two, with a second derivative that costs little."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_robust._utils.overwrite import OwnFunction, in_reverse_mode_alone


def softplus_ramp(z: Tensor, beta: float, *corners: float) -> Tensor:
    r"""Softplus with its corner at the first of ``corners``, minus that at the second, if any.

    With :math:`s_i = \sigma(\beta (z - c_i))` the derivatives are :math:`s_1 - s_2` and
    :math:`\beta (s_1 - s_2)(1 - s_1 - s_2)`. Torch makes a second backward pass through softplus of
    a dozen operations on whole layers, several times what the convolutions around it cost; here it
    takes six, and both softplus share them.

    Args:
        z: Pre-activation.
        beta: Sharpness.
        corners: One or two numbers.

    Returns:
        A tensor like ``z``.

    Example:
        >>> import torch
        >>> softplus_ramp(torch.tensor([-50.0, 3.0, 50.0]), 10.0, 0.0, 6.0)
        tensor([0., 3., 6.])
    """
    if _is_simple(z):
        return _Ramp.apply(z, beta, corners)
    return _value(z, beta, corners)


def _value(z: Tensor, beta: float, corners: tuple[float, ...]) -> Tensor:
    terms = [F.softplus(_from(z, corner), beta=beta) for corner in corners]
    return terms[0] if len(terms) == 1 else terms[0] - terms[1]


def _from(z: Tensor, corner: float) -> Tensor:
    return z - corner if corner else z


def _is_simple(z: Tensor) -> bool:
    """Whether autograd will look, in a precision that the derivatives may be computed in."""
    return (
        torch.is_grad_enabled()
        and z.requires_grad
        and z.dtype in (torch.float32, torch.float64)
        and type(z) in (Tensor, torch.nn.Parameter)
        and not torch._C._is_any_autocast_enabled()
        and in_reverse_mode_alone(z)
    )


def _sigmoids(z: Tensor, beta: float, corners: tuple[float, ...]) -> list[Tensor]:
    return [(beta * _from(z, corner)).sigmoid() for corner in corners]


class _Ramp(OwnFunction):
    @staticmethod
    def forward(ctx: Any, z: Tensor, beta: float, corners: tuple[float, ...]) -> Tensor:
        ctx.save_for_backward(z)
        ctx.beta, ctx.corners = beta, corners
        first, *second = corners
        value = _value(z, beta, (first,))
        return value.sub_(_value(z, beta, tuple(second))) if second else value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (z,) = ctx.saved_tensors
        return _Slope.apply(gradient, z, ctx.beta, ctx.corners), None, None


class _Slope(OwnFunction):
    """The gradient times the first derivative."""

    @staticmethod
    def forward(
        ctx: Any, gradient: Tensor, z: Tensor, beta: float, corners: tuple[float, ...]
    ) -> Tensor:
        # The same memory again and again: a new tensor of a layer's size is not for nothing.
        first, *second = (torch.sub(z, corner).mul_(beta).sigmoid_() for corner in corners)
        ctx.beta, ctx.corners = beta, corners
        ctx.save_for_backward(gradient, z, first, *second)
        return gradient * (first - second[0] if second else first)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, Tensor, None, None]:
        gradient, z, first, *second = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants a third derivative: all from z
            first, *second = _sigmoids(z, ctx.beta, ctx.corners)
            slope = first - second[0] if second else first
            rest = 1 - first - second[0] if second else 1 - first
            return above * slope, above * gradient * (ctx.beta * slope * rest), None, None
        slope = first - second[0] if second else first
        bend = torch.rsub(first, 1)
        if second:
            bend.sub_(second[0])
        bend.mul_(slope).mul_(gradient).mul_(above).mul_(ctx.beta)
        return above * slope, bend, None, None

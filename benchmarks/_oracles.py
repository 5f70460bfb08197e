"""What explanations should be, in plain PyTorch: hooks, and networks written in another way.

All are function modes, so that modules, functions and methods of any library are seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

ACTIVATIONS = {
    "relu", "relu6", "leaky_relu", "hardtanh", "hardswish", "elu", "gelu", "silu", "mish",
    "softplus",
}  # fmt: skip


class SmoothRectifiers(TorchFunctionMode):
    """Every rectifier of what needs a gradient is a sum of softplus (Dombrowski et al. 2019)."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """The function, or its smooth form."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").strip("_")
        if name not in _SMOOTH or not args[0].requires_grad:
            return func(*args, **kwargs)
        softplus = partial(F.softplus, beta=self.beta)
        result = _SMOOTH[name](softplus, args[0].clone(), *args[1:], **kwargs)
        is_in_place = func.__name__.endswith("_") or kwargs.get("inplace")
        return args[0].copy_(result) if is_in_place else result


Softplus = Callable[[Tensor], Tensor]


def _between(s: Softplus, x: Tensor, min: Any = None, max: Any = None, **_: Any) -> Tensor:
    """A clamp; both bounds are numbers."""
    return min + s(x - min) - (0 if max is None else s(x - max))


def _hard_sigmoid(s: Softplus, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return (s(x + 3) - s(x - 3)) / 6


def _leaky_relu(s: Softplus, x: Tensor, negative_slope: float = 0.01, *_: Any, **__: Any) -> Tensor:
    return negative_slope * x + (1 - negative_slope) * s(x)


_SMOOTH: dict[str, Callable[..., Tensor]] = {
    "relu": lambda s, x, *_, **__: s(x),
    "relu6": lambda s, x, *_, **__: s(x) - s(x - 6),
    "hardtanh": lambda s, x, min_val=-1.0, max_val=1.0, *_, **__: _between(s, x, min_val, max_val),
    "clamp": _between,
    "hardsigmoid": _hard_sigmoid,
    "hardswish": lambda s, x, *_, **__: x * _hard_sigmoid(s, x),
    "leaky_relu": _leaky_relu,
}


class GuidedRectifiers(TorchFunctionMode):
    """Every rectifier passes only a positive gradient (Springenberg et al. 2015)."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """The function, with a hook on what a rectifier returns."""
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "").strip("_")
        if name in ACTIVATIONS and isinstance(result, Tensor) and result.requires_grad:
            result.register_hook(lambda gradient: gradient.clamp(min=0))
        return result


class ProportionalRelevance(TorchFunctionMode):
    """A network of the same values whose gradient times input is LRP with the epsilon rule.

    What passes relevance on is a factor: an activation becomes x (f(x) / x), the quotient a
    constant, and so does a sum with a constant; deviations, divisors and gates are constants; of a
    product of two values each takes half (Achtibat et al. 2024, "AttnLRP").
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """The function, or its form of the same value."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").strip("_")
        if name in ACTIVATIONS | {"tanh", "square", "pow"}:
            return _passed_on(args[0], func(args[0].clone(), *args[1:], **kwargs))
        if name in ("sigmoid", "hardsigmoid"):
            return func(args[0].clone(), *args[1:], **kwargs).detach()
        if name in _REPLACED:
            return _REPLACED[name](*args, **kwargs)
        moving = [a for a in args[:2] if isinstance(a, Tensor) and a.requires_grad]
        if len(moving) == 1 and len(args) == 2 and name in _SUMS:
            y = func(*[a.clone() if isinstance(a, Tensor) else a for a in args], **kwargs)
            return _passed_on(moving[0], y)
        if len(moving) == 2 and name in ("matmul", "bmm"):
            return _half_each(*moving)
        if len(moving) == 2 and name in ("mul", "multiply"):
            a, b = moving
            return (a * b.detach() + a.detach() * b) / 2
        if len(moving) == 2 and name in ("div", "truediv"):
            return moving[0] / moving[1].detach()
        return func(*args, **kwargs)


_SUMS = {"add", "radd", "iadd", "sub", "rsub", "isub"}


def _passed_on(x: Tensor, y: Tensor) -> Tensor:
    """The values of y, as a multiple of x where x is not 0."""
    is_zero = x == 0
    multiple = x * torch.where(is_zero, 0.0, y / torch.where(is_zero, 1.0, x)).detach()
    return torch.where(is_zero, y.detach(), multiple)


def _layer_norm(
    x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Tensor:
    dims = tuple(range(-len(shape), 0))
    y = _whitened(x, dims, eps)
    y = y if weight is None else y * weight.detach()
    return y if bias is None else y + bias.detach()


def _group_norm(
    x: Tensor, n_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Tensor:
    y = _whitened(x.unflatten(1, (n_groups, -1)).flatten(2), (2,), eps).view_as(x)
    shape = (-1, *[1] * (x.dim() - 2))
    y = y if weight is None else y * weight.detach().view(shape)
    return y if bias is None else y + bias.detach().view(shape)


def _whitened(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    variance = x.var(dims, unbiased=False, keepdim=True)
    return (x - x.mean(dims, keepdim=True)) / (variance + eps).sqrt().detach()


def _normalize(x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, **_: Any) -> Tensor:
    return x / x.norm(p, dim, keepdim=True).clamp(min=eps).detach()


def _half_each(a: Tensor, b: Tensor) -> Tensor:
    """A matrix product; its values are kept away from 0 by 1e-6, as in the paper."""
    y = (a @ b.detach() + a.detach() @ b) / 2
    share = (y / (y + torch.where(y >= 0, 1e-6, -1e-6))).detach()
    return share * y + ((1 - share) * y).detach()


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, **_: Any,
) -> Tensor:  # fmt: skip
    scores = _half_each(query * (scale or 1 / math.sqrt(query.size(-1))), key.transpose(-2, -1))
    if attn_mask is not None:
        is_kept = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -math.inf) if is_kept else scores + attn_mask
    return _half_each(scores.softmax(-1), value)


def _self_attention(
    query: Tensor, key: Tensor, value: Tensor, width: int, heads: int, weight: Tensor,
    bias: Tensor, _k: Any, _v: Any, _zero: Any, _p: Any, out_weight: Tensor, out_bias: Tensor,
    **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    length, n, _ = query.shape
    parts = F.linear(query, weight, bias).chunk(3, dim=-1)
    q, k, v = (part.reshape(length, n * heads, -1).transpose(0, 1) for part in parts)
    mixed = _attention(q, k, v).transpose(0, 1).reshape(length, n, width)
    return F.linear(mixed, out_weight, out_bias), None


_REPLACED: dict[str, Callable[..., Any]] = {
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "normalize": _normalize,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _self_attention,
}

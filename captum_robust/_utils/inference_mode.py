"""Gradients under ``torch.inference_mode()``: outside of it, on copies of what was made inside."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def outside_inference_mode(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate ``function`` so that it gives the same results under ``torch.inference_mode()``.

    Autograd refuses tensors that were made under inference mode, so the function gets copies of
    those among its arguments, and runs with the mode switched off.

    Example:
        >>> import torch
        >>> from captum_robust._utils.inference_mode import outside_inference_mode
        >>> @outside_inference_mode
        ... def derivative(x):
        ...     x = x.detach().requires_grad_()
        ...     with torch.enable_grad():
        ...         return torch.autograd.grad((x**2).sum(), x)[0]
        >>> with torch.inference_mode():
        ...     derivative(torch.tensor([3.0]))
        tensor([6.])
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch.is_inference_mode_enabled() and not _has_inference((args, kwargs)):
            return function(*args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return function(*_ordinary(args), **_ordinary(dict(kwargs)))

    return run


def _has_inference(values: Any) -> bool:
    if isinstance(values, Tensor):
        return values.is_inference()
    if isinstance(values, dict):
        return any(map(_has_inference, values.values()))
    return isinstance(values, (tuple, list)) and any(map(_has_inference, values))


def _ordinary(values: Any) -> Any:
    """``values`` with a copy for each tensor that was made under inference mode."""
    if isinstance(values, Tensor):
        return values.clone() if values.is_inference() else values
    if type(values) in (tuple, list):
        return type(values)(map(_ordinary, values))
    if type(values) is dict:
        return {key: _ordinary(value) for key, value in values.items()}
    return values

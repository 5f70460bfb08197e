"""Functions that differentiate, also where the caller is in ``torch.inference_mode``."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def outside_inference_mode(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate ``function`` so that it runs as outside of ``torch.inference_mode``.

    Tensors made in that mode can never have a graph: those among the arguments, also in tuples,
    lists and dictionaries, are handed over as copies.

    Example:
        >>> import torch
        >>> from captum_robust._utils.inference_mode import outside_inference_mode
        >>> @outside_inference_mode
        ... def slope(x):
        ...     with torch.enable_grad():
        ...         x = x.detach().requires_grad_()
        ...         return torch.autograd.grad(x.square().sum(), x)[0]
        >>> with torch.inference_mode():
        ...     slope(torch.tensor([1.0, 2.0]))
        tensor([2., 4.])
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.inference_mode(False):
            # A tensor without a mode is handed over as it is: functions compare by identity.
            plain = {name: _plain(value) for name, value in kwargs.items()}
            return function(*map(_plain, args), **plain)

    return run


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value
    if type(value) in (tuple, list):
        return type(value)(map(_plain, value))
    if type(value) is dict:
        return {key: _plain(held) for key, held in value.items()}
    return value

"""A function that calls a model, as a module: attacks then find what to preserve."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn


def as_module(model: Any) -> nn.Module:
    """A model that may be a function, as a module.

    Raises:
        TypeError: ``model`` is neither.
    """
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, type) or not callable(model):
        given = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise TypeError(
            f"model must be a torch.nn.Module, or a function of the inputs that calls one, got "
            f"{given}."
        )
    return CallableModel(model)


class CallableModel(nn.Module):
    """A function as a module whose children are the modules that the function calls.

    They are looked for where functions keep them: in the object that a method is bound to, in the
    arguments of a ``partial``, in variables that the function closes over and in globals that it
    names.

    Example:
        >>> from torch import nn
        >>> from captum_robust.attacks._callable_model import CallableModel
        >>> dense = nn.Linear(3, 2)
        >>> sum(p.numel() for p in CallableModel(lambda x: dense(x) / 2).parameters())
        8
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        for i, module in enumerate(dict.fromkeys(_modules_of(function))):
            self.add_module(f"model{i}", module)

    def forward(self, *args: Any) -> object:
        """What the function returns."""
        return self.function(*args)


def _modules_of(function: Any) -> Iterator[nn.Module]:
    if isinstance(function, partial):
        held = [function.func, *function.args, *function.keywords.values()]
        for value in held:
            yield from [value] if isinstance(value, nn.Module) else _modules_of(value)
        return
    owner = getattr(function, "__self__", None)
    if owner is not None:
        yield from _held_by(owner)
        function = function.__func__ if inspect.ismethod(function) else function
    if inspect.isfunction(function):
        names = inspect.getclosurevars(function)
        for value in (*names.nonlocals.values(), *names.globals.values()):
            yield from [value] if isinstance(value, nn.Module) else ()
    elif owner is None:
        yield from _held_by(function)


def _held_by(owner: Any) -> Iterator[nn.Module]:
    if isinstance(owner, nn.Module):
        yield owner
        return
    yield from (v for v in getattr(owner, "__dict__", {}).values() if isinstance(v, nn.Module))

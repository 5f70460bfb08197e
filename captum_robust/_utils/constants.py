"""Which values of a forward pass are made of the weights alone, not of the inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch import Tensor

from captum_robust._utils.modules import submodules

Result = TypeVar("Result")


class Constants:
    """A model's parameters and buffers, and what calls make of nothing else.

    A function mode tells it of every call. A call that also takes something else, such as the
    inputs, numbers drawn at random or a new tensor of zeros, makes no constant; nor does one that
    writes such a value into a constant.

    Args:
        model: The model, or a function that calls it.
    """

    def __init__(self, model: Callable[..., Any]) -> None:
        modules = [module for _, module in submodules(model)]
        self._learned = {
            id(t)
            for module in modules
            for t in (*module.parameters(recurse=False), *module.buffers(recurse=False))
        }
        self._made: dict[int, Tensor] = {}  # held, so that no other tensor gets the same id

    @classmethod
    def of(cls, model: Callable[..., Any] | Constants | None) -> Constants | None:
        """The constants of ``model``, or ``model`` itself, if it is that already, or None."""
        return model if model is None or isinstance(model, Constants) else cls(model)

    def hold(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the arguments of a call hold tensors, all of them constants."""
        some = False
        for tensor in _tensors((*args, *kwargs.values()) if kwargs else args):
            if id(tensor) not in self._learned and id(tensor) not in self._made:
                if self._made:
                    self._written(args)
                return False
            some = True
        return some

    def note(self, result: Result) -> Result:
        """Remember what a call made of constants alone; and return it."""
        for tensor in _tensors((result,)):
            if id(tensor) not in self._learned:
                self._made[id(tensor)] = tensor
        return result

    def nodes(self) -> list[Any]:
        """The autograd nodes of constants: a search of the graph ends there."""
        return [tensor.grad_fn for tensor in self._made.values()]

    def forget(self) -> None:
        """Let go of the values of a forward pass that is over."""
        self._made.clear()

    def _written(self, args: tuple[Any, ...]) -> None:
        """A call with inputs may write into its first argument, or into what it is a view of."""
        first = args[0] if args else None
        if isinstance(first, Tensor) and id(first) in self._made:
            memory = first.untyped_storage().data_ptr()
            for key, made in list(self._made.items()):
                if made.untyped_storage().data_ptr() == memory:
                    del self._made[key]


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)

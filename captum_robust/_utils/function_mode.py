"""What all function modes of this library share: torch's hook, spelled once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from torch.overrides import TorchFunctionMode


class FunctionMode(TorchFunctionMode, ABC):
    """Context manager that sees every function of torch that its thread calls in the block.

    Example:
        >>> import torch
        >>> from captum_robust._utils.function_mode import FunctionMode
        >>> class Doubled(FunctionMode):
        ...     def call(self, func, args, kwargs):
        ...         return 2 * func(*args, **kwargs)
        >>> x = torch.tensor(3.0)
        >>> with Doubled():
        ...     y = torch.relu(x)
        >>> y
        tensor(6.)
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        """Called by torch with this mode switched off."""
        return self.call(func, args, kwargs or {})

    @abstractmethod
    def call(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> object:
        """What stands for ``func(*args, **kwargs)``."""

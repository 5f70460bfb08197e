"""Operations that write into a tensor, as functions that return the new value instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_robust.attr._backward.operations import names

_ONLY_RESHAPE = names("squeeze_ unsqueeze_ transpose_ t_ swapaxes_ swapdims_")

_NOT_A_FUNCTION = names(  # of the old value; or torch has another function of the bare name
    "normal_ bernoulli_ uniform_ random_ exponential_ cauchy_ geometric_ log_normal_ set_ resize_ "
    "resize_as_ detach_ share_memory_ as_strided_ sparse_resize_"
)


class Write(NamedTuple):
    """``target`` gets the value ``func(*args, **kwargs)``."""

    target: Tensor
    func: Callable[..., Any]
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    only_reshapes: bool = False
    """Whether the numbers stay, and the shape alone changes."""


def is_write(name: str, kwargs: dict[str, Any]) -> bool:
    """Whether a call of this name changes a tensor that it is given."""
    if kwargs.get("inplace") or kwargs.get("out") is not None or name == "__setitem__":
        return True
    if name.startswith("__"):
        return name.startswith("__i") and name not in ("__index__", "__int__", "__invert__")
    return name.endswith("_")


def write_of(
    func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Write | None:
    """A call that changes a tensor as a function of the old value; None where there is none."""
    if kwargs.get("out") is not None or name in _NOT_A_FUNCTION:
        return None
    target = args[0] if args else kwargs["input"]
    if kwargs.get("inplace"):
        return Write(target, func, name, args, {**kwargs, "inplace": False})
    if name == "__setitem__":
        return Write(target, written, "written", args, kwargs)
    bare = f"__{name[3:]}" if name.startswith("__i") else name.removesuffix("_")
    if bare in _SPELLED_OUT:
        return Write(target, _SPELLED_OUT[bare], _SPELLED_OUT[bare].__name__, args, kwargs)
    homes = [home for home in (Tensor, torch, F) if hasattr(home, bare)]
    if not homes:
        return None
    return Write(target, getattr(homes[0], bare), bare, args, kwargs, name in _ONLY_RESHAPE)


def written(old: Tensor, index: Any, value: Any) -> Tensor:
    """The tensor after ``old[index] = value``."""
    new = old.clone()
    new[index] = value
    return new


def copied(old: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """The tensor after ``old.copy_(source)``."""
    return source.to(old).expand_as(old).clone()


def _filled(old: Tensor, value: Any) -> Tensor:
    return torch.zeros_like(old) + value


_SPELLED_OUT: dict[str, Callable[..., Any]] = {
    "copy": copied,
    "fill": _filled,
    "zero": torch.zeros_like,
}


# A view is a set of places in the tensor that it is a view of. By their numbers, counted in the
# order of the indices, they can be read and written in any other tensor of the same shape.


def places_of(view: Tensor, base: Tensor) -> Tensor:
    """Which numbers of ``base`` the view shows."""
    numbers = torch.empty_strided(base.size(), base.stride(), dtype=torch.int64, device=base.device)
    numbers.copy_(torch.arange(base.numel(), device=base.device).view(base.size()))
    offset = view.storage_offset() - base.storage_offset()
    return numbers.as_strided(view.size(), view.stride(), offset)


def read_view(base: Tensor, places: Tensor) -> Tensor:
    """The numbers at these places."""
    return base.flatten()[places]


def write_view(base: Tensor, new: Tensor, places: Tensor) -> Tensor:
    """``base`` with other numbers at these places."""
    return base.flatten().scatter(0, places.flatten(), new.to(base.dtype).flatten()).view_as(base)

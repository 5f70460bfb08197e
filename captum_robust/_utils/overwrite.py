"""In-place activations without a copy: a tensor takes over the memory of its new value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

# torch's count of who uses a block of memory; private, and so allowed to be missing.
_use_count = getattr(torch._C, "_storage_Use_Count", None)


def _users_of(z: Tensor) -> int:
    return _use_count(z.untyped_storage()._cdata) if _use_count is not None else 0


def _count_of_one() -> int:
    """The count of a tensor that is alone: it differs between releases of torch."""
    z = torch.empty(1)
    alone = _users_of(z)
    alias = z.detach()
    return alone if _users_of(alias) == alone + 1 else -1


_ALONE = _count_of_one()


def overwrite(z: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """Give ``z`` the value ``activation(z)`` in place, and return it.

    Everybody who holds ``z`` must see the new value, autograd must keep the old one, and copying
    either costs as much as the activation. Where nobody else uses the memory of ``z``, it leaves
    the old memory to autograd and takes that of the result; else the result is copied into it.

    Function modes see this call as they see one of torch: what it does to ``z`` they cannot see.
    """
    if has_torch_function_unary(z):
        return handle_torch_function(overwrite, (z,), z, activation)
    return overwrite_directly(z, activation)


def overwrite_directly(z: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """:func:`overwrite` behind the back of function modes: ``activation`` is still seen by them."""
    if not _is_sole_user(z):
        return z.copy_(activation(z.clone()))
    result = activation(_Unversioned.apply(z)).to(z.dtype)  # autocast may have changed it
    return _TakeOver.apply(z, result)


def in_reverse_mode_alone(*tensors: Tensor) -> bool:
    """Whether no transform (vmap, forward mode) is at work: an OwnFunction supports none."""
    if getattr(torch.autograd.forward_ad, "_current_level", 0) >= 0:  # inside dual_level()
        return False
    return not any(torch._C._functorch.is_functorch_wrapped_tensor(t) for t in tensors)


def _is_sole_user(z: Tensor) -> bool:
    if type(z) is not Tensor or z._is_view() or z.layout != torch.strided:
        return False
    if not in_reverse_mode_alone(z):
        return False
    # Memory that is not torch's own, such as numpy's, cannot be resized.
    return z.untyped_storage().resizable() and _users_of(z) == _ALONE


class OwnFunction(torch.autograd.Function):
    """A function of this library, whose backward pass hides nothing."""


class _Unversioned(OwnFunction):
    """The identity, for which autograd does not notice that ``z`` is overwritten later."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return z.data

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _TakeOver(OwnFunction):
    """``z.copy_(result)``, by handing over the memory."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, result: Tensor) -> Tensor:
        z.set_(result)  # type: ignore[call-overload]
        ctx.mark_dirty(z)
        return z

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient

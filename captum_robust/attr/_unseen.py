"""What a torch function mode of this thread cannot see, and how to notice it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from captum_robust.attr._overwrite import OwnFunction

# Nodes of the graph of rectifiers that are always replaced, and of a scripted block.
_LEFT_OVER = (
    "Relu",
    "LeakyRelu",
    "Hardtanh",
    "Hardsigmoid",
    "Hardswish",
    "PreluKernel",
    "Softshrink",
    "torch::jit::",
)


_SCRIPTED = (torch.jit.ScriptModule, torch.jit.ScriptFunction, torch.ScriptMethod)


def refuse_unseen(forward: Callable[..., Any]) -> None:
    """Raise TypeError if ``forward``, or a module in it, runs where the mode is blind."""
    owner = forward if isinstance(forward, nn.Module) else getattr(forward, "__self__", forward)
    modules = owner.named_modules() if isinstance(owner, nn.Module) else [("", owner)]
    for path, module in modules:
        reason = _unseen(module)
        if reason:
            raise TypeError(
                f"forward_func: {path or type(module).__name__!r} is {reason}, so its rectifiers "
                "cannot be smoothed from outside. Pass the original eager, single-device model."
            )


def _unseen(module: Any) -> str | None:
    if isinstance(module, _SCRIPTED):
        return "scripted"
    compiled_in_place = getattr(module, "_compiled_call_impl", None) is not None
    if compiled_in_place or hasattr(module, "_torchdynamo_orig_callable"):
        return "compiled"
    if hasattr(module, "_orig_mod"):
        return "compiled"
    if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
        return "split over several devices by threads"
    return None


def rectifiers_left(output: Tensor, inputs: Iterable[Any], with_functions: bool) -> list[str]:
    """Names of the nodes in the graph from ``inputs`` to ``output`` that should not be there.

    These are rectifiers, blocks of scripted code, and, ``with_functions``, custom
    ``torch.autograd.Function``, whose backward pass is code of its own.
    """
    # What computed the inputs is no part of the model.
    seen = {None, *(x.grad_fn for x in inputs if isinstance(x, Tensor))}
    found: list[str] = []
    ahead: list[Any] = [output.grad_fn]
    while ahead:
        node = ahead.pop()
        if node in seen:
            continue
        seen.add(node)
        ahead += [following for following, _ in node.next_functions]
        name = node.name()
        if name.startswith(_LEFT_OVER) or (with_functions and _is_custom(node)):
            found.append(name)
    return found


def _is_custom(node: Any) -> bool:
    function = getattr(node, "_forward_cls", None)
    return isinstance(node, BackwardCFunction) and not issubclass(function or object, OwnFunction)

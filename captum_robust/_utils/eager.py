"""Models whose activations can be replaced from outside: eager code of the calling thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_SCRIPTED = (torch.jit.ScriptModule, torch.jit.ScriptFunction, torch.ScriptMethod)


def require_eager(
    forward: Callable[..., Any],
    argument: str = "forward_func",
    why: str = "its rectifiers cannot be smoothed from outside",
) -> None:
    """Raise TypeError if ``forward``, or a module in it, runs where a function mode is blind."""
    owner = forward if isinstance(forward, nn.Module) else getattr(forward, "__self__", forward)
    modules = owner.named_modules() if isinstance(owner, nn.Module) else [("", owner)]
    for path, module in modules:
        reason = _why_not_eager(module)
        if reason:
            raise TypeError(
                f"{argument}: {path or type(module).__name__!r} is {reason}, so {why}. Pass the "
                "original eager, single-device model."
            )


def _why_not_eager(module: Any) -> str | None:
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

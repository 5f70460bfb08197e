"""Models whose activations can be replaced from outside: eager code of the calling thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload

from captum_robust._utils.modules import modules_behind

_SCRIPTED = (torch.jit.ScriptModule, torch.jit.ScriptFunction, torch.ScriptMethod)
_QUANTISED = ("torch.ao.nn.quantized", "torch.nn.quantized", "torch.ao.nn.intrinsic.quantized")


def require_eager(
    forward: Callable[..., Any],
    argument: str = "forward_func",
    why: str = "its rectifiers cannot be smoothed from outside",
) -> None:
    """Raise TypeError if ``forward``, or a module behind it, runs where a function mode is blind.

    These are scripted, compiled, exported and quantised models, and models that are split over
    devices.
    """
    if isinstance(forward, torch.export.ExportedProgram):
        raise TypeError(
            f"{argument}: it is an exported program, so {why}. Pass the original eager model."
        )
    # Of a container not all members need be called.
    behind = modules_behind(forward, containers=False)
    named = [(path, module) for root in behind for path, module in root.named_modules()]
    for path, module in [("", forward), *named]:
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
    if type(module).__module__.startswith(_QUANTISED):
        return "quantised"
    if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
        return "split over several devices by threads"
    graph = getattr(module, "graph", None)
    if isinstance(graph, torch.fx.Graph) and _calls_operators(graph):
        return "exported"
    return None


def _calls_operators(graph: torch.fx.Graph) -> bool:
    """Whether a graph calls torch's operators themselves, as torch.export writes it."""
    return any(isinstance(node.target, OpOverload) for node in graph.nodes)

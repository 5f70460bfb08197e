"""Find in the autograd graph what a torch function mode of this thread has missed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.autograd.function import BackwardCFunction

from captum_robust._utils.overwrite import OwnFunction

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


def missed_rectifiers(
    output: Tensor,
    inputs: Iterable[Any],
    with_functions: bool,
    constant_nodes: Iterable[Any] = (),
) -> list[str]:
    """Names of the nodes in the graph from ``inputs`` to ``output`` that should not be there.

    These are rectifiers, blocks of scripted code, and, ``with_functions``, custom
    ``torch.autograd.Function``, whose backward pass is code of its own.
    """
    # What computed the inputs, or a value made of the weights alone, is not looked at.
    seen = {None, *(x.grad_fn for x in inputs if isinstance(x, Tensor)), *constant_nodes}
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

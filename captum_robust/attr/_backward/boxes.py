"""The bounds of the inputs, carried along to the first layer."""

from __future__ import annotations

import torch

from captum_robust.attr._backward.call import Bounds, Call, Node
from captum_robust.attr._backward.operations import AVERAGES, PRODUCTS, ROUTES, SUMS


def bounds_of(node: Node) -> Bounds | None:
    """The box of a value that is an input or an affine image of one; None of any other."""
    call = node.source
    if call is None:
        return node.bounds
    if not _keeps_boxes(call):
        return None
    boxes = [box for box in map(bounds_of, call.inputs) if box is not None]
    if len(boxes) < len(call.inputs):
        return None
    a, b = (call.again_for(node, *ends) for ends in zip(*boxes, strict=True))
    return torch.minimum(a, b), torch.maximum(a, b)


def _keeps_boxes(call: Call) -> bool:
    """Whether the call takes the corners of the boxes of its inputs to those of its result's."""
    if call.name in ROUTES:
        return True
    if len(call.inputs) != 1:
        return False
    if call.name in AVERAGES:
        return is_average(call)
    if call.name in PRODUCTS:
        return call.is_scaling
    if call.name == "batch_norm":
        return not call.uses_batch_statistics
    return call.name in SUMS or call.name in ("neg", "__neg__")


def is_average(call: Call) -> bool:
    """Whether one of :data:`AVERAGES` has no negative weight, as ``bicubic`` does."""
    return "bicubic" not in call.kwargs.values()

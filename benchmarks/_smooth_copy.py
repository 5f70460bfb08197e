"""The limit that smoothing is measured against: a network with ``nn.Softplus`` modules."""

from __future__ import annotations

import copy

from torch import nn


def smooth_copy(model: nn.Module, beta: float) -> nn.Module:
    """The same network, softplus in place of its ``nn.ReLU`` modules."""
    copied = copy.deepcopy(model)
    for module in list(copied.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Softplus(beta))
    return copied

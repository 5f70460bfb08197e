"""Preserve what a call may change in a user's model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def preserve_buffers(forward: object) -> Iterator[None]:
    """Restore the buffers of a model in training mode, which BatchNorm updates in every pass."""
    if not isinstance(forward, nn.Module) or not any(m.training for m in forward.modules()):
        yield
        return
    buffers = [(buffer, buffer.clone()) for buffer in forward.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


@contextmanager
def preserve_model(model: nn.Module) -> Iterator[nn.Module]:
    """Restore, also after an exception, all that a call may change in ``model``.

    Restored are the training flag of every module on its own (a frozen BatchNorm stays frozen,
    which a recursive ``model.train()`` would undo), ``requires_grad`` of every parameter, and every
    buffer: its values, where a call wrote into it, or itself, where a call put another in its
    place.

    Inside the block no parameter requires a gradient: an attack differentiates images only, and
    autograd then neither keeps nor computes what the weights would need.
    """
    training = [(module, module.training) for module in model.modules()]
    # A parameter made under inference mode cannot be switched on again; autograd skips it anyway.
    learned = [(p, p.requires_grad) for p in model.parameters() if not p.is_inference()]
    registered = [(module, dict(module._buffers)) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        for parameter, _ in learned:
            parameter.requires_grad_(False)
        yield model
    finally:
        for parameter, flag in learned:
            parameter.requires_grad_(flag)
        for module, flag in training:
            module.training = flag
        for module, named in registered:
            for name, buffer in named.items():
                module._buffers[name] = buffer
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def depends_on_mode(model: nn.Module) -> bool:
    """Whether a part of ``model`` is in training mode that computes something else in it.

    Example:
        >>> from torch import nn
        >>> from captum_robust._utils.model_state import depends_on_mode
        >>> depends_on_mode(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
        False
        >>> depends_on_mode(nn.Sequential(nn.Linear(3, 3), nn.Dropout()))
        True
    """
    return any(module.training and _differs_in_training(module) for module in model.modules())


def _differs_in_training(module: nn.Module) -> bool:
    if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.RReLU)):
        return True
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):
        return module.track_running_stats
    return getattr(module, "dropout", 0.0) not in (0.0, None) and isinstance(
        module, (nn.MultiheadAttention, nn.RNNBase)
    )

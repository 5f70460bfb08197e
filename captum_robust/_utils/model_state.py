"""Preserve what a call may change in a user's model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd

from captum_robust._utils.modules import submodules
from captum_robust._utils.user_warnings import warn_user


@contextmanager
def preserve_buffers(forward: Any) -> Iterator[None]:
    """Restore the buffers of a model, which BatchNorm updates in every pass in training mode.

    Warns of a model whose results depend on the rest of the batch, or on chance.

    Args:
        forward: The model, or a function that calls it (:func:`modules_behind`).
    """
    modules = list(submodules(forward))
    _warn_of_training_mode([(path, module) for path, module in modules if module.training])
    buffers = _Buffers((module for _, module in modules), mode_may_change=False)
    try:
        yield
    finally:
        buffers.put_back()


class _Buffers:
    """The buffers of modules: which they are, and their values."""

    def __init__(self, modules: Iterable[nn.Module], mode_may_change: bool) -> None:
        self._registered = [(m, dict(m._buffers)) for m in modules if m._buffers]
        self._values = [
            # In training mode, batch norm writes in a way that torch does not count.
            (b, b.clone(), None if m.training or mode_may_change else _version(b))
            for m, named in self._registered
            for b in named.values()
            if b is not None
        ]

    def put_back(self) -> None:
        """Undo what was written into buffers, or put in their place."""
        for module, named in self._registered:
            for name, buffer in named.items():
                module._buffers[name] = buffer
        with torch.no_grad():
            for buffer, value, version in self._values:
                if version is not None and version == _version(buffer):
                    continue
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def _version(tensor: Tensor) -> int | None:
    """How often a tensor was written into; None where torch does not count."""
    return None if tensor.is_inference() else tensor._version


def _warn_of_training_mode(training: list[tuple[str, nn.Module]]) -> None:
    for path, module in training:
        if not _differs_in_training(module):
            continue
        name = f"{path or 'the model'!r} ({type(module).__name__})"
        if isinstance(module, _NormBase):
            does = f"{name} uses the statistics of the batch, so that results depend on the others"
        else:
            does = f"{name} draws at random, so that results do not repeat"
        warn_user(
            f"the model is in training mode: {does}. Call model.eval() before you explain or "
            "measure; attacks evaluate in evaluation mode in any case."
        )
        return


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
    buffers = _Buffers(model.modules(), mode_may_change=True)
    try:
        for parameter, _ in learned:
            parameter.requires_grad_(False)
        yield model
    finally:
        for parameter, flag in learned:
            parameter.requires_grad_(flag)
        for module, flag in training:
            module.training = flag
        buffers.put_back()


@contextmanager
def on_device(model: nn.Module, device: torch.device | None) -> Iterator[nn.Module]:
    """Move a model for the block; after it, also after an exception, its tensors are its old ones.

    The old parameters, gradients and buffers are kept meanwhile, so that coming back copies
    nothing and a model that is spread over several devices is spread as before.

    Args:
        model: The model.
        device: Where it goes; None: it stays.
    """
    if device is None:
        yield model
        return
    parameters = [(m, dict(m._parameters), dict(m._buffers)) for m in model.modules()]
    tensors = [(p, p.data, p.grad, None if p.grad is None else p.grad.data)
               for p in model.parameters()]  # fmt: skip
    try:
        yield model.to(device)
    finally:
        for module, learned, buffers in parameters:
            module._parameters.update(learned)
            module._buffers.update(buffers)
        for parameter, data, gradient, values in tensors:
            parameter.data = data
            if gradient is not None and values is not None:
                gradient.data = values
            parameter.grad = gradient


def depends_on_mode(model: nn.Module) -> bool:
    """Whether a module whose output differs in training mode is in training mode.

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
    if isinstance(module, (_BatchNorm, nn.RReLU)):
        return True
    if isinstance(module, _DropoutNd):
        return module.p > 0
    if isinstance(module, _NormBase):  # instance norm, whose statistics are not of the batch
        return module.track_running_stats
    return getattr(module, "dropout", 0.0) not in (0.0, None) and isinstance(
        module, (nn.MultiheadAttention, nn.RNNBase)
    )


def digest_of(model: nn.Module) -> str:
    """What tells the weights of a model from others."""
    total = sha256()
    for name, weight in model.state_dict().items():
        total.update(name.encode())
        flat = weight.detach().cpu().contiguous().flatten()
        total.update(flat.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]

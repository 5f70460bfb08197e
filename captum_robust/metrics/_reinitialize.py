"""Give the layers of a model new random parameters, and the old ones back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from captum_robust._utils.model_state import preserve_model


def has_parameters(module: nn.Module) -> bool:
    """Whether ``module`` has parameters of its own, not only its children."""
    return any(p is not None for p in module._parameters.values())


@contextmanager
def parameters_kept(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Restore every parameter, and all that ``preserve_model`` does, also after an exception.

    Yields a function that restores parameters and buffers in between. Gradients are not touched.
    """
    registered = [(m, dict(m._parameters), dict(m._buffers)) for m in model.modules()]
    tensors = [*model.parameters(), *model.buffers()]
    values = [(tensor, tensor.detach().clone()) for tensor in tensors]

    def restore() -> None:
        for module, parameters, buffers in registered:
            module._parameters.update(parameters)
            module._buffers.update(buffers)
        with torch.no_grad():
            for tensor, value in values:
                tensor.copy_(value)

    with preserve_model(model):
        try:
            yield restore
        finally:
            restore()


def reinitialize(modules: Iterable[nn.Module], seed: int) -> None:
    """Draw new parameters for ``modules``, and leave the global random state alone."""
    modules = list(modules)
    devices = {p.device for m in modules for p in m.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng([d.index for d in devices]), torch.no_grad():
        # torch.manual_seed would seed the devices that are not forked, too.
        torch.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device.index].manual_seed(seed)
        for module in modules:
            _reinitialize(module)


def _reinitialize(module: nn.Module) -> None:
    own = [p for p in module._parameters.values() if p is not None]
    old = [p.detach().clone() for p in own]
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
    own = [p for p in module._parameters.values() if p is not None]
    for parameter, before in zip(own, old, strict=True):
        # Of a normalised weight, reset_parameters draws the product, not its factors.
        learned = before.numel() > 1 and bool((before != before.flatten()[0]).any())
        if not callable(reset) or (learned and torch.equal(parameter, before)):
            parameter.copy_(_alike(before))


def _alike(old: Tensor) -> Tensor:
    """Normal numbers with the mean and the standard deviation of ``old``; of one, its size."""
    mean = old.mean()
    spread = old.std(correction=0)
    spread = torch.where(spread > 0, spread, mean.abs())
    return mean + spread * torch.randn_like(old)

"""Functions of torch whose derivative is missing or wrong, with one that is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_robust._utils import attention, recurrent
from captum_robust._utils.function_mode import FunctionMode


class sound_gradients(FunctionMode):
    """Context manager for forward passes whose gradient is taken, on the calling thread alone.

    With ``order=1``:

    - Batch normalisation of a single image on a CPU, whose gradient torch computes from the wrong
      numbers where the gradient above it has unusual strides (EfficientFormer).
    - Batch and instance normalisation in training mode, which would move the running statistics.
    - Recurrent layers on a GPU in evaluation mode, for which cuDNN has no gradient.

    With ``order=2`` also what has no second derivative: attention in its fused forms, recurrent
    layers on a GPU, hardsigmoid, the native channel shuffle.

    Args:
        order: How many derivatives are taken.
        keep_statistics: Whether running statistics stay; False while a model is trained.
    """

    def __init__(self, order: int = 1, keep_statistics: bool = True) -> None:
        super().__init__()
        self._substitutes = _SUBSTITUTES[order]
        self._keep_statistics = keep_statistics

    def call(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> object:
        """Compute ``func``; called by torch with this mode switched off."""
        substitute = self._substitutes.get(func)
        if substitute is None:
            return func(*args, **kwargs)
        if substitute is _normalise:
            kwargs = {**kwargs, "keep_statistics": self._keep_statistics}
        return substitute(func, *args, **kwargs)


_Substitute = Callable[..., Any]


def _normalise(
    func: Callable[..., Tensor],
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *args: Any,
    keep_statistics: bool,
    **kwargs: Any,
) -> Tensor:
    if keep_statistics and running_mean is not None and running_var is not None:
        # In training mode the copies move. Autograd has kept them, and is left alone, too.
        running_mean, running_var = running_mean.clone(), running_var.clone()
    output = func(input, running_mean, running_var, *args, **kwargs)
    if len(input) == 1 and output.requires_grad and input.device.type == "cpu":
        output.register_hook(_contiguous)
    return output


def _contiguous(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.contiguous()  # None where it is not needed


def _off_cpu(stepwise: Callable[..., Any], twice: bool) -> _Substitute:
    """A recurrent layer, step by step where cuDNN would run it without the derivative."""

    def run(func: Callable[..., Any], *args: Any) -> object:
        packed = isinstance(args[1], Tensor) and args[1].dtype == torch.int64
        training = args[7 if packed else 6]
        if args[0].device.type == "cpu" or (training and not twice):
            return func(*args)
        return stepwise(*args)

    return run


def _hardsigmoid(func: Callable[..., Tensor], input: Tensor, inplace: bool = False) -> Tensor:
    value = F.relu6(input + 3) / 6
    return input.copy_(value) if inplace else value


def _recurrent(twice: bool) -> dict[Callable[..., Any], _Substitute]:
    return {
        torch.lstm: _off_cpu(recurrent.lstm, twice),
        torch.gru: _off_cpu(recurrent.gru, twice),
        torch.rnn_tanh: _off_cpu(recurrent.rnn_tanh, twice),
        torch.rnn_relu: _off_cpu(recurrent.rnn_relu, twice),
    }


def _ignoring(substitute: Callable[..., Any]) -> _Substitute:
    """A substitute that does not need the function itself."""
    return lambda func, *args, **kwargs: substitute(*args, **kwargs)


_ONCE: dict[Callable[..., Any], _Substitute] = {
    F.batch_norm: _normalise,
    torch.batch_norm: _normalise,
    F.instance_norm: _normalise,
    torch.instance_norm: _normalise,
    **_recurrent(twice=False),
}
_TWICE: dict[Callable[..., Any], _Substitute] = {
    **_ONCE,
    **_recurrent(twice=True),
    F.scaled_dot_product_attention: _ignoring(attention.scaled_dot_product_attention),
    F.multi_head_attention_forward: _ignoring(attention.multi_head_attention_forward),
    F.hardsigmoid: _hardsigmoid,
    torch.native_channel_shuffle: _ignoring(torch.channel_shuffle),
}
_SUBSTITUTES = {1: _ONCE, 2: _TWICE}

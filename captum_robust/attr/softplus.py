"""Rectifiers become softplus for as long as a block runs; the model is left as it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import disable_saved_tensors_hooks
from torch.overrides import handle_torch_function, has_torch_function_unary

from captum_robust._utils.checks import check_positive
from captum_robust._utils.constants import Constants
from captum_robust._utils.function_mode import FunctionMode
from captum_robust._utils.overwrite import overwrite
from captum_robust._utils.recurrent import rnn_relu, rnn_relu_cell
from captum_robust.attr._ramp import softplus_ramp

_RECOMPUTED = (
    "softplus_activations cannot see activations that are computed again in the backward pass, "
    "so their gradient would be that of the unsmoothed network. Turn off gradient checkpointing "
    "(torch.utils.checkpoint, memory_efficient=True) and saved-tensor hooks in the model."
)


class softplus_activations(FunctionMode):
    r"""Context manager: rectifiers compute softplus, also functional and in-place ones.

    .. math:: \mathrm{relu}(z) \to \mathrm{softplus}_\beta(z) = \log(1 + e^{\beta z}) / \beta

    The activations of torch that are built from rectifiers are replaced: ReLU, ReLU6, LeakyReLU,
    PReLU, RReLU (evaluation), Hardtanh, Hardsigmoid, Hardswish, Softshrink, Threshold whose value
    is its threshold, ``clamp(min=0)`` and ``clamp(0, 6)``. Any other ``clamp``, activations that
    jump, rectifiers spelled out with ``torch.maximum`` or ``torch.where``, and integer tensors stay
    as they are.

    It acts on the calling thread alone and ends with the block, also after an exception. Of nested
    blocks the innermost counts. Scripted and compiled modules are not seen from here;
    :class:`BetaSmoothing` refuses them.

    Args:
        beta: Sharpness, in units of one over the pre-activation; large values approach the
            rectifier, small ones a straight line.
        model: The model that runs in the block, or a function that calls it. Rectifiers of what is
            made of its parameters and buffers alone, such as the position biases of Swin V2, then
            stay as they are: they are part of the weights. None smooths those, too.

    Raises:
        ValueError: ``beta`` is not a positive finite number.
        RuntimeError: in the block, if the model recomputes activations (gradient checkpointing).

    References:
        Dombrowski et al. 2019, Section 4 and Eq. 5.

    Example:
        >>> import torch
        >>> from captum_robust.attr import softplus_activations
        >>> with softplus_activations(beta=1.0):
        ...     torch.relu(torch.tensor([0.0, 2.0]))
        tensor([0.6931, 2.1269])
        >>> torch.relu(torch.tensor([0.0, 2.0]))
        tensor([0., 2.])
    """

    def __init__(self, beta: float, model: Callable[..., Any] | Constants | None = None) -> None:
        super().__init__()
        check_positive(beta=beta)
        self.beta = beta
        self.constants = Constants.of(model)
        """What the model makes of its weights alone, which is not replaced; None: unknown."""
        self.replaced = 0
        """How many calls were replaced so far."""
        self.replaced_without_grad = 0
        """How many of them where autograd does not look, as in a custom autograd.Function."""
        self._guards: list[ExitStack] = []  # one for each time that the block is entered

    def __enter__(self) -> softplus_activations:
        if self.constants is not None and not self._guards:
            self.constants.forget()
        with ExitStack() as entering:
            entering.enter_context(disable_saved_tensors_hooks(_RECOMPUTED))
            super().__enter__()
            self._guards.append(entering.pop_all())
        return self

    def __exit__(self, *exception: Any) -> None:
        try:
            super().__exit__(*exception)
        finally:
            self._guards.pop().close()

    def call(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> object:
        """Replace ``func`` where it is a rectifier; called by torch with this mode switched off."""
        if self.constants is not None and self.constants.hold(args, kwargs):
            return self.constants.note(func(*args, **kwargs))
        stepwise = _RECURRENT.get(func)
        if stepwise is not None:
            with self:  # which sees the rectifier of each step
                return stepwise(*args, **kwargs)
        read = _READER_OF.get(func)
        if read is None:
            return func(*args, **kwargs)
        z, smooth = read(*args, **{k: v for k, v in kwargs.items() if k not in _NOT_READ})
        if smooth is None or not z.is_floating_point():  # counts and indices are clamped, too
            return func(*args, **kwargs)
        self.replaced += 1
        self.replaced_without_grad += not torch.is_grad_enabled()
        if kwargs.get("inplace", func in _IN_PLACE):
            # Written back, since code may drop the return value.
            return overwrite(z, lambda old: smoothed(old, smooth, self.beta, func.__name__))
        value = smoothed(z, smooth, self.beta, func.__name__)
        if kwargs.get("out") is not None:
            return torch.add(value, 0, out=kwargs["out"])
        return value


def smoothed(z: Tensor, smooth: _Smooth, beta: float, name: str) -> Tensor:
    """The smooth form of the activation ``name``; to other function modes it is a single call."""
    if has_torch_function_unary(z):
        return handle_torch_function(smoothed, (z,), z, smooth, beta, name)
    return smooth(z, beta)


# By this, function modes that meet ``smoothed`` learn which activation it stands for.
smoothed.smooth_form_of = lambda z, smooth, beta, name: name  # type: ignore[attr-defined]


# Each reader below has the signature of the functions that it stands for. It returns the
# pre-activation, and the smooth activation as a function of it and beta, or None where the call
# is not a sum of rectifiers.
_Smooth = Callable[[Tensor, float], Tensor]
_Reader = Callable[..., tuple[Tensor, "_Smooth | None"]]


def _softplus(z: Tensor, beta: float, corner: float = 0.0) -> Tensor:
    return softplus_ramp(z, beta, corner)


def _ramp(z: Tensor, low: float, high: float, beta: float) -> Tensor:
    """clamp(z, low, high) = low + relu(z - low) - relu(z - high), smooth."""
    if low == -math.inf:
        return z - _softplus(z, beta, high)
    ramp = softplus_ramp(z, beta, low, high)
    return low + ramp if low else ramp


def _leak(z: Tensor, slope: float | Tensor, beta: float) -> Tensor:
    """max(z, 0) + slope * min(z, 0) = slope * z + (1 - slope) * relu(z), smooth."""
    return slope * z + (1 - slope) * _softplus(z, beta)


def _relu(input: Tensor) -> tuple[Tensor, _Smooth]:
    return input, _softplus


def _relu6(input: Tensor) -> tuple[Tensor, _Smooth]:
    return input, lambda z, beta: _ramp(z, 0.0, 6.0, beta)


def _hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> tuple[Tensor, _Smooth]:
    return input, lambda z, beta: _ramp(z, min_val, max_val, beta)


def _leaky_relu(input: Tensor, negative_slope: float = 0.01) -> tuple[Tensor, _Smooth]:
    return input, lambda z, beta: _leak(z, negative_slope, beta)


def _rrelu(
    input: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
) -> tuple[Tensor, _Smooth | None]:
    if training:
        return input, None
    return _leaky_relu(input, (lower + upper) / 2)


def _prelu(input: Tensor, weight: Tensor) -> tuple[Tensor, _Smooth]:
    if weight.numel() > 1:
        weight = weight.reshape(-1, *[1] * (input.dim() - 2))
    return input, lambda z, beta: _leak(z, weight, beta)


def _hardsigmoid(input: Tensor) -> tuple[Tensor, _Smooth]:
    return input, lambda z, beta: _ramp(z + 3, 0.0, 6.0, beta) / 6


def _hardswish(input: Tensor) -> tuple[Tensor, _Smooth]:
    return input, lambda z, beta: z * _ramp(z + 3, 0.0, 6.0, beta) / 6


def _softshrink(input: Tensor, lambd: float = 0.5) -> tuple[Tensor, _Smooth]:
    return input, lambda z, beta: _softplus(z, beta, lambd) - _softplus(-z - lambd, beta)


def _threshold(input: Tensor, threshold: float, value: float) -> tuple[Tensor, _Smooth | None]:
    if threshold != value:  # it jumps from value to threshold
        return input, None
    return input, lambda z, beta: value + _softplus(z, beta, threshold)


def _clamp(input: Tensor, min: Any = None, max: Any = None) -> tuple[Tensor, _Smooth | None]:
    if _is_number(min, 0) and max is None:
        return _relu(input)
    if _is_number(min, 0) and _is_number(max, 6):
        return _relu6(input)
    return input, None


def _clamp_min(input: Tensor, min: Any) -> tuple[Tensor, _Smooth | None]:
    return _clamp(input, min)


def _is_number(bound: Any, value: float) -> bool:
    return isinstance(bound, (int, float)) and bound == value


_READERS: dict[_Reader, list[str]] = {
    _relu: ["relu", "relu_"],
    _relu6: ["relu6"],
    _hardtanh: ["hardtanh", "hardtanh_"],
    _leaky_relu: ["leaky_relu", "leaky_relu_"],
    _rrelu: ["rrelu", "rrelu_"],
    _prelu: ["prelu"],
    _hardsigmoid: ["hardsigmoid"],
    _hardswish: ["hardswish"],
    _softshrink: ["softshrink"],
    _threshold: ["threshold", "threshold_"],
    _clamp: ["clamp", "clamp_", "clip", "clip_"],
    _clamp_min: ["clamp_min", "clamp_min_"],
}
# A name may stand for up to three objects: torch.f, torch.nn.functional.f and the method.
_SPELLINGS = {
    getattr(home, name): (reader, name.endswith("_"))
    for reader, names in _READERS.items()
    for name in names
    for home in (F, torch, Tensor)
    if hasattr(home, name)
}
_READER_OF = {spelling: reader for spelling, (reader, _) in _SPELLINGS.items()}
_IN_PLACE = frozenset(spelling for spelling, (_, in_place) in _SPELLINGS.items() if in_place)
_NOT_READ = frozenset({"inplace", "out", "generator"})
# A whole layer is one call of torch.
_RECURRENT: dict[Any, Callable[..., Any]] = {
    torch.rnn_relu: rnn_relu,
    torch.rnn_relu_cell: rnn_relu_cell,
}

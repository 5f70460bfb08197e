"""What a training objective is given: the examples of one step, and its random numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captum_robust._utils.forward import output_of, why_not_called
from captum_robust.training.randomness import Draws


@dataclass(frozen=True)
class Batch:
    """Examples of one step.

    Attributes:
        inputs: (N, ...), floating-point: what is moved, and explained.
        labels: What the loader gives as the second part, a row per example; None where it gives
            none.
        draws: Random numbers of this step.
        repeat: How many steps were taken on these very inputs before this one.
        additional_forward_args: What else the model takes, as in Captum: a tensor with a row per
            example is repeated for the points beside it.
    """

    inputs: Tensor
    labels: Tensor | None
    draws: Draws
    repeat: int = 0
    additional_forward_args: tuple[Any, ...] = ()

    def output(self, model: nn.Module, *groups: Tensor) -> Tensor:
        """The model's output at groups of points in one pass.

        Args:
            model: The student or the teacher.
            *groups: (m N, ...) each, with any m: the m points of an example are adjacent.

        Returns:
            The outputs, one group after the other.
        """
        points = groups[0] if len(groups) == 1 else torch.cat(groups)
        copies = [len(group) // len(self.inputs) for group in groups]
        more = [self._expanded(a, copies) for a in self.additional_forward_args]
        return output_of(model, points, *more)

    def _expanded(self, argument: Any, copies: list[int]) -> Any:
        if not self._has_rows(argument) or copies == [1]:
            return argument
        return torch.cat([argument.repeat_interleave(m, 0) for m in copies])

    @staticmethod
    def _has_rows(argument: Any) -> bool:
        return isinstance(argument, Tensor) and argument.dim() > 0

    def rows(self, index: list[int]) -> Batch:
        """The examples of an index alone."""
        more = (a[index] if self._has_rows(a) else a for a in self.additional_forward_args)
        labels = None if self.labels is None else self.labels[index]
        return Batch(self.inputs[index], labels, self.draws, self.repeat, tuple(more))

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        more = (a.to(device) if isinstance(a, Tensor) else a for a in self.additional_forward_args)
        labels = None if self.labels is None else self.labels.to(device)
        return Batch(self.inputs.to(device), labels, self.draws, self.repeat, tuple(more))


Unpack = Callable[[Any], Any]
"""From what a loader yields to inputs, ``(inputs, labels)`` or ``((inputs, *more), labels)``."""


def read_batch(loaded: Any, draws: Draws, repeat: int = 0, unpack: Unpack | None = None) -> Batch:
    """The batch of what a loader yields: inputs, or a sequence that starts with inputs and labels.

    Inputs are a tensor, or a tuple of the tensor that is moved and what else the model takes.

    Args:
        loaded: What the loader yields.
        draws: Random numbers of the step.
        repeat: See :class:`Batch`.
        unpack: The user's function that makes inputs and labels of ``loaded``.

    Raises:
        TypeError: It is neither.
        ValueError: The inputs are not a floating-point batch.
    """
    if unpack is not None:
        loaded = unpack(loaded)
    first, labels = loaded, None
    if isinstance(loaded, (tuple, list)) and loaded:
        first, labels = loaded[0], loaded[1] if len(loaded) > 1 else None
    inputs, more = _inputs(first)
    _check_inputs(inputs)
    _check_rows(more, len(inputs))
    is_row = isinstance(labels, Tensor) and labels.dim() > 0 and len(labels) == len(inputs)
    return Batch(inputs, labels if is_row else None, draws, repeat, more)


def check_call(model: nn.Module, batch: Batch) -> None:
    """Raise TypeError where the model cannot be called with what a batch holds."""
    more = batch.additional_forward_args
    reason = why_not_called(model, batch.inputs, *more)
    if reason is not None:
        raise TypeError(
            f"loader: calling the model with the inputs and {len(more)} further arguments fails "
            f"({reason}). Let it yield what the model takes besides the inputs beside these, "
            "((inputs, more), labels); or make it so: unpack=lambda batch: ((batch['inputs'], "
            "batch['more']), batch['labels'])."
        )


def _inputs(first: Any) -> tuple[Any, tuple[Any, ...]]:
    if isinstance(first, Tensor):
        return first, ()
    if isinstance(first, (tuple, list)) and first and isinstance(first[0], Tensor):
        return first[0], tuple(first[1:])
    raise TypeError(
        f"loader must yield inputs or (inputs, labels, ...), got {type(first).__name__}. Say how "
        "to read it: unpack=lambda batch: (batch['inputs'], batch['labels']). Where the model "
        "takes more arguments, inputs is a tuple: ((inputs, more), labels)."
    )


def _check_rows(more: tuple[Any, ...], n: int) -> None:
    for argument in more:
        if isinstance(argument, Tensor) and argument.dim() > 0 and len(argument) != n:
            raise ValueError(
                f"loader: what the model takes beside {n} inputs has {len(argument)} rows, shape "
                f"{tuple(argument.shape)}. Give a row per example: argument.expand({n}, ...)."
            )


def _check_inputs(inputs: Tensor) -> None:
    if inputs.is_floating_point() and inputs.dim() > 1 and len(inputs) > 0:
        return
    remedy = ""
    if not inputs.is_floating_point():
        remedy = (
            " Integers cannot be moved: give embeddings, or numbers, as inputs and the integers as "
            "what else the model takes: ((inputs, integers), labels)."
        )
    raise ValueError(
        "loader must yield floating-point inputs with a batch dimension and examples, got "
        f"{inputs.dtype} of shape {tuple(inputs.shape)}.{remedy}"
    )

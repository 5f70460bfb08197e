"""Recurrent layers step by step, in operations that a function mode sees and autograd can repeat.

torch runs a whole recurrent layer as one call. On a GPU that call has no second derivative (cuDNN),
and a rectifier inside it cannot be replaced. These functions take the arguments of ``torch.lstm``,
``torch.gru``, ``torch.rnn_tanh`` and ``torch.rnn_relu``, also with packed sequences, and return the
same values.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_robust._utils.types import Tensors

Cell = Callable[[Tensor, Tensors, Tensor, "Tensor | None", "Tensor | None"], Tensors]
"""From a step's projected input, the states and the recurrent weights to the new states."""


def _lstm_cell(
    gates: Tensor, states: Tensors, weight: Tensor, bias: Tensor | None, projection: Tensor | None
) -> Tensors:
    hidden, cell = states
    i, f, g, o = (gates + F.linear(hidden, weight, bias)).chunk(4, 1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    hidden = o.sigmoid() * cell.tanh()
    return (hidden if projection is None else F.linear(hidden, projection)), cell


def _gru_cell(
    gates: Tensor, states: Tensors, weight: Tensor, bias: Tensor | None, projection: Tensor | None
) -> Tensors:
    (hidden,) = states
    reset, update, new = gates.chunk(3, 1)
    reset_h, update_h, new_h = F.linear(hidden, weight, bias).chunk(3, 1)
    update = (update + update_h).sigmoid()
    new = (new + (reset + reset_h).sigmoid() * new_h).tanh()
    return (new + update * (hidden - new),)


def _simple_cell(
    gates: Tensor,
    states: Tensors,
    weight: Tensor,
    bias: Tensor | None,
    projection: Tensor | None,
    activation: Callable[[Tensor], Tensor],
) -> Tensors:
    return (activation(gates + F.linear(states[0], weight, bias)),)


def _layer(
    cell: Cell, steps: list[Tensor], states: Tensors, weights: list[Tensor | None], backwards: bool
) -> tuple[list[Tensor], Tensors]:
    """One layer in one direction: its output at each step and the last states."""
    w_input, w_hidden, b_input, b_hidden, projection = weights
    assert w_input is not None
    assert w_hidden is not None
    sizes = [len(step) for step in steps]
    projected = F.linear(torch.cat(steps), w_input, b_input).split(sizes)
    outputs: list[Tensor] = []
    for gates in reversed(projected) if backwards else projected:
        n = len(gates)  # a packed sequence has fewer rows the later it is
        new = cell(gates, tuple(s[:n] for s in states), w_hidden, b_hidden, projection)
        outputs.append(new[0])
        states = tuple(
            fresh if n == len(old) else torch.cat([fresh, old[n:]])
            for fresh, old in zip(new, states, strict=True)
        )
    return (outputs[::-1] if backwards else outputs), states


def _stack(
    cell: Cell,
    steps: list[Tensor],
    initial: Tensors,
    weights: list[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
) -> tuple[list[Tensor], Tensors]:
    """All layers and directions: the last layer's output at each step, all last states."""
    directions = 1 + bidirectional
    each = len(weights) // (num_layers * directions)
    finals: list[Tensors] = []
    for layer in range(num_layers):
        if layer > 0 and dropout > 0 and training:
            steps = [F.dropout(step, dropout) for step in steps]
        found = []
        for direction in range(directions):
            i = layer * directions + direction
            own: list[Tensor | None] = list(weights[i * each : (i + 1) * each])
            if not has_biases:
                own[2:2] = [None, None]
            own += [None] * (5 - len(own))  # no projection
            states = tuple(s[i] for s in initial)
            outputs, last = _layer(cell, steps, states, own, backwards=direction == 1)
            found.append(outputs)
            finals.append(last)
        together = zip(*found, strict=True)
        steps = [torch.cat(parts, 1) if directions > 1 else parts[0] for parts in together]
    return steps, tuple(torch.stack(s) for s in zip(*finals, strict=True))


def _run(cell: Cell, *args: Any) -> tuple[Tensor, ...]:
    if isinstance(args[1], Tensor) and args[1].dtype == torch.int64:  # a packed sequence
        data, sizes, initial, *rest = args
        steps = list(data.split(sizes.tolist()))
        outputs, states = _stack(cell, steps, _states(initial), *rest)
        return torch.cat(outputs), *states
    data, initial, *rest, batch_first = args
    steps = list(data.unbind(1 if batch_first else 0))
    outputs, states = _stack(cell, steps, _states(initial), *rest)
    return torch.stack(outputs, dim=1 if batch_first else 0), *states


def _states(initial: Any) -> Tensors:
    return (initial,) if isinstance(initial, Tensor) else tuple(initial)


lstm = partial(_run, _lstm_cell)
gru = partial(_run, _gru_cell)
rnn_tanh = partial(_run, partial(_simple_cell, activation=torch.tanh))
rnn_relu = partial(_run, partial(_simple_cell, activation=torch.relu))


def rnn_relu_cell(
    input: Tensor,
    hidden: Tensor,
    w_input: Tensor,
    w_hidden: Tensor,
    b_input: Tensor | None = None,
    b_hidden: Tensor | None = None,
) -> Tensor:
    """``torch.rnn_relu_cell``: one step."""
    return torch.relu(F.linear(input, w_input, b_input) + F.linear(hidden, w_hidden, b_hidden))

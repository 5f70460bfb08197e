"""Recurrent layers step by step, against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.utils.rnn import pack_padded_sequence
from torch.overrides import TorchFunctionMode

from captum_robust._utils import recurrent

KINDS = {
    "lstm": (nn.LSTM, {}),
    "gru": (nn.GRU, {}),
    "rnn_tanh": (nn.RNN, {}),
    "rnn_relu": (nn.RNN, {"nonlinearity": "relu"}),
}
OPTIONS = {
    "plain": {},
    "batch first": {"batch_first": True},
    "two layers, two directions": {"num_layers": 2, "bidirectional": True},
    "no biases": {"bias": False, "bidirectional": True},
}
CASES = [
    *((kind, OPTIONS[name]) for kind in KINDS for name in OPTIONS),
    ("lstm", {"proj_size": 2, "bidirectional": True, "num_layers": 2}),
    ("lstm", {"proj_size": 2, "bias": False}),
]


class Stepwise(TorchFunctionMode):
    """Every recurrent layer by this library's functions; on a GPU, ``sound_gradients`` does so."""

    calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        for name in KINDS:
            if func is getattr(torch, name):
                self.calls += 1
                return getattr(recurrent, name)(*args)
        return func(*args, **(kwargs or {}))


def layer_of(kind, options):
    cls, fixed = KINDS[kind]
    torch.manual_seed(0)
    return cls(3, 4, **fixed, **options).double()


def flat(result):
    output, states = result
    output = output if isinstance(output, torch.Tensor) else output.data
    return [output, *(states if isinstance(states, tuple) else (states,))]


@pytest.mark.parametrize(("kind", "options"), CASES, ids=str)
@pytest.mark.parametrize("packed", [False, True])
def test_the_values_and_gradients_are_those_of_torch(kind, options, packed):
    layer, first = layer_of(kind, options), options.get("batch_first", False)
    x = torch.randn(5, 5, 3, dtype=torch.float64, requires_grad=True)

    def given():
        lengths = torch.tensor([5, 3, 3, 2, 1])
        return pack_padded_sequence(x, lengths, batch_first=first) if packed else x

    want = flat(layer(given()))
    with Stepwise() as mode:
        got = flat(layer(given()))
    assert mode.calls == 1
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    weights = [torch.randn_like(part) for part in want]
    leaves = (x, *layer.parameters())
    for a, b in zip(
        torch.autograd.grad(got, leaves, weights),
        torch.autograd.grad(want, leaves, weights),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_initial_states(kind):
    layer = layer_of(kind, {"bidirectional": True})
    x = torch.randn(3, 2, 3, dtype=torch.float64)
    states = [torch.randn(2, 2, 4, dtype=torch.float64) for _ in range(1 + (kind == "lstm"))]
    initial = tuple(states) if kind == "lstm" else states[0]
    with Stepwise():
        got = flat(layer(x, initial))
    for a, b in zip(got, flat(layer(x, initial)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_both_derivatives(kind):
    layer = layer_of(kind, {"bidirectional": True}).requires_grad_(False)
    x = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)

    def run(x):
        with Stepwise():
            return layer(x)[0]

    assert gradcheck(run, x, fast_mode=True)
    assert gradgradcheck(run, x, fast_mode=True)


def test_dropout_between_layers():
    layer = layer_of("lstm", {"num_layers": 2, "dropout": 0.5})
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    with Stepwise():
        assert not torch.equal(layer(x)[0], layer(x)[0])
        layer.eval()
        assert torch.equal(layer(x)[0], layer(x)[0])


def test_one_step_of_rectifiers():
    cell = nn.RNNCell(3, 4, nonlinearity="relu")
    x, hidden = torch.randn(2, 3), torch.randn(2, 4)
    got = recurrent.rnn_relu_cell(
        x, hidden, cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh
    )
    torch.testing.assert_close(got, cell(x, hidden))

"""What is made of the weights alone, and what is not."""

from __future__ import annotations

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from captum_robust._utils.constants import Constants


class Watch(TorchFunctionMode):
    def __init__(self, constants):
        super().__init__()
        self.constants, self.held = constants, []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not self.constants.hold(args, kwargs):
            return func(*args, **kwargs)
        self.held.append(func.__name__)
        return self.constants.note(func(*args, **kwargs))


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 2))
        self.register_buffer("table", torch.randn(2, 2))

    def bias(self):
        return torch.matmul(self.table, self.weight.t()).relu()

    def forward(self, x):
        return torch.tanh(x + self.bias())


def watched(model, run):
    with Watch(Constants(model)) as watch:
        run()
    return watch.held


def test_what_weights_and_buffers_become_is_constant_and_nothing_else():
    model, x = Table(), torch.randn(2, 3)
    assert watched(model, lambda: model(x)) == ["t", "matmul", "relu"]
    assert watched(lambda x: model(x), lambda: model(x)) == ["t", "matmul", "relu"]
    assert watched(nn.Linear(1, 1), lambda: model(x)) == []


def test_new_and_random_tensors_are_not():
    model = Table()
    assert watched(model, lambda: torch.relu(torch.zeros(2) + torch.rand(2))) == []
    assert watched(model, lambda: torch.relu(model.bias() + torch.zeros(3)))[-1] == "relu"
    assert watched(model, lambda: torch.tanh(model.bias() + torch.zeros(3))) == [
        "t",
        "matmul",
        "relu",
    ]


def test_arguments_by_name_and_in_lists():
    model, x = Table(), torch.randn(2, 3)
    stacked = lambda: torch.cat([model.table, model.table]).exp()  # noqa: E731
    assert watched(model, stacked) == ["cat", "exp"]
    assert watched(model, lambda: torch.cat([model.bias(), x]).exp())[-1] == "relu"
    by_name = lambda: nn.functional.linear(x, weight=model.weight.t()).exp()  # noqa: E731
    assert watched(model, by_name) == ["t"]


def test_what_inputs_are_written_into_is_no_longer_constant():
    model, x = Table(), torch.randn(2, 3)

    def written():
        bias = model.bias()
        part = bias[0]
        part.add_(x[0])
        return bias.exp()

    def assigned():
        bias = model.bias()
        bias[0] = x[0]
        return bias.exp()

    for run in (written, assigned):
        assert "exp" not in watched(model, run)


def test_it_forgets_and_names_the_ends_of_the_graph():
    model = Table()
    constants = Constants(model)
    with Watch(constants):
        made = model.bias()
    assert made.grad_fn in constants.nodes()
    assert constants.hold((made,), {})
    constants.forget()
    assert constants.nodes() == []
    assert not constants.hold((made,), {})
    assert Constants.of(constants) is constants
    assert Constants.of(None) is None

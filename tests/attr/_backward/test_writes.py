"""Operations in place on the tape: on slices, views, masks and inputs, against autograd."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from captum_robust.attr import GuidedBackprop, RelevancePropagation, softplus_activations
from captum_robust.attr._backward.tape import Tape
from captum_robust.attr._backward.writes import places_of, read_view, write_view
from tests.helpers import normal


def walked(function, x):
    tape = Tape((x.detach().clone().requires_grad_(),))
    with tape:
        output = function(*tape.inputs)
    return tape.propagate(output, create_graph=False)[0]


def gradient(function, x):
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(function(x * 1).sum(), x)[0]


def add_on_a_slice(x):
    y = torch.cat([x, x.sin()], 1)[:, :3]
    y += x[:, :3]
    return y.pow(2).sum(1)


def rectifier_on_a_slice(x):
    y = x * 2
    y[:, :2].relu_()
    return (y * y).sum(1)


def rectifier_on_a_view(x):
    y = x * 2
    F.relu(y.view(-1), inplace=True)
    return (y * y).sum(1)


def constants_by_a_mask(x):
    y = x.sin()
    y[y > 0.3] = 0
    y[:, 0].zero_()
    y[:, 1:2].fill_(2.0)
    return (y.exp() * x).sum(1)


def parts_of_a_buffer(x):
    buffer = torch.zeros_like(x)
    buffer[:, 1:] = x[:, :-1]
    buffer[:, 0].copy_(x[:, 3])
    return (buffer * x).sum(1)


def a_buffer_that_adds_up(x):
    total, other = torch.ones_like(x), torch.zeros(3, 4, dtype=x.dtype)
    first, rest = other[:, 0], other[:, 1:]
    total += x
    total += 2 * total
    first.copy_(x[:, 0].exp())
    return (total + other).sum(1) + rest.sum(1)


def a_view_and_its_base_in_turns(x):
    y = x * 1
    view = y.view(-1)
    y.mul_(3)
    view.add_(1)
    part = y[:, 1:]
    part += y[:, :-1].clone()
    return (y.sin() + view.view_as(y) ** 2).sum(1)


def a_transposed_view(x):
    y = x.sin()
    view = y.t()
    view[0] += 1
    view.mul_(x.t())
    return (y.sin() + view.t()).sum(1)


def shapes(x):
    y = (x * x).unsqueeze(1)
    y.squeeze_(1)
    y.transpose_(0, 1)
    z = y[None]
    z.squeeze_(0)
    return z.t().sin().sum(1)


def the_input_itself(x):
    x -= 0.5
    x[:, 0] *= 2
    return x.pow(3).sum(1)


def an_operand_that_shares_memory(x):
    y = x * 2
    y[:, :2].add_(y[:, 2:])
    return y.pow(2).sum(1)


def masked_and_indexed(x):
    y = x.exp() * 1
    y.masked_fill_(x > 1, 3.0).index_add_(1, torch.tensor([0, 0]), x[:, :2])
    return y.pow(2).sum(1)


FUNCTIONS = [
    add_on_a_slice, rectifier_on_a_slice, rectifier_on_a_view, constants_by_a_mask,
    parts_of_a_buffer, a_buffer_that_adds_up, a_view_and_its_base_in_turns, a_transposed_view,
    shapes, the_input_itself, an_operand_that_shares_memory, masked_and_indexed,
]  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("beta", [None, 2.0])
def test_functions(function, beta):
    def run(x):
        if beta is None:
            return function(x)
        with softplus_activations(beta):
            return function(x)

    x = normal(3, 4)
    kept = x.clone()
    got, want = walked(run, x), gradient(run, x)
    torch.testing.assert_close(got, want)
    assert got.abs().max() > 0
    assert torch.equal(x, kept)


def test_places_do_not_depend_on_how_a_tensor_lies_in_memory():
    base, new = normal(3, 4), normal(2, 2, seed=5)
    places = places_of(base[1:, 1:3], base)
    for same in (base, base.t().contiguous().t()):
        torch.testing.assert_close(read_view(same, places), base[1:, 1:3])
        want = base.clone()
        want[1:, 1:3] = new
        torch.testing.assert_close(write_view(same, new, places), want)


class Ghost(nn.Module):
    """The block of GhostNet: half of the channels are made of the other half."""

    def __init__(self):
        super().__init__()
        self.primary, self.cheap = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        y = self.primary(x).relu()
        y = torch.cat([y, self.cheap(y).relu()], 1)[:, :3]
        y += x
        return self.head(y.mean((2, 3)))


class OutOfPlace(Ghost):
    def forward(self, x):
        y = self.primary(x).relu()
        return self.head((torch.cat([y, self.cheap(y).relu()], 1)[:, :3] + x).mean((2, 3)))


@pytest.mark.parametrize("explanation", [GuidedBackprop, RelevancePropagation])
def test_an_addition_on_a_slice_is_explained_as_one_out_of_place(explanation):
    model, same = Ghost().double(), OutOfPlace().double()
    same.load_state_dict(model.state_dict())
    with torch.no_grad():
        for network in (model, same):
            network.head.weight.abs_()
    x = normal(2, 3, 6, 6).abs().clamp(max=1)
    got, want = (explanation(network).attribute(x, target=0) for network in (model, same))
    torch.testing.assert_close(got, want)


class Writes(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x * 1)


def through_memory(x):
    x.detach().mul_(2)
    return x.sum(1)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.uniform_().sum(1), "uniform_ writes into a tensor that is explained"),
        (lambda x: torch.mul(x, 2, out=torch.empty(2, 4)).sum(1), "mul writes into a tensor"),
        (lambda x: x.chunk(2, 1)[0].relu_().sum(1), "a value is changed in place where torch does"),
        (through_memory, "a value is changed in place by code that the tape cannot record"),
    ],
    ids=["random", "out", "one of several views", "detached"],
)
def test_what_cannot_be_recorded_names_the_module(function, message):
    model = nn.Sequential(nn.Linear(4, 4), Writes(function))
    with pytest.raises(TypeError, match=re.escape(f"'1' (Writes): {message}")):
        GuidedBackprop(model).attribute(torch.rand(2, 4))

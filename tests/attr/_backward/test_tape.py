"""Walking networks backwards by the true rules gives the gradient, whatever they are made of."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models

from captum_robust.attr import GuidedBackprop, RelevancePropagation, softplus_activations
from captum_robust.attr._backward.tape import Tape

OPTIONS = {"googlenet": {"init_weights": False, "aux_logits": False}}


def network(name):
    model = models.get_model(name, weights=None, **OPTIONS.get(name, {}))
    return model.double().eval().requires_grad_(False)


def walked(function, *inputs):
    x = tuple(t.detach().clone().requires_grad_() for t in inputs)
    tape = Tape(x)
    with tape:
        output = function(*tape.inputs)
    return tape.propagate(output, create_graph=False)


def gradient(function, *inputs):
    x = tuple(t.detach().clone().requires_grad_() for t in inputs)
    return torch.autograd.grad(function(*x).sum(), x)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "densenet121", "squeezenet1_1", "mobilenet_v3_small", "googlenet"],
)
def test_networks_of_torchvision(name):
    model = network(name)
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)).double()

    def function(x):
        return model(x).pow(2).sum(1)

    (got,), (want,) = walked(function, x), gradient(function, x)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-15)
    assert got.abs().max() > 0


def test_attention():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double().eval()
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def function(x):
        return layer(x).pow(3).sum((1, 2))

    (got,), (want,) = walked(function, x), gradient(function, x)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v2", "regnet_y_400mf"])
def test_relevance_propagation_of_networks_of_torchvision(name):
    """Residual, dense, with inverted bottlenecks, and with gates; in place and functional."""
    model = network(name)
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)).double()
    relevance = RelevancePropagation(model).attribute(x, target=0)
    assert relevance.min() > -1e-12
    torch.testing.assert_close(relevance.sum(), torch.tensor(1.0).double(), rtol=1e-3, atol=0)
    assert not any(vars(m)[k] for m in model.modules() for k in vars(m) if k.endswith("_hooks"))


def reused(x):
    y = x * 2
    z = y.sigmoid() * y + torch.cat([y, x], 1)[:, 1:-1].mean(1, keepdim=True)
    z += x
    z.mul_(z.detach().clone()).clamp_(min=0.01)
    a, b = z.chunk(2, 1)
    return (a.exp() @ b.T).sum(1) / 3


FUNCTIONS = {
    "one value used often": lambda x: (x * x * x.sin()).sum(1),
    "a product of values of which one is made of the other": lambda x: (x.exp() * x).sum(1),
    "in place, in parts": reused,
    "a method that hands back its argument": lambda x: F.dropout(x.contiguous(), 0.5, False).sum(1),
    "a maximum": lambda x: x.max(1).values * x.argmax(1),
    "control flow": lambda x: (x * 2 if bool((x > 0).any()) else x).sum(1),
    "a list of values": lambda x: torch.stack([row.square() for row in x.unbind(1)]).sum(0),
    "a constant in between": lambda x: (x * x.detach().mean()).sum(1),
    "in place behind a view": lambda x: F.relu(x.view(-1).view_as(x) * 1, inplace=True).sum(1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("beta", [None, 2.0])
def test_functions(name, beta):
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def function(x):
        if beta is None:
            return FUNCTIONS[name](x)
        with softplus_activations(beta):
            return FUNCTIONS[name](x)

    (got,), (want,) = walked(function, x), gradient(function, x)
    torch.testing.assert_close(got, want)
    assert got.abs().max() > 0


def test_several_inputs():
    generator = torch.Generator().manual_seed(1)
    x, y, z = torch.randn(3, 2, 4, generator=generator, dtype=torch.float64)

    def function(x, y, z):
        return (torch.where(x > 0, x * y, y / (1 + y * y)) + 0 * z).sum(1)

    for got, want in zip(walked(function, x, y, z), gradient(function, x, y, z), strict=True):
        torch.testing.assert_close(got, want)


def test_an_input_that_is_not_used_gets_zeros():
    x = torch.ones(2, 3)
    assert torch.equal(walked(lambda x, y: x.sum(1), x, x)[1], torch.zeros(2, 3))


def test_threads_do_not_see_each_other():
    """The smoothing in effect, and the tape, are those of the thread."""
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.rand(2, 4)
    alone, found = GuidedBackprop(model).attribute(x, target=1), []

    def other():
        found.append(GuidedBackprop(model).attribute(x, target=1))

    with softplus_activations(2.0):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert not torch.equal(GuidedBackprop(model).attribute(x, target=1), alone)
    assert torch.equal(found[0], alone)


def test_an_exception_in_the_block_switches_the_tape_off():
    x = torch.ones(2, 3, requires_grad=True)
    tape = Tape((x,))
    with pytest.raises(ZeroDivisionError), tape:
        tape.inputs[0] * (1 / 0)
    x.sum()
    assert tape.calls == []

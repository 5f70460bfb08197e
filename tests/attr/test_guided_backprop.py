"""Guided backpropagation against Captum's where that is right, loops, and finite differences."""

from __future__ import annotations

import copy

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from captum_robust.attr import (
    BetaSmoothing,
    GuidedBackprop,
    differentiable,
    softplus_activations,
)
from tests.attr._backward.networks import Hidden
from tests.helpers import rng


def points(n=3, seed=2):
    return torch.randn(n, 4, generator=rng(seed), dtype=torch.float64)


class Network(nn.Module):
    """Three rectifiers of one spelling, with a skip connection."""

    def __init__(self, activations):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)
        self.activations = activations
        with torch.no_grad():
            generator = rng(1)
            for parameter in self.parameters():
                parameter.normal_(0, 0.5, generator=generator)
        self.double()

    def forward(self, x):
        a, b, c = self.activations
        x = a(self.first(x))
        x = x + b(self.second(x))
        return self.head(c(self.third(x)))


def in_place(z):
    z.relu_()  # the return value is dropped
    return z


def modules():
    return Network(nn.ModuleList(nn.ReLU() for _ in range(3)))


SPELLINGS = {
    "modules": modules,
    "one module used three times": lambda: Network(nn.ModuleList([nn.ReLU()] * 3)),
    "modules in place": lambda: Network(nn.ModuleList(nn.ReLU(inplace=True) for _ in range(3))),
    "F.relu": lambda: Network([F.relu] * 3),
    "torch.relu": lambda: Network([torch.relu] * 3),
    "method": lambda: Network([torch.Tensor.relu] * 3),
    "method in place": lambda: Network([in_place] * 3),
    "F.relu in place": lambda: Network([lambda z: F.relu(z, inplace=True)] * 3),
    "in place behind a dropout": lambda: Network(
        [lambda z: in_place(F.dropout(z, training=False))] * 3
    ),
    "clamp": lambda: Network([lambda z: z.clamp(min=0)] * 3),
    "threshold": lambda: Network([nn.Threshold(0.0, 0.0)] * 3),
}


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU")  # Captum's
def test_equal_to_captum_where_captum_is_right(name):
    x = points(20)
    reference = captum.attr.GuidedBackprop(modules())
    want = reference.attribute(x.clone().requires_grad_(), target=1).detach()
    got = GuidedBackprop(SPELLINGS[name]()).attribute(x, target=1)
    torch.testing.assert_close(got, want)
    plain = captum.attr.Saliency(modules()).attribute(x.clone().requires_grad_(), 1, abs=False)
    assert not torch.allclose(got, plain)


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU")
def test_captum_is_not_right_on_functional_rectifiers():
    """The reason for this class; where this fails, Captum has been mended."""
    x, functional = points(20).requires_grad_(), SPELLINGS["F.relu"]()
    theirs = captum.attr.GuidedBackprop(functional).attribute(x, target=1)
    plain = captum.attr.Saliency(functional).attribute(x, target=1, abs=False)
    torch.testing.assert_close(theirs, plain)


def by_hand(network, x, activation, slope, rectify):
    """The backward pass of :class:`Network`, for one example, written out."""
    w1, w2, w3 = (layer.weight for layer in (network.first, network.second, network.third))
    z1 = network.first(x)
    a1 = activation(z1)
    z2 = network.second(a1)
    s = a1 + activation(z2)
    z3 = network.third(s)
    g = w3.T @ (slope(z3) * rectify(network.head.weight[1]))
    g = g + w2.T @ (slope(z2) * rectify(g))
    return (w1.T @ (slope(z1) * rectify(g))).detach()


@pytest.mark.parametrize("name", ["modules", "method in place", "clamp"])
def test_smoothed_by_beta_the_rectifier_of_the_gradient_stays(name):
    beta, network, x = 3.0, SPELLINGS[name](), points()

    def softplus(z):
        return torch.log(1 + torch.exp(beta * z)) / beta

    got = BetaSmoothing(GuidedBackprop(network), beta).attribute(x, target=1)

    def slope(z):
        return 1 / (1 + torch.exp(-beta * z))

    for i in range(len(x)):
        want = by_hand(network, x[i], softplus, slope, lambda g: g.clamp(min=0))
        torch.testing.assert_close(got[i], want)
    with softplus_activations(beta):
        torch.testing.assert_close(GuidedBackprop(network).attribute(x, target=1), got)


def test_a_network_of_softplus_keeps_the_hard_rectifier_of_the_gradient():
    network, x = Network([F.softplus] * 3), points()
    got = GuidedBackprop(network).attribute(x, target=1)
    for i in range(len(x)):
        want = by_hand(network, x[i], F.softplus, torch.sigmoid, lambda g: g.clamp(min=0))
        torch.testing.assert_close(got[i], want)


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("fast", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_gradient_is_that_of_finite_differences(name, fast):
    explain = differentiable(BetaSmoothing(GuidedBackprop(SPELLINGS[name]()), 2.0))
    x = points(2).requires_grad_()
    assert gradcheck(lambda x: explain(x, target=1), x, fast_mode=fast)
    assert gradgradcheck(lambda x: explain(x, target=1), x, fast_mode=fast)


@pytest.mark.parametrize("activation", [F.softplus, F.gelu, F.silu, F.elu, F.mish, F.relu])
def test_finite_differences_on_networks_that_are_not_smoothed(activation):
    explain = differentiable(GuidedBackprop(Network([activation] * 3)))
    assert gradcheck(lambda x: explain(x, target=1), points(2).requires_grad_(), fast_mode=True)


def test_other_rectifiers_are_guided_as_well():
    for activation in (F.relu6, F.hardswish, F.leaky_relu, lambda z: F.hardtanh(z, 0.0, 2.0)):
        network, x = Network([activation] * 3), points(20)
        guided = GuidedBackprop(network).attribute(x, target=1)
        plain = captum.attr.Saliency(network).attribute(x.clone().requires_grad_(), 1, abs=False)
        assert not torch.allclose(guided, plain)
    network = Network([lambda z: z.clamp(-1, 1)] * 3)
    with pytest.warns(UserWarning, match="met no rectifier"):
        GuidedBackprop(network).attribute(x, target=1)


def test_without_rectifiers_it_is_the_gradient_and_says_so():
    network, x = Network([torch.tanh] * 3), points()
    with pytest.warns(UserWarning, match="met no rectifier"):
        got = GuidedBackprop(network).attribute(x, target=1)
    want = captum.attr.Saliency(network).attribute(x.clone().requires_grad_(), 1, abs=False)
    torch.testing.assert_close(got, want)


def test_code_that_cannot_be_seen_is_refused():
    network = Network([F.relu, Hidden.apply, F.relu])
    with pytest.raises(TypeError, match=r"torch\.autograd\.Function.*Write it with torch"):
        GuidedBackprop(network).attribute(points(), target=1)
    with pytest.raises(TypeError, match=r"torch\.autograd\.Function"):
        GuidedBackprop(Hidden.apply).attribute(points()[:, :1])


def test_the_model_is_left_alone():
    network = modules()
    before = copy.deepcopy(network.state_dict())
    GuidedBackprop(network).attribute(points(), target=1)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(vars(m)[k] for m in network.modules() for k in vars(m) if k.endswith("_hooks"))


def test_rectifiers_inside_of_a_recurrent_layer_are_refused():
    class Recurs(nn.Module):
        def __init__(self):
            super().__init__()
            self.recur, self.last = nn.RNN(4, 4, nonlinearity="relu"), nn.Linear(4, 2)

        def forward(self, x):
            return torch.relu(self.last(self.recur(x)[0][:, -1]))

    with pytest.raises(TypeError, match=r"'recur' \(RNN\): 'rnn_relu' has rectifiers inside"):
        GuidedBackprop(Recurs()).attribute(torch.rand(2, 3, 4), target=1)


def test_in_inference_mode():
    network, x = modules(), points()
    want = GuidedBackprop(network).attribute(x, target=1)
    with torch.inference_mode():
        assert torch.equal(GuidedBackprop(network).attribute(x, target=1), want)
        assert torch.equal(GuidedBackprop(network).attribute(x * 1, target=1), want)


def test_a_dropout_in_place_that_does_nothing():
    def network(*dropouts):
        torch.manual_seed(0)
        first, second = nn.Linear(6, 8), nn.Linear(8, 3)
        return nn.Sequential(nn.Flatten(), *dropouts, first, nn.ReLU(), *dropouts, second).eval()

    x = torch.rand(2, 2, 3)
    want = GuidedBackprop(network()).attribute(x, target=1)
    got = GuidedBackprop(network(nn.Dropout(0.5, inplace=True))).attribute(x, target=1)
    assert torch.equal(got, want)

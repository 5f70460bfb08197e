"""The rules of relevance propagation against loops over their formulas; what they conserve."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck

from captum_robust.attr import (
    BetaSmoothing,
    EpsilonRule,
    GammaRule,
    PropagationRule,
    RelevancePropagation,
    ZPlusRule,
    differentiable,
)
from tests.helpers import rng


def gamma_oracle(z, bias, relevance, gamma):
    """One neuron with contributions z, written out."""
    sign = 1.0 if sum(z) >= 0 else -1.0
    emphasised = [c + gamma * (c if c * sign > 0 else 0.0) for c in z]
    return [c / sum(emphasised) * relevance for c in emphasised]


def epsilon_oracle(z, bias, relevance, epsilon, takes):
    total = sum(z) + bias
    epsilon = epsilon if total >= 0 else -epsilon
    size = sum(abs(c) for c in z)
    given = [0.0 if takes else (bias + epsilon) * abs(c) / size for c in z]
    return [(c + g) / (total + epsilon) * relevance for c, g in zip(z, given, strict=True)]


def z_plus_oracle(z, bias, relevance):
    total = sum(c for c in z if c > 0)
    return [c / total * relevance if c > 0 else 0.0 for c in z]


RULES = {
    "z+": (ZPlusRule(), z_plus_oracle),
    "gamma": (GammaRule(0.25), lambda z, b, r: gamma_oracle(z, b, r, 0.25)),
    "large gamma": (GammaRule(10.0), lambda z, b, r: gamma_oracle(z, b, r, 10.0)),
    "epsilon": (
        EpsilonRule(0.1, bias_takes_relevance=False),
        lambda z, b, r: epsilon_oracle(z, b, r, 0.1, False),
    ),
    "epsilon, bias": (
        EpsilonRule(0.1, bias_takes_relevance=True),
        lambda z, b, r: epsilon_oracle(z, b, r, 0.1, True),
    ),
}
CONSERVING = ["gamma", "large gamma", "epsilon"]


def layer_oracle(x, weight, bias, relevance, divide):
    """A layer, neuron by neuron."""
    result = [0.0] * len(x)
    for j, row in enumerate(weight.tolist()):
        z = [a * w for a, w in zip(x, row, strict=True)]
        for i, share in enumerate(divide(z, bias[j], relevance[j])):
            result[i] += share
    return result


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("signed", [False, True], ids=["positive inputs", "signed inputs"])
def test_a_network_neuron_by_neuron(name, signed):
    rule, divide = RULES[name]
    first, second = nn.Linear(4, 5).double(), nn.Linear(5, 3).double()
    model = nn.Sequential(first, nn.Tanh() if signed else nn.ReLU(), second)
    x = torch.rand(3, 4, generator=rng(), dtype=torch.float64) - (0.5 if signed else 0.0)
    got = RelevancePropagation(model, None, None, rule=rule)._detached(x, 1, None)
    for row, found in zip(x, got, strict=True):
        hidden = model[:2](row).tolist()
        above = layer_oracle(hidden, second.weight, second.bias.tolist(), [0.0, 1.0, 0.0], divide)
        want = layer_oracle(row.tolist(), first.weight, first.bias.tolist(), above, divide)
        torch.testing.assert_close(found, torch.tensor(want, dtype=torch.float64))
    assert got.abs().sum() > 0.1


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kind", ["matrix", "einsum", "1 x 1 convolution", "grouped"])
def test_layers_in_other_spellings(name, kind):
    rule, weight = RULES[name][0], torch.randn(6, 4, generator=rng(1), dtype=torch.float64)
    x = torch.rand(2, 4, generator=rng(2), dtype=torch.float64)
    if kind == "grouped":
        weight = torch.block_diag(weight[:3, :2], weight[3:, 2:])
    spellings = {
        "matrix": lambda x: x @ weight.T,
        "einsum": lambda x: torch.einsum("oi,ni->no", weight, x),
        "1 x 1 convolution": lambda x: F.conv1d(x[..., None], weight[..., None])[..., 0],
        "grouped": lambda x: F.conv1d(
            x[..., None],
            torch.cat([weight[:3, :2], weight[3:, 2:]])[..., None],
            groups=2,
        )[..., 0],
    }
    want, got = (
        RelevancePropagation(f, None, None, rule=rule)._detached(x, 2, None)
        for f in (lambda x: F.linear(x, weight), spellings[kind])
    )
    torch.testing.assert_close(got, want)


class Depthwise(nn.Module):
    """Inverted bottlenecks with batch norm, as in MobileNet; strong biases hold neurons up."""

    def __init__(self, inplace=True):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU6(inplace))
        self.depth = nn.Sequential(
            nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), nn.BatchNorm2d(6),
            nn.ReLU6(inplace), nn.Conv2d(6, 6, 1, bias=False), nn.BatchNorm2d(6),
        )  # fmt: skip
        self.last = nn.Conv2d(6, 6, 2, groups=6)
        self.head = nn.Linear(6, 3)
        generator = rng(1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(0, 0.5, generator=generator)
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean.normal_(0, 0.3, generator=generator)
                    module.running_var.uniform_(0.5, 2.0, generator=generator)
                    module.bias.add_(1.0)
        self.double().eval()

    def forward(self, x):
        x = self.stem(x)
        x = x + self.depth(x)
        return self.head(F.relu(self.last(x)).mean((2, 3)))


def images(n=3, size=6):
    return torch.rand(n, 2, size, size, generator=rng(2), dtype=torch.float64)


def test_depthwise_networks_lose_relevance_under_z_plus_and_say_so():
    """Neurons with negative weights alone, which their bias holds up."""
    model, x = Depthwise(), images()
    with torch.no_grad():
        model.last.weight.abs_().neg_()
        model.last.weight[0].abs_()
        model.last.bias.fill_(20.0)
        model.head.weight.abs_()
    with pytest.warns(UserWarning, match=r"only .* of the relevance arrives.*GammaRule\(\)"):
        relevance, delta = RelevancePropagation(model).attribute(
            x, target=1, return_convergence_delta=True
        )
    torch.testing.assert_close(delta, 1 - relevance.sum((1, 2, 3)))
    share = RelevancePropagation(model).conserved_share(relevance)
    torch.testing.assert_close(share, 1 - delta)
    assert (share < 0.5).all()
    mended = RelevancePropagation(model, rule=GammaRule())
    delta = mended.attribute(x, target=1, return_convergence_delta=True)[1]
    torch.testing.assert_close(delta, torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("name", CONSERVING)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (None, None)], ids=["bounded", "unbounded"])
@pytest.mark.parametrize("beta", [None, 3.0])
def test_the_other_rules_conserve_it(name, bounds, beta):
    explanation = RelevancePropagation(Depthwise(), *bounds, rule=RULES[name][0])
    if beta is not None:
        explanation = BetaSmoothing(explanation, beta)
    relevance = explanation.attribute(images(), target=1)
    torch.testing.assert_close(relevance.sum((1, 2, 3)), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("padding", [0, 1])
def test_neurons_that_nothing_contributes_to_share_evenly_under_gamma(padding):
    """All of the first rectifiers are off; the biases of the second layer alone are explained."""
    model = nn.Sequential(
        nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=padding, groups=2), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.LazyLinear(3),
    ).double()  # fmt: skip
    model(images())
    with torch.no_grad():
        model[0].bias.fill_(-20.0)
        model[2].bias.fill_(1.0)
    explain = RelevancePropagation(model, rule=GammaRule())
    relevance = explain.attribute(images(), target=1)
    torch.testing.assert_close(relevance.sum((1, 2, 3)), torch.ones(3, dtype=torch.float64))


def test_a_batch_norm_is_one_layer_with_the_convolution():
    model = Depthwise()
    fuse = torch.nn.utils.fusion.fuse_conv_bn_eval
    merged = Depthwise()
    merged.stem = nn.Sequential(fuse(model.stem[0], model.stem[1]), nn.ReLU6())
    parts = model.depth
    merged.depth = nn.Sequential(fuse(parts[0], parts[1]), nn.ReLU6(), fuse(parts[3], parts[4]))
    for name in CONSERVING:
        got, want = (
            RelevancePropagation(m, None, None, rule=RULES[name][0]).attribute(images(), target=1)
            for m in (model, merged)
        )
        torch.testing.assert_close(got, want)


def test_epsilon_with_biases_is_input_times_gradient_over_the_output():
    x, rule = images().requires_grad_(), EpsilonRule(1e-12, bias_takes_relevance=True)
    plain = Depthwise(inplace=False)
    plain.stem[2], plain.depth[2] = nn.ReLU(), nn.ReLU()
    got = RelevancePropagation(plain, None, None, rule=rule)._detached(x.detach(), 1, None)
    output = plain(x)[:, 1]
    (gradient,) = torch.autograd.grad(output.sum(), x)
    want = x * gradient / output[:, None, None, None]
    torch.testing.assert_close(got, want.detach(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", CONSERVING)
@pytest.mark.parametrize("fast", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_gradient_is_that_of_finite_differences(name, fast):
    explanation = BetaSmoothing(RelevancePropagation(Depthwise(), rule=RULES[name][0]), 3.0)
    explain, x = differentiable(explanation), images(1, 4).requires_grad_()
    assert gradcheck(lambda x: explain(x, target=1), x, fast_mode=fast)
    (slope,) = torch.autograd.grad(explain(x, target=1).square().sum(), x)
    assert slope.abs().max() > 1e-6


def test_linear_layers_can_have_a_rule_of_their_own():
    convolution, dense = nn.Conv1d(2, 3, 2).double(), nn.Linear(6, 2).double()
    model = nn.Sequential(convolution, nn.Softplus(), nn.Flatten(), dense)
    x = torch.rand(2, 2, 3, generator=rng(), dtype=torch.float64)
    hidden = model[:3](x).detach()
    above = RelevancePropagation(dense, None, None, rule=EpsilonRule(0.1))
    start = above._detached(hidden, 1, None).view(2, 3, 2)
    mixed = RelevancePropagation(
        model, None, None, rule=GammaRule(0.5), dense_rule=EpsilonRule(0.1)
    ).attribute(x, target=1)
    parts = [
        RelevancePropagation(convolution, None, None, rule=GammaRule(0.5))._detached(x, t, None)
        * start[(slice(None), *t)][:, None, None]
        for t in [(j, k) for j in range(3) for k in range(2)]
    ]
    torch.testing.assert_close(mixed, sum(parts))


class Halves(PropagationRule):
    """A user's own: half to each sign."""

    def ratios(self, relevance, plus, minus, bias):
        return relevance / (2 * plus), relevance / (2 * minus)


def test_a_rule_of_your_own():
    weight = torch.tensor([[1.0, 3.0, -2.0]])
    explain = RelevancePropagation(lambda x: F.linear(x, weight), None, None, rule=Halves())
    torch.testing.assert_close(
        explain.attribute(torch.ones(1, 3)), torch.tensor([[0.125, 0.375, 0.5]])
    )
    assert repr(GammaRule(0.5)) == "GammaRule(gamma=0.5)"


@pytest.mark.parametrize("make", [GammaRule, EpsilonRule])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_settings_are_checked(make, value):
    with pytest.raises(ValueError, match="must be positive and finite"):
        make(value)


def test_a_rule_is_an_object():
    with pytest.raises(TypeError, match=r"rule must be a PropagationRule, got 'gamma'.*GammaRule"):
        RelevancePropagation(nn.Linear(2, 1), rule="gamma")
    with pytest.raises(TypeError, match="dense_rule must be a PropagationRule"):
        RelevancePropagation(nn.Linear(2, 1), dense_rule=EpsilonRule)

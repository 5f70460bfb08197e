"""The bounds of the inputs go along to the first layer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from captum_robust.attr import (
    RelevancePropagation,
)
from tests.attr._backward.networks import fill, images
from tests.helpers import rng


def one_neuron(x, weight, low, high):
    """Eq. 3 for one neuron, written out; relevance 1."""
    z = x * weight - low * weight.clamp(min=0) - high * weight.clamp(max=0)
    return z / z.sum(1, keepdim=True)


BEFORE = {
    "normalise": lambda x: (x - 0.3) / 0.25,
    "normalise with a negative slope": lambda x: 0.3 - x * 2,
    "joined": lambda x: torch.cat([(x[:, i : i + 1] - 0.1 * i) / 0.25 for i in range(4)], 1),
    "stacked": lambda x: torch.stack([x[:, 0], x[:, 1], x[:, 2], x[:, 3]], 1),
    "averaged": lambda x: F.avg_pool1d(x[:, None], 1)[:, 0],
    "enlarged": lambda x: F.interpolate(x[:, None], scale_factor=1.0)[:, 0],
    "in parts": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1).roll(2, 1),
    "one of several": lambda x: torch.cat([x.unbind(1)[i][:, None] for i in range(4)], 1),
    "the largest": lambda x: x[:, :, None].max(2).values,
}


@pytest.mark.parametrize("name", BEFORE)
def test_bounds_go_with_the_input_to_the_first_layer(name):
    """Whatever a model does to its inputs one by one is one with the inputs."""
    weight = torch.tensor([[1.0, -2.0, 0.5, -1.5]], dtype=torch.float64)
    before = BEFORE[name]
    x = torch.rand(3, 4, generator=rng(0), dtype=torch.float64)
    ends = [before(torch.full_like(x, end)) for end in (0.0, 1.0)]
    low, high = torch.minimum(*ends), torch.maximum(*ends)
    explain = RelevancePropagation(lambda x: F.linear(before(x), weight))
    expected = one_neuron(before(x), weight, low, high)
    torch.testing.assert_close(explain.attribute(x, target=0), expected)


@pytest.mark.parametrize("before", [lambda x: x * x, lambda x: 1 / x, lambda x: torch.ones(1) / x])
def test_bounds_end_where_the_input_is_bent(before):
    weight = torch.tensor([[1.0, 2.0]])
    x = torch.tensor([[0.1, 0.5]])
    explain = RelevancePropagation(lambda x: F.linear(before(x), weight), -1.0, 1.0)
    z = before(x) * weight
    torch.testing.assert_close(explain.attribute(x, target=0), z / z.sum())


def test_a_normalisation_inside_the_model_moves_the_bounds():
    mean, std = torch.tensor([0.4, 0.6]).double(), torch.tensor([0.2, -0.5]).double()
    bare, x = fill(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 1, 4))), images(3)

    def model(x):
        return bare((x - mean[:, None, None]) / std[:, None, None])

    low, high = ((bound - mean) / std for bound in (0, 1))
    low, high = torch.minimum(low, high)[:, None, None], torch.maximum(low, high)[:, None, None]
    normalised = (x - mean[:, None, None]) / std[:, None, None]
    want = RelevancePropagation(bare, low, high).attribute(normalised)
    torch.testing.assert_close(RelevancePropagation(model).attribute(x), want)
    assert not torch.allclose(RelevancePropagation(model, None, None).attribute(x), want)


def test_nothing_cancels_at_neurons_that_the_bounds_hold_down():
    """At the least value in its box, numerator and denominator of Eq. 3 are both 0."""
    mean, deviation = 0.1307, 0.3081
    for seed in range(30):
        weight = torch.randn(4, 9, generator=rng(seed))
        x = (weight[:1] < 0).float()
        model = nn.Sequential(nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 1))
        with torch.no_grad():
            model[0].weight.copy_(weight)
            model[0].bias.fill_(20.0)
            model[2].weight.fill_(1.0)
        explain = RelevancePropagation(lambda x, m=model: m((x - mean) / deviation))
        hidden = model[0]((x - mean) / deviation).relu().detach()
        z = x * weight.clamp(min=0) + (x - 1) * weight.clamp(max=0)
        total = z.sum(1, keepdim=True)
        shares = torch.where(total > 0, z / total, 0.0)
        expected = (shares * (hidden / hidden.sum()).T).sum(0, keepdim=True)
        torch.testing.assert_close(explain.attribute(x), expected, atol=1e-5, rtol=1e-4)

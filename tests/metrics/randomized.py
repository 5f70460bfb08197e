"""What the tests of random layers share: a network with all kinds of parameters, and its watch."""

from __future__ import annotations

import torch
from captum.attr import Saliency
from torch import nn

from tests.metrics.helpers import rng


class Network(nn.Module):
    """Layers with and without parameters, attention, a normalised weight and loose parameters."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8, generator=rng(9)))
        self.embed = nn.Linear(4, 8)
        self.act = nn.Sequential(nn.LeakyReLU(), nn.Dropout(0.5))  # no draw makes it constant
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.BatchNorm1d(8)
        self.old_norm = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.head = nn.Linear(8, 3)
        with torch.no_grad():  # "learned": nothing is as a fresh layer has it
            for parameter in self.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=rng(3)))
        self.eval()

    def forward(self, x, scale=1.0):
        z = self.act(self.embed(x))
        z = torch.cat([self.token.expand(len(x), -1, -1), z], dim=1)
        z = z + self.attention(z, z, z, need_weights=False)[0]
        z = self.norm(z.mean(1))
        return self.head(nn.functional.leaky_relu(self.old_norm(z))) * scale  # never constant


CASCADE = [
    "head",
    "old_norm.parametrizations.weight",
    "old_norm",
    "norm",
    "attention.out_proj",
    "attention",
    "embed",
    "",
]


def batch(n=5):
    return torch.randn(n, 3, 4, generator=rng(2)), torch.arange(n) % 3


def parameters_of(network):
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def watched(network, steps):
    """A function that explains by the gradient and notes the parameters each time."""
    method = Saliency(network)

    def explain(x, **kwargs):
        steps.append(parameters_of(network))
        return method.attribute(x.detach().requires_grad_(), abs=False, **kwargs)

    return explain


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}

"""Small networks in double precision, for derivatives."""

from __future__ import annotations

import torch
from torch import nn

from captum_robust.attr import (
    differentiable,
)
from tests.helpers import rng


def fill(model, seed=1):
    generator = rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.7, generator=generator)
    return model.double()


def smooth_network():
    return fill(nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Softplus()))


def relu_network():
    return fill(nn.Sequential(nn.Linear(3, 5), nn.ReLU(inplace=True), nn.Linear(5, 4)))


def points(n=2, features=3, seed=2):
    return torch.randn(n, features, generator=rng(seed), dtype=torch.float64)


def leaf(*args, **kwargs):
    return points(*args, **kwargs).requires_grad_()


def seeded(attribution, **arguments):
    """An explanation as a function that draws the same noise in every call."""
    explain = differentiable(attribution)
    return lambda x: explain(x, generator=rng(5), **arguments)


SMALL = {"radius": 0.3, "n_samples": 3}

SMOOTH = smooth_network()
RELU = relu_network()
IG = {"n_steps": 5, "target": 1}


class Images(nn.Module):
    """A network of two convolutions, on rows of four numbers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 2), nn.Conv2d(3, 2, 2, padding=1)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(18, 4)

    def forward(self, x):
        x = self.relu(self.first(x.view(-1, 1, 3, 3)))
        return self.head(self.relu(self.second(x)).flatten(1))

"""Networks in double precision that tests of explanations by rules share."""

from __future__ import annotations

import torch
from torch import nn

from tests.helpers import rng


def fill(model, seed=1):
    generator = rng(seed)
    with torch.no_grad():
        for module in model.modules():
            for parameter in module.parameters(recurse=False):
                parameter.normal_(0, 0.5, generator=generator)
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2.0, generator=generator)
    return model.double().eval()


class Hidden(torch.autograd.Function):
    """A rectifier that nobody can see from outside."""

    @staticmethod
    def forward(ctx, x):
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def images(n=2, channels=2, size=6, seed=2):
    return torch.rand(n, channels, size, size, generator=rng(seed), dtype=torch.float64)

"""A tiny float64 network that tests attack, images for it, and maps."""

from __future__ import annotations

import math

import torch
from torch import nn

from tests.helpers import rng

SIZE, CLASSES = 8, 4
MAP = torch.rand(SIZE, SIZE, generator=rng(), dtype=torch.float64)
REGION = MAP > 0.7


def draw_weights(model, seed):
    """Fresh weights that do not touch the global random state."""
    generator = rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = max(1, parameter[0].numel())
            draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(draw / math.sqrt(fan_in))
    return model


def make_network(channels=1, seed=0, activation=nn.ReLU):
    """Two convolutions and a dense layer, float64, 8 x 8 pixels, 4 classes."""
    model = nn.Sequential(
        nn.Conv2d(channels, 5, 3, padding=1),
        activation(),
        nn.Conv2d(5, 6, 3, stride=2, padding=1),
        activation(),
        nn.Flatten(),
        nn.Linear(6 * (SIZE // 2) ** 2, CLASSES),
    )
    return draw_weights(model.double(), seed).eval()


def make_images(n=3, channels=1, seed=1):
    """Uniform images with a black and a white corner, where the ball is cut by [0, 1]."""
    images = torch.rand(n, channels, SIZE, SIZE, generator=rng(seed), dtype=torch.float64)
    images[..., :2, :2] = 0
    images[..., -2:, -2:] = 1
    return images

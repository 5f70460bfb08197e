"""What the tests of the attacks share: a tiny float64 network, images for it, and scores."""

from __future__ import annotations

import math

import pytest
import torch
from captum.attr import Saliency
from torch import nn

from captum_robust.attacks import Explained
from captum_robust.metrics import relevance_map

SIZE, CLASSES = 8, 4


def _rng(seed):
    return torch.Generator().manual_seed(seed)


def _draw_weights(model, seed):
    """Fresh weights that do not touch the global random state."""
    generator = _rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = max(1, parameter[0].numel())
            draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(draw / math.sqrt(fan_in))
    return model


def _make_network(channels=1, seed=0, activation=nn.ReLU):
    model = nn.Sequential(
        nn.Conv2d(channels, 5, 3, padding=1),
        activation(),
        nn.Conv2d(5, 6, 3, stride=2, padding=1),
        activation(),
        nn.Flatten(),
        nn.Linear(6 * (SIZE // 2) ** 2, CLASSES),
    )
    return _draw_weights(model.double(), seed).eval()


def _make_images(n=3, channels=1, seed=1):
    """Uniform images with a black and a white corner, where the ball is cut by [0, 1]."""
    images = torch.rand(n, channels, SIZE, SIZE, generator=_rng(seed), dtype=torch.float64)
    images[..., :2, :2] = 0
    images[..., -2:, -2:] = 1
    return images


@pytest.fixture(scope="session")
def rng():
    return _rng


@pytest.fixture(scope="session")
def draw_weights():
    return _draw_weights


@pytest.fixture(scope="session")
def make_network():
    """Factory: two convolutions and a dense layer, float64, 8 x 8 pixels, 4 classes."""
    return _make_network


@pytest.fixture(scope="session")
def make_images():
    return _make_images


@pytest.fixture(scope="session")
def region():
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[1:3, 5:8] = True
    return mask


@pytest.fixture(scope="session")
def explained():
    """The true model's view of images, by way of Captum and without the attacks' own code."""

    def view(model, images, labels, explanation=None, **kwargs):
        explanation = Saliency(model) if explanation is None else explanation
        ready = images.detach().clone().requires_grad_()
        attributions = explanation.attribute(ready, target=labels, **kwargs).detach()
        return Explained(relevance_map(attributions), lambda: model(images).detach())

    return view

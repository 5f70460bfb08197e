"""Certified top-k of the gradient against points of the ball, linear networks, and the zoo."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from captum_robust import zoo
from captum_robust.certificates import certify_gradient_top_k


def test_no_point_of_the_ball_is_below_the_certificate():
    model, (images, _) = zoo.fashion_mnist_cnn().double(), zoo.fashion_mnist_sample(3)
    generator = torch.Generator().manual_seed(0)
    images = 0.9 * images.double() + 0.1 * torch.rand(images.shape, generator=generator).double()
    radii = [1e-6, 1e-5, 1e-4]
    found = certify_gradient_top_k(model, images, radii, 50, input_range=(0, 1))
    assert (found.overlap.diff(dim=1) <= 0).all()
    assert (found.undecided.diff(dim=1) >= 0).all()
    assert found.overlap[:, 0].min() > 0.9
    target = model(images).argmax(1, keepdim=True)
    for j, radius in enumerate(radii):
        for _ in range(8):
            sign = 2 * torch.randint(0, 2, images.shape, generator=generator) - 1
            x = (images + radius * sign).clamp(0, 1).requires_grad_()
            (gradient,) = torch.autograd.grad(model(x).gather(1, target).sum(), x)
            top = gradient.abs().flatten(1).topk(50).indices
            stays = found.features.flatten(1).gather(1, top).double().mean(1)
            assert (stays >= found.overlap[:, j]).all()


def test_equal_numbers_in_a_window_are_certified_at_no_radius():
    """The gradient of a maximum jumps there: of two pixels either may have it."""
    model = nn.Sequential(nn.MaxPool2d(2), nn.Flatten()).double()
    flat = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]]).double()
    found = certify_gradient_top_k(model, flat, [0.0, 1e-9], 1, target=torch.tensor([0]))
    assert found.overlap.tolist() == [[0.0, 0.0]]
    steep = torch.tensor([[[[1.0, 0.5], [0.0, 0.0]]]]).double()
    found = certify_gradient_top_k(model, steep, [0.2, 0.25], 1, target=torch.tensor([0]))
    assert found.overlap.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("ball", ["linf", "l2"])
def test_a_linear_network_keeps_all_of_its_gradient(ball):
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3)).double()
    x = torch.randn(2, 6, dtype=torch.float64)
    found = certify_gradient_top_k(model, x, [0.0, 1.0, 100.0], 2, ball=ball)
    assert (found.overlap == 1).all()
    assert (found.undecided == 0).all()
    assert found.features.sum(1).tolist() == [2, 2]


def test_channels_are_summed():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(8, 2)).double()
    found = certify_gradient_top_k(model, torch.rand(2, 3, 2, 2).double(), [0.1], 2)
    assert found.features.shape == (2, 2, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 7}, "k must be at most the number of features, 6"),
        ({"radii": [-1.0]}, "radii must be numbers from 0 on"),
        ({"ball": "l1"}, 'ball must be "linf" or "l2"'),
    ],
    ids=["k", "radius", "ball"],
)
def test_bad_arguments(arguments, message):
    model = nn.Sequential(nn.Linear(6, 3))
    with pytest.raises(ValueError, match=message):
        certify_gradient_top_k(model, torch.zeros(1, 6), **{"radii": [0.1], "k": 2, **arguments})

"""Enclosures of the gradient hold what random points give, and are exact where they should be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from captum_robust.certificates.intervals import gradient_bounds
from tests.helpers import rng


def drawn(model, scale=0.5):
    generator = rng(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, scale, generator=generator)
    return model.double().eval()


def one_rectifier():
    rectifier = nn.ReLU()
    layers = nn.Linear(6, 8), rectifier, nn.Linear(8, 8), rectifier, nn.Linear(8, 5)
    return nn.Sequential(*layers)


NETWORKS = {
    "a layer used twice": one_rectifier,
    "softplus with a low threshold": lambda: nn.Sequential(
        nn.Linear(6, 8), nn.Softplus(2.0, threshold=0.5), nn.Linear(8, 8), nn.ReLU(),
        nn.Linear(8, 5),
    ),
    "dense": lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.Softplus(3.0)),
    "pooled": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1, groups=1), nn.Softplus()),
        nn.Dropout(), nn.Flatten(), nn.Linear(4, 5),
    ),
    "overlapping windows": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.MaxPool2d(2, stride=1, padding=1), nn.ReLU(),
        nn.AvgPool2d(2, stride=1), nn.Identity(), nn.Flatten(), nn.Linear(12, 5),
    ),
    "reshaped first": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 3, 2, bias=False), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5),
    ),
    "rectified first": lambda: nn.Sequential(nn.Softplus(2.0), nn.Linear(6, 5)),
}  # fmt: skip
SHAPES = {"pooled": (2, 4, 4), "overlapping windows": (2, 4, 4), "reshaped first": (16,)}


def case(name, n=2):
    x = torch.rand(n, *SHAPES.get(name, (6,)), generator=rng(2), dtype=torch.float64)
    return drawn(NETWORKS[name]()), x


def gradient(model, x, target):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x).gather(1, target[:, None]).sum(), x)[0]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("ball", ["linf", "l2"])
@pytest.mark.parametrize("radius", [0.003, 0.05, 0.6])
def test_no_gradient_in_the_ball_lies_outside(name, ball, radius):
    model, x = case(name)
    target = torch.tensor([1, 4])
    bounds = gradient_bounds(model, x, radius, target, ball=ball)
    noise = torch.randn(120, *x.shape, generator=rng(3), dtype=torch.float64)
    if ball == "l2":
        noise = radius * noise / noise.flatten(2).norm(dim=2).view(120, -1, *[1] * (x.dim() - 1))
    else:
        noise = radius * noise.sign()
    noise[60:] *= torch.rand(60, *[1] * x.dim(), generator=rng(4), dtype=torch.float64)
    for step in noise:
        found = gradient(model, x + step, target)
        assert (found >= bounds.lower - 1e-12).all()
        assert (found <= bounds.upper + 1e-12).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_at_a_point_the_bounds_are_the_gradient(name):
    model, x = case(name)
    target = torch.tensor([0, 2])
    bounds = gradient_bounds(model, x, 0.0, target)
    want = gradient(model, x, target)
    torch.testing.assert_close(bounds.lower, want)
    torch.testing.assert_close(bounds.upper, want)


def test_one_neuron_is_exact():
    """f = relu(w'x + b): its gradient jumps at the distance of x from the kink."""
    model = nn.Sequential(nn.Linear(2, 1), nn.ReLU()).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 4.0]]))
        model[0].bias.fill_(0.0)
    x, target = torch.tensor([[1.0, 0.0]]), torch.tensor([0])  # 3 / |w|_2 = 0.6, 3 / |w|_1 = 3/7
    for ball, distance in (("l2", 0.6), ("linf", 3 / 7)):
        inside = gradient_bounds(model, x, distance - 1e-6, target, ball=ball)
        assert inside.lower.tolist() == inside.upper.tolist() == [[3.0, 4.0]]
        beyond = gradient_bounds(model, x, distance + 1e-6, target, ball=ball)
        assert beyond.lower.tolist() == [[0.0, 0.0]]
        assert beyond.upper.tolist() == [[3.0, 4.0]]
    ranged = gradient_bounds(model, x, 0.9, target, input_range=(0, 1))
    assert ranged.lower.tolist() == [[3.0, 4.0]]  # x stays at 0.1 or more: no kink in reach


def test_larger_balls_have_wider_bounds():
    model, x = case("pooled")
    widths = []
    for radius in (0.0, 0.01, 0.1, 1.0):
        bounds = gradient_bounds(model, x, radius, torch.tensor([1, 1]))
        widths.append((bounds.upper - bounds.lower).sum().item())
    assert widths == sorted(widths)
    assert widths[0] < 1e-9 < widths[1]


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Residual(nn.Linear(4, 4)), "must be an nn.Sequential"),
        (nn.Sequential(Residual(nn.Linear(4, 4))), r"layer 0 \(Residual\) cannot be enclosed"),
        (nn.Linear(2, 2), "must be an nn.Sequential"),
        (nn.Sequential(nn.Linear(2, 2), nn.Tanh()), r"layer 1 \(Tanh\) cannot be enclosed"),
        (nn.Sequential(nn.MaxPool2d(2, ceil_mode=True)), "ceil_mode"),
        (nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")), "Conv2d"),
        (nn.Sequential(nn.Dropout()), "Dropout"),
    ],
    ids=[
        "a subclass",
        "a subclass inside",
        "no sequential",
        "tanh",
        "ceil",
        "circular",
        "dropout in training",
    ],
)
def test_what_cannot_be_enclosed(model, message):
    with pytest.raises(TypeError, match=message):
        gradient_bounds(model, torch.zeros(1, 1, 4, 4), 0.1, torch.tensor([0]))

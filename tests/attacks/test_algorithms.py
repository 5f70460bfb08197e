"""The loop of the attacks against literal single-image versions, written from the papers."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, Saliency
from torch import nn

from captum_robust.attacks import (
    L2,
    Dombrowski,
    GeometricGrowth,
    GhorbaniMassCenter,
    GhorbaniTarget,
    GhorbaniTopK,
    LInf,
    RandomSign,
)
from tests.attacks.networks import draw_weights
from tests.helpers import rng

pytestmark = pytest.mark.filterwarnings("ignore:The attack failed for")

EPS, ALPHA, STEPS, K, BETA = 0.1, 0.03, 6, 9, 7.0


def smooth_copy(model, beta):
    """The network with its rectifiers replaced, module by module."""
    smooth = copy.deepcopy(model)
    for i, module in enumerate(smooth):
        if isinstance(module, nn.ReLU):
            smooth[i] = nn.Softplus(beta=beta, threshold=1e9)
    return smooth


def gradient_of(model, x, label):
    (gradient,) = torch.autograd.grad(model(x[None])[0, label], x, create_graph=True)
    return gradient


def gradient(model, x, label):
    return gradient_of(model, x, label).abs()


def input_x_gradient(model, x, label):
    return x * gradient_of(model, x, label)


def integrated_gradients(model, x, label, n_steps=4):
    """The midpoint rule on the straight line from black."""
    total = torch.zeros_like(x)
    for step in range(n_steps):
        total = total + gradient_of(model, (step + 0.5) / n_steps * x, label) / n_steps
    return x * total


EXPLANATIONS = {
    "gradient": (gradient, Saliency, {}),
    "input times gradient": (input_x_gradient, InputXGradient, {}),
    "integrated gradients": (
        integrated_gradients,
        IntegratedGradients,
        {"n_steps": 4, "method": "riemann_middle"},
    ),
}


def relevance(explain, model, x, label):
    magnitude = explain(model, x, label).abs().sum(0)
    return magnitude / magnitude.sum()


def true_relevance(explain, model, x, label):
    return relevance(explain, model, x.detach().clone().requires_grad_(), label).detach()


def step_linf(x, x0, gradient):
    moved = x.clone()
    for p in range(moved.numel()):
        slope = gradient.flatten()[p].item()
        sign = (slope > 0) - (slope < 0)
        value = x.flatten()[p].item() - ALPHA * sign
        start = x0.flatten()[p].item()
        value = min(max(value, start - EPS), start + EPS)
        moved.view(-1)[p] = min(max(value, 0.0), 1.0)
    return moved


def step_l2(x, x0, gradient):
    moved = x - 8 * ALPHA * gradient / math.sqrt((gradient**2).sum())
    change = moved.clamp(0, 1) - x0
    length = math.sqrt((change**2).sum())
    return x0 + change * min(1.0, 8 * EPS / length)


def literal_top_k(model, explain, step, x0, label):
    """Ghorbani et al. 2019, Alg. 1, for one image; the best iterate on the true model."""
    smooth = smooth_copy(model, BETA)
    clean = true_relevance(explain, model, x0, label)
    top = clean.flatten().argsort(descending=True)[:K]
    predicted = model(x0[None]).argmax().item()
    best, best_score = x0, clean.flatten()[top].sum().item()
    x = x0
    for _ in range(STEPS):
        x = x.detach().clone().requires_grad_()
        mass = relevance(explain, smooth, x, label).flatten()[top].sum()
        (slope,) = torch.autograd.grad(mass, x)
        x = step(x.detach(), x0, slope)
        score = true_relevance(explain, model, x, label).flatten()[top].sum().item()
        if score < best_score and model(x[None]).argmax().item() == predicted:
            best, best_score = x, score
    return best


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("ball", "step", "scale"), [(LInf(), step_linf, 1), (L2(), step_l2, 8)], ids=["linf", "l2"]
)
@pytest.mark.parametrize("name", EXPLANATIONS)
def test_top_k_is_the_literal_algorithm(
    name, ball, step, scale, channels, make_network, make_images
):
    explain, method, kwargs = EXPLANATIONS[name]
    model, images = make_network(channels), make_images(3, channels)
    labels = torch.tensor([0, 1, 2])
    attack = GhorbaniTopK(
        model, method(model), scale * EPS, scale * ALPHA, STEPS,
        k=K, beta=BETA, ball=ball, explanation_kwargs=kwargs,
    )  # fmt: skip
    manipulated = attack(images, labels)
    expected = torch.stack(
        [
            literal_top_k(model, explain, step, x, label)
            for x, label in zip(images, labels.tolist(), strict=True)
        ]
    )
    torch.testing.assert_close(manipulated, expected, rtol=0, atol=1e-8)
    assert (manipulated != images).flatten(1).any(1).all()


def literal_dombrowski(model, explain, x0, label, target, eps, gamma, growth):
    """Dombrowski et al. 2019, Eq. 4, by torch's Adam on the image itself."""
    n_pixels = target.numel()
    target = target / target.sum()
    before = model(x0[None]).softmax(1).detach()

    def loss(net, x):
        r = relevance(explain, net, x, label)
        change = net(x[None]).softmax(1) - before
        return n_pixels * ((r - target) ** 2).sum() + gamma * (change**2).sum()

    def judge(x):
        return loss(model, x.detach().clone().requires_grad_()).item()

    predicted = before.argmax().item()
    best, best_score = x0, judge(x0)
    x = x0.clone().requires_grad_()
    adam = torch.optim.Adam([x], lr=ALPHA)
    for i in range(STEPS):
        beta = growth[0] * (growth[1] / growth[0]) ** (i / (STEPS - 1))
        adam.zero_grad()
        loss(smooth_copy(model, beta), x).backward(inputs=[x])
        adam.step()
        with torch.no_grad():
            x.copy_(torch.minimum(torch.maximum(x, x0 - eps), x0 + eps).clamp(0, 1))
        score = judge(x)
        if score < best_score and model(x[None]).argmax().item() == predicted:
            best, best_score = x.detach().clone(), score
    return best


@pytest.mark.parametrize(("eps", "gamma"), [(1.0, 25.0), (1.0, 0.0), (0.05, 25.0)])
@pytest.mark.parametrize("name", EXPLANATIONS)
def test_dombrowski_is_the_literal_algorithm(name, eps, gamma, make_network, make_images):
    explain, method, kwargs = EXPLANATIONS[name]
    model, images = make_network(3), make_images(3, 3)
    labels = torch.tensor([0, 1, 2])
    targets = torch.rand(3, 8, 8, generator=rng(9), dtype=torch.float64) ** 4
    growth = GeometricGrowth(2.0, 20.0)
    attack = Dombrowski(
        model, method(model), eps, ALPHA, STEPS,
        beta=growth, gamma=gamma, explanation_kwargs=kwargs,
    )  # fmt: skip
    manipulated = attack(images, labels, targets)
    expected = torch.stack(
        [
            literal_dombrowski(model, explain, x, label, target, eps, gamma, (2.0, 20.0))
            for x, label, target in zip(images, labels.tolist(), targets, strict=True)
        ]
    )
    torch.testing.assert_close(manipulated, expected, rtol=0, atol=1e-8)
    assert (manipulated != images).flatten(1).any(1).all()


@pytest.mark.parametrize("name", EXPLANATIONS)
def test_tabular_inputs(name):
    """Examples (N, F) have maps (N, F): the algorithm is the same, without a sum of channels."""
    explain, method, kwargs = EXPLANATIONS[name]
    model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3)).double()
    draw_weights(model, seed=4)
    rows = torch.rand(4, 20, generator=rng(1), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0])
    attack = GhorbaniTopK(
        model, method(model), EPS, ALPHA, STEPS, k=K, beta=BETA, explanation_kwargs=kwargs
    )
    manipulated = attack(rows, labels)
    for i, label in enumerate(labels.tolist()):
        # A row is a picture of one channel: its sum over channels is the row itself.
        as_picture = nn.Sequential(nn.Flatten(), *model)
        expected = literal_top_k(as_picture, explain, step_linf, rows[i][None], label)
        torch.testing.assert_close(manipulated[i], expected[0], rtol=0, atol=1e-8)
    region = torch.zeros(20, dtype=torch.bool)
    region[:3] = True
    for other, further in (
        (GhorbaniMassCenter(model, steps=3), ()),
        (GhorbaniTarget(model, steps=3, region=region), ()),
        (GhorbaniTarget(model, steps=3, region=region.expand(4, 20)), ()),
        (RandomSign(model), ()),
        (Dombrowski(model, steps=3), (torch.ones(20),)),
        (Dombrowski(model, steps=3), (torch.ones(4, 20),)),
    ):
        assert other(rows, None, *further).shape == rows.shape

"""Rules of the search: surrogate, restarts, bounds on the output, which iterate is returned."""

from __future__ import annotations

import math

import pytest
import torch
from captum.attr import IntegratedGradients, Saliency
from torch import nn

import captum_robust.attacks.base as base
from captum_robust.attacks import Dombrowski, GeometricGrowth, GhorbaniTopK

K = 9


def test_sharpness_follows_the_schedule(make_network, make_images, monkeypatch):
    """One value per step, the same in every restart, handed to the surrogate as it is."""
    asked, used = [], []

    def schedule(progress):
        asked.append(progress)
        return 3.0 + progress

    def spy(beta, original=base.softplus_activations):
        used.append(beta)
        return original(beta)

    monkeypatch.setattr(base, "softplus_activations", spy)
    model, images = make_network(), make_images()
    GhorbaniTopK(model, steps=5, k=K, beta=schedule, restarts=2)(images)
    assert asked == [0.0, 0.25, 0.5, 0.75, 1.0] * 2
    assert used == [3.0 + progress for progress in asked]
    used.clear()
    GhorbaniTopK(model, steps=1, k=K, beta=GeometricGrowth(2.0, 8.0))(images)
    GhorbaniTopK(model, steps=3, k=K, beta=GeometricGrowth(2.0, 8.0))(images)
    GhorbaniTopK(model, steps=2, k=K, beta=6.0)(images)
    assert used == pytest.approx([2.0, 2.0, 4.0, 8.0, 6.0, 6.0])
    used.clear()
    Dombrowski(model, steps=3)(images, None, torch.ones(8, 8))
    assert used == pytest.approx([10.0, math.sqrt(1000.0), 100.0])


def test_restarts_begin_at_different_points_and_never_harm(
    make_network, make_images, explained, rng
):
    model, images = make_network(), make_images(8)
    labels = model(images).argmax(1)
    scores = []
    for restarts in (1, 2, 6):
        attack = GhorbaniTopK(model, None, 0.1, 0.05, 3, k=K, restarts=restarts, generator=rng(0))
        score = attack.objective(explained(model, images, labels))
        scores.append(score(explained(model, attack(images), labels)))
    assert (scores[1] <= scores[0] + 1e-12).all()
    assert (scores[2] <= scores[1] + 1e-12).all()
    assert (scores[2] < scores[0] - 1e-3).any()


@pytest.mark.parametrize("eps_output", [0.01, 0.02])
def test_eps_output_bounds_the_explained_logit(eps_output, make_network, make_images):
    model, images = make_network(), make_images(8)
    labels = torch.arange(8) % 4

    def change(bound):
        attack = GhorbaniTopK(model, None, 0.1, 0.02, 10, k=K, eps_output=bound)
        manipulated = attack(images, labels)
        logits = (model(x).gather(1, labels[:, None]) for x in (manipulated, images))
        first, second = logits
        return (first - second).abs(), (manipulated != images).any()

    free, _ = change(None)
    bounded, moved = change(eps_output)
    assert free.max() > eps_output
    assert bounded.max() <= eps_output
    assert moved


def test_the_label_is_kept_where_attacking_would_change_it(make_network, make_images):
    """With so large a ball many iterates change the class; none of those is returned."""
    model, images = make_network(), make_images(16)
    predicted = model(images).argmax(1)
    iterates = []
    with model.register_forward_hook(lambda module, x, y: iterates.append(y.argmax(1))):
        manipulated = GhorbaniTopK(model, eps=0.9, alpha=0.2, steps=8, k=K)(images)
    assert (torch.stack(iterates) != predicted).any()
    assert torch.equal(model(manipulated).argmax(1), predicted)


def test_a_model_whose_output_has_logits(make_network, make_images):
    class Output:
        def __init__(self, logits):
            self.logits = logits

    class Wrapped(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return Output(self.model(x))

    model, images = make_network(), make_images()
    wrapped = Wrapped(model)
    for method, kwargs in ((Saliency, {}), (IntegratedGradients, {"n_steps": 3})):
        plain, inside = (
            GhorbaniTopK(m, method(m), steps=3, k=K, explanation_kwargs=kwargs)(images)
            for m in (model, wrapped)
        )
        assert torch.equal(plain, inside)
    target = torch.ones(8, 8)
    plain, inside = (Dombrowski(m, steps=3)(images, None, target) for m in (model, wrapped))
    assert torch.equal(plain, inside)


def test_an_explanation_that_runs_the_model_on_other_inputs(make_network, make_images):
    """The label is judged on the image, not on what the explanation happened to look at."""

    class OfTheNegative(Saliency):
        def attribute_with_graph(self, inputs, target=None):
            scores = self.forward_func(1 - inputs).gather(1, target[:, None])
            return torch.autograd.grad(scores.sum(), inputs, create_graph=True)[0]

        def attribute(self, inputs, target=None):
            with torch.enable_grad():
                return self.attribute_with_graph(inputs, target).detach()

    model, images = make_network(), make_images(16)
    attack = GhorbaniTopK(model, OfTheNegative(model), eps=0.9, alpha=0.2, steps=8, k=K)
    manipulated = attack(images)
    assert (manipulated != images).any()
    assert torch.equal(model(manipulated).argmax(1), model(images).argmax(1))

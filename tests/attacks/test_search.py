"""Rules of the search: surrogate, restarts, bounds on the output, which iterate is returned."""

from __future__ import annotations

import math

import pytest
import torch
from captum.attr import IntegratedGradients, Saliency
from torch import nn

from captum_robust.attacks import (
    Dombrowski,
    GeometricGrowth,
    GhorbaniTopK,
    LinearDecay,
    _explained,
)
from tests.helpers import WithLogits, rng

pytestmark = pytest.mark.filterwarnings("ignore:The attack failed for")

K = 9


def test_sharpness_follows_the_schedule(make_network, make_images, monkeypatch):
    """One value per step, the same in every restart, handed to the surrogate as it is."""
    asked, used = [], []

    def schedule(progress):
        asked.append(progress)
        return 3.0 + progress

    def spy(beta, original=_explained.softplus_activations, **kwargs):
        used.append(beta)
        return original(beta, **kwargs)

    monkeypatch.setattr(_explained, "softplus_activations", spy)
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


def test_restarts_begin_at_different_points_and_never_harm(make_network, make_images, explained):
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
    model, images = make_network(), make_images()
    wrapped = WithLogits(model)
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


def test_a_surrogate_that_cannot_be_smoothed_is_no_sign_of_robustness(make_network, make_images):
    """A rectifier spelled out has no second derivative: the attack says it could not search."""

    class SpelledOut(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(64, 32).double()
            self.last = nn.Linear(32, 4).double()

        def forward(self, x):
            z = self.first(x.flatten(1))
            return self.last(torch.maximum(z, torch.zeros_like(z)))

    images = make_images()
    with pytest.warns(UserWarning, match=f"zero for {len(images)} of the images.*not show rob"):
        assert torch.equal(GhorbaniTopK(SpelledOut(), steps=2, k=K)(images), images)


def test_the_objective_is_not_smoothed(make_network, make_images):
    """Only the model is: a rectifier in an objective of one's own stays one."""
    seen = []

    class Hinge(GhorbaniTopK):
        def objective(self, clean):
            def loss(now):
                excess = now.relevance - clean.relevance
                seen.append((excess.relu().detach(), excess.detach().clamp(min=0)))
                return excess.relu().flatten(1).sum(1) - excess.square().flatten(1).sum(1)

            return loss

    Hinge(make_network(), steps=2, k=K)(make_images())
    assert len(seen) == 5
    for inside, plain in seen:
        assert torch.equal(inside, plain)
        assert inside.min() == 0  # softplus has no zero


def test_noise_of_an_explanation_is_the_attacks_own(make_network, make_images):
    """Reproducible from the attack's generator, and the same noise for every score."""
    from captum_robust.attr import KernelSmoothing

    model, images = make_network(), make_images()

    def run():
        return GhorbaniTopK(
            model,
            KernelSmoothing(Saliency(model)),
            eps=0.05,
            alpha=0.02,
            steps=3,
            k=K,
            explanation_kwargs={"n_samples": 2, "radius": 0.3},
            generator=torch.Generator().manual_seed(0),
        )

    assert torch.equal(run()(images), run()(images))
    # A change too small to matter is not taken for a success because of a lucky draw.
    tiny = run()(images, eps=1e-12)
    assert (tiny - images).abs().max() <= 1e-12
    scores = []
    for batch in (images, tiny):
        relevance = KernelSmoothing(Saliency(model)).attribute(
            batch, target=model(images).argmax(1), n_samples=400, radius=0.3,
            generator=torch.Generator().manual_seed(1),
        ).abs()  # fmt: skip
        scores.append(relevance)
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-3, atol=1e-6)


def test_half_precision_keeps_the_pace_of_adam(make_network):
    """In float16 Adam's second moments vanish, and steps became as large as the ball."""
    model = make_network().half()
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    targets = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(1))
    moved = Dombrowski(model, steps=5, alpha=1e-3)(images, None, targets)
    assert (moved.float() - images.float()).abs().max() <= 6e-3


def test_the_step_size_follows_its_schedule(make_network, make_images):
    model, images = make_network(), make_images()
    schedule = LinearDecay(0.02, 0.01)
    moves = []

    class Spy(GhorbaniTopK):
        def _stepper(self, images, generator):
            step = super()._stepper(images, generator)

            def spy(x, gradient, progress):
                after = step(x, gradient, progress)
                moves.append((after - x).abs().max().item())
                return after

            return spy

    Spy(model, eps=1.0, alpha=schedule, steps=3, k=K)(images.clamp(0.2, 0.8))
    assert moves == pytest.approx([0.02, 0.015, 0.01])

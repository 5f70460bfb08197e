"""One table: what holds for every attack on every explanation."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, LayerGradCam, Saliency

from captum_robust.attacks import (
    Dombrowski,
    GhorbaniMassCenter,
    GhorbaniTarget,
    GhorbaniTopK,
    RandomSign,
)
from captum_robust.attr import (
    BetaSmoothedGradient,
    BetaSmoothing,
    GuidedBackprop,
    KernelSmoothing,
    PatternAttribution,
    Patterns,
    RelevancePropagation,
)
from tests.helpers import rng

pytestmark = pytest.mark.filterwarnings("ignore:The attack failed for")

EPS = 0.05
CORNER = torch.zeros(8, 8, dtype=torch.bool)
CORNER[:3, 5:] = True
N = 3
REGIONS = torch.stack([CORNER, CORNER.T, CORNER.flip(0)])
MAPS = torch.rand(N, 8, 8, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def best_of_random(model, explanation, **kwargs):
    return RandomSign(model, explanation, EPS, 4, **kwargs)


def top_k(model, explanation, **kwargs):
    return GhorbaniTopK(model, explanation, EPS, EPS / 4, 5, k=9, **kwargs)


def mass_center(model, explanation, **kwargs):
    return GhorbaniMassCenter(model, explanation, EPS, EPS / 4, 5, **kwargs)


def target(model, explanation, **kwargs):
    return GhorbaniTarget(model, explanation, EPS, EPS / 4, 5, region=CORNER, **kwargs)


def target_per_image(model, explanation, **kwargs):
    return GhorbaniTarget(model, explanation, EPS, EPS / 4, 5, region=REGIONS, **kwargs)


def target_map(model, explanation, **kwargs):
    return Dombrowski(model, explanation, EPS, EPS / 4, 5, **kwargs)


# Name: constructor, further arguments of the call.
ATTACKS = {
    "RandomSign": (best_of_random, ()),
    "GhorbaniTopK": (top_k, ()),
    "GhorbaniMassCenter": (mass_center, ()),
    "GhorbaniTarget": (target, ()),
    "GhorbaniTarget, one region per image": (target_per_image, ()),
    "Dombrowski": (target_map, (MAPS,)),
    "Dombrowski, one map for all": (target_map, (MAPS[0],)),
}
EACH_ATTACK = pytest.mark.parametrize("attack_name", ATTACKS)


def fixed_noise(like, generator):
    """The same for every image and call, so that a kernel-smoothed explanation is a function."""
    noise = torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(3)).to(like)
    return noise.expand_as(like)


def first_convolution(model):
    return next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d))


def pattern_attribution(model):
    """With patterns that are drawn."""
    generator = torch.Generator().manual_seed(3)
    weights = {name: w for name, w in model.named_parameters() if w.dim() > 1}
    return PatternAttribution(model, Patterns({
        name: fitting(torch.randn(w.shape, generator=generator), w.detach())
        for name, w in weights.items()
    }))  # fmt: skip


def fitting(pattern, weight):
    """The nearest pattern whose product with the weight sums to 1, as a learned one's does."""
    answer, size = ((weight * t).flatten(1).sum(1) for t in (pattern, weight))
    return pattern + ((1 - answer) / size).view(-1, *[1] * (weight.dim() - 1)) * weight


NOISE = {"kernel": fixed_noise, "radius": 0.05, "n_samples": 2}
# Name: constructor, arguments.
EXPLANATIONS = {
    "default": (lambda model: None, {}),
    "Saliency": (Saliency, {}),
    "InputXGradient": (InputXGradient, {}),
    "IntegratedGradients": (IntegratedGradients, {"n_steps": 4}),
    "BetaSmoothing": (lambda model: BetaSmoothing(Saliency(model), 2.0), {}),
    "BetaSmoothedGradient": (lambda model: BetaSmoothedGradient(model, 2.0), {}),
    "KernelSmoothing": (lambda model: KernelSmoothing(Saliency(model)), NOISE),
    "GuidedBackprop": (GuidedBackprop, {}),
    "RelevancePropagation": (RelevancePropagation, {}),
    "PatternAttribution": (pattern_attribution, {}),
    "LayerGradCam": (lambda m: LayerGradCam(m, first_convolution(m)), {}),
    "smoothed GuidedBackprop": (lambda m: BetaSmoothing(GuidedBackprop(m), 20.0), {}),
    "smoothed RelevancePropagation": (
        lambda m: KernelSmoothing(BetaSmoothing(RelevancePropagation(m), 20.0)),
        NOISE,
    ),
    "nesting": (lambda m: KernelSmoothing(BetaSmoothing(InputXGradient(m), 5.0)), NOISE),
}


def pair(attack_name, explanation_name):
    """One cell of the table: variants of an attack, and combinations, are many and slow."""
    variant = ", one" in attack_name and explanation_name != "default"
    combined = " " in explanation_name or explanation_name == "nesting"
    rare = variant or (combined and attack_name != "GhorbaniTopK")
    name = f"{attack_name}-{explanation_name}"
    return pytest.param(
        attack_name, explanation_name, id=name, marks=[pytest.mark.slow] if rare else []
    )


EACH_PAIR = pytest.mark.parametrize(
    ("attack_name", "explanation_name"), [pair(a, e) for a in ATTACKS for e in EXPLANATIONS]
)


class Case:
    """An attack on an explanation of a network, ready to run."""

    def __init__(self, attack_name, explanation_name, model, **kwargs):
        constructor, self.further = ATTACKS[attack_name]
        explain, self.explain_kwargs = EXPLANATIONS[explanation_name]
        self.model = model
        self.explanation = explain(model)
        self.attack = constructor(
            model, self.explanation, explanation_kwargs=self.explain_kwargs, **kwargs
        )

    def run(self, images, labels=None):
        further = [m.to(images.dtype) for m in self.further]
        return self.attack(images, labels, *further)

    def scores(self, images, labels, explained):
        """The attack's objective at given images, from the explanations that Captum gives."""
        arguments = (self.explanation,)
        clean = explained(self.model, self.images, labels, *arguments, **self.explain_kwargs)
        seen = explained(self.model, images, labels, *arguments, **self.explain_kwargs)
        return self.attack.objective(clean, *self.further)(seen)

    def on(self, images):
        self.images = images
        return self


def change(manipulated, images):
    return (manipulated.double() - images.double()).abs().max().item()


@EACH_PAIR
class TestEveryAttackOnEveryExplanation:
    def test_result_is_an_allowed_image(
        self, attack_name, explanation_name, make_network, make_images
    ):
        model, images = make_network(), make_images(N)
        before = images.clone()
        manipulated = Case(attack_name, explanation_name, model).run(images)
        assert manipulated.shape == images.shape
        assert manipulated.dtype == images.dtype
        assert manipulated.device == images.device
        assert not manipulated.requires_grad
        assert 0 < change(manipulated, images) <= EPS
        assert manipulated.min() >= 0
        assert manipulated.max() <= 1
        assert torch.equal(model(manipulated).argmax(1), model(images).argmax(1))
        assert torch.equal(images, before)

    def test_objective_never_grows_and_shrinks_somewhere(
        self, attack_name, explanation_name, make_network, make_images, explained
    ):
        model, images = make_network(), make_images(N)
        case = Case(attack_name, explanation_name, model, generator=rng()).on(images)
        labels = model(images).argmax(1)
        manipulated = case.run(images, labels)
        before = case.scores(images, labels, explained)
        after = case.scores(manipulated, labels, explained)
        assert (after <= before + 1e-12).all()
        assert (after < before - 1e-4).any()
        moved = (manipulated != images).flatten(1).any(1)
        assert torch.equal(moved, after < before - 1e-12)

    def test_examples_do_not_influence_each_other(
        self, attack_name, explanation_name, make_network, make_images
    ):
        if attack_name == "RandomSign":
            pytest.skip("draws for the whole batch")
        model, images = make_network(), make_images(N)
        together = Case(attack_name, explanation_name, model).run(images)
        for i in range(N):
            case = Case(attack_name, explanation_name, model)
            if attack_name.endswith("per image"):
                case.attack._region = REGIONS[i : i + 1]
            if attack_name == "Dombrowski":
                case.further = (MAPS[i : i + 1],)
            alone = case.run(images[i : i + 1])
            torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-9)

    def test_same_seed_same_result_and_global_state_untouched(
        self, attack_name, explanation_name, make_network, make_images
    ):
        model, images = make_network(), make_images(N)
        states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002

        def run(generator):
            case = Case(attack_name, explanation_name, model, generator=generator, restarts=2)
            return case.run(images)

        assert torch.equal(run(rng(5)), run(rng(5)))
        run(None)
        assert torch.equal(states[0], torch.get_rng_state())
        assert states[1] == random.getstate()
        assert (states[2] == np.random.get_state()[1]).all()  # noqa: NPY002

    def test_normalised_images_and_bare_model(
        self, attack_name, explanation_name, make_network, make_images
    ):
        mean, std = [0.25], [0.5]  # of which float32 has exact values, as TorchAttacks keeps them
        bare, images = make_network(), make_images(N)
        whole = torch.nn.Sequential(Normalise(mean[0], std[0]), *bare)
        expected = Case(attack_name, explanation_name, whole, generator=rng()).run(images)
        case = Case(attack_name, explanation_name, bare, generator=rng())
        case.attack.set_normalization_used(mean, std)
        manipulated = case.run((images - mean[0]) / std[0])
        torch.testing.assert_close(manipulated * std[0] + mean[0], expected, rtol=0, atol=1e-9)
        assert case.attack._normalization_applied is True


class Normalise(torch.nn.Module):
    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x):
        return (x - self.mean) / self.std


@EACH_ATTACK
@pytest.mark.parametrize("eps", [0.02, 8 / 255, 0.1, 0.3])
def test_single_precision_stays_within_eps_exactly(attack_name, eps, make_network, make_images):
    model, images = make_network().float(), make_images(N).float()
    case = Case(attack_name, "default", model, generator=rng())
    manipulated = case.attack(images, None, *[m.float() for m in case.further], eps=eps)
    assert manipulated.dtype == torch.float32
    assert 0 < change(manipulated, images) <= eps
    assert manipulated.min() >= 0
    assert manipulated.max() <= 1


@EACH_ATTACK
def test_half_precision(attack_name, make_network, make_images):
    model, images = make_network().bfloat16(), make_images(N).bfloat16()
    manipulated = Case(attack_name, "default", model).run(images)
    assert manipulated.dtype == torch.bfloat16
    assert change(manipulated, images) <= EPS
    assert manipulated.isfinite().all()


@EACH_ATTACK
def test_no_labels_means_the_predicted_class(attack_name, make_network, make_images):
    model, images = make_network(), make_images(N)
    predicted = model(images).argmax(1)
    without = Case(attack_name, "default", model, generator=rng()).run(images)
    given = Case(attack_name, "default", model, generator=rng()).run(images, predicted)
    as_bytes = Case(attack_name, "default", model, generator=rng()).run(images, predicted.byte())
    assert torch.equal(without, given)
    assert torch.equal(without, as_bytes)


@EACH_ATTACK
def test_labels_choose_the_explained_class_alone(attack_name, make_network, make_images, explained):
    """The explanation of another class is attacked, and the predicted class is still kept."""
    model, images = make_network(), make_images(N)
    predicted = model(images).argmax(1)
    other = (predicted + 1) % 4
    case = Case(attack_name, "default", model, generator=rng()).on(images)
    manipulated = case.run(images, other)
    assert torch.equal(model(manipulated).argmax(1), predicted)
    before, after = (case.scores(x, other, explained) for x in (images, manipulated))
    assert (after < before - 1e-4).any()
    assert (after <= before + 1e-12).all()
    assert not torch.equal(manipulated, Case(attack_name, "default", model).run(images))

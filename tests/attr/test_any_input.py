"""Models that write into their inputs, categories beside numbers, half precision."""

from __future__ import annotations

import pytest
import torch
from captum.attr import DeepLift, FeatureAblation, IntegratedGradients, Saliency
from torch import nn

from captum_robust import attr
from captum_robust.perturbations import FeatureRemoval


class InPlace(nn.Module):
    """Normalises its input where it is."""

    def __init__(self, in_place=True):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 3)
        self.in_place = in_place

    def forward(self, x):
        x = x.sub_(0.5).div_(0.25) if self.in_place else (x - 0.5) / 0.25
        return self.last(torch.relu(self.first(x)))


def seed():
    return torch.Generator().manual_seed(0)


EXPLAIN = {
    "BetaSmoothedGradient": lambda f, x: attr.BetaSmoothedGradient(f).attribute(x, target=1),
    "BetaSmoothing(IG)": lambda f, x: attr.BetaSmoothing(IntegratedGradients(f)).attribute(
        x, target=1
    ),
    "BetaSmoothing(FeatureAblation)": lambda f, x: attr.BetaSmoothing(FeatureAblation(f)).attribute(
        x, target=1
    ),
    "KernelSmoothing": lambda f, x: attr.KernelSmoothing(Saliency(f)).attribute(
        x, target=1, generator=seed()
    ),
    "GuidedBackprop": lambda f, x: attr.GuidedBackprop(f).attribute(x, target=1),
    "differentiable": lambda f, x: attr.differentiable(attr.BetaSmoothedGradient(f))(x, target=1),
    "NoisyBaseline": lambda f, x: attr.NoisyBaseline(f).attribute(x, target=1, generator=seed()),
    "InfidelityOptimal": lambda f, x: attr.InfidelityOptimal(f, FeatureRemoval()).attribute(
        x, target=1
    ),
}


@pytest.mark.parametrize("name", EXPLAIN)
@pytest.mark.parametrize("learned", [False, True])
def test_a_model_that_writes_into_its_input_is_explained_as_if_it_did_not(name, learned):
    x = torch.rand(2, 6).requires_grad_(learned)
    kept = x.detach().clone()
    got = EXPLAIN[name](InPlace(), x)
    assert torch.equal(x, kept)
    torch.testing.assert_close(got, EXPLAIN[name](InPlace(in_place=False), x))


TABLE = torch.randn(5, 3, generator=seed())


def tabular(categories, numbers):
    return torch.relu(TABLE[categories].sum(1)).sum(1) + torch.relu(numbers).sum(1)


MIXED = {
    "NoisyBaseline": attr.NoisyBaseline,
    "InfidelityOptimal": lambda f: attr.InfidelityOptimal(f, FeatureRemoval()),
    "GuidedBackprop": attr.GuidedBackprop,
    "RelevancePropagation": attr.RelevancePropagation,
    "BetaSmoothedGradient": attr.BetaSmoothedGradient,
    "BetaSmoothing(Saliency)": lambda f: attr.BetaSmoothing(Saliency(f)),
    "BetaSmoothing(IG)": lambda f: attr.BetaSmoothing(IntegratedGradients(f)),
    "KernelSmoothing": lambda f: attr.KernelSmoothing(Saliency(f)),
}


@pytest.mark.parametrize("name", MIXED)
def test_categories_beside_numbers_are_named_and_the_advice_works(name):
    categories = torch.randint(0, 5, (3, 2), generator=seed())
    numbers = torch.rand(3, 4, generator=seed())
    message = r"got torch.int64 \(input 0 of 2\)\. Hand categories over as additional_forward_args"
    with pytest.raises(ValueError, match=message):
        MIXED[name](tabular).attribute((categories, numbers))
    explanation = MIXED[name](lambda numbers, categories: tabular(categories, numbers))
    result = explanation.attribute(numbers, additional_forward_args=categories)
    assert result.shape == numbers.shape
    assert result.isfinite().all()


def test_categories_beside_numbers_with_a_graph():
    inputs = torch.randint(0, 5, (3, 2)), torch.rand(3, 4)
    with pytest.raises(ValueError, match="additional_forward_args"):
        attr.differentiable(Saliency(tabular))(inputs)


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_deep_lift_in_half_precision_is_finite_and_near(dtype):
    """Its threshold, 1e-10, is zero in float16: 0 / 0 where an input equals its baseline."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)
    )
    x = torch.rand(4, 8)
    x[:, ::2] = 0  # as the baseline
    want = attr.BetaSmoothing(DeepLift(model)).attribute(x, target=1)
    got = attr.BetaSmoothing(DeepLift(model.to(dtype))).attribute(x.to(dtype), target=1)
    assert got.isfinite().all()
    assert (got.float() - want).norm() < (0.2 if dtype == torch.float16 else 0.6) * want.norm()


def test_an_overflow_in_float16_is_an_error():
    steep = nn.Linear(4, 1).half()
    nn.init.constant_(steep.weight, 3e4)
    explanation = attr.KernelSmoothing(Saliency(lambda x: 8 * steep(x * 1e-4)[:, 0] * 1e4))
    with pytest.raises(ValueError, match="NaN or Inf in float16"):
        explanation.attribute(torch.rand(2, 4).half())

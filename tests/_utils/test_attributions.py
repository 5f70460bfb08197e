"""How explanations draw, and blocks in which they draw the same."""

from __future__ import annotations

import pytest
import torch
from captum.attr import (
    FeatureAblation,
    GradientShap,
    InputXGradient,
    KernelShap,
    Lime,
    NoiseTunnel,
    Saliency,
    ShapleyValueSampling,
)

from captum_robust._utils.attributions import draws_of, same_draws
from captum_robust.attr import BetaSmoothing, KernelSmoothing, NoisyBaseline


def model(x):
    return torch.relu(x).sum(1) ** 2


CASES = {
    "Saliency": (Saliency(model), {}, (False, False)),
    "FeatureAblation": (FeatureAblation(model), {}, (False, False)),
    "BetaSmoothing": (BetaSmoothing(Saliency(model)), {}, (False, False)),
    "KernelSmoothing": (KernelSmoothing(Saliency(model)), {"n_samples": 2}, (True, False)),
    "NoisyBaseline": (NoisyBaseline(model), {}, (True, False)),
    "BetaSmoothing(KernelSmoothing)": (
        BetaSmoothing(KernelSmoothing(Saliency(model))), {"n_samples": 2}, (True, False)
    ),
    "NoiseTunnel": (NoiseTunnel(Saliency(model)), {"nt_samples": 2}, (False, True)),
    "BetaSmoothing(NoiseTunnel)": (
        BetaSmoothing(NoiseTunnel(Saliency(model))), {"nt_samples": 2}, (False, True)
    ),
    "KernelSmoothing(NoiseTunnel)": (
        KernelSmoothing(NoiseTunnel(InputXGradient(model))),
        {"n_samples": 2, "nt_samples": 2},
        (True, True),
    ),
    "NoiseTunnel(KernelSmoothing)": (
        NoiseTunnel(KernelSmoothing(Saliency(model))),
        {"nt_samples": 2, "n_samples": 2},
        (True, True),
    ),
    "GradientShap": (GradientShap(model), {"baselines": torch.zeros(2, 4)}, (False, True)),
    "ShapleyValueSampling": (ShapleyValueSampling(model), {"n_samples": 2}, (False, True)),
    "KernelShap": (KernelShap(model), {"n_samples": 4}, (False, True)),
    "Lime": (Lime(model), {"n_samples": 4}, (False, True)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_how_it_draws(name):
    attribution, _, draws = CASES[name]
    assert tuple(draws_of(attribution)) == draws


def test_what_is_not_an_attribution_draws_nothing_that_is_known():
    assert tuple(draws_of(None)) == tuple(draws_of(model)) == (False, False)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
@pytest.mark.filterwarnings("ignore:.*required_grads has been set:UserWarning")
@pytest.mark.filterwarnings("ignore:Attempting to construct interpretable model")
@pytest.mark.filterwarnings("ignore:You are providing multiple inputs for Lime")
@pytest.mark.filterwarnings("ignore:Minimum element in feature mask")
def test_the_same_seed_gives_the_same_draws_and_the_global_state_stays(name):
    attribution, kwargs, draws = CASES[name]
    x = torch.rand(2, 4)

    def explain(seed):
        with same_draws(attribution, seed, x.device, kwargs) as arguments:
            return attribution.attribute(x, **arguments)

    before = torch.get_rng_state()
    first = explain(2**61 + 5)
    assert torch.equal(first, explain(2**61 + 5))
    assert torch.equal(before, torch.get_rng_state())
    if any(draws) and name not in ("ShapleyValueSampling", "KernelShap"):
        assert not torch.equal(first, explain(4))


def test_a_generator_of_the_user_is_kept():
    generator = torch.Generator().manual_seed(0)
    attribution = KernelSmoothing(Saliency(model))
    with same_draws(attribution, 1, "cpu", {"generator": generator}) as arguments:
        assert arguments["generator"] is generator

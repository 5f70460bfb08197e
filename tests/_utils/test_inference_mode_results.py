"""The same results under inference mode, for every kind of class."""

from __future__ import annotations

import pytest
import torch
from captum.attr import DeepLift, FeatureAblation, IntegratedGradients, NoiseTunnel, Saliency
from torch import nn

from captum_robust import attr, metrics
from captum_robust._utils.inference_mode import outside_inference_mode
from captum_robust.perturbations import FeatureRemoval


def network():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
    return model.eval()


def seed():
    return {"generator": torch.Generator().manual_seed(0)}


CALLS = {
    "BetaSmoothedGradient": lambda f, x, **kw: attr.BetaSmoothedGradient(f).attribute(x, **kw),
    "BetaSmoothing": lambda f, x, **kw: attr.BetaSmoothing(Saliency(f)).attribute(x, **kw),
    "BetaSmoothing(IG)": lambda f, x, **kw: attr.BetaSmoothing(IntegratedGradients(f)).attribute(
        x, baselines=x.flip(0), **kw
    ),
    "BetaSmoothing(FeatureAblation)": lambda f, x, **kw: attr.BetaSmoothing(
        FeatureAblation(f)
    ).attribute(x, baselines=x.flip(0), **kw),
    "KernelSmoothing": lambda f, x, **kw: attr.KernelSmoothing(Saliency(f)).attribute(
        x, **seed(), **kw
    ),
    "GuidedBackprop": lambda f, x, **kw: attr.GuidedBackprop(f).attribute(x, **kw),
    "RelevancePropagation": lambda f, x, **kw: attr.RelevancePropagation(f).attribute(x, **kw),
    "NoisyBaseline": lambda f, x, **kw: attr.NoisyBaseline(f).attribute(x, **seed(), **kw),
    "InfidelityOptimal": lambda f, x, **kw: attr.InfidelityOptimal(f, FeatureRemoval()).attribute(
        x, **kw
    ),
    "differentiable": lambda f, x, **kw: attr.differentiable(attr.BetaSmoothedGradient(f))(x, **kw),
    "sensitivity_max": lambda f, x, **kw: metrics.sensitivity_max(Saliency(f), x, **seed(), **kw),
    "sensitivity_gradient": lambda f, x, **kw: metrics.sensitivity_gradient(
        attr.BetaSmoothedGradient(f), x, n_perturb_samples=2, **seed(), **kw
    ),
    "principal_curvature": lambda f, x, **kw: metrics.principal_curvature(
        f, x, beta=1.0, **seed(), **kw
    ),
    "infidelity": lambda f, x, **kw: metrics.infidelity(
        f, FeatureRemoval(), x, x, n_perturb_samples=9, **seed(), **kw
    ),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("made_inside", [True, False])
def test_the_results_are_those_of_outside(name, made_inside):
    model = network()
    x = torch.rand(2, 4, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([1, 2])
    want = CALLS[name](model, x, target=labels)
    with torch.inference_mode():
        if made_inside:
            x, labels = x.clone(), labels.clone()
        got = CALLS[name](model, x, target=labels)
        assert torch.is_inference_mode_enabled()
    assert not x.requires_grad
    torch.testing.assert_close(got.detach(), want.detach())
    # A tensor that was made inside, explained outside.
    torch.testing.assert_close(CALLS[name](model, x, target=labels).detach(), want.detach())


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
def test_captum_inside_of_a_smoothing():
    model, x = network(), torch.rand(2, 4)
    for attribution, kwargs in (
        (attr.BetaSmoothing(DeepLift(model)), {"baselines": x.flip(0)}),
        (attr.BetaSmoothing(NoiseTunnel(Saliency(model))), {"nt_samples": 2, "stdevs": 1e-12}),
    ):
        want = attribution.attribute(x, target=1, **kwargs)
        with torch.inference_mode():
            inside = {k: v.clone() if torch.is_tensor(v) else v for k, v in kwargs.items()}
            got = attribution.attribute(x.clone(), target=1, **inside)
        torch.testing.assert_close(got, want)


def test_arguments_of_every_form():
    @outside_inference_mode
    def kinds(*args, **kwargs):
        assert not torch.is_inference_mode_enabled()
        assert not torch.is_grad_enabled()
        (pair, listed), named = args, kwargs["named"]
        return [t.is_inference() for t in (*pair, *listed, named["a"])], pair[0]

    outside = torch.ones(1)
    with torch.inference_mode():
        made = torch.ones(1)
        flags, kept = kinds((outside, made), [made], named={"a": made})
    assert flags == [False] * 4
    assert kept is outside

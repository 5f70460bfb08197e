"""What has no correct graph is refused, and the message says what to use."""

from __future__ import annotations

import re

import pytest
import torch
from captum.attr import (
    LRP,
    Attribution,
    DeepLift,
    FeatureAblation,
    GradientShap,
    GuidedBackprop,
    IntegratedGradients,
    LayerActivation,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from torch import nn

from captum_robust.attr import (
    BetaSmoothedGradient,
    BetaSmoothing,
    KernelSmoothing,
    differentiable,
)
from tests.attr.networks import (
    IG,
    RELU,
    SMOOTH,
    leaf,
)

# --- Refusals.


class Sharpened(Saliency):
    def attribute(self, inputs, **kwargs):
        return super().attribute.__wrapped__(self, inputs, **kwargs) ** 2


class BetaSharpened(BetaSmoothedGradient):
    def attribute(self, inputs, **kwargs):
        return super().attribute(inputs, **kwargs) ** 2


class Renamed(IntegratedGradients):
    pass


class OwnGraph(Saliency):
    def attribute(self, inputs, **kwargs):
        return 2 * inputs.detach()

    def attribute_with_graph(self, inputs, **kwargs):
        return 2 * inputs


class GraphOfSharpened(BetaSharpened):
    def attribute_with_graph(self, inputs, **kwargs):
        return super().attribute_with_graph(inputs, **kwargs) ** 2


IMAGES = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))


@pytest.mark.parametrize(
    ("attribution", "remedy"),
    [
        (NoiseTunnel(Saliency(RELU)), "KernelSmoothing"),
        (GradientShap(RELU), "KernelSmoothing(IntegratedGradients(model))"),
        (DeepLift(RELU), "Use Saliency"),
        (LRP(RELU), "Use captum_robust.attr.RelevancePropagation"),
        (GuidedBackprop(RELU), "Use captum_robust.attr.GuidedBackprop"),
        (Occlusion(RELU), "Use Saliency"),
        (FeatureAblation(RELU), "Use Saliency"),
        (LayerActivation(IMAGES, IMAGES[0]), "Use Saliency"),
        (Sharpened(RELU), "attribute_with_graph"),
        (BetaSharpened(RELU), "attribute_with_graph"),
        (BetaSmoothing(NoiseTunnel(Saliency(RELU))), "KernelSmoothing"),
        (KernelSmoothing(NoiseTunnel(Saliency(RELU))), "KernelSmoothing"),
        (BetaSmoothing(KernelSmoothing(NoiseTunnel(Saliency(RELU)))), "KernelSmoothing"),
        (BetaSmoothing(DeepLift(RELU)), "Use Saliency"),
        (KernelSmoothing(Occlusion(RELU)), "Use Saliency"),
        (KernelSmoothing(BetaSmoothing(Sharpened(RELU))), "attribute_with_graph"),
        (KernelSmoothing(BetaSharpened(RELU)), "attribute_with_graph"),
        (RELU, "Wrap the model"),
        (Saliency, "Wrap the model"),
        (None, "Wrap the model"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Attribution) else None,
)
def test_what_has_no_correct_graph_is_refused_at_once(attribution, remedy):
    with pytest.raises(TypeError, match=re.escape(remedy)):
        differentiable(attribution)


def test_a_gradient_function_of_ones_own_is_refused():
    method = Saliency(SMOOTH)
    method.gradient_func = lambda *args, **kwargs: (torch.zeros(2, 3),)
    with pytest.raises(TypeError, match="Saliency has no correct graph"):
        differentiable(method)


def test_a_subclass_that_explains_alike_is_fine():
    got = differentiable(Renamed(SMOOTH))(leaf(), **IG)
    assert torch.equal(got, differentiable(IntegratedGradients(SMOOTH))(leaf(), **IG))


def test_a_class_that_brings_its_own_graph():
    x = leaf()
    assert torch.equal(differentiable(OwnGraph(SMOOTH))(x), 2 * x)
    nested = KernelSmoothing(BetaSmoothing(OwnGraph(SMOOTH)))
    assert differentiable(nested)(x, n_samples=2).requires_grad
    got = differentiable(GraphOfSharpened(RELU))(x, target=0)
    torch.testing.assert_close(got, GraphOfSharpened(RELU).attribute(x, target=0))


def test_no_convergence_delta():
    with pytest.raises(ValueError, match="return_convergence_delta"):
        differentiable(IntegratedGradients(SMOOTH))(leaf(), target=0, return_convergence_delta=True)
    explain = differentiable(IntegratedGradients(SMOOTH))
    assert explain(leaf(), target=0, return_convergence_delta=False).requires_grad


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (torch.zeros(0, 3), ValueError, "inputs is empty"),
        (torch.tensor(1.0), ValueError, "inputs must have a batch dimension"),
        ((torch.zeros(2, 3), torch.zeros(3, 3)), ValueError, "inputs must hold the same examples"),
        ([torch.zeros(2, 3)], TypeError, "inputs must be a tensor"),
        (None, TypeError, "inputs must be a tensor"),
        ((), TypeError, "inputs must be a tensor"),
    ],
)
def test_bad_inputs_are_named(inputs, error, message):
    for attribution in (Saliency(SMOOTH), BetaSmoothedGradient(RELU), IntegratedGradients(RELU)):
        with pytest.raises(error, match=message):
            differentiable(attribution)(inputs, target=0)


def test_a_batch_size_below_one():
    with pytest.raises(ValueError, match="internal_batch_size must be at least 1"):
        differentiable(IntegratedGradients(SMOOTH))(leaf(), target=0, internal_batch_size=0)


def test_a_missing_target_is_named():
    for attribution in (Saliency(SMOOTH), BetaSmoothedGradient(RELU)):
        with pytest.raises(ValueError, match="target: the model gives 4 values"):
            differentiable(attribution)(leaf())

"""BetaSmoothing around Captum's methods, against the same method on a smooth copy by hand."""

from __future__ import annotations

import inspect
import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum import attr as captum_attr
from captum.attr import (
    LRP,
    Attribution,
    Deconvolution,
    DeepLift,
    GuidedBackprop,
    GuidedGradCam,
    InputXGradient,
    IntegratedGradients,
    LayerGradCam,
    LayerIntegratedGradients,
    LayerLRP,
    NeuronDeconvolution,
    NeuronGuidedBackprop,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from torch import nn

from captum_robust.attr import BetaSmoothedGradient, BetaSmoothing, KernelSmoothing

BETA = 2.0


def network(activation):
    """The same weights with any activation."""
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        activation(),
        nn.Flatten(),
        nn.Linear(48, 6),
        activation(),
        nn.Linear(6, 3),
    ).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4, generator=generator)
    return model


class SoftplusByHand(nn.Module):
    def forward(self, z):
        return torch.logaddexp(BETA * z, torch.zeros_like(z)) / BETA


def images(n=2):
    return torch.randn(n, 2, 4, 4, generator=torch.Generator().manual_seed(2))


def explain(attribution, **kwargs):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002  (Captum draws from it)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?!beta smoothing)")  # Captum's own
        warnings.filterwarnings("error", "beta smoothing")
        return attribution.attribute(images(), **kwargs)


def as_tuple(attributions):
    return attributions if isinstance(attributions, tuple) else (attributions,)


# What each of Captum's methods needs; every method that is not here takes a target at most.
NEEDS = {
    "DeepLiftShap": {"baselines": torch.zeros(3, 2, 4, 4)},
    "FeaturePermutation": {"feature_mask": torch.arange(4).view(1, 1, 4, 1).expand(1, 2, 4, 4)},
    "GradientShap": {"baselines": torch.zeros(3, 2, 4, 4)},
    "KernelShap": {"n_samples": 6},
    "LayerConductance": {"attribute_to_layer_input": True},
    "LayerDeepLiftShap": {"baselines": torch.zeros(3, 2, 4, 4)},
    "LayerGradCam": {"relu_attributions": True},
    "LayerGradientShap": {"baselines": torch.zeros(3, 2, 4, 4)},
    "NeuronDeepLiftShap": {"baselines": torch.zeros(3, 2, 4, 4)},
    "NeuronGradientShap": {"baselines": torch.zeros(3, 2, 4, 4)},
    "NoiseTunnel": {"stdevs": 0.1, "target": 1},
    "Occlusion": {"sliding_window_shapes": (1, 2, 2)},
    "ShapleyValueSampling": {"n_samples": 3},
    "ShapleyValues": {"feature_mask": torch.arange(2).view(1, 2, 1, 1)},
}
# Bases; not of tensors; written for one example or a fitted model; tested as refused below.
APART = {
    "Attribution", "GradientAttribution", "InternalAttribution", "LayerAttribution",
    "NeuronAttribution", "PerturbationAttribution",
    "DataLoaderAttribution", "LLMAttribution", "LLMGradientAttribution", "RemoteLLMAttribution",
    "KernelShap", "LayerFeaturePermutation", "Lime", "LimeBase", "ShapleyValueSampling",
    "ShapleyValues",
    "LRP", "LayerLRP", "GuidedBackprop", "Deconvolution", "GuidedGradCam",
    "NeuronDeconvolution", "NeuronGuidedBackprop",
}  # fmt: skip
METHODS = sorted(
    name
    for name in set(captum_attr.__all__) - APART
    if inspect.isclass(getattr(captum_attr, name))
    and issubclass(getattr(captum_attr, name), Attribution)
)


def make(name, model):
    method = getattr(captum_attr, name)
    if name == "NoiseTunnel":
        return method(Saliency(model))
    if "layer" in inspect.signature(method).parameters:
        return method(model, model[1])
    return method(model)


def arguments_of(name):
    takes = inspect.signature(getattr(captum_attr, name).attribute).parameters
    arguments = {"target": 1} if "target" in takes else {}
    if "neuron_selector" in takes:
        arguments["neuron_selector"] = (0, 1, 1)
    return arguments | NEEDS.get(name, {})


def test_the_list_of_methods_is_not_empty():
    assert len(METHODS) > 20
    assert {"DeepLift", "LayerGradCam", "Occlusion", "NeuronDeepLift"} <= set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_captum_sees_the_smooth_network(name):
    arguments = arguments_of(name)
    got = as_tuple(explain(BetaSmoothing(make(name, network(nn.ReLU)), BETA), **arguments))
    # DeepLift has rules for module types that it knows.
    by_hand = partial(nn.Softplus, BETA) if "DeepLift" in name else SoftplusByHand
    want = as_tuple(explain(make(name, network(by_hand)), **arguments))
    bare = as_tuple(explain(make(name, network(nn.ReLU)), **arguments))
    assert len(got) == len(want)
    for a, b, c in zip(got, want, bare, strict=True):
        assert not a.requires_grad
        torch.testing.assert_close(a, b.detach(), rtol=1e-4, atol=1e-5)
        assert (b - c).abs().max() > 1e-3


@pytest.mark.parametrize(
    "wrap", [KernelSmoothing, NoiseTunnel, partial(BetaSmoothing, beta=50.0)], ids=str
)
def test_it_reaches_the_model_of_a_wrapped_deep_lift(wrap):
    arguments = {"target": 1}
    if wrap is KernelSmoothing:
        arguments |= {"n_samples": 3, "generator": None, "radius": 1e-6}
    if wrap is NoiseTunnel:
        arguments |= {"nt_samples": 3, "stdevs": 1e-6}
    got = explain(BetaSmoothing(wrap(DeepLift(network(nn.ReLU))), BETA), **arguments)
    want = explain(DeepLift(network(partial(nn.Softplus, BETA))), target=1)
    torch.testing.assert_close(got, want.detach(), rtol=1e-3, atol=1e-4)


def test_grad_cam_applies_its_own_rectifier_unsmoothed():
    model = network(nn.ReLU)
    kept = explain(
        BetaSmoothing(LayerGradCam(model, model[1]), BETA), target=1, relu_attributions=True
    )
    raw = explain(BetaSmoothing(LayerGradCam(model, model[1]), BETA), target=1)
    assert torch.equal(kept, raw.clamp(min=0))
    assert (raw < 0).any()


def test_convergence_delta_is_that_of_the_smooth_network():
    for method in (IntegratedGradients, DeepLift):
        smoothing = BetaSmoothing(method(network(nn.ReLU)), BETA)
        assert smoothing.has_convergence_delta()
        got, delta = explain(smoothing, target=1, return_convergence_delta=True)
        by_hand = method(network(partial(nn.Softplus, BETA)))
        want, want_delta = explain(by_hand, target=1, return_convergence_delta=True)
        torch.testing.assert_close(got, want.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(delta, want_delta.detach(), rtol=1e-3, atol=1e-5)
        assert delta.abs().max() < 0.05
        again = smoothing.compute_convergence_delta(
            got, torch.zeros(1, 2, 4, 4), images(), target=1
        )
        torch.testing.assert_close(again, delta, rtol=1e-3, atol=1e-5)
    assert not BetaSmoothing(Saliency(nn.ReLU())).has_convergence_delta()


def test_what_it_says_of_itself_is_what_the_wrapped_method_says():
    for multiply in (True, False):
        method = IntegratedGradients(network(nn.ReLU), multiply_by_inputs=multiply)
        assert BetaSmoothing(method).multiplies_by_inputs == multiply
        assert KernelSmoothing(method).multiplies_by_inputs == multiply
    assert BetaSmoothing(Saliency(network(nn.ReLU))).get_name() == "Beta Smoothing"


def test_the_outermost_smoothing_counts():
    model = network(nn.ReLU)
    for inner in (
        BetaSmoothing(Saliency(model), 9.0),
        BetaSmoothing(BetaSmoothing(Saliency(model), 9.0), 0.1),
        BetaSmoothedGradient(model, 9.0),
    ):
        got = explain(BetaSmoothing(inner, BETA), target=1, abs=False)
        want = explain(BetaSmoothedGradient(model, BETA), target=1)
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)


def test_the_short_form_is_the_long_form():
    model = network(nn.ReLU)
    for absolute in (False, True):
        short = explain(BetaSmoothedGradient(model, BETA), target=1, abs=absolute)
        long = explain(BetaSmoothing(Saliency(model), BETA), target=1, abs=absolute)
        assert torch.equal(short, long)
        assert bool((short < 0).any()) != absolute


def test_captums_arithmetic_is_never_smoothed():
    """A method that uses torch.relu itself, after the model."""

    class PositiveGradient(Saliency):
        def attribute(self, inputs, target=None):
            return torch.relu(super().attribute.__wrapped__(self, inputs, target, abs=False))

    got = explain(BetaSmoothing(PositiveGradient(network(nn.ReLU)), BETA), target=1)
    want = explain(BetaSmoothedGradient(network(nn.ReLU), BETA), target=1)
    assert torch.equal(got, want.clamp(min=0))


def test_the_attribution_that_was_wrapped_stays_as_it_was():
    model = network(nn.ReLU)
    for method in (
        Saliency(model),
        DeepLift(model),
        NoiseTunnel(IntegratedGradients(model)),
        LayerIntegratedGradients(model, model[1]),
    ):
        held = {key: id(value) for key, value in vars(method).items()}
        arguments = {"stdevs": 0.1} if isinstance(method, NoiseTunnel) else {}
        explain(BetaSmoothing(method, BETA), target=1, **arguments)
        assert {key: id(value) for key, value in vars(method).items()} == held
        bare = explain(type(method)(*_constructor(method)), target=1, **arguments)
        torch.testing.assert_close(explain(method, target=1, **arguments), bare, rtol=0, atol=0)


def _constructor(method):
    if isinstance(method, NoiseTunnel):
        return (IntegratedGradients(method.forward_func),)
    return (method.forward_func, *([method.layer] if hasattr(method, "layer") else []))


# --- Refused, with the reason.


@pytest.mark.parametrize(
    "make_method",
    [
        LRP,
        GuidedBackprop,
        Deconvolution,
        lambda model: GuidedGradCam(model, model[0]),
        lambda model: LayerLRP(model, model[0]),
        lambda model: NeuronDeconvolution(model, model[0]),
        lambda model: NeuronGuidedBackprop(model, model[0]),
        lambda model: NoiseTunnel(GuidedBackprop(model)),
        lambda model: KernelSmoothing(NoiseTunnel(LRP(model))),
    ],
)
def test_methods_with_rectifiers_of_their_own_are_refused(make_method):
    with pytest.raises(TypeError, match="cannot be beta-smoothed"):
        BetaSmoothing(make_method(network(nn.ReLU)))


@pytest.mark.parametrize("strange", [None, 3, nn.ReLU(), Saliency, "Saliency"])
@pytest.mark.parametrize("smoothing", [BetaSmoothing, KernelSmoothing])
def test_what_is_no_attribution_is_refused(smoothing, strange):
    with pytest.raises(TypeError, match="attribution_method must be a captum Attribution"):
        smoothing(strange)


def scripted(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated
        return torch.jit.trace(model, images())


def on_two_devices(model):
    parallel = nn.DataParallel(model)
    parallel.device_ids = [0, 1]
    return parallel


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


UNSEEN = {
    "scripted": scripted,
    "a scripted part": lambda model: nn.Sequential(nn.Identity(), scripted(model)),
    "its forward": lambda model: scripted(model).forward,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "a compiled part": lambda model: nn.Sequential(torch.compile(model, backend="eager")),
    "compiled in place": compiled_in_place,
    "a compiled function": lambda model: torch.compile(lambda x: model(x), backend="eager"),
    "several devices": on_two_devices,
    "the bound forward of several devices": lambda model: on_two_devices(model).forward,
}


@pytest.mark.parametrize("case", UNSEEN)
def test_what_a_mode_of_this_thread_cannot_see_is_refused(case):
    forward = UNSEEN[case](network(nn.ReLU))
    reason = "scripted|compiled|several devices"
    for smooth in (
        BetaSmoothedGradient,
        lambda f: BetaSmoothing(Saliency(f)),
        lambda f: BetaSmoothing(NoiseTunnel(Saliency(f))),
        lambda f: BetaSmoothing(KernelSmoothing(InputXGradient(f))),
    ):
        with pytest.raises(TypeError, match=f"forward_func.*({reason})"):
            smooth(forward)


def test_one_device_is_fine():
    model = network(nn.ReLU)
    want = explain(BetaSmoothedGradient(model, BETA), target=1)
    for forward in (nn.DataParallel(model), model.forward, lambda x: model(x)):
        assert torch.equal(explain(BetaSmoothedGradient(forward, BETA), target=1), want)


# --- Warned of, since it may be meant.


def gradient(forward):
    return BetaSmoothedGradient(forward, BETA).attribute(images().flatten(1))


class ByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z.clamp(min=0)

    @staticmethod
    def backward(ctx, grad):
        (z,) = ctx.saved_tensors
        return grad * (z > 0)


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        return 2 * z

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


def test_no_rectifier_at_all():
    hidden = {"by name": scripted(network(nn.ReLU))}  # else it is found, and refused
    for forward in (lambda x: hidden["by name"](x)[:, 0], lambda x: x.tanh().flatten(1).sum(1)):
        with pytest.warns(UserWarning, match="met no rectifier"):
            BetaSmoothedGradient(forward, BETA).attribute(images())
    with pytest.warns(UserWarning, match="met no rectifier"):
        BetaSmoothing(Occlusion(torch.tanh), BETA).attribute(
            images()[:, :1, 0, 0], sliding_window_shapes=(1,)
        )


@pytest.mark.parametrize(
    ("forward", "name"),
    [
        (lambda x: torch.ops.aten.relu(x - 1).relu().sum(1), "ReluBackward"),
        (lambda x: torch.ops.aten.hardtanh(x).relu().sum(1), "HardtanhBackward"),
        (lambda x: ByHand.apply(x).sum(1), "ByHandBackward"),
        (lambda x: ByHand.apply(x.relu() - 1).sum(1), "ByHandBackward"),
    ],
)
def test_rectifiers_that_were_missed_beside_others_that_were_not(forward, name):
    with pytest.warns(UserWarning, match=f"smooth only in part.*{name}"):
        gradient(forward)


def test_scripted_code_beside_a_rectifier():
    hidden = {0: scripted(network(nn.ReLU))}
    for _ in range(3):  # the interpreter of scripted code changes its ways after some calls
        with pytest.warns(UserWarning, match="smooth only in part"):
            BetaSmoothedGradient(lambda x: hidden[0](x).relu()[:, 0], BETA).attribute(images())


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: Twice.apply(x.relu()).sum(1),
        lambda x: (x + (x - 1).detach().relu()).sum(1),
        lambda x: (x.relu() + torch.no_grad()(torch.relu)(x)).sum(1),
        lambda x: F.relu(2 * x + torch.no_grad()(torch.relu)(x), inplace=True).sum(1),
        lambda x: (F.threshold(x, 1, 0) + x.relu() + x.clamp(-1, 1)).sum(1),
        lambda x: (x.relu() + torch.zeros(2).relu().sum()).sum(1),
    ],
)
def test_no_false_alarm(forward):
    gradient(forward)  # warnings are errors here


def test_what_computed_the_inputs_is_no_part_of_the_model():
    from captum_robust.attr import differentiable

    upstream = images().flatten(1).requires_grad_().relu() - 0.1
    explanation = BetaSmoothedGradient(lambda x: x.relu().sum(1), BETA)
    got = differentiable(explanation)(upstream)
    torch.testing.assert_close(got, torch.sigmoid(BETA * upstream))

"""Graphs through explanations, against finite differences; and what is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from captum.attr import (
    LRP,
    Attribution,
    DeepLift,
    FeatureAblation,
    GradientShap,
    GuidedBackprop,
    InputXGradient,
    IntegratedGradients,
    LayerActivation,
    LayerGradCam,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from captum_robust.attr import (
    BetaSmoothedGradient,
    BetaSmoothing,
    KernelSmoothing,
    differentiable,
    softplus_activations,
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def fill(model, seed=1):
    generator = rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.7, generator=generator)
    return model.double()


def smooth_network():
    return fill(nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Softplus()))


def relu_network():
    return fill(nn.Sequential(nn.Linear(3, 5), nn.ReLU(inplace=True), nn.Linear(5, 4)))


def points(n=2, features=3, seed=2):
    return torch.randn(n, features, generator=rng(seed), dtype=torch.float64)


def leaf(*args, **kwargs):
    return points(*args, **kwargs).requires_grad_()


def seeded(attribution, **arguments):
    """An explanation as a function that draws the same noise in every call."""
    explain = differentiable(attribution)
    return lambda x: explain(x, generator=rng(5), **arguments)


SMALL = {"radius": 0.3, "n_samples": 3}

SMOOTH = smooth_network()
RELU = relu_network()
IG = {"n_steps": 5, "target": 1}
CASES = {
    "saliency": (Saliency(SMOOTH), {"target": 1}),
    "saliency signed": (Saliency(SMOOTH), {"target": 1, "abs": False}),
    "input x gradient": (InputXGradient(SMOOTH), {"target": 1}),
    "ig": (IntegratedGradients(SMOOTH), IG),
    "ig, baseline number": (IntegratedGradients(SMOOTH), IG | {"baselines": 0.7}),
    "ig, baseline of one": (IntegratedGradients(SMOOTH), IG | {"baselines": points(1, seed=9)}),
    "ig, baseline of each": (IntegratedGradients(SMOOTH), IG | {"baselines": points(seed=9)}),
    "ig, local": (IntegratedGradients(SMOOTH, multiply_by_inputs=False), IG),
    **{
        f"ig, {method}": (IntegratedGradients(SMOOTH), IG | {"method": method})
        for method in (
            "riemann_left",
            "riemann_right",
            "riemann_middle",
            "riemann_trapezoid",
            "gausslegendre",
        )
    },
    **{
        f"ig, batches of {size}": (IntegratedGradients(SMOOTH), IG | {"internal_batch_size": size})
        for size in (1, 2, 3, 4, 7, 10, 11, 100)
    },
    "ig, local, in batches, baseline": (
        IntegratedGradients(SMOOTH, multiply_by_inputs=False),
        IG | {"internal_batch_size": 4, "baselines": points(seed=9), "method": "riemann_trapezoid"},
    ),
    "targets, tensor": (Saliency(SMOOTH), {"target": torch.tensor([3, 0])}),
    "targets, list": (Saliency(SMOOTH), {"target": [3, 0]}),
    "targets, one-element tensor": (Saliency(SMOOTH), {"target": torch.tensor(2)}),
    "targets, ig in batches": (
        IntegratedGradients(SMOOTH),
        {"n_steps": 5, "target": [3, 0], "internal_batch_size": 4},
    ),
    "targets, tuple": (
        Saliency(lambda x: SMOOTH(x).unflatten(1, (2, 2))),
        {"target": (1, 0)},
    ),
    "targets, list of tuples": (
        InputXGradient(lambda x: SMOOTH(x).unflatten(1, (2, 2))),
        {"target": [(1, 0), (0, 1)]},
    ),
    "targets, none": (Saliency(lambda x: SMOOTH(x).sum(1)), {}),
    "targets, none, column": (InputXGradient(lambda x: SMOOTH(x).sum(1, keepdim=True)), {}),
    "arguments": (
        IntegratedGradients(lambda x, w, k: SMOOTH(x * w) * k),
        IG | {"additional_forward_args": (points(seed=8), 2.5), "internal_batch_size": 4},
    ),
    "beta(saliency)": (BetaSmoothing(Saliency(RELU), 2.0), {"target": 1}),
    "beta(input x gradient)": (BetaSmoothing(InputXGradient(RELU), 2.0), {"target": 1}),
    "beta(ig)": (BetaSmoothing(IntegratedGradients(RELU), 2.0), IG),
    "beta(ig) in batches": (
        BetaSmoothing(IntegratedGradients(RELU), 2.0),
        IG | {"internal_batch_size": 4},
    ),
    "beta(beta(saliency))": (BetaSmoothing(BetaSmoothing(Saliency(RELU), 9.0), 2.0), {"target": 1}),
    "beta gradient": (BetaSmoothedGradient(RELU, 2.0), {"target": 1}),
    "beta gradient, absolute": (BetaSmoothedGradient(RELU, 2.0), {"target": 1, "abs": True}),
    "beta(beta gradient)": (BetaSmoothing(BetaSmoothedGradient(RELU, 9.0), 2.0), {"target": 1}),
}
SEEDED = {
    "kernel(saliency)": (KernelSmoothing(Saliency(SMOOTH)), {"target": 1}),
    "kernel(ig)": (KernelSmoothing(IntegratedGradients(SMOOTH)), IG),
    "kernel(ig) with baselines in batches": (
        KernelSmoothing(IntegratedGradients(SMOOTH)),
        IG | {"baselines": points(seed=9), "internal_batch_size": 3},
    ),
    "uniform": (KernelSmoothing(InputXGradient(SMOOTH)), {"target": 1, "kernel": "uniform"}),
    "logistic": (KernelSmoothing(InputXGradient(SMOOTH)), {"target": 1, "kernel": "logistic"}),
    "kernel(beta(saliency))": (KernelSmoothing(BetaSmoothing(Saliency(RELU), 2.0)), {"target": 1}),
    "beta(kernel(input x gradient))": (
        BetaSmoothing(KernelSmoothing(InputXGradient(RELU)), 2.0),
        {"target": [1, 3]},
    ),
    "beta(kernel(beta(ig)))": (
        BetaSmoothing(KernelSmoothing(BetaSmoothing(IntegratedGradients(RELU), 7.0)), 2.0),
        IG,
    ),
    "kernel(beta(kernel(saliency)))": (
        KernelSmoothing(BetaSmoothing(KernelSmoothing(Saliency(RELU)), 2.0)),
        {"target": 1},
    ),
    "kernel(kernel(beta gradient))": (
        KernelSmoothing(KernelSmoothing(BetaSmoothedGradient(RELU, 2.0))),
        {"target": 1, "n_samples": 2},
    ),
    "targets and arguments of each example": (
        KernelSmoothing(Saliency(lambda x, w: SMOOTH(x * w))),
        {"target": torch.tensor([2, 0]), "additional_forward_args": points(seed=8)},
    ),
}


def function_of(name):
    if name in CASES:
        attribution, arguments = CASES[name]
        return partial(differentiable(attribution), **arguments)
    attribution, arguments = SEEDED[name]
    return seeded(attribution, **(SMALL | arguments))


@pytest.mark.parametrize("name", [*CASES, *SEEDED])
def test_the_gradient_is_that_of_finite_differences(name):
    explain, x = function_of(name), leaf()
    assert explain(x).shape == x.shape
    assert gradcheck(explain, x)


@pytest.mark.parametrize("name", [*CASES, *SEEDED])
@pytest.mark.filterwarnings("ignore:Internal batch size cannot be less")  # Captum's
def test_the_values_are_those_of_attribute(name):
    if name in CASES:
        attribution, arguments = CASES[name]
    else:
        attribution, arguments = SEEDED[name]
        arguments = SMALL | arguments | {"generator": rng(5)}
    want = attribution.attribute(leaf(), **arguments).detach()
    got = function_of(name)(leaf())
    assert got.requires_grad
    # Captum's own steps of integrated gradients are rounded to single precision.
    torch.testing.assert_close(got.detach(), want, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "name",
    ["saliency", "input x gradient", "ig, batches of 3", "beta(ig)", "beta(kernel(beta(ig)))"],
)
def test_second_derivatives(name):
    assert gradgradcheck(function_of(name), leaf())


@pytest.mark.parametrize("absolute", [True, False])
def test_tuples_of_inputs(absolute):
    model = smooth_network()

    def forward(x, y):
        return model(x * y.flatten(1)) + (y**3).sum((1, 2))[:, None]

    x, y = leaf(), leaf(seed=4).detach().view(2, 3, 1).requires_grad_()
    cases = {
        Saliency(forward): {"abs": absolute},
        InputXGradient(forward): {},
        IntegratedGradients(forward): {"n_steps": 4, "internal_batch_size": 3},
        BetaSmoothing(Saliency(lambda a, b: forward(a, b).relu())): {"abs": absolute},
    }
    for attribution, arguments in cases.items():
        explain = differentiable(attribution)

        def together(a, b, explain=explain, arguments=arguments):
            return explain((a, b), target=1, **arguments)

        result = together(x, y)
        assert isinstance(result, tuple)
        assert [r.shape for r in result] == [x.shape, y.shape]
        assert gradcheck(together, (x, y))
    assert gradcheck(
        lambda a, b: seeded(KernelSmoothing(Saliency(forward)), target=1, **SMALL)((a, b)), (x, y)
    )


class Images(nn.Module):
    """A network of two convolutions, on rows of four numbers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 2), nn.Conv2d(3, 2, 2, padding=1)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(18, 4)

    def forward(self, x):
        x = self.relu(self.first(x.view(-1, 1, 3, 3)))
        return self.head(self.relu(self.second(x)).flatten(1))


@pytest.mark.parametrize("layer", ["first", "second", "relu"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"relu_attributions": True},
        {"attr_dim_summation": False},
        {"attribute_to_layer_input": True},
    ],
    ids=str,
)
def test_grad_cam(layer, options):
    if layer == "relu" and "attribute_to_layer_input" in options:
        pytest.skip("Captum cannot: the rectifier overwrites its input")
    model, x = fill(Images()), leaf(2, 9)
    method = LayerGradCam(model, getattr(model, layer))
    if layer == "relu":  # of a module that is used twice Captum takes the last call
        assert method.attribute(x, target=1).shape == (2, 1, 3, 3)
    explain = differentiable(method)
    torch.testing.assert_close(explain(x, target=1, **options), method.attribute(x, 1, **options))
    smoothed = differentiable(BetaSmoothing(method, 2.0))
    assert gradcheck(lambda x: smoothed(x, target=1, **options), x)
    (gradient,) = torch.autograd.grad(smoothed(x, target=1, **options).square().sum(), x)
    assert gradient.abs().max() > 1e-6


def test_the_rectifier_of_grad_cam_is_not_smoothed():
    model, x = fill(Images()), leaf(2, 9)
    explain = differentiable(LayerGradCam(model, model.second))
    with softplus_activations(2.0):
        rectified = explain(x, target=1, relu_attributions=True)
        signed = explain(x, target=1)
    assert (rectified == 0).any()
    torch.testing.assert_close(rectified, signed.clamp(min=0))


def test_grad_cam_of_objects_with_logits():
    @dataclass
    class Output:
        logits: torch.Tensor

    model, x = fill(Images()), leaf(2, 9)
    want = LayerGradCam(model, model.first).attribute(x, target=1)
    wrapped = LayerGradCam(lambda x: Output(model(x)), model.first)
    torch.testing.assert_close(differentiable(wrapped)(x, target=1), want)
    got = KernelSmoothing(wrapped).attribute(x, target=1, radius=1e-9, n_samples=2)
    torch.testing.assert_close(got, want)


def test_a_tuple_of_one_stays_a_tuple():
    for attribution in (
        Saliency(SMOOTH),
        IntegratedGradients(SMOOTH),
        BetaSmoothedGradient(RELU),
        KernelSmoothing(Saliency(SMOOTH)),
    ):
        result = differentiable(attribution)((points(),), target=0)
        assert isinstance(result, tuple)
        assert len(result) == 1


@pytest.mark.parametrize(
    "attribution",
    [
        Saliency,
        InputXGradient,
        partial(IntegratedGradients, multiply_by_inputs=False),
        IntegratedGradients,
        BetaSmoothedGradient,
        lambda f: KernelSmoothing(Saliency(f)),
    ],
)
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.filterwarnings("ignore:beta smoothing met no rectifier")
def test_a_linear_model_has_a_constant_gradient_and_still_a_graph(attribution, frozen):
    model = fill(nn.Linear(3, 4)).requires_grad_(not frozen)
    method = attribution(model)
    explain, x = differentiable(method), leaf()
    result = explain(x, target=2)
    (slope,) = torch.autograd.grad(result.sum(), x)
    row = model.weight[2].detach()
    if method.multiplies_by_inputs:
        torch.testing.assert_close(slope, row.expand(2, 3))
    else:
        assert torch.equal(slope, torch.zeros_like(x))
    assert gradcheck(lambda x: explain(x, target=2), x)


def test_a_model_that_is_linear_in_one_of_two_inputs():
    model = fill(nn.Linear(3, 4))
    explain = differentiable(Saliency(lambda x, y: model(x) + (y**3)))
    x, y = leaf(), leaf(features=4)
    (linear, cubic) = explain((x, y), target=0)
    torch.autograd.grad(linear.sum() + cubic.sum(), (x, y))
    with pytest.raises(RuntimeError, match="not have been used"):
        # Captum says the same of an input that the model ignores.
        differentiable(Saliency(lambda x, y: model(x)))((x, y), target=0)


# --- Gradients with respect to what is not an input.


PARAMETER_CASES = {
    "saliency": lambda f: partial(differentiable(Saliency(f)), target=1),
    "input x gradient": lambda f: partial(differentiable(InputXGradient(f)), target=1),
    "ig in batches": lambda f: partial(
        differentiable(IntegratedGradients(f)), target=1, n_steps=4, internal_batch_size=3
    ),
    "beta(ig)": lambda f: partial(
        differentiable(BetaSmoothing(IntegratedGradients(f), 2.0)), target=1, n_steps=4
    ),
    "kernel(beta gradient)": lambda f: seeded(
        KernelSmoothing(BetaSmoothedGradient(f, 2.0)), target=1, **SMALL
    ),
}


@pytest.mark.parametrize("name", PARAMETER_CASES)
def test_gradients_with_respect_to_the_parameters_of_the_model(name):
    template = relu_network() if "beta" in name else smooth_network()
    parameters = {k: p.detach().clone().requires_grad_() for k, p in template.named_parameters()}
    x = points()

    def explained(*values):
        def forward(x):
            return torch.func.functional_call(
                template, dict(zip(parameters, values, strict=True)), (x,)
            )

        return PARAMETER_CASES[name](forward)(x)

    # The explanation does not depend on the bias of a last linear layer, so it may have no graph.
    assert gradcheck(explained, tuple(parameters.values()))


def test_a_loss_on_the_explanation_trains_the_model():
    """loss.backward() fills .grad, and a small step along it lowers the loss."""
    model, x = relu_network(), points()
    explain = differentiable(BetaSmoothedGradient(model, 3.0))

    def loss():
        return (explain(x, target=1) ** 2).sum()

    before = loss()
    before.backward()
    assert model[0].weight.grad.abs().sum() > 0
    size = sum(p.grad.square().sum() for p in model.parameters() if p.grad is not None)
    rate = 1e-6
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= rate * parameter.grad
    assert (before - loss()).item() == pytest.approx((rate * size).item(), rel=1e-3)


def test_the_graph_reaches_baselines_and_further_arguments():
    base, factor = leaf(seed=9), leaf(seed=8)
    explain = differentiable(IntegratedGradients(lambda x, w: SMOOTH(x * w)))

    def explained(base, factor):
        return explain(
            points(),
            baselines=base,
            target=0,
            additional_forward_args=factor,
            n_steps=4,
            internal_batch_size=3,
        )

    assert gradcheck(explained, (base, factor))


def test_inputs_with_a_history():
    x = leaf()
    explain = differentiable(Saliency(SMOOTH))
    assert gradcheck(lambda x: explain(torch.sin(2 * x), target=0), x)


# --- Side conditions.


def test_it_has_a_graph_under_no_grad_and_leaves_the_grad_mode_alone():
    x = points()
    with torch.no_grad():
        result = differentiable(BetaSmoothedGradient(RELU))(x, target=0)
        assert not torch.is_grad_enabled()
    assert result.requires_grad
    assert not x.requires_grad


def test_inputs_that_need_no_gradient_are_left_so_also_after_an_exception():
    x = points()

    def fails(x):
        raise KeyError("inside")

    for attribution in (
        Saliency(fails),
        IntegratedGradients(fails),
        BetaSmoothedGradient(fails),
        KernelSmoothing(InputXGradient(fails)),
    ):
        with pytest.raises(KeyError, match="inside"):
            differentiable(attribution)(x)
        assert not x.requires_grad


def test_the_attribution_is_not_changed():
    method = Saliency(SMOOTH)
    held = dict(vars(method))
    differentiable(method)(points(), target=0)
    assert dict(vars(method)) == held
    with pytest.warns(UserWarning, match="required_grads has been set"):
        assert not method.attribute(points(), target=0).requires_grad


def test_gradients_of_parameters_are_not_filled_by_explaining():
    model = smooth_network()
    differentiable(IntegratedGradients(model))(leaf(), target=0)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_block_of_softplus_around_it():
    """What an attack does: the surrogate of an explanation that is not smoothed itself."""
    explain = differentiable(InputXGradient(RELU))

    def surrogate(x):
        with softplus_activations(2.0):
            return explain(x, target=1)

    want = differentiable(BetaSmoothing(InputXGradient(RELU), 2.0))
    torch.testing.assert_close(surrogate(leaf()), want(leaf(), target=1))
    assert gradcheck(surrogate, leaf())


def test_arguments_by_position_are_those_of_attribute():
    x = leaf()
    got = differentiable(Saliency(SMOOTH))(x, 1, False)
    assert torch.equal(got, differentiable(Saliency(SMOOTH))(x, target=1, abs=False))
    got = differentiable(IntegratedGradients(SMOOTH))(x, 0.5, 1, None, 6)
    want = differentiable(IntegratedGradients(SMOOTH))(x, baselines=0.5, target=1, n_steps=6)
    assert torch.equal(got, want)


def test_models_with_logits():
    @dataclass
    class Output:
        logits: torch.Tensor

    for method in (
        Saliency,
        InputXGradient,
        IntegratedGradients,
        BetaSmoothedGradient,
        lambda f: KernelSmoothing(Saliency(f)),
    ):
        x = leaf()
        arguments = {"target": 1}
        if method(RELU).__class__ is KernelSmoothing:
            arguments["generator"] = rng()
        got = differentiable(method(lambda x: Output(RELU(x))))(x, **arguments)
        if "generator" in arguments:
            arguments["generator"] = rng()
        assert torch.equal(got, differentiable(method(RELU))(x, **arguments))
    with pytest.raises(TypeError, match="logits"):
        differentiable(Saliency(lambda x: [RELU(x)]))(leaf(), target=0)


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

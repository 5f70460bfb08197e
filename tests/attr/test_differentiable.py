"""Graphs through explanations, against finite differences."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from captum.attr import (
    InputXGradient,
    IntegratedGradients,
    LayerGradCam,
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
from tests.attr.networks import (
    IG,
    RELU,
    SMALL,
    SMOOTH,
    Images,
    fill,
    leaf,
    points,
    rng,
    seeded,
    smooth_network,
)

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

"""Graphs to weights and further arguments, and what stays as it was."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from captum.attr import (
    InputXGradient,
    IntegratedGradients,
    Saliency,
)
from torch.autograd import gradcheck

from captum_robust import attr
from tests.attr.networks import (
    RELU,
    SMALL,
    SMOOTH,
    leaf,
    points,
    relu_network,
    rng,
    seeded,
    smooth_network,
)

# --- Gradients with respect to what is not an input.


PARAMETER_CASES = {
    "saliency": lambda f: partial(attr.differentiable(Saliency(f)), target=1),
    "input x gradient": lambda f: partial(attr.differentiable(InputXGradient(f)), target=1),
    "ig in batches": lambda f: partial(
        attr.differentiable(IntegratedGradients(f)), target=1, n_steps=4, internal_batch_size=3
    ),
    "beta(ig)": lambda f: partial(
        attr.differentiable(attr.BetaSmoothing(IntegratedGradients(f), 2.0)), target=1, n_steps=4
    ),
    "kernel(beta gradient)": lambda f: seeded(
        attr.KernelSmoothing(attr.BetaSmoothedGradient(f, 2.0)), target=1, **SMALL
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
    explain = attr.differentiable(attr.BetaSmoothedGradient(model, 3.0))

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
    explain = attr.differentiable(IntegratedGradients(lambda x, w: SMOOTH(x * w)))

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
    explain = attr.differentiable(Saliency(SMOOTH))
    assert gradcheck(lambda x: explain(torch.sin(2 * x), target=0), x)


# --- Side conditions.


def test_it_has_a_graph_under_no_grad_and_leaves_the_grad_mode_alone():
    x = points()
    with torch.no_grad():
        result = attr.differentiable(attr.BetaSmoothedGradient(RELU))(x, target=0)
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
        attr.BetaSmoothedGradient(fails),
        attr.KernelSmoothing(InputXGradient(fails)),
    ):
        with pytest.raises(KeyError, match="inside"):
            attr.differentiable(attribution)(x)
        assert not x.requires_grad


def test_the_attribution_is_not_changed():
    method = Saliency(SMOOTH)
    held = dict(vars(method))
    attr.differentiable(method)(points(), target=0)
    assert dict(vars(method)) == held
    with pytest.warns(UserWarning, match="required_grads has been set"):
        assert not method.attribute(points(), target=0).requires_grad


def test_gradients_of_parameters_are_not_filled_by_explaining():
    model = smooth_network()
    attr.differentiable(IntegratedGradients(model))(leaf(), target=0)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_block_of_softplus_around_it():
    """What an attack does: the surrogate of an explanation that is not smoothed itself."""
    explain = attr.differentiable(InputXGradient(RELU))

    def surrogate(x):
        with attr.softplus_activations(2.0):
            return explain(x, target=1)

    want = attr.differentiable(attr.BetaSmoothing(InputXGradient(RELU), 2.0))
    torch.testing.assert_close(surrogate(leaf()), want(leaf(), target=1))
    assert gradcheck(surrogate, leaf())


def test_arguments_by_position_are_those_of_attribute():
    x = leaf()
    got = attr.differentiable(Saliency(SMOOTH))(x, 1, False)
    assert torch.equal(got, attr.differentiable(Saliency(SMOOTH))(x, target=1, abs=False))
    got = attr.differentiable(IntegratedGradients(SMOOTH))(x, 0.5, 1, None, 6)
    want = attr.differentiable(IntegratedGradients(SMOOTH))(x, baselines=0.5, target=1, n_steps=6)
    assert torch.equal(got, want)


def test_models_with_logits():
    @dataclass
    class Output:
        logits: torch.Tensor

    for method in (
        Saliency,
        InputXGradient,
        IntegratedGradients,
        attr.BetaSmoothedGradient,
        lambda f: attr.KernelSmoothing(Saliency(f)),
    ):
        x = leaf()
        arguments = {"target": 1}
        if method(RELU).__class__ is attr.KernelSmoothing:
            arguments["generator"] = rng()
        got = attr.differentiable(method(lambda x: Output(RELU(x))))(x, **arguments)
        if "generator" in arguments:
            arguments["generator"] = rng()
        assert torch.equal(got, attr.differentiable(method(RELU))(x, **arguments))
    with pytest.raises(TypeError, match="logits"):
        attr.differentiable(Saliency(lambda x: [RELU(x)]))(leaf(), target=0)

"""The door to Captum's private helpers."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import torch
from captum.attr import (
    Attribution,
    DeepLift,
    FeatureAblation,
    InputXGradient,
    IntegratedGradients,
    LayerIntegratedGradients,
    NoiseTunnel,
    Saliency,
)
from torch import nn

from captum_robust._utils.attributions import attribute_detached, map_forward, use_gradients
from captum_robust._utils.batching import expand_per_example_arguments
from captum_robust._utils.captum import format_inputs
from captum_robust._utils.forward import compute_gradients, is_forward_of, logits_of, signature_of


def points(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def cubes(x):
    return torch.stack([x.sum(1), (x**3).sum(1)], 1)


# --- Outputs and gradients.


def test_logits_of():
    tensor = torch.ones(2)
    assert logits_of(tensor) is tensor
    assert logits_of(SimpleNamespace(logits=tensor, loss=None)) is tensor
    assert logits_of({"out": tensor, "aux": None}) is tensor
    assert logits_of({"logits": tensor}) is tensor
    for strange in ([tensor], (tensor,), None, SimpleNamespace(logits=None), {"scores": tensor}):
        with pytest.raises(TypeError, match=f"forward_func returned {type(strange).__name__}"):
            logits_of(strange)


def test_gradients_and_their_graphs():
    x = points(2, 3).requires_grad_()
    (plain,) = compute_gradients(cubes, (x,), 1)
    torch.testing.assert_close(plain, 3 * x.detach() ** 2)
    assert not plain.requires_grad
    (again,) = compute_gradients(cubes, (x,), 1, create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(again.sum(), x)[0], 6 * x)
    (linear,) = compute_gradients(cubes, (x,), 0, create_graph=True)
    assert torch.equal(linear, torch.ones_like(x))
    assert torch.equal(torch.autograd.grad(linear.sum(), x)[0], torch.zeros_like(x))
    with torch.no_grad():
        assert torch.equal(compute_gradients(cubes, (x,), 1)[0], plain)


def test_a_graph_of_zeros_is_zero_even_where_the_input_is_not_finite():
    x = torch.tensor([[float("inf"), float("nan"), 0.0]], requires_grad=True)
    (gradient,) = compute_gradients(lambda x: x.sum(1), (x,), create_graph=True)
    assert torch.equal(gradient, torch.ones(1, 3))
    assert torch.equal(torch.autograd.grad(gradient.sum(), x)[0], torch.zeros(1, 3))


def test_a_target_that_is_missing_is_named():
    with pytest.raises(ValueError, match="target: the model gives 2 values per example"):
        compute_gradients(cubes, (points(2, 3).requires_grad_(),))


def test_functions_of_every_kind():
    x = points(2, 1).requires_grad_()

    class Model(nn.Module):
        def forward(self, x, scale=2.0):
            return scale * x[:, 0]

    for forward, args, slope in (
        (Model(), None, 2.0),
        (Model().forward, 3.0, 3.0),
        (lambda *xs: sum(xs)[:, 0], (torch.ones(2, 1),), 1.0),
        (lambda: x[:, 0], None, 1.0),  # Captum's DeepLift keeps its inputs to itself
    ):
        (gradient,) = compute_gradients(forward, (x,), None, args)
        assert torch.equal(gradient, torch.full_like(x, slope))
    assert signature_of(cubes) == inspect.signature(cubes)
    assert signature_of(torch.tanh).parameters.keys() == {"args", "kwargs"}  # it has none


# --- Copies of attributions.


def test_map_forward_reaches_all_that_is_held_and_changes_nothing():
    model = nn.Sequential(nn.Linear(3, 2))
    other = nn.Sequential(nn.Linear(3, 2))
    nested = [
        Saliency(model),
        DeepLift(model),
        NoiseTunnel(NoiseTunnel(DeepLift(model))),
        LayerIntegratedGradients(model, model[0]),
    ]

    def references(attribution):
        found = []
        for value in vars(attribution).values():
            found += references(value) if isinstance(value, Attribution) else []
            found += [value] if value in (model, other) else []
        return found

    for attribution in nested:
        held = references(attribution)
        assert set(held) == {model}
        clone = map_forward(attribution, lambda forward: other)
        assert references(clone) == [other] * len(held)
        assert references(attribution) == held
        assert type(clone) is type(attribution)


def test_map_forward_hands_every_function_to_the_transform():
    seen = []
    map_forward(NoiseTunnel(Saliency(cubes)), lambda forward: seen.append(forward) or forward)
    assert seen == [cubes, cubes]


def test_use_gradients():
    def gradients(*args, **kwargs):
        raise AssertionError

    saliency, ablation = Saliency(cubes), FeatureAblation(cubes)
    clone = use_gradients(saliency, gradients)
    assert clone is not saliency
    assert clone.gradient_func is gradients
    assert saliency.gradient_func is not gradients
    assert use_gradients(ablation, gradients) is ablation
    assert use_gradients(clone, compute_gradients) is clone  # one of the user's own stays


def test_is_forward_of():
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    assert is_forward_of(model, model)
    assert is_forward_of(model.forward, model)
    assert is_forward_of(model.__call__, model)
    assert not is_forward_of(other, model)
    assert not is_forward_of(other.forward, model)
    assert not is_forward_of(lambda x: model(x), model)
    assert not is_forward_of(model.extra_repr, model)


# --- Calls that leave nothing behind.


def test_attribute_detached_works_on_tensors_of_its_own():
    for method in (Saliency, InputXGradient, IntegratedGradients):
        for x in (points(2, 3), points(2, 3).requires_grad_(), points(2, 3).requires_grad_() * 2):
            needs = x.requires_grad
            result = attribute_detached(method(cubes), x, target=1)  # no warning, too
            assert not result.requires_grad
            assert x.requires_grad == needs
            assert x.grad_fn is None or not x.is_leaf
    result, delta = attribute_detached(
        IntegratedGradients(cubes), points(2, 3), target=1, return_convergence_delta=True
    )
    assert not result.requires_grad
    assert not delta.requires_grad


def test_a_gradient_function_of_the_users_own_is_used():
    method = Saliency(cubes)
    method.gradient_func = lambda *args, **kwargs: (torch.full((2, 3), -7.0),)
    got = attribute_detached(method, points(2, 3), target=0, abs=False)
    assert torch.equal(got, torch.full((2, 3), -7.0))


def test_a_users_attribution_that_differentiates_by_itself():
    class Squared(Attribution):
        def attribute(self, inputs):
            (gradient,) = torch.autograd.grad(self.forward_func(inputs).sum(), inputs)
            return gradient**2

    got = attribute_detached(Squared(cubes), points(2, 3).requires_grad_())
    torch.testing.assert_close(got, (1 + 3 * points(2, 3) ** 2) ** 2)


def test_integers_stay_integers():
    seen = []

    def forward(tokens, x):
        seen.append((tokens.dtype, tokens.requires_grad, x.requires_grad))
        return (tokens * x).sum(1)

    inputs = (torch.tensor([[1, 2]]), torch.tensor([[0.5, 1.0]]))
    result = attribute_detached(FeatureAblation(forward), inputs)
    assert torch.equal(result[0], torch.tensor([[0.5, 2.0]]))
    assert set(seen) == {(torch.int64, False, False)}


def test_what_belongs_to_an_example_is_repeated():
    x = points(2, 3)
    given = {
        "target": [1, 0],
        "additional_forward_args": (torch.tensor([[5.0], [6.0]]), "word"),
        "baselines": points(2, 3, seed=1),
        "feature_mask": torch.tensor([[0, 1, 1], [0, 0, 1]]),
        "n_steps": 7,
    }
    expanded = expand_per_example_arguments(2, (x,), given)
    assert expanded["target"] == [1, 1, 0, 0]
    assert expanded["additional_forward_args"][0].flatten().tolist() == [5, 5, 6, 6]
    assert expanded["additional_forward_args"][1] == "word"
    (base,) = expanded["baselines"]
    assert torch.equal(base, points(2, 3, seed=1).repeat_interleave(2, 0))
    assert torch.equal(expanded["feature_mask"], given["feature_mask"].repeat_interleave(2, 0))
    assert expanded["n_steps"] == 7
    assert given["target"] == [1, 0]


def test_format_inputs():
    x = points(2, 3)
    assert format_inputs(x) == (False, (x,))
    assert format_inputs((x,)) == (True, (x,))

"""Models that run where activations cannot be replaced are named, from one place."""

from __future__ import annotations

import warnings

import pytest
import torch
from captum.attr import Saliency
from torch import nn

from captum_robust._utils.eager import require_eager
from captum_robust.attacks import GhorbaniTopK
from captum_robust.attr import (
    BetaSmoothedGradient,
    BetaSmoothing,
    GuidedBackprop,
    KernelSmoothing,
    RelevancePropagation,
    learn_patterns,
)


def network():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


def scripted():
    return torch.jit.trace(network(), torch.rand(2, 4))


def compiled():
    return torch.compile(network(), backend="eager")


def compiled_in_place():
    model = network()
    model.compile(backend="eager")
    return model


def exported():
    return torch.export.export(network(), (torch.rand(2, 4),)).module()


def quantised():
    return torch.ao.quantization.quantize_dynamic(network(), {nn.Linear})


KINDS = {
    "scripted": scripted,
    "compiled": compiled,
    "compiled, in place": compiled_in_place,
    "exported": exported,
    "quantised": quantised,
}
FORMS = {
    "itself": lambda m: m,
    "in a model": lambda m: nn.Sequential(nn.Flatten(), m),
    "behind a lambda": lambda m: lambda x: m(x),
}
USES = {
    "BetaSmoothedGradient": BetaSmoothedGradient,
    "BetaSmoothing": lambda f: BetaSmoothing(Saliency(f)),
    "GuidedBackprop": GuidedBackprop,
    "RelevancePropagation": RelevancePropagation,
}


def made(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of some of these
        return KINDS[kind]()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_each_is_named(kind, form):
    forward = FORMS[form](made(kind))
    for use in USES.values():
        with pytest.raises(
            TypeError, match=f"forward_func: .* is {kind.split(',')[0]}, so .*eager"
        ):
            use(forward)


@pytest.mark.parametrize("kind", KINDS)
def test_attacks_and_patterns_say_the_same(kind):
    model = made(kind)
    with pytest.raises(TypeError, match=f"model: .* is {kind.split(',')[0]}"):
        GhorbaniTopK(model)
    with pytest.raises(TypeError, match=f"model: .* is {kind.split(',')[0]}"):
        learn_patterns(model, [torch.rand(2, 4)])


def test_an_exported_program():
    program = torch.export.export(network(), (torch.rand(2, 4),))
    with pytest.raises(TypeError, match="is an exported program"):
        BetaSmoothedGradient(program)


def test_what_is_eager_passes():
    unused = {"other": made("scripted")}
    model = network()
    for forward in (model, torch.fx.symbolic_trace(model), lambda x: (unused, model(x))[1]):
        require_eager(forward)


@pytest.mark.filterwarnings("ignore:quantized.*linear_dynamic")
def test_a_quantised_model_has_no_gradient():
    with pytest.raises(TypeError, match=r"its output has no gradient\. The model is quantised"):
        KernelSmoothing(Saliency(made("quantised"))).attribute(torch.rand(2, 4), target=0)

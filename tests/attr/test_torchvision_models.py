"""Beta smoothing of real architectures, left as they were."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as zoo
from captum.attr import Saliency
from torch import nn

from captum_robust.attr import BetaSmoothedGradient, BetaSmoothing

BETA = 3.0
# Name, and a side of the image that is small and still passes through.
ARCHITECTURES = {
    "vgg16": 32,
    "resnet18": 32,
    "densenet121": 32,
    "alexnet": 63,
    "mobilenet_v3_small": 32,
}


def build(name, **kwargs):
    """A network with random weights in evaluation mode, made without the global random state."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # initialisation of tensors that hold nothing yet
        model = getattr(zoo, name)(weights=None, **kwargs)
    model = model.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = max(1, parameter[0].numel())
            if parameter.dim() > 1:
                parameter.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            else:
                parameter.uniform_(0.5, 1.0, generator=generator)
        for key, buffer in model.named_buffers():
            buffer.fill_(1.0 if "var" in key else 0.0)
    return model


def image(side):
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))


def snapshot(model):
    return {
        "state": {key: value.clone() for key, value in model.state_dict().items()},
        "training": [module.training for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "grad": [parameter.grad for parameter in model.parameters()],
        "hooks": [
            len(module._forward_hooks)
            + len(module._forward_pre_hooks)
            + len(module._backward_hooks)
            + len(module._backward_pre_hooks)
            for module in model.modules()
        ],
        "types": [(type(module), id(module), sorted(vars(module))) for module in model.modules()],
    }


def assert_same(before, after):
    for key, value in before["state"].items():
        assert torch.equal(value, after["state"][key]), key
    assert {k: v for k, v in before.items() if k != "state"} == {
        k: v for k, v in after.items() if k != "state"
    }


def relu_of_beta(input, inplace=False):
    return F.softplus(input, beta=BETA)


def hardsigmoid_of_beta(input, inplace=False):
    return (F.softplus(input + 3, beta=BETA) - F.softplus(input - 3, beta=BETA)) / 6


def hardswish_of_beta(input, inplace=False):
    return input * hardsigmoid_of_beta(input)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_gradient_is_that_of_a_smooth_copy_and_the_model_stays_as_it_was(name, monkeypatch):
    model, x = build(name), image(ARCHITECTURES[name])
    model.requires_grad_(False)
    first = next(model.parameters())
    first.requires_grad_()
    first.grad = torch.zeros_like(first)
    before, random_state = snapshot(model), torch.get_rng_state()

    got = BetaSmoothedGradient(model, BETA).attribute(x, target=5)

    assert_same(before, snapshot(model))
    assert torch.equal(random_state, torch.get_rng_state())
    assert not first.grad.any()
    assert not x.requires_grad
    assert got.shape == x.shape
    assert got.dtype == x.dtype
    assert got.isfinite().all()
    assert got.abs().sum() > 0

    bare = Saliency(model)
    leaf = x.clone().requires_grad_()
    kinked = bare.attribute(leaf, target=5, abs=False)
    # Modules and the model's own calls alike go through these functions.
    monkeypatch.setattr(F, "relu", relu_of_beta)
    monkeypatch.setattr(F, "hardsigmoid", hardsigmoid_of_beta)
    monkeypatch.setattr(F, "hardswish", hardswish_of_beta)
    want = bare.attribute(leaf, target=5, abs=False)
    scale = want.abs().max().item()
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * scale)
    assert (kinked - want).abs().max() > 0.01 * scale


@pytest.mark.parametrize("name", ["vgg16", "resnet18"])
def test_it_equals_a_copy_with_softplus_modules(name):
    model, x = build(name), image(ARCHITECTURES[name])
    got = BetaSmoothedGradient(model, BETA).attribute(x, target=7)
    for module in list(model.modules()):
        for key, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, key, nn.Softplus(BETA))
    assert not any(isinstance(module, nn.ReLU) for module in model.modules())
    want = Saliency(model).attribute(x.requires_grad_(), target=7, abs=False)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * want.abs().max().item())


def test_replacing_modules_would_be_wrong_for_densenet():
    """DenseNet also calls F.relu, which only a function mode reaches."""
    model, x = build("densenet121"), image(32)
    got = BetaSmoothedGradient(model, BETA).attribute(x, target=7)
    replaced = copy.deepcopy(model)
    for module in list(replaced.modules()):
        for key, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, key, nn.Softplus(BETA))
    other = Saliency(replaced).attribute(x.requires_grad_(), target=7, abs=False)
    assert (got - other).abs().max() > 1e-3 * got.abs().max()


def test_densenet_that_recomputes_is_refused_and_left_as_it_was():
    model = build("densenet121", memory_efficient=True)
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="memory_efficient=True"):
        BetaSmoothedGradient(model, BETA).attribute(image(32), target=0)
    assert_same(before, snapshot(model))
    assert torch.equal(torch.relu(torch.tensor([-1.0])), torch.tensor([0.0]))


def test_training_flags_of_a_partly_frozen_network():
    model = build("resnet18").train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    before = snapshot(model)
    BetaSmoothing(Saliency(model), BETA).attribute(image(32), target=0)
    assert_same(before, snapshot(model))


def test_efficientnet_lite():
    package = pytest.importorskip("efficientnet_lite_pytorch")
    torch.manual_seed(0)
    model = package.EfficientNet.from_name("efficientnet-lite0").eval()
    x, before = image(64), snapshot(model)
    got = BetaSmoothedGradient(model, BETA).attribute(x, target=5)
    assert_same(before, snapshot(model))
    for module in list(model.modules()):
        for key, child in module.named_children():
            if isinstance(child, nn.ReLU6):
                setattr(module, key, _Relu6OfBeta())
    want = Saliency(model).attribute(x.requires_grad_(), target=5, abs=False)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * want.abs().max().item())


class _Relu6OfBeta(nn.Module):
    def forward(self, z):
        return F.softplus(z, beta=BETA) - F.softplus(z - 6, beta=BETA)

"""A preserved model comes back as it was, whatever happened to it."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from captum.attr import FeatureAblation, Saliency
from torch import nn

from captum_robust._utils.model_state import on_device, preserve_model
from captum_robust.attr import (
    BetaSmoothedGradient,
    BetaSmoothing,
    GuidedBackprop,
    KernelSmoothing,
    NoisyBaseline,
    differentiable,
)


class Restless(nn.Module):
    """Its forward pass writes into one buffer, replaces another, and fills an empty one."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("written", torch.zeros(3))
        self.register_buffer("replaced", torch.zeros(()))
        self.register_buffer("unset", None)
        self.register_buffer("not_a_number", torch.tensor([float("nan"), 1.0]))
        self.register_buffer("count", torch.zeros((), dtype=torch.long), persistent=False)
        self.register_buffer("flag", torch.tensor(False))

    def forward(self, x):
        self.written += 1
        self.replaced = self.replaced + 1
        self.unset = torch.ones(2)
        self.not_a_number[0] = 7.0
        self.count += 1
        self.flag |= True
        return self.norm(self.layer(x))


def everything(model):
    return {
        "flags": [m.training for m in model.modules()],
        "learned": [p.requires_grad for p in model.parameters()],
        "grads": [p.grad for p in model.parameters()],
        "objects": [
            (name, id(b)) for m in model.modules() for name, b in m._buffers.items()
        ] + [(name, id(p)) for name, p in model.named_parameters()],
        "values": {
            name: (None if t is None else t.clone())
            for m in model.modules()
            for name, t in m._buffers.items()
        },
        "weights": [p.detach().clone() for p in model.parameters()],
        "attributes": [sorted(vars(m)) for m in model.modules()],
    }  # fmt: skip


def assert_same(before, after):
    for key in before:
        if key == "values":
            for name, value in before[key].items():
                if value is None:
                    assert after[key][name] is None
                else:
                    torch.testing.assert_close(
                        after[key][name], value, rtol=0, atol=0, equal_nan=True
                    )
        elif key in ("weights", "grads"):
            for old, new in zip(before[key], after[key], strict=True):
                assert old is new or torch.equal(old, new)
        else:
            assert before[key] == after[key], key


def restless():
    model = Restless().train()
    model.norm.eval()
    model.layer.bias.requires_grad_(False)
    model.layer.weight.grad = torch.ones(2, 2)
    return model


def disturb(model):
    model(torch.randn(4, 2))
    model.eval()
    model.norm.train()
    model(torch.randn(4, 2))
    for parameter in model.parameters():
        parameter.requires_grad_()
    model.train()


@pytest.mark.parametrize("raises", [False, True])
def test_everything_is_restored(raises):
    model = restless()
    before = everything(model)
    try:
        with preserve_model(model) as same:
            assert same is model
            assert not any(p.requires_grad for p in model.parameters())
            assert everything(model)["flags"] == before["flags"]
            disturb(model)
            assert model.written.sum() > 0
            if raises:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert raises
    assert_same(before, everything(model))


@pytest.mark.parametrize("raises", [False, True])
def test_a_moved_model_comes_back_with_its_own_tensors(raises):
    model = restless()
    before, storage = everything(model), [p.data_ptr() for p in model.parameters()]
    try:
        with on_device(model, torch.device("meta")) as same:
            assert same is model
            assert {t.device.type for t in model.state_dict().values()} == {"meta"}
            if raises:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert raises
    assert_same(before, everything(model))
    assert [p.data_ptr() for p in model.parameters()] == storage


def test_a_model_that_stays():
    model = restless()
    before = everything(model)
    with on_device(model, None) as same:
        assert same is model
        assert_same(before, everything(model))


def test_an_unset_buffer_is_unset_again():
    model = restless()
    with preserve_model(model):
        model(torch.randn(4, 2))
    assert model.unset is None
    assert "unset" in model._buffers


def test_it_can_be_nested_and_repeated():
    model = restless()
    before = everything(model)
    for _ in range(2):
        with preserve_model(model):
            inside = everything(model)
            with preserve_model(model):
                disturb(model)
            assert [p.requires_grad for p in model.parameters()] == [False] * 4
            assert inside["flags"] == everything(model)["flags"]
        assert_same(before, everything(model))


def test_the_models_own_train_method_is_not_called():
    """Some models keep layers frozen by a train() of their own; a recursive one would fail, too."""

    class Frozen(nn.Sequential):
        def train(self, mode=True):
            raise AssertionError("called")

    model = Frozen(nn.Dropout(), nn.BatchNorm1d(2))
    model[1].training = False
    before = everything(model)
    with preserve_model(model):
        model.training, model[0].training, model[1].training = False, False, True
    assert_same(before, everything(model))


def test_shared_modules_and_parameters():
    layer = nn.Linear(2, 2)
    tied = nn.Linear(2, 2)
    tied.weight = layer.weight
    model = nn.Sequential(layer, tied, layer)
    layer.train()
    tied.eval()
    before = everything(model)
    with preserve_model(model):
        model.eval()
        assert not model[1].weight.requires_grad
    assert_same(before, everything(model))


def test_a_gradient_of_the_inputs_still_flows_and_none_reaches_the_weights():
    model, x = restless(), torch.randn(4, 2, requires_grad=True)
    with preserve_model(model):
        (model(x) ** 2).sum().backward()
    assert x.grad is not None
    assert torch.equal(model.layer.weight.grad, torch.ones(2, 2))
    assert model.norm.weight.grad is None


def test_a_broadcast_buffer_that_nobody_writes():
    model = nn.Module()
    model.register_buffer("wide", torch.ones(1).expand(5))
    with preserve_model(model):
        pass
    assert torch.equal(model.wide, torch.ones(5))


def test_a_model_made_under_inference_mode_and_one_without_parameters():
    with torch.inference_mode():
        model = nn.BatchNorm1d(2)
    flags = [p.requires_grad for p in model.parameters()]
    with preserve_model(model):
        pass
    assert [p.requires_grad for p in model.parameters()] == flags
    with preserve_model(nn.ReLU()):
        pass


def test_a_deep_copy_made_inside_is_independent():
    model = restless()
    with preserve_model(model):
        other = copy.deepcopy(model)
        disturb(other)
    assert model.written.sum() == 0


EXPLAIN = {
    "BetaSmoothing": lambda f: BetaSmoothing(Saliency(f)).attribute,
    "BetaSmoothedGradient": lambda f: BetaSmoothedGradient(f).attribute,
    "KernelSmoothing": lambda f: KernelSmoothing(Saliency(f)).attribute,
    "BetaSmoothing(FeatureAblation)": lambda f: BetaSmoothing(FeatureAblation(f)).attribute,
    "GuidedBackprop": lambda f: GuidedBackprop(f).attribute,
    "NoisyBaseline": lambda f: NoisyBaseline(f).attribute,
    "differentiable(Saliency)": lambda f: differentiable(Saliency(f)),
    "differentiable(GuidedBackprop)": lambda f: differentiable(GuidedBackprop(f)),
    "differentiable(KernelSmoothing)": lambda f: differentiable(KernelSmoothing(Saliency(f))),
}
FORWARD = {
    "module": lambda m: m,
    "lambda": lambda m: lambda x: m(x),
    "method": lambda m: m.forward,
    "partial": lambda m: partial(m),
}


@pytest.mark.parametrize("name", EXPLAIN)
@pytest.mark.parametrize("form", FORWARD)
def test_explaining_in_training_mode_leaves_the_statistics_and_warns(name, form):
    """BatchNorm updates them in every forward pass; an explanation is not a training step."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    explain = EXPLAIN[name](FORWARD[form](model))
    with pytest.warns(
        UserWarning, match=r"training mode: '1' \(BatchNorm1d\) .*model.eval"
    ) as seen:
        result = explain(torch.randn(5, 3), target=0)
    assert len({str(warning.message) for warning in seen}) == 1
    if result.requires_grad:
        result.square().sum().backward()
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    model.eval()
    explain(torch.randn(5, 3), target=0)  # the advice works: no warning


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("form", FORWARD)
@pytest.mark.filterwarnings("ignore:the model is in training mode")
@pytest.mark.filterwarnings("ignore:beta smoothing met no rectifier")
def test_buffers_that_the_model_writes_into_are_as_before(form, training):
    model = Restless().train(training)
    before = everything(model)
    for name in ("BetaSmoothing", "BetaSmoothing(FeatureAblation)"):
        EXPLAIN[name](FORWARD[form](model))(torch.randn(5, 2), target=0)
        assert_same(before, everything(model))


def test_dropout_in_training_mode_is_warned_of():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2))
    with pytest.warns(UserWarning, match=r"'2' \(Dropout\) draws at random"):
        BetaSmoothedGradient(model).attribute(torch.randn(5, 3), target=0)
    model[2].p = 0.0
    BetaSmoothedGradient(model).attribute(torch.randn(5, 3), target=0)

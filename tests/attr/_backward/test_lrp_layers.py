"""Layers with batch norm, transposed convolutions and normalisations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from captum_robust.attr import (
    EpsilonRule,
    GammaRule,
    RelevancePropagation,
)
from tests.attr._backward.networks import fill, images
from tests.helpers import rng


@pytest.mark.parametrize("negative_slopes", [False, True])
def test_a_batch_norm_is_merged_and_the_model_left_alone(negative_slopes):
    model = fill(
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 1, 4))
    )
    if not negative_slopes:
        with torch.no_grad():
            model[1].weight.abs_()
    assert bool((model[1].weight < 0).any()) == negative_slopes
    merged = torch.nn.utils.fusion.fuse_conv_bn_eval(model[0], model[1])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = images(3)
    got = RelevancePropagation(model).attribute(x)
    want = RelevancePropagation(nn.Sequential(merged, nn.ReLU(), model[3])).attribute(x)
    torch.testing.assert_close(got, want)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(vars(m)[k] for m in model.modules() for k in vars(m) if k.endswith("_hooks"))


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_with_batch_norm(groups):
    layer, norm = nn.ConvTranspose2d(2, 4, 2, groups=groups), nn.BatchNorm2d(4)
    model, x = (
        fill(nn.Sequential(layer, norm, nn.ReLU(), nn.Flatten(), nn.Linear(196, 1))),
        images(),
    )
    slope = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    merged = nn.ConvTranspose2d(2, 4, 2, groups=groups).double()
    with torch.no_grad():
        for o in range(4):
            channels = [o] if groups == 1 else [o % 2]
            rows = slice(None) if groups == 1 else slice(o // 2, o // 2 + 1)
            merged.weight[rows, channels] = layer.weight[rows, channels] * slope[o]
        merged.bias.copy_((layer.bias - norm.running_mean) * slope + norm.bias)
    same = nn.Sequential(merged, nn.ReLU(), *model[3:])
    torch.testing.assert_close(same(x), model(x))
    want = RelevancePropagation(same).attribute(x)
    torch.testing.assert_close(RelevancePropagation(model).attribute(x), want)


def test_batch_norm_of_torch_itself():
    weight, slope = torch.randn(3, 4, generator=rng(0)), torch.tensor([1.0, -1.0, 2.0])
    mean, variance, bias = torch.tensor([0.3, -0.2, -0.1]), torch.rand(3) + 0.5, torch.zeros(3)

    def functional(x):
        y = F.batch_norm(F.linear(x, weight), mean, variance, slope, bias)
        return F.linear(y.relu(), torch.ones(1, 3))

    def direct(x):
        y = torch.batch_norm(
            F.linear(x, weight), slope, bias, mean, variance, False, 0.1, 1e-5, False
        )
        return F.linear(y.relu(), torch.ones(1, 3))

    x = torch.rand(5, 4, generator=rng(1))
    a, b = (RelevancePropagation(f).attribute(x) for f in (functional, direct))
    assert torch.equal(a, b)


@pytest.mark.parametrize("kind", ["layer", "group", "instance"])
@pytest.mark.parametrize("bias_takes_relevance", [False, True])
def test_a_normalisation_is_a_layer_of_its_matrix(kind, bias_takes_relevance):
    """The closed form against the matrix c_j (delta_ij - 1/n), row by row."""
    rule = EpsilonRule(1e-3, bias_takes_relevance)
    layers = {
        "layer": nn.LayerNorm([4, 3]),
        "group": nn.GroupNorm(2, 4),
        "instance": nn.InstanceNorm1d(4, affine=True),
    }
    layer = fill(layers[kind])
    x = torch.randn(2, 4, 3, generator=rng(5), dtype=torch.float64)
    weight, bias = layer.weight.detach(), layer.bias.detach()
    if kind != "layer":
        weight, bias = weight[:, None].expand(4, 3), bias[:, None].expand(4, 3)
    rows = {"layer": (1, 12), "group": (2, 6), "instance": (4, 3)}[kind]
    target = (2, 1)
    got = RelevancePropagation(layer, None, None, rule=rule)._detached(x, target, None)
    for example, found in zip(x, got, strict=True):
        want = torch.zeros(rows, dtype=torch.float64)
        start = torch.zeros(4, 3, dtype=torch.float64)
        start[target] = 1.0
        parts = (t.reshape(rows) for t in (example, weight, bias, start, want))
        for values, w, shift, above, shares in zip(*parts, strict=True):
            n = len(values)
            c = w / (values.var(unbiased=False) + layer.eps).sqrt()
            matrix = c[:, None] * (torch.eye(n, dtype=torch.float64) - 1 / n)
            linear = nn.Linear(n, n).double()
            linear.weight.data, linear.bias.data = matrix, shift
            for j in range(n):
                one = RelevancePropagation(linear, None, None, rule=rule)
                shares += above[j] * one._detached(values[None], j, None)[0]
        torch.testing.assert_close(found, want.view(4, 3))
        if not bias_takes_relevance:
            torch.testing.assert_close(found.sum(), torch.tensor(1.0).double())


@pytest.mark.parametrize("make", [lambda: nn.LayerNorm(4), lambda: nn.GroupNorm(2, 4)])
def test_other_rules_pass_through_a_normalisation(make):
    explain = RelevancePropagation(fill(make()), None, None, rule=GammaRule())
    x = torch.rand(2, 4, generator=rng(), dtype=torch.float64)
    want = torch.zeros(2, 4, dtype=torch.float64)
    want[:, 2] = 1.0
    assert torch.equal(explain.attribute(x, target=2), want)


def test_the_statistics_of_a_batch_are_no_constants():
    """There a batch norm is a function of one number, and not one layer with what is before."""
    weight = torch.rand(3, 2, generator=rng(), dtype=torch.float64)
    x = torch.rand(5, 2, generator=rng(1), dtype=torch.float64)

    def forward(x):
        return F.batch_norm(F.linear(x, weight), None, None, training=True)

    got = RelevancePropagation(forward, None, None, rule=GammaRule()).attribute(x, target=1)
    alone = RelevancePropagation(lambda x: F.linear(x, weight), None, None, rule=GammaRule())
    torch.testing.assert_close(got, alone.attribute(x, target=1))


def test_a_batch_norm_along_another_dimension_is_a_layer_of_its_own():
    """Behind nn.Linear on (N, L, F) its channels are along L."""
    linear, norm = fill(nn.Linear(2, 4)), fill(nn.BatchNorm1d(3))
    x = torch.rand(2, 3, 2, generator=rng(), dtype=torch.float64)
    for rule in (None, GammaRule()):
        got, want = (
            RelevancePropagation(f, None, None, rule=rule)._detached(x, (1, 2), None)
            for f in (lambda x: norm(linear(x)), linear)
        )
        torch.testing.assert_close(got, want)

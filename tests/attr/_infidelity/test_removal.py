"""The optima of the removal of groups: occlusion, and Shapley values."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from captum.attr import FeatureAblation, Occlusion, ShapleyValues

from captum_robust.attr import InfidelityOptimal
from captum_robust.perturbations import (
    FeatureRemoval,
    ShapleyRemoval,
)
from tests.helpers import Smooth, close, close_to_captum, f_of, normal, rng


@pytest.mark.parametrize("baselines", [None, 0.4, normal(1, 2, 3, 3, seed=5)])
def test_feature_removal_is_ablation_and_occlusion_of_one_feature(baselines):
    model, x = Smooth(18), normal(2, 2, 3, 3)
    got = InfidelityOptimal(model, FeatureRemoval()).attribute(x, baselines, target=1)
    x0 = 0.0 if baselines is None else baselines
    close_to_captum(got, FeatureAblation(model).attribute(x, baselines=x0, target=1))
    occlusion = Occlusion(model).attribute(
        x, sliding_window_shapes=(1, 1, 1), baselines=x0, target=1
    )
    close_to_captum(got, occlusion)
    local = InfidelityOptimal(model, FeatureRemoval(), False)
    close(local.attribute(x, baselines, target=1) * (x - x0), got)


def test_feature_removal_of_groups_is_spread_ablation():
    model, x = Smooth(6), normal(2, 6)
    mask = torch.tensor([[9, 9, 4, 4, 4, 0]])
    explain = InfidelityOptimal(model, FeatureRemoval())
    got = explain.attribute(x, 0.2, target=1, feature_mask=mask)
    ablation = FeatureAblation(model).attribute(x, 0.2, target=1, feature_mask=mask)
    for group in (9, 4, 0):
        inside = mask[0] == group
        close_to_captum(got[:, inside].sum(1), ablation[:, inside][:, 0])
        close(got[:, inside], got[:, inside][:, :1].expand(-1, int(inside.sum())))
    local = InfidelityOptimal(model, FeatureRemoval(), False)
    phi = local.attribute(x, 0.2, target=1, feature_mask=mask)
    mu = x - 0.2
    for group in (9, 4, 0):  # of those with the same sum, the shortest
        inside = mask[0] == group
        want = mu[:, inside] * (ablation[:, inside][:, :1] / mu[:, inside].square().sum(1, True))
        close_to_captum(phi[:, inside], want)


def test_feature_masks_of_each_example_and_across_inputs():
    model, x, y = Smooth(6), normal(2, 3), normal(2, 3, seed=2)
    masks = (torch.tensor([[0, 0, 8], [8, 0, 5]]), torch.tensor([[8, 8, 2], [5, 5, 5]]))
    for perturbation in (FeatureRemoval(), ShapleyRemoval()):
        explain = InfidelityOptimal(model, perturbation)
        got = explain.attribute((x, y), target=1, feature_mask=masks)
        for i in range(2):
            alone = explain.attribute(
                (x[i : i + 1], y[i : i + 1]),
                target=1,
                feature_mask=tuple(m[i : i + 1] for m in masks),
            )
            for g, a in zip(got, alone, strict=True):
                close(g[i], a[0], atol=1e-7)


def literal_shapley(f, x, x0, groups):
    """The mean gain over all orders in which the groups come in; spread over their features."""
    numbers = sorted(set(groups.tolist()))
    values = {}
    for n in range(len(numbers) + 1):
        for present in itertools.combinations(numbers, n):
            there = torch.tensor([g in present for g in groups.tolist()])
            values[frozenset(present)] = f(torch.where(there, x, x0)[None])[0]
    phi = torch.zeros_like(x)
    for g in numbers:
        others = [h for h in numbers if h != g]
        total = 0.0
        for n in range(len(others) + 1):
            weight = math.factorial(n) * math.factorial(len(others) - n)
            for present in itertools.combinations(others, n):
                gain = values[frozenset([*present, g])] - values[frozenset(present)]
                total += weight * gain / math.factorial(len(numbers))
        inside = groups == g
        phi[inside] = total / inside.sum()
    return phi


@pytest.mark.parametrize("n", [1, 2, 3, 6, 10])
def test_shapley_removal_is_the_shapley_value(n):
    model, x, x0 = Smooth(n), normal(2, n), normal(2, n, seed=6)
    got = InfidelityOptimal(model, ShapleyRemoval()).attribute(x, x0, target=1)
    f = f_of(model, 1)
    want = torch.stack([literal_shapley(f, a, b, torch.arange(n)) for a, b in zip(x, x0)])  # noqa: B905
    close(got, want)
    if n == 3:
        exact = ShapleyValues(model).attribute(x, x0, target=1)
        close_to_captum(got, exact)
    local = InfidelityOptimal(model, ShapleyRemoval(), False).attribute(x, x0, target=1)
    close(local * (x - x0), want)


def test_shapley_values_of_groups_in_several_inputs():
    model, x, y = Smooth(8), normal(2, 4), normal(2, 2, 2, seed=2)
    x0, y0 = normal(1, 4, seed=8), 0.3
    # Without gaps: Captum would take orders of as many features as the largest number says.
    mx, my = torch.tensor([[0, 0, 1, 2]]), torch.tensor([[[2, 3], [3, 4]]])
    explain = InfidelityOptimal(model, ShapleyRemoval())
    got = explain.attribute((x, y), (x0, y0), target=2, feature_mask=(mx, my))
    theirs = ShapleyValues(model).attribute((x, y), (x0, y0), target=2, feature_mask=(mx, my))
    rows = torch.cat([x, y.flatten(1)], 1)
    base = torch.cat([x0[0], torch.full((4,), y0, dtype=torch.float64)])
    groups = torch.cat([mx[0], my.flatten()])
    flat = torch.cat([got[0], got[1].flatten(1)], 1)
    captum = torch.cat([theirs[0], theirs[1].flatten(1)], 1)
    for i in range(2):
        close(flat[i], literal_shapley(f_of(model, 2), rows[i], base, groups))
        for g in groups.unique():
            inside = groups == g
            close_to_captum(flat[i][inside].sum(), captum[i][inside][0])


def test_one_group_is_worth_everything_without_a_warning():
    model, x = Smooth(4), normal(2, 4)
    mask = torch.full((1, 4), 5)
    f = f_of(model, 0)
    got = InfidelityOptimal(model, ShapleyRemoval()).attribute(x, target=0, feature_mask=mask)
    gained = f(x) - f(torch.zeros_like(x))
    close(got, (gained / 4).unsqueeze(1).expand(-1, 4))
    lonely = torch.tensor([[0.0, 2.0, 0.0, 0.0]]).double()
    local = InfidelityOptimal(model, ShapleyRemoval(), False).attribute(lonely, target=0)
    gained = f(lonely) - f(torch.zeros_like(lonely))
    close(local, torch.tensor([[0.0, 0.5, 0.0, 0.0]]) * gained)


def test_sampled_shapley_values_are_complete_and_near():
    """Twelve features: errors fall like 1 / sqrt(n), and by half of that with complements."""
    model, x = Smooth(12), normal(2, 12)
    f = f_of(model, 1)
    explain = InfidelityOptimal(model, ShapleyRemoval())
    exact = explain.attribute(x, target=1, n_samples=2**12)
    for seed in range(3):
        got = explain.attribute(x, target=1, generator=rng(seed))
        close(got.sum(1), f(x) - f(torch.zeros_like(x)))
        assert (got - exact).norm() < 0.05 * exact.norm()
    few = explain.attribute(x, target=1, n_samples=13, generator=rng())
    close(few.sum(1), f(x) - f(torch.zeros_like(x)))
    linear = InfidelityOptimal(lambda x: x @ torch.arange(12.0).double(), ShapleyRemoval())
    got = linear.attribute(x, generator=rng(), n_samples=100)
    close(got, x * torch.arange(12).double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n_samples", [30, 400])
@pytest.mark.parametrize("mask", [None, torch.arange(40)[None] // 2])
def test_sampled_shapley_values_of_what_equals_its_baseline_are_zero(n_samples, mask):
    """With the dual and the primal solver; the two examples have different features there."""
    model, x = Smooth(40), normal(2, 40)
    x0 = torch.zeros_like(x)
    x0[0, ::2] = x[0, ::2]
    x0[1, 4:] = x[1, 4:]
    f = f_of(model, 1)
    got = InfidelityOptimal(model, ShapleyRemoval()).attribute(
        x, x0, target=1, feature_mask=mask, n_samples=n_samples, generator=rng()
    )
    close(got.sum(1), f(x) - f(x0))
    assert (got[1, 4:] == 0).all()
    assert (got[1, :4] != 0).all()
    if mask is None:
        assert (got[0, ::2] == 0).all()

"""The optima of perturbations that move every feature, against Captum and the closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from captum.attr import IntegratedGradients, Saliency

from captum_robust.attr import InfidelityOptimal, NoisyBaseline
from captum_robust.perturbations import (
    BaselineShift,
    CoordinateStep,
    GaussianBaseline,
    Perturbation,
    Points,
)
from tests.helpers import Smooth, close, f_of, normal, rng


@pytest.mark.parametrize("baselines", [None, 0.3, normal(1, 6, seed=8), normal(4, 6, seed=9)])
def test_baseline_shift_is_complete(baselines):
    model, x = Smooth(6), normal(4, 6)
    got = InfidelityOptimal(model, BaselineShift()).attribute(x, baselines=baselines, target=1)
    x0 = (
        torch.zeros(1, 6).double()
        if baselines is None
        else torch.as_tensor(baselines, dtype=torch.float64)
    )
    x0 = x0.expand(1, 6) if x0.dim() == 0 else x0
    f = f_of(model, 1)
    gained = f(x) - f(x0.expand_as(x))
    close(got.sum(1), gained)
    _, delta = IntegratedGradients(model).attribute(
        x, baselines=x0, target=1, n_steps=200, return_convergence_delta=True
    )
    ig = IntegratedGradients(model).attribute(x, baselines=x0, target=1, n_steps=200)
    close(got.sum(1), ig.sum(1) - delta, atol=1e-6)
    mu = x - x0
    local = InfidelityOptimal(model, BaselineShift(), multiply_by_inputs=False)
    close(local.attribute(x, baselines=baselines, target=1) * mu, got)
    # The shortest complete local explanation.
    close(got / mu, mu * (gained / mu.square().sum(1)).unsqueeze(1))


def test_a_small_coordinate_step_is_the_gradient():
    model, x, y = Smooth(10), normal(3, 6), normal(3, 2, 2, seed=2)
    got = InfidelityOptimal(model, CoordinateStep(1e-6)).attribute((x, y), target=2)
    with pytest.warns(UserWarning, match="required_grads"):  # Captum's
        want = Saliency(model).attribute((x, y), target=2, abs=False)
    x, y = x.detach(), y.detach()
    for g, w in zip(got, want, strict=True):
        close(g, w, rtol=1e-5, atol=1e-6)
    explain = InfidelityOptimal(model, CoordinateStep(1e-6), multiply_by_inputs=True)
    x0, y0 = normal(1, 6, seed=7), normal(3, 2, 2, seed=8)
    got = explain.attribute((x, y), baselines=(x0, y0), target=2)
    for g, w, mu in zip(got, want, (x - x0, y - y0), strict=True):
        close(g, w * mu, rtol=1e-5, atol=1e-6)


def test_a_large_coordinate_step_is_the_difference_quotient():
    model, x = Smooth(5), normal(2, 5)
    got = InfidelityOptimal(model, CoordinateStep(0.7)).attribute(x, target=0)
    f = f_of(model, 0)
    want = torch.stack([(f(x) - f(x - 0.7 * e)) / 0.7 for e in torch.eye(5).double()], 1)
    close(got, want)


def test_no_explanation_has_less_infidelity_for_a_noisy_baseline():
    """With f quadratic the expectations are in closed form."""
    d, s = 5, 0.6
    h = normal(d, d, seed=12)
    h, w = h + h.T, normal(d, seed=13)
    x, x0 = normal(1, d), normal(1, d, seed=4)

    def f(x):
        return 0.5 * ((x @ h) * x).sum(1) + x @ w

    mu = (x - x0)[0]
    # E[I d(I)] with I = mu - e: mu E[d] + s^2 E[grad f(x0 + e)].
    mean_loss = f(x) - f(x0) - 0.5 * s**2 * h.trace()
    gradient = (x0 @ h)[0] + w
    points = Points.of(x, x0)
    moment = GaussianBaseline(s).second_moment(points)[0]
    want = torch.linalg.solve(moment, mu * mean_loss + s**2 * gradient)
    # Five standard deviations of the estimate, from repetitions.
    explain = NoisyBaseline(f, s)
    runs = torch.stack(
        [explain.attribute(x, x0, n_samples=2000, generator=rng(k))[0] for k in range(30)]
    )
    error = runs.std(0) / math.sqrt(30)
    assert ((runs.mean(0) - want).abs() < 5 * error).all()
    assert (error < 0.02 * want.norm()).all()


def literal_noisy_baseline(model, target, x, x0, noise, s):
    """phi* = G + mu (D - mu_n'G) / (s^2 + |mu|^2) for one flat example and given draws.

    In the scalar product mu is the mean of the drawn mu - e; G is shrunk by James and Stein.
    """
    at = (x0 + noise).requires_grad_()
    outputs = model(at)[:, target]
    (gradients,) = torch.autograd.grad(outputs.sum(), at)
    g, n = gradients.mean(0), len(noise)
    error = (gradients - g).square().sum() / (n - 1) / n  # of the mean gradient, squared
    g = g * (1 - error / (g @ g)).clamp(min=0)
    d = (model(x[None])[0, target] - outputs).mean().detach()
    mu = x - x0
    drawn = (x - at).mean(0).detach()
    return g + mu * (d - drawn @ g) / (s**2 + mu @ mu)


@pytest.mark.parametrize("is_global", [False, True])
def test_noisy_baseline_is_the_closed_form(is_global):
    model, x, x0, s = Smooth(6), normal(3, 6), normal(3, 6, seed=4), 0.4
    got = NoisyBaseline(model, s, is_global).attribute(
        x, x0, target=1, n_samples=20, generator=rng(8)
    )
    points = Points.of(x, x0)
    perturb = GaussianBaseline(s).perturb_func(rng(8), n_examples=3)
    _, perturbed = perturb(x.repeat_interleave(20, 0), x0.repeat_interleave(20, 0))
    noise = perturbed.unflatten(0, (3, 20)) - x0.unsqueeze(1)
    for i in range(3):
        want = literal_noisy_baseline(model, 1, x[i], x0[i], noise[i], s)
        close(got[i], want * (x - x0)[i] if is_global else want)
    assert len(points) == 3


def test_noisy_baseline_with_a_deviation_for_each_input():
    model, x, y = Smooth(5), normal(2, 3), normal(2, 2, seed=2)
    stdev = (0.3, 0.9)
    got = NoisyBaseline(model, stdev).attribute(
        (x, y), (0.1, 0.0), target=1, n_samples=400_000 // 20, generator=rng(3)
    )
    # Least squares on the exact second moment with Monte Carlo right-hand side.
    points = Points.of((x, y), (0.1, 0.0))
    moment = GaussianBaseline(stdev).second_moment(points)
    rows, perturbed = GaussianBaseline(stdev).sample(points, 200_000, rng(5))
    rows = torch.cat(rows, 2)
    losses = model(x, y)[:, 1].unsqueeze(1) - model(*(p.flatten(0, 1) for p in perturbed))[
        :, 1
    ].view(2, -1)
    products = (rows * losses.unsqueeze(2)).detach()
    right = products.mean(1)
    want = torch.linalg.solve(moment, right.unsqueeze(2)).squeeze(2)
    inverse = torch.linalg.inv(moment)
    error = ((products - right.unsqueeze(1)) @ inverse.transpose(1, 2)).std(1) / math.sqrt(200_000)
    flat = torch.cat(got, 1)
    # Five standard errors of the least squares; those of the gradients are smaller.
    assert ((flat - want).abs() < 5 * 1.5 * error).all()
    assert error.max() < 0.02 * want.norm()


def test_noisy_baseline_is_near_least_squares():
    """The generic path, on 20,000 forward passes, against the closed form on 5,000 gradients."""

    class Own(Perturbation):
        def shifts(self, points, n_samples, generator):
            return GaussianBaseline(0.5).shifts(points, n_samples, generator)

    model, x = Smooth(4), normal(2, 4)
    closed = NoisyBaseline(model, 0.5).attribute(x, target=1, n_samples=5000, generator=rng())
    explain = InfidelityOptimal(model, Own())
    runs = torch.stack(
        [explain.attribute(x, target=1, n_samples=4000, generator=rng(k)) for k in range(5)]
    )
    error = runs.std(0) / math.sqrt(5)
    # With five runs the error is itself uncertain: eight of them, and one thousandth.
    assert ((runs.mean(0) - closed).abs() < 8 * error + 1e-3).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_samples", [1, 3, 50])
def test_noisy_baseline_is_exact_on_linear_models(n_samples, dtype):
    w, x = normal(6).to(dtype), normal(3, 6, seed=4).to(dtype)
    got = NoisyBaseline(lambda x: x @ w + 3, 0.8).attribute(
        x, 0.7, n_samples=n_samples, generator=rng()
    )
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    close(got, w.expand(3, -1), rtol=tolerance, atol=tolerance)


def test_inputs_that_the_model_does_not_look_at():
    model, x, y = Smooth(3), normal(2, 3), normal(2, 2, seed=4)
    got = NoisyBaseline(lambda x, y: model(x), 0.4).attribute(
        (x, y), target=1, n_samples=5000, generator=rng()
    )
    # E[d] mu / (s^2 + |mu|^2) is what is left for them.
    assert all(a.isfinite().all() for a in got)
    assert (got[1] * y > 0).all(1).logical_or((got[1] * y < 0).all(1)).all()  # along mu

"""The gradient sensitivity against Jacobians written out."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from captum.attr import FeatureAblation, InputXGradient, IntegratedGradients, Saliency
from torch import nn

from captum_robust.attr import (
    BetaSmoothedGradient,
    BetaSmoothing,
    KernelSmoothing,
    differentiable,
)
from captum_robust.metrics import sensitivity_gradient
from tests.metrics.helpers import RADIUS, Network, points, rng


def spectral_norms(method, x, **kwargs):
    """By the Jacobian, written out, of one example after the other."""
    norms = []
    for i in range(len(x)):
        one = {k: v[i : i + 1] if isinstance(v, torch.Tensor) else v for k, v in kwargs.items()}
        jacobian = torch.autograd.functional.jacobian(
            lambda p, one=one: differentiable(method)(p, **one), x[i : i + 1]
        )
        norms.append(torch.linalg.matrix_norm(jacobian.reshape(x[i].numel(), -1), 2))
    return torch.stack(norms)


SMOOTH = {
    "Saliency": (Saliency, Network()),
    "InputXGradient": (InputXGradient, Network()),
    "InputXGradient, rectifiers": (InputXGradient, Network(smooth=False)),
    "IntegratedGradients": (partial(IntegratedGradients), Network()),
    "BetaSmoothedGradient": (partial(BetaSmoothedGradient, beta=3.0), Network(smooth=False)),
    "BetaSmoothing": (lambda f: BetaSmoothing(InputXGradient(f), 3.0), Network(smooth=False)),
}


@pytest.mark.parametrize("case", SMOOTH)
def test_gradient_against_the_jacobian(case):
    make, network = SMOOTH[case]
    method, x, target = make(network), points(5), torch.tensor([0, 1, 2, 0, 1])
    run = partial(sensitivity_gradient, method, x, target=target, tolerance=1e-10,
                  n_iterations=5000, generator=rng())  # fmt: skip
    at_x = spectral_norms(method, x, target=target)
    assert at_x.min() > 1e-3
    torch.testing.assert_close(run(0), at_x, rtol=1e-8, atol=0.0)
    around = run(RADIUS, 4)
    assert (around >= at_x * (1 - 1e-8)).all()
    assert (around > 1.001 * at_x).any()


def test_gradient_takes_the_largest_over_the_points():
    method, x, asked = Saliency(Network()), points(), []
    forward = method.forward_func
    method.forward_func = lambda x: (asked.append(x.detach().clone()), forward(x))[1]
    got = sensitivity_gradient(
        method, x, RADIUS, 6, 6, target=1, tolerance=1e-10, n_iterations=5000, generator=rng()
    )
    method.forward_func = forward
    seen = torch.cat([batch.unflatten(0, (3, -1)) for batch in asked], dim=1)
    assert seen.shape == (3, 7, 4)
    assert torch.equal(seen[:, 0], x)
    moved = (seen[:, 1:] - x.unsqueeze(1)).abs()
    assert 0.8 * RADIUS < moved.max() <= RADIUS
    each = torch.stack([spectral_norms(method, seen[:, j], target=1) for j in range(7)])
    torch.testing.assert_close(got, each.amax(0), rtol=1e-8, atol=0.0)


def test_gradient_of_two_inputs_is_that_of_the_whole_matrix():
    network, x, y = Network(), points(), points(seed=3).view(3, 2, 2)
    got = sensitivity_gradient(
        Saliency(network), (x, y), 0, target=1, tolerance=1e-10, n_iterations=5000, generator=rng()
    )

    def joint(both):
        a, b = both.split(4, dim=1)
        parts = differentiable(Saliency(network))((a, b.view(-1, 2, 2)), target=1)
        return torch.cat([p.flatten(1) for p in parts], dim=1)

    both = torch.cat([x, y.flatten(1)], dim=1)
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(joint, both[i : i + 1]).reshape(8, 8)
        torch.testing.assert_close(got[i], torch.linalg.matrix_norm(jacobian, 2), rtol=1e-8, atol=0)


def test_gradient_of_two_inputs_of_which_one_has_no_second_derivative():
    """f = sum(x^3) + sum(y): the explanation of y is constant."""
    method = Saliency(lambda x, y: (x**3).sum(1) + y.sum(1))
    x, y = torch.tensor([[1.0, -2.0]]), torch.tensor([[5.0]])
    got = sensitivity_gradient(method, (x, y), 0, generator=rng())
    torch.testing.assert_close(got, torch.tensor([12.0]), rtol=1e-4, atol=0.0)


def test_gradient_of_a_network_of_rectifiers_is_zero_with_a_warning():
    with pytest.warns(UserWarning, match="BetaSmoothing"):
        got = sensitivity_gradient(Saliency(Network(smooth=False)), points(), target=1)
    assert torch.equal(got, torch.zeros(3, dtype=torch.float64))
    with pytest.warns(UserWarning, match="zero for 3 of 3"):
        got = sensitivity_gradient(Saliency(nn.Linear(4, 3).double()), points(), 0, target=1)
    assert torch.equal(got, torch.zeros(3, dtype=torch.float64))


def test_gradient_that_stops_early_says_so_and_is_not_above():
    method, x = Saliency(Network()), points()
    exact = spectral_norms(method, x, target=1)
    with pytest.warns(UserWarning, match="n_iterations=1 "):
        got = sensitivity_gradient(method, x, 0, target=1, n_iterations=1, generator=rng())
    assert (got <= exact).all()
    assert (got < 0.999 * exact).any()


def test_gradient_of_smoothed_noise_uses_one_draw_for_all_its_products():
    method = KernelSmoothing(Saliency(Network()))
    run = partial(sensitivity_gradient, method, points(), RADIUS, 3, target=1, n_samples=4,
                  radius=0.2, tolerance=1e-8, n_iterations=5000)  # fmt: skip
    got = run(generator=rng())
    assert torch.equal(got, run(generator=rng()))
    torch.testing.assert_close(got, run(generator=rng(), max_examples_per_batch=3))
    assert not torch.equal(got, run(generator=rng(1)))


@pytest.mark.parametrize("method", [FeatureAblation(Network()), lambda x: x, 3])
def test_gradient_of_what_has_none(method):
    with pytest.raises(TypeError, match=r"graph|Attribution"):
        sensitivity_gradient(method, points())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_iterations": 0}, ValueError, "n_iterations"),
        ({"tolerance": 0.0}, ValueError, "tolerance"),
        ({"tolerance": "small"}, TypeError, "tolerance"),
    ],
)
def test_bad_arguments_of_the_iteration(arguments, error, message):
    with pytest.raises(error, match=message):
        sensitivity_gradient(Saliency(Network()), points(), target=1, **arguments)


def test_a_jacobian_that_is_not_finite():
    """The gradient of x^1.5 is 0 at 0, its derivative infinite."""
    method = Saliency(lambda x: (x**1.5).sum(1))
    with pytest.raises(ValueError, match="Jacobian with NaN or Inf"):
        sensitivity_gradient(method, torch.tensor([[0.0, 1.0]]), 0)

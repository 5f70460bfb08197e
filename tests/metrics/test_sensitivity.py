"""Max-sensitivity and the Lipschitz constant against Captum and against the formulas."""

from __future__ import annotations

import warnings
from functools import partial

import captum.metrics
import pytest
import torch
from captum.attr import DeepLift, FeatureAblation, InputXGradient, IntegratedGradients, Saliency
from torch import nn

from captum_robust.metrics import sensitivity_lipschitz, sensitivity_max
from tests.metrics.helpers import RADIUS, Network, points, quiet, rng, shifted, uniform_copies

# --- The numbers: max-sensitivity.


@pytest.mark.parametrize("batch", [None, 1, 4, 7])
@pytest.mark.parametrize("norm_ord", ["fro", 1, 2, 3.5, float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bits_of_captum(batch, norm_ord, dtype):
    network, x = Network(dtype), points(dtype=dtype)
    arguments = {"perturb_radius": RADIUS, "n_perturb_samples": 5, "norm_ord": norm_ord,
                 "max_examples_per_batch": batch, "target": torch.tensor([0, 2, 1])}  # fmt: skip
    for method in (Saliency, InputXGradient, IntegratedGradients, FeatureAblation):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # captum's batch of one point
            want = captum.metrics.sensitivity_max(quiet(method(network)), x, shifted, **arguments)
        assert want.min() > 1e-3
        for explain in (method(network), method(network).attribute, quiet(method(network))):
            assert torch.equal(sensitivity_max(explain, x, shifted, **arguments), want)


def test_the_bits_of_captum_for_two_inputs_and_all_that_belongs_to_an_example():
    network, inputs = Network(), (points(), points(seed=3).view(3, 2, 2))
    arguments = {
        "perturb_radius": RADIUS, "n_perturb_samples": 4, "target": [0, 2, 1],
        "baselines": (points(seed=4), 0.0),
        "additional_forward_args": (torch.tensor([[1.0], [2.0], [3.0]]),),
    }  # fmt: skip
    method = IntegratedGradients(network)
    want = captum.metrics.sensitivity_max(quiet(method), inputs, shifted, **arguments)
    for batch in (None, 3, 6):
        got = sensitivity_max(method, inputs, shifted, max_examples_per_batch=batch, **arguments)
        if batch is None:
            assert torch.equal(got, want)
        assert got.shape == (3,)
    assert torch.equal(sensitivity_max(quiet(method), inputs, shifted, **arguments), want)


def test_random_draws_of_a_perturb_func_are_those_of_captum():
    def jitter(x, radius):
        return x + radius * torch.rand(x.shape, generator=generator, dtype=x.dtype)

    x, explain = points(40), quiet(Saliency(Network()))
    results = []
    for function in (captum.metrics.sensitivity_max, sensitivity_max):
        generator = rng()
        results.append(function(explain, x, jitter, n_perturb_samples=50, target=1))
    assert torch.equal(*results)


def test_max_against_the_definition():
    x, network = points(), Network()
    explain = quiet(Saliency(network))
    clean = explain(x, target=1)
    changes = [(explain(y, target=1) - clean).norm(dim=1)
               for y in uniform_copies(x, 6, rng())]  # fmt: skip
    want = torch.stack(changes).amax(0)
    run = partial(sensitivity_max, Saliency(network), x, target=1, perturb_radius=RADIUS,
                  n_perturb_samples=6)  # fmt: skip
    torch.testing.assert_close(run(normalize=False, generator=rng()), want)
    torch.testing.assert_close(run(generator=rng()), want / clean.norm(dim=1))


@pytest.mark.parametrize("size", [1e-30, 1e-42, 1e25])
def test_max_of_explanations_whose_squares_are_no_numbers(size):
    """Gradients of the probability of a class that the network rules out are so small."""
    x = torch.tensor([[1.0, 2.0], [3.0, 0.5]])
    unit = torch.tensor(size) * torch.tensor([[2.0**20], [2.0]])
    run = partial(sensitivity_max, perturb_func=lambda x: x + 1)
    want = run(lambda x: x**3, x)
    torch.testing.assert_close(run(lambda y: unit * y**3, x, max_examples_per_batch=2), want,
                               rtol=1e-5, atol=0.0)  # fmt: skip
    raw = run(lambda y: unit * y**3, x, max_examples_per_batch=2, normalize=False)
    change = (unit.double() * ((x.double() + 1) ** 3 - x.double() ** 3)).norm(dim=1)
    torch.testing.assert_close(raw.double(), change, rtol=1e-4, atol=0.0)


def test_a_zero_explanation_is_not_divided_and_warned_of():
    x = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    explain = lambda x: x.clamp(min=0)  # noqa: E731
    with pytest.warns(UserWarning, match="all zero for 1 of 2"):
        value = sensitivity_max(explain, x, lambda x: x + 2.0)
    torch.testing.assert_close(value, torch.tensor([2.0, 2**0.5]))
    raw = sensitivity_max(explain, x, lambda x: x + 2.0, normalize=False)
    torch.testing.assert_close(raw, torch.tensor([8**0.5, 2**0.5]))


# --- The numbers: Lipschitz.


def test_lipschitz_against_the_definition():
    x, network = points(), Network()
    explain = quiet(Saliency(network))
    clean = explain(x, target=1)
    ratios = [(explain(y, target=1) - clean).norm(dim=1) / (y - x).norm(dim=1)
              for y in uniform_copies(x, 6, rng())]  # fmt: skip
    got = sensitivity_lipschitz(
        Saliency(network), x, None, RADIUS, 6, target=1, generator=rng(), max_examples_per_batch=7
    )
    torch.testing.assert_close(got, torch.stack(ratios).amax(0))


def test_lipschitz_of_a_linear_explanation_is_at_most_its_matrix_norm():
    matrix = torch.randn(4, 4, generator=rng(), dtype=torch.float64)
    _, values, v = torch.linalg.svd(matrix)
    x = points()
    got = sensitivity_lipschitz(lambda x: x @ matrix.T, x, generator=rng(), n_perturb_samples=50)
    assert (got < values[0]).all()
    assert (got > 0.7 * values[0]).all()
    steepest = sensitivity_lipschitz(lambda x: x @ matrix.T, x, lambda x: x + 1e-3 * v[0])
    torch.testing.assert_close(steepest, values[0].expand(3))


def test_lipschitz_takes_two_inputs_together():
    inputs = (points(), points(seed=3))
    got = sensitivity_lipschitz(
        lambda x: (2 * x[0], 0 * x[1]), inputs, lambda x: (x[0] + 3, x[1] + 4)
    )
    torch.testing.assert_close(got, torch.full((3,), 6 / 5, dtype=torch.float64))


def test_a_point_that_did_not_move_contributes_nothing():
    x = points()

    def only_the_first_moves(x):
        moved = x.clone()
        moved[0] += 1
        return moved

    got = sensitivity_lipschitz(lambda x: 3 * x, x, only_the_first_moves, n_perturb_samples=1)
    torch.testing.assert_close(got, torch.tensor([3.0, 0.0, 0.0], dtype=torch.float64))
    noisy = iter(range(9))  # an explanation that differs at the same point
    assert (sensitivity_lipschitz(lambda x: x + next(noisy), x, lambda x: x) == 0).all()


# --- Methods of Captum, errors.


def test_methods_that_hook_the_model():
    network = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    x = points()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # captum's, of the hooks that it sets
        got = sensitivity_max(
            DeepLift(network), x, shifted, RADIUS, 4, target=1, baselines=torch.zeros_like(x[:1])
        )
    assert got.shape == (3,)
    assert (got > 0).all()
    assert not any(m._forward_hooks for m in network.modules())


@pytest.mark.parametrize("norm_ord", ["nuc", 0, 0.5, -1, float("nan"), None])
def test_bad_norms(norm_ord):
    with pytest.raises(ValueError, match="norm_ord"):
        sensitivity_max(Saliency(Network()), points(), norm_ord=norm_ord, target=1)

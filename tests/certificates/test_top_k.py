"""Certified top-k where the truth is known: confidence, soundness in the ball, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from torch import nn
from torch.special import ndtr

from captum_robust import zoo
from captum_robust.attr import SparsifiedSmoothing
from captum_robust.certificates import certify_top_k, collect_counts
from captum_robust.certificates.bounds import confidence_bounds

ALPHA = 0.05


def truth(exact, x):
    return torch.from_numpy(exact.shares(x.numpy()))


def failures(exact, x, repetitions, n_samples, seed):
    """Share of repetitions in which any of the simultaneous bounds fails, and in which one does."""
    # The repetitions are the examples of one batch: each has noise of its own.
    counts = collect_counts(
        exact.smoothing, x.expand(repetitions, -1), n_samples, seed=seed, internal_batch_size=10_000
    )
    shares = truth(exact, x)
    at_once = confidence_bounds(counts.marks, n_samples, ALPHA / (2 * counts.n_features))
    alone = confidence_bounds(counts.marks, n_samples, ALPHA / 2)
    return [((ndtr(lower) > shares) | (ndtr(upper) < shares)) for lower, upper in (at_once, alone)]


@pytest.mark.parametrize(
    "repetitions", [300, pytest.param(2000, marks=pytest.mark.slow)], ids=["few", "2000"]
)
@pytest.mark.parametrize("name", ["gates", "linear"])
def test_coverage(name, repetitions, request):
    exact = request.getfixturevalue(name)
    d = len(exact.weights)
    x = torch.linspace(0.25, -0.2, d, dtype=torch.float64).unsqueeze(0)
    at_once, alone = failures(exact, x, repetitions, 400, seed=3)
    error = math.sqrt(ALPHA * (1 - ALPHA) / repetitions)
    assert at_once.any(1).double().mean() <= ALPHA + 3 * error
    # One feature's interval is tight: it misses nearly as often as it may.
    missed = alone.double().mean().item()
    assert ALPHA / 3 <= missed <= ALPHA + 3 * error


@pytest.mark.parametrize("name", ["gates", "linear"])
def test_no_point_of_the_ball_is_below_the_certificate(name, request):
    """Exact top-k at random points, and at the points that hurt most, of balls of five radii."""
    exact = request.getfixturevalue(name)
    d, k = len(exact.weights), 2
    x = torch.tensor([[0.9, 0.5, 0.4, -0.3, -0.9][:d]], dtype=torch.float64)
    radii = [0.02, 0.05, 0.1, 0.2, 0.4]
    found = certify_top_k(exact.smoothing, x, radii, k, n_samples=20_000, seed=1)
    assert found.overlap[0, 0] > 0
    n_points = 10_000 if name == "gates" else 150
    generator = np.random.default_rng(0)
    for rho, overlap in zip(radii, found.overlap[0].tolist(), strict=True):
        direction = generator.standard_normal((n_points, d))
        direction[: 2 * d] = np.concatenate([np.eye(d), -np.eye(d)])
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        depth = generator.random((n_points, 1)) ** (1 / d)
        depth[: n_points // 2] = 1.0
        shares = exact.shares(x.numpy() + rho * depth * direction)
        order = np.argsort(-shares, axis=1, kind="stable")[:, :k]
        stays = found.features[0].numpy()[order].sum(1) / k
        assert stays.min() >= overlap - 1e-12


def test_the_certificate_follows_from_exact_shares(gates):
    """With many copies the radius approaches that of the exact probabilities."""
    x = torch.tensor([[0.9, 0.5, 0.4, -0.3, -0.9]], dtype=torch.float64)
    scores = torch.special.ndtri(truth(gates, x)).sort(descending=True).values[0]
    want = gates.stdev / 2 * (scores[0] - scores[1])
    found = certify_top_k(gates.smoothing, x, [0.0], 1, n_samples=50_000, seed=0)
    assert 0.85 * want < found.surviving_radii[0, 0] < want
    assert found.largest_radius(1.0).item() == found.surviving_radii[0, 0]


def test_largest_radius_and_overlap_are_two_views_of_one_table():
    model, (images, _) = zoo.fashion_mnist_cnn(), zoo.fashion_mnist_sample(3)
    counts = collect_counts(Saliency(model), images, 300, seed=0)
    found = certify_top_k(counts, radii=[0.0], k=50)
    assert found.features.sum((1, 2)).tolist() == [50, 50, 50]
    for overlap in (0.02, 0.1, 0.28, 1.0):
        radius = found.largest_radius(overlap)
        for i in range(3):
            below, at = certify_top_k(counts, radii=[0.999 * radius[i], radius[i]], k=50).overlap[i]
            assert at < overlap
            assert below >= overlap - 1e-9 or radius[i] == 0
    assert (found.overlap > 0).any()


def test_larger_radii_and_smaller_alpha_certify_less():
    model, (images, _) = zoo.fashion_mnist_cnn(), zoo.fashion_mnist_sample(2)
    counts = collect_counts(Saliency(model), images, 300, seed=0)
    radii = [0.0, 0.01, 0.05, 0.1]
    loose, strict = (certify_top_k(counts, radii=radii, k=50, alpha=a) for a in (0.1, 0.001))
    assert (loose.overlap.diff(dim=1) <= 0).all()
    assert (loose.overlap >= strict.overlap).all()
    assert (loose.overlap > strict.overlap).any()


# --- The prediction.


class TwoClasses(nn.Module):
    def forward(self, x):
        return torch.stack([x[:, 0], -x[:, 0]], dim=1) + 0 * x.sum(1, keepdim=True)


def test_the_prediction_of_a_linear_model_has_its_exact_radius():
    """The smoothed class changes at the distance to the plane, |x_0|, and nowhere before."""
    smoothing = SparsifiedSmoothing(Saliency(TwoClasses().double()), kept=0.5, stdev=0.4)
    x = torch.tensor([[0.3, 1.0], [-0.1, 2.0], [0.001, 0.0]], dtype=torch.float64)
    found = certify_top_k(smoothing, x, [0.1], 1, n_samples=20_000, seed=0)
    assert found.prediction_radius is not None
    radius = found.prediction_radius
    assert (radius <= x[:, 0].abs()).all()
    assert radius[0] > 0.27
    assert radius[1] > 0.07
    assert radius[2] == 0  # too close to tell


def test_predictions_come_only_with_methods_that_run_the_model_once():
    model, (images, _) = zoo.fashion_mnist_cnn(), zoo.fashion_mnist_sample(1)
    assert collect_counts(Saliency(model), images, 3, seed=0).agreements is not None
    from captum.attr import IntegratedGradients

    from captum_robust.attr import BetaSmoothedGradient

    for other in (IntegratedGradients(model), BetaSmoothedGradient(model)):
        found = certify_top_k(other, images, [0.1], 5, n_samples=3, seed=0)
        assert found.prediction_radius is None


# --- Bad input.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 785}, "k must be at most the number of features, 784"),
        ({"k": 0}, "k must be at least 1"),
        ({"radii": [-0.1]}, "radii must be numbers from 0 on"),
        ({"radii": [math.nan]}, "radii must be numbers from 0 on"),
        ({"alpha": 1.0}, "alpha must be below 1"),
        ({"inputs": torch.zeros(1, 1, 28, 28)}, "Leave the inputs out"),
    ],
    ids=["k above", "k 0", "radius", "radius nan", "alpha", "inputs"],
)
def test_bad_arguments(arguments, message):
    model, (images, _) = zoo.fashion_mnist_cnn(), zoo.fashion_mnist_sample(1)
    counts = collect_counts(Saliency(model), images, 3, seed=0)
    with pytest.raises(ValueError, match=message):
        certify_top_k(counts, **arguments)


def test_bad_overlap_and_missing_inputs():
    model, (images, _) = zoo.fashion_mnist_cnn(), zoo.fashion_mnist_sample(1)
    found = certify_top_k(Saliency(model), images, [0.1], 5, n_samples=3, seed=0)
    with pytest.raises(ValueError, match="overlap must be in"):
        found.largest_radius(1.5)
    with pytest.raises(ValueError, match="give the examples to explain"):
        certify_top_k(Saliency(model))
    with pytest.raises(TypeError, match="explanation must be a captum Attribution"):
        certify_top_k(model, images)

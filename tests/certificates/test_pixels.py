"""Certified pixels against a literal reading of the rule, and against exact shares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from scipy import stats
from torch import nn

from captum_robust.attr import SparsifiedSmoothing
from captum_robust.certificates import certify_pixels, collect_counts


def test_verdicts_and_radii_are_what_the_rule_says(gates):
    x = torch.tensor([[0.9, 0.5, 0.4, -0.3, -0.9], [-0.9, 1.5, 0.0, 0.0, 0.3], [0.2] * 5]).double()
    n, alpha, tau = 800, 0.01, 0.75
    counts = collect_counts(gates.smoothing, x, n, seed=0)
    found = certify_pixels(counts, threshold=tau, alpha=alpha)
    level = alpha / (2 * 5)
    for i, j in np.ndindex(3, 5):
        c = int(counts.marks[i, j])
        low = stats.beta.ppf(level, c, n - c + 1) if c else 0.0
        high = stats.beta.ppf(1 - level, c + 1, n - c) if c < n else 1.0
        want = 1 if low > tau else 0 if 1 - high > tau else -1
        assert found.verdict[i, j] == want
        best = max(low, 1 - high)
        radius = gates.stdev * stats.norm.ppf(best) if best > 0.5 else 0.0
        assert found.radius[i, j].item() == pytest.approx(radius, abs=1e-9)
    assert found.certified_radius == pytest.approx(gates.stdev * stats.norm.ppf(tau))
    want = (found.verdict >= 0).double().mean(1)
    torch.testing.assert_close(found.certified_share, want)
    assert {-1, 0, 1} == set(found.verdict.flatten().tolist())


def test_majorities_stay_within_the_radius_of_each_pixel(gates):
    x = torch.tensor([[0.9, 0.5, 0.4, -0.3, -0.9]]).double()
    found = certify_pixels(gates.smoothing, x, 0.5, n_samples=5000, seed=2)
    generator = np.random.default_rng(0)
    direction = generator.standard_normal((10_000, 5))
    direction[:10] = np.concatenate([np.eye(5), -np.eye(5)])
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    for pixel in range(5):
        radius = found.radius[0, pixel].item()
        if radius == 0:
            assert found.verdict[0, pixel] == -1
            continue
        shares = gates.shares(x.numpy() + 0.999 * radius * direction)[:, pixel]
        relevant = found.verdict[0, pixel] == 1
        assert ((shares > 0.5) == bool(relevant)).all()
    assert (found.radius > 0).sum() >= 4


def test_maps_of_images_and_tuples():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = certify_pixels(SparsifiedSmoothing(Saliency(model), 0.25), images, n_samples=30, seed=0)
    assert found.verdict.shape == found.radius.shape == (2, 4, 4)
    assert found.verdict.dtype == torch.int8
    pair = Saliency(lambda x, y: (x**2).sum(1) + (y**3).sum(1))
    inputs = torch.rand(2, 3), torch.rand(2, 4)
    found = certify_pixels(SparsifiedSmoothing(pair, 0.5), inputs, n_samples=30, seed=0)
    assert [v.shape for v in found.verdict] == [(2, 3), (2, 4)]


@pytest.mark.parametrize("threshold", [0.4, 1.0, float("nan")])
def test_bad_threshold(threshold, gates):
    with pytest.raises(ValueError, match="threshold must be"):
        certify_pixels(gates.smoothing, torch.zeros(1, 5).double(), threshold, n_samples=2)

"""SSIM against scikit-image, and against a literal oracle where that loses digits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import skimage.metrics
import torch

from captum_robust.metrics import structural_similarity
from tests.metrics.helpers import (
    assert_equal_to,
    heavy_tailed,
    huge,
    many_ties,
    relevance,
    rng,
    tiny,
)

EXTREME = pytest.mark.parametrize("make", [many_ties, heavy_tailed, relevance, tiny, huge])
SEEDS = pytest.mark.parametrize("seed", range(4))
GOOD = torch.arange(128.0).view(2, 8, 8)


def joint_range(x, y):
    return max(x.max(), y.max()) - min(x.min(), y.min())


@EXTREME
@SEEDS
@pytest.mark.parametrize("win_size", [3, 7, 9])
def test_ssim_equals_skimage(make, seed, win_size):
    a, b = make((4, 9, 14), seed), make((4, 9, 14), seed + 100)
    for data_range in (None, 2 * joint_range(a.numpy(), b.numpy())):

        def oracle(x, y, data_range=data_range):
            unit = data_range or joint_range(
                x, y
            )  # scikit-image squares, which under- or overflows
            return skimage.metrics.structural_similarity(
                x / unit, y / unit, win_size=win_size, data_range=1.0
            )

        actual = structural_similarity(a, b, data_range=data_range, win_size=win_size)
        assert_equal_to(oracle, actual, a, b, atol=1e-10)


@SEEDS
def test_ssim_of_channels_equals_skimage(seed):
    a, b = heavy_tailed((3, 3, 10, 8), seed), heavy_tailed((3, 3, 10, 8), seed + 100)

    def oracle(x, y):
        return skimage.metrics.structural_similarity(
            x, y, channel_axis=0, data_range=joint_range(x, y)
        )

    assert_equal_to(oracle, structural_similarity(a, b), a, b, atol=1e-10)


def test_ssim_of_photographs_equals_skimage():
    image = torch.rand(2, 3, 32, 32, generator=rng(0), dtype=torch.float64)
    other = (image + 0.1 * torch.randn(image.shape, generator=rng(1), dtype=torch.float64)).clamp(
        0, 1
    )

    def oracle(x, y):
        return skimage.metrics.structural_similarity(x, y, channel_axis=0, data_range=1.0)

    assert_equal_to(oracle, structural_similarity(image, other, data_range=1.0), image, other)


def test_default_range_tells_relevance_maps_apart():
    a, b = relevance((4, 28, 28), 1), relevance((4, 28, 28), 2)
    assert (structural_similarity(a, b) < 0.5).all()
    assert (structural_similarity(a, b, data_range=1.0) > 0.999).all()  # why 1 is not the default


def test_ssim_far_from_zero_loses_no_digits():
    a, b = relevance((4, 12, 12), 1), relevance((4, 12, 12), 2)
    spread = 1e-7
    near_one = structural_similarity(1 + spread * a, 1 + spread * b)

    def wide_oracle(x, y):
        x, y = (1 + spread * x.astype(np.longdouble)), (1 + spread * y.astype(np.longdouble))
        data_range = joint_range(x, y)
        terms = []
        for i in range(6):
            for j in range(6):
                u, v = x[i : i + 7, j : j + 7], y[i : i + 7, j : j + 7]
                c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
                du, dv = u - u.mean(), v - v.mean()
                covariance, variances = (du * dv).sum() / 48, (du**2 + dv**2).sum() / 48
                luminance = (2 * u.mean() * v.mean() + c1) / (u.mean() ** 2 + v.mean() ** 2 + c1)
                terms.append(luminance * (2 * covariance + c2) / (variances + c2))
        return float(np.mean(terms))

    # The rounding of 1 + spread * a itself, 1e-9 of the spread, is what is left.
    assert_equal_to(wide_oracle, near_one, a, b, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0])
def test_ssim_of_constants(value):
    a = torch.full((1, 8, 8), value, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    assert torch.equal(structural_similarity(a, a.clone()), one)
    b = a + 1  # the luminance term alone, with R = 1
    luminance = (2 * value * (value + 1) + 1e-4) / (value**2 + (value + 1) ** 2 + 1e-4)
    torch.testing.assert_close(structural_similarity(a, b), luminance * one)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"win_size": 6}, "^win_size must be odd.*got 6"),
        ({"win_size": 9}, "^win_size must be .* the maps, 8, got 9"),
        ({"win_size": 1}, "^win_size must be .* at least 3"),
        ({"win_size": -7}, "^win_size must be"),
        ({"data_range": 0}, "^data_range must be positive"),
        ({"data_range": -1.0}, "^data_range must be positive"),
        ({"data_range": math.inf}, "^data_range must be positive and finite"),
        ({"data_range": math.nan}, "^data_range must be positive"),
    ],
)
def test_bad_ssim_arguments_are_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        structural_similarity(GOOD, GOOD, **arguments)


def test_channels_may_be_last():
    a, b = heavy_tailed((2, 3, 9, 8), 1), heavy_tailed((2, 3, 9, 8), 2)
    last = structural_similarity(a.movedim(1, -1), b.movedim(1, -1), channel_dim=-1)
    torch.testing.assert_close(last, structural_similarity(a, b))
    maps = a[:, 0], b[:, 0]
    assert torch.equal(structural_similarity(*maps, channel_dim=-1), structural_similarity(*maps))
    with pytest.raises(ValueError, match=r"channel_dim must be 1, 2, 3, or -1 .*got 0"):
        structural_similarity(a, b, channel_dim=0)


def test_ssim_needs_pixels():
    with pytest.raises(ValueError, match=r"^a must be maps \(N, H, W\).*got shape \(2, 64\)"):
        structural_similarity(GOOD.flatten(1), GOOD.flatten(1))

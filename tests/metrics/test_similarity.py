"""Similarities against scipy and scikit-image, on data with and without ties."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scipy.stats
import skimage.metrics
import torch

from captum_robust.metrics import (
    _pairs,
    mean_squared_error,
    pearson_correlation,
    relevance_map,
    spearman_correlation,
    structural_similarity,
    top_k_intersection,
)


def rng(seed):
    return torch.Generator().manual_seed(seed)


def top_8_intersection(a, b):
    return top_k_intersection(a, b, k=8)


FUNCTIONS = [
    mean_squared_error,
    pearson_correlation,
    spearman_correlation,
    structural_similarity,
    top_8_intersection,
]
ALL = pytest.mark.parametrize("similarity", FUNCTIONS)


def many_ties(shape, seed):
    """Numbers from a handful of levels, so that nearly all are tied."""
    levels = 2 + seed % 7
    return torch.randint(-levels, levels, shape, generator=rng(seed)).double() / 3


def heavy_tailed(shape, seed):
    return torch.randn(shape, generator=rng(seed), dtype=torch.float64) ** 5


def mostly_zero(shape, seed):
    numbers = torch.randn(shape, generator=rng(seed), dtype=torch.float64)
    return numbers.abs() * (numbers > 1)


def relevance(shape, seed):
    explanations = torch.randn((shape[0], 3, *shape[1:]), generator=rng(seed), dtype=torch.float64)
    return relevance_map(explanations)


def tiny(shape, seed):
    return 1e-160 * heavy_tailed(shape, seed)


def huge(shape, seed):
    return 1e150 * heavy_tailed(shape, seed)


DATA = pytest.mark.parametrize("make", [many_ties, heavy_tailed, mostly_zero, relevance])
EXTREME = pytest.mark.parametrize("make", [many_ties, heavy_tailed, relevance, tiny, huge])
SEEDS = pytest.mark.parametrize("seed", range(6))


def per_example(oracle, a, b):
    values = [float(oracle(x, y)) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    return torch.tensor(values, dtype=torch.float64)


def assert_equal_to(oracle, actual, a, b, atol=1e-12):
    expected = per_example(oracle, a, b)
    assert actual.shape == (len(a),)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=atol)


def oracle_top_k(x, y, k):
    """The sets, as a sort by value and then by position."""

    def top(numbers):
        flat = numbers.ravel().tolist()
        return set(sorted(range(len(flat)), key=lambda i: (-flat[i], i))[:k])

    return len(top(x) & top(y)) / k


def joint_range(x, y):
    return max(x.max(), y.max()) - min(x.min(), y.min())


# --- equal to the reference implementations ------------------------------------------------------


@DATA
@SEEDS
@pytest.mark.parametrize("shape", [(5, 9, 11), (3, 40), (2, 3, 5, 4)])
def test_spearman_equals_scipy(make, seed, shape):
    a, b = make(shape, seed), make(shape, seed + 100)
    assert_equal_to(
        lambda x, y: scipy.stats.spearmanr(x.ravel(), y.ravel()).statistic,
        spearman_correlation(a, b),
        a,
        b,
    )


@EXTREME
@SEEDS
@pytest.mark.parametrize("shape", [(5, 9, 11), (3, 40), (2, 3, 5, 4)])
def test_pearson_equals_scipy(make, seed, shape):
    a, b = make(shape, seed), make(shape, seed + 100)
    assert_equal_to(
        lambda x, y: scipy.stats.pearsonr(x.ravel(), y.ravel()).statistic,
        pearson_correlation(a, b),
        a,
        b,
    )


@DATA
@SEEDS
@pytest.mark.parametrize("shape", [(5, 9, 11), (3, 40)])
def test_mean_squared_error_equals_skimage(make, seed, shape):
    a, b = make(shape, seed), make(shape, seed + 100)
    assert_equal_to(skimage.metrics.mean_squared_error, mean_squared_error(a, b), a, b, atol=0)


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


@DATA
@SEEDS
@pytest.mark.parametrize("k", [1, 8, 50, 99])
def test_top_k_equals_sorted_sets(make, seed, k):
    a, b = make((3, 9, 11), seed), make((3, 9, 11), seed + 100)
    assert_equal_to(lambda x, y: oracle_top_k(x, y, k), top_k_intersection(a, b, k), a, b, atol=0)


# --- properties ----------------------------------------------------------------------------------


@ALL
@DATA
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_explanations(similarity, make, dtype):
    a = make((3, 9, 11), 1).to(dtype)
    expected = 0.0 if similarity is mean_squared_error else 1.0
    torch.testing.assert_close(similarity(a, a.clone()), torch.full((3,), expected, dtype=dtype))


@DATA
@pytest.mark.parametrize("seed", range(20))
def test_correlations_of_identical_explanations_are_exactly_one(make, seed):
    a = make((3, 9, 11), seed)
    for correlation in (pearson_correlation, spearman_correlation):
        assert torch.equal(correlation(a, a.clone()), torch.ones(3, dtype=torch.float64))
        assert torch.equal(correlation(a, -a), -torch.ones(3, dtype=torch.float64))


@ALL
@DATA
def test_symmetry(similarity, make):
    a, b = make((4, 9, 11), 1), make((4, 9, 11), 2)
    torch.testing.assert_close(similarity(a, b), similarity(b, a), rtol=1e-13, atol=1e-13)


@ALL
def test_common_scale_does_not_count(similarity):
    a, b = relevance((4, 9, 11), 1), relevance((4, 9, 11), 2)
    unit = 1e-6 if similarity is mean_squared_error else 1.0
    torch.testing.assert_close(similarity(1e-3 * a, 1e-3 * b), unit * similarity(a, b))


def test_ranks_alone_count_for_spearman():
    a, b = heavy_tailed((4, 60), 1), heavy_tailed((4, 60), 2)
    torch.testing.assert_close(spearman_correlation(a.exp(), b), spearman_correlation(a, b))


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


@ALL
def test_examples_are_independent_and_slices_do_not_show(similarity, monkeypatch):
    a, b = many_ties((7, 9, 11), 1), many_ties((7, 9, 11), 2)
    whole = similarity(a, b)
    one_by_one = torch.cat([similarity(x[None], y[None]) for x, y in zip(a, b, strict=True)])
    torch.testing.assert_close(whole, one_by_one, rtol=1e-14, atol=1e-14)
    for numbers in (1, 2 * 99, 3 * 99 + 5):
        monkeypatch.setitem(_pairs._NUMBERS_AT_ONCE, "cpu", numbers)
        torch.testing.assert_close(similarity(a, b), whole, rtol=1e-14, atol=1e-14)


@ALL
def test_result_is_detached_and_arguments_are_left_alone(similarity):
    a, b = relevance((2, 9, 11), 1).requires_grad_(), relevance((2, 9, 11), 2)
    before = a.detach().clone(), b.clone()
    result = similarity(a, b)
    assert not result.requires_grad
    assert a.requires_grad
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])


@pytest.mark.parametrize("similarity", [f for f in FUNCTIONS if f is not structural_similarity])
def test_tabular_explanation_with_a_graph(similarity):
    a, b = heavy_tailed((3, 20), 1), heavy_tailed((3, 20), 2)
    assert torch.equal(similarity(a.clone().requires_grad_(), b), similarity(a, b))


@ALL
def test_memory_layout_does_not_count(similarity):
    a, b = relevance((3, 9, 11), 1), relevance((3, 9, 11), 2)
    strided = a.transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(similarity(strided, b.clone()), similarity(a, b))
    expanded = a[:1].expand(3, -1, -1)
    torch.testing.assert_close(similarity(expanded, b), similarity(expanded.contiguous(), b))


@ALL
@pytest.mark.parametrize(
    ("a_dtype", "b_dtype", "result"),
    [
        (torch.float16, torch.float16, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.float16, torch.bfloat16, torch.float32),
        (torch.float32, torch.float32, torch.float32),
        (torch.float32, torch.float64, torch.float64),
    ],
)
def test_dtypes(similarity, a_dtype, b_dtype, result):
    a, b = many_ties((3, 9, 11), 1).to(a_dtype), many_ties((3, 9, 11), 2).to(b_dtype)
    actual = similarity(a, b)
    assert actual.dtype == result
    torch.testing.assert_close(actual, similarity(a.double(), b.double()).to(result))


# --- undefined and degenerate --------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 1e-300])
@pytest.mark.parametrize("correlation", [pearson_correlation, spearman_correlation])
def test_correlation_with_a_constant_is_zero_with_a_warning(correlation, value):
    a, b = heavy_tailed((3, 9, 11), 1), heavy_tailed((3, 9, 11), 2)
    defined = correlation(a, b)
    a[1] = value
    for pair in ((a, b), (b, a)):
        with pytest.warns(UserWarning, match=r"a or b is constant for 1 of 3 examples") as record:
            actual = correlation(*pair)
        assert [warning.filename for warning in record] == [__file__]
        assert torch.equal(actual, defined * torch.tensor([1, 0, 1]))


def test_correlation_of_nearly_constant_is_defined():
    a = torch.ones(1, 50, dtype=torch.float64)
    a[0, 7] = np.nextafter(1, 2)
    torch.testing.assert_close(pearson_correlation(a, a), torch.ones(1, dtype=torch.float64))


def test_top_k_of_a_constant_is_the_first_k_with_a_warning():
    a = torch.zeros(2, 10)
    b = torch.arange(20.0).view(2, 10).flip(1)
    with pytest.warns(UserWarning, match="a or b is constant for 2 of 2.*the first 3") as record:
        assert torch.equal(top_k_intersection(a, b, 3), torch.ones(2))
    assert [warning.filename for warning in record] == [__file__]
    with pytest.warns(UserWarning, match="constant"):
        assert torch.equal(top_k_intersection(b.flip(1), a, 3), torch.zeros(2))


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0])
def test_ssim_of_constants(value):
    a = torch.full((1, 8, 8), value, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    assert torch.equal(structural_similarity(a, a.clone()), one)
    b = a + 1  # the luminance term alone, with R = 1
    luminance = (2 * value * (value + 1) + 1e-4) / (value**2 + (value + 1) ** 2 + 1e-4)
    torch.testing.assert_close(structural_similarity(a, b), luminance * one)


# --- refusals ------------------------------------------------------------------------------------

GOOD = torch.arange(128.0).view(2, 8, 8)


def with_value(value):
    bad = GOOD.clone()
    bad[1, 2, 3] = value
    return bad


@ALL
@pytest.mark.parametrize(
    ("a", "b", "error", "match"),
    [
        (with_value(math.nan), GOOD, ValueError, "^a contains NaN or Inf"),
        (GOOD, with_value(math.inf), ValueError, "^b contains NaN or Inf"),
        (GOOD, with_value(-math.inf), ValueError, "^b contains NaN or Inf"),
        (GOOD[:0], GOOD[:0], ValueError, "^a is empty"),
        (GOOD, GOOD[:, :, :0], ValueError, "^b is empty"),
        (GOOD[0, 0], GOOD[0, 0], ValueError, r"^a must have a batch dimension.*a\.unsqueeze\(0\)"),
        (GOOD, GOOD[0, 0], ValueError, r"^b must have a batch dimension.*b\.unsqueeze\(0\)"),
        (GOOD, GOOD[:1], ValueError, r"^b must have the shape of a, \(2, 8, 8\), got \(1, 8, 8\)"),
        (GOOD, GOOD.unsqueeze(1), ValueError, "^b must have the shape of a.*relevance maps"),
        (GOOD.long(), GOOD, TypeError, r"^a must be floating-point.*\.float\(\)"),
        (GOOD, GOOD.to(torch.complex64), TypeError, "^b must be floating-point"),
        ((GOOD,), GOOD, TypeError, "^a must be a tensor, got tuple"),
        (GOOD, GOOD.numpy(), TypeError, "^b must be a tensor, got ndarray"),
        (GOOD, GOOD.to("meta"), ValueError, r"^b is on meta and a on cpu; .*b\.to\(a\.device\)"),
    ],
)
def test_bad_operands_are_named(similarity, a, b, error, match):
    with pytest.raises(error, match=match):
        similarity(a, b)


@pytest.mark.parametrize(
    ("k", "error", "match"),
    [
        (0, ValueError, "^k must be from 1 to .*64, got 0"),
        (-1, ValueError, "^k must be from 1 to .*64, got -1"),
        (65, ValueError, "^k must be from 1 to .*64, got 65"),
        (0.5, TypeError, "^k must be a whole number"),
        (None, TypeError, "^k must be a whole number"),
    ],
)
def test_bad_k_is_named(k, error, match):
    with pytest.raises(error, match=match):
        top_k_intersection(GOOD, GOOD, k)


def test_k_may_be_any_whole_number_type():
    assert torch.equal(top_k_intersection(GOOD, GOOD, np.int64(5)), torch.ones(2))
    assert torch.equal(top_k_intersection(GOOD, GOOD, torch.tensor(64)), torch.ones(2))


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


def test_ssim_needs_pixels():
    with pytest.raises(ValueError, match=r"^a must be maps \(N, H, W\).*got shape \(2, 64\)"):
        structural_similarity(GOOD.flatten(1), GOOD.flatten(1))


# --- other devices -------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@ALL
@EXTREME
def test_gpu_equals_cpu(similarity, make):
    a, b = make((50, 28, 28), 1), make((50, 28, 28), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        on_gpu, on_cpu = similarity(a.cuda(), b.cuda()), similarity(a, b)
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-12, atol=1e-12)

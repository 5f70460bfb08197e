"""What all similarities share: symmetry, independence, precision, refusals, devices."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from captum_robust.metrics import (
    _pairs,
    mean_squared_error,
    pearson_correlation,
    spearman_correlation,
    structural_similarity,
    top_k_intersection,
)
from tests.metrics.helpers import heavy_tailed, huge, many_ties, mostly_zero, relevance, tiny


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
DATA = pytest.mark.parametrize("make", [many_ties, heavy_tailed, mostly_zero, relevance])
EXTREME = pytest.mark.parametrize("make", [many_ties, heavy_tailed, relevance, tiny, huge])
GOOD = torch.arange(128.0).view(2, 8, 8)


def with_value(value):
    bad = GOOD.clone()
    bad[1, 2, 3] = value
    return bad


@ALL
@DATA
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_explanations(similarity, make, dtype):
    a = make((3, 9, 11), 1).to(dtype)
    expected = 0.0 if similarity is mean_squared_error else 1.0
    torch.testing.assert_close(similarity(a, a.clone()), torch.full((3,), expected, dtype=dtype))


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

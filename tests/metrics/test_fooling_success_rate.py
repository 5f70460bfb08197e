"""The rate of fooled examples and Wilson's interval against scipy."""

from __future__ import annotations

import pytest
import scipy.stats
import torch

from captum_robust.metrics import FoolingIntervals, fooling_success_rate


@pytest.mark.parametrize("n", [1, 2, 7, 100])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_the_interval_against_scipy(n, confidence):
    for hits in {0, 1, n // 2, n - 1, n}:
        values = torch.cat([torch.zeros(hits), torch.ones(n - hits)])
        found = fooling_success_rate(values, (0.0, 0.2), confidence=confidence)
        want = scipy.stats.binomtest(hits, n).proportion_ci(confidence, method="wilson")
        assert found.rate == hits / n
        assert found.low == pytest.approx(want.low, abs=1e-9)
        assert found.high == pytest.approx(want.high, abs=1e-9)
        assert 0 <= found.low <= found.rate <= found.high <= 1


def test_it_covers_the_true_rate_about_as_often_as_it_says():
    generator, covered = torch.Generator().manual_seed(0), 0
    for _ in range(400):
        values = torch.rand(40, generator=generator)
        found = fooling_success_rate(values, (0.0, 0.3))
        covered += found.low <= 0.3 <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_both_ends_count_and_the_values_are_handed_back():
    values = torch.tensor([0.1, 0.5, 2.0, 2.1], requires_grad=True)
    found = fooling_success_rate(values, FoolingIntervals().active)
    assert found.fooled.tolist() == [False, True, True, False]
    assert found.rate == 0.5
    assert not found.values.requires_grad
    assert torch.equal(found.values, values)


BAD = {
    "list": (([0.1], (0, 1)), TypeError, "values must be a floating-point tensor, got list"),
    "integers": ((torch.tensor([1]), (0, 1)), TypeError, "values must be a floating-point"),
    "empty": ((torch.zeros(0), (0, 1)), ValueError, "values must be one number for each"),
    "shape": ((torch.zeros(2, 2), (0, 1)), ValueError, r"\(N,\), got shape \(2, 2\)"),
    "nan": ((torch.tensor([float("nan")]), (0, 1)), ValueError, "values has NaN or Inf"),
    "one end": ((torch.zeros(2), 0.2), ValueError, r"fooled_within must be two .*FoolingIntervals"),
    "three ends": ((torch.zeros(2), (0, 1, 2)), ValueError, "fooled_within must be two numbers"),
    "text": ((torch.zeros(2), ("a", "b")), TypeError, "fooled_within must be two numbers"),
    "order": ((torch.zeros(2), (1, 0)), ValueError, "fooled_within must be in order"),
    "end nan": ((torch.zeros(2), (0, float("nan"))), ValueError, "fooled_within must be in order"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    arguments, error, message = BAD[case]
    with pytest.raises(error, match=message):
        fooling_success_rate(*arguments)


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1, 95, "0.95"])
def test_bad_confidence(confidence):
    with pytest.raises(ValueError, match=r"confidence must be between 0 and 1, such as 0\.95"):
        fooling_success_rate(torch.zeros(2), (0, 1), confidence=confidence)

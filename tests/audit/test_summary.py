import numpy as np
import pytest

from captum_robust.audit.summary import Estimate, estimate


def test_the_interval_holds_the_mean_and_shrinks_with_examples():
    values = np.random.default_rng(0).normal(size=400)
    few, many = estimate(values[:25]), estimate(values)
    for found, n in ((few, 25), (many, 400)):
        assert found.low < found.mean < found.high
        # The normal approximation is close for these sizes.
        wanted = 1.96 * values[:n].std() / np.sqrt(n)
        assert (found.high - found.low) / 2 == pytest.approx(wanted, rel=0.15)
    assert many.mean == pytest.approx(values.mean())


def test_the_interval_covers_the_true_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = [
        (found := estimate(generator.normal(size=40), seed)).low <= 0 <= found.high
        for seed in range(200)
    ]
    # Percentile intervals of 40 values cover a little less than 95 %.
    assert 0.88 <= np.mean(covered) <= 0.99


def test_what_is_missing_does_not_count():
    assert estimate([None, float("nan"), 2.0]) == Estimate(2.0, 2.0, 2.0, 1)
    assert estimate([None]) is None


def test_equal_seeds_give_equal_intervals():
    assert estimate(range(9), seed=3) == estimate(range(9), seed=3)
    assert str(estimate([1.0, 1.0])) == "1.000 [1.000, 1.000]"

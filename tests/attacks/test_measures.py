"""Measures and the losses that suit them, against literal loops; gradients in float64."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from scipy.stats import pearsonr, spearmanr

from captum_robust import metrics
from captum_robust.attacks import (
    DistanceTo,
    MapCorrelation,
    RankCorrelation,
    StructuralSimilarity,
    TopKIntersection,
    objectives,
)
from captum_robust.attacks.measures import GivenMeasure, as_measure


def maps(seed, n=3, shape=(4, 5)):
    r = torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return r / r.flatten(1).sum(1).view(-1, *[1] * len(shape))


A, B = maps(1), maps(2)


def test_top_k_intersection_is_that_of_metrics():
    for k in (1, 5, 20):
        expected = metrics.top_k_intersection(A, B, k)
        torch.testing.assert_close(TopKIntersection(k)(A, B), expected.to(A.dtype))


def test_correlations_are_those_of_scipy():
    for i in range(3):
        a, b = A[i].flatten().numpy(), B[i].flatten().numpy()
        assert MapCorrelation()(A, B)[i].item() == pytest.approx(pearsonr(a, b)[0], abs=1e-12)
        assert RankCorrelation()(A, B)[i].item() == pytest.approx(spearmanr(a, b)[0], abs=1e-12)


@pytest.mark.parametrize("win_size", [3, 5])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_ssim_is_that_of_metrics_and_has_a_derivative(win_size, scale):
    a, b = (scale * maps(seed, shape=(6, 7)) for seed in (1, 2))
    measure = StructuralSimilarity(win_size)
    expected = metrics.structural_similarity(a, b, win_size=win_size)
    torch.testing.assert_close(measure(a, b), expected, rtol=1e-9, atol=1e-12)
    a, b = a / scale, b / scale
    # The largest and smallest number set the range, which is a constant: the clean map has them.
    a[:, 0, 0], a[:, 0, 1] = 0.0, 1.0
    loss = measure.losses(a)["similarity"]
    assert torch.autograd.gradcheck(lambda new: loss(new, None), b.requires_grad_())


def test_ssim_of_equal_and_of_constant_maps_is_one():
    constant = torch.full((2, 7, 7), 0.25)
    torch.testing.assert_close(StructuralSimilarity()(constant, constant), torch.ones(2))


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: StructuralSimilarity(4), ValueError, "win_size must be odd"),
        (lambda: StructuralSimilarity(True), TypeError, "win_size must be an integer"),
        (lambda: StructuralSimilarity(7).losses(A), ValueError, "of 7 x 7 pixels"),
        (lambda: StructuralSimilarity(3).losses(A.flatten(1)), ValueError, "MapCorrelation"),
    ],
)
def test_ssim_refuses(make, error, match):
    with pytest.raises(error, match=match):
        make()


def with_ties(seed):
    return torch.where(maps(seed) > 0.04, maps(seed), 0.0)


def test_ties_count_as_in_metrics():
    a, b = with_ties(1), with_ties(2)
    expected = metrics.spearman_correlation(a, b)
    torch.testing.assert_close(RankCorrelation()(a, b), expected.to(a.dtype))
    for k in (1, 12, 19):
        expected = metrics.top_k_intersection(a, b, k)
        torch.testing.assert_close(TopKIntersection(k)(a, b), expected.to(a.dtype))


def literal_soft_top_k(r, region, k, s):
    values = []
    for row, marks in zip(r.flatten(1).tolist(), region.flatten(1).tolist(), strict=True):
        tau = sorted(row, reverse=True)[k - 1]
        inside = [
            1 / (1 + torch.tensor(-(v - tau) / (s * tau), dtype=torch.float64).exp().item())
            for v, mark in zip(row, marks, strict=True)
            if mark
        ]
        values.append(sum(inside) / k)
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("sharpness", [0.1, 0.3, 1.0])
def test_soft_top_k(sharpness):
    region = objectives.top_k_mask(A, 6)
    found = objectives.soft_top_k(B, region, 6, sharpness)
    torch.testing.assert_close(found, literal_soft_top_k(B, region, 6, sharpness))


def test_soft_top_k_becomes_the_intersection():
    region = objectives.top_k_mask(A, 6)
    found = objectives.soft_top_k(B, region, 6, 1e-9)
    # The k-th feature itself is on the edge and counts one half.
    assert ((found - TopKIntersection(6)(A, B)).abs() <= 0.5 / 6 + 1e-9).all()


@pytest.mark.parametrize("name", ["soft rank", "wide soft rank", "correlation"])
def test_losses_of_the_rank_correlation_fall_with_it(name):
    """On the way from the map to its reverse both fall."""
    loss = RankCorrelation().losses(A)[name]
    reverse = A.flatten(1).amax(1).view(-1, 1, 1) - A
    path = [(1 - t) * A + t * reverse + 1e-3 for t in (0.0, 0.3, 0.7, 1.0)]
    values = torch.stack([loss(r, None) for r in path])
    assert (values[-1] < values[0] - 0.5).all()


ALL_LOSSES = {
    f"{type(measure).__name__}, {name}": loss
    for measure in (TopKIntersection(5), RankCorrelation(), MapCorrelation(), DistanceTo(B[0]))
    for name, loss in measure.losses(A).items()
}


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_losses_can_be_differentiated(name):
    """Finite differences of what they are while the detached numbers stay where they are."""
    loss = ALL_LOSSES[name]
    x = maps(7).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x, None).sum(), x)
    assert gradient.isfinite().all()
    assert (gradient != 0).any()
    if "top-k" not in name and "rank" not in name:  # these hold a threshold fixed
        assert torch.autograd.gradcheck(lambda r: loss(r, None), x)


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_losses_of_chosen_rows(name):
    loss, rows = ALL_LOSSES[name], torch.tensor([2, 0, 2])
    x = maps(7)
    torch.testing.assert_close(loss(x[rows], rows), loss(x, None)[rows])


def test_a_function_is_a_measure():
    measure = as_measure(partial(metrics.top_k_intersection, k=5))
    assert isinstance(measure, GivenMeasure)
    assert next(iter(measure.losses(A))) == "soft top-k"
    torch.testing.assert_close(measure(A, B), metrics.top_k_intersection(A, B, 5))
    smooth = as_measure(lambda clean, new: (clean - new).square().flatten(1).sum(1))
    assert next(iter(smooth.losses(A))) == "the measure"
    assert as_measure(measure) is measure


@pytest.mark.parametrize(
    ("measure", "error", "message"),
    [
        (TopKIntersection, TypeError, "measure must be"),
        ("top-k", TypeError, "measure must be"),
        (3, TypeError, "measure must be"),
    ],
    ids=["class", "text", "number"],
)
def test_what_is_no_measure(measure, error, message):
    with pytest.raises(error, match=message):
        as_measure(measure)


def test_measures_that_do_not_fit():
    with pytest.raises(ValueError, match="measure must give one number per example"):
        as_measure(lambda a, b: (a - b).mean())(A, B)
    with pytest.raises(ValueError, match=r"k must be at most.*measure=TopKIntersection\(k="):
        TopKIntersection(21).losses(A)
    for k, error in ((0, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match="k must be"):
            TopKIntersection(k)
    with pytest.raises(ValueError, match="target_maps must be a tensor of non-negative"):
        DistanceTo(-A)
    with pytest.raises(ValueError, match="target_maps must have shape"):
        DistanceTo(torch.ones(3, 3)).losses(A)
    with pytest.raises(ValueError, match="target_maps has a map without relevance"):
        DistanceTo(torch.zeros(4, 5))(A, B)

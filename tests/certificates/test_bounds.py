"""The bounds against scipy's quantiles, against half-spaces, and against all arrangements."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from scipy import stats
from torch.special import ndtr

from captum_robust.certificates import enclosing_l2_radius
from captum_robust.certificates.bounds import confidence_bounds, surviving_radii


@pytest.mark.parametrize("n", [1, 7, 100, 10_000])
@pytest.mark.parametrize("level", [0.025, 1e-9])
def test_clopper_pearson_is_what_the_binomial_tails_say(n, level):
    counts = torch.tensor(sorted({0, 1, n // 3, n // 2, n - 1, n}))
    lower, upper = (ndtr(b).numpy() for b in confidence_bounds(counts, n, level))
    for c, low, high in zip(counts.tolist(), lower, upper, strict=True):
        # The smallest share under which a count of c or more is not rarer than the level.
        if c == 0:
            assert low == 0
        else:
            assert stats.binom.sf(c - 1, n, low) == pytest.approx(level, rel=1e-6)
        if c == n:
            assert high == 1
        else:
            assert stats.binom.cdf(c, n, high) == pytest.approx(level, rel=1e-6)


def test_bounds_keep_shape_and_mirror():
    counts = torch.randint(0, 51, (4, 6), generator=torch.Generator().manual_seed(0))
    lower, upper = confidence_bounds(counts, 50, 0.01)
    assert lower.shape == upper.shape == counts.shape
    assert (lower < upper).all()
    other_lower, other_upper = confidence_bounds(50 - counts, 50, 0.01)
    assert torch.equal(other_lower, -upper)
    assert torch.equal(other_upper, -lower)


@pytest.mark.parametrize(
    ("counts", "level", "message"),
    [([3, 11], 0.1, "from 0 to 10"), ([-1], 0.1, "from 0 to 10"), ([1], 1.0, "below 1")],
    ids=["above", "below", "level"],
)
def test_bad_counts(counts, level, message):
    with pytest.raises(ValueError, match=message):
        confidence_bounds(torch.tensor(counts), 10, level)


def test_a_half_space_reaches_the_bound():
    """Mark where z_1 > 0: the share moves by exactly rho / s on the normal scale."""
    s, x, rho = 0.3, torch.tensor([0.2, -0.1], dtype=torch.float64), 0.25
    score = torch.special.ndtri(ndtr(x / s))
    moved = torch.special.ndtri(ndtr((x - rho) / s))
    torch.testing.assert_close(moved, score - rho / s)


@pytest.mark.parametrize("seed", range(20))
def test_no_arrangement_within_the_scores_has_a_smaller_overlap(seed):
    """All shares within the bounds, on a grid with ties: the certificate is sound, and exact."""
    generator = torch.Generator().manual_seed(seed)
    k, others = 3, int(torch.randint(1, 5, (1,), generator=generator))
    inside = torch.randint(0, 5, (1, k), generator=generator).double()
    outside = torch.randint(-2, 4, (1, others), generator=generator).double()
    radii = surviving_radii(inside, outside, stdev=2.0)[0]
    for rho in (0.0, 0.5, 1.0, 1.5, 2.5):
        certified = int((radii > rho).sum())
        worst = k
        # The worst case is at the ends of the intervals: each inside low, each outside high.
        low, high = (inside - rho / 2)[0].tolist(), (outside + rho / 2)[0].tolist()
        values = [(v, 1) for v in low] + [(v, 0) for v in high]
        for chosen in product([False, True], repeat=len(values)):
            if sum(chosen) != k:
                continue
            taken = [v for v, c in zip(values, chosen, strict=True) if c]
            left = [v for v, c in zip(values, chosen, strict=True) if not c]
            if min(v for v, _ in taken) >= max(v for v, _ in left):  # a top k, ties in any order
                worst = min(worst, sum(mine for _, mine in taken))
        assert certified == worst


def test_where_few_others_exist_some_always_stay():
    radii = surviving_radii(torch.tensor([[-9.0, -9.0, -9.0]]), torch.tensor([[9.0]]))
    assert radii[0, :2].tolist() == [torch.inf, torch.inf]
    assert radii[0, 2] < 0


def test_never_marked_and_always_marked():
    lower, upper = confidence_bounds(torch.tensor([[0, 10]]), 10, 0.1)
    assert lower[0, 0] == -torch.inf
    assert upper[0, 1] == torch.inf
    radii = surviving_radii(lower[:, :1], upper[:, 1:])  # never marked inside, always outside
    assert radii.tolist() == [[-torch.inf]]


def test_the_enclosing_ball_holds_the_corners():
    x = torch.zeros(2, 3, 4)
    corner = torch.full((3, 4), 0.1)
    assert enclosing_l2_radius(0.1, x) == pytest.approx(corner.norm().item())
    assert enclosing_l2_radius(0.1, (x, x)) == pytest.approx(0.1 * 24**0.5)
    with pytest.raises(ValueError, match="eps must be positive"):
        enclosing_l2_radius(0.0, x)

"""Stability against a fine minimisation of the literal formula; what it shares with the
sensitivities is tested with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from scipy.optimize import minimize_scalar
from torch import nn

from captum_robust.metrics import explanation_stability
from tests.helpers import rng


def literal(clean, moved):
    """inf over gamma > 0 of max over j of |phi_j - gamma phi|, by scipy and a fine grid."""

    def largest(gamma):
        return np.linalg.norm(moved - gamma * clean, axis=1).max()

    norm = np.linalg.norm(clean)
    top = 2 * np.linalg.norm(moved, axis=1).max() / norm
    grid = np.linspace(0, top, 2001)
    best = grid[np.argmin([largest(g) for g in grid])]
    step = grid[1]
    found = minimize_scalar(
        largest, bounds=(max(0, best - step), best + step), method="bounded",
        options={"xatol": 1e-13 * top},
    )  # fmt: skip
    return min(found.fun, largest(best), largest(0.0))


def stability_of(clean, moved):
    """The metric of explanations that are written down: (N, F) and (N, m, F)."""
    n, m, _ = moved.shape

    def explain(rows):
        return (
            clean if len(rows) == n and not rows.any() else moved.flatten(0, 1)[rows[:, 0].long()]
        )

    numbers = torch.arange(n * m, dtype=clean.dtype).view(-1, 1)
    return explanation_stability(
        explain, torch.zeros(n, 1, dtype=clean.dtype), lambda x: numbers + 0.5, n_perturb_samples=m
    )


def draw(case, n, m, f, seed):
    generator = rng(seed)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    clean = normal(n, f)
    scales = 3 * torch.rand(n, m, 1, generator=generator, dtype=torch.float64)
    return clean, {
        "independent": lambda: normal(n, m, f),
        "near": lambda: clean.unsqueeze(1) + 0.1 * normal(n, m, f),
        "rescaled": lambda: scales * clean.unsqueeze(1) + 1e-3 * normal(n, m, f),
        "turned around": lambda: -scales * clean.unsqueeze(1) + 0.1 * normal(n, m, f),
        "some turned": lambda: (scales - 1.5) * clean.unsqueeze(1) + normal(n, m, f),
        "sizes": lambda: 10 ** (3 * normal(n, m, 1)) * normal(n, m, f),
    }[case]()


CASES = ["independent", "near", "rescaled", "turned around", "some turned", "sizes"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("m", "f"), [(1, 3), (2, 2), (3, 5), (17, 4), (200, 30)])
def test_against_a_fine_minimisation(case, m, f):
    clean, moved = draw(case, 6, m, f, seed=m)
    got = stability_of(clean, moved)
    want = [literal(c, p) for c, p in zip(clean.numpy(), moved.numpy(), strict=True)]
    # Scipy's bounded search ends within the root of the machine precision of its best gamma.
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), rtol=1e-6, atol=0.0)
    assert (got <= torch.tensor(want) * (1 + 1e-12)).all()  # the exact minimum is never above


def test_one_point_is_a_projection():
    clean, moved = draw("independent", 8, 1, 5, seed=1)
    moved = moved.squeeze(1)
    moved[0] = -clean[0] + moved[0] / 10  # the projection would turn the explanation around
    gamma = ((moved * clean).sum(1, keepdim=True) / (clean * clean).sum(1, keepdim=True)).clamp(
        min=0
    )
    assert (gamma == 0).any()
    assert (gamma > 0).any()
    torch.testing.assert_close(
        stability_of(clean, moved.unsqueeze(1)), (moved - gamma * clean).norm(dim=1)
    )


def test_two_points_on_the_line_of_the_explanation_meet_in_the_middle():
    clean = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    moved = torch.stack([2 * clean, 4 * clean], dim=1)
    torch.testing.assert_close(stability_of(clean, moved), torch.tensor([5.0]).double())


def test_where_everything_turns_around_the_infimum_is_the_largest_norm():
    clean, moved = torch.tensor([[1.0, 0.0]]), torch.tensor([[[-3.0, 4.0], [-1.0, 0.0]]])
    torch.testing.assert_close(stability_of(clean, moved), torch.tensor([5.0]))


def test_tiny_changes_keep_their_digits():
    """The difference of squares would lose all of them."""
    clean = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    moved = torch.tensor([[[1.7, 1e-12], [1.7, -3e-12]]], dtype=torch.float64)
    got = stability_of(clean, moved)
    torch.testing.assert_close(got, torch.tensor([3e-12]).double(), rtol=1e-8, atol=0.0)


@pytest.mark.parametrize("size", [1e-140, 1e-30, 1.0, 1e30, 1e140])
def test_the_unit_is_that_of_the_explanation(size):
    clean, moved = draw("some turned", 5, 7, 4, seed=3)
    got, plain = stability_of(size * clean, size * moved), stability_of(clean, moved)
    torch.testing.assert_close(got / size, plain)


def test_the_scale_of_the_clean_explanation_does_not_count_and_its_sign_does():
    clean, moved = draw("near", 5, 7, 4, seed=3)
    plain = stability_of(clean, moved)
    torch.testing.assert_close(stability_of(100 * clean, moved), plain)
    torch.testing.assert_close(stability_of(-clean, moved), moved.norm(dim=2).amax(1))
    assert (plain < moved.norm(dim=2).amax(1)).all()


def test_an_explanation_that_only_rescales_is_stable():
    x = torch.rand(4, 6, generator=rng())
    w = torch.randn(6, generator=rng(1))
    model = lambda x: torch.sigmoid(x @ w)  # noqa: E731
    # One gamma for one point; for several, which rescale differently, there is none.
    got = explanation_stability(Saliency(model), x, None, 0.5, 1, abs=False, generator=rng())
    assert (got < 1e-6).all()
    bent = lambda x: torch.sigmoid(x.square() @ w)  # noqa: E731
    got = explanation_stability(Saliency(bent), x, None, 0.5, 30, abs=False, generator=rng())
    assert (got > 1e-3).all()


def test_a_zero_explanation_has_a_value_and_a_warning():
    explain = lambda x: x.clamp(min=0)  # noqa: E731
    x = torch.tensor([[-1.0, -1.0], [3.0, 4.0]])
    with pytest.warns(UserWarning, match="all zero for 1 of 2"):
        got = explanation_stability(explain, x, lambda x: x + 2)
    parallel = torch.tensor([5.0, 6.0]) @ torch.tensor([0.6, 0.8])
    perpendicular = math.sqrt(61 - parallel**2)
    torch.testing.assert_close(got, torch.tensor([2**0.5, perpendicular]))


def test_two_inputs_are_one_explanation():
    x, y = (torch.randn(3, 4, generator=rng(s), dtype=torch.float64) for s in (1, 2))

    def explain(inputs):
        return tuple(t**2 for t in inputs)

    def move(inputs):
        return tuple(t + 0.3 for t in inputs)

    def both(x):
        return torch.cat([part**2 for part in x.split(4, dim=1)], dim=1)

    got = explanation_stability(explain, (x, y), move)
    want = explanation_stability(both, torch.cat([x, y], dim=1), lambda x: x + 0.3)
    torch.testing.assert_close(got, want)


def test_an_example_is_measured_on_its_own():
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x, target = (
        torch.randn(5, 4, generator=rng(), dtype=torch.float64),
        torch.tensor([0, 1, 2, 1, 0]),
    )
    move = lambda x: x + 0.2 * torch.sin(9 * x)  # noqa: E731
    together = explanation_stability(Saliency(network), x, move, target=target)
    alone = [
        explanation_stability(Saliency(network), x[i : i + 1], move, target=target[i : i + 1])
        for i in range(5)
    ]
    torch.testing.assert_close(together, torch.cat(alone))
    assert together.min() > 0

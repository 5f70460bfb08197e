"""The slope that answers show, against its formula."""

from __future__ import annotations

import torch

from captum_robust.attacks._learned_search import Answers
from tests.helpers import rng


def test_the_slope_is_the_ridge_regression_of_its_formula():
    generator = rng()
    n, n_features, n_relevances, asked = 2, 6, 4, 5

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    points, maps = draw(asked, n, n_features), draw(asked, n, n_relevances)
    answers = Answers(n, n_features, n_relevances, points)
    for point, found in zip(points, maps, strict=True):
        answers.add(point, found)
    here, relevance, direction = draw(n, n_features), draw(n, n_relevances), draw(n, n_relevances)
    slope = answers.slope(here, relevance, direction)
    for i in range(n):
        d = points[:, i] - here[i]
        ridge = 1e-2 * d.square().sum(1).mean() * torch.eye(asked, dtype=torch.float64)
        rises = (maps[:, i] - relevance[i]) @ direction[i]
        torch.testing.assert_close(slope[i], d.T @ torch.linalg.inv(d @ d.T + ridge) @ rises)


def test_the_slope_of_a_linear_explanation_is_its_matrix():
    generator = rng()
    matrix = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    answers = Answers(1, 6, 4, matrix)
    for _ in range(700):  # more than are remembered: the oldest go
        point = torch.randn(1, 6, generator=generator, dtype=torch.float64)
        answers.add(point, point @ matrix.T)
    here, direction = point, torch.ones(1, 4, dtype=torch.float64)
    slope = answers.slope(here, here @ matrix.T, direction)
    # The penalty shrinks it a little.
    torch.testing.assert_close(slope, direction @ matrix, rtol=1e-3, atol=1e-3)


def test_answers_that_are_not_numbers_or_all_the_same_give_no_slope():
    answers = Answers(1, 3, 2, torch.zeros(1))
    here, relevance, direction = torch.zeros(1, 3), torch.zeros(1, 2), torch.ones(1, 2)
    for value in (torch.nan, torch.inf, 0.0):
        answers.add(here, torch.full((1, 2), value))
    assert torch.equal(answers.slope(here, relevance, direction), here)


def test_the_memory_is_bounded_with_the_products():
    like = torch.empty(0, device="meta")
    for n, width in ((10_000, 20), (1_000, 20), (30, 784), (1, 150_528)):
        answers = Answers(n, width, width, like)
        held = answers._points, answers._maps, answers._products
        assert sum(t.numel() for t in held) <= 2**26
    assert Answers(30, 784, 784, like)._points.shape[1] == 300

"""A gradient without gradients: learned from the answers to all queries so far."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from captum_robust.attacks._best_iterate import BestIterate, per_example
from captum_robust.attacks._proposals import stratified_normal
from captum_robust.attacks._random_search import Problem

# Of each round: pairs of opposite samples around the candidate, and steps that follow.
_PAIRS, _STEPS = 2, 8
# Standard deviation of the samples, first and last step, in units of the radius.
_SPREAD, _FIRST_STEP, _LAST_STEP = 0.5, 0.5, 0.05
_MOMENTUM = 0.75
# The penalty on the slope, as a share of the mean squared distance of the answers.
_RIDGE = 1e-2
# How many answers are remembered, and how many numbers they may take.
_ANSWERS, _NUMBERS = 300, 2**26


class Answers:
    r"""The last answers of an explanation, and the slope of it that they show.

    Relevance maps :math:`R_i` at points that lie :math:`\delta_i` away from where the slope is
    asked for. In direction v of the maps it is the ridge regression

    .. math:: g = D^T (D D^T + \lambda I)^{-1} (R - r)\, v

    with the :math:`\delta_i` as rows of D and the relevance r there. A natural evolution strategy
    learns one number from a query and forgets it; this learns a whole map, and keeps it.

    Args:
        n: Number of examples.
        n_features: Numbers in an example.
        n_relevances: Numbers in a relevance map.
        like: Tensor whose device and dtype the memory has; at least float32.
    """

    def __init__(self, n: int, n_features: int, n_relevances: int, like: Tensor) -> None:
        # With their products, n * capacity * (width + capacity) numbers.
        width = n_features + n_relevances
        largest = (math.sqrt(width**2 + 4 * _NUMBERS / max(1, n)) - width) / 2
        capacity = max(1, min(_ANSWERS, int(largest)))
        dtype = torch.promote_types(like.dtype, torch.float32)
        self._points = like.new_zeros((n, capacity, n_features), dtype=dtype)
        self._maps = like.new_zeros((n, capacity, n_relevances), dtype=dtype)
        self._products = like.new_zeros((n, capacity, capacity), dtype=dtype)
        self._asked = 0

    def add(self, point: Tensor, relevance: Tensor) -> None:
        """Remember a point (n, n_features) and its map (n, n_relevances); the oldest goes."""
        at = self._asked % self._points.shape[1]
        self._points[:, at] = point
        self._maps[:, at] = relevance.nan_to_num()
        row = self._products_with(self._points[:, at])
        self._products[:, at], self._products[:, :, at] = row, row
        self._asked += 1

    def slope(self, point: Tensor, relevance: Tensor, direction: Tensor) -> Tensor:
        """The slope at ``point`` of the maps' product with ``direction``, (n, n_features)."""
        point, direction = point.to(self._points), direction.to(self._maps)
        known = min(self._asked, self._points.shape[1])
        to_point = self._products_with(point)[:, :known]
        products = (
            self._products[:, :known, :known]
            - to_point[:, :, None]
            - to_point[:, None, :]
            + point.square().sum(1)[:, None, None]
        )
        distances = products.diagonal(dim1=1, dim2=2)
        penalty = _RIDGE * distances.mean(1) + torch.finfo(products.dtype).tiny
        rises = (self._maps[:, :known] @ direction[:, :, None])[:, :, 0]
        rises = rises - (relevance.to(self._maps) * direction).sum(1, keepdim=True)
        matrix = products + torch.diag_embed(penalty[:, None].expand_as(distances))
        root, _ = torch.linalg.cholesky_ex(matrix)  # does not ask the device whether it worked
        weights = torch.cholesky_solve(rises[:, :, None], root)[:, :, 0].nan_to_num()
        combined = (weights[:, None] @ self._points[:, :known])[:, 0]
        return combined - weights.sum(1, keepdim=True) * point

    def _products_with(self, point: Tensor) -> Tensor:
        return (self._points @ point[:, :, None])[:, :, 0]


class LearnedSearch:
    """Random corners of the ball, then steps down the slope that :class:`Answers` shows.

    Args:
        problem: What is searched.
        best: Keeps the best candidates.
    """

    def __init__(self, problem: Problem, best: BestIterate) -> None:
        self._problem, self._best = problem, best
        images, clean = problem.images, problem.clean
        self.x, self.values = images, torch.full_like(problem.loss(clean, None), torch.inf)
        """The best candidates so far, and what a search compares, at these."""
        self._relevance = clean
        eps = torch.as_tensor(problem.limits.eps).to(images)
        self._unit = torch.where(eps > 0, eps, 1)
        n = len(images)
        self._answers = Answers(n, images[0].numel(), clean[0].numel(), images)

    def run(self, corners: int, queries: int, advance: Callable[[int], object]) -> None:
        """Judge ``queries`` candidates of each example, of which the first are ``corners``."""
        problem = self._problem
        for _ in range(corners):
            self._ask(problem.limits.draw_extreme(problem.images, problem.generator))
            advance(1)
        x, relevance = self.x, self._relevance
        momentum = torch.zeros_like(x)
        asked = corners
        while asked < queries:
            noise = stratified_normal(x[0], _PAIRS, problem.generator)
            for sample in noise[: queries - asked]:
                self._ask(self._within(x + _SPREAD * self._moved(sample.expand_as(x))))
                asked += 1
                advance(1)
            for _ in range(min(_STEPS, queries - asked)):
                step = _FIRST_STEP * (_LAST_STEP / _FIRST_STEP) ** (asked / queries)
                slope = self._slope(x, relevance)
                size = per_example(slope.abs().flatten(1).mean(1), x)
                momentum = _MOMENTUM * momentum + slope / torch.where(size > 0, size, 1)
                unit = problem.limits.ball.direction(momentum)
                candidate, seen, valid = self._ask(self._within(x - step * self._moved(unit)))
                # The loss need not fall at each step; a lost prediction goes back to the best.
                x = torch.where(per_example(valid, x), candidate, self.x)
                relevance = torch.where(per_example(valid, relevance), seen, self._relevance)
                asked += 1
                advance(1)

    def _moved(self, unit: Tensor) -> Tensor:
        return (torch.as_tensor(self._problem.limits.eps).to(unit) * unit).to(unit.dtype)

    def _within(self, x: Tensor) -> Tensor:
        return self._problem.limits.project(x, self._problem.images)

    def _change(self, x: Tensor) -> Tensor:
        """From the clean examples, in units of the radius, (n, n_features)."""
        return ((x - self._problem.images) / self._unit).flatten(1)

    def _slope(self, x: Tensor, relevance: Tensor) -> Tensor:
        with torch.enable_grad():
            known = relevance.detach().requires_grad_()
            loss = self._problem.loss(known, None).sum()
            direction = (
                torch.autograd.grad(loss, known, allow_unused=True)[0]
                if loss.requires_grad
                else None
            )
        if direction is None:  # a measure that has no derivative
            return torch.zeros_like(x)
        flat = direction.nan_to_num().flatten(1)
        return self._answers.slope(self._change(x), relevance.flatten(1), flat).view_as(x).to(x)

    def _ask(self, moved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Judge candidates; they, their relevance, and whether they keep the prediction."""
        problem = self._problem
        candidate = problem.limits.candidate(moved, problem.images)
        seen, measure, value = problem.judge(candidate, None)
        relevance = seen.relevance.detach()
        valid = self._best.update(candidate, measure, seen, None)
        self._answers.add(self._change(candidate), relevance.flatten(1))
        better = valid & (value < self.values)
        self.values = torch.where(better, value, self.values)
        self.x = torch.where(per_example(better, candidate), candidate, self.x)
        self._relevance = torch.where(per_example(better, relevance), relevance, self._relevance)
        return candidate, relevance, valid

"""Many searches in one batch: each row is an example, a loss and a pace of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from captum_robust.attacks._best_iterate import BestIterate, per_example
from captum_robust.attacks._explained import Explained
from captum_robust.attacks._random_search import Problem
from captum_robust.attacks.measures import Loss
from captum_robust.attacks.schedules import Schedule, value_at

# Steps in units of the radius, at the start of a round and at its end.
_FIRST, _LAST = 0.15, 0.03
# As APGD: a step size is halved where fewer than this share of steps made progress.
_ENOUGH_PROGRESS = 0.1
_CHECKS_A_ROUND = 3


@dataclass(frozen=True)
class Segment:
    """Rows of a batch that descend the same loss, an example in each.

    Args:
        member: Whom a gain is credited to.
        loss: What is descended.
        rows: The examples, none twice.
        x: Where each starts.
    """

    member: str
    loss: Loss
    rows: Tensor
    x: Tensor


class Round:
    """Some steps of several segments together; the network sees them as one batch.

    Args:
        problem: What is searched.
        best: Keeps the best candidates of each example.
        segments: What is searched for, and from where.
        beta: Sharpness of the surrogate along the round; None: the true model.
        reached: (N,) the lowest measure that any gradient led to; it is written to.
        momentum: Share of the last gradient's direction that is kept.
    """

    def __init__(
        self,
        problem: Problem,
        best: BestIterate,
        segments: Sequence[Segment],
        beta: float | Schedule | None,
        reached: Tensor,
        momentum: float = 0.0,
    ) -> None:
        self._problem, self._best, self._segments = problem, best, list(segments)
        self._beta, self._momentum, self._reached = beta, momentum, reached
        self._join()
        self.agreement: list[tuple[Tensor, Tensor]] = []
        self.gains: dict[str, Tensor] = {}
        self._first_loss: Tensor | None = None
        self.loss_fell = torch.zeros(len(problem.images), device=problem.images.device)
        """In how many steps an example's loss was below the first by a tenth, (N,)."""

    def _join(self) -> None:
        """Put the segments behind one another."""
        self._rows = torch.cat([s.rows for s in self._segments])
        self._x = torch.cat([s.x for s in self._segments])
        self._center = self._problem.images[self._rows]
        self._velocity = torch.zeros_like(self._x)
        self._size = torch.ones(len(self._rows), dtype=self._x.dtype, device=self._x.device)
        self._anchor, self._value = self._x, torch.full_like(self._size, torch.inf)
        self._progressed = torch.zeros_like(self._size)

    def run(self, steps: int) -> int:
        """Take the steps; how many gradients of an example were computed, all rows together."""
        check = max(1, steps // _CHECKS_A_ROUND)
        evaluations = 0
        for i in range(steps):
            progress = i / max(1, steps - 1)
            gradient, maps = self._gradient(progress)
            evaluations += len(self._rows)
            if self._beta is None and i == 0 and not bool((gradient != 0).any()):
                break  # a network of rectifiers has no second derivative to follow
            self._move(gradient, progress)
            self._score(maps if i % check == 0 else None)
            if (i + 1) % check == 0 and i + 1 < steps:
                self._adapt(check)
                if not self._drop():
                    break
        return evaluations

    def _gradient(self, progress: float) -> tuple[Tensor, Tensor]:
        x = self._x.detach().requires_grad_()
        beta = None if self._beta is None else value_at(self._beta, progress)
        relevance = self._problem.view.explain_surrogate(x, beta, self._rows).relevance
        losses = torch.cat(
            [s.loss(r, s.rows) for s, r in zip(self._segments, self._split(relevance), strict=True)]
        )
        (gradient,) = torch.autograd.grad(losses.sum(), x)
        self._note_losses(losses.detach())
        for s, part in zip(self._segments, self._split(gradient), strict=True):
            self._best.note_gradient(part, s.rows)
        return gradient, relevance.detach()

    def _note_losses(self, losses: Tensor) -> None:
        """Remember which examples' loss fell on the surrogate, by a tenth or more."""
        if self._first_loss is None:
            self._first_loss = losses
        fell = losses < self._first_loss - 0.1 * self._first_loss.abs()
        self.loss_fell.index_put_((self._rows,), fell.to(self.loss_fell.dtype), accumulate=True)

    def _move(self, gradient: Tensor, progress: float) -> None:
        if self._momentum:
            average = gradient.abs().flatten(1).mean(1).clamp(min=torch.finfo(gradient.dtype).tiny)
            unit = gradient / per_example(average, gradient)
            self._velocity = self._momentum * self._velocity + unit
            gradient = self._velocity
        limits = self._problem.limits
        size = ((1 - progress) * _FIRST + progress * _LAST) * per_example(self._size, gradient)
        step = (size * limits.eps).to(gradient.dtype) * limits.ball.direction(gradient)
        self._x = limits.project(self._x - step, self._center)

    def _score(self, surrogate_maps: Tensor | None) -> None:
        """Judge the rows on the true model; remember each row's best point by its own loss."""
        problem = self._problem
        candidate = problem.limits.candidate(self._x, self._center)
        seen = problem.view.explain(candidate, self._rows)
        measure = problem.measure(problem.clean[self._rows], seen.relevance)
        values, start = [], 0
        for s, relevance in zip(self._segments, self._split(seen.relevance), strict=True):
            part = slice(start, start := start + len(s.rows))
            valid = self._keep(candidate[part], measure[part], seen, part, s)
            values.append(torch.where(valid, s.loss(relevance, s.rows), torch.inf))
        value = torch.cat(values)
        better = value < self._value
        self._progressed = self._progressed + better
        self._value = torch.where(better, value, self._value)
        self._anchor = torch.where(per_example(better, self._x), self._x, self._anchor)
        if surrogate_maps is not None:
            self.agreement.append((self._rows, _correlation(surrogate_maps, seen.relevance)))

    def _keep(
        self, x: Tensor, measure: Tensor, seen: Explained, part: slice, segment: Segment
    ) -> Tensor:
        """Hand the candidates of one segment over, and credit the gain to its member.

        Returns:
            Which of them count: the others are no success, and no place to stay.
        """
        rows = segment.rows
        before = self._best.score[rows]
        own = Explained(seen.relevance[part], lambda: seen.output[part])
        valid = self._best.update(x, measure, own, rows)
        lowest = torch.where(valid, measure, torch.inf).minimum(self._reached[rows])
        self._reached.index_copy_(0, rows, lowest)
        gain = (before - self._best.score[rows]).sum()
        self.gains[segment.member] = self.gains.get(segment.member, torch.zeros_like(gain)) + gain
        return valid

    def _adapt(self, steps: int) -> None:
        """Halve the steps of rows that made little progress, and take them back to their best."""
        slow = self._progressed < _ENOUGH_PROGRESS * steps
        back = slow & self._value.isfinite()
        self._size = torch.where(slow, self._size / 2, self._size)
        self._x = torch.where(per_example(back, self._x), self._anchor, self._x)
        self._velocity = torch.where(per_example(back, self._x), 0, self._velocity)
        self._progressed = torch.zeros_like(self._progressed)

    def _drop(self) -> bool:
        """Leave out the rows whose example is at the floor; whether any are left."""
        open_rows = (self._best.score > self._problem.measure.floor)[self._rows]
        kept = open_rows.nonzero().squeeze(1)  # the one synchronisation with the device
        if len(kept) == len(self._rows):
            return True
        counts = [int(part.sum()) for part in self._split(open_rows)]
        rows, x = self._rows[kept], self._x[kept]
        self._segments = [
            replace(s, rows=r, x=start)
            for s, r, start in zip(self._segments, rows.split(counts), x.split(counts), strict=True)
        ]
        self._rows, self._x, self._center = rows, x, self._center[kept]
        self._velocity, self._size = self._velocity[kept], self._size[kept]
        self._anchor, self._value = self._anchor[kept], self._value[kept]
        self._progressed = self._progressed[kept]
        if self._first_loss is not None:
            self._first_loss = self._first_loss[kept]
        return len(kept) > 0

    def _split(self, values: Tensor) -> tuple[Tensor, ...]:
        return values.split([len(s.rows) for s in self._segments])


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = (m.flatten(1) - m.flatten(1).mean(1, keepdim=True) for m in (a, b))
    tiny = torch.finfo(a.dtype).tiny
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=tiny)

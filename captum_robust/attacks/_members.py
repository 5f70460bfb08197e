"""Who takes part in the ensemble, and who gets how much of the budget."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from captum_robust.attacks._best_iterate import BestIterate
from captum_robust.attacks._ensemble import Round, Segment
from captum_robust.attacks._random_search import Problem, RandomSearch
from captum_robust.attacks.measures import Loss
from captum_robust.attacks.report import Indicator
from captum_robust.attacks.schedules import GeometricGrowth, Schedule

_GROWING = GeometricGrowth(10.0, 100.0)
_SHARP = GeometricGrowth(50.0, 200.0)

# Below this budget nothing is spent on a look without gradients.
_ENOUGH_TO_ASK = 200
_SHARE_OF_ASKING = 0.05
# Steps of a round; a smaller budget has two rounds.
_STEPS = 50
_ASKING = "without gradients"
# A few lucky squares do not show anything.
_TOLERATED = 0.1
_MASKED = (
    "a short search without gradients found more than all that followed them, so these are masked "
    "(quantised inputs, steps, rounding): give most of the budget to BlackBoxExplanationAttack"
)


@dataclass
class Member:
    """A way to search.

    Args:
        name: For the report.
        loss: What it descends.
        start: "clean", "random", "best" or "near", a random point about the best.
        beta: Sharpness of its surrogate; None: the true model.
        gain: What it took off the measure lately, per evaluation.
        last: The round in which it last took part.
    """

    name: str
    loss: Loss
    start: str
    beta: float | Schedule | None
    gain: float = torch.inf
    last: int = -1


class Ensemble:
    """Members that share a budget.

    Args:
        problem: What is searched.
        best: Keeps the best candidates.
        budget: Gradient evaluations an example.
    """

    def __init__(self, problem: Problem, best: BestIterate, budget: int) -> None:
        self._problem, self._best, self._budget = problem, best, budget
        self._n = len(problem.images)
        self.evaluations = 0
        self._gains: dict[str, Tensor] = {}
        self._agreement: list[tuple[Tensor, Tensor]] = []
        self._asked: Tensor | None = None
        self.loss_fell = torch.zeros_like(best.score, dtype=torch.bool)
        """Whether an example's loss fell on a surrogate, (N,)."""
        self._reached = torch.full_like(best.score, torch.inf)
        self._round = 0
        self._steps = max(1, min(_STEPS, budget // 2))
        self._members = self._make_members()

    def _make_members(self) -> list[Member]:
        losses = self._problem.losses
        first, *others = losses

        def member(loss: str, start: str, beta: float | Schedule | None, what: str) -> Member:
            return Member(f"{loss}, {what}", losses[loss], start, beta)

        # In the order in which they took most off the zoo's network; whoever gains goes on.
        return [
            member(first, "clean", _GROWING, "clean start"),
            member(first, "best", _SHARP, "sharp"),
            *(member(name, "best", _GROWING, "best start") for name in others),
            member(first, "random", _GROWING, "random start"),
            *(member(name, "near", _SHARP, "near the best") for name in others[:1]),
            member(first, "near", _GROWING, "near the best"),
            *(member(name, "random", _GROWING, "random start") for name in others[:1]),
            Member("drawn elsewhere", self._elsewhere(), "near", _GROWING),
            member(first, "best", None, "no surrogate"),
        ]

    def _elsewhere(self) -> Loss:
        """Minus the relevance on what is most relevant among the rest of the clean map."""
        clean = self._problem.clean.flatten(1)
        n_features = clean.shape[1]
        k = max(1, min(n_features // 2, getattr(self._problem.measure, "k", n_features // 10)))
        order = clean.argsort(1, descending=True)
        region = torch.zeros_like(clean).scatter_(1, order[:, k : 2 * k], 1.0)

        def loss(relevance: Tensor, rows: Tensor | None) -> Tensor:
            chosen = region if rows is None else region[rows]
            return -(relevance.flatten(1) * chosen).sum(1)

        return loss

    def run(self, description: str | None) -> None:
        """Spend the budget."""
        total = self._budget * self._n
        with tqdm(total=total, desc=description, disable=description is None) as bar:
            while self.evaluations < total:
                before = self.evaluations
                rows = (self._best.score > self._problem.measure.floor).nonzero().squeeze(1)
                if len(rows) == 0:
                    break
                left = (total - self.evaluations) // len(rows)
                if left == 0:
                    break
                if self._round == 1 and self._budget >= _ENOUGH_TO_ASK:
                    self._ask(rows, min(left, max(10, int(_SHARE_OF_ASKING * self._budget))))
                else:
                    self._search(rows, left)
                self._round += 1
                bar.update(self.evaluations - before)

    def _search(self, rows: Tensor, left: int) -> None:
        """One round of the next member, or without gradients where these are zero."""
        blind = self._best.without_gradient()
        if self._round > 0 and bool(blind[rows].all()):
            self._ask(rows, left)
            return
        member = self._next()
        steps = min(self._steps, left)
        if left - steps < self._steps // 2:
            steps = left
        segment = Segment(member.name, member.loss, rows, self._start(member.start, rows))
        part = Round(self._problem, self._best, [segment], member.beta, self._reached)
        before = self._best.score.sum()
        spent = part.run(steps)
        self.evaluations += spent
        if spent < len(rows) * min(steps, 2) and member.beta is None:
            self._members.remove(member)  # the model itself has no second derivative
        self._agreement += part.agreement
        self.loss_fell = self.loss_fell | (part.loss_fell > 0)
        for name, gain in part.gains.items():
            self._gains[name] = self._gains.get(name, torch.zeros_like(gain)) + gain
        gained = (before - self._best.score.sum()).item() / max(1, spent)
        # Later gains are harder to get: an old success counts less and less.
        member.gain = gained if member.gain == torch.inf else 0.5 * (member.gain + gained)
        member.last = self._round

    def _next(self) -> Member:
        """Each once, in order; then mostly whoever gained most, now and then who waited longest."""
        fresh = [m for m in self._members if m.last < 0]
        if fresh:
            return fresh[0]
        members = [m for m in self._members if m.start != "clean"]
        if self._round % 4 == 3:
            return min(members, key=lambda m: m.last)
        return max(members, key=lambda m: m.gain)

    def _start(self, kind: str, rows: Tensor) -> Tensor:
        problem = self._problem
        center = problem.images[rows]
        if kind == "clean":
            return center
        if kind == "random":
            # Drawn for all, so that what leaves the search does not change the others' draws.
            return problem.limits.draw(problem.images, problem.generator)[rows]
        best = self._best.images[rows]
        if kind == "best":
            return best
        noise = problem.limits.draw_extreme(problem.images, problem.generator)[rows] - center
        return problem.limits.project(best + 0.5 * noise, center)

    def _ask(self, rows: Tensor, queries: int) -> None:
        """Squares at random, from the clean examples the first time, from the best ones later."""
        problem, best = self._problem, self._best
        first = self._asked is None
        start = problem.images[rows] if first else best.images[rows]
        _, _, values = problem.judge(start, rows)
        before = best.score.sum()
        search = RandomSearch(problem, best, start, values, rows)
        for i in range(queries):
            search.step(i / max(1, queries - 1))
        self.evaluations += queries * len(rows)
        if first:
            self._asked = torch.full_like(best.score, torch.inf).index_copy(0, rows, search.reached)
        gain = self._gains.get(_ASKING, torch.zeros_like(before))
        self._gains[_ASKING] = gain + before - best.score.sum()

    # What is reported.

    def gains(self) -> dict[str, float]:
        """What each member took off the measure, mean over the examples."""
        return {name: gain.item() / self._n for name, gain in self._gains.items()}

    def agreement(self) -> Tensor | None:
        """Mean correlation of the surrogate's maps with the model's, (N,)."""
        if not self._agreement:
            return None
        total = self._best.score.new_zeros(self._n)
        count = torch.zeros_like(total)
        for rows, values in self._agreement:
            total = total.index_add(0, rows, values)
            count = count.index_add(0, rows, torch.ones_like(values))
        return torch.where(count > 0, total / count.clamp(min=1), 1.0)

    def indicators(self) -> tuple[Indicator, ...]:
        """Whether a look without gradients found more than all that followed gradients."""
        if self._asked is None:
            return ()
        share = (self._asked < self._reached).double().mean().item()
        if share <= _TOLERATED:
            return ()
        return (Indicator("masked gradients", share, f"{share:.0%} of the examples: {_MASKED}."),)

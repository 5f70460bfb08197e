"""The one loop of the attacks: steps on a surrogate, scored on the true model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from captum_robust._utils.user_warnings import warn_user
from captum_robust.attacks._best_iterate import BestIterate
from captum_robust.attacks._explained import Explained, ModelView
from captum_robust.attacks._limits import Limits
from captum_robust.attacks.schedules import Schedule, value_at

Objective = Callable[[Explained], Tensor]
"""What to minimise, one value per example, as a function of explained examples."""

Gradient = Callable[[Tensor], Tensor]
"""The gradient of the surrogate's objective at given examples."""

Stepper = Callable[[Tensor, Gradient, float], Tensor]
"""From the current examples to the next, at a progress in [0, 1]; asks for gradients itself."""


@dataclass(frozen=True)
class Plan:
    """How long a search goes on, and where.

    Args:
        steps: Number of steps per restart.
        restarts: Number of starts; the first is the clean example.
        beta: Sharpness of the surrogate, or a function of the progress.
        limits: What every candidate must respect.
        eps_output: Largest change of the explained output; None: no bound.
        description: Text of the progress bar; None: no bar.
    """

    steps: int
    restarts: int
    beta: float | Schedule
    limits: Limits
    eps_output: float | None = None
    description: str | None = None


def search(
    view: ModelView,
    images: Tensor,
    objective: Callable[[Explained], Objective],
    stepper: Callable[[], Stepper],
    plan: Plan,
    generator: torch.Generator,
) -> BestIterate:
    """Follow ``stepper`` from the clean examples and from random points; keep the best iterates.

    Args:
        view: The attacked model and its explanation.
        images: The clean examples.
        objective: From the explained clean examples to what is minimised.
        stepper: Makes a fresh one for each restart.
        plan: How long, and where.
        generator: Source of the random starts.
    """
    clean = view.explain(images)
    score = objective(clean)
    check_relevance(clean.relevance)
    best = BestIterate(images, clean, score(clean), view.outputs, view.target, plan.eps_output)
    with tqdm(
        total=plan.restarts * plan.steps,
        desc=plan.description,
        disable=plan.description is None,
    ) as bar:
        for restart in range(plan.restarts):
            x = images if restart == 0 else plan.limits.draw(images, generator)
            step = stepper()
            for i in range(plan.steps):
                progress = i / max(1, plan.steps - 1)
                beta = value_at(plan.beta, progress)
                x = step(x, partial(_gradient, view, score, best, beta), progress)
                candidate = plan.limits.candidate(x, images)
                seen = view.explain(candidate)
                best.update(candidate, score(seen), seen)
                bar.update()
    return best


def check_relevance(relevance: Tensor) -> None:
    """Refuse explanations with NaN, and warn of those that are zero everywhere."""
    low, high = torch.stack(torch.aminmax(relevance.flatten(1).sum(1))).tolist()
    if not high < math.inf:
        raise ValueError("explanation has NaN or Inf for these images, so it cannot be attacked.")
    if low == 0:
        warn_user(
            "explanation is zero everywhere for at least one image: there is nothing to manipulate "
            "yet. A saturated network does this; explain logits instead of probabilities."
        )


def _gradient(
    view: ModelView, score: Objective, best: BestIterate, beta: float, x: Tensor
) -> Tensor:
    """Gradient of the surrogate's objective with respect to the examples."""
    x = x.detach().requires_grad_()
    harm = score(view.explain_surrogate(x, beta)).sum()
    (gradient,) = torch.autograd.grad(harm, x)
    best.note_gradient(gradient)
    return gradient

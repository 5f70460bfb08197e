"""A search for the perpendicular points at which a student is farthest from its goal."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from captum_robust._utils.checks import check_count
from captum_robust._utils.model_state import preserve_model
from captum_robust.training.batch import Batch
from captum_robust.training.points import NeighbourhoodPoints, perpendicular_units


class PerpendicularSearch:
    r"""From drawn points, climb the loss: at distance delta2, still perpendicular to phi.

    With :math:`\Pi` the projection perpendicular to phi, scaled to length one, and v half of delta2
    along the drawn direction at first, each step is

    .. math:: v \to \delta_2\, \Pi\big(v + \delta_2\, \Pi(\nabla_v L(g(x^i + v), f(x^i)))\big).

    Args:
        steps: Each costs a forward and a backward pass of the student.

    Raises:
        ValueError, TypeError: ``steps`` is not a count from 1 on.
    """

    def __init__(self, steps: int = 1) -> None:
        check_count(search=steps)
        self.steps = steps

    def __repr__(self) -> str:
        return f"PerpendicularSearch(steps={self.steps})"

    def __call__(
        self,
        student: nn.Module,
        batch: Batch,
        drawn: tuple[Tensor, Tensor],
        directions: Tensor,
        points: NeighbourhoodPoints,
        loss: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Better points x^p.

        Args:
            student: In any mode; it is searched in evaluation mode.
            batch: The examples.
            drawn: x^i, (N, n, ...), and x^p, (N, n, m, ...).
            directions: phi, (N, ...).
            points: How they were drawn.
            loss: Of the student's outputs at x^p, (N n m, ...), one per point.

        Returns:
            (N, n, m, ...).
        """
        line, delta = drawn[0].unsqueeze(2), points.delta2
        moves = 0.5 * delta * perpendicular_units(drawn[1] - line, directions, points.norm)
        with preserve_model(student) as model:
            model.eval()
            for _ in range(self.steps):
                at = (line + moves).flatten(0, 2).detach().requires_grad_()
                (gradient,) = torch.autograd.grad(loss(batch.output(model, at)).sum(), at)
                ascent = perpendicular_units(gradient.view_as(moves), directions, points.norm)
                climbed = moves + delta * ascent
                moves = delta * perpendicular_units(climbed, directions, points.norm)
        return points.clamp(line + moves)

"""ATEX: adversarial training on explanations (Tang et al. 2021), first derivatives only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from captum_robust._utils.checks import check_positive
from captum_robust._utils.model_state import preserve_model
from captum_robust.outputs import Outputs
from captum_robust.training.batch import Batch
from captum_robust.training.directions import SmoothGradDirections
from captum_robust.training.objectives import Imitation, Parts, unwrapped
from captum_robust.training.points import NeighbourhoodPoints
from captum_robust.training.search import PerpendicularSearch
from captum_robust.training.trainer import Trainer

Directions = Callable[[nn.Module, Batch], Tensor]
"""From a model and a batch to the directions of its explanations, in the shape of the inputs."""


class ATEX:
    r"""The objective of :class:`ATEXTrainer`: which points, how they are found, and their loss.

    .. math:: J = L(g(x), f(x)) + \alpha \sum_i \sum_p L(g(x^p), f(x^i))

    Args:
        points: Draws x^i and x^p.
        search: Looks for the farthest of the points x^p; None, as in the paper: drawn ones.
        loss: The loss L.
        alpha: Weight of each point x^p.
        directions: Of the explanations, phi; None: :class:`SmoothGradDirections`.
        follow_student: Whether phi is that of the student as it is at the time.

    Raises:
        ValueError: ``alpha`` is not positive, or ``directions`` would keep those of a student that
            learns.
        TypeError: A part is of the wrong kind.

    Example:
        >>> import torch
        >>> from captum_robust.training import ATEX, Batch, Draws, NeighbourhoodPoints
        >>> model = torch.nn.Linear(4, 3)
        >>> atex = ATEX(NeighbourhoodPoints(delta1=0.1, delta2=0.1))
        >>> parts = atex(model, model, Batch(torch.rand(2, 4), None, Draws(seed=0)))
        >>> sorted(parts)
        ['distillation', 'neighbourhood']
    """

    second_order = False

    def __init__(
        self,
        points: NeighbourhoodPoints,
        *,
        search: PerpendicularSearch | None = None,
        loss: Imitation | None = None,
        alpha: float = 1.0,
        directions: Directions | None = None,
        follow_student: bool = False,
    ) -> None:
        _check_kinds(points, search)
        check_positive(alpha=alpha)
        self.points, self.search, self.alpha = points, search, alpha
        self.loss = Imitation() if loss is None else loss
        self.output = self.loss.output
        if directions is None:
            kept = {"kept_bytes": 0} if follow_student else {}
            directions = SmoothGradDirections(output=self.output, **kept)
        if not callable(directions):
            raise TypeError(
                "directions must be a function of model and batch, got "
                f"{type(directions).__name__}."
            )
        if follow_student and getattr(directions, "kept_bytes", 0) != 0:
            raise ValueError(
                "directions: those of a student that learns grow old. Keep none of them: "
                "SmoothGradDirections(kept_bytes=0)."
            )
        self.directions, self.follow_student = directions, follow_student

    def __repr__(self) -> str:
        return f"ATEX({', '.join(f'{name}={value}' for name, value in vars(self).items())})"

    def __call__(self, student: nn.Module, teacher: nn.Module, batch: Batch) -> Parts:
        """Both summands, means over the batch."""
        phi = self.direction(student, teacher, batch)
        parallel, beside = self.points.draw(batch.inputs, phi, batch.draws)
        n, of_each = len(batch.inputs), self.points.n_perpendicular
        with torch.no_grad():
            wanted = batch.output(teacher, batch.inputs, parallel.flatten(0, 1))
        # The points beside one place on the line are to get the output of that place.
        goals = wanted[n:].repeat_interleave(of_each, dim=0)
        if self.search is not None:
            beside = self.search(
                unwrapped(student), batch, (parallel, beside), phi, self.points,
                lambda given: self.loss(given, goals),
            )  # fmt: skip
        given = batch.output(student, batch.inputs, beside.flatten(0, 2))
        samples = self.points.n_parallel * of_each
        return {
            "distillation": self.loss(given[:n], wanted[:n]).mean(),
            "neighbourhood": self.alpha * (self.loss(given[n:], goals).mean() * samples),
        }

    def direction(self, student: nn.Module, teacher: nn.Module, batch: Batch) -> Tensor:
        """The directions of a batch, phi."""
        if self.follow_student:
            with preserve_model(unwrapped(student)) as model:
                phi = self.directions(model.eval(), batch)
        else:
            phi = self.directions(teacher, batch)
        if phi.shape != batch.inputs.shape:
            raise ValueError(
                f"directions must give the shape of the inputs, {tuple(batch.inputs.shape)}, got "
                f"{tuple(phi.shape)}."
            )
        return phi.detach()

    def state_dict(self) -> dict:
        """What a resumed run needs: the directions that are kept."""
        state = getattr(self.directions, "state_dict", None)
        return {} if state is None else state()

    def load_state_dict(self, state: dict) -> None:
        """Take over what :meth:`state_dict` gave."""
        if state:
            self.directions.load_state_dict(state)  # type: ignore[attr-defined]


def _check_kinds(points: Any, search: Any) -> None:
    if not isinstance(points, NeighbourhoodPoints):
        raise TypeError(
            f"points must be NeighbourhoodPoints(delta1, delta2), got {type(points).__name__}."
        )
    if search is not None and not callable(search):
        raise TypeError(
            f"search must be PerpendicularSearch(steps) or None, got {type(search).__name__}."
        )


class ATEXTrainer(Trainer):
    r"""Fine-tune a model so that its explanations are stable: ATEX, Tang et al. (2021).

    A copy g of the model f learns to give, beside a line parallel to the explanation of x, the
    output that f has on the line, softened by the temperature: the objective of :class:`ATEX`.
    :math:`x^i` are the points of :func:`points_parallel`, :math:`x^p` those of
    :func:`points_perpendicular`, and L is :class:`Imitation`. The explanation is SmoothGrad of f.
    No labels are needed and no second derivatives, so rectifiers may stay.

    Args:
        model: f; see :class:`Trainer`. It stays as it is; the result is ``trainer.model``.
        optimizer: See :class:`Trainer`.
        delta1: Farthest parallel shift, in units of the inputs; 0: none.
        delta2: Farthest perpendicular shift; 0: none.
        alpha: Weight of each point x^p in the double sum. What counts is ``alpha * n_parallel *
            n_perpendicular``, the weight of stability against imitation: 8 by default, and around
            20 is better on small networks (see the reproductions).
        temperature: Softens the teacher; with the 4 of the published code the copy keeps the
            classes and is less sure of them, with 1 it is as sure.
        n_parallel: Points x^i for each example and step.
        n_perpendicular: Points x^p for each x^i.
        norm: In which the shifts are measured: 2 as in the paper, or ``math.inf`` as in its
            published code, where ``delta`` is the largest change of a pixel.
        search: Steps of :class:`PerpendicularSearch`; 0, as in the paper: none. 1 with
            ``n_perpendicular=1`` does more for stability than many drawn points.
        input_range: Points are clamped to it, (lowest, highest); None, as in the paper: they are
            not.
        directions: A function of model and :class:`Batch`; None: :class:`SmoothGradDirections`.
        follow_student: Whether the explanation is that of the copy as it is at the time, computed
            anew for each batch, instead of that of f. The most stable in our experiments, but no
            longer like SmoothGrad of f: what the copy explains is itself (see the reproductions).
        output: See :class:`Trainer`.
        steps_per_batch: How many steps a batch is used for, with new points in each; the published
            code takes 22.
        **options: ``scheduler``, ``seed``, ``measures``, ``unpack``, ``accelerator``: see
            :class:`Trainer`.

    Raises:
        TypeError, ValueError: See :class:`Trainer`; also a delta, count, temperature or norm out of
            range, and both deltas 0, which is plain distillation.

    Example:
        >>> import math, torch
        >>> from captum_robust import zoo
        >>> from captum_robust.training import ATEXTrainer
        >>> images, labels = zoo.fashion_mnist_sample(8)
        >>> trainer = ATEXTrainer(zoo.fashion_mnist_cnn(), delta1=0.1, delta2=0.1, norm=math.inf)
        >>> history = trainer.fit([images], epochs=20, show_progress=False)
        >>> trainer.evaluate([(images, labels)])["agreement"]
        1.0
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any = None,
        *,
        delta1: float,
        delta2: float,
        alpha: float = 1.0,
        temperature: float = 4.0,
        n_parallel: int = 1,
        n_perpendicular: int = 8,
        norm: float = 2.0,
        search: int = 0,
        input_range: tuple[float, float] | None = None,
        directions: Directions | None = None,
        follow_student: bool = False,
        output: Outputs | None = None,
        **options: Any,
    ) -> None:
        points = NeighbourhoodPoints(
            delta1, delta2, n_parallel=n_parallel, n_perpendicular=n_perpendicular, norm=norm,
            input_range=input_range,
        )  # fmt: skip
        objective = ATEX(
            points, search=PerpendicularSearch(search) if search else None,
            loss=Imitation(temperature, output), alpha=alpha, directions=directions,
            follow_student=follow_student,
        )  # fmt: skip
        super().__init__(model, objective, optimizer, output=output, **options)

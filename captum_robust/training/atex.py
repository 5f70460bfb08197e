"""ATEX: adversarial training on explanations (Tang et al. 2021), first derivatives only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from captum_robust._utils.checks import check_count, check_positive
from captum_robust._utils.forward import logits_of
from captum_robust._utils.model_state import preserve_model
from captum_robust.training.batch import Batch
from captum_robust.training.directions import SmoothGradDirections
from captum_robust.training.objectives import Parts, distillation_loss, unwrapped
from captum_robust.training.trainer import Trainer


def points_along(inputs: Tensor, directions: Tensor, shifts: Tensor, norm: float = 2.0) -> Tensor:
    r"""Points on the line through each input along its explanation (Tang et al. 2021, Eq. 5).

    .. math:: x^i = x + \delta_1\, \phi / \lVert\phi\rVert

    Args:
        inputs: x, (N, ...).
        directions: phi, like ``inputs``; a zero one moves nothing.
        shifts: delta_1, (N, n), in units of the inputs.
        norm: Order of the norm, as in :func:`torch.linalg.vector_norm`: 2, or ``math.inf`` for a
            largest component of one.

    Returns:
        (N, n, ...).
    """
    unit = _unit(directions.flatten(1), norm).view_as(directions)
    return inputs.unsqueeze(1) + _spread(shifts, inputs) * unit.unsqueeze(1)


def points_across(
    points: Tensor, directions: Tensor, noise: Tensor, shifts: Tensor, norm: float = 2.0
) -> Tensor:
    r"""Points beside those of a line, at a right angle to the explanation (Tang et al., Eq. 6).

    .. math::
        x^p = x^i + \delta_2\, \phi_\perp / \lVert\phi_\perp\rVert, \quad
        \phi_\perp = u - \phi\, \langle u, \phi\rangle / \lVert\phi\rVert_2^2

    Args:
        points: x^i, (N, n, ...).
        directions: phi, (N, ...).
        noise: u, (N, n, m, ...); where phi is zero, u itself is perpendicular.
        shifts: delta_2, (N, n, m), in units of the inputs.
        norm: Order of the norm of phi_perp.

    Returns:
        (N, n, m, ...).
    """
    across = _unit(_perpendicular(noise.flatten(3), directions), norm).view_as(noise)
    return points.unsqueeze(2) + _spread(shifts, directions) * across


def _perpendicular(vectors: Tensor, directions: Tensor) -> Tensor:
    """Vectors (N, n, m, d) without their component along the directions (N, ...)."""
    phi = _unit(directions.flatten(1), 2.0)
    component = torch.einsum("nimd,nd->nim", vectors, phi)
    return torch.addcmul(vectors, component.unsqueeze(3), phi[:, None, None], value=-1)


def _unit(vectors: Tensor, norm: float) -> Tensor:
    length = torch.linalg.vector_norm(vectors, ord=norm, dim=-1, keepdim=True)
    return vectors / torch.where(length > 0, length, 1)


def _spread(shifts: Tensor, like: Tensor) -> Tensor:
    """Append dimensions of 1 for those of an example."""
    return shifts.view(*shifts.shape, *[1] * (like.dim() - 1))


class ATEX:
    r"""The objective of :class:`ATEXTrainer`, which describes the arguments.

    Example:
        >>> import torch
        >>> from captum_robust.training.batch import Batch, Draws
        >>> model = torch.nn.Linear(4, 3)
        >>> atex = ATEX(delta1=0.1, delta2=0.1)
        >>> parts = atex(model, model, Batch(torch.rand(2, 4), None, Draws(seed=0)))
        >>> sorted(parts)
        ['distillation', 'neighbourhood']
    """

    second_order = False

    def __init__(
        self,
        *,
        delta1: float,
        delta2: float,
        alpha: float = 1.0,
        temperature: float = 4.0,
        n_along: int = 1,
        n_across: int = 8,
        norm: float = 2.0,
        search: int = 0,
        input_range: tuple[float, float] | None = None,
        directions: Callable[[nn.Module, Batch], Tensor] | None = None,
        follow_student: bool = False,
    ) -> None:
        for name, delta in (("delta1", delta1), ("delta2", delta2)):
            if not (isinstance(delta, (int, float)) and 0 <= delta < math.inf):
                raise ValueError(f"{name} must be 0 or more, and finite, got {delta}.")
        if delta1 == delta2 == 0:
            raise ValueError(
                "delta1 and delta2 are both 0, so no point moves. That is plain distillation: "
                "Trainer(model, Distillation())."
            )
        check_count(n_along=n_along, n_across=n_across)
        check_positive(temperature=temperature, alpha=alpha)
        if search:
            check_count(search=search)
        if not (isinstance(norm, (int, float)) and norm >= 1):
            raise ValueError(f"norm must be 1 or more, or math.inf, got {norm}.")
        if input_range is not None and not (
            len(input_range) == 2 and input_range[0] < input_range[1]
        ):
            raise ValueError(f"input_range must be (lowest, highest), got {input_range}.")
        self.delta1, self.delta2, self.norm = delta1, delta2, norm
        self.alpha, self.temperature, self.input_range = alpha, temperature, input_range
        self.n_along, self.n_across, self.search = n_along, n_across, search
        if directions is None:
            frozen = not follow_student
            directions = SmoothGradDirections() if frozen else SmoothGradDirections(kept_bytes=0)
        if follow_student and getattr(directions, "kept_bytes", 0) != 0:
            raise ValueError(
                "directions: those of a student that learns grow old. Keep none of them: "
                "SmoothGradDirections(kept_bytes=0)."
            )
        self.directions, self.follow_student = directions, follow_student
        if not callable(self.directions):
            raise TypeError(
                "directions must be a function of model and batch, got "
                f"{type(directions).__name__}."
            )

    def __repr__(self) -> str:
        return f"ATEX({', '.join(f'{name}={value}' for name, value in vars(self).items())})"

    def __call__(self, student: nn.Module, teacher: nn.Module, batch: Batch) -> Parts:
        """Both summands of Eq. 4, means over the batch."""
        x, phi = batch.inputs, self._direction(student, teacher, batch)
        along, across = self._points(phi, batch)
        n, samples = len(x), self.n_along * self.n_across
        with torch.no_grad():
            wanted = logits_of(teacher(torch.cat([x, along.flatten(0, 1)])))
        # The points beside one place on the line are to get the output of that place.
        beside = wanted[n:].repeat_interleave(self.n_across, dim=0)
        if self.search:
            across = self._worst(student, along, across, phi, beside)
        given = logits_of(student(torch.cat([x, across.flatten(0, 2)])))
        regularizer = distillation_loss(given[n:], beside, self.temperature).mean() * samples
        return {
            "distillation": distillation_loss(given[:n], wanted[:n], self.temperature).mean(),
            "neighbourhood": self.alpha * regularizer,
        }

    def _direction(self, student: nn.Module, teacher: nn.Module, batch: Batch) -> Tensor:
        if not self.follow_student:
            return self._checked(self.directions(teacher, batch), batch)
        with preserve_model(unwrapped(student)) as model:
            model.eval()
            return self._checked(self.directions(model, batch), batch)

    @staticmethod
    def _checked(phi: Tensor, batch: Batch) -> Tensor:
        if phi.shape != batch.inputs.shape:
            raise ValueError(
                f"directions must give the shape of the inputs, {tuple(batch.inputs.shape)}, got "
                f"{tuple(phi.shape)}."
            )
        return phi.detach()

    def _worst(
        self, student: nn.Module, along: Tensor, across: Tensor, phi: Tensor, wanted: Tensor
    ) -> Tensor:
        """From the drawn points, climb the loss: at distance delta2, still at a right angle."""
        line = along.unsqueeze(2)
        moves = 0.5 * self.delta2 * self._unit_across(across - line, phi)
        with preserve_model(unwrapped(student)) as model:
            model.eval()
            for _ in range(self.search):
                points = (line + moves).flatten(0, 2).detach().requires_grad_()
                loss = distillation_loss(logits_of(model(points)), wanted, self.temperature)
                (gradient,) = torch.autograd.grad(loss.sum(), points)
                ascent = self._unit_across(gradient.view_as(moves), phi)
                moves = self.delta2 * self._unit_across(moves + self.delta2 * ascent, phi)
        worst = line + moves
        return worst if self.input_range is None else worst.clamp(*self.input_range)

    def _unit_across(self, vectors: Tensor, phi: Tensor) -> Tensor:
        across = _perpendicular(vectors.flatten(3), phi)
        return _unit(across, self.norm).view_as(vectors)

    def points(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Draw x^i, (N, n_along, ...), and x^p, (N, n_along, n_across, ...), for this model."""
        return self._points(self._checked(self.directions(model, batch), batch), batch)

    def _points(self, phi: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        x, draws = batch.inputs, batch.draws
        shape = (self.n_along, self.n_across)
        along = points_along(x, phi, self.delta1 * draws.uniform(x, self.n_along), self.norm)
        noise = draws.uniform(x, *shape, *x.shape[1:])
        across = points_across(along, phi, noise, self.delta2 * draws.uniform(x, *shape), self.norm)
        if self.input_range is None:
            return along, across
        return along.clamp(*self.input_range), across.clamp(*self.input_range)

    def state_dict(self) -> dict:
        """What a resumed run needs: the directions that are kept."""
        state = getattr(self.directions, "state_dict", None)
        return {} if state is None else state()

    def load_state_dict(self, state: dict) -> None:
        """Take over what :meth:`state_dict` gave."""
        if state:
            self.directions.load_state_dict(state)  # type: ignore[attr-defined]


class ATEXTrainer(Trainer):
    r"""Fine-tune a model so that its explanations are stable: ATEX, Tang et al. (2021).

    A copy g of the model f learns to give, at points beside a line along the explanation of x, the
    output that f has on the line, softened by the temperature:

    .. math::
        J = L(g(x), f(x)) + \alpha \sum_i \sum_p L(g(x^p), f(x^i))

    with :math:`x^i` along the explanation (:func:`points_along`), :math:`x^p` at a right angle to
    it (:func:`points_across`), and L of :func:`distillation_loss`. The explanation is SmoothGrad of
    f. No labels are needed and no second derivatives, so rectifiers may stay.

    Args:
        model: f: gives logits (N, classes), or an object with ``.logits``. It stays as it is; the
            result is ``trainer.model``.
        optimizer: See :class:`Trainer`.
        delta1: Farthest shift along, in units of the inputs; 0: none.
        delta2: Farthest shift across; 0: none.
        alpha: Weight of each point x^p in the double sum. What counts is ``alpha * n_along *
            n_across``, the weight of stability against imitation: 8 by default, and around 20 is
            better on small networks (see the reproductions).
        temperature: Softens the teacher; with the 4 of the published code the copy keeps the
            classes and is less sure of them, with 1 it is as sure.
        n_along: Points x^i for each example and step.
        n_across: Points x^p for each x^i.
        norm: In which the shifts are measured: 2 as in the paper, or ``math.inf`` as in its
            published code, where ``delta`` is the largest change of a pixel.
        search: Steps of a search for the points x^p, at the distance ``delta2``, where the student
            is farthest from its goal, in place of points drawn uniformly; 0, as in the paper: none.
            Each step costs a forward and a backward pass, and 1 with ``n_across=1`` does more for
            stability than many drawn points (see the reproductions).
        input_range: Points are clamped to it, (lowest, highest); None, as in the paper: they are
            not.
        directions: A function of model and :class:`Batch`; None: :class:`SmoothGradDirections`.
        follow_student: Whether the explanation is that of the copy as it is at the time, computed
            anew for each batch, and not that of f. The most stable in our experiments, but no
            longer like SmoothGrad of f: what the copy explains is itself (see the reproductions).
            Costs ``n_samples`` gradients for each batch, so take several ``steps_per_batch``.
        steps_per_batch: How many steps a batch is used for, with new points in each; the published
            code takes 22.
        **options: ``scheduler``, ``seed``, ``measures``, ``accelerator``: see :class:`Trainer`.

    Raises:
        TypeError, ValueError: See :class:`Trainer`; also a delta, count, temperature or norm out of
            range, and both deltas 0, which is plain distillation.

    Example:
        >>> import math, torch
        >>> from captum_robust import zoo
        >>> from captum_robust.training import ATEXTrainer
        >>> images, labels = zoo.fashion_mnist_sample(8)
        >>> model = zoo.fashion_mnist_cnn()
        >>> trainer = ATEXTrainer(model, delta1=0.1, delta2=0.1, norm=math.inf)
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
        n_along: int = 1,
        n_across: int = 8,
        norm: float = 2.0,
        search: int = 0,
        input_range: tuple[float, float] | None = None,
        directions: Callable[[nn.Module, Batch], Tensor] | None = None,
        follow_student: bool = False,
        steps_per_batch: int = 1,
        **options: Any,
    ) -> None:
        objective = ATEX(
            delta1=delta1, delta2=delta2, alpha=alpha, temperature=temperature, n_along=n_along,
            n_across=n_across, norm=norm, search=search, input_range=input_range,
            directions=directions, follow_student=follow_student,
        )  # fmt: skip
        super().__init__(model, objective, optimizer, steps_per_batch=steps_per_batch, **options)

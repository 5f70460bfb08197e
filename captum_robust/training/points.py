"""The points beside an example at which ATEX asks for a stable output."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from captum_robust._utils.checks import check_count
from captum_robust.training.randomness import Draws


def points_parallel(
    inputs: Tensor, directions: Tensor, shifts: Tensor, norm: float = 2.0
) -> Tensor:
    r"""Points on the line through each input parallel to its explanation (Tang et al. 2021, Eq. 5).

    .. math:: x^i = x + \delta_1\, \phi / \lVert\phi\rVert

    Args:
        inputs: x, (N, ...).
        directions: phi, like ``inputs``; a zero one moves nothing.
        shifts: delta_1, (N, n), in units of the inputs.
        norm: Order of the norm, as in :func:`torch.linalg.vector_norm`: 2, or ``math.inf`` for a
            largest component of one.

    Returns:
        (N, n, ...).

    Example:
        >>> import torch
        >>> points_parallel(torch.zeros(1, 2), torch.tensor([[0.0, 3.0]]), torch.tensor([[0.5]]))
        tensor([[[0.0000, 0.5000]]])
    """
    unit = unit_vectors(directions.flatten(1), norm).view_as(directions)
    return inputs.unsqueeze(1) + _broadcast(shifts, inputs) * unit.unsqueeze(1)


def points_perpendicular(
    points: Tensor, directions: Tensor, noise: Tensor, shifts: Tensor, norm: float = 2.0
) -> Tensor:
    r"""Points beside those of a line, perpendicular to the explanation (Tang et al., Eq. 6).

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

    Example:
        >>> import torch
        >>> phi, noise = torch.tensor([[0.0, 3.0]]), torch.tensor([[[[2.0, 5.0]]]])
        >>> points_perpendicular(torch.zeros(1, 1, 2), phi, noise, torch.tensor([[[0.5]]]))
        tensor([[[[0.5000, 0.0000]]]])
    """
    beside = perpendicular_units(noise, directions, norm)
    return points.unsqueeze(2) + _broadcast(shifts, directions) * beside


def perpendicular_units(vectors: Tensor, directions: Tensor, norm: float) -> Tensor:
    """Vectors (N, n, m, ...) without their component along (N, ...), scaled to length one."""
    flat, phi = vectors.flatten(3), unit_vectors(directions.flatten(1), 2.0)
    component = torch.einsum("nimd,nd->nim", flat, phi)
    rest = torch.addcmul(flat, component.unsqueeze(3), phi[:, None, None], value=-1)
    return unit_vectors(rest, norm).view_as(vectors)


def unit_vectors(vectors: Tensor, norm: float) -> Tensor:
    """Vectors (..., d) scaled to length one; those of length zero stay."""
    length = torch.linalg.vector_norm(vectors, ord=norm, dim=-1, keepdim=True)
    return vectors / torch.where(length > 0, length, 1)


def _broadcast(shifts: Tensor, like: Tensor) -> Tensor:
    """Append dimensions of 1 for those of an example."""
    return shifts.view(*shifts.shape, *[1] * (like.dim() - 1))


class NeighbourhoodPoints:
    """Draws the points of ATEX beside each example; :class:`ATEXTrainer` describes the arguments.

    Raises:
        ValueError: A delta, count or norm is out of range, or both deltas are 0, which is plain
            distillation.
        TypeError: One of them is not a number.
    """

    def __init__(
        self,
        delta1: float,
        delta2: float,
        *,
        n_parallel: int = 1,
        n_perpendicular: int = 8,
        norm: float = 2.0,
        input_range: tuple[float, float] | None = None,
    ) -> None:
        for name, delta in (("delta1", delta1), ("delta2", delta2)):
            if not (isinstance(delta, (int, float)) and 0 <= delta < math.inf):
                raise ValueError(f"{name} must be 0 or more, and finite, got {delta}.")
        if delta1 == delta2 == 0:
            raise ValueError(
                "delta1 and delta2 are both 0, so no point moves. That is plain distillation: "
                "Trainer(model, Distillation())."
            )
        check_count(n_parallel=n_parallel, n_perpendicular=n_perpendicular)
        if not (isinstance(norm, (int, float)) and norm >= 1):
            raise ValueError(f"norm must be 1 or more, or math.inf, got {norm}.")
        if input_range is not None and not (
            len(input_range) == 2 and input_range[0] < input_range[1]
        ):
            raise ValueError(f"input_range must be (lowest, highest), got {input_range}.")
        self.delta1, self.delta2, self.norm = delta1, delta2, norm
        self.n_parallel, self.n_perpendicular = n_parallel, n_perpendicular
        self.input_range = input_range

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in vars(self).items())
        return f"NeighbourhoodPoints({settings})"

    def draw(self, inputs: Tensor, directions: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Draw x^i, (N, n_parallel, ...), and x^p, (N, n_parallel, n_perpendicular, ...)."""
        shape = (self.n_parallel, self.n_perpendicular)
        shifts = self.delta1 * draws.uniform(inputs, self.n_parallel)
        parallel = points_parallel(inputs, directions, shifts, self.norm)
        noise = draws.uniform(inputs, *shape, *inputs.shape[1:])
        shifts = self.delta2 * draws.uniform(inputs, *shape)
        beside = points_perpendicular(parallel, directions, noise, shifts, self.norm)
        return self.clamp(parallel), self.clamp(beside)

    def clamp(self, points: Tensor) -> Tensor:
        """Points within the range of the inputs."""
        return points if self.input_range is None else points.clamp(*self.input_range)

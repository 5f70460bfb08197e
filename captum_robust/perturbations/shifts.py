"""Perturbations that move every feature: to a baseline, a noisy one, one of several, or a step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from captum_robust._utils.captum import format_inputs
from captum_robust._utils.checks import check_inputs, check_positive
from captum_robust._utils.randomness import standard_normal
from captum_robust._utils.types import Tensors
from captum_robust.perturbations.base import Perturbation
from captum_robust.perturbations.points import Points, flat


class BaselineShift(Perturbation):
    r"""The difference to the baseline, without chance: :math:`I = x - x_0`.

    Every complete explanation (its global attributions sum to :math:`f(x) - f(x_0)`) has zero
    infidelity. The optimal one is the shortest of them: :math:`\mu (f(x) - f(x_0)) /
    |\mu|^2` with :math:`\mu = x - x_0`. Yeh et al. 2019, Proposition 2.2.

    Example:
        >>> import torch
        >>> from captum_robust.perturbations import BaselineShift, Points
        >>> points = Points.of(torch.tensor([[1.0, 2.0]]), baselines=0.5)
        >>> BaselineShift().shifts(points, 1, torch.Generator())
        (tensor([[[0.5000, 1.5000]]]),)
    """

    multiplies_by_inputs = True
    takes_feature_mask = False

    def shifts(self, points: Points, n_samples: int, generator: torch.Generator) -> Tensors:
        """The same shift n times; see :meth:`Perturbation.shifts`."""
        return tuple(d.unsqueeze(1).expand(-1, n_samples, *d.shape[1:]) for d in points.differences)

    def second_moment(self, points: Points, multiply_by_inputs: bool | None = None) -> Tensor:
        """Of rank one; see :meth:`Perturbation.second_moment`."""
        mu = _flat(points.differences)
        if self._in_global_form(multiply_by_inputs):
            mu = (mu != 0).double()
        return mu.unsqueeze(2) * mu.unsqueeze(1)


class SeveralBaselines(Perturbation):
    r"""The difference to one of several baselines, each equally likely.

    .. math:: I = x - b_j, \quad j \sim U\{1, \dots, m\}

    There are fewer baselines than features, so many explanations have the least infidelity; the
    optimal one is the shortest of them. Yeh et al. 2019, Section 2.1.

    Args:
        baselines: Tensor (m, ...), or a tuple of these, one per input, shared by all examples.

    Raises:
        ValueError: ``baselines`` is empty, NaN, Inf or of unequal length.

    Example:
        >>> import torch
        >>> from captum_robust.perturbations import SeveralBaselines, Points
        >>> perturbation = SeveralBaselines(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        >>> points = Points.of(torch.tensor([[1.0, 2.0]]))
        >>> perturbation.shifts(points, 2, torch.Generator().manual_seed(0))
        (tensor([[[1., 2.],
                 [0., 1.]]]),)
    """

    takes_feature_mask = False

    def __init__(self, baselines: Tensor | Tensors) -> None:
        check_inputs(baselines)
        _, tensors = format_inputs(baselines)
        self._baselines = tuple(b.detach() for b in tensors)

    def __repr__(self) -> str:
        return f"SeveralBaselines(<{len(self._baselines[0])} baselines>)"

    def shifts(self, points: Points, n_samples: int, generator: torch.Generator) -> Tensors:
        """Draw a baseline each; see :meth:`Perturbation.shifts`."""
        everyone = self.all_shifts(points)
        chosen = torch.randint(
            everyone[0].shape[1],
            (len(points), n_samples),
            device=generator.device,
            generator=generator,
        ).to(everyone[0].device)
        rows = torch.arange(len(points), device=chosen.device).unsqueeze(1)
        return tuple(shifts[rows, chosen] for shifts in everyone)

    def all_shifts(self, points: Points) -> Tensors:
        """The difference to each of the m baselines, (N, m, ...) per input."""
        fits = [b.shape[1:] for b in self._baselines] == [x.shape[1:] for x in points.inputs]
        if not fits:
            given = [tuple(b.shape) for b in self._baselines]
            raise ValueError(
                f"baselines of SeveralBaselines have shapes {given} for inputs of shapes "
                f"{[tuple(x.shape) for x in points.inputs]}: all but the first size must agree."
            )
        pairs = zip(points.inputs, self._baselines, strict=True)
        return tuple(x.unsqueeze(1) - b.to(x).unsqueeze(0) for x, b in pairs)

    def second_moment(self, points: Points, multiply_by_inputs: bool | None = None) -> Tensor:
        """The mean over the baselines; see :meth:`Perturbation.second_moment`."""
        shifts = _flat(self.all_shifts(points), start=2)
        if self._in_global_form(multiply_by_inputs):
            shifts = shifts / _divisors(points).unsqueeze(1)
        return shifts.transpose(1, 2) @ shifts / shifts.shape[1]


class GaussianBaseline(Perturbation):
    r"""The difference to a noisy baseline.

    .. math:: I = x - (x_0 + e), \quad e \sim N(0, s^2)

    The optimal explanation is that of :class:`captum_robust.attr.NoisyBaseline`. Yeh et al. 2019,
    Section 2.4.

    Args:
        stdev: s, in units of the inputs; a tuple gives one per input.

    Raises:
        ValueError: ``stdev`` is not positive and finite.

    Example:
        >>> import torch
        >>> from captum_robust.perturbations import GaussianBaseline, Points
        >>> points = Points.of(torch.tensor([[1.0, 2.0]]))
        >>> GaussianBaseline(0.1).shifts(points, 1, torch.Generator().manual_seed(0))
        (tensor([[[0.8459, 2.0293]]]),)
    """

    takes_feature_mask = False

    def __init__(self, stdev: float | tuple[float, ...] = 0.2) -> None:
        for s in stdev if isinstance(stdev, tuple) else (stdev,):
            check_positive(stdev=s)
        self.stdev = stdev

    def noise(self, points: Points, n_samples: int, generator: torch.Generator) -> Tensors:
        """Draw e, (N, n_samples, ...) per input."""
        return tuple(
            s * standard_normal(x.unsqueeze(1).expand(-1, n_samples, *x.shape[1:]), generator)
            for s, x in zip(self.stdev_each(points), points.inputs, strict=True)
        )

    def shifts(self, points: Points, n_samples: int, generator: torch.Generator) -> Tensors:
        """Draw I; see :meth:`Perturbation.shifts`."""
        noise = self.noise(points, n_samples, generator)
        return tuple(d.unsqueeze(1) - e for d, e in zip(points.differences, noise, strict=True))

    def stdev_each(self, points: Points) -> tuple[float, ...]:
        """S for each input."""
        n_inputs = len(points.inputs)
        stdevs = self.stdev if isinstance(self.stdev, tuple) else (self.stdev,) * n_inputs
        if len(stdevs) != n_inputs:
            raise ValueError(
                f"stdev has {len(stdevs)} values for {n_inputs} inputs; give one number, or a "
                "tuple with one for each."
            )
        return stdevs

    def second_moment(self, points: Points, multiply_by_inputs: bool | None = None) -> Tensor:
        """The exact mu mu' + s^2 1; see :meth:`Perturbation.second_moment`."""
        mu = _flat(points.differences)
        pairs = zip(self.stdev_each(points), points.inputs, strict=True)
        variances = torch.cat([torch.full((x[0].numel(),), s * s) for s, x in pairs]).to(mu)
        moment = mu.unsqueeze(2) * mu.unsqueeze(1) + variances.diag()
        if self._in_global_form(multiply_by_inputs):
            by = _divisors(points)
            moment = moment / (by.unsqueeze(2) * by.unsqueeze(1))
        return moment


class CoordinateStep(Perturbation):
    r"""A small step of one feature, each equally likely.

    .. math:: I = h\,e_i, \quad i \sim U\{1, \dots, d\}

    The optimal explanation is the difference quotient, in the limit the gradient (Proposition 2.3
    of Yeh et al. 2019): a gradient for models that have none.

    Args:
        step: h, in units of the inputs.

    Raises:
        ValueError: ``step`` is not positive and finite.

    Example:
        >>> import torch
        >>> from captum_robust.perturbations import CoordinateStep, Points
        >>> CoordinateStep(0.5).second_moment(Points.of(torch.tensor([[1.0, 2.0]])))
        tensor([[[0.1250, 0.0000],
                 [0.0000, 0.1250]]], dtype=torch.float64)
    """

    takes_feature_mask = False

    def __init__(self, step: float = 1e-2) -> None:
        check_positive(step=step)
        self.step = step

    def shifts(self, points: Points, n_samples: int, generator: torch.Generator) -> Tensors:
        """Draw one feature each; see :meth:`Perturbation.shifts`."""
        sizes = [x[0].numel() for x in points.inputs]
        chosen = torch.randint(
            sum(sizes), (len(points), n_samples, 1), device=generator.device, generator=generator
        ).to(points.inputs[0].device)
        steps = points.inputs[0].new_zeros(len(points), n_samples, sum(sizes))
        parts = steps.scatter_(2, chosen, self.step).split(sizes, dim=2)
        return tuple(
            part.unflatten(2, x.shape[1:]).to(x)
            for part, x in zip(parts, points.inputs, strict=True)
        )

    def second_moment(self, points: Points, multiply_by_inputs: bool | None = None) -> Tensor:
        """h^2 / d times the identity; see :meth:`Perturbation.second_moment`."""
        by = torch.ones_like(_flat(points.inputs))
        if self._in_global_form(multiply_by_inputs):
            by = _divisors(points)
        return torch.diag_embed(self.step**2 / by.shape[1] / by**2)


def _flat(tensors: Any, start: int = 1) -> Tensor:
    return torch.cat([flat(t, start).double() for t in tensors], dim=-1)


def _divisors(points: Points) -> Tensor:
    differences = _flat(points.differences)
    return torch.where(differences == 0, 1.0, differences)

"""How the least infidelity is reached, for each distribution of perturbations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import singledispatch
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_robust._utils.batching import widest
from captum_robust._utils.explained_output import ExplainedOutput
from captum_robust._utils.model_state import preserve_buffers
from captum_robust._utils.types import Tensors
from captum_robust._utils.user_warnings import warn_user
from captum_robust.attr._infidelity.least_squares import DenseDesign, Design, SquaresDesign, solve
from captum_robust.perturbations import (
    BaselineShift,
    CoordinateStep,
    FeatureRemoval,
    GaussianBaseline,
    Perturbation,
    Points,
    SeveralBaselines,
    ShapleyRemoval,
    SquareRemoval,
)
from captum_robust.perturbations.groups import Groups
from captum_robust.perturbations.points import flat
from captum_robust.perturbations.removal import remove
from captum_robust.perturbations.squares import Squares
from captum_robust.perturbations.stream import Stream

# All squares are removed where there are no more than this, otherwise a sample of them.
_ALL_SQUARES, _SOME_SQUARES = 10_000, 3_000


@dataclass(frozen=True)
class Problem:
    """What is to be explained, and how much work may be done for it.

    Attributes:
        points: The examples with baselines and feature mask.
        output: The explained output f.
        n_samples: How many perturbations of each example; None: what suits the distribution.
        copies_at_once: How many of them one pass of the model takes.
        generator: Where random numbers come from.
        multiply_by_inputs: Whether global attributions are asked for.
        show_progress: Whether to show a bar.
    """

    points: Points
    output: ExplainedOutput
    n_samples: int | None
    copies_at_once: int
    generator: torch.Generator
    multiply_by_inputs: bool
    show_progress: bool

    @property
    def differences(self) -> Tensors:
        """X - x0 in the precision of the arithmetic."""
        return tuple(d.to(widest(d.device)) for d in self.points.differences)

    def scales(self) -> Tensors:
        """What a removed feature's attribution is multiplied with: 1 where global, else x - x0."""
        if not self.multiply_by_inputs:
            return self.differences
        return tuple(torch.ones_like(d[:1]) for d in self.differences)

    def chunks(self, n_samples: int) -> Iterator[tuple[int, int]]:
        """Where the parts of the work begin and end."""
        for start in range(0, n_samples, self.copies_at_once):
            yield start, min(start + self.copies_at_once, n_samples)

    def output_differences(self, perturbed: Iterator[Tensors], n_samples: int) -> Tensor:
        """d(I) = f(x) - f(x - I), (N, n)."""
        return self.output.output_differences(perturbed, n_samples, self.show_progress)

    def globalised(self, local: Tensors) -> Tensors:
        """Local attributions, multiplied by x - x0 where global ones are asked for."""
        if not self.multiply_by_inputs:
            return local
        return tuple(a * d for a, d in zip(local, self.differences, strict=True))


@singledispatch
def optimum(perturbation: Perturbation, problem: Problem) -> Tensors:
    """The optimal explanation for a distribution of which only samples are known.

    The shortest least-squares explanation of the samples' losses, with a ridge chosen by
    generalised cross-validation: K x K where there are more samples than features, else n x n.
    """
    points, n_samples = problem.points, problem.n_samples or 2000
    sizes = [x[0].numel() for x in points.inputs]
    stream = Stream(perturbation, points, problem.generator, problem.multiply_by_inputs)
    rows: list[Tensor] = []

    def perturbed() -> Iterator[Tensors]:
        for start, end in problem.chunks(n_samples):
            multipliers, copies = stream.take(end - start)
            rows.append(torch.cat([flat(m, 2) for m in multipliers], dim=2))
            yield copies

    losses = problem.output_differences(perturbed(), n_samples)
    drawn = torch.cat(rows, dim=1).to(losses)
    _warn_of_unmoved(drawn, problem)
    solved = [
        solve(_Rows(a), d.unsqueeze(0), torch.ones_like(a[0]), exact=False)
        for a, d in zip(drawn, losses, strict=True)
    ]
    parts = torch.cat(solved).split(sizes, dim=1)
    return tuple(p.view(x.shape) for p, x in zip(parts, points.inputs, strict=True))


def _warn_of_unmoved(drawn: Tensor, problem: Problem) -> None:
    """Warn of features that never move, but for those that are at their baseline anyway."""
    differences = torch.cat([d.flatten(1) for d in problem.differences], dim=1)
    n_unmoved = int(((drawn == 0).all(1) & (differences != 0)).sum())
    if n_unmoved:
        warn_user(
            f"{n_unmoved} of {differences.numel()} features are never moved by the perturbation: "
            "their attributions are 0. Give more samples if it can move them."
        )


class _Rows:
    """A design whose rows are perturbations themselves, (n, d)."""

    def __init__(self, rows: Tensor) -> None:
        self.n_rows, self.n_columns = rows.shape
        self._rows = rows

    def gram(self, squared_scale: Tensor) -> Tensor:
        return (self._rows * squared_scale) @ self._rows.T

    def moment(self) -> Tensor:
        return self._rows.T @ self._rows

    def sums(self, features: Tensor) -> Tensor:
        return features @ self._rows.T

    def spread(self, values: Tensor) -> Tensor:
        return values @ self._rows


@optimum.register
def _(perturbation: FeatureRemoval, problem: Problem) -> Tensors:
    """One pass for each group: the second moment is diagonal."""
    groups = Groups.of(problem.points)
    losses = problem.output_differences(_removed(problem, groups, None), groups.n_groups)
    squares = groups.sums(tuple(s.square() for s in problem.scales()))
    return _scaled(problem, groups, _divide(losses, squares))


@optimum.register
def _(perturbation: CoordinateStep, problem: Problem) -> Tensors:
    """Difference quotients: the second moment is a multiple of the identity."""
    points = problem.points
    sizes = [x[0].numel() for x in points.inputs]

    def perturbed() -> Iterator[Tensors]:
        for start, end in problem.chunks(sum(sizes)):
            moved = torch.arange(start, end, device=points.inputs[0].device)
            offsets = [sum(sizes[:i]) for i in range(len(sizes))]
            copies = []
            for x, offset, size in zip(points.inputs, offsets, sizes, strict=True):
                at = torch.arange(offset, offset + size, device=x.device) == moved[:, None]
                copies.append(x.unsqueeze(1) - perturbation.step * at.view(-1, *x.shape[1:]).to(x))
            yield tuple(copies)

    quotients = problem.output_differences(perturbed(), sum(sizes)) / perturbation.step
    parts = quotients.split(sizes, dim=1)
    local = tuple(p.view(x.shape) for p, x in zip(parts, points.inputs, strict=True))
    return problem.globalised(local)


@optimum.register
def _(perturbation: BaselineShift, problem: Problem) -> Tensors:
    """The shortest complete explanation: mu d / |mu|^2, one pass."""
    points, mu = problem.points, problem.differences
    pairs = zip(points.baselines, points.inputs, strict=True)
    at_baselines = tuple(b.expand_as(x).unsqueeze(1) for b, x in pairs)
    losses = problem.output_differences(iter([at_baselines]), 1).squeeze(1)
    squares = _total(mu, mu)
    if bool((squares == 0).any()):
        warn_user(
            f"baselines equal the inputs for {int((squares == 0).sum())} of {len(points)} "
            "examples: the perturbation moves nothing there, and the attributions are 0."
        )
    share = _divide(losses, squares)
    return problem.globalised(tuple(share.view(-1, *_ones(m)) * m for m in mu))


@optimum.register
def _(perturbation: SeveralBaselines, problem: Problem) -> Tensors:
    """The shortest least-squares explanation: an m x m system for m baselines, m passes."""
    shifts = perturbation.all_shifts(problem.points)
    n_baselines = shifts[0].shape[1]

    def perturbed() -> Iterator[Tensors]:
        for start, end in problem.chunks(n_baselines):
            pairs = zip(problem.points.inputs, shifts, strict=True)
            yield tuple(x.unsqueeze(1) - i[:, start:end] for x, i in pairs)

    losses = problem.output_differences(perturbed(), n_baselines)
    rows = torch.cat([flat(i, 2).to(losses) for i in shifts], dim=2)
    dual = torch.linalg.pinv(rows @ rows.transpose(1, 2), hermitian=True) @ losses.unsqueeze(2)
    local = (rows.transpose(1, 2) @ dual).squeeze(2)
    parts = local.split([x[0].numel() for x in problem.points.inputs], dim=1)
    return problem.globalised(
        tuple(p.view(i[:, 0].shape) for p, i in zip(parts, shifts, strict=True))
    )


@optimum.register
def _(perturbation: GaussianBaseline, problem: Problem) -> Tensors:
    r"""In closed form from gradients at noisy baselines, by Stein's lemma and Sherman-Morrison.

    With :math:`G = E[\nabla f(x_0 + e)]`, :math:`D = E[f(x) - f(x_0 + e)]` and the variances
    :math:`S`: :math:`\phi^* = G + S^{-1}\mu\,(D - \mu^\top G) / (1 + \mu^\top S^{-1} \mu)`.
    """
    points, mu = problem.points, problem.differences
    variances = [s * s for s in perturbation.stdev_each(points)]
    weighted = tuple(m / v for m, v in zip(mu, variances, strict=True))
    means = _means_at_noisy_baselines(perturbation, problem)
    reliable = _reliability(means, variances)
    gradient = tuple(g * reliable.view(-1, *_ones(g)) for g in means.gradient)
    # In D - mu'G the mean of the drawn I stands for mu, as in D that of the drawn outputs: what the
    # two means owe to the same draws cancels, for a linear model all of it.
    drawn = tuple(x - b for x, b in zip(points.inputs, means.baseline, strict=True))
    loss = problem.output.at_inputs() - means.output
    share = (loss - _total(drawn, gradient)) / (1 + _total(mu, weighted))
    pairs = zip(gradient, weighted, strict=True)
    return problem.globalised(tuple(g + w * share.view(-1, *_ones(g)) for g, w in pairs))


class _Means(NamedTuple):
    """Means over n_samples draws of x0 + e, of f there and of its gradient g."""

    n_samples: int
    gradient: Tensors
    squared_gradient: list[Tensor]  # of |g|^2, (N,) for each input
    baseline: Tensors
    output: Tensor


def _reliability(means: _Means, variances: list[float]) -> Tensor:
    """Which part of the mean gradient to believe, (N,) from 0 to 1.

    The mean of n gradients is off by the n-th part of their variance; where there are many features
    that is more than the mean itself. The factor is that of least expected error (James and Stein
    1961), in the metric S in which an error of the gradient adds to infidelity.
    """
    n = means.n_samples
    found = _total(
        means.gradient, tuple(g * v for g, v in zip(means.gradient, variances, strict=True))
    )
    pairs = zip(means.squared_gradient, variances, strict=True)
    spread = torch.stack([q * v for q, v in pairs]).sum(0) - found
    if n == 1:
        return torch.ones_like(found)
    return (1 - _divide(spread / (n - 1), found)).clamp(0, 1)


def _means_at_noisy_baselines(perturbation: GaussianBaseline, problem: Problem) -> _Means:
    points = problem.points
    n_samples = problem.n_samples or 50
    stream = Stream(perturbation, points, problem.generator, False)
    gradients = [torch.zeros_like(d) for d in problem.differences]
    baselines = [torch.zeros_like(d) for d in problem.differences]
    squares = [d.new_zeros(len(points)) for d in problem.differences]
    output = gradients[0].new_zeros(len(points))
    with (
        torch.enable_grad(),
        preserve_buffers(problem.output.forward_func),
        tqdm(total=n_samples, disable=not problem.show_progress, desc="gradients") as bar,
    ):
        for start, end in problem.chunks(n_samples):
            copies = tuple(c.detach().requires_grad_() for c in stream.take(end - start)[1])
            outputs = problem.output.at(copies)
            if not outputs.requires_grad:
                raise ValueError(
                    "forward_func has no gradient, which the closed form needs: return a tensor "
                    "with a graph, from a model outside torch.no_grad and torch.inference_mode."
                )
            found = torch.autograd.grad(outputs.sum(), copies, materialize_grads=True)
            for i, g in enumerate(found):
                g = g.to(gradients[i].dtype)
                gradients[i] += g.sum(1)
                squares[i] += g.flatten(1).square().sum(1)
                baselines[i] += copies[i].detach().sum(1, dtype=g.dtype)
            output += outputs.detach().sum(1)
            bar.update(end - start)
    return _Means(
        n_samples=n_samples,
        gradient=tuple(g / n_samples for g in gradients),
        squared_gradient=[q / n_samples for q in squares],
        baseline=tuple(b / n_samples for b in baselines),
        output=output / n_samples,
    )


@optimum.register
def _(perturbation: ShapleyRemoval, problem: Problem) -> Tensors:
    """Weighted least squares under the condition that attributions sum to the loss of all."""
    points = problem.points
    groups = Groups.of(points)
    n_samples = problem.n_samples or 2 * groups.n_groups + 2048
    subsets, weights = perturbation.design(groups.n_groups, n_samples, problem.generator)
    subsets = subsets.to(points.inputs[0].device)
    with_all = torch.cat([torch.ones_like(subsets[:1]), subsets])
    losses = problem.output_differences(_removed(problem, groups, with_all), len(with_all))
    design = DenseDesign(subsets, weights, losses.dtype)
    squares = groups.sums(tuple(s.square() for s in problem.scales()))
    # Whose features all equal their baselines is worth nothing, whatever the sample says.
    moves = groups.sums(tuple((d != 0).to(d) for d in problem.differences)) > 0
    if not bool(moves.all()):
        squares = squares * moves
    t = _solve_each(
        design,
        losses[:, 1:] * design.roots,
        squares,
        exact=weights is not None,
        totals=losses[:, 0],
    )
    return _scaled(problem, groups, t)


@optimum.register
def _(perturbation: SquareRemoval, problem: Problem) -> Tensors:
    """Each input is a problem of its own, since no square touches two."""
    points = problem.points
    parts = []
    for i, (x, scale) in enumerate(zip(points.inputs, problem.scales(), strict=True)):
        grid = perturbation.grid(x)
        n_squares = problem.n_samples or (len(grid) if len(grid) <= _ALL_SQUARES else _SOME_SQUARES)
        squares = grid.draw(n_squares, problem.generator).to(x.device)
        losses = problem.output_differences(_without_squares(problem, i, squares), len(squares))
        everything = len(squares) == len(grid)
        design = SquaresDesign(squares, grid if everything else None)
        flat = scale.reshape(len(scale), -1, x.shape[-2] * x.shape[-1])
        t = _solve_each(design, losses, flat.square().sum(1), exact=everything)
        parts.append((flat * t.unsqueeze(1)).view(x.shape))
    return tuple(parts)


def _without_squares(problem: Problem, i: int, squares: Squares) -> Iterator[Tensors]:
    """The inputs with squares of the i-th removed, chunk by chunk."""
    points = problem.points
    x, baseline = points.inputs[i].unsqueeze(1), points.baselines[i].unsqueeze(1)
    for start, end in problem.chunks(len(squares)):
        copies = [
            other.unsqueeze(1).expand(-1, end - start, *other.shape[1:]) for other in points.inputs
        ]
        masks = squares[start:end].masks()
        masks = masks.view(1, end - start, *(1,) * (x.dim() - 4), *masks.shape[1:])
        copies[i] = torch.where(masks, baseline, x)
        yield tuple(copies)


def _removed(problem: Problem, groups: Groups, subsets: Tensor | None) -> Iterator[Tensors]:
    """The inputs without each of the subsets (n, K), or without one group at a time (None)."""
    n_subsets = groups.n_groups if subsets is None else len(subsets)
    every = torch.arange(groups.n_groups, device=problem.points.inputs[0].device)
    for start, end in problem.chunks(n_subsets):
        part = every[start:end, None] == every if subsets is None else subsets[start:end]
        yield remove(problem.points, groups.to_features(part.unsqueeze(0)))


def _solve_each(
    design: Design, losses: Tensor, squares: Tensor, *, exact: bool, totals: Tensor | None = None
) -> Tensor:
    """t, (N, K): with one system for all examples where they share the scale."""
    if len(squares) == 1:
        return solve(design, losses, squares[0], exact=exact, totals=totals)
    each = [
        solve(
            design,
            losses[i : i + 1],
            s2,
            exact=exact,
            totals=None if totals is None else totals[i : i + 1],
        )
        for i, s2 in enumerate(squares)
    ]
    return torch.cat(each)


def _scaled(problem: Problem, groups: Groups, t: Tensor) -> Tensors:
    """Attributions s t from t of the groups."""
    pairs = zip(groups.to_features(t), problem.scales(), strict=True)
    return tuple(part * scale for part, scale in pairs)


def _ones(like: Tensor) -> tuple[int, ...]:
    """As many dimensions of size one as an example of ``like`` has."""
    return (1,) * (like.dim() - 1)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    """A / b, and 0 where b is 0: what cannot move has no attribution."""
    return torch.where(b == 0, 0.0, a / torch.where(b == 0, 1.0, b))


def _total(a: Tensors, b: Tensors) -> Tensor:
    """Scalar products over all inputs, (N,)."""
    return torch.stack([flat(x * y).sum(1) for x, y in zip(a, b, strict=True)]).sum(0)

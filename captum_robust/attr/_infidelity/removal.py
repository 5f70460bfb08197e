"""The optima for the removal of groups of features: occlusion, and Shapley values."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from captum_robust._utils.types import Tensors
from captum_robust.attr._infidelity.designs import SubsetsDesign
from captum_robust.attr._infidelity.least_squares import solve_each
from captum_robust.attr._infidelity.problem import Problem, divide
from captum_robust.perturbations import FeatureRemoval, ShapleyRemoval
from captum_robust.perturbations.groups import Groups
from captum_robust.perturbations.removal import remove


def occlusion(perturbation: FeatureRemoval, problem: Problem) -> Tensors:
    r"""One pass for each group, since the second moment is diagonal over groups.

    The removal of group k alone must be worth :math:`\sum_{i \in k} s_i \phi_i = d_k`. Of all that
    do so the shortest is :math:`\phi_i = s_i t_k` with :math:`t_k = d_k / \sum_{i \in k} s_i^2`.
    """
    groups = Groups.of(problem.points)
    output_differences = problem.output_differences(
        _removed(problem, groups, None), groups.n_groups
    )
    return _scaled(problem, groups, divide(output_differences, _squared_scales(problem, groups)))


def shapley_values(perturbation: ShapleyRemoval, problem: Problem) -> Tensors:
    """Weighted least squares under the condition that attributions sum to f(x) - f(x0)."""
    points = problem.points
    groups = Groups.of(points)
    n_samples = problem.n_samples or 2 * groups.n_groups + 2048
    subsets, weights = perturbation.design(groups.n_groups, n_samples, problem.generator)
    subsets = subsets.to(points.inputs[0].device)
    with_all = torch.cat([torch.ones_like(subsets[:1]), subsets])
    output_differences = problem.output_differences(
        _removed(problem, groups, with_all), len(with_all)
    )
    design = SubsetsDesign(subsets, weights, output_differences.dtype)
    squares = _squared_scales(problem, groups)
    # A group whose features all equal their baselines is worth nothing; a sample might say more.
    moves = groups.sums(tuple((d != 0).to(d) for d in problem.differences)) > 0
    if not bool(moves.all()):
        squares = squares * moves
    t = solve_each(
        design,
        output_differences[:, 1:] * design.roots,
        squares,
        exact=weights is not None,
        totals=output_differences[:, 0],
    )
    return _scaled(problem, groups, t)


def _removed(problem: Problem, groups: Groups, subsets: Tensor | None) -> Iterator[Tensors]:
    """The inputs without each of the subsets (n, K), or without one group at a time (None)."""
    n_subsets = groups.n_groups if subsets is None else len(subsets)
    every = torch.arange(groups.n_groups, device=problem.points.inputs[0].device)
    for start, end in problem.chunks(n_subsets):
        part = every[start:end, None] == every if subsets is None else subsets[start:end]
        yield remove(problem.points, groups.to_features(part.unsqueeze(0)))


def _squared_scales(problem: Problem, groups: Groups) -> Tensor:
    """Squared scales summed over each group, (N, K) or (1, K)."""
    return groups.sums(tuple(s.square() for s in problem.scales()))


def _scaled(problem: Problem, groups: Groups, t: Tensor) -> Tensors:
    """Attributions s t from t of the groups."""
    pairs = zip(groups.to_features(t), problem.scales(), strict=True)
    return tuple(part * scale for part, scale in pairs)

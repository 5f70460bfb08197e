"""The optimum for a distribution of which only samples are known."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from captum_robust._utils.types import Tensors
from captum_robust._utils.user_warnings import warn_user
from captum_robust.attr._infidelity.designs import RowsDesign
from captum_robust.attr._infidelity.least_squares import solve
from captum_robust.attr._infidelity.problem import Problem
from captum_robust.perturbations import Perturbation
from captum_robust.perturbations.points import flat

_N_SAMPLES = 2000


def sampled_optimum(perturbation: Perturbation, problem: Problem) -> Tensors:
    """The shortest least-squares explanation of the samples' output differences.

    With a ridge chosen by cross-validation: K x K where there are more samples than features, else
    n x n.
    """
    points, n_samples = problem.points, problem.n_samples or _N_SAMPLES
    stream = perturbation.stream(points, problem.generator, problem.multiply_by_inputs)
    rows: list[Tensor] = []

    def perturbed() -> Iterator[Tensors]:
        for start, end in problem.chunks(n_samples):
            multipliers, copies = stream.take(end - start)
            rows.append(torch.cat([flat(m, 2) for m in multipliers], dim=2))
            yield copies

    output_differences = problem.output_differences(perturbed(), n_samples)
    drawn = torch.cat(rows, dim=1).to(output_differences)
    _warn_of_unmoved(drawn, problem)
    solved = [
        solve(RowsDesign(a), d.unsqueeze(0), torch.ones_like(a[0]), exact=False)
        for a, d in zip(drawn, output_differences, strict=True)
    ]
    return problem.in_shape(torch.cat(solved))


def _warn_of_unmoved(drawn: Tensor, problem: Problem) -> None:
    """Warn of features that never move, but for those that are at their baseline anyway."""
    differences = torch.cat([d.flatten(1) for d in problem.differences], dim=1)
    n_unmoved = int(((drawn == 0).all(1) & (differences != 0)).sum())
    if n_unmoved:
        warn_user(
            f"{n_unmoved} of {differences.numel()} features are never moved by the perturbation: "
            "their attributions are 0. Give more samples if it can move them."
        )

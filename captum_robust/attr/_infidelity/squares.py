"""The optimum for the removal of squares, which never builds a matrix over pixels and squares."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from captum_robust._utils.types import Tensors
from captum_robust.attr._infidelity.designs import SquaresDesign
from captum_robust.attr._infidelity.least_squares import solve_each
from captum_robust.attr._infidelity.problem import Problem
from captum_robust.perturbations import SquareRemoval
from captum_robust.perturbations.grid import Squares
from captum_robust.perturbations.squares import Layout

# All squares are removed where there are no more than this, otherwise a sample of them.
_ALL_SQUARES, _SOME_SQUARES = 10_000, 3_000


def squares_optimum(perturbation: SquareRemoval, problem: Problem) -> Tensors:
    """Each input is a problem of its own, since no square touches two.

    A square goes through all channels, so the channels of a pixel are one group: the unknown of
    the least squares is t of the pixel, and the attribution of each channel is s t.
    """
    layouts = perturbation.layouts(problem.points)
    parts = []
    for i, (layout, scale) in enumerate(zip(layouts, problem.scales(), strict=True)):
        n_all = len(layout.grid)
        n_squares = problem.n_samples or (n_all if n_all <= _ALL_SQUARES else _SOME_SQUARES)
        squares = layout.grid.draw(n_squares, problem.generator).to(scale.device)
        output_differences = problem.output_differences(
            _without_squares(problem, i, layout, squares), len(squares)
        )
        everything = len(squares) == n_all
        design = SquaresDesign(squares, layout.grid if everything else None)
        rows = layout.rows_of_channels(scale)
        t = solve_each(design, output_differences, rows.square().sum(1), exact=everything)
        parts.append(layout.from_rows_of_channels(rows * t.unsqueeze(1)))
    return tuple(parts)


def _without_squares(
    problem: Problem, i: int, layout: Layout, squares: Squares
) -> Iterator[Tensors]:
    """The inputs with squares of the i-th removed, chunk by chunk."""
    points = problem.points
    baseline = points.baselines[i].unsqueeze(1)
    for start, end in problem.chunks(len(squares)):
        masks = layout.over_channels(squares[start:end].masks())
        yield tuple(
            torch.where(masks, baseline, x.unsqueeze(1))
            if j == i
            else x.unsqueeze(1).repeat_interleave(end - start, 1)
            for j, x in enumerate(points.inputs)
        )

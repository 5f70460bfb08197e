"""The optima for perturbations that move every feature: all in closed form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_robust._utils.model_state import preserve_buffers
from captum_robust._utils.types import Tensors
from captum_robust._utils.user_warnings import warn_user
from captum_robust.attr._infidelity.problem import Problem, divide, per_example, scalar_products
from captum_robust.perturbations import (
    BaselineShift,
    CoordinateStep,
    GaussianBaseline,
    SeveralBaselines,
)
from captum_robust.perturbations.points import flat

_N_GRADIENTS = 50


def difference_quotients(perturbation: CoordinateStep, problem: Problem) -> Tensors:
    """(f(x) - f(x - h e_i)) / h: the second moment is a multiple of the identity."""
    points = problem.points
    sizes = problem.sizes

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
    return problem.globalised(problem.in_shape(quotients))


def shortest_complete(perturbation: BaselineShift, problem: Problem) -> Tensors:
    """The shortest complete explanation: mu d / |mu|^2 with mu = x - x0, one pass."""
    points, mu = problem.points, problem.differences
    pairs = zip(points.baselines, points.inputs, strict=True)
    at_baselines = tuple(b.expand_as(x).unsqueeze(1).clone() for b, x in pairs)
    output_differences = problem.output_differences(iter([at_baselines]), 1).squeeze(1)
    squares = scalar_products(mu, mu)
    if bool((squares == 0).any()):
        warn_user(
            f"baselines equal the inputs for {int((squares == 0).sum())} of {len(points)} "
            "examples: the perturbation moves nothing there, and the attributions are 0."
        )
    share = divide(output_differences, squares)
    return problem.globalised(tuple(per_example(share, m) * m for m in mu))


def shortest_of_several_baselines(perturbation: SeveralBaselines, problem: Problem) -> Tensors:
    """The shortest least-squares explanation: an m x m system for m baselines, m passes.

    With the shifts as rows of R it is R' (R R')^+ d.
    """
    shifts = perturbation.all_shifts(problem.points)
    n_baselines = shifts[0].shape[1]

    def perturbed() -> Iterator[Tensors]:
        for start, end in problem.chunks(n_baselines):
            pairs = zip(problem.points.inputs, shifts, strict=True)
            yield tuple(x.unsqueeze(1) - i[:, start:end] for x, i in pairs)

    output_differences = problem.output_differences(perturbed(), n_baselines)
    rows = torch.cat([flat(i, 2).to(output_differences) for i in shifts], dim=2)
    inverse = torch.linalg.pinv(rows @ rows.transpose(1, 2), hermitian=True)
    local = rows.transpose(1, 2) @ (inverse @ output_differences.unsqueeze(2))
    return problem.globalised(problem.in_shape(local.squeeze(2)))


def noisy_baseline(perturbation: GaussianBaseline, problem: Problem) -> Tensors:
    r"""In closed form from gradients at noisy baselines, by Stein's lemma and Sherman-Morrison.

    With :math:`I = \mu - e`, :math:`e \sim N(0, S)`, :math:`G = E[\nabla f(x_0 + e)]` and
    :math:`D = E[d] = E[f(x) - f(x_0 + e)]`:

    * the matrix is :math:`E[II^\top] = S + \mu\mu^\top`;
    * the right-hand side is :math:`E[I d] = \mu D - E[e\,d] = \mu D + E[e\,f(x_0 + e)]`, and
      Stein's lemma makes the last term :math:`S G`;
    * Sherman-Morrison inverts a diagonal matrix plus one of rank one, with
      :math:`q = \mu^\top S^{-1} \mu`:
      :math:`(S + \mu\mu^\top)^{-1} = S^{-1} - S^{-1}\mu\mu^\top S^{-1} / (1 + q)`.

    Their product is :math:`\phi^* = G + S^{-1}\mu\,(D - \mu^\top G) / (1 + q)`.
    """
    points, mu = problem.points, problem.differences
    variances = [s * s for s in perturbation.stdev_each(points)]
    weighted = tuple(m / v for m, v in zip(mu, variances, strict=True))
    means = _means_at_noisy_baselines(perturbation, problem)
    reliable = _reliability(means, variances)
    gradient = tuple(g * per_example(reliable, g) for g in means.gradient)
    # D - mu'G uses the mean of the drawn I instead of mu: its sampling error cancels that of D,
    # which comes from the same draws (for a linear model all of it).
    drawn = tuple(x - b for x, b in zip(points.inputs, means.baseline, strict=True))
    mean_difference = problem.output.at_inputs() - means.output
    share = (mean_difference - scalar_products(drawn, gradient)) / (
        1 + scalar_products(mu, weighted)
    )
    pairs = zip(gradient, weighted, strict=True)
    return problem.globalised(tuple(g + w * per_example(share, g) for g, w in pairs))


class _Means(NamedTuple):
    """Means over n_samples draws of x0 + e, of f there and of its gradient g."""

    n_samples: int
    gradient: Tensors
    squared_gradient: list[Tensor]  # of |g|^2, (N,) for each input
    baseline: Tensors
    output: Tensor


def _reliability(means: _Means, variances: list[float]) -> Tensor:
    r"""Which part of the mean gradient to believe, (N,) from 0 to 1.

    The mean of n gradients is off by the n-th part of their variance; where there are many features
    that is more than the mean itself. The factor is that of least expected error (James and Stein
    1961), in the metric S in which an error of the gradient adds to infidelity:
    :math:`1 - \sum_j |g_j - \bar g|^2 / (n (n - 1) |\bar g|^2)`.
    """
    n = means.n_samples
    weighted = tuple(g * v for g, v in zip(means.gradient, variances, strict=True))
    squared_mean = scalar_products(means.gradient, weighted)
    if n == 1:
        return torch.ones_like(squared_mean)
    pairs = zip(means.squared_gradient, variances, strict=True)
    variance = torch.stack([q * v for q, v in pairs]).sum(0) - squared_mean
    return (1 - divide(variance / (n - 1), squared_mean)).clamp(0, 1)


def _means_at_noisy_baselines(perturbation: GaussianBaseline, problem: Problem) -> _Means:
    points = problem.points
    n_samples = problem.n_samples or _N_GRADIENTS
    stream = perturbation.stream(points, problem.generator, multiply_by_inputs=False)
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
                    "forward_func has no gradient, which the closed form needs: leave out "
                    "torch.no_grad and .detach() in it. For a model without gradients take "
                    "InfidelityOptimal with another perturbation, FeatureRemoval for instance."
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

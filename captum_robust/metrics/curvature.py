"""How curved the surfaces of equal output are, which bounds how far a gradient can be turned."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_robust._utils.captum import format_inputs
from captum_robust._utils.checks import (
    check_count,
    check_floating_inputs,
    check_inputs,
    check_positive,
)
from captum_robust._utils.explained_output import ExplainedOutput
from captum_robust._utils.inference_mode import outside_inference_mode
from captum_robust._utils.model_state import preserve_buffers
from captum_robust._utils.randomness import fresh_generator, standard_normal
from captum_robust._utils.types import Tensors
from captum_robust._utils.user_warnings import warn_user
from captum_robust.metrics._eigenvalues import largest_eigenvalues
from captum_robust.metrics._level_set import LevelSet, project_on_tangent_space


@outside_inference_mode
def principal_curvature(
    forward_func: Callable[..., Any],
    inputs: Tensor | Tensors,
    target: Any = None,
    additional_forward_args: Any = None,
    *,
    beta: float | None = None,
    n_iterations: int = 100,
    tolerance: float = 1e-3,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Largest magnitude of a principal curvature of the surface of equal output.

    .. math:: |\lambda|_{\max}\left(P\,\nabla^2 f(x)\,P\right) / |\nabla f(x)|_2, \quad
              P = 1 - n n^\top, \quad n = \nabla f(x) / |\nabla f(x)|_2

    the second fundamental form of :math:`\{f = f(x)\}`, by Lanczos iteration with products of the
    Hessian, which is never built. Dombrowski et al. 2019, Section 3: it bounds how fast the
    direction of the gradient turns on the surface (:func:`curvature_bound`).

    Args:
        forward_func: The model, or any function that calls it.
        inputs: Tensor or tuple of tensors, (N, ...) each; a tuple is one point.
        target: The class that is explained, as in Captum.
        additional_forward_args: Further arguments of ``forward_func``, as in Captum.
        beta: Sharpness of the softplus that replaces rectifiers; None: the model as it is, whose
            curvature is zero almost everywhere if it is made of rectifiers.
        n_iterations: Largest number of iterations; one takes one double backward pass.
        tolerance: An example is done when the residual of the eigenvector is at most this times
            the eigenvalue. What is found is never above the true value, and usually far closer
            than that; where many curvatures lie close together it may be some times as far.
        generator: Source of the first vectors; None draws fresh ones.

    Returns:
        (N,), in one over the unit of the inputs.

    Raises:
        TypeError, ValueError: See :mod:`captum_robust.metrics`; or the gradient is zero.

    Warns:
        UserWarning: The curvature is zero, or ``n_iterations`` did not do.

    Example:
        >>> import torch
        >>> from captum_robust.metrics import principal_curvature
        >>> spheres = lambda x: x.square().sum(1)
        >>> principal_curvature(spheres, torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.5, 0.0]]))
        tensor([0.2000, 2.0000])
    """
    x = _checked(inputs, beta, n_iterations, tolerance, generator)
    surface = LevelSet(ExplainedOutput(forward_func, x, target, additional_forward_args), beta)
    with preserve_buffers(forward_func):
        values, done = _curvatures(
            surface,
            surface.rows(x),
            n_iterations,
            tolerance,
            fresh_generator(generator, x[0].device),
        )
    if bool((values == 0).any()):
        warn_user(
            "the curvature is zero for at least one example. Of a network of rectifiers it is, "
            "almost everywhere: give beta, to measure the smoothed network."
        )
    _warn(done, n_iterations)
    return values


class CurvatureBound(NamedTuple):
    """Both sides of Theorem 1 and what the bound is made of, (N,) each."""

    change: Tensor
    """How far the unit gradient turns, :math:`|n(p) - n(p_0)|_2`."""
    bound: Tensor
    """The largest curvature times the length of the path."""
    curvature: Tensor
    """The largest principal curvature on the path."""
    length: Tensor
    """The length of the path on the surface, at least the geodesic distance of its ends."""


@outside_inference_mode
def curvature_bound(
    forward_func: Callable[..., Any],
    inputs: Tensor | Tensors,
    manipulated: Tensor | Tensors,
    target: Any = None,
    additional_forward_args: Any = None,
    *,
    beta: float | None = None,
    n_points: int = 10,
    n_iterations: int = 100,
    tolerance: float = 1e-3,
    generator: torch.Generator | None = None,
) -> CurvatureBound:
    r"""The bound of Theorem 1 along a path on the surface of equal output.

    .. math:: |n(p) - n(p_0)|_2 \le |\lambda_{\max}|\,d(p, p_0)

    with n the unit gradient, :math:`\lambda_{\max}` the largest principal curvature on the path and
    d its length. The path leads from ``inputs`` to ``manipulated``: the straight line, every point
    of it moved along the gradient to the output of ``inputs``; so is its end. Dombrowski et al.
    2019, Theorem 1. It holds for smooth networks: max-pooling has kinks that beta leaves as they
    are and no curvature shows, so the change may exceed the bound. Between the points neither
    curvature nor length is known; take many.

    Args:
        forward_func: The model, or any function that calls it.
        inputs: p, tensor or tuple of tensors, (N, ...) each.
        manipulated: The other end, of the same shapes.
        target: The class that is explained, as in Captum.
        additional_forward_args: Further arguments of ``forward_func``, as in Captum.
        beta: As in :func:`principal_curvature`.
        n_points: Number of points of the path, at least 2.
        n_iterations: As in :func:`principal_curvature`.
        tolerance: As in :func:`principal_curvature`.
        generator: As in :func:`principal_curvature`.

    Returns:
        ``change``, ``bound``, ``curvature`` and ``length``, (N,) each.

    Raises:
        TypeError, ValueError: See :mod:`captum_robust.metrics`; or the path leaves the surface.

    Warns:
        UserWarning: The gradient turns by more than a right angle between two points, or
            ``n_iterations`` did not do.

    Example:
        >>> import torch
        >>> from captum_robust.metrics import curvature_bound
        >>> a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> curvature_bound(lambda x: x.square().sum(1), a, b, n_points=50).bound  # pi / 2
        tensor([1.5707])
    """
    x = _checked(inputs, beta, n_iterations, tolerance, generator)
    check_inputs(manipulated)
    other = format_inputs(manipulated)[1]
    if [t.shape for t in x] != [t.shape for t in other]:
        raise ValueError("manipulated must have the shapes of inputs.")
    check_count(n_points=n_points - 1)
    generator = fresh_generator(generator, x[0].device)
    surface = LevelSet(ExplainedOutput(forward_func, x, target, additional_forward_args), beta)
    start, end = surface.rows(x), surface.rows(other)
    with preserve_buffers(forward_func):
        level, _ = surface.value_and_gradient(start)
        points, curvatures, converged = [start], [], []
        for i in range(n_points):
            if i > 0:
                line = start + (end - start) * (i / (n_points - 1))
                point, distance = surface.project(line, level)
                _check_on_surface(distance, (end - start).norm(dim=1))
                points.append(point)
            values, done = _curvatures(surface, points[i], n_iterations, tolerance, generator)
            curvatures.append(values)
            converged.append(done)
        normals = [surface.weingarten(p)[1] for p in points]
    _warn_of_turns(normals)
    _warn(torch.stack(converged), n_iterations)
    steps = [(b - a).norm(dim=1) for a, b in pairwise(points)]
    curvature, length = torch.stack(curvatures).amax(0), torch.stack(steps).sum(0)
    change = (normals[-1] - normals[0]).norm(dim=1)
    return CurvatureBound(change, curvature * length, curvature, length)


def _curvatures(
    surface: LevelSet,
    rows: Tensor,
    n_iterations: int,
    tolerance: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    product, normals = surface.weingarten(rows)
    start = project_on_tangent_space(standard_normal(rows, generator), normals)
    return largest_eigenvalues(product, start, n_iterations, tolerance)


def _checked(
    inputs: Any, beta: float | None, n_iterations: int, tolerance: float, generator: Any
) -> Tensors:
    check_inputs(inputs)
    if beta is not None:
        check_positive(beta=beta)
    check_count(n_iterations=n_iterations)
    check_positive(tolerance=tolerance)
    tensors = format_inputs(inputs)[1]
    check_floating_inputs(tensors)
    return tensors


def _check_on_surface(distance: Tensor, scale: Tensor) -> None:
    if bool((distance > 1e-3 * scale).any()):
        raise ValueError(
            "manipulated: between it and inputs there are points from which Newton's method does "
            "not come back to the output of inputs. Give points whose output is nearly the same."
        )


def _warn_of_turns(normals: list[Tensor]) -> None:
    if any(bool(((a * b).sum(1) < 0).any()) for a, b in pairwise(normals)):
        warn_user(
            "the gradient turns by more than a right angle between two points of the path, so the "
            "bound may be too small: raise n_points, or give a nearer manipulated."
        )


def _warn(done: Tensor, n_iterations: int) -> None:
    if not bool(done.all()):
        warn_user(
            f"Lanczos iteration stopped after n_iterations={n_iterations} at "
            f"{int((~done).sum())} of {done.numel()} points before tolerance was reached: the "
            "result may be too small. Raise n_iterations, or tolerance."
        )

"""The surface of equal output through a point, and its largest curvature, with no Hessian built."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from captum_robust._utils.forward import explained_output
from captum_robust._utils.types import Tensors
from captum_robust.attr import softplus_activations

Product = Callable[[Tensor], Tensor]


class LevelSet:
    """The explained output f as a function of rows (N, d), all inputs of an example in one.

    Args:
        forward_func: The model, or any function that calls it.
        inputs: The examples, (N, ...) each.
        target: As in Captum.
        additional_forward_args: As in Captum.
        beta: Sharpness of the softplus in place of rectifiers; None: the model as it is.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        inputs: Tensors,
        target: Any,
        additional_forward_args: Any,
        beta: float | None,
    ) -> None:
        self._shapes = [x.shape for x in inputs]
        self._dtypes = [x.dtype for x in inputs]
        self._sizes = [x[0].numel() for x in inputs]
        self._forward = forward_func
        self._arguments = (target, additional_forward_args)
        self._beta = beta

    def rows(self, inputs: Tensors) -> Tensor:
        """The inputs as rows, at least float32."""
        rows = torch.cat([x.detach().flatten(1) for x in inputs], dim=1)
        return rows.to(torch.promote_types(rows.dtype, torch.float32))

    def value_and_gradient(self, rows: Tensor, graph: bool = False) -> tuple[Tensor, Tensor]:
        """F, (N,), and its gradient, (N, d); with ``graph``, ``rows`` must require gradients."""
        with torch.enable_grad():
            x = rows if graph else rows.detach().requires_grad_()
            parts = x.split(self._sizes, dim=1)
            forms = zip(parts, self._shapes, self._dtypes, strict=True)
            inputs = tuple(part.view(shape).to(dtype) for part, shape, dtype in forms)
            smooth = nullcontext() if self._beta is None else softplus_activations(self._beta)
            with smooth:
                value = explained_output(self._forward, inputs, *self._arguments).flatten()
            (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=graph)
        return value.detach().to(rows), gradient

    def weingarten(self, rows: Tensor) -> tuple[Product, Tensor]:
        """The map from v to P H P v / |g| at each row, and the unit normals.

        H is the Hessian of f, g its gradient and P the projection on the tangent space, which is
        perpendicular to g. Its eigenvalues are the principal curvatures, and 0 along the normal.
        """
        x = rows.detach().requires_grad_()
        _, gradient = self.value_and_gradient(x, graph=True)
        normals, sizes = _unit(gradient.detach())

        def product(v: Tensor) -> Tensor:
            v = project_on_tangent_space(v, normals)
            if not gradient.requires_grad:  # a plane
                return torch.zeros_like(v)
            (image,) = torch.autograd.grad(
                gradient, x, v, retain_graph=True, materialize_grads=True
            )
            return project_on_tangent_space(image, normals) / sizes

        return product, normals

    def project(self, rows: Tensor, level: Tensor, n_steps: int = 20) -> tuple[Tensor, Tensor]:
        """Rows moved along the gradient to where f is ``level``, and how far they still are, (N,).

        The distance is |f - level| / |g|, of which Newton's method takes the best rows.
        """
        best, distance = rows, rows.new_full((len(rows),), torch.inf)
        for _ in range(n_steps):
            value, gradient = self.value_and_gradient(rows)
            normals, sizes = _unit(gradient)
            step = (value - level) / sizes[:, 0]
            nearer = step.abs() < distance
            best = torch.where(nearer[:, None], rows, best)
            distance = torch.where(nearer, step.abs(), distance)
            if not bool(nearer.any()):
                break
            rows = rows - step[:, None] * normals
        return best, distance


def largest_eigenvalues(
    product: Product, start: Tensor, n_iterations: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Lanczos: the largest magnitude of an eigenvalue, one operator per row, and if it converged.

    Done where the residual of the eigenvector is at most ``tolerance`` times the eigenvalue. With
    all vectors kept orthogonal, d iterations are exact; a row whose space is exhausted gets zeros.
    """
    basis = [torch.nan_to_num(start / start.norm(dim=1, keepdim=True))]
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    value, done = start.new_zeros(len(start)), torch.zeros_like(start[:, 0], dtype=torch.bool)
    for _ in range(min(n_iterations, start.shape[1])):
        image = product(basis[-1])
        diagonal.append((image * basis[-1]).sum(1))
        for _ in range(2):  # twice is enough against rounding
            for q in basis:
                image = image - (image * q).sum(1, keepdim=True) * q
        size = image.norm(dim=1)
        values, vectors = torch.linalg.eigh(_tridiagonal(diagonal, beside))
        index = values.abs().argmax(1, keepdim=True)
        value = values.gather(1, index)[:, 0].abs()
        last = vectors[:, -1].gather(1, index)[:, 0].abs()
        done = size * last <= tolerance * value
        if bool(done.all()):
            break
        # What is left of an exhausted row is rounding: it would only come back as noise.
        alive = size > 100 * torch.finfo(size.dtype).eps * value
        safe = torch.where(alive, size, 1.0)[:, None]
        basis.append(torch.where(alive[:, None], image / safe, 0.0))
        beside.append(torch.where(alive, size, 0.0))
    return value, done


def _tridiagonal(diagonal: list[Tensor], beside: list[Tensor]) -> Tensor:
    matrix = torch.diag_embed(torch.stack(diagonal, dim=1))
    if beside:
        off = torch.stack(beside, dim=1)
        matrix = matrix + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    return matrix


def project_on_tangent_space(v: Tensor, normals: Tensor) -> Tensor:
    return v - (v * normals).sum(1, keepdim=True) * normals


def _unit(gradient: Tensor) -> tuple[Tensor, Tensor]:
    sizes = gradient.norm(dim=1, keepdim=True)
    if not bool((sizes > torch.finfo(sizes.dtype).tiny).all()) or not bool(sizes.isfinite().all()):
        raise ValueError(
            "inputs: at some example the gradient of the output is zero, NaN or Inf, so there is "
            "no surface of equal output. Explain logits in place of probabilities."
        )
    return gradient / sizes, sizes

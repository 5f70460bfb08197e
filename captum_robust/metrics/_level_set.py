"""The surface of equal output through a point, and how it curves, with no Hessian built."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from captum_robust._utils.explained_output import ExplainedOutput
from captum_robust._utils.forward import explained_output
from captum_robust._utils.sound_gradients import sound_gradients
from captum_robust._utils.types import Tensors
from captum_robust.attr import softplus_activations
from captum_robust.metrics._eigenvalues import Product


class LevelSet:
    """The explained output f as a function of rows (N, d), all inputs of an example in one.

    Args:
        output: f at the examples.
        beta: Sharpness of the softplus that replaces rectifiers; None: the model as it is.
    """

    def __init__(self, output: ExplainedOutput, beta: float | None) -> None:
        self._shapes = [x.shape for x in output.inputs]
        self._dtypes = [x.dtype for x in output.inputs]
        self._sizes = [x[0].numel() for x in output.inputs]
        self._output, self._beta = output, beta

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
            beta, forward = self._beta, self._output.forward_func
            smooth = softplus_activations(beta, forward) if beta else nullcontext()
            with smooth, sound_gradients(2 if graph else 1):
                value = explained_output(forward, inputs, **self._output.arguments).flatten()
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


def project_on_tangent_space(v: Tensor, normals: Tensor) -> Tensor:
    return v - (v * normals).sum(1, keepdim=True) * normals


def _unit(gradient: Tensor) -> tuple[Tensor, Tensor]:
    sizes = gradient.norm(dim=1, keepdim=True)
    if not bool((sizes > torch.finfo(sizes.dtype).tiny).all()) or not bool(sizes.isfinite().all()):
        raise ValueError(
            "inputs: at some example the gradient of the output is zero, NaN or Inf, so there is "
            "no surface of equal output. Explain logits instead of probabilities."
        )
    return gradient / sizes, sizes

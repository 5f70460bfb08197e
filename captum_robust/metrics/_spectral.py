"""Largest singular values of Jacobians that are never built."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from captum_robust._utils.types import Tensors

Product = Callable[[Tensors], Tensors]


def jacobian_products(explain: Callable[[Tensors], Tensors], points: Tensors) -> Product | None:
    """The map from v to J'J v, one Jacobian per row; None if the explanation is constant there.

    ``explain`` is called once. Two backward passes through its graph multiply by J and by J': that
    by J differentiates g(w) = J'w, which is linear in w, with respect to w.
    """
    with torch.enable_grad():
        x = tuple(p.detach().requires_grad_() for p in points)
        explanation = tuple(e for e in explain(x) if e.requires_grad)
        if not explanation:
            return None
        w = tuple(torch.zeros_like(e, requires_grad=True) for e in explanation)
        g = torch.autograd.grad(explanation, x, w, create_graph=True, materialize_grads=True)
    with_graph = [i for i, part in enumerate(g) if part.requires_grad]
    if not with_graph:
        return None

    def forward(v: Tensors) -> Tensors:
        return torch.autograd.grad(
            tuple(g[i] for i in with_graph),
            w,
            tuple(v[i] for i in with_graph),
            retain_graph=True,
            materialize_grads=True,
        )

    def backward(u: Tensors) -> Tensors:
        return torch.autograd.grad(explanation, x, u, retain_graph=True, materialize_grads=True)

    return lambda v: backward(forward(v))


def largest_singular_values(
    product: Product, start: Tensors, n_iterations: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Power iteration on J'J, each row on its own: singular values (N,), converged (N,).

    A row is done, and keeps its value, when ``|J'J v - s^2 v| <= tolerance * s^2`` for its unit
    vector v: then s^2 is within that of an eigenvalue. Values are never above the true ones.
    """
    v = _scaled(start, _norms(start))
    value = _norms(start).new_zeros(len(start[0]))
    done = torch.zeros_like(value, dtype=torch.bool)
    for _ in range(n_iterations):
        image = product(v)
        size = _norms(image)
        rayleigh = torch.stack([_dot(a, b) for a, b in zip(v, image, strict=True)]).sum(0)
        value = torch.where(done, value, size.sqrt())
        residual = _norms(
            tuple(b - _spread(rayleigh, a) * a for a, b in zip(v, image, strict=True))
        )
        done = done | (residual <= tolerance * rayleigh)
        if bool(done.all()):
            break
        v = _scaled(image, size)
    return value, done


def _wide(x: Tensor) -> Tensor:
    return x if x.device.type == "mps" else x.double()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (_wide(a) * _wide(b)).flatten(1).sum(1)


def _norms(tensors: Tensors) -> Tensor:
    return torch.stack([_dot(t, t) for t in tensors]).sum(0).sqrt()


def _spread(per_row: Tensor, like: Tensor) -> Tensor:
    """(N,) in the number of dimensions of ``like``."""
    return per_row.to(like.device).view(-1, *[1] * (like.dim() - 1))


def _scaled(tensors: Tensors, norms: Tensor) -> Tensors:
    """Rows divided by their norm over all tensors; zero rows stay zero."""
    safe = torch.where(norms > 0, norms, 1)
    return tuple((_wide(t) / _spread(safe, t)).to(t) for t in tensors)

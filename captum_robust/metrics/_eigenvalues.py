"""Largest eigenvalues of matrices that are never built, only multiplied with, row by row."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from captum_robust._utils.types import Tensors

Product = Callable[[Tensor], Tensor]
"""Multiplies a symmetric matrix of each row with a vector of that row, (N, d)."""

Products = Callable[[Tensors], Tensors]
"""The same where a row's vector is cut into several tensors, (N, ...) each."""


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


def largest_singular_values(
    product: Products, start: Tensors, n_iterations: int, tolerance: float
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


def _tridiagonal(diagonal: list[Tensor], beside: list[Tensor]) -> Tensor:
    matrix = torch.diag_embed(torch.stack(diagonal, dim=1))
    if beside:
        off = torch.stack(beside, dim=1)
        matrix = matrix + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    return matrix


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

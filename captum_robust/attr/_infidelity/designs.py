"""The matrix of the least squares in three forms, each with what it knows of its structure."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from captum_robust.perturbations.grid import Grid, Squares


class Design(ABC):
    """n rows of K features: the matrix Z of the least squares (rows may carry weights)."""

    n_rows: int
    n_columns: int

    @abstractmethod
    def matvec(self, features: Tensor) -> Tensor:
        """Z p, from (..., K) to (..., n)."""

    @abstractmethod
    def rmatvec(self, values: Tensor) -> Tensor:
        """Z'v, from (..., n) to (..., K)."""

    @abstractmethod
    def normal_matrix(self) -> Tensor:
        """Z'Z, (K, K)."""

    @abstractmethod
    def gram(self, squared_scale: Tensor) -> Tensor:
        """Z diag(s^2) Z', (n, n)."""


class RowsDesign(Design):
    """Rows that are perturbations themselves.

    Args:
        rows: Z, (n, K).
    """

    def __init__(self, rows: Tensor) -> None:
        self.n_rows, self.n_columns = rows.shape
        self._rows = rows

    def matvec(self, features: Tensor) -> Tensor:
        """Z p."""
        return features @ self._rows.T

    def rmatvec(self, values: Tensor) -> Tensor:
        """Z'v."""
        return values @ self._rows

    def normal_matrix(self) -> Tensor:
        """Z'Z."""
        return self._rows.T @ self._rows

    def gram(self, squared_scale: Tensor) -> Tensor:
        """Z diag(s^2) Z'."""
        return (self._rows * squared_scale) @ self._rows.T


class SubsetsDesign(Design):
    """Subsets of features: a 0-1 matrix, of which little is held in double precision at a time.

    Args:
        subsets: Z, boolean (n, K).
        weights: Of the rows, (n,); None: equal.
        dtype: Of the arithmetic.
    """

    def __init__(self, subsets: Tensor, weights: Tensor | None, dtype: torch.dtype) -> None:
        self.n_rows, self.n_columns = subsets.shape
        roots = torch.ones(len(subsets)) if weights is None else weights.sqrt()
        self._subsets, self.roots = subsets, roots.to(subsets.device, dtype)
        self._normal_matrix: Tensor | None = None

    def matvec(self, features: Tensor) -> Tensor:
        """Z p."""
        parts = [features @ z.to(features).T for z in self._subsets.split(1024)]
        return torch.cat(parts, dim=-1) * self.roots

    def rmatvec(self, values: Tensor) -> Tensor:
        """Z'v."""
        values = values * self.roots
        parts = zip(values.split(1024, -1), self._subsets.split(1024), strict=True)
        return sum(v @ z.to(v) for v, z in parts)

    def normal_matrix(self) -> Tensor:
        """Z'Z, which examples of different scales share."""
        if self._normal_matrix is None:
            self._normal_matrix = self.roots.new_zeros(self.n_columns, self.n_columns)
            for z, w in zip(self._subsets.split(1024), self.roots.split(1024), strict=True):
                z = z.to(w) * w.unsqueeze(1)
                self._normal_matrix.addmm_(z.T, z)
        return self._normal_matrix

    def gram(self, squared_scale: Tensor) -> Tensor:
        """Z diag(s^2) Z', column by column."""
        gram = self.roots.new_zeros(self.n_rows, self.n_rows)
        for z, s2 in zip(self._subsets.split(1024, 1), squared_scale.split(1024), strict=True):
            z = z.to(self.roots.dtype)
            gram.addmm_(z * s2, z.T)
        return gram * self.roots * self.roots.unsqueeze(1)


class SquaresDesign(Design):
    """Squares of an image, as they are: :mod:`captum_robust.perturbations.grid` has the algebra.

    Args:
        squares: The squares, in one dimension.
        everything: The grid, where the squares are all of its.
    """

    def __init__(self, squares: Squares, everything: Grid | None) -> None:
        self.n_rows, self.n_columns = len(squares), torch.Size(squares.shape).numel()
        self._squares, self._everything = squares, everything

    def matvec(self, features: Tensor) -> Tensor:
        """Z p."""
        return self._squares.matvec(features.unflatten(-1, self._squares.shape))

    def rmatvec(self, values: Tensor) -> Tensor:
        """Z'v."""
        return self._squares.rmatvec(values).flatten(-len(self._squares.shape))

    def normal_matrix(self) -> Tensor:
        """Z'Z, in closed form over the whole grid."""
        if self._everything is not None:
            return self._everything.normal_matrix(self._squares.size.device)
        dense = SubsetsDesign(self._squares.masks().flatten(1), None, torch.float64)
        return dense.normal_matrix()

    def gram(self, squared_scale: Tensor) -> Tensor:
        """Z diag(s^2) Z'."""
        return self._squares.gram(squared_scale.view(self._squares.shape))

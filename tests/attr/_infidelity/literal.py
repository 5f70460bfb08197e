"""Ridges chosen by cross-validation, by brute force."""

from __future__ import annotations

import torch


def literal_ridge(rows, losses):
    """Of 49 ridges the one whose every sample is predicted best from the others, by brute force.

    Of those that predict equally well but for rounding it is the smallest.
    """
    n, d = rows.shape
    eigenvalue = rows.square().sum() / n  # mean of those of the n x n Gram matrix
    errors, ridges = [], torch.logspace(-8, 4, 49, dtype=torch.float64) * eigenvalue
    for ridge in ridges:
        error = 0.0
        for i in range(n):
            rest = [j for j in range(n) if j != i]
            a = rows[rest]
            fitted = torch.linalg.solve(a.T @ a + ridge * torch.eye(d).double(), a.T @ losses[rest])
            error += (rows[i] @ fitted - losses[i]) ** 2
        errors.append(error)
    best = next(r for e, r in zip(errors, ridges, strict=True) if e <= min(errors) * (1 + 1e-6))
    return torch.linalg.solve(rows.T @ rows + best * torch.eye(d).double(), rows.T @ losses)


def literal_gcv(rows, losses):
    """The ridge of the least generalised cross-validation error, from the hat matrix."""
    n, d = rows.shape
    best = None
    for ridge in torch.logspace(-8, 4, 49, dtype=torch.float64) * rows.square().sum() / d:
        inverse = torch.linalg.inv(rows.T @ rows + ridge * torch.eye(d).double())
        hat = rows @ inverse @ rows.T
        score = (losses - hat @ losses).square().sum() / (n - hat.trace()) ** 2
        if best is None or score < best[0]:
            best = score, inverse @ (rows.T @ losses)
    return best[1]

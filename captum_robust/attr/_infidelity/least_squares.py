r"""Least squares over subsets: which attributions tell best what the removal of subsets costs.

The unknown of a feature is :math:`t_k`, its attribution over its squared scale :math:`s_k^2`; in
:math:`b = s\,t` the problem is an ordinary one with the matrix :math:`A = Z\,\mathrm{diag}(s)`,
whose shortest solution, or the ridge solution, is the shortest explanation.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from captum_robust._utils.user_warnings import warn_user
from captum_robust.perturbations.squares import Grid, Squares

# Ridge parameters that are tried, over the mean eigenvalue.
_RIDGES = torch.logspace(-8, 4, 49, dtype=torch.float64)

_SINGULAR = (
    "the second moment of the perturbation is singular, so many explanations are optimal: this is "
    "the shortest (pseudo-inverse). Give more samples, or group the features with feature_mask."
)


class Design(Protocol):
    """n subsets of K features: the 0-1 matrix Z (rows may carry weights)."""

    n_rows: int
    n_columns: int

    def gram(self, squared_scale: Tensor) -> Tensor:
        """Z diag(s^2) Z', (n, n)."""

    def moment(self) -> Tensor:
        """Z'Z, (K, K)."""

    def sums(self, features: Tensor) -> Tensor:
        """Z p, from (..., K) to (..., n)."""

    def spread(self, values: Tensor) -> Tensor:
        """Z'v, from (..., n) to (..., K)."""


class DenseDesign:
    """Subsets as a matrix.

    Args:
        subsets: Z, boolean (n, K).
        weights: Of the rows, (n,); None: equal.
        dtype: Of the arithmetic.
    """

    def __init__(self, subsets: Tensor, weights: Tensor | None, dtype: torch.dtype) -> None:
        self.n_rows, self.n_columns = subsets.shape
        roots = torch.ones(len(subsets)) if weights is None else weights.sqrt()
        self._subsets, self.roots = subsets, roots.to(subsets.device, dtype)
        self._moment: Tensor | None = None

    def gram(self, squared_scale: Tensor) -> Tensor:
        """Z diag(s^2) Z', column by column so that Z is never held in double precision."""
        gram = self.roots.new_zeros(self.n_rows, self.n_rows)
        for z, s2 in zip(self._subsets.split(1024, 1), squared_scale.split(1024), strict=True):
            z = z.to(self.roots.dtype)
            gram.addmm_(z * s2, z.T)
        return gram * self.roots * self.roots.unsqueeze(1)

    def moment(self) -> Tensor:
        """Z'Z, which examples of different scales share."""
        if self._moment is None:
            self._moment = self._computed_moment()
        return self._moment

    def _computed_moment(self) -> Tensor:
        moment = self.roots.new_zeros(self.n_columns, self.n_columns)
        for z, w in zip(self._subsets.split(1024), self.roots.split(1024), strict=True):
            z = z.to(w) * w.unsqueeze(1)
            moment.addmm_(z.T, z)
        return moment

    def sums(self, features: Tensor) -> Tensor:
        """Z p."""
        parts = [features @ z.to(features).T for z in self._subsets.split(1024)]
        return torch.cat(parts, dim=-1) * self.roots

    def spread(self, values: Tensor) -> Tensor:
        """Z'v."""
        values = values * self.roots
        parts = zip(values.split(1024, -1), self._subsets.split(1024), strict=True)
        return sum(v @ z.to(v) for v, z in parts)


class SquaresDesign:
    """Squares of an image, as they are: no matrix of n squares times all pixels.

    Args:
        squares: The squares, in one dimension.
        everything: The grid, where the squares are all of its.
    """

    def __init__(self, squares: Squares, everything: Grid | None) -> None:
        self.n_rows, self.n_columns = len(squares), squares.height * squares.width
        self._squares, self._everything = squares, everything
        self._shape = (squares.height, squares.width)

    def gram(self, squared_scale: Tensor) -> Tensor:
        """Z diag(s^2) Z'."""
        return self._squares.gram(squared_scale.view(self._shape))

    def moment(self) -> Tensor:
        """Z'Z, in closed form over the whole grid."""
        if self._everything is not None:
            return self._everything.pair_counts(self._squares.size.device)
        dense = DenseDesign(self._squares.masks().flatten(1), None, torch.float64)
        return dense.moment()

    def sums(self, features: Tensor) -> Tensor:
        """Z p."""
        return self._squares.sums(features.unflatten(-1, self._shape))

    def spread(self, values: Tensor) -> Tensor:
        """Z'v."""
        return self._squares.spread(values).flatten(-2)


def solve(
    design: Design,
    losses: Tensor,
    squared_scale: Tensor,
    *,
    exact: bool,
    totals: Tensor | None = None,
) -> Tensor:
    """Find t such that the sum of s^2 t over each subset is its loss, as well as can be.

    Args:
        design: The subsets.
        losses: d, (N, n).
        squared_scale: s^2, (K,) for all examples alike.
        exact: Whether the subsets are the whole distribution; otherwise a ridge, chosen for each
            example by cross-validation, keeps the explanation from learning the sample by heart.
        totals: (N,) what the sum of s^2 t over all features must be; None: anything.

    Returns:
        t, (N, K); 0 where s is 0.

    Warns:
        UserWarning: The whole distribution does not determine the explanation.
    """
    moves = squared_scale > 0
    whole = squared_scale.sum()
    if not bool(moves.any()):
        return losses.new_zeros(len(losses), design.n_columns)
    share = losses.new_zeros(len(losses), 1) if totals is None else totals.unsqueeze(1) / whole
    rest = losses if totals is None else losses - share * design.sums(squared_scale)
    many = design.n_rows >= design.n_columns if exact else design.n_rows >= 2 * design.n_columns
    by = _over_features if many else _over_samples
    return (share + by(design, rest, squared_scale, exact, totals is not None)) * moves


def _over_features(
    design: Design, losses: Tensor, squared_scale: Tensor, exact: bool, sums_to_zero: bool
) -> Tensor:
    """The primal: one unknown for each feature that moves, a K x K system."""
    moves = squared_scale > 0
    if sums_to_zero and int(moves.sum()) == 1:
        return torch.zeros_like(losses[:, :1] * squared_scale)
    scale = squared_scale[moves].sqrt()
    moment, right = design.moment(), design.spread(losses)
    if not bool(moves.all()):
        moment, right = moment[moves][:, moves], right[:, moves]
    moment, right = moment * scale * scale.unsqueeze(1), right * scale
    if sums_to_zero:
        moment, right = _without(scale / scale.norm(), moment, right)
    b = solve_normal_equations(moment, right) if exact else _ridge(moment, right, losses)
    t = losses.new_zeros(len(losses), design.n_columns)
    t[:, moves] = b / scale
    return t


def _without(direction: Tensor, moment: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same system for unknowns at right angles to a direction of unit length.

    Along it the moment is that of an average direction, which nothing on the right asks for.
    """
    along = moment @ direction
    middle = along @ direction
    moment = moment - along * direction.unsqueeze(1) - along.unsqueeze(1) * direction
    moment = moment + middle * direction * direction.unsqueeze(1)
    mean = moment.diagonal().mean()
    moment = moment + mean * direction * direction.unsqueeze(1)
    return moment, right - (right @ direction).unsqueeze(1) * direction


def solve_normal_equations(moment: Tensor, right: Tensor, *, warn: bool = True) -> Tensor:
    """Solve M a = r for each row r of (N, K), by Cholesky where M is regular.

    Args:
        moment: M, (K, K), positive semi-definite.
        right: (N, K).
        warn: Whether to say that M is singular, where it is.

    Returns:
        (N, K), the shortest solution where M is singular.

    Warns:
        UserWarning: M is singular.
    """
    tiny, eps = torch.finfo(moment.dtype).tiny, torch.finfo(moment.dtype).eps
    factor, failed = torch.linalg.cholesky_ex(moment)
    # A pivot is what a feature adds to those before it, over its own second moment.
    pivots = factor.diagonal().square() / moment.diagonal().clamp(min=tiny)
    if not bool(failed) and bool((pivots > 10 * len(moment) * eps).all()):
        return torch.cholesky_solve(right.T, factor).T
    if warn:
        warn_user(_SINGULAR)
    return right @ torch.linalg.pinv(moment, hermitian=True)


def _ridge(moment: Tensor, right: Tensor, losses: Tensor) -> Tensor:
    r"""Ridge by generalised cross-validation (Golub, Heath and Wahba 1979), for many samples.

    .. math:: \mathrm{GCV}(\lambda) = |d - \hat d_\lambda|^2 /
              (n - \textstyle\sum_j s_j / (s_j + \lambda))^2
    """
    eigenvalues, vectors = torch.linalg.eigh(moment)
    eigenvalues = eigenvalues.clamp(min=0)
    right = right @ vectors
    ridges = _ridges(eigenvalues)
    # Of d, the part that eigenvector j explains has this square; the rest no attribution explains.
    explained = right.square() / eigenvalues.clamp(min=ridges[0].item())
    rest = (losses.square().sum(1) - explained.sum(1)).clamp(min=0)
    kept = ridges.unsqueeze(1) / (eigenvalues + ridges.unsqueeze(1))
    residual = explained @ kept.square().T + rest.unsqueeze(1)
    freedom = losses.shape[1] - len(eigenvalues) + kept.sum(1)
    best = ridges[(residual / freedom.square()).argmin(1)]
    return (right / (eigenvalues + best.unsqueeze(1))) @ vectors.T


def _over_samples(
    design: Design, losses: Tensor, squared_scale: Tensor, exact: bool, sums_to_zero: bool
) -> Tensor:
    """The dual: one unknown for each sample, an n x n system."""
    gram = design.gram(squared_scale)
    row_sums = design.sums(squared_scale) if sums_to_zero else torch.zeros_like(gram[0])
    whole = squared_scale.sum()
    gram = gram - row_sums * row_sums.unsqueeze(1) / whole
    if exact:  # Fewer equations than unknowns: that there are many solutions is no news.
        solved = solve_normal_equations(gram, losses, warn=False)
    else:
        solved = _leave_one_out(gram, losses)
    return design.spread(solved) - (solved @ row_sums).unsqueeze(1) / whole


def _leave_one_out(gram: Tensor, losses: Tensor) -> Tensor:
    r"""Solve (K + lambda) a = d with the ridge that predicts each sample best from the others.

    What is predicted wrongly when sample i is left out is :math:`a_i / (K + \lambda)^{-1}_{ii}`:
    one eigendecomposition serves all ridges and all examples.
    """
    eigenvalues, vectors = torch.linalg.eigh(gram)
    eigenvalues = eigenvalues.clamp(min=0)
    ridges = _ridges(eigenvalues)
    inverses = 1 / (eigenvalues + ridges.unsqueeze(1))  # (ridges, n)
    diagonals = inverses @ vectors.square().T
    solved = []
    for coordinates in losses @ vectors:
        candidates = (coordinates * inverses) @ vectors.T
        errors = (candidates / diagonals).square().sum(1)
        solved.append(candidates[errors.argmin()])
    return torch.stack(solved)


def _ridges(eigenvalues: Tensor) -> Tensor:
    mean = eigenvalues.mean()
    return _RIDGES.to(eigenvalues) * torch.where(mean > 0, mean, 1.0)

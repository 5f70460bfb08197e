r"""Least squares over subsets: which attributions tell best what the removal of subsets costs.

**The problem.** Row j of the 0-1 matrix Z says which features a perturbation removes, s is what a
removed feature's attribution is multiplied with (1, or :math:`x - x_0`), d are the output
differences. Wanted is the shortest :math:`\phi` that minimises
:math:`\sum_j (\sum_k z_{jk} s_k \phi_k - d_j)^2`, that is, the least squares of
:math:`A = Z\,\mathrm{diag}(s)`. Where a group of features is removed together, :math:`s_k^2` is the
sum over the group, and within it the shortest :math:`\phi` is proportional to s. Hence the unknown
:math:`t_k` with :math:`\phi_i = s_i t_k` for each feature i of group k.

**The primal**, a K x K system for n samples of K features where n is large: with
:math:`b = \mathrm{diag}(s)\,t`, the normal equations
:math:`(\mathrm{diag}(s) Z'Z \mathrm{diag}(s) + \lambda) b = \mathrm{diag}(s) Z'd`.

**The dual**, an n x n system where n is small: every ridge solution, and the shortest one, lies in
the rows of A. With :math:`b = A'a`: :math:`(Z\,\mathrm{diag}(s^2) Z' + \lambda) a = d`, and
:math:`t = Z'a`.

**Totals.** Where attributions must sum to T (Shapley values), every solution is
:math:`t = T / \sum_k s_k^2` for all k, which is the shortest that does so, plus a b at right angles
to s. The constant part is taken off d, and b is looked for at right angles to s.

**The ridge.** Where the subsets are a sample, :math:`\lambda` is the one of 49 that predicts best
what it has not seen: by leaving one out (dual), or its rotation-invariant form, generalised
cross-validation (primal).
"""

from __future__ import annotations

import torch
from torch import Tensor

from captum_robust._utils.user_warnings import warn_user
from captum_robust.attr._infidelity.designs import Design

# Ridge parameters that are tried, over the mean eigenvalue.
_RIDGES = torch.logspace(-8, 4, 49, dtype=torch.float64)

# Relative difference of two errors of prediction that is none.
_ROUNDING = 1e-6

_SINGULAR = (
    "the second moment of the perturbation is singular, so many explanations are optimal: this is "
    "the shortest (pseudo-inverse). Give more samples, or group the features with feature_mask."
)


def solve(
    design: Design,
    output_differences: Tensor,
    squared_scale: Tensor,
    *,
    exact: bool,
    totals: Tensor | None = None,
) -> Tensor:
    """Least-squares t: the sum of s^2 t over each subset is closest to its output difference.

    Args:
        design: The subsets.
        output_differences: d, (N, n).
        squared_scale: s^2, (K,) for all examples.
        exact: Whether the subsets are the whole distribution; otherwise a ridge, chosen for each
            example by cross-validation, keeps the explanation from learning the sample by heart.
        totals: (N,) what the sum of s^2 t over all features must be; None: anything.

    Returns:
        t, (N, K); 0 where s is 0.

    Warns:
        UserWarning: The whole distribution does not determine the explanation.
    """
    moves = squared_scale > 0
    d = output_differences
    if not bool(moves.any()):
        return d.new_zeros(len(d), design.n_columns)
    share = d.new_zeros(len(d), 1)
    if totals is not None:
        share = totals.unsqueeze(1) / squared_scale.sum()
        d = d - share * design.matvec(squared_scale)
    many = design.n_rows >= design.n_columns if exact else design.n_rows >= 2 * design.n_columns
    by = _over_features if many else _over_samples
    return (share + by(design, d, squared_scale, exact, totals is not None)) * moves


def solve_each(
    design: Design,
    output_differences: Tensor,
    squared_scales: Tensor,
    *,
    exact: bool,
    totals: Tensor | None = None,
) -> Tensor:
    """:func:`solve` for squared scales (N, K) of each example, or (1, K) that all share."""
    if len(squared_scales) == 1:
        return solve(design, output_differences, squared_scales[0], exact=exact, totals=totals)
    each = []
    for i, squared_scale in enumerate(squared_scales):
        one = slice(i, i + 1)
        total = None if totals is None else totals[one]
        each.append(
            solve(design, output_differences[one], squared_scale, exact=exact, totals=total)
        )
    return torch.cat(each)


def _over_features(
    design: Design, d: Tensor, squared_scale: Tensor, exact: bool, sums_to_zero: bool
) -> Tensor:
    """The primal: one unknown for each feature that moves, a K x K system."""
    moves = squared_scale > 0
    if sums_to_zero and int(moves.sum()) == 1:
        return torch.zeros_like(d[:, :1] * squared_scale)
    scale = squared_scale[moves].sqrt()
    normal, right = design.normal_matrix(), design.rmatvec(d)
    if not bool(moves.all()):
        normal, right = normal[moves][:, moves], right[:, moves]
    normal, right = normal * scale * scale.unsqueeze(1), right * scale
    if sums_to_zero:
        normal, right = _perpendicular_to(scale / scale.norm(), normal, right)
    b = solve_normal_equations(normal, right) if exact else _ridge(normal, right, d)
    t = d.new_zeros(len(d), design.n_columns)
    t[:, moves] = b / scale
    return t


def _perpendicular_to(direction: Tensor, normal: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same system for unknowns at right angles to a direction of unit length.

    M becomes P M P with P = 1 - u u' for the direction u, plus the mean of its diagonal times u u',
    which keeps M regular; nothing on the right asks for u.
    """
    along = normal @ direction
    middle = along @ direction
    normal = normal - along * direction.unsqueeze(1) - along.unsqueeze(1) * direction
    normal = normal + middle * direction * direction.unsqueeze(1)
    mean = normal.diagonal().mean()
    normal = normal + mean * direction * direction.unsqueeze(1)
    return normal, right - (right @ direction).unsqueeze(1) * direction


def solve_normal_equations(
    normal: Tensor, right: Tensor, *, before: Tensor | None = None, warn: bool = True
) -> Tensor:
    """Solve M a = r for each row r of (N, K), by Cholesky where M is regular.

    Args:
        normal: M, (K, K), positive semi-definite.
        right: (N, K).
        before: (K,), the diagonal of what M is the rest of, after a subtraction: what is no larger
            than the rounding errors of these numbers is 0. None: nothing was subtracted.
        warn: Whether to say that M is singular, where it is.

    Returns:
        (N, K), the shortest solution where M is singular.

    Warns:
        UserWarning: M is singular.
    """
    tiny, eps = torch.finfo(normal.dtype).tiny, torch.finfo(normal.dtype).eps
    rounding = 10 * len(normal) * eps
    factor, failed = torch.linalg.cholesky_ex(normal)
    # A pivot is what a feature adds to those before it, over its own second moment.
    own = normal.diagonal() if before is None else before
    pivots = factor.diagonal().square() / own.clamp(min=tiny)
    if not bool(failed) and bool((pivots > rounding).all()):
        return torch.cholesky_solve(right.T, factor).T
    if warn:
        warn_user(_SINGULAR)
    atol = None if before is None else rounding * before.max()
    return right @ torch.linalg.pinv(normal, atol=atol, hermitian=True)


def _ridge(normal: Tensor, right: Tensor, d: Tensor) -> Tensor:
    r"""Ridge by generalised cross-validation (Golub, Heath and Wahba 1979), for many samples.

    .. math:: \mathrm{GCV}(\lambda) = |d - \hat d_\lambda|^2 /
              (n - \textstyle\sum_j s_j / (s_j + \lambda))^2
    """
    eigenvalues, vectors = torch.linalg.eigh(normal)
    eigenvalues = eigenvalues.clamp(min=0)
    right = right @ vectors
    ridges = _ridges(eigenvalues)
    # Of |d|^2, the part that eigenvector j explains is this; the rest no attribution explains.
    explained = right.square() / eigenvalues.clamp(min=ridges[0].item())
    rest = (d.square().sum(1) - explained.sum(1)).clamp(min=0)
    kept = ridges.unsqueeze(1) / (eigenvalues + ridges.unsqueeze(1))
    residual = explained @ kept.square().T + rest.unsqueeze(1)
    freedom = d.shape[1] - len(eigenvalues) + kept.sum(1)
    best = ridges[(residual / freedom.square()).argmin(1)]
    return (right / (eigenvalues + best.unsqueeze(1))) @ vectors.T


def _over_samples(
    design: Design, d: Tensor, squared_scale: Tensor, exact: bool, sums_to_zero: bool
) -> Tensor:
    """The dual: one unknown for each sample, an n x n system."""
    gram = design.gram(squared_scale)
    before = gram.diagonal() if sums_to_zero else None
    row_sums = design.matvec(squared_scale) if sums_to_zero else torch.zeros_like(gram[0])
    whole = squared_scale.sum()
    gram = gram - row_sums * row_sums.unsqueeze(1) / whole
    # No warning: with fewer equations than unknowns there are always many solutions.
    if exact:
        solved = solve_normal_equations(gram, d, before=before, warn=False)
    else:
        solved = _leave_one_out(gram, d)
    return design.rmatvec(solved) - (solved @ row_sums).unsqueeze(1) / whole


def _leave_one_out(gram: Tensor, d: Tensor) -> Tensor:
    r"""Solve (K + lambda) a = d with the ridge that predicts each sample best from the others.

    What is predicted wrongly when sample i is left out is :math:`a_i / (K + \lambda)^{-1}_{ii}`:
    one eigendecomposition serves all ridges and all examples. Of ridges that predict equally well
    but for rounding, such as all of them where no sample tells of another, it is the smallest.
    """
    eigenvalues, vectors = torch.linalg.eigh(gram)
    eigenvalues = eigenvalues.clamp(min=0)
    ridges = _ridges(eigenvalues)
    inverses = 1 / (eigenvalues + ridges.unsqueeze(1))  # (ridges, n)
    diagonals = inverses @ vectors.square().T
    solved = []
    for coordinates in d @ vectors:
        candidates = (coordinates * inverses) @ vectors.T
        errors = (candidates / diagonals).square().sum(1)
        as_good = errors <= errors.min() * (1 + _ROUNDING)
        solved.append(candidates[as_good.nonzero()[0, 0]])
    return torch.stack(solved)


def _ridges(eigenvalues: Tensor) -> Tensor:
    mean = eigenvalues.mean()
    return _RIDGES.to(eigenvalues) * torch.where(mean > 0, mean, 1.0)

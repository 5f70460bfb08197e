r"""Bounds that hold in a whole ball: from counts of marks to what an attack can reach.

**One feature.** Let h(z) in [0, 1] be any measurable function of a noisy copy z, such as the mark
of a feature, and p(x) = E h(x + s e) with e ~ N(0, I). By the lemma of Neyman and Pearson, among
all h with this mean at x, the mean at x + d is smallest for a half-space whose normal is d and
largest for its mirror image. That gives

.. math:: \Phi(\Phi^{-1}(p(x)) - \rho/s) \le p(x + d) \le \Phi(\Phi^{-1}(p(x)) + \rho/s),
          \quad \|d\|_2 \le \rho

(Cohen et al. 2019; Levine et al. 2019). On the scale of :math:`\Phi^{-1}` a ball of radius rho
moves a share by at most rho / s: this module works on that scale, in double precision.

**Finite samples.** p(x) is unknown; of n independent copies a feature is marked in c, a binomial
number. The Clopper-Pearson bounds

.. math:: l = \mathrm{Beta}^{-1}(a;\ c,\ n - c + 1), \quad
          u = \mathrm{Beta}^{-1}(1 - a;\ c + 1,\ n - c)

(l = 0 for c = 0, u = 1 for c = n) are exact: each fails with probability a at most. Which features
are looked at is decided by the same counts, so all bounds must hold at once. The marks of one copy
depend on each other in an unknown way, since a fixed number of them is set; the union bound
(Bonferroni) needs no knowledge of it: with m one-sided bounds each gets a = alpha / m.

**Ties.** All verdicts are strict inequalities, so they hold however equal shares are ordered.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from captum_robust._utils.captum import format_inputs
from captum_robust._utils.checks import check_count, check_inputs, check_positive
from captum_robust._utils.types import Tensors


def confidence_bounds(counts: Tensor, n_samples: int, level: float) -> tuple[Tensor, Tensor]:
    r"""Clopper-Pearson bounds of the shares behind ``counts``, on the scale of the normal quantile.

    Args:
        counts: Integers from 0 to ``n_samples``, of any shape.
        n_samples: n, the number of trials.
        level: The probability with which one bound may fail.

    Returns:
        :math:`\Phi^{-1}(l)` and :math:`\Phi^{-1}(u)`, float64, of the shape of ``counts``.

    Raises:
        ValueError: A count is not in its range, or ``level`` is not in (0, 1).

    Example:
        >>> import torch
        >>> from captum_robust.certificates.bounds import confidence_bounds
        >>> lower, upper = confidence_bounds(torch.tensor([0, 50, 100]), 100, 0.025)
        >>> torch.special.ndtr(lower), torch.special.ndtr(upper)
        (tensor([0.0000, 0.3983, 0.9638], dtype=torch.float64),
         tensor([0.0362, 0.6017, 1.0000], dtype=torch.float64))
    """
    from scipy.special import betaincinv

    check_count(n_samples=n_samples)
    check_fraction(level=level)
    values, place = counts.unique(return_inverse=True)
    if values.numel() and not 0 <= int(values[0]) <= int(values[-1]) <= n_samples:
        raise ValueError(f"counts must be from 0 to {n_samples}, got {values[[0, -1]].tolist()}.")
    # u of c successes is 1 - l of n - c: the same function, and no 1 - tiny that would be rounded.
    successes = torch.cat([values, n_samples - values]).double().cpu().numpy()
    lower = torch.as_tensor(betaincinv(successes.clip(1), n_samples - successes + 1, level))
    lower[torch.as_tensor(successes == 0)] = 0.0
    scores = torch.special.ndtri(lower).to(counts.device)
    return scores[: len(values)][place], -scores[len(values) :][place]


def enclosing_l2_radius(eps: float, inputs: Tensor | Tensors) -> float:
    r"""Radius of the smallest l2 ball that holds the l-infinity ball of radius ``eps``.

    .. math:: \rho = \epsilon \sqrt{d}

    for d numbers in an example. Smoothing by Gaussian noise certifies l2 balls. What it says of
    this ball holds in the l-infinity ball inside it, and is weak, as the ball is far larger.

    Args:
        eps: Radius in the l-infinity norm, in units of the inputs.
        inputs: Tensor or tuple of tensors, examples along dimension 0.

    Returns:
        The radius to hand to :func:`certify_top_k`.

    Example:
        >>> import torch
        >>> from captum_robust.certificates import enclosing_l2_radius
        >>> enclosing_l2_radius(0.01, torch.zeros(8, 1, 28, 28))
        0.28
    """
    check_positive(eps=eps)
    check_inputs(inputs)
    _, tensors = format_inputs(inputs)
    return eps * math.sqrt(sum(x[0].numel() for x in tensors))


def check_fraction(**values: float) -> None:
    """Raise ValueError unless every value is in (0, 1)."""
    check_positive(**values)
    for name, value in values.items():
        if value >= 1:
            raise ValueError(f"{name} must be below 1, got {value}.")


def surviving_radii(inside: Tensor, outside: Tensor, stdev: float = 1.0) -> Tensor:
    r"""Radii within which at least 1, 2, ..., k of k features stay among the k largest.

    Let L be the lower scores of the k features and U the upper scores of the others. Suppose fewer
    than j of the k are among the k largest at x'. Then at least q = k - j + 1 of the k have left,
    and at least q others have come in. Of q that left, one has a lower score of at least the j-th
    largest of L; of q that came in, one has an upper score of at most the q-th largest of U; and
    each that came in is at least as large at x' as each that left. So
    :math:`L_{(j)} - \rho/s \le U_{(k-j+1)} + \rho/s`. Hence j stay wherever

    .. math:: \rho < \rho_j = \frac{s}{2} \left( L_{(j)} - U_{(k-j+1)} \right)

    Args:
        inside: L, (N, k), in any order.
        outside: U, (N, d - k), in any order.
        stdev: s, the standard deviation of the noise.

    Returns:
        (N, k) float64, not increasing along j; negative where not even the counts at x suffice,
        infinite where fewer than k - j + 1 other features exist.

    Example:
        >>> import torch
        >>> from captum_robust.certificates.bounds import surviving_radii
        >>> surviving_radii(torch.tensor([[2.0, 0.5]]), torch.tensor([[-1.0, 0.0]]))
        tensor([[1.5000, 0.2500]], dtype=torch.float64)
    """
    n, k = inside.shape
    lower = inside.double().sort(dim=1, descending=True).values
    upper = outside.double().sort(dim=1, descending=True).values[:, :k]
    missing = upper.new_full((n, k - upper.shape[1]), -torch.inf)
    rivals = torch.cat([upper, missing], dim=1).flip(1)  # the (k - j + 1)-th largest for each j
    radii = stdev / 2 * (lower - rivals)
    return torch.where(rivals == -torch.inf, torch.inf, radii)

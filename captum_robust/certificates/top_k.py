"""Certified top-k: how many of the most relevant features stay under any attack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import Attribution
from torch import Tensor

from captum_robust._utils.checks import check_count, check_finite
from captum_robust._utils.types import Tensors
from captum_robust.certificates.bounds import (
    check_fraction,
    confidence_bounds,
    surviving_radii,
)
from captum_robust.certificates.counts import SmoothingCounts
from captum_robust.certificates.sampling import collect_counts


@dataclass(frozen=True)
class TopKCertificate:
    """What :func:`certify_top_k` found."""

    overlap: Tensor
    """(N, radii) float64: this fraction of the k features stays among the k most relevant."""
    radii: Tensor
    """(radii,) float64: the l2 radii, in units of the inputs."""
    features: Tensor | Tensors
    """(N, ...) booleans, a map per input: the k features in question."""
    surviving_radii: Tensor
    """(N, k) float64: below the j-th of these at least j of the features stay."""
    prediction_radius: Tensor | None
    """(N,) float64: below it the smoothed model predicts as for the clean example; 0 where nothing
    is certified; None where predictions were not counted."""
    k: int
    alpha: float
    n_samples: int

    def largest_radius(self, overlap: float) -> Tensor:
        """The radius below which at least ``overlap`` of the k features stay.

        Args:
            overlap: A fraction in (0, 1].

        Returns:
            (N,) float64; 0 where no radius is certified.
        """
        check_finite(overlap=overlap)
        if not 0 < overlap <= 1:
            raise ValueError(f"overlap must be in (0, 1], a fraction of the k, got {overlap}.")
        needed = math.ceil(overlap * self.k - 1e-9)  # 0.28 * 50 is 14.000000000000002
        return self.surviving_radii[:, max(0, needed - 1)].clamp(min=0)


def certify_top_k(
    explanation: Attribution | SmoothingCounts,
    inputs: Tensor | Tensors | None = None,
    radii: Sequence[float] = (0.05, 0.1, 0.2),
    k: int = 50,
    *,
    target: Any = None,
    n_samples: int = 10_000,
    alpha: float = 0.05,
    **kwargs: Any,
) -> TopKCertificate:
    r"""Lower bound of the top-k overlap that no attack within an l2 ball can break.

    The explanation is p of :class:`~captum_robust.attr.SparsifiedSmoothing`. With probability
    1 - alpha over the noise, for each example: of the k features of largest share at x, at least
    ``overlap`` are among the k of largest p at **every** point within the radius. With
    Clopper-Pearson bounds at level alpha / m, for the m = 2 d bounds of d features (and one of the
    prediction), j features stay within every

    .. math:: \rho < \frac{s}{2} \left( \Phi^{-1}(l_{(j)}) - \Phi^{-1}(u_{(k-j+1)}) \right)

    with l sorted over the k features and u over the others: derived in
    :mod:`captum_robust.certificates.bounds`. An attack that knows the model, the noise and this
    bound is covered; one that swaps the explanation method is not.

    Args:
        explanation: A ``SparsifiedSmoothing``, an ``Attribution`` to wrap in one with its default
            settings, or the counts of :func:`collect_counts`, which need no further pass.
        inputs: Tensor or tuple of tensors, examples along dimension 0; None with counts.
        radii: l2 radii in units of the inputs; see :func:`enclosing_l2_radius` for l-infinity.
        k: Number of features.
        target: As in Captum; None: the class predicted for the clean example.
        n_samples: Number of noisy copies, each one pass.
        alpha: Probability with which an example's certificate may be wrong.
        **kwargs: See :func:`collect_counts`.

    Returns:
        A :class:`TopKCertificate`.

    Raises:
        ValueError: k above the number of features, a negative radius, alpha not in (0, 1).

    References:
        Levine, Singla and Feizi 2019, "Certifiably Robust Interpretation in Deep Learning"; Cohen,
        Rosenfeld and Kolter 2019, "Certified adversarial robustness via randomized smoothing".

    Example:
        >>> from captum.attr import Saliency
        >>> from captum_robust import zoo
        >>> from captum_robust.certificates import certify_top_k
        >>> model, (images, _) = zoo.fashion_mnist_cnn(), zoo.fashion_mnist_sample(2)
        >>> found = certify_top_k(Saliency(model), images, [0.01, 0.1], 50, n_samples=500, seed=0)
        >>> found.overlap.shape, bool((found.overlap[:, 0] >= found.overlap[:, 1]).all())
        (torch.Size([2, 2]), True)
    """
    counts = counts_of(explanation, inputs, n_samples, target, kwargs)
    check_count(k=k)
    check_fraction(alpha=alpha)
    if k > counts.n_features:
        raise ValueError(f"k must be at most the number of features, {counts.n_features}, got {k}.")
    wanted = torch.tensor(list(radii), dtype=torch.float64)
    if wanted.dim() != 1 or not bool((wanted >= 0).all()):
        raise ValueError(f"radii must be numbers from 0 on, got {list(radii)}.")
    level = alpha / number_of_bounds(counts)
    lower, upper = confidence_bounds(counts.marks, counts.n_samples, level)
    order = counts.marks.sort(dim=1, descending=True, stable=True).indices
    inside, outside = order[:, :k], order[:, k:]
    surviving = surviving_radii(lower.gather(1, inside), upper.gather(1, outside), counts.stdev)
    overlap = (surviving.unsqueeze(1) > wanted.unsqueeze(1)).sum(2).double() / k
    features = torch.zeros_like(counts.marks, dtype=torch.bool).scatter_(1, inside, True)
    return TopKCertificate(
        overlap=overlap,
        radii=wanted,
        features=counts.maps(features),
        surviving_radii=surviving,
        prediction_radius=_prediction_radius(counts, level),
        k=k,
        alpha=alpha,
        n_samples=counts.n_samples,
    )


def counts_of(
    explanation: Attribution | SmoothingCounts,
    inputs: Tensor | Tensors | None,
    n_samples: int,
    target: Any,
    kwargs: dict[str, Any],
) -> SmoothingCounts:
    """The given counts, or those of a fresh sweep."""
    if isinstance(explanation, SmoothingCounts):
        if inputs is not None:
            raise ValueError("inputs: counts know their examples. Leave the inputs out.")
        return explanation
    if inputs is None:
        raise ValueError("inputs: give the examples to explain, or counts instead of both.")
    return collect_counts(explanation, inputs, n_samples, target=target, **kwargs)


def number_of_bounds(counts: SmoothingCounts) -> int:
    """How many one-sided bounds an example's certificate rests on."""
    return 2 * counts.n_features + (counts.agreements is not None)


def _prediction_radius(counts: SmoothingCounts, level: float) -> Tensor | None:
    """Cohen et al.: below s Phi^-1(l) more than half of the copies predict as the clean example."""
    if counts.agreements is None:
        return None
    lower, _ = confidence_bounds(counts.agreements, counts.n_samples, level)
    return (counts.stdev * lower).clamp(min=0)

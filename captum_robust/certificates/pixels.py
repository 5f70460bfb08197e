"""Certified pixels: relevant, not relevant, or undecided, each with its radius."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import Attribution
from torch import Tensor

from captum_robust._utils.checks import check_finite
from captum_robust._utils.types import Tensors
from captum_robust.certificates.bounds import check_fraction, confidence_bounds
from captum_robust.certificates.counts import SmoothingCounts
from captum_robust.certificates.top_k import counts_of, number_of_bounds


@dataclass(frozen=True)
class PixelCertificate:
    """What :func:`certify_pixels` found; maps (N, ...), one per input, without channels."""

    verdict: Tensor | Tensors
    """int8: 1 relevant, 0 not relevant, -1 abstain."""
    radius: Tensor | Tensors
    """float64: below this l2 radius the majority at a pixel stays; 0 where there is none."""
    certified_radius: float
    """Within this radius all verdicts but -1 hold."""
    certified_share: Tensor
    """(N,) float64: fraction of the pixels with a verdict other than -1."""
    threshold: float
    alpha: float
    n_samples: int


def certify_pixels(
    explanation: Attribution | SmoothingCounts,
    inputs: Tensor | Tensors | None = None,
    threshold: float = 0.75,
    *,
    target: Any = None,
    n_samples: int = 10_000,
    alpha: float = 0.05,
    **kwargs: Any,
) -> PixelCertificate:
    r"""For each pixel whether it stays relevant, stays irrelevant, or neither can be said.

    A pixel is relevant at x' where it is kept in more than half of the noisy copies of x'. With
    bounds l <= p <= u of its share at x, simultaneous over pixels, it is certified *relevant* where
    l > ``threshold``, and *not relevant* where 1 - u > ``threshold``. That verdict holds within

    .. math:: R = s\,\Phi^{-1}(\mathtt{threshold})

    and the pixel's own radius is :math:`s\,\Phi^{-1}(\max(l, 1 - u))`, at least R. With probability
    1 - alpha over the noise all verdicts and radii of an example hold at once.

    The published procedure spends some copies on guessing the majority and tests it on the others.
    Here both bounds of a pixel share all the copies, each at level alpha / (2 d): about as strict,
    with no copy spent on a guess.

    Args:
        explanation: A ``SparsifiedSmoothing``, an ``Attribution`` to wrap in one with its default
            settings, or the counts of :func:`collect_counts`, which need no further pass.
        inputs: Tensor or tuple of tensors, examples along dimension 0; None with counts.
        threshold: A share in [0.5, 1).
        target: As in Captum; None: the class predicted for the clean example.
        n_samples: Number of noisy copies, each one pass.
        alpha: Probability with which an example's map may be wrong anywhere.
        **kwargs: See :func:`collect_counts`.

    Returns:
        A :class:`PixelCertificate`.

    Raises:
        ValueError: ``threshold`` not in [0.5, 1), alpha not in (0, 1).

    References:
        Anani, Lorenz, Fritz and Schiele 2025, "Pixel-level certified explanations via randomized
        smoothing", whose threshold is called tau.

    Example:
        >>> from captum.attr import Saliency
        >>> from captum_robust import zoo
        >>> from captum_robust.certificates import certify_pixels
        >>> model, (images, _) = zoo.fashion_mnist_cnn(), zoo.fashion_mnist_sample(2)
        >>> found = certify_pixels(Saliency(model), images, n_samples=100, seed=0)
        >>> found.verdict.shape, round(found.certified_radius, 4)
        (torch.Size([2, 28, 28]), 0.3372)
    """
    counts = counts_of(explanation, inputs, n_samples, target, kwargs)
    check_finite(threshold=threshold)
    check_fraction(alpha=alpha)
    if not 0.5 <= threshold < 1:
        raise ValueError(f"threshold must be in [0.5, 1), a share of the copies, got {threshold}.")
    level = alpha / number_of_bounds(counts)
    lower, upper = confidence_bounds(counts.marks, counts.n_samples, level)
    needed = float(torch.special.ndtri(torch.tensor(threshold, dtype=torch.float64)))
    verdict = torch.full_like(counts.marks, -1, dtype=torch.int8)
    verdict[lower > needed] = 1
    verdict[-upper > needed] = 0
    return PixelCertificate(
        verdict=counts.maps(verdict),
        radius=counts.maps(counts.stdev * torch.maximum(lower, -upper).clamp(min=0)),
        certified_radius=counts.stdev * needed,
        certified_share=(verdict >= 0).double().mean(1),
        threshold=threshold,
        alpha=alpha,
        n_samples=counts.n_samples,
    )

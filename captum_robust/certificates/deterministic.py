"""Certified top-k of a small network's gradient, with certainty and without sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captum_robust._utils.checks import check_count, check_floating_inputs, check_inputs
from captum_robust._utils.forward import compute_gradients, logits_of
from captum_robust.attr.sparsified_smoothing import mark_largest
from captum_robust.certificates.bounds import surviving_radii
from captum_robust.certificates.intervals import Interval, gradient_bounds


@dataclass(frozen=True)
class GradientCertificate:
    """What :func:`certify_gradient_top_k` found."""

    overlap: Tensor
    """(N, radii) float64: this fraction of the k features stays among the k most relevant."""
    undecided: Tensor
    """(N, radii) float64: fraction of the features whose gradient may vanish somewhere in the ball:
    where it is 1 the bounds are vacuous."""
    radii: Tensor
    """(radii,) float64."""
    features: Tensor
    """(N, ...) booleans: the k features in question."""
    k: int


def certify_gradient_top_k(
    model: nn.Module,
    inputs: Tensor,
    radii: Sequence[float],
    k: int,
    *,
    target: Tensor | None = None,
    ball: str = "linf",
    input_range: tuple[float, float] | None = None,
    channel_dim: int = 1,
) -> GradientCertificate:
    """Lower bound of the top-k overlap of the bare gradient, at every point of a ball.

    The gradient is enclosed by interval arithmetic, layer by layer
    (:mod:`captum_robust.certificates.intervals`); of the k features of largest magnitude at x at
    least j stay where the j-th largest lower bound of the k is above the (k - j + 1)-th largest
    upper bound of the others. No chance is involved, up to the rounding of double precision.

    It answers another question than :func:`certify_top_k`, about the network's own gradient instead
    of a smoothed one, and it is vacuous beyond tiny balls. Where a maximum pooling sees equal
    numbers, as on a black background, the gradient jumps in every ball, and no radius is certified.

    Args:
        model: An ``nn.Sequential`` of Conv2d, Linear, ReLU, Softplus, pooling and changes of shape.
        inputs: Floating-point tensor, examples along dimension 0.
        radii: Radii of the balls, in units of the inputs.
        k: Number of features.
        target: (N,) the classes that are explained; None: the predicted ones.
        ball: "linf" or "l2".
        input_range: Smallest and largest value of an input, such as ``(0, 1)``: the part of the
            ball outside is left out. None: no bound.
        channel_dim: Dimension that is summed over, for three or more dimensions.

    Returns:
        A :class:`GradientCertificate`.

    Raises:
        TypeError: ``model`` has a layer that cannot be enclosed.
        ValueError: k above the number of features, a negative radius, an unknown ball.

    References:
        Gowal et al. 2018, "On the effectiveness of interval bound propagation", for the outputs.

    Example:
        >>> import torch
        >>> from captum_robust import zoo
        >>> from captum_robust.certificates import certify_gradient_top_k
        >>> model, (images, _) = zoo.fashion_mnist_cnn(), zoo.fashion_mnist_sample(4)
        >>> grain = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
        >>> found = certify_gradient_top_k(model, images + 0.1 * grain, [1e-6, 1e-5, 1e-3], 50)
        >>> [round(overlap, 1) for overlap in found.overlap.mean(0).tolist()]
        [1.0, 0.9, 0.0]
    """
    check_inputs(inputs)
    check_floating_inputs(inputs)
    check_count(k=k)
    if ball not in ("linf", "l2"):
        raise ValueError(f'ball must be "linf" or "l2", got {ball!r}.')
    sizes = torch.tensor(list(radii), dtype=torch.float64)
    if not bool((sizes >= 0).all()):
        raise ValueError(f"radii must be numbers from 0 on, got {list(radii)}.")
    if target is None:
        with torch.no_grad():
            target = logits_of(model(inputs)).argmax(1)

    def relevance(radius: float) -> Interval:
        bounds = gradient_bounds(model, inputs, radius, target, ball=ball, input_range=input_range)
        return _relevance(bounds, channel_dim)

    (gradient,) = compute_gradients(model, (inputs.detach().requires_grad_(),), target)
    clean = _relevance(Interval(gradient, gradient), channel_dim).upper
    shape = clean.shape
    if k > clean[0].numel():
        raise ValueError(f"k must be at most the number of features, {clean[0].numel()}, got {k}.")
    marks = mark_largest(clean.flatten(1), k)
    overlap, undecided = [], []
    for radius in sizes.tolist():
        lower, upper = (end.flatten(1) for end in relevance(radius))
        inside, outside = lower[marks].view(len(marks), k), upper[~marks].view(len(marks), -1)
        overlap.append((surviving_radii(inside, outside) > 0).double().mean(1))
        undecided.append((lower <= 0).double().mean(1))
    return GradientCertificate(
        torch.stack(overlap, 1), torch.stack(undecided, 1), sizes, marks.view(shape), k
    )


def _relevance(gradient: Interval, channel_dim: int) -> Interval:
    """Magnitudes, summed over channels."""
    lower = torch.maximum(gradient.lower, -gradient.upper).clamp(min=0)
    upper = torch.maximum(gradient.lower.abs(), gradient.upper.abs())
    if lower.dim() > 2:
        return Interval(lower.sum(channel_dim), upper.sum(channel_dim))
    return Interval(lower, upper)

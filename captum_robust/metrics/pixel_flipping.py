"""Pixel flipping: how fast the output falls when the most relevant features are removed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_robust._utils.batching import copies_at_once
from captum_robust._utils.checks import check_count, check_inputs
from captum_robust._utils.forward import check_rows, logits_of
from captum_robust._utils.model_state import preserve_buffers
from captum_robust._utils.randomness import fresh_generator, standard_uniform
from captum_robust._utils.relevance import relevance_map


class FlippingCurves(NamedTuple):
    """What :func:`pixel_flipping` saw; T is the number of steps and one."""

    fractions: Tensor
    """The share of the features that are removed, (T,), from 0 on."""
    probabilities: Tensor
    """The softmax probability of the target, (N, T)."""
    hits: Tensor
    """1 where the target is the predicted class, else 0, (N, T): its mean is the accuracy."""

    def area(self, curves: Tensor | None = None) -> Tensor:
        """Area under the curves by the trapezoidal rule over the share removed, (N,).

        Args:
            curves: (N, T); None: ``probabilities``.

        Returns:
            (N,), divided by the largest share: the mean height. The lower, the more of what the
            model uses came first.
        """
        values = self.probabilities if curves is None else curves
        return torch.trapezoid(values, self.fractions.to(values)) / self.fractions[-1].to(values)


def pixel_flipping(
    forward_func: Callable[..., Any],
    inputs: Tensor,
    attributions: Tensor | None,
    baselines: Tensor | float = 0.0,
    target: Tensor | int | None = None,
    *,
    n_steps: int = 50,
    largest_fraction: float = 1.0,
    max_examples_per_batch: int | None = None,
    generator: torch.Generator | None = None,
    show_progress: bool = False,
) -> FlippingCurves:
    r"""Remove the features from the most relevant on, and watch the output of the model.

    Features are ordered by :func:`relevance_map`, equal ones by position; pixels lose all their
    channels at once. After each step the model is asked again. Bach et al. 2015; Samek et al. 2017;
    Dombrowski et al. 2019, Figure 7, whose curve is the mean of ``hits``.

    Args:
        forward_func: The model, (N, classes) logits.
        inputs: (N, C, H, W), or (N, F).
        attributions: Of the shape of ``inputs``, or with one channel; None: a random order, the
            control that every explanation must beat.
        baselines: What takes the place of a removed feature: a number, or a tensor that can be
            broadcast to ``inputs``.
        target: The class that is watched, one for all or (N,); None: the one predicted for
            ``inputs``.
        n_steps: Number of steps; each removes the same number of features, but for rounding.
        largest_fraction: The share of the features that are removed in the end, up to 1.
        max_examples_per_batch: Images that the model is given at once; the result does not depend
            on it. None: what suits the device.
        generator: Source of the random order; None draws a fresh one.
        show_progress: Whether to show a bar.

    Returns:
        ``fractions`` (T,), ``probabilities`` and ``hits`` (N, T), and the method ``area``.

    Raises:
        TypeError, ValueError: An argument is of the wrong kind or shape, empty, NaN or Inf, or a
            count or share is out of range.

    Example:
        >>> import torch
        >>> from captum_robust.metrics import pixel_flipping
        >>> model = lambda x: torch.stack([x.sum(1), torch.zeros(len(x))], dim=1)
        >>> x = torch.tensor([[1.0, 4.0, 2.0]])
        >>> pixel_flipping(model, x, attributions=x, n_steps=3).probabilities
        tensor([[0.9991, 0.9526, 0.7311, 0.5000]])
    """
    order = _order(inputs, attributions, generator)
    check_count(n_steps=n_steps)
    if not 0 < largest_fraction <= 1:
        raise ValueError(f"largest_fraction must be over 0, at most 1, got {largest_fraction}.")
    n_features = order.shape[1]
    share = torch.linspace(0, largest_fraction, n_steps + 1, dtype=torch.float64)
    counts = (share * n_features).round().long()
    if counts[-1] == 0:
        raise ValueError(
            f"largest_fraction={largest_fraction} of {n_features} features is less than one."
        )
    if max_examples_per_batch is not None:
        check_count(max_examples_per_batch=max_examples_per_batch)
    batch = max_examples_per_batch or len(inputs) * copies_at_once((inputs,), None)
    flipped = _baseline(baselines, inputs)
    # The rank of each feature: those below the count are removed.
    ranks = torch.empty_like(order).scatter_(
        1, order, torch.arange(n_features, device=order.device).expand_as(order)
    )
    ranks = ranks.view(len(inputs), *_feature_shape(inputs))
    with torch.no_grad(), preserve_buffers(forward_func):
        classes = _targets(forward_func, inputs, target, batch)
        pairs = [(i, int(c)) for i in range(len(inputs)) for c in counts]
        seen = []
        with tqdm(total=len(pairs), disable=not show_progress, desc="pixel_flipping") as bar:
            for start in range(0, len(pairs), batch):
                rows, removed = zip(*pairs[start : start + batch], strict=True)
                i = torch.tensor(rows, device=inputs.device)
                count = torch.tensor(removed, device=inputs.device)
                gone = ranks[i] < count.view(-1, *[1] * (inputs.dim() - 1))
                logits = _logits(forward_func, torch.where(gone, flipped[i], inputs[i]))
                chosen = classes[i].unsqueeze(1)
                probability = logits.softmax(1).gather(1, chosen)
                hit = (logits.argmax(1, keepdim=True) == chosen).to(probability)
                seen.append(torch.cat([probability, hit], dim=1))
                bar.update(len(rows))
    curves = torch.cat(seen).view(len(inputs), n_steps + 1, 2)
    return FlippingCurves(counts / n_features, curves[..., 0], curves[..., 1])


def _order(
    inputs: Tensor, attributions: Tensor | None, generator: torch.Generator | None
) -> Tensor:
    """The features of each example, the most relevant first, (N, features)."""
    check_inputs(inputs)
    if not isinstance(inputs, Tensor) or inputs.dim() < 2 or not inputs.is_floating_point():
        raise ValueError("inputs must be one floating-point tensor (N, C, H, W) or (N, F).")
    shape = (len(inputs), math.prod(_feature_shape(inputs)))
    if attributions is None:
        like = torch.empty(shape, device=inputs.device)
        return standard_uniform(like, fresh_generator(generator, inputs.device)).argsort(1)
    relevance = relevance_map(attributions.detach())
    if relevance.flatten(1).shape != shape:
        raise ValueError(
            f"attributions must have the shape of inputs, {tuple(inputs.shape)}, or one channel, "
            f"got {tuple(attributions.shape)}."
        )
    return relevance.to(inputs.device).flatten(1).argsort(dim=1, descending=True, stable=True)


def _feature_shape(inputs: Tensor) -> tuple[int, ...]:
    """The shape of what is removed together, broadcast over channels."""
    return (1, *inputs.shape[2:]) if inputs.dim() > 2 else tuple(inputs.shape[1:])


def _baseline(baselines: Tensor | float, inputs: Tensor) -> Tensor:
    values = torch.as_tensor(baselines, dtype=inputs.dtype, device=inputs.device)
    if not bool(values.isfinite().all()):
        raise ValueError("baselines has NaN or Inf.")
    try:
        return values.expand_as(inputs)
    except RuntimeError:
        raise ValueError(
            f"baselines must be a number or broadcast to inputs, {tuple(inputs.shape)}, got shape "
            f"{tuple(values.shape)}."
        ) from None


def _targets(
    forward_func: Callable[..., Any], inputs: Tensor, target: Tensor | int | None, batch: int
) -> Tensor:
    logits = torch.cat([_logits(forward_func, x) for x in inputs.split(batch)])
    if target is None:
        return logits.argmax(1)
    classes = torch.as_tensor(target, device=inputs.device)
    if classes.is_floating_point() or classes.shape not in ((), (1,), (len(inputs),)):
        raise ValueError("target must be a class, or (N,) classes, or None for the predicted.")
    classes = classes.expand(len(inputs))
    if not bool(((classes >= 0) & (classes < logits.shape[1])).all()):
        raise ValueError(f"target must be a class of the model, 0 to {logits.shape[1] - 1}.")
    return classes.long()


def _logits(forward_func: Callable[..., Any], rows: Tensor) -> Tensor:
    logits = logits_of(forward_func(rows))
    check_rows(logits, len(rows))
    if logits.dim() != 2 or not bool(logits.isfinite().all()):
        raise ValueError(
            f"forward_func must return finite logits (N, classes), got shape {tuple(logits.shape)}."
        )
    return logits

"""Pixel flipping: how fast the output falls when the most relevant features are removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_robust._utils.batching import copies_at_once
from captum_robust._utils.captum import format_inputs
from captum_robust._utils.checks import check_count, check_floating_inputs, check_inputs
from captum_robust._utils.forward import check_rows, logits_of
from captum_robust._utils.inference_mode import outside_inference_mode
from captum_robust._utils.model_state import preserve_buffers
from captum_robust._utils.randomness import fresh_generator, standard_uniform
from captum_robust._utils.relevance import resolve_channel_dim
from captum_robust._utils.types import Tensors
from captum_robust.outputs import Outputs, resolve


class FlippingCurves(NamedTuple):
    """The result of :func:`pixel_flipping`; T is ``n_steps + 1``."""

    fractions: Tensor
    """The share of the features that are removed, (T,), from 0 on."""
    probabilities: Tensor
    """The probability of the target, (N, T); of :class:`~captum_robust.outputs.Regression` the
    value itself, in its unit."""
    hits: Tensor
    """1 where the target is still predicted, else 0, (N, T): its mean is the accuracy."""

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


@outside_inference_mode
def pixel_flipping(
    forward_func: Callable[..., Any],
    inputs: Tensor | Tensors,
    attributions: Tensor | Tensors | None,
    baselines: Tensor | float | tuple[Tensor | float, ...] = 0.0,
    target: Tensor | int | None = None,
    additional_forward_args: Any = None,
    *,
    output: Outputs | None = None,
    channel_dim: int | None = None,
    absolute: bool = False,
    n_steps: int = 50,
    largest_fraction: float = 1.0,
    max_examples_per_batch: int | None = None,
    generator: torch.Generator | None = None,
    show_progress: bool = False,
) -> FlippingCurves:
    r"""Remove the features from the most relevant on, and watch the output of the model.

    The most relevant feature is that of the largest value, so that what speaks against the target
    goes last; pixels lose all their channels at once and have the sum of their values. Equal ones
    go by position. Bach et al. 2015; Samek et al. 2017; Dombrowski et al. 2019, Figure 7, whose
    curve is the mean of ``hits``.

    Args:
        forward_func: The model, or any function that calls it.
        inputs: (N, F), (N, C, T), (N, C, H, W) or volumes; or a tuple, ranked together.
        attributions: Of the shape of ``inputs``, or with one channel; None: a random order, the
            control that every explanation must beat.
        baselines: What a removed feature becomes: a number, or a tensor that can be broadcast to
            ``inputs``; or a tuple of these.
        target: The class that is watched, one for all or (N,); None: the one predicted for
            ``inputs``.
        additional_forward_args: Further arguments of ``forward_func``; tensors are per example.
        output: What the outputs mean (:mod:`captum_robust.outputs`); None: logits of classes.
        channel_dim: As in :func:`relevance_map`; it must be given for three dimensions.
        absolute: Whether magnitudes count instead: the order of :func:`relevance_map`.
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
    is_tuple, x, dims = _checked_inputs(inputs, channel_dim)
    order = _order(is_tuple, x, dims, attributions, absolute, generator)
    counts = _counts(order.shape[1], n_steps, largest_fraction)
    if max_examples_per_batch is not None:
        check_count(max_examples_per_batch=max_examples_per_batch)
    n = len(x[0])
    batch = max_examples_per_batch or n * copies_at_once(x, None)
    flipped = _baselines(is_tuple, baselines, x)
    ranks = _ranks(order, x, dims)
    model = _Model(forward_func, additional_forward_args, n)
    with torch.no_grad(), preserve_buffers(forward_func):
        every = torch.arange(n, device=x[0].device)
        clean = torch.cat([model(tuple(t[i] for t in x), i) for i in every.split(batch)])
        meaning = resolve(output, clean, n)
        watched = _watched(meaning, clean, target)
        pairs = torch.cartesian_prod(every, counts.to(every.device))
        seen = []
        with tqdm(total=len(pairs), disable=not show_progress, desc="pixel_flipping") as bar:
            for i, count in (chunk.unbind(1) for chunk in pairs.split(batch)):
                logits = model(_removed(x, flipped, ranks, i, count), i)
                chosen = None if watched is None else watched[i]
                confidence = meaning.confidence(logits, chosen)
                hit = meaning.keeps(logits, clean[i], chosen)
                seen.append(torch.stack([confidence, hit.to(confidence)], dim=1))
                bar.update(len(i))
    curves = torch.cat(seen).view(n, len(counts), 2)
    return FlippingCurves(counts / order.shape[1], curves[..., 0], curves[..., 1])


class _Model:
    """The model's output for rows that belong to the examples i, at least in float32."""

    def __init__(self, forward_func: Callable[..., Any], arguments: Any, n: int) -> None:
        self._forward = forward_func
        given = arguments if isinstance(arguments, tuple) else (arguments,)
        self._arguments = () if arguments is None else given
        self._n = n

    def __call__(self, rows: Tensors, i: Tensor) -> Tensor:
        # `rows` are copies, so that a model may write into them.
        output = logits_of(self._forward(*rows, *(self._of(a, i) for a in self._arguments)))
        check_rows(output, len(i))
        if not bool(output.isfinite().all()):
            raise ValueError(
                "forward_func returned NaN or Inf. Check that the model can take the baselines, "
                "and explain logits instead of logarithms of probabilities."
            )
        return output.to(torch.promote_types(output.dtype, torch.float32))

    def _of(self, argument: object, i: Tensor) -> object:
        if isinstance(argument, Tensor) and argument.dim() > 0 and len(argument) == self._n:
            return argument[i.to(argument.device)]
        return argument


def _checked_inputs(inputs: Any, channel_dim: int | None) -> tuple[bool, Tensors, list[int]]:
    check_inputs(inputs)
    is_tuple, x = format_inputs(inputs)
    check_floating_inputs(inputs, "to be removed")
    if any(t.dim() < 2 or t.numel() == 0 for t in x):
        raise ValueError(
            "inputs must have features, (N, F) or more dimensions, got shapes "
            f"{[tuple(t.shape) for t in x]}; add a dimension with inputs.unsqueeze(1)."
        )
    dims = [resolve_channel_dim(t, channel_dim, "inputs") for t in x]
    return is_tuple, tuple(t.detach() for t in x), dims


def _order(
    is_tuple: bool,
    x: Tensors,
    dims: list[int],
    attributions: Tensor | Tensors | None,
    absolute: bool,
    generator: torch.Generator | None,
) -> Tensor:
    """The features of each example, of all inputs together, the most relevant first, (N, F)."""
    shapes = [_feature_shape(t, dim) for t, dim in zip(x, dims, strict=True)]
    if attributions is None:
        n_features = sum(int(torch.Size(shape).numel()) for shape in shapes)
        like = torch.empty(len(x[0]), n_features, device=x[0].device)
        return standard_uniform(like, fresh_generator(generator, like.device)).argsort(1)
    given = attributions if isinstance(attributions, tuple) else (attributions,)
    if len(given) != len(x) or isinstance(attributions, tuple) != is_tuple:
        raise ValueError(
            "attributions must be a tensor for a tensor and a tuple for a tuple, one for each of "
            f"{len(x)} inputs, got {type(attributions).__name__}."
        )
    values = [_values(a, t, d, absolute) for a, t, d in zip(given, x, dims, strict=True)]
    return torch.cat(values, dim=1).argsort(dim=1, descending=True, stable=True)


def _values(attributions: Any, x: Tensor, dim: int, absolute: bool) -> Tensor:
    """What the features of one input are ordered by, (N, F)."""
    if not isinstance(attributions, Tensor) or not attributions.is_floating_point():
        kind = attributions.dtype if isinstance(attributions, Tensor) else type(attributions)
        raise TypeError(f"attributions must be floating-point tensors, got {kind}; use .float().")
    if attributions.shape not in (x.shape, _with_one_channel(x, dim)):
        raise ValueError(
            f"attributions must have the shape of inputs, {tuple(x.shape)}, or one channel, "
            f"got {tuple(attributions.shape)}."
        )
    if not bool(attributions.isfinite().all()):
        raise ValueError("attributions has NaN or Inf. Find it with torch.isfinite(attributions).")
    values = attributions.detach().to(x.device)
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    values = values.abs() if absolute else values
    return values.sum(dim).flatten(1) if x.dim() > 2 else values


def _counts(n_features: int, n_steps: int, largest_fraction: float) -> Tensor:
    """How many features are removed at each step, (T,)."""
    check_count(n_steps=n_steps)
    if not 0 < largest_fraction <= 1:
        raise ValueError(f"largest_fraction must be over 0, at most 1, got {largest_fraction}.")
    share = torch.linspace(0, largest_fraction, n_steps + 1, dtype=torch.float64)
    counts = (share * n_features).round().long()
    if counts[-1] == 0:
        raise ValueError(
            f"largest_fraction={largest_fraction} of {n_features} features is less than one; the "
            f"least is {1 / n_features:.2g}."
        )
    return counts


def _ranks(order: Tensor, x: Tensors, dims: list[int]) -> Tensors:
    """The rank of each feature, broadcast over channels: those below the count are removed."""
    positions = torch.arange(order.shape[1], device=order.device).expand_as(order)
    ranks = torch.empty_like(order).scatter_(1, order, positions)
    shapes = [_feature_shape(t, dim) for t, dim in zip(x, dims, strict=True)]
    parts = ranks.split([torch.Size(shape).numel() for shape in shapes], dim=1)
    return tuple(
        part.reshape(len(part), *shape).to(t.device)
        for part, shape, t in zip(parts, shapes, x, strict=True)
    )


def _removed(x: Tensors, flipped: Tensors, ranks: Tensors, i: Tensor, count: Tensor) -> Tensors:
    """Copies of the examples i without their ``count`` most relevant features."""
    return tuple(
        torch.where(r[i] < count.view(-1, *[1] * (t.dim() - 1)), b[i], t[i])
        for t, b, r in zip(x, flipped, ranks, strict=True)
    )


def _feature_shape(x: Tensor, dim: int) -> tuple[int, ...]:
    """The shape of what is removed together, broadcast over channels."""
    return tuple(_with_one_channel(x, dim)[1:])


def _with_one_channel(x: Tensor, dim: int) -> torch.Size:
    shape = list(x.shape)
    if x.dim() > 2:
        shape[dim] = 1
    return torch.Size(shape)


def _baselines(is_tuple: bool, baselines: Any, x: Tensors) -> Tensors:
    given = baselines if isinstance(baselines, tuple) else (baselines,) * len(x)
    if len(given) != len(x) or (isinstance(baselines, tuple) and not is_tuple):
        raise ValueError(
            f"baselines must be a number, a tensor, or a tuple of one for each of {len(x)} inputs, "
            f"got {len(given)} of them."
        )
    return tuple(_baseline(b, t) for b, t in zip(given, x, strict=True))


def _baseline(baseline: Any, x: Tensor) -> Tensor:
    try:
        values = torch.as_tensor(baseline, dtype=x.dtype, device=x.device)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"baselines must be numbers or tensors, got {type(baseline).__name__}."
        ) from None
    if not bool(values.isfinite().all()):
        raise ValueError("baselines has NaN or Inf. Give the value of a feature that is absent.")
    try:
        return values.expand_as(x)
    except RuntimeError:
        raise ValueError(
            f"baselines must be a number or broadcast to inputs, {tuple(x.shape)}, got shape "
            f"{tuple(values.shape)}."
        ) from None


def _watched(meaning: Outputs, clean: Tensor, target: Any) -> Tensor | None:
    """What the curves follow: the classes that a caller gave, (N,), or those of ``clean``."""
    classes = None if target is None else _classes(target, clean)
    try:
        return meaning.watched(clean, classes)
    except ValueError as error:  # it speaks of the labels that an attack takes
        raise ValueError(f"target: {error}") from None


def _classes(target: Any, clean: Tensor) -> Tensor:
    try:
        classes = torch.as_tensor(target, device=clean.device)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"target must be a class, or (N,) classes, or None, got {type(target).__name__}."
        ) from None
    if classes.is_floating_point() or classes.shape not in ((), (1,), (len(clean),)):
        raise ValueError("target must be a class, or (N,) classes, or None for the predicted.")
    return classes.expand(len(clean)).long()

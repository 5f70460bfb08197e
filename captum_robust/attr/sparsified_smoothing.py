"""Sparsified smoothing: in which share of noisy copies a feature is among the most relevant."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from captum.attr import Attribution
from captum.log import log_usage
from torch import Tensor
from tqdm.auto import tqdm

from captum_robust._utils.attributions import attribute_detached, draws_of, same_draws
from captum_robust._utils.batching import copies_at_once, expand_per_example_arguments
from captum_robust._utils.captum import format_inputs, format_output
from captum_robust._utils.checks import (
    check_attribution,
    check_count,
    check_floating_inputs,
    check_positive,
    checked,
)
from captum_robust._utils.randomness import fresh_generator, mixed, seed_from, standard_normal
from captum_robust._utils.types import TensorOrTensors, Tensors


class MarkCounts(NamedTuple):
    """What some noisy copies add to the counts."""

    n_copies: int
    """How many copies these are."""
    marks: Tensors
    """In how many of them a feature was kept: int64, one tensor per input, without channels."""


class SparsifiedSmoothing(Attribution):
    r"""Share of noisy copies in which a feature is among the most relevant: it can be certified.

    .. math:: p_i(x) = \frac{1}{n} \sum_{j=1}^n \mathbf 1[i \in K(\phi(f, x + s\,e_j))],
              \quad e_j \sim N(0, I)

    where K are the ``kept`` most relevant features. A feature's relevance is its absolute
    attribution, summed over channels. Exactly the kept number of features is marked in each copy:
    of features that tie for the last places, those of the lowest index. As the noise is Gaussian
    and a mark is 0 or 1, no attack can change these shares quickly:
    :mod:`captum_robust.certificates` says how much at most. The result has no useful derivative.

    Args:
        attribution_method: The Captum explanation to smooth.
        kept: Fraction of the features that is kept, in (0, 1); rounded, at least one feature.
        stdev: Standard deviation s of the noise, in units of the inputs.
        channel_dim: Dimension that holds channels, of attributions with three or more dimensions;
            None: each number is a feature.

    Raises:
        TypeError: ``attribution_method`` is not an ``Attribution``.
        ValueError: ``kept`` is not in (0, 1), or ``stdev`` is not positive and finite.

    References:
        Levine, Singla and Feizi 2019, "Certifiably Robust Interpretation in Deep Learning".

    Example:
        >>> import torch
        >>> from captum.attr import InputXGradient
        >>> from captum_robust.attr import SparsifiedSmoothing
        >>> smooth = SparsifiedSmoothing(InputXGradient(lambda x: x.sum(1)), kept=0.5, stdev=1.0)
        >>> generator = torch.Generator().manual_seed(0)
        >>> smooth.attribute(torch.tensor([[0.0, 1.0]]), n_samples=1000, generator=generator)
        tensor([[0.3690, 0.6310]])
    """

    def __init__(
        self,
        attribution_method: Attribution,
        kept: float = 0.1,
        stdev: float = 0.5,
        channel_dim: int | None = 1,
    ) -> None:
        check_attribution(attribution_method)
        check_positive(kept=kept, stdev=stdev)
        if kept >= 1:
            raise ValueError(f"kept must be below 1, the fraction of features to keep, got {kept}.")
        super().__init__(attribution_method.forward_func)
        self.attribution_method = attribution_method
        self.kept, self.stdev, self.channel_dim = kept, stdev, channel_dim

    @log_usage()
    @checked
    def attribute(
        self,
        inputs: TensorOrTensors,
        n_samples: int = 1000,
        internal_batch_size: int | None = None,
        generator: torch.Generator | None = None,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> TensorOrTensors:
        """Explain ``inputs``: one pass of the wrapped method for each noisy copy.

        Args:
            inputs: Floating-point tensor or tuple of tensors, examples along dimension 0. The
                features of a tuple are ranked together.
            n_samples: Number of noisy copies; the memory does not depend on it.
            internal_batch_size: Largest number of noisy inputs explained at once, at least one
                per example; None: what suits the device.
            generator: Source of the noise; None draws a fresh, unpredictable one.
            show_progress: Whether to show a bar on standard error.
            **kwargs: Handed to the wrapped method; what belongs to an example (``target``,
                ``baselines``, ``additional_forward_args``, ``feature_mask``) is repeated.

        Returns:
            Shares in [0, 1], of the shapes, dtypes and devices of ``inputs``; the channels of a
            feature have the same share.

        Raises:
            ValueError: A count below one; inputs that are empty, integer, NaN or Inf; an
                explanation with NaN; or ``channel_dim`` out of range.
        """
        check_count(n_samples=n_samples)
        is_tuple, tensors = format_inputs(inputs)
        generator = fresh_generator(generator, tensors[0].device)
        sweep = _Sweep(self, tensors, is_tuple, seed_from(generator), generator.device, kwargs)
        total: Tensor | None = None
        with tqdm(total=n_samples, disable=not show_progress, desc="noisy copies") as bar:
            for copies in _chunks(range(n_samples), sweep.copies_at_once(internal_batch_size)):
                marks = sweep.count(copies)
                total = marks if total is None else total + marks
                bar.update(len(copies))
        assert total is not None
        return format_output(sweep.is_tuple_out, sweep.layout.restored(total.double() / n_samples))

    def count_marks(
        self,
        inputs: Tensor | Tensors,
        copies: range,
        seed: int,
        internal_batch_size: int | None = None,
        **kwargs: Any,
    ) -> Iterator[MarkCounts]:
        """The integers behind :meth:`attribute`, chunk by chunk, for sums that can be resumed.

        The noise of a copy depends on ``seed`` and the copy's number alone. Chunks begin at
        multiples of a size that ``internal_batch_size`` and the inputs give, and not where
        ``copies`` begins: a run that was cut there and resumed gives the counts of an uncut one,
        bit by bit.

        Args:
            inputs: As for :meth:`attribute`.
            copies: Numbers of the copies, such as ``range(0, 1000)``.
            seed: A whole number; other seeds give other noise.
            internal_batch_size: As for :meth:`attribute`.
            **kwargs: As for :meth:`attribute`.

        Yields:
            How many copies a chunk held, and in how many of them each feature was kept.
        """
        is_tuple, tensors = format_inputs(inputs)
        sweep = _Sweep(self, tensors, is_tuple, seed, tensors[0].device, kwargs)
        for chunk in _chunks(copies, sweep.copies_at_once(internal_batch_size)):
            marks = sweep.count(chunk)
            yield MarkCounts(len(chunk), sweep.layout.maps(marks))


class _Layout:
    """How attributions become rows of features, and rows of numbers become maps again."""

    def __init__(self, attributions: Tensors, channel_dim: int | None) -> None:
        self._channel_dim = channel_dim
        self._like = tuple((a.shape[1:], a.dtype) for a in attributions)
        first = self.relevance(attributions)
        self._shapes = tuple(r.shape[1:] for r in first)
        self._sizes = [math.prod(shape) for shape in self._shapes]
        self.n_features = sum(self._sizes)

    def relevance(self, attributions: Tensors) -> Tensors:
        """Absolute values, summed over channels, in at least single precision."""
        magnitudes = (a.abs().to(torch.promote_types(a.dtype, torch.float32)) for a in attributions)
        return tuple(
            m if (dim := self._channel(m.dim())) is None else m.sum(dim) for m in magnitudes
        )

    def rows(self, attributions: Tensors) -> Tensor:
        """Relevance of all features, (rows, n_features)."""
        return torch.cat([r.flatten(1) for r in self.relevance(attributions)], dim=1)

    def maps(self, values: Tensor) -> Tensors:
        """(N, n_features) as one map per input, without channels."""
        parts = values.split(self._sizes, dim=1)
        return tuple(v.reshape(-1, *s) for v, s in zip(parts, self._shapes, strict=True))

    def restored(self, values: Tensor) -> Tensors:
        """(N, n_features) in the shapes and dtypes of the attributions."""
        full = []
        for v, (shape, dtype) in zip(self.maps(values), self._like, strict=True):
            dim = self._channel(len(shape) + 1)
            spread = v if dim is None else v.unsqueeze(dim)
            full.append(spread.expand(-1, *shape).to(dtype).contiguous())
        return tuple(full)

    def _channel(self, ndim: int) -> int | None:
        if self._channel_dim is None or ndim < 3:
            return None
        if not -ndim <= self._channel_dim < ndim or self._channel_dim % ndim == 0:
            raise ValueError(
                f"channel_dim must name a dimension other than the batch (0), from 1 to {ndim - 1},"
                f" got {self._channel_dim}. None makes each number a feature."
            )
        return self._channel_dim % ndim


class _Sweep:
    """The passes over noisy copies of some inputs."""

    def __init__(
        self,
        smoothing: SparsifiedSmoothing,
        inputs: Tensors,
        is_tuple: bool,
        seed: int,
        device: torch.device,
        kwargs: dict[str, Any],
    ) -> None:
        check_floating_inputs(inputs, "to take noise")
        if kwargs.get("return_convergence_delta"):
            raise ValueError("return_convergence_delta: shares have no convergence delta.")
        self._method, self._stdev = smoothing.attribution_method, smoothing.stdev
        self._kept, self._channel_dim = smoothing.kept, smoothing.channel_dim
        self._inputs, self._is_tuple, self._kwargs = inputs, is_tuple, kwargs
        self._first, self._generator = mixed(seed), torch.Generator(device)
        self.is_tuple_out = is_tuple
        self._found_layout: _Layout | None = None

    def copies_at_once(self, internal_batch_size: int | None) -> int:
        """How many copies of each example one pass takes."""
        if internal_batch_size is not None:
            check_count(internal_batch_size=internal_batch_size)
        if any(draws_of(self._method)):  # one copy at a time keeps its draws in any batches
            return 1
        if internal_batch_size is not None:
            return max(1, internal_batch_size // len(self._inputs[0]))
        return copies_at_once(self._inputs, None)

    @torch.inference_mode(False)  # explanations need gradients
    def count(self, copies: range) -> Tensor:
        """In how many of the copies each feature is kept: (N, n_features), int64."""
        drawn = [self._noise(copy) for copy in copies]
        noisy = tuple(
            (x.detach().unsqueeze(1) + self._stdev * torch.stack(noise, dim=1)).flatten(0, 1)
            for x, noise in zip(self._inputs, zip(*drawn, strict=True), strict=True)
        )
        arguments = expand_per_example_arguments(len(copies), self._inputs, self._kwargs)
        # What the method draws must not be the noise again, so it has another seed.
        seed, device = mixed(self._first + copies.start), self._inputs[0].device
        with same_draws(self._method, seed, device, arguments) as arguments:
            rows = format_output(self._is_tuple, noisy)
            result = attribute_detached(self._method, rows, **arguments)
        self.is_tuple_out, attributions = format_inputs(result)
        if self._found_layout is None:
            self._found_layout = _Layout(attributions, self._channel_dim)
        n_kept = max(1, round(self._kept * self.layout.n_features))
        marks = mark_largest(self.layout.rows(attributions), n_kept)
        return marks.unflatten(0, (-1, len(copies))).sum(1)

    @property
    def layout(self) -> _Layout:
        """The form of the attributions, known after the first pass."""
        assert self._found_layout is not None
        return self._found_layout

    def _noise(self, copy: int) -> Tensors:
        # torch's generator of a CPU takes the lower 32 bits of a seed: no two copies share these.
        self._generator.manual_seed((self._first + copy) % 2**32)
        return tuple(standard_normal(x, self._generator) for x in self._inputs)


def mark_largest(relevance: Tensor, n_kept: int) -> Tensor:
    """Mark the ``n_kept`` largest numbers of each row, at ties those of the lowest index.

    Args:
        relevance: (rows, d).
        n_kept: From 1 to d.

    Returns:
        (rows, d) booleans with exactly ``n_kept`` of them True in each row.

    Raises:
        ValueError: A number is NaN or Inf.

    Example:
        >>> import torch
        >>> from captum_robust.attr.sparsified_smoothing import mark_largest
        >>> mark_largest(torch.tensor([[0.0, 2.0, 1.0, 1.0]]), 2).int()
        tensor([[0, 1, 1, 0]], dtype=torch.int32)
    """
    last = relevance.topk(n_kept, dim=1, sorted=False).values.amin(1, keepdim=True)
    marks = relevance >= last
    tied = marks.sum(1) != n_kept
    largest = relevance.amax()  # NaN where any is NaN
    if not bool(torch.isfinite(largest)):
        raise ValueError(
            "The explanation has NaN or Inf at a noisy copy of the inputs, so its features have no "
            "order. Look for logarithms, divisions and square roots in the model."
        )
    if bool(tied.any()):
        above = relevance[tied] > last[tied]
        at = relevance[tied] == last[tied]
        free = n_kept - above.sum(1, keepdim=True)
        marks[tied] = above | (at & (at.cumsum(1) <= free))
    return marks


def _chunks(copies: range, size: int) -> Iterator[range]:
    """``copies``, cut at the multiples of ``size``."""
    start = copies.start
    while start < copies.stop:
        stop = min(copies.stop, (start // size + 1) * size)
        yield range(start, stop)
        start = stop

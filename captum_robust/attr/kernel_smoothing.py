"""Kernel smoothing: the mean of an explanation over noisy copies of the input."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import torch
from captum.attr import Attribution
from captum.log import log_usage
from torch import Tensor

from captum_robust._utils.attributions import absolute_by_default, attribute_detached, draws_of
from captum_robust._utils.batching import expand_per_example_arguments
from captum_robust._utils.captum import format_inputs, format_output
from captum_robust._utils.checks import (
    check_attribution,
    check_count,
    check_floating_inputs,
    check_positive,
    checked,
)
from captum_robust._utils.randomness import fresh_generator, standard_normal, standard_uniform
from captum_robust._utils.types import TensorOrTensors, Tensors
from captum_robust.attr.differentiable import differentiable

Kernel = Callable[[Tensor, torch.Generator], Tensor]
"""Draws noise of unit radius in the shape of the tensor it is given."""


def gaussian(like: Tensor, generator: torch.Generator) -> Tensor:
    """Normal noise; the radius is its standard deviation."""
    return standard_normal(like, generator)


def uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform noise on (-radius, radius)."""
    return 2 * standard_uniform(like, generator) - 1


def logistic(like: Tensor, generator: torch.Generator) -> Tensor:
    """Logistic noise; the radius is its scale (standard deviation 1.81 radii)."""
    # Half precision would round draws to 1, and a draw may be 0: their logits are infinite.
    wide = like if like.dtype == torch.float64 else like.float()
    u = standard_uniform(wide, generator)
    # Draws are multiples of eps / 2, so a 0 stands for the numbers below the first of them.
    return torch.logit(u, eps=torch.finfo(u.dtype).eps / 4).to(like)


_KERNELS: dict[str, Kernel] = {"gaussian": gaussian, "uniform": uniform, "logistic": logistic}


class KernelSmoothing(Attribution):
    r"""Mean of any Captum explanation over noise: SmoothGrad and its relatives, differentiable.

    .. math:: \phi_k(f, x) = \frac{1}{n} \sum_{i=1}^n \phi(f, x + r\,e_i), \quad e_i \sim k

    With the Gaussian kernel ``KernelSmoothing(Saliency(model))`` is SmoothGrad: the absolute value
    of the mean gradient, or the mean gradient with ``abs=False``.
    ``captum.attr.NoiseTunnel(Saliency(model))`` is the mean of absolute values instead, since
    Saliency makes them absolute first. Unlike NoiseTunnel it can be differentiated
    (:func:`differentiable`), draws from a generator of its own, and gives the same result however
    the samples are cut into batches.

    Args:
        attribution_method: The Captum explanation to smooth.

    Raises:
        TypeError: ``attribution_method`` is not an ``Attribution``.

    References:
        Smilkov et al. 2017, "SmoothGrad"; Yeh et al. 2019, Section 4; Dombrowski et al. 2019,
        Theorem 2, for the logistic kernel.

    Example:
        >>> import torch
        >>> from captum.attr import Saliency
        >>> from captum_robust.attr import KernelSmoothing
        >>> smooth = KernelSmoothing(Saliency(torch.nn.ReLU()))
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.tensor([[-1.0], [0.0], [1.0]])
        >>> smooth.attribute(x, radius=1.0, n_samples=1000, generator=generator).flatten()
        tensor([0.1600, 0.4750, 0.8570])
    """

    def __init__(self, attribution_method: Attribution) -> None:
        check_attribution(attribution_method)
        super().__init__(attribution_method.forward_func)
        self.attribution_method = attribution_method

    @log_usage()
    @checked
    def attribute(
        self,
        inputs: TensorOrTensors,
        kernel: str | Kernel = "gaussian",
        radius: float | tuple[float, ...] = 0.1,
        n_samples: int = 50,
        internal_batch_size: int | None = None,
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> TensorOrTensors:
        """Explain ``inputs``.

        Args:
            inputs: Floating-point tensor or tuple of tensors, examples along dimension 0.
            kernel: "gaussian", "uniform", "logistic", or a function ``(like, generator)`` that
                draws noise of unit radius in the shape of the tensor ``like``.
            radius: Size of the noise in units of the inputs (standard deviation, half-width,
                scale); a tuple gives one per input.
            n_samples: Number of noisy copies.
            internal_batch_size: Largest number of rows of one forward pass, at least one per
                example; None explains all copies together. Handed on to a wrapped method that has
                an argument of this name, such as IntegratedGradients.
            generator: Source of the noise, also that of a KernelSmoothing inside; None draws a
                fresh, unpredictable one and leaves the global random state alone.
            **kwargs: Handed to the wrapped method; what belongs to an example (``target``,
                ``baselines``, ``additional_forward_args``, ``feature_mask``) is repeated. With
                ``abs``, True by default in Saliency, the mean of signed values is made absolute.

        Returns:
            Attributions of the shapes, dtypes and devices of ``inputs``.

        Raises:
            ValueError: An unknown kernel, a radius that is not positive and finite, a count below
                one, or inputs that are empty, integer, NaN, Inf or of unequal length.
        """
        return self._smooth(
            partial(attribute_detached, self.attribution_method),
            inputs, kernel, radius, n_samples, internal_batch_size, generator, **kwargs,
        )  # fmt: skip

    def attribute_with_graph(
        self, inputs: TensorOrTensors, *args: Any, **kwargs: Any
    ) -> TensorOrTensors:
        """Like :meth:`attribute`, with a graph; the protocol of :func:`differentiable`."""
        given = signature(KernelSmoothing.attribute).bind(self, inputs, *args, **kwargs)
        given.apply_defaults()
        explain = differentiable(self.attribution_method)
        return self._smooth(explain, *given.args[1:], **given.kwargs)

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether the wrapped method gives global attributions (Captum's convention)."""
        return self.attribution_method.multiplies_by_inputs

    def _smooth(
        self,
        explain: Callable[..., Any],
        inputs: TensorOrTensors,
        kernel: str | Kernel,
        radius: float | tuple[float, ...],
        n_samples: int,
        internal_batch_size: int | None,
        generator: torch.Generator | None,
        **kwargs: Any,
    ) -> TensorOrTensors:
        if kwargs.get("return_convergence_delta"):
            raise ValueError(
                "return_convergence_delta: a mean over noise has no convergence delta."
            )
        is_tuple, tensors = format_inputs(inputs)
        generator = fresh_generator(generator, tensors[0].device)
        noise = _Noise(kernel, radius, tensors, generator)
        chunk = _copies_at_once(n_samples, internal_batch_size, len(tensors[0]))
        absolute = False
        by_default = absolute_by_default(self.attribution_method)
        if by_default is not None:  # the mean is of signed values
            absolute = kwargs.get("abs", by_default) is True
            kwargs = {**kwargs, "abs": False}
        if draws_of(self.attribution_method).from_generator:
            # It draws between two copies: one at a time, these do not depend on the batches.
            chunk, kwargs = 1, {"generator": generator, **kwargs}
        if internal_batch_size is not None and _takes(
            self.attribution_method, "internal_batch_size"
        ):
            rows = chunk * len(tensors[0])
            kwargs = {**kwargs, "internal_batch_size": max(internal_batch_size, rows)}
        total: Tensors | None = None
        for start in range(0, n_samples, chunk):
            copies = min(chunk, n_samples - start)
            noisy = format_output(is_tuple, noise.add(copies))
            part = explain(noisy, **expand_per_example_arguments(copies, tensors, kwargs))
            # A method that explains a layer has a result of the layer's form.
            is_tuple_out, parts = format_inputs(part)
            # Half precision is summed in single: a sum soon passes 65,504, the largest float16.
            sums = tuple(a.unflatten(0, (-1, copies)).sum(1, dtype=_wide(a.dtype)) for a in parts)
            total = sums if total is None else tuple(map(torch.add, total, sums))
        assert total is not None
        means = [(a / n_samples).to(part.dtype) for a, part in zip(total, parts, strict=True)]
        return format_output(is_tuple_out, tuple(m.abs() if absolute else m for m in means))


class _Noise:
    """Noisy copies of the inputs, drawn copy by copy so that batching does not change them."""

    def __init__(
        self,
        kernel: str | Kernel,
        radius: float | tuple[float, ...],
        inputs: tuple[Tensor, ...],
        generator: torch.Generator,
    ) -> None:
        if isinstance(kernel, str) and kernel not in _KERNELS:
            raise ValueError(
                f"kernel must be one of {', '.join(_KERNELS)} or a function, got {kernel!r}."
            )
        radii = radius if isinstance(radius, tuple) else (radius,) * len(inputs)
        if len(radii) != len(inputs):
            raise ValueError(
                f"radius has {len(radii)} values for {len(inputs)} inputs; give one each."
            )
        for r in radii:
            check_positive(radius=r)
        check_floating_inputs(inputs, "to take noise")
        self._draw = _KERNELS[kernel] if isinstance(kernel, str) else kernel
        self._radii, self._inputs, self._generator = radii, inputs, generator

    def add(self, copies: int) -> tuple[Tensor, ...]:
        """``copies`` noisy copies of each example, adjacent: (N * copies, ...)."""
        drawn = [[self._noise(x) for x in self._inputs] for _ in range(copies)]
        return tuple(
            (x.unsqueeze(1) + r * torch.stack(noise, dim=1)).flatten(0, 1)
            for x, r, noise in zip(self._inputs, self._radii, zip(*drawn, strict=True), strict=True)
        )

    def _noise(self, x: Tensor) -> Tensor:
        noise = self._draw(x.detach(), self._generator)
        if noise.shape != x.shape:
            raise ValueError(
                f"kernel must draw noise of the inputs' shape {tuple(x.shape)}, got "
                f"{tuple(noise.shape)}. Draw in the shape of its first argument."
            )
        return noise.to(x)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _takes(attribution: Attribution, argument: str) -> bool:
    """Whether ``attribution``, or what it wraps, has an argument of this name."""
    if argument in signature(attribution.attribute).parameters:
        return True
    wrapped = getattr(attribution, "attribution_method", None)
    return isinstance(wrapped, Attribution) and _takes(wrapped, argument)


def _copies_at_once(n_samples: int, internal_batch_size: int | None, n_examples: int) -> int:
    check_count(n_samples=n_samples)
    if internal_batch_size is None:
        return n_samples
    check_count(internal_batch_size=internal_batch_size)
    return max(1, internal_batch_size // n_examples)

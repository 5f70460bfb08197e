"""Explained points around the inputs: what the metrics of a neighbourhood share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_robust._utils.batching import copies_per_batch, split
from captum_robust._utils.captum import format_inputs, format_output
from captum_robust._utils.checks import (
    check_count,
    check_floating_inputs,
    check_inputs,
    check_positive,
)
from captum_robust._utils.inference_mode import outside_inference_mode
from captum_robust._utils.randomness import fresh_generator, standard_uniform
from captum_robust._utils.types import Tensors
from captum_robust.metrics._explainer import Explainer, is_finite

P = ParamSpec("P")


class Neighbours:
    """Points around the inputs, from ``perturb_func`` or uniform in the L-inf ball.

    The uniform ones are drawn copy by copy, so that they do not depend on how many are asked for
    at once.
    """

    def __init__(
        self,
        inputs: Tensors,
        perturb_func: Callable[..., Any] | None,
        radius: float,
        generator: torch.Generator,
    ) -> None:
        check_positive(perturb_radius=radius)
        if perturb_func is not None and not callable(perturb_func):
            raise TypeError(
                f"perturb_func must be a function, got {type(perturb_func).__name__}. That of an "
                "attack is attack.perturb_func(labels); None draws uniformly."
            )
        if perturb_func is None:
            check_floating_inputs(inputs, "to be perturbed")
        self._inputs, self._perturb, self._radius = inputs, perturb_func, radius
        self._generator = generator

    def draw(self, copies: int) -> Tensors:
        """``copies`` points for each example, adjacent: (N * copies, ...) each."""
        if self._perturb is not None:
            return self._perturbed(copies)
        noise = draw_copies(standard_uniform, self._inputs, copies, self._generator)
        return tuple(
            (x.to(e).unsqueeze(1) + self._radius * (2 * e - 1)).flatten(0, 1).to(x)
            for x, e in zip(self._inputs, noise, strict=True)
        )

    def _perturbed(self, copies: int) -> Tensors:
        repeated = tuple(x.repeat_interleave(copies, dim=0) for x in self._inputs)
        wanted = [tuple(x.shape) for x in repeated]
        given = repeated if len(repeated) > 1 else repeated[0]
        assert self._perturb is not None
        arguments = (given, self._radius) if _takes_two(self._perturb) else (given,)
        with torch.no_grad():
            result = self._perturb(*arguments)
        points = result if isinstance(result, tuple) else (result,)
        got = [tuple(p.shape) if isinstance(p, Tensor) else type(p).__name__ for p in points]
        if got != wanted:
            raise ValueError(
                f"perturb_func must return one point for each it is given, shapes {wanted}, got "
                f"{got}."
            )
        if not all(is_finite(p) for p in points):
            raise ValueError("perturb_func returned NaN or Inf. Check its result, torch.isfinite.")
        return tuple(p.detach().to(x) for p, x in zip(points, self._inputs, strict=True))


class Neighbourhood:
    """The inputs, their explanation, and explained points around them.

    Args:
        explanation_func: See :class:`Explainer`.
        inputs: Tensor or tuple of tensors, (N, ...) each.
        perturb_func: See :class:`Neighbours`.
        perturb_radius: Size of the ball.
        n_perturb_samples: Points for each example.
        max_examples_per_batch: Points explained at once, at least one for each example; None: all
            with a ``perturb_func``, else a number that is fast.
        generator: Source of randomness; None draws a fresh one.
        show_progress: Whether :meth:`chunks` shows a bar.
        **kwargs: Further arguments of the explanation.
    """

    def __init__(
        self,
        explanation_func: Any,
        inputs: Tensor | Tensors,
        perturb_func: Callable[..., Any] | None = None,
        perturb_radius: float = 0.02,
        n_perturb_samples: int = 10,
        max_examples_per_batch: int | None = None,
        *,
        generator: torch.Generator | None = None,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> None:
        check_inputs(inputs)
        self.is_tuple, tensors = format_inputs(inputs)
        self.inputs = tuple(x.detach() for x in tensors)
        generator = fresh_generator(generator, self.inputs[0].device)
        self.neighbours = Neighbours(self.inputs, perturb_func, perturb_radius, generator)
        check_count(n_perturb_samples=n_perturb_samples)
        self.n_samples = n_perturb_samples
        if perturb_func is not None and max_examples_per_batch is None:
            # As Captum does: what it draws may depend on how many it is asked for at once.
            max_examples_per_batch = n_perturb_samples * len(self.inputs[0])
        self.copies_at_once = copies_per_batch(
            n_perturb_samples, max_examples_per_batch, self.inputs
        )
        self._explainer = Explainer(explanation_func, kwargs, generator)
        self.clean = self.explain(self.inputs)
        if self._explainer.draws:
            self.copies_at_once = 1  # its noise has the shape of the batch
        self._show_progress = show_progress

    def explain(self, points: Tensors, copies: int = 1) -> Tensors:
        """The explanations of ``copies`` points for each example, (N * copies, ...) each."""
        return self._explainer(format_output(self.is_tuple, points), self.inputs, copies)

    def chunks(self, name: str) -> Iterator[tuple[Tensors, Tensors, int]]:
        """Points, their explanations and the number of copies, until there are enough."""
        with tqdm(total=self.n_samples, desc=name, disable=not self._show_progress) as bar:
            for copies in split(self.n_samples, self.copies_at_once):
                points = self.neighbours.draw(copies)
                yield points, self.explain(points, copies), copies
                bar.update(copies)


def with_arguments_of(
    make: Callable[P, Neighbourhood],
) -> Callable[[Callable[[Neighbourhood], Tensor]], Callable[P, Tensor]]:
    """Decorator: a function of a neighbourhood becomes one of what a neighbourhood is made from.

    So the arguments of these metrics, which are many, are said once: by :class:`Neighbourhood`.
    """

    def decorate(measure: Callable[[Neighbourhood], Tensor]) -> Callable[P, Tensor]:
        def of_arguments(*args: P.args, **kwargs: P.kwargs) -> Tensor:
            return measure(make(*args, **kwargs))

        for name in ("__module__", "__name__", "__qualname__", "__doc__"):
            setattr(of_arguments, name, getattr(measure, name))
        signature = inspect.signature(make).replace(return_annotation="Tensor")
        of_arguments.__signature__ = signature  # type: ignore[attr-defined]
        return outside_inference_mode(of_arguments)

    return decorate


def draw_copies(
    draw: Callable[[Tensor, torch.Generator], Tensor],
    inputs: Tensors,
    copies: int,
    generator: torch.Generator,
) -> Tensors:
    """(N, copies, ...) each, drawn copy by copy, in at least single precision."""
    wide = tuple(x if x.dtype == torch.float64 else x.float() for x in inputs)
    drawn = [[draw(x, generator) for x in wide] for _ in range(copies)]
    return tuple(torch.stack(parts, dim=1) for parts in zip(*drawn, strict=True))


def rows(tensors: Tensors, copies: int | None = None) -> Tensor:
    """All numbers of an example in one row, in the widest dtype: (N, F) or (N, copies, F)."""
    device = tensors[0].device
    wide = torch.float32 if device.type == "mps" else torch.float64
    flat = torch.cat([t.flatten(1).to(device, wide) for t in tensors], dim=1)
    return flat if copies is None else flat.unflatten(0, (-1, copies))


def result_dtype(explanations: Tensors) -> torch.dtype:
    """The widest dtype among ``explanations``, which are at least single."""
    return max((e.dtype for e in explanations), key=lambda dtype: torch.finfo(dtype).bits)


def _takes_two(function: Callable[..., Any]) -> bool:
    """Captum's rule for a ``perturb_func``: who takes more than the inputs takes the radius."""
    try:
        return len(inspect.signature(function).parameters) > 1
    except ValueError:  # built-in functions have none
        return False

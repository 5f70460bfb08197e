"""What the metrics of a neighbourhood share: explained points around the inputs, copy by copy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from captum.attr import Attribution
from torch import Tensor
from tqdm.auto import tqdm

from captum_robust._utils.attributions import attribute_detached, draws_of
from captum_robust._utils.batching import copies_at_once, expand_per_example_arguments
from captum_robust._utils.captum import format_inputs, format_output
from captum_robust._utils.checks import (
    check_count,
    check_floating_inputs,
    check_inputs,
    check_positive,
)
from captum_robust._utils.randomness import fresh_generator, seed_from, standard_uniform
from captum_robust._utils.types import Tensors


def resolve(explanation_func: Any) -> tuple[Attribution | None, dict[str, Any]]:
    """The ``Attribution`` behind ``explanation_func``, if any, and the keywords bound to it.

    Recognised are the object itself, its method ``attribute``, and a ``functools.partial`` of the
    latter with keywords. (A partial of another function binds for itself.)
    """
    if isinstance(explanation_func, Attribution):
        return explanation_func, {}
    if isinstance(explanation_func, partial) and not explanation_func.args:
        attribution, bound = resolve(explanation_func.func)
        return attribution, {**bound, **explanation_func.keywords} if attribution else {}
    owner = getattr(explanation_func, "__self__", None)
    if isinstance(owner, Attribution) and explanation_func.__name__ == "attribute":
        return owner, {}
    return None, {}


class Arguments:
    """The keywords of an explanation, for any number of copies of the examples.

    An explanation that draws noise (KernelSmoothing) is seeded alike every time, so that a
    difference of two explanations is not one of their noise.
    """

    def __init__(
        self, method: Any, bound: dict[str, Any], kwargs: dict[str, Any], generator: torch.Generator
    ) -> None:
        self._kwargs = {**bound, **kwargs}
        if self._kwargs.get("return_convergence_delta"):
            raise ValueError(
                "return_convergence_delta: the metric compares attributions alone. Leave it out."
            )
        self.draws = draws_of(method).from_generator
        self._device, self._seed = generator.device, None
        if self.draws and "generator" not in self._kwargs:
            self._seed = seed_from(generator)

    def expanded(self, inputs: Tensors, copies: int) -> dict[str, Any]:
        """What to call the explanation with, given ``copies`` adjacent copies of each example."""
        kwargs = expand_per_example_arguments(copies, inputs, self._kwargs)
        if self._seed is not None:
            kwargs["generator"] = torch.Generator(self._device).manual_seed(self._seed)
        return kwargs


class Explainer:
    """An explanation as a function of points: checked, without a graph, in at least float32.

    Args:
        explanation_func: An ``Attribution``, its ``attribute``, or any callable of inputs.
        kwargs: Its further arguments, for one copy of each example.
        generator: Where a seed of the noise comes from; used only if noise is drawn.
    """

    def __init__(
        self, explanation_func: Any, kwargs: dict[str, Any], generator: torch.Generator
    ) -> None:
        if not (isinstance(explanation_func, Attribution) or callable(explanation_func)):
            raise TypeError(
                "explanation_func must be a captum Attribution or a function of the inputs, got "
                f"{type(explanation_func).__name__}. Pass Saliency(model), say."
            )
        self._attribution, bound = resolve(explanation_func)
        self._function = explanation_func
        self._arguments = Arguments(self._attribution, bound, kwargs, generator)
        self.draws = self._arguments.draws

    def __call__(self, points: Any, inputs: Tensors, copies: int = 1) -> Tensors:
        """Explain ``copies`` adjacent copies of each example of ``inputs``."""
        kwargs = self._arguments.expanded(inputs, copies)
        with torch.no_grad():
            if self._attribution is not None:
                result = attribute_detached(self._attribution, points, **kwargs)
            else:
                result = self._function(points, **kwargs)
        return _checked_explanation(result, copies * len(inputs[0]))


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
        if not all(_is_finite(p) for p in points):
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
        kwargs: Further arguments of the explanation.
    """

    def __init__(
        self,
        explanation_func: Any,
        inputs: Tensor | Tensors,
        perturb_func: Callable[..., Any] | None,
        perturb_radius: float,
        n_perturb_samples: int,
        max_examples_per_batch: int | None,
        generator: torch.Generator | None,
        kwargs: dict[str, Any],
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
        if self._explainer.draws:
            self.copies_at_once = 1  # its noise has the shape of the batch
        self.clean = self.explain(self.inputs)

    def explain(self, points: Tensors, copies: int = 1) -> Tensors:
        """The explanations of ``copies`` points for each example, (N * copies, ...) each."""
        return self._explainer(format_output(self.is_tuple, points), self.inputs, copies)

    def chunks(self, show_progress: bool, name: str) -> Iterator[tuple[Tensors, Tensors, int]]:
        """Points, their explanations and the number of copies, until there are enough."""
        with progress(self.n_samples, show_progress, name) as bar:
            for copies in split(self.n_samples, self.copies_at_once):
                points = self.neighbours.draw(copies)
                yield points, self.explain(points, copies), copies
                bar.update(copies)


@contextmanager
def progress(total: int, show: bool, name: str) -> Iterator[tqdm]:
    """A bar that is closed in the end, also after an exception."""
    with tqdm(total=total, desc=name, disable=not show) as bar:
        yield bar


def split(total: int, at_once: int) -> Iterator[int]:
    """Parts of at most ``at_once`` that sum to ``total``."""
    for start in range(0, total, at_once):
        yield min(at_once, total - start)


def copies_per_batch(n_samples: int, max_examples_per_batch: int | None, inputs: Tensors) -> int:
    """Copies of each example that are worked on at once, at least one; None: a fast number."""
    if max_examples_per_batch is None:
        return min(copies_at_once(inputs, None), n_samples)
    check_count(max_examples_per_batch=max_examples_per_batch)
    return min(max(1, max_examples_per_batch // len(inputs[0])), n_samples)


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


def _checked_explanation(result: Any, n_rows: int) -> Tensors:
    parts = result if isinstance(result, tuple) else (result,)
    strange = [type(p).__name__ for p in parts if not isinstance(p, Tensor)]
    strange += [str(p.dtype) for p in parts if isinstance(p, Tensor) and not p.is_floating_point()]
    if strange or not parts:
        raise TypeError(
            "explanation_func must return a floating-point tensor, or a tuple of them, got "
            f"{', '.join(strange) or '()'}."
        )
    if any(p.dim() == 0 or len(p) != n_rows or p.numel() == 0 for p in parts):
        raise ValueError(
            f"explanation_func must return one explanation for each of its {n_rows} inputs, got "
            f"shapes {[tuple(p.shape) for p in parts]}."
        )
    if not all(_is_finite(p) for p in parts):
        raise ValueError(
            "explanation_func returned NaN or Inf. Find the cause with torch.isfinite; float16 "
            "overflows above 65504."
        )
    half = (torch.float16, torch.bfloat16)
    return tuple((p.float() if p.dtype in half else p).detach().contiguous() for p in parts)


def _is_finite(x: Tensor) -> bool:
    if not x.is_floating_point() or x.numel() == 0:
        return True
    lowest, highest = torch.aminmax(x.detach())
    return bool(lowest > -torch.inf) and bool(highest < torch.inf)

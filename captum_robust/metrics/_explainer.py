"""An explanation as a function of points, however a caller gives it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from captum.attr import Attribution
from torch import Tensor, nn

from captum_robust._utils.attributions import attribute_detached, draws_of, innermost
from captum_robust._utils.batching import expand_per_example_arguments
from captum_robust._utils.randomness import global_state, seed_from, seeded_global_state
from captum_robust._utils.types import Tensors


def method_and_arguments(explanation_func: Any) -> tuple[Attribution | None, dict[str, Any]]:
    """The ``Attribution`` behind ``explanation_func``, if any, and the keywords bound to it.

    Recognised are the object itself, its method ``attribute``, and a ``functools.partial`` of the
    latter with keywords. (A partial of another function binds for itself.)
    """
    if isinstance(explanation_func, Attribution):
        return explanation_func, {}
    if isinstance(explanation_func, partial) and not explanation_func.args:
        attribution, bound = method_and_arguments(explanation_func.func)
        return attribution, {**bound, **explanation_func.keywords} if attribution else {}
    owner = getattr(explanation_func, "__self__", None)
    if isinstance(owner, Attribution) and explanation_func.__name__ == "attribute":
        return owner, {}
    return None, {}


class Arguments:
    """The keywords of an explanation, for any number of copies of the examples, and its draws.

    An explanation that draws noise draws the same each time, so that a difference of two
    explanations is not one of their noise. This library's take a generator. Captum's, functions,
    and models in training mode (dropout) draw from the global state, which is seeded for the call
    and put back.
    """

    def __init__(
        self, method: Any, bound: dict[str, Any], kwargs: dict[str, Any], generator: torch.Generator
    ) -> None:
        self._kwargs = {**bound, **kwargs}
        if self._kwargs.get("return_convergence_delta"):
            raise ValueError(
                "return_convergence_delta: the metric compares attributions alone. Leave it out."
            )
        known = draws_of(method)
        self.draws = known.from_generator or known.from_global_state
        """Whether noise is drawn, as far as is known; see :meth:`same_draws`."""
        self._device = generator.device
        # Where nothing may be drawn at all, nothing is taken from the generator either.
        self._seed = seed_from(generator) if self.draws else generator.initial_seed()
        self._makes_generator = known.from_generator and self._kwargs.get("generator") is None
        self._seeds_global_state = known.from_global_state or _may_draw(method)

    def expanded(self, inputs: Tensors, copies: int) -> dict[str, Any]:
        """What to call the explanation with, given ``copies`` adjacent copies of each example."""
        kwargs = expand_per_example_arguments(copies, inputs, self._kwargs)
        if self._makes_generator:
            kwargs["generator"] = torch.Generator(self._device).manual_seed(self._seed)
        return kwargs

    @contextmanager
    def same_draws(self) -> Iterator[None]:
        """All such blocks draw the same random numbers; ``draws`` is known for sure after one."""
        if not self._seeds_global_state:
            yield
            return
        with seeded_global_state(self._seed, [self._device]):
            before = None if self.draws else global_state([self._device])
            yield
            self.draws = self.draws or global_state([self._device]) != before
            self._seeds_global_state = self.draws


def _may_draw(method: Attribution | None) -> bool:
    """Whether ``method`` may draw from the global state though its kind does not."""
    model = innermost(method).forward_func if method is not None else None
    if isinstance(model, nn.Module):
        return any(module.training for module in model.modules())
    return True


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
        self._attribution, bound = method_and_arguments(explanation_func)
        self._function = explanation_func
        self._arguments = Arguments(self._attribution, bound, kwargs, generator)

    @property
    def draws(self) -> bool:
        """Whether noise is drawn, whose shape is that of the batch; known after the first call."""
        return self._arguments.draws

    def __call__(self, points: Any, inputs: Tensors, copies: int = 1) -> Tensors:
        """Explain ``copies`` adjacent copies of each example of ``inputs``."""
        kwargs = self._arguments.expanded(inputs, copies)
        with torch.no_grad(), self._arguments.same_draws():
            if self._attribution is not None:
                result = attribute_detached(self._attribution, points, **kwargs)
            else:
                result = self._function(points, **kwargs)
        return _checked_explanation(result, copies * len(inputs[0]))


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
    if not all(is_finite(p) for p in parts):
        raise ValueError(
            "explanation_func returned NaN or Inf. Find the cause with torch.isfinite; float16 "
            "overflows above 65504."
        )
    half = (torch.float16, torch.bfloat16)
    return tuple((p.float() if p.dtype in half else p).detach().contiguous() for p in parts)


def is_finite(x: Tensor) -> bool:
    if not x.is_floating_point() or x.numel() == 0:
        return True
    lowest, highest = torch.aminmax(x.detach())
    return bool(lowest > -torch.inf) and bool(highest < torch.inf)

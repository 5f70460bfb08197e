"""Examples as an attack sees them: where the explanation looks, and what the model says."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from captum.attr import Attribution, InputXGradient, Saliency
from torch import Tensor, nn

from captum_robust._utils.attributions import (
    attribute_detached,
    draws_of,
    map_forward,
    same_draws,
)
from captum_robust._utils.constants import Constants
from captum_robust._utils.forward import is_forward_of
from captum_robust._utils.randomness import seed_from
from captum_robust._utils.relevance import normalized_relevance
from captum_robust.attacks._constant_weights import constant_weights
from captum_robust.attr import (
    GuidedBackprop,
    PatternAttribution,
    RelevancePropagation,
    differentiable,
    softplus_activations,
)
from captum_robust.outputs import Categorical, Outputs, resolve

_RUN_ONCE = (Saliency, InputXGradient, GuidedBackprop, RelevancePropagation, PatternAttribution)
"""Explanations that run the model once, on the very inputs."""


class Explained:
    """A batch as an attack sees it: where the explanation looks, what the model says."""

    def __init__(
        self, relevance: Tensor, output: Callable[[], Tensor], outputs: Outputs | None = None
    ) -> None:
        self.relevance = relevance
        """Relevance maps, (N, H, W)."""
        self._compute_output = output
        self._outputs = Categorical() if outputs is None else outputs
        self._output: Tensor | None = None

    @property
    def output(self) -> Tensor:
        """The model's output, such as logits (N, classes); computed when first asked for."""
        if self._output is None:
            self._output = self._compute_output()
        return self._output

    @property
    def comparable(self) -> Tensor:
        """The output as numbers whose distance counts, such as probabilities."""
        return self._outputs.comparable(self.output)


@dataclass(frozen=True)
class Subject:
    """What is attacked: a model, its explanation, and how to read the two.

    Args:
        model: The model.
        forward: The model as a function of inputs that are not normalised.
        explanation: The attacked explanation.
        explanation_kwargs: Further arguments of it.
        output: What the outputs mean; None: see :func:`captum_robust.outputs.resolve`.
        channel_dim: Dimension of the attributions that a relevance map sums over.
        normalised: Whether ``forward`` normalises.
    """

    model: nn.Module
    forward: Callable[..., Tensor]
    explanation: Attribution
    explanation_kwargs: dict[str, Any]
    output: Outputs | None
    channel_dim: int | None
    normalised: bool

    @property
    def explains_model(self) -> bool:
        """Whether the explanation calls the model itself, not a function around it."""
        function = self.explanation.forward_func
        return is_forward_of(function, self.model) or function is getattr(
            self.model, "function", None
        )


class ModelView:
    """The attacked model and its explanation, as functions of inputs.

    Args:
        subject: The model and its explanation.
        images: The clean examples, (N, ...).
        labels: (N,) what is explained, or None for what is predicted.
        arguments: Further arguments of the model.
        generator: Source of the noise of explanations that draw.
    """

    def __init__(
        self,
        subject: Subject,
        images: Tensor,
        labels: Tensor | None,
        arguments: tuple[Any, ...],
        generator: torch.Generator,
    ) -> None:
        self._subject, self._arguments, self._n = subject, arguments, len(images)
        if subject.normalised and not subject.explains_model:
            raise ValueError(
                "explanation: its forward_func is not the model, so set_normalization_used does "
                "not reach it. Put the normalisation into the model, or explain the model itself."
            )
        # These run the model once, on the very images: its output need not be computed again.
        self._forward = _Remembering(subject.forward)
        self._constants = Constants(subject.model)
        self._output_comes_along = subject.explains_model and type(subject.explanation) in _RUN_ONCE
        explanation = subject.explanation
        if subject.normalised or self._output_comes_along:
            explanation = map_forward(explanation, lambda _: self._forward)
        self._explanation = explanation
        self._graph: Callable[..., Any] | None = None
        self._generator = generator
        self.draws = any(draws_of(explanation)) and "generator" not in subject.explanation_kwargs
        # Drawn only where it is used: an attack's own draws do not depend on a seed nobody needs.
        self._seed = seed_from(generator) if self.draws else 0
        with torch.no_grad():
            output = subject.forward(images, *arguments)
        self.outputs = resolve(subject.output, output, len(images))
        if bool(output.isnan().any()):
            raise ValueError("model returned NaN for these images, so they have no prediction.")
        self.clean_output = output.detach()
        # A copy, since autograd refuses to keep tensors that were made in inference mode.
        labels = None if labels is None else labels.clone().to(images.device, torch.int64)
        self.labels = labels
        self.target = self.outputs.target(output, labels)

    def explain(self, x: Tensor, rows: Tensor | None = None, draw: int = 0) -> Explained:
        """Explain ``x`` on the true model.

        Args:
            x: Versions of the examples.
            rows: Which examples they are versions of; None: each of its own.
            draw: Which noise, of an explanation that draws some. A search keeps to one, lest the
                luckiest draw win.
        """
        arguments = self._attribution_arguments(rows)
        with self._same_draws(arguments, draw) as drawing:
            attributions = attribute_detached(self._explanation, x, **drawing)
        return Explained(
            self._map(attributions), self._output_at(x, rows, torch.no_grad), self.outputs
        )

    def explain_surrogate(
        self, x: Tensor, beta: float | None, rows: Tensor | None = None
    ) -> Explained:
        """Explain ``x`` with a graph, on the model with its rectifiers smoothed.

        Args:
            x: Versions of the examples.
            beta: Sharpness; None: the true model.
            rows: Which examples they are versions of; None: each of its own.
        """
        smooth = partial(softplus_activations, model=self._constants)
        smoothed = nullcontext if beta is None else partial(smooth, beta)
        arguments = self._attribution_arguments(rows)
        if draws_of(self._explanation).from_generator and "generator" not in arguments:
            arguments["generator"] = self._generator
        if self._graph is None:
            self._graph = differentiable(self._explanation)
        with smoothed(), constant_weights():
            attributions = self._graph(x, **arguments)
        return Explained(self._map(attributions), self._output_at(x, rows, smoothed), self.outputs)

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """The model's output at ``x``, without a graph."""
        with torch.no_grad():
            return self._subject.forward(x, *chosen(self._arguments, rows, self._n))

    def targets(self, rows: Tensor | None) -> Tensor | None:
        """What is explained of the examples ``rows``."""
        return self.target if self.target is None or rows is None else self.target[rows]

    def _same_draws(
        self, arguments: dict[str, Any], draw: int
    ) -> AbstractContextManager[dict[str, Any]]:
        if not self.draws:
            return nullcontext(arguments)
        return same_draws(self._explanation, self._seed + draw, self._generator.device, arguments)

    def _map(self, attributions: Tensor) -> Tensor:
        channel_dim = 1 if self._subject.channel_dim is None else self._subject.channel_dim
        relevance = normalized_relevance(attributions, channel_dim)
        # Sums over the features of a map overflow float16.
        return relevance.to(torch.promote_types(relevance.dtype, torch.float32))

    def _attribution_arguments(self, rows: Tensor | None) -> dict[str, Any]:
        kwargs = self._subject.explanation_kwargs
        if rows is not None:
            kwargs = dict(zip(kwargs, chosen(tuple(kwargs.values()), rows, self._n), strict=True))
        arguments = {"target": self.targets(rows), **kwargs}
        if self._arguments:
            arguments["additional_forward_args"] = chosen(self._arguments, rows, self._n)
        return arguments

    def _output_at(
        self,
        x: Tensor,
        rows: Tensor | None,
        conditions: Callable[[], AbstractContextManager[Any]],
    ) -> Callable[[], Tensor]:
        """The output that came along with the explanation just made, or a way to compute it."""
        seen = self._forward.take() if self._output_comes_along else None

        def output() -> Tensor:
            if seen is not None:
                return seen
            with conditions():
                return self._subject.forward(x, *chosen(self._arguments, rows, self._n))

        return output


class _Remembering:
    """A forward function that can be asked for what it returned last."""

    def __init__(self, forward: Callable[..., Tensor]) -> None:
        self._forward = forward
        self._output: Tensor | None = None

    def __call__(self, *args: Any) -> Tensor:
        self._output = self._forward(args[0], *args[1:])
        return self._output

    def take(self) -> Tensor | None:
        """The last output, which is then forgotten."""
        output, self._output = self._output, None
        return output


def chosen(values: tuple[Any, ...], rows: Tensor | None, n_examples: int) -> tuple[Any, ...]:
    """The values for the examples ``rows``: of a tensor with a row per example these rows.

    Example:
        >>> import torch
        >>> from captum_robust.attacks._explained import chosen
        >>> chosen((torch.tensor([1, 2, 3]), "sum"), torch.tensor([2, 2]), 3)
        (tensor([3, 3]), 'sum')
    """
    if rows is None:
        return values

    def choose(value: Any) -> object:
        if isinstance(value, tuple):
            return tuple(map(choose, value))
        per_example = isinstance(value, Tensor) and value.dim() > 0 and len(value) == n_examples
        return value[rows.to(value.device)] if per_example else value

    return tuple(map(choose, values))

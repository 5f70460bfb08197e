"""Images as an attack sees them: where the explanation looks, and what the model says."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from captum.attr import Attribution, InputXGradient, Saliency
from torch import Tensor, nn

from captum_robust._utils.attributions import attribute_detached, draws_of, map_forward
from captum_robust._utils.checks import check_logits
from captum_robust._utils.forward import is_forward_of
from captum_robust._utils.relevance import normalized_relevance
from captum_robust._utils.user_warnings import warn_user
from captum_robust.attacks._constant_weights import constant_weights
from captum_robust.attr import (
    GuidedBackprop,
    PatternAttribution,
    RelevancePropagation,
    differentiable,
    softplus_activations,
)

_RUN_ONCE = (Saliency, InputXGradient, GuidedBackprop, RelevancePropagation, PatternAttribution)
"""Explanations that run the model once, on the very inputs."""


class Explained:
    """A batch of images as an attack sees it: where the explanation looks, what the model says."""

    def __init__(self, relevance: Tensor, output: Callable[[], Tensor]) -> None:
        self.relevance = relevance
        """Relevance maps, (N, H, W)."""
        self._compute_output = output
        self._output: Tensor | None = None

    @property
    def output(self) -> Tensor:
        """The model's logits, (N, classes); computed when first asked for."""
        if self._output is None:
            self._output = self._compute_output()
        return self._output


class ModelView:
    """The attacked model and its explanation, as functions of images in [0, 1]."""

    def __init__(
        self,
        model: nn.Module,
        get_logits: Callable[[Tensor], Tensor],
        explanation: Attribution,
        explanation_kwargs: dict[str, Any],
        images: Tensor,
        labels: Tensor | None,
        *,
        normalised: bool,
        generator: torch.Generator,
    ) -> None:
        self._get_logits, self._kwargs = get_logits, explanation_kwargs
        explains_model = is_forward_of(explanation.forward_func, model)
        if normalised and not explains_model:
            raise ValueError(
                "explanation: its forward_func is not the model, so set_normalization_used does "
                "not reach it. Put the normalisation into the model, or explain the model itself."
            )
        # These run the model once, on the very images: its output need not be computed again.
        runs_once = type(explanation) in _RUN_ONCE
        self._output_comes_along = explains_model and runs_once
        self._seen: Tensor | None = None
        if normalised or self._output_comes_along:
            explanation = map_forward(explanation, lambda _: self._logits)
        self._explanation, self._with_graph = explanation, differentiable(explanation)
        self._generator = generator
        self._draws = draws_of(explanation).from_generator and "generator" not in explanation_kwargs
        # Drawn only where it is used: an attack's own draws do not depend on a seed nobody needs.
        self._seed = (
            int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
            if self._draws
            else 0
        )
        with torch.no_grad():
            logits = get_logits(images)
        check_logits(logits, labels, images)
        # A copy, since autograd refuses to keep tensors that were made in inference mode.
        labels = logits.argmax(1) if labels is None else labels.clone()
        self.labels = labels.to(images.device, torch.int64)

    def explain(self, x: Tensor) -> Explained:
        """Explain ``x`` on the true model."""
        # Always by the same noise, if any, lest the luckiest draw win the search.
        again = torch.Generator(self._generator.device).manual_seed(self._seed)
        arguments = self._arguments(again)
        attributions = attribute_detached(self._explanation, x, **arguments)
        return Explained(normalized_relevance(attributions), self._output_at(x, torch.no_grad))

    def explain_surrogate(self, x: Tensor, beta: float) -> Explained:
        """Explain ``x`` on the model with its rectifiers smoothed, with a graph."""
        smoothed = partial(softplus_activations, beta)
        arguments = self._arguments(self._generator)
        with smoothed(), constant_weights():
            attributions = self._with_graph(x, **arguments)
        return Explained(normalized_relevance(attributions), self._output_at(x, smoothed))

    def _arguments(self, generator: torch.Generator) -> dict[str, Any]:
        noise = {"generator": generator} if self._draws else {}
        return {"target": self.labels, **self._kwargs, **noise}

    def _output_at(
        self, x: Tensor, conditions: Callable[[], AbstractContextManager[Any]]
    ) -> Callable[[], Tensor]:
        """The logits that came along with the explanation just made, or a way to compute them."""
        seen, self._seen = self._seen, None

        def output() -> Tensor:
            if seen is not None:
                return seen
            with conditions():
                return self._get_logits(x)

        return output

    def _logits(self, x: Tensor) -> Tensor:
        output = self._get_logits(x)
        if self._output_comes_along:
            self._seen = output
        return output


def check_relevance(relevance: Tensor) -> None:
    """Refuse explanations with NaN, and warn of those that are zero everywhere."""
    low, high = torch.stack(torch.aminmax(relevance.flatten(1).sum(1))).tolist()
    if not high < math.inf:
        raise ValueError("explanation has NaN or Inf for these images, so it cannot be attacked.")
    if low == 0:
        warn_user(
            "explanation is zero everywhere for at least one image: there is nothing to manipulate "
            "yet. A saturated network does this; explain logits in place of probabilities."
        )

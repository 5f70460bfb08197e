"""Images as an attack sees them: where the explanation looks, and what the model says."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from captum.attr import Attribution, InputXGradient, Saliency
from torch import Tensor, nn

from captum_robust._utils.captum import attribute_detached, is_forward_of, map_forward
from captum_robust._utils.checks import check_logits
from captum_robust._utils.relevance import normalized_relevance
from captum_robust.attr import differentiable


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
    ) -> None:
        self._model, self._get_logits = model, get_logits
        self._kwargs = explanation_kwargs
        self._explanation = map_forward(explanation, self._rebind)
        self._with_graph = differentiable(self._explanation)
        # These run the model once, on the very images: its output need not be computed again.
        self._output_comes_along = type(explanation) in (Saliency, InputXGradient)
        self._seen: Tensor | None = None
        with torch.no_grad():
            logits = get_logits(images)
        check_logits(logits, labels, images)
        # A copy, since autograd refuses to keep tensors that were made in inference mode.
        labels = logits.argmax(1) if labels is None else labels.clone()
        self.labels = labels.to(images.device, torch.int64)

    def explain(self, x: Tensor, with_graph: bool = False) -> Explained:
        """Explain ``x``; the model is as smooth as the caller makes it at this moment."""
        self._seen = None
        if with_graph:
            attributions = self._with_graph(x, target=self.labels, **self._kwargs)
        else:
            attributions = attribute_detached(
                self._explanation, x, target=self.labels, **self._kwargs
            )
        seen, self._seen = self._seen, None

        def output() -> Tensor:
            if seen is not None and self._output_comes_along:
                return seen
            with nullcontext() if with_graph else torch.no_grad():
                return self._get_logits(x)

        return Explained(normalized_relevance(attributions), output)

    def _rebind(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        if not is_forward_of(forward, self._model):
            return forward

        def logits(x: Tensor) -> Tensor:
            self._seen = self._get_logits(x)
            return self._seen

        return logits


def check_relevance(relevance: Tensor) -> None:
    """Refuse explanations with NaN, and warn of those that are zero everywhere."""
    low, high = torch.stack(torch.aminmax(relevance.flatten(1).sum(1))).tolist()
    if not high < math.inf:
        raise ValueError("explanation has NaN or Inf for these images, so it cannot be attacked.")
    if low == 0:
        warnings.warn(
            "explanation is zero everywhere for at least one image: there is nothing to manipulate "
            "yet. A saturated network does this; explain logits in place of probabilities.",
            UserWarning,
            stacklevel=5,
        )

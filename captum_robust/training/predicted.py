"""The number that is explained where no label says which: that of the prediction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from captum_robust._utils.forward import output_of
from captum_robust.outputs import Outputs, resolve


class PredictedScore:
    """A forward function for Captum: how much the model is for what it predicts at the inputs.

    The score of the predicted class, of class 0 or 1 of one logit, of the strongest of several
    labels, or the sum of the values that are predicted. What is predicted is fixed at the inputs,
    so that points beside them are explained for the same class.

    Args:
        model: In evaluation mode.
        inputs: (N, ...).
        more: What else the model takes; a tensor has a row per example.
        output: What the model's outputs mean; None: logits of two or more classes.

    Attributes:
        arguments: What to pass as ``additional_forward_args``, so that Captum repeats it with the
            examples.
    """

    def __init__(
        self, model: nn.Module, inputs: Tensor, more: tuple[Any, ...], output: Outputs | None
    ) -> None:
        with torch.no_grad():
            clean = output_of(model, inputs, *more)
        self._model, self._meaning = model, resolve(output, clean, len(inputs))
        self.arguments = (*more, self._meaning.predicted_target(clean))

    def __call__(self, inputs: Tensor, *arguments: Any) -> Tensor:
        """The score, one per row."""
        *more, predicted = arguments
        return self._meaning.score(output_of(self._model, inputs, *more), predicted)

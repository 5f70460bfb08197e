"""What an attack returns: per image, the best allowed iterate."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from captum_robust.attacks._explained import Explained


class Best:
    """Per image, the best allowed iterate so far. No value leaves the device."""

    def __init__(
        self,
        images: Tensor,
        score: Tensor,
        output: Tensor,
        labels: Tensor,
        eps_output: float | None,
    ) -> None:
        self.images = images
        self._score = score.detach()
        self._predicted = output.argmax(1)
        self._labels = labels.unsqueeze(1)
        self._logit = output.gather(1, self._labels)
        self._eps_output = math.inf if eps_output is None else eps_output
        self._met_nan = torch.zeros_like(self._score, dtype=torch.bool)

    def update(self, x: Tensor, score: Tensor, seen: Explained) -> None:
        """Keep what is better and allowed. No value leaves the device."""
        output = seen.output.detach()
        change = (output.gather(1, self._labels) - self._logit).abs().squeeze(1)
        better = (
            (score.detach() < self._score)
            & (output.argmax(1) == self._predicted)
            & (change <= self._eps_output)
            # An explanation that is zero everywhere shows nothing; that is not to show another.
            & (seen.relevance.flatten(1).sum(1) > 0)
        )
        self._met_nan |= score.isnan()
        self._score = torch.where(better, score.detach(), self._score)
        self.images = torch.where(better.view(-1, *[1] * (x.dim() - 1)), x, self.images)

    def warn_of_nan(self) -> None:
        """Say so where the search met NaN."""
        count = int(self._met_nan.sum())
        if count:
            warnings.warn(
                f"The explanation, or its gradient, became NaN for {count} of the images. What is "
                "returned for them is the best iterate before that. Look for square roots, "
                "divisions and logarithms at 0 in the model and the explanation.",
                UserWarning,
                stacklevel=4,
            )

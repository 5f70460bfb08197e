"""What an attack returns: per image, the best allowed iterate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from captum_robust._utils.user_warnings import warn_user
from captum_robust.attacks._explained import Explained


class Best:
    """Per image, the best allowed iterate so far."""

    def __init__(
        self,
        images: Tensor,
        clean: Explained,
        score: Tensor,
        labels: Tensor,
        eps_output: float | None,
    ) -> None:
        self.images = images
        self._score = score.detach()
        output = clean.output.detach()
        self._predicted = output.argmax(1)
        self._labels = labels.unsqueeze(1)
        self._logit = output.gather(1, self._labels)
        self._eps_output = math.inf if eps_output is None else eps_output
        self._met_nan = torch.zeros_like(self._score, dtype=torch.bool)
        # Where there is nothing to manipulate, as was said already, there is nothing to follow.
        self._blank = clean.relevance.flatten(1).sum(1) == 0
        self._followed: Tensor | None = None

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

    def note_gradient(self, gradient: Tensor) -> None:
        """Remember which images had something to follow."""
        followed = (gradient.flatten(1) != 0).any(1)
        self._followed = followed if self._followed is None else self._followed | followed

    def warn(self) -> None:
        """Say so where the search met NaN, or had no gradient to follow."""
        stuck = 0 if self._followed is None else int((~self._followed & ~self._blank).sum())
        if stuck:
            warn_user(
                f"The gradient of the surrogate's objective was zero for {stuck} of the images, so "
                "the attack could not search; this is no sign of robustness. Either nothing can "
                "change the explanation (a linear model), or the model spells its rectifiers in a "
                "way that cannot be smoothed (see softplus_activations)."
            )
        count = int(self._met_nan.sum())
        if count:
            warn_user(
                f"The explanation, or its gradient, became NaN for {count} of the images. What is "
                "returned for them is the best iterate before that. Look for square roots, "
                "divisions and logarithms at 0 in the model and the explanation."
            )

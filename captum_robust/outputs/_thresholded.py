"""Logits, each with a threshold."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from captum_robust._utils.checks import check_finite
from captum_robust.outputs.base import Outputs


@dataclass(frozen=True)
class Thresholded(Outputs):
    """Base of outputs that mean yes above a threshold."""

    threshold: float = 0.0

    def __post_init__(self) -> None:
        check_finite(threshold=self.threshold)

    def label_loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy of each logit above its threshold, in sum."""
        logits, wanted = output - self.threshold, labels.to(output).view_as(output)
        loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        return loss.flatten(1).sum(1) if loss.dim() > 1 else loss


def bernoulli_divergence(wanted: Tensor, given: Tensor) -> Tensor:
    """KL(Ber(sigmoid(wanted)) || Ber(sigmoid(given))), in logarithms that never overflow."""
    p = wanted.sigmoid()
    yes = F.logsigmoid(wanted) - F.logsigmoid(given)
    no = F.logsigmoid(-wanted) - F.logsigmoid(-given)
    return p * yes + (-wanted).sigmoid() * no


def zeros_and_ones(labels: Tensor) -> bool:
    """Whether nothing else is among ``labels``."""
    return bool(((labels == 0) | (labels == 1)).all())

"""Outputs with a column for each class, label or value."""

from __future__ import annotations

import torch
from torch import Tensor


def column(output: Tensor, index: Tensor) -> Tensor:
    """The number of each row at its index, (N,)."""
    return output.gather(1, index.to(output.device).view(-1, 1).expand(len(output), 1)).squeeze(1)


def check_columns(labels: Tensor, output: Tensor) -> Tensor:
    """Labels as indices of columns; raise ValueError unless they are."""
    if not bool(((labels >= 0) & (labels < output.shape[1])).all()):
        raise ValueError(
            f"labels must be classes of the model, 0 to {output.shape[1] - 1}, got "
            f"{labels.min().item()} to {labels.max().item()}."
        )
    return labels.to(output.device, torch.int64)


def remedy(output: Tensor) -> str:
    """What to do with an output of another shape."""
    if output.dim() > 2:
        return (
            "For a map of classes (segmentation) wrap the model in a module that returns one "
            "row per example, such as the mean over positions: output.flatten(2).mean(2)."
        )
    return "Use Binary or Regression for one number per example."

"""Labels, as what the outputs of a model mean has them: which ones fit, and their loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_robust.outputs import (
    Binary,
    Categorical,
    MultiLabel,
    Outputs,
    Regression,
    resolve,
)
from captum_robust.training.batch import Batch

_CLASSES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

_WANTED: dict[type[Outputs], str] = {
    Categorical: "labels of integer classes, shape (N,)",
    Binary: "labels 0 and 1, shape (N,) or (N, 1)",
    MultiLabel: "labels 0 and 1 in the shape of the outputs, (N, labels)",
    Regression: "labels that are the values, in the shape of the outputs",
}


def labels_fit(labels: Tensor, given: Tensor, meaning: Outputs) -> bool:
    """Whether these are labels that the outputs can be compared with."""
    if isinstance(meaning, Categorical):
        return labels.dtype in _CLASSES and labels.shape == (len(given),)
    if isinstance(meaning, Binary):
        return labels.numel() == len(given) and _zeros_and_ones(labels)
    if isinstance(meaning, MultiLabel):
        return labels.shape == given.shape and _zeros_and_ones(labels)
    return not isinstance(meaning, Regression) or labels.numel() == given.numel()


def _zeros_and_ones(labels: Tensor) -> bool:
    return bool(((labels == 0) | (labels == 1)).all())


def need_labels(batch: Batch, who: str, output: Outputs | None) -> Tensor:
    """The labels of a batch.

    Args:
        batch: Of any loader.
        who: Needs them.
        output: What the model's outputs mean; None: logits of two or more classes, so that labels
            are classes.

    Raises:
        ValueError: The loader gives inputs alone, or labels that are no classes.
    """
    labels, meaning = batch.labels, Categorical() if output is None else output
    lacks = labels is None
    if labels is not None and isinstance(meaning, Categorical):
        lacks = labels.dtype not in _CLASSES or labels.shape != batch.inputs.shape[:1]
    if labels is None or lacks:
        raise ValueError(f"loader must yield (inputs, labels) for {who}, with {_wanted(meaning)}.")
    return labels.long() if isinstance(meaning, Categorical) else labels


def _wanted(meaning: Outputs) -> str:
    return next((w for kind, w in _WANTED.items() if isinstance(meaning, kind)), "its labels")


def label_loss(given: Tensor, labels: Tensor, output: Outputs | None) -> Tensor:
    """The loss of a model on labels, (N,).

    Cross-entropy for classes, for one logit above its threshold and for each of several labels, in
    sum; the squared distance in units of the tolerance, halved, for values: the negative
    log-likelihood of each but for a constant.

    Raises:
        ValueError: The model gives one number per example and ``output`` is None, or the labels are
            of another kind.
        TypeError: The loss of outputs of your own is not known here.
    """
    meaning = resolve(output, given, len(given))
    if not labels_fit(labels, given, meaning):
        raise ValueError(
            f"loader must yield (inputs, labels), with {_wanted(meaning)}, got {labels.dtype} of "
            f"shape {tuple(labels.shape)}."
        )
    if isinstance(meaning, Categorical):
        return F.cross_entropy(given, labels.long(), reduction="none")
    if isinstance(meaning, (Binary, MultiLabel)):
        logits, wanted = given - meaning.threshold, labels.to(given).view_as(given)
        loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        return loss.flatten(1).sum(1) if loss.dim() > 1 else loss
    if isinstance(meaning, Regression):
        return meaning.imitation_loss(given, labels.to(given).view_as(given))
    raise TypeError(
        f"output: the loss of {type(meaning).__name__} on labels is not known. Write the objective "
        "as a function of student, teacher and batch, or use one that needs no labels."
    )

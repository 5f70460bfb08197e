"""Labels, as what the outputs of a model mean has them: which ones fit, and their loss."""

from __future__ import annotations

from torch import Tensor

from captum_robust.outputs import Categorical, Outputs, resolve
from captum_robust.training.batch import Batch


def need_labels(batch: Batch, who: str, output: Outputs | None) -> Tensor:
    """The labels of a batch.

    Args:
        batch: Of any loader.
        who: Needs them.
        output: What the model's outputs mean; None: logits of two or more classes, so that labels
            are classes.

    Raises:
        ValueError: The loader gives inputs alone, or labels that are not classes.
    """
    labels, meaning = batch.labels, Categorical() if output is None else output
    # The output is not known yet; whether labels are classes can be seen without it.
    classes = isinstance(meaning, Categorical)
    if labels is None or (classes and not meaning.labels_fit(labels, batch.inputs)):
        wanted = meaning.wanted_labels
        raise ValueError(f"loader must yield (inputs, labels) for {who}, with {wanted}.")
    return labels.long() if classes else labels


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
    if not meaning.labels_fit(labels, given):
        raise ValueError(
            f"loader must yield (inputs, labels), with {meaning.wanted_labels}, got {labels.dtype} "
            f"of shape {tuple(labels.shape)}."
        )
    return meaning.label_loss(given, labels)

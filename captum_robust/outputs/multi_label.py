"""A logit for each of several labels."""

from __future__ import annotations

from torch import Tensor

from captum_robust.outputs._columns import check_columns, column, remedy
from captum_robust.outputs._thresholded import Thresholded, bernoulli_divergence, zeros_and_ones


class MultiLabel(Thresholded):
    r"""A logit per label, of which several may be above the threshold: the set is the prediction.

    :meth:`imitation_loss` is that of :class:`Binary`, summed over the labels.

    Args:
        threshold: See :class:`Binary`.

    Example:
        >>> import torch
        >>> from captum_robust.outputs import MultiLabel
        >>> MultiLabel().prediction(torch.tensor([[2.0, -1.0, 0.5]]))
        tensor([[ True, False,  True]])
    """

    wanted_labels = "labels 0 and 1 in the shape of the outputs, (N, labels)"

    def check(self, output: Tensor, n_examples: int) -> None:
        """Raise ValueError unless ``output`` is (N, labels)."""
        super().check(output, n_examples)
        if output.dim() != 2:
            raise ValueError(
                f"model must return a logit per label, shape ({n_examples}, labels), got "
                f"{tuple(output.shape)}. {remedy(output)}"
            )

    def prediction(self, output: Tensor) -> Tensor:
        """Which labels are above the threshold, (N, labels) booleans."""
        return output > self.threshold

    def same(self, clean: Tensor, new: Tensor) -> Tensor:
        """Whether the sets of labels are equal."""
        return (self.prediction(clean) == self.prediction(new)).all(1)

    def score(self, output: Tensor, target: Tensor | None = None) -> Tensor:
        """The logit of the label ``target``, (N,); None: of the strongest label."""
        return column(output, output.argmax(1) if target is None else target)

    def imitation_loss(self, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
        """KL divergence from the softened teacher, summed over labels, in nats, (N,)."""
        wanted = self.threshold + (teacher - self.threshold) / temperature
        return bernoulli_divergence(wanted, student).sum(1)

    def target(self, output: Tensor, labels: Tensor | None = None) -> Tensor | None:
        """The label to explain, (N,): the strongest where ``labels`` is None."""
        return output.argmax(1) if labels is None else check_columns(labels, output)

    def confidence(self, output: Tensor, target: Tensor | None = None) -> Tensor:
        """The probability of the label, (N,)."""
        return self.score(output, target).sigmoid()

    def comparable(self, output: Tensor) -> Tensor:
        """The probability of each label, (N, labels)."""
        return output.sigmoid()

    def correct(self, output: Tensor, labels: Tensor) -> Tensor:
        """Whether the whole set is that of ``labels``, (N, labels) of 0 and 1."""
        return (self.prediction(output) == (labels.to(output.device) > 0)).all(1)

    def keeps(self, new: Tensor, clean: Tensor, target: Tensor | None = None) -> Tensor:
        """Whether the label ``target`` is on the side of the threshold where it was, (N,)."""
        watched = clean.argmax(1) if target is None else target
        return column(self.prediction(new), watched) == column(self.prediction(clean), watched)

    def labels_fit(self, labels: Tensor, output: Tensor) -> bool:
        """Whether ``labels`` are 0 and 1, in the shape of ``output``."""
        return labels.shape == output.shape and zeros_and_ones(labels)

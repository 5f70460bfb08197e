"""One logit for two classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_robust.outputs._thresholded import Thresholded, bernoulli_divergence, zeros_and_ones


class Binary(Thresholded):
    r"""One logit z, (N, 1) or (N,): class 1 where z is above the threshold, else class 0.

    A model of this kind gives the same results as one with the two logits -z/2 and z/2.
    :meth:`imitation_loss` is the divergence of two Bernoulli distributions,

    .. math:: \mathrm{KL}(\mathrm{Ber}(\sigma(t + (f - t) / T)) \,\|\, \mathrm{Ber}(\sigma(g)))

    with the threshold t, so that softening never changes the class.

    Args:
        threshold: In units of the output.

    Raises:
        ValueError: ``threshold`` is not finite.

    Example:
        >>> import torch
        >>> from captum_robust.outputs import Binary
        >>> Binary().prediction(torch.tensor([[2.0], [-1.0]]))
        tensor([1, 0])
    """

    has_classes = True
    wanted_labels = "labels 0 and 1, shape (N,) or (N, 1)"

    def check(self, output: Tensor, n_examples: int) -> None:
        """Raise ValueError unless ``output`` is (N, 1) or (N,)."""
        super().check(output, n_examples)
        if output.shape not in ((n_examples,), (n_examples, 1)):
            raise ValueError(
                f"model must return one logit for each of {n_examples} examples, shape "
                f"({n_examples}, 1) or ({n_examples},), got {tuple(output.shape)}. Use Categorical "
                "for the logits of several classes, MultiLabel for labels that can occur together."
            )

    def prediction(self, output: Tensor) -> Tensor:
        """1 above the threshold and 0 elsewhere, (N,)."""
        return (output.flatten() > self.threshold).long()

    def same(self, clean: Tensor, new: Tensor) -> Tensor:
        """Whether both are on the same side of the threshold."""
        return (clean.flatten() > self.threshold) == (new.flatten() > self.threshold)

    def score(self, output: Tensor, target: Tensor | None = None) -> Tensor:
        """The logit, with a minus where ``target`` is 0, (N,); None: the predicted class."""
        return output.flatten() * self._sign(output, target)

    def imitation_loss(self, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
        """KL divergence from the softened teacher, in nats, (N,)."""
        wanted = self.threshold + (teacher.flatten() - self.threshold) / temperature
        return bernoulli_divergence(wanted, student.flatten())

    def target(self, output: Tensor, labels: Tensor | None = None) -> Tensor | None:
        """None, since there is one output; the explanation of class 0 is minus that of class 1."""
        if labels is not None and not bool(((labels == 0) | (labels == 1)).all()):
            raise ValueError(
                f"labels must be 0 or 1 for one logit, got {labels.min().item()} to "
                f"{labels.max().item()}."
            )
        return None

    def watched(self, clean: Tensor, labels: Tensor | None = None) -> Tensor | None:
        """The class 0 or 1, (N,), in ``labels`` or predicted."""
        self.target(clean, labels)
        return self.prediction(clean) if labels is None else labels.to(clean.device).flatten()

    def confidence(self, output: Tensor, target: Tensor | None = None) -> Tensor:
        """The probability of the class, (N,)."""
        return self.score(output, target).sigmoid()

    def comparable(self, output: Tensor) -> Tensor:
        """The probabilities of both classes, (N, 2)."""
        z = output.flatten()
        return torch.stack([(-z).sigmoid(), z.sigmoid()], dim=1)

    def correct(self, output: Tensor, labels: Tensor) -> Tensor:
        """Whether the class is that of ``labels``, (N,) or (N, 1)."""
        return self.prediction(output) == labels.to(output.device).flatten()

    def keeps(self, new: Tensor, clean: Tensor, target: Tensor | None = None) -> Tensor:
        """Whether ``target`` is the predicted class, (N,)."""
        return self.prediction(new) == (self.prediction(clean) if target is None else target)

    def class_scores(self, output: Tensor) -> Tensor:
        """1 at the predicted class and 0 at the other, (N, 2)."""
        return F.one_hot(self.prediction(output), 2).to(output.dtype)

    def labels_fit(self, labels: Tensor, output: Tensor) -> bool:
        """Whether ``labels`` are 0 and 1, one for each example."""
        return labels.numel() == len(output) and zeros_and_ones(labels)

    def _sign(self, output: Tensor, target: Tensor | None) -> Tensor:
        classes = self.prediction(output) if target is None else target.to(output.device)
        return (2 * classes.flatten() - 1).to(output.dtype)

"""Logits of two or more classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from captum_robust._utils.checks import INTEGERS
from captum_robust.outputs._columns import check_columns, column, remedy
from captum_robust.outputs.base import Outputs


@dataclass(frozen=True)
class Categorical(Outputs):
    r"""Logits of two or more classes, of which the largest is the prediction.

    :meth:`imitation_loss` is :math:`\mathrm{KL}(\mathrm{softmax}(f / T) \,\|\,
    \mathrm{softmax}(g))`: the temperature softens the teacher alone (Tang et al. 2021).

    Example:
        >>> import torch
        >>> from captum_robust.outputs import Categorical
        >>> output = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> Categorical().prediction(output)
        tensor([0, 1])
        >>> Categorical().imitation_loss(output / 4, output, temperature=4.0)
        tensor([0., 0.])
    """

    has_classes = True
    wanted_labels = "labels of integer classes, shape (N,)"

    def check(self, output: Tensor, n_examples: int) -> None:
        """Raise ValueError unless ``output`` is (N, classes) with two or more classes."""
        super().check(output, n_examples)
        if output.dim() != 2 or output.shape[1] < 2:
            raise ValueError(
                f"model must return logits of shape ({n_examples}, classes) for {n_examples} "
                f"examples, got {tuple(output.shape)}. {remedy(output)}"
            )

    def prediction(self, output: Tensor) -> Tensor:
        """The class of the largest logit, (N,)."""
        return output.argmax(1)

    def same(self, clean: Tensor, new: Tensor) -> Tensor:
        """Whether the classes are equal."""
        return clean.argmax(1) == new.argmax(1)

    def score(self, output: Tensor, target: Tensor | None = None) -> Tensor:
        """The logit of the class ``target``, (N,); None: of the predicted class."""
        return column(output, self.prediction(output) if target is None else target)

    def imitation_loss(self, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
        """KL divergence from the softened teacher, in nats, (N,)."""
        given, wanted = F.log_softmax(student, dim=1), F.log_softmax(teacher / temperature, dim=1)
        return F.kl_div(given, wanted, reduction="none", log_target=True).sum(1)

    def target(self, output: Tensor, labels: Tensor | None = None) -> Tensor | None:
        """The class to explain, (N,)."""
        if labels is None:
            return self.prediction(output)
        return check_columns(labels, output)

    def confidence(self, output: Tensor, target: Tensor | None = None) -> Tensor:
        """The softmax probability of the class, (N,)."""
        return column(output.softmax(1), self.prediction(output) if target is None else target)

    def comparable(self, output: Tensor) -> Tensor:
        """Softmax probabilities, (N, classes)."""
        return output.softmax(1)

    def correct(self, output: Tensor, labels: Tensor) -> Tensor:
        """Whether the class is that of ``labels``, (N,)."""
        return self.prediction(output) == labels.to(output.device)

    def keeps(self, new: Tensor, clean: Tensor, target: Tensor | None = None) -> Tensor:
        """Whether ``target`` is the predicted class, (N,)."""
        return self.prediction(new) == (self.prediction(clean) if target is None else target)

    def labels_fit(self, labels: Tensor, output: Tensor) -> bool:
        """Whether ``labels`` are integers, (N,)."""
        return labels.dtype in INTEGERS and labels.shape == (len(output),)

    def label_loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy."""
        return F.cross_entropy(output, labels.long(), reduction="none")

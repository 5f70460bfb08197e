"""What every kind of outputs answers; the base of your own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor


class Outputs(ABC):
    """What a model's outputs mean; the base of your own.

    Abstract are :meth:`prediction`, :meth:`same`, :meth:`score` and :meth:`imitation_loss`. The
    other methods have a default that a subclass may replace.
    """

    has_classes: ClassVar[bool] = False
    """Whether a prediction is one of several classes, which can be counted."""

    wanted_labels: ClassVar[str] = "its labels"
    """Which labels a loader must give, in words."""

    def check(self, output: Tensor, n_examples: int) -> None:
        """Raise ValueError unless ``output`` has a shape that this object can read.

        Args:
            output: The model's output for ``n_examples`` examples.
            n_examples: How many examples there are.
        """
        if output.dim() == 0 or len(output) != n_examples:
            raise ValueError(
                f"model must return a row per example, {n_examples} of them, got shape "
                f"{tuple(output.shape)}."
            )

    @abstractmethod
    def prediction(self, output: Tensor) -> Tensor:
        """What the model predicts, (N,) or (N, ...)."""

    @abstractmethod
    def same(self, clean: Tensor, new: Tensor) -> Tensor:
        """Whether two outputs give the same prediction, (N,) booleans."""

    @abstractmethod
    def score(self, output: Tensor, target: Tensor | None = None) -> Tensor:
        """The number that is explained, (N,): the larger, the more the output is for ``target``."""

    @abstractmethod
    def imitation_loss(self, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
        """How far a student's output is from the softened one of its teacher, (N,)."""

    def target(self, output: Tensor, labels: Tensor | None = None) -> Tensor | None:
        """Captum's ``target`` for ``labels``, or for what is predicted where ``labels`` is None.

        Raises:
            ValueError: ``labels`` names no output of the model.
        """
        return labels

    def watched(self, clean: Tensor, labels: Tensor | None = None) -> Tensor | None:
        """The target that a curve follows, for :meth:`confidence` and :meth:`keeps`.

        By default :meth:`target`: what ``labels`` name, or what is predicted.
        """
        return self.target(clean, labels)

    def confidence(self, output: Tensor, target: Tensor | None = None) -> Tensor:
        """A probability of ``target``, (N,), or another number that a curve can show."""
        return self.score(output, target)

    def comparable(self, output: Tensor) -> Tensor:
        """The output as numbers whose squared distance says how much a prediction moved."""
        return output

    def correct(self, output: Tensor, labels: Tensor) -> Tensor:
        """Whether the prediction is the true one, (N,) booleans: accuracy is their mean."""
        found = self.prediction(output)
        right = found == labels.to(found.device).view_as(found)
        return right.reshape(len(right), -1).all(1)

    def keeps(self, new: Tensor, clean: Tensor, target: Tensor | None = None) -> Tensor:
        """Whether ``new`` still predicts what a curve watches, (N,); by default :meth:`same`."""
        return self.same(clean, new)

    def predicted_target(self, output: Tensor) -> Tensor | None:
        """The target of the :meth:`score` of what is predicted; by default :meth:`watched`."""
        return self.watched(output)

    def class_scores(self, output: Tensor) -> Tensor:
        """A row for each example, (N, classes), whose largest number is at the predicted class."""
        return output

    def labels_fit(self, labels: Tensor, output: Tensor) -> bool:
        """Whether ``labels`` are labels that ``output`` can be compared with."""
        return True

    def label_loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """The loss of an output on its labels, (N,), which must fit.

        Raises:
            TypeError: It is not known; a subclass can define it.
        """
        raise TypeError(
            f"output: the loss of {type(self).__name__} on labels is not known. Write the "
            "objective as a function of student, teacher and batch, or take one without labels."
        )

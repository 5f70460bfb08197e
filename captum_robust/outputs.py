r"""What the outputs of a model mean: what an attack must keep, and what a student must imitate.

Attacks, trainers and metrics ask one object what a model says about its inputs. ``None`` stands for
:class:`Categorical` where a model has two or more outputs; a model with one output needs the
object, since one number may be the logit of a class or a value that is predicted.

===========================  ================================  ==================================
object                       model's output                    the prediction, which is kept
===========================  ================================  ==================================
:class:`Categorical`         (N, classes) logits               the class of the largest logit
:class:`Binary`              (N, 1) or (N,), one logit         class 1 above the threshold
:class:`MultiLabel`          (N, labels) logits                the set of labels above it
:class:`Regression`          (N,), (N, 1) or (N, values)       the values, within a tolerance
===========================  ================================  ==================================

For outputs of another kind subclass :class:`Outputs`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_robust._utils.checks import check_finite, check_positive

__all__ = ["Binary", "Categorical", "MultiLabel", "Outputs", "Regression", "resolve"]


class Outputs(ABC):
    """What a model's outputs mean; the base of your own.

    Abstract are :meth:`prediction`, :meth:`same`, :meth:`score` and :meth:`imitation_loss`. The
    other methods have a default that a subclass may replace.
    """

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

    def check(self, output: Tensor, n_examples: int) -> None:
        """Raise ValueError unless ``output`` is (N, classes) with two or more classes."""
        super().check(output, n_examples)
        if output.dim() != 2 or output.shape[1] < 2:
            raise ValueError(
                f"model must return logits of shape ({n_examples}, classes) for {n_examples} "
                f"examples, got {tuple(output.shape)}. {_remedy(output)}"
            )

    def prediction(self, output: Tensor) -> Tensor:
        """The class of the largest logit, (N,)."""
        return output.argmax(1)

    def same(self, clean: Tensor, new: Tensor) -> Tensor:
        """Whether the classes are equal."""
        return clean.argmax(1) == new.argmax(1)

    def score(self, output: Tensor, target: Tensor | None = None) -> Tensor:
        """The logit of the class ``target``, (N,); None: of the predicted class."""
        return _column(output, self.prediction(output) if target is None else target)

    def imitation_loss(self, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
        """KL divergence from the softened teacher, in nats, (N,)."""
        given, wanted = F.log_softmax(student, dim=1), F.log_softmax(teacher / temperature, dim=1)
        return F.kl_div(given, wanted, reduction="none", log_target=True).sum(1)

    def target(self, output: Tensor, labels: Tensor | None = None) -> Tensor | None:
        """The class to explain, (N,)."""
        if labels is None:
            return self.prediction(output)
        return _check_columns(labels, output)

    def confidence(self, output: Tensor, target: Tensor | None = None) -> Tensor:
        """The softmax probability of the class, (N,)."""
        return _column(output.softmax(1), self.prediction(output) if target is None else target)

    def comparable(self, output: Tensor) -> Tensor:
        """Softmax probabilities, (N, classes)."""
        return output.softmax(1)

    def correct(self, output: Tensor, labels: Tensor) -> Tensor:
        """Whether the class is that of ``labels``, (N,)."""
        return self.prediction(output) == labels.to(output.device)

    def keeps(self, new: Tensor, clean: Tensor, target: Tensor | None = None) -> Tensor:
        """Whether ``target`` is the predicted class, (N,)."""
        return self.prediction(new) == (self.prediction(clean) if target is None else target)


@dataclass(frozen=True)
class Binary(Outputs):
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

    threshold: float = 0.0

    def __post_init__(self) -> None:
        check_finite(threshold=self.threshold)

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
        return _bernoulli_divergence(wanted, student.flatten())

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

    def _sign(self, output: Tensor, target: Tensor | None) -> Tensor:
        classes = self.prediction(output) if target is None else target.to(output.device)
        return (2 * classes.flatten() - 1).to(output.dtype)


@dataclass(frozen=True)
class MultiLabel(Outputs):
    r"""A logit per label, of which several may be above the threshold: the set is the prediction.

    :meth:`imitation_loss` is that of :class:`Binary`, summed over the labels.

    Args:
        threshold: In units of the output.

    Raises:
        ValueError: ``threshold`` is not finite.

    Example:
        >>> import torch
        >>> from captum_robust.outputs import MultiLabel
        >>> MultiLabel().prediction(torch.tensor([[2.0, -1.0, 0.5]]))
        tensor([[ True, False,  True]])
    """

    threshold: float = 0.0

    def __post_init__(self) -> None:
        check_finite(threshold=self.threshold)

    def check(self, output: Tensor, n_examples: int) -> None:
        """Raise ValueError unless ``output`` is (N, labels)."""
        super().check(output, n_examples)
        if output.dim() != 2:
            raise ValueError(
                f"model must return a logit per label, shape ({n_examples}, labels), got "
                f"{tuple(output.shape)}. {_remedy(output)}"
            )

    def prediction(self, output: Tensor) -> Tensor:
        """Which labels are above the threshold, (N, labels) booleans."""
        return output > self.threshold

    def same(self, clean: Tensor, new: Tensor) -> Tensor:
        """Whether the sets of labels are equal."""
        return (self.prediction(clean) == self.prediction(new)).all(1)

    def score(self, output: Tensor, target: Tensor | None = None) -> Tensor:
        """The logit of the label ``target``, (N,); None: of the strongest label."""
        return _column(output, output.argmax(1) if target is None else target)

    def imitation_loss(self, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
        """KL divergence from the softened teacher, summed over labels, in nats, (N,)."""
        wanted = self.threshold + (teacher - self.threshold) / temperature
        return _bernoulli_divergence(wanted, student).sum(1)

    def target(self, output: Tensor, labels: Tensor | None = None) -> Tensor | None:
        """The label to explain, (N,): the strongest where ``labels`` is None."""
        return output.argmax(1) if labels is None else _check_columns(labels, output)

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
        return _column(self.prediction(new), watched) == _column(self.prediction(clean), watched)


@dataclass(frozen=True)
class Regression(Outputs):
    r"""Values, which count as the same prediction while they stay within a tolerance.

    :meth:`imitation_loss` is the divergence of two normal distributions whose variance is the
    squared tolerance s times the temperature,

    .. math:: \mathrm{KL}(N(f, T s^2) \,\|\, N(g, T s^2)) = (g - f)^2 / (2 T s^2).

    Args:
        tolerance: Largest change of a value that leaves the prediction as it is, in its units.

    Raises:
        ValueError: ``tolerance`` is not positive and finite.

    Example:
        >>> import torch
        >>> from captum_robust.outputs import Regression
        >>> clean, new = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.04], [2.2]])
        >>> Regression(tolerance=0.1).same(clean, new)
        tensor([ True, False])
    """

    tolerance: float

    def __post_init__(self) -> None:
        check_positive(tolerance=self.tolerance)

    def check(self, output: Tensor, n_examples: int) -> None:
        """Raise ValueError unless ``output`` is (N,) or (N, values)."""
        super().check(output, n_examples)
        if output.dim() > 2:
            raise ValueError(
                f"model must return values of shape ({n_examples},) or ({n_examples}, values), got "
                f"{tuple(output.shape)}. {_remedy(output)}"
            )

    def prediction(self, output: Tensor) -> Tensor:
        """The values themselves, (N,) or (N, values)."""
        return output.flatten() if output[0].numel() == 1 else output

    def same(self, clean: Tensor, new: Tensor) -> Tensor:
        """Whether no value moved by more than the tolerance."""
        return ((new - clean).abs() <= self.tolerance).reshape(len(clean), -1).all(1)

    def score(self, output: Tensor, target: Tensor | None = None) -> Tensor:
        """The value of index ``target``, (N,); None: the only one, or the sum of several."""
        if target is None or output.dim() == 1:
            return output.reshape(len(output), -1).sum(1)
        return _column(output, target)

    def imitation_loss(self, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
        """Squared distance in units of the tolerance, (N,)."""
        apart = (student - teacher.view_as(student)).reshape(len(student), -1).square().sum(1)
        return apart / (2 * temperature * self.tolerance**2)

    def target(self, output: Tensor, labels: Tensor | None = None) -> Tensor | None:
        """None for one value, else the index in ``labels``, (N,)."""
        if output[0].numel() == 1:
            return None
        if labels is None:
            raise ValueError(
                f"labels: the model predicts {output.shape[1]} values per example, so say which "
                "one is explained: labels=torch.full((N,), index)."
            )
        return _check_columns(labels, output)

    def comparable(self, output: Tensor) -> Tensor:
        """The values in units of the tolerance, (N, values)."""
        return output.reshape(len(output), -1) / self.tolerance

    def correct(self, output: Tensor, labels: Tensor) -> Tensor:
        """Whether all values are within the tolerance of ``labels``, (N,)."""
        return self.same(labels.to(output).view_as(output), output)

    def keeps(self, new: Tensor, clean: Tensor, target: Tensor | None = None) -> Tensor:
        """Whether the value that is watched stays within the tolerance, (N,)."""
        return (self.score(new, target) - self.score(clean, target)).abs() <= self.tolerance


def resolve(outputs: Outputs | None, output: Tensor, n_examples: int) -> Outputs:
    """The given object, or ``Categorical`` for two or more outputs; the output's shape is checked.

    Args:
        outputs: What the user said, or None.
        output: The model's output for ``n_examples`` examples.
        n_examples: How many examples there are.

    Raises:
        TypeError: ``outputs`` is not an :class:`Outputs`.
        ValueError: ``output`` has another shape, or one number per example whose meaning was not
            said.
    """
    if outputs is None:
        if output.shape in ((n_examples,), (n_examples, 1)):
            raise ValueError(
                "output: the model gives one number per example, which can mean several things. "
                "Say which: output=outputs.Binary() for the logit of class 1, "
                "outputs.Regression(tolerance=...) for a value (from captum_robust import outputs)."
            )
        outputs = Categorical()
    elif not isinstance(outputs, Outputs):
        given = outputs.__name__ + " itself" if isinstance(outputs, type) else repr(outputs)
        raise TypeError(
            f"output must be an object of captum_robust.outputs, such as Binary(), got {given}."
        )
    outputs.check(output, n_examples)
    return outputs


def _bernoulli_divergence(wanted: Tensor, given: Tensor) -> Tensor:
    """KL(Ber(sigmoid(wanted)) || Ber(sigmoid(given))), in logarithms that never overflow."""
    p = wanted.sigmoid()
    yes = F.logsigmoid(wanted) - F.logsigmoid(given)
    no = F.logsigmoid(-wanted) - F.logsigmoid(-given)
    return p * yes + (-wanted).sigmoid() * no


def _column(output: Tensor, index: Tensor) -> Tensor:
    return output.gather(1, index.to(output.device).view(-1, 1).expand(len(output), 1)).squeeze(1)


def _check_columns(labels: Tensor, output: Tensor) -> Tensor:
    if not bool(((labels >= 0) & (labels < output.shape[1])).all()):
        raise ValueError(
            f"labels must be classes of the model, 0 to {output.shape[1] - 1}, got "
            f"{labels.min().item()} to {labels.max().item()}."
        )
    return labels.to(output.device, torch.int64)


def _remedy(output: Tensor) -> str:
    if output.dim() > 2:
        return (
            "For a map of classes (segmentation) wrap the model in a module that returns one "
            "row per example, such as the mean over positions: output.flatten(2).mean(2)."
        )
    return "Use Binary or Regression for one number per example."

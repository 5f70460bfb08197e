"""What a trainer minimises: the parts of a loss, as a function of student, teacher and batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from captum_robust._utils.checks import check_count, check_positive
from captum_robust._utils.model_state import preserve_model
from captum_robust._utils.sound_gradients import sound_gradients
from captum_robust.outputs import Categorical, Outputs, resolve
from captum_robust.training.batch import Batch
from captum_robust.training.labels import label_loss, need_labels

Parts = dict[str, Tensor]


class Objective(Protocol):
    """A function of student, frozen teacher and batch that gives the summands of the loss by name.

    It calls ``student``, which a distributed run wraps, not the model beneath. An attribute
    ``second_order`` that is true says that it differentiates gradients, which distributed training
    cannot; ``evaluation_mode``, that the student stays in evaluation mode while it is trained; and
    ``output`` what the model's outputs mean.
    """

    def __call__(self, student: nn.Module, teacher: nn.Module, batch: Batch) -> Parts:
        """The summands of the loss, scalars with a graph."""
        ...


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    r"""How far the student's probabilities are from the teacher's softened ones.

    .. math:: L(g, f) = \mathrm{KL}\big(\mathrm{softmax}(f / T) \,\|\, \mathrm{softmax}(g)\big)

    The temperature softens the teacher alone, as in the published code of Tang et al. (2021): at
    the minimum g is f / T but for a constant, so classes stay and confidence falls; T = 1 keeps
    both. The gradient with respect to the student is that of the cross-entropy.

    Args:
        student: Logits, (N, classes).
        teacher: Logits, (N, classes).
        temperature: T, 1 or more softens.

    Returns:
        (N,), in nats, 0 where they agree.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> distillation_loss(logits / 4, logits, temperature=4.0)
        tensor([0.])
    """
    return Categorical().imitation_loss(student, teacher, temperature)


def unwrapped(student: nn.Module) -> nn.Module:
    """The model beneath the wrapper of a distributed run."""
    return student.module if isinstance(student, DistributedDataParallel) else student


class Imitation:
    r"""How far a student's output is from the softened output of its teacher, :math:`L(g, f)`.

    The loss of :class:`Distillation` and :class:`ATEX`: the divergence of what the outputs mean,
    see ``imitation_loss`` of :mod:`captum_robust.outputs`; :func:`distillation_loss` for logits of
    two or more classes.

    Args:
        temperature: Softens the teacher.
        output: What the model's outputs mean; None: logits of two or more classes.

    Raises:
        ValueError: ``temperature`` is not positive; when called, the model gives one number per
            example and ``output`` is None.
    """

    def __init__(self, temperature: float = 4.0, output: Outputs | None = None) -> None:
        check_positive(temperature=temperature)
        self.temperature, self.output = temperature, output

    def __repr__(self) -> str:
        return f"Imitation(temperature={self.temperature}, output={self.output})"

    def __call__(self, given: Tensor, wanted: Tensor) -> Tensor:
        """The loss of each row, (N,)."""
        meaning = resolve(self.output, given, len(given))
        return meaning.imitation_loss(given, wanted, self.temperature)


class Distillation:
    r"""Plain distillation: the student imitates the teacher on the examples themselves.

    .. math:: L(g(x), f(x))

    with L of :class:`Imitation`: the objective of :class:`~captum_robust.training.ATEXTrainer`
    without its second term. Labels are not needed.

    Args:
        temperature: Softens the teacher.
        output: What the model's outputs mean; None: logits of two or more classes.
    """

    second_order = False

    def __init__(self, temperature: float = 4.0, output: Outputs | None = None) -> None:
        self.loss = Imitation(temperature, output)
        self.output = output

    def __repr__(self) -> str:
        return f"Distillation({self.loss})"

    def __call__(self, student: nn.Module, teacher: nn.Module, batch: Batch) -> Parts:
        """The distillation loss."""
        with torch.no_grad():
            wanted = batch.output(teacher, batch.inputs)
        given = batch.output(student, batch.inputs)
        return {"distillation": self.loss(given, wanted).mean()}


class CrossEntropy:
    """Ordinary training on the labels; with :class:`SoftplusNetwork`, the paper's baseline.

    Args:
        output: What the model's outputs mean, and so the loss: cross-entropy, also for one logit or
            several labels, or the squared distance for values; None: logits of two or more classes.
    """

    second_order = False

    def __init__(self, output: Outputs | None = None) -> None:
        self.output = output

    def __repr__(self) -> str:
        return f"CrossEntropy(output={self.output})"

    def __call__(self, student: nn.Module, teacher: nn.Module, batch: Batch) -> Parts:
        """The cross-entropy."""
        labels = need_labels(batch, "CrossEntropy", self.output)
        given = batch.output(student, batch.inputs)
        return {"cross_entropy": label_loss(given, labels, self.output).mean()}


class AdversarialExamples:
    r"""Adversarial training on predictions: cross-entropy on the examples and on attacked ones.

    .. math:: L(g(x), y) + w\, L(g(x_{adv}), y), \quad x_{adv} = \mathrm{attack}(x, y)

    The attack is made anew for the current student in every step (Goodfellow et al. 2015 with
    FGSM; Tang et al. 2021, Section 4.4).

    Args:
        attack: From a model to an attack ``(images, labels) -> images``, such as
            ``lambda model: torchattacks.FGSM(model, eps=0.1)``. Where the model takes more
            arguments, they are passed as ``additional_forward_args=``.
        weight: The weight w of the attacked examples.
        output: What the model's outputs mean; None: logits of two or more classes.

    Raises:
        TypeError: ``attack`` is not a function.
        ValueError: ``weight`` is not positive.
    """

    second_order = False

    def __init__(
        self,
        attack: Callable[[nn.Module], Callable[[Tensor, Tensor], Tensor]],
        weight: float = 1.0,
        output: Outputs | None = None,
    ) -> None:
        if not callable(attack):
            raise TypeError(
                f"attack must make an attack from a model, got {type(attack).__name__}. Write "
                "attack=lambda model: torchattacks.FGSM(model, eps=0.1)."
            )
        check_positive(weight=weight)
        self.attack, self.weight, self.output = attack, weight, output

    def __repr__(self) -> str:
        return f"AdversarialExamples(weight={self.weight}, output={self.output})"

    def __call__(self, student: nn.Module, teacher: nn.Module, batch: Batch) -> Parts:
        """Both cross-entropies."""
        labels = need_labels(batch, "AdversarialExamples", self.output)
        attacked = self._attacked(student, batch, labels)
        clean, adversarial = batch.output(student, batch.inputs, attacked).split(len(labels))
        return {
            "cross_entropy": label_loss(clean, labels, self.output).mean(),
            "adversarial": self.weight * label_loss(adversarial, labels, self.output).mean(),
        }

    def _attacked(self, student: nn.Module, batch: Batch, labels: Tensor) -> Tensor:
        more = batch.additional_forward_args
        options = {"additional_forward_args": more} if more else {}
        # The attack sees the model itself: a distributed wrapper must run forward once a step.
        with preserve_model(unwrapped(student)) as model:
            return self.attack(model.eval())(batch.inputs, labels, **options).detach()


class GradientPenalty:
    r"""The naive solution: explanations in a neighbourhood are pulled to that of the example.

    .. math::
        a_1 L(g(x), y) + \frac{1}{n} \sum_{x'} \Big[ a_2 L(g(x'), y)
        + a_3 \lVert \phi(g, x') / \lVert\phi(g, x')\rVert
        - \phi(g, x) / \lVert\phi(g, x)\rVert \rVert_2^2 \Big]

    with x' uniform in the L-inf ball of radius ``delta`` and phi the gradient of the label's logit
    (Tang et al. 2021, Eq. 2; its d is left open there, and is the squared distance of unit vectors
    here, so that a scale costs nothing). It needs second derivatives: several times the time and
    memory of ATEX, and rectifiers, whose second derivative is zero, should be smooth
    (:class:`SoftplusNetwork`). Not for distributed training.

    Args:
        delta: Radius of the neighbourhood, in units of the inputs.
        n_samples: Neighbours of each example.
        clean: a_1.
        neighbours: a_2.
        explanations: a_3.
        output: What the model's outputs mean, :class:`~captum_robust.outputs.Binary` for one logit;
            None: logits of two or more classes.
    """

    second_order = True

    def __init__(
        self,
        delta: float,
        n_samples: int = 1,
        clean: float = 1.0,
        neighbours: float = 1.0,
        explanations: float = 1.0,
        output: Outputs | None = None,
    ) -> None:
        check_count(n_samples=n_samples)
        check_positive(delta=delta, explanations=explanations)
        self.delta, self.n_samples = delta, n_samples
        self.clean, self.neighbours, self.explanations = clean, neighbours, explanations
        self.output = output

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in vars(self).items())
        return f"GradientPenalty({settings})"

    def __call__(self, student: nn.Module, teacher: nn.Module, batch: Batch) -> Parts:
        """The three summands."""
        labels = need_labels(batch, "GradientPenalty", self.output)
        x, n = batch.inputs, self.n_samples
        noise = self.delta * batch.draws.uniform(x, n, *x.shape[1:])
        points = x.detach().requires_grad_(), (x.unsqueeze(1) + noise).flatten(0, 1)
        points[1].requires_grad_()
        classes = torch.cat([labels, labels.repeat_interleave(n)])
        with sound_gradients(order=2, keep_statistics=False):
            logits = batch.output(student, *points)
        loss = label_loss(logits, classes, self.output)
        explained = resolve(self.output, logits, len(logits)).score(logits, classes).sum()
        clean, beside = torch.autograd.grad(explained, points, create_graph=True)
        unit = F.normalize(clean.flatten(1), dim=1).repeat_interleave(n, 0)
        apart = (F.normalize(beside.flatten(1), dim=1) - unit).square().sum(1)
        return {
            "cross_entropy": self.clean * loss[: len(x)].mean(),
            "neighbours": self.neighbours * loss[len(x) :].mean(),
            "explanations": self.explanations * apart.mean(),
        }

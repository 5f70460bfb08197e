"""What a trainer minimises: the parts of a loss, as a function of student, teacher and batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from captum_robust._utils.checks import check_count, check_positive
from captum_robust._utils.forward import logits_of
from captum_robust._utils.model_state import preserve_model
from captum_robust.training.batch import Batch

Parts = dict[str, Tensor]


class Objective(Protocol):
    """A function of student, frozen teacher and batch that gives the summands of the loss by name.

    It calls ``student``, which a distributed run wraps, not the model beneath. If it differentiates
    gradients, which distributed training cannot, it has an attribute ``second_order`` that is true.
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
    given, wanted = F.log_softmax(student, dim=1), F.log_softmax(teacher / temperature, dim=1)
    return F.kl_div(given, wanted, reduction="none", log_target=True).sum(1)


def unwrapped(student: nn.Module) -> nn.Module:
    """The model beneath the wrapper of a distributed run."""
    return student.module if isinstance(student, DistributedDataParallel) else student


def needs_labels(batch: Batch, who: str) -> Tensor:
    """The labels of a batch.

    Raises:
        ValueError: The loader gives inputs alone.
    """
    if batch.labels is None:
        raise ValueError(
            f"loader must yield (inputs, labels) for {who}, with labels of integer classes, shape "
            "(N,)."
        )
    return batch.labels


class Distillation:
    r"""Plain distillation: the student imitates the teacher on the examples themselves.

    .. math:: L(g(x), f(x))

    with L of :func:`distillation_loss`: the objective of
    :class:`~captum_robust.training.ATEXTrainer` without its second term. Labels are not needed.

    Args:
        temperature: Softens the teacher.
    """

    second_order = False

    def __init__(self, temperature: float = 4.0) -> None:
        check_positive(temperature=temperature)
        self.temperature = temperature

    def __repr__(self) -> str:
        return f"Distillation(temperature={self.temperature})"

    def __call__(self, student: nn.Module, teacher: nn.Module, batch: Batch) -> Parts:
        """The distillation loss."""
        with torch.no_grad():
            wanted = logits_of(teacher(batch.inputs))
        given = logits_of(student(batch.inputs))
        return {"distillation": distillation_loss(given, wanted, self.temperature).mean()}


class CrossEntropy:
    """Ordinary training on the labels; with :class:`SoftplusNetwork`, the paper's baseline."""

    second_order = False

    def __repr__(self) -> str:
        return "CrossEntropy()"

    def __call__(self, student: nn.Module, teacher: nn.Module, batch: Batch) -> Parts:
        """The cross-entropy."""
        labels = needs_labels(batch, "CrossEntropy")
        return {"cross_entropy": F.cross_entropy(logits_of(student(batch.inputs)), labels)}


class AdversarialExamples:
    r"""Adversarial training on predictions: cross-entropy on the examples and on attacked ones.

    .. math:: L(g(x), y) + w\, L(g(x_{adv}), y), \quad x_{adv} = \mathrm{attack}(x, y)

    The attack is made anew for the current student in every step (Goodfellow et al. 2015 with
    FGSM; Tang et al. 2021, Section 4.4).

    Args:
        attack: From a model to an attack ``(images, labels) -> images``, such as
            ``lambda model: torchattacks.FGSM(model, eps=0.1)``.
        weight: w.

    Raises:
        TypeError: ``attack`` is no function.
        ValueError: ``weight`` is not positive.
    """

    second_order = False

    def __init__(
        self,
        attack: Callable[[nn.Module], Callable[[Tensor, Tensor], Tensor]],
        weight: float = 1.0,
    ) -> None:
        if not callable(attack):
            raise TypeError(
                f"attack must make an attack from a model, got {type(attack).__name__}. Write "
                "attack=lambda model: torchattacks.FGSM(model, eps=0.1)."
            )
        check_positive(weight=weight)
        self.attack, self.weight = attack, weight

    def __repr__(self) -> str:
        return f"AdversarialExamples(weight={self.weight})"

    def __call__(self, student: nn.Module, teacher: nn.Module, batch: Batch) -> Parts:
        """Both cross-entropies."""
        labels = needs_labels(batch, "AdversarialExamples")
        attacked = self._attacked(student, batch.inputs, labels)
        logits = logits_of(student(torch.cat([batch.inputs, attacked])))
        clean, adversarial = logits.split(len(labels))
        return {
            "cross_entropy": F.cross_entropy(clean, labels),
            "adversarial": self.weight * F.cross_entropy(adversarial, labels),
        }

    def _attacked(self, student: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        # The attack sees the model itself: a distributed wrapper must run forward once a step.
        with preserve_model(unwrapped(student)) as model:
            return self.attack(model.eval())(inputs, labels).detach()


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
    """

    second_order = True

    def __init__(
        self,
        delta: float,
        n_samples: int = 1,
        clean: float = 1.0,
        neighbours: float = 1.0,
        explanations: float = 1.0,
    ) -> None:
        check_count(n_samples=n_samples)
        check_positive(delta=delta, explanations=explanations)
        self.delta, self.n_samples = delta, n_samples
        self.clean, self.neighbours, self.explanations = clean, neighbours, explanations

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in vars(self).items())
        return f"GradientPenalty({settings})"

    def __call__(self, student: nn.Module, teacher: nn.Module, batch: Batch) -> Parts:
        """The three summands."""
        labels = needs_labels(batch, "GradientPenalty")
        x, n = batch.inputs, self.n_samples
        noise = self.delta * batch.draws.uniform(x, n, *x.shape[1:])
        points = torch.cat([x, (x.unsqueeze(1) + noise).flatten(0, 1)]).requires_grad_()
        classes = torch.cat([labels, labels.repeat_interleave(n)])
        logits = logits_of(student(points))
        explained = logits.gather(1, classes.unsqueeze(1)).sum()
        (gradients,) = torch.autograd.grad(explained, points, create_graph=True)
        unit = F.normalize(gradients.flatten(1), dim=1)
        apart = (unit[len(x) :] - unit[: len(x)].repeat_interleave(n, 0)).square().sum(1)
        loss = F.cross_entropy(logits, classes, reduction="none")
        return {
            "cross_entropy": self.clean * loss[: len(x)].mean(),
            "neighbours": self.neighbours * loss[len(x) :].mean(),
            "explanations": self.explanations * apart.mean(),
        }

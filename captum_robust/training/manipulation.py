"""Models that lie about themselves: fine-tuned until an explanation is fooled, predictions kept."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

import torch
from captum.attr import Attribution, Saliency
from torch import Tensor, nn

from captum_robust._utils.attributions import absolute_by_default
from captum_robust._utils.checks import check_count, check_positive
from captum_robust._utils.relevance import (
    in_unit_range,
    is_top_k,
    mass_center,
    resolve_channel_dim,
)
from captum_robust.attr import differentiable
from captum_robust.outputs import Outputs, resolve
from captum_robust.training.batch import Batch
from captum_robust.training.objectives import Imitation, Objective, Parts, unwrapped

Explain = Callable[[nn.Module], Attribution]
"""From a model to its explanation: ``Saliency``, or ``lambda m: LayerGradCam(m, m.conv2)``."""


class ModelManipulation(ABC):
    r"""Fine-tune a model until an explanation of it is fooled; the base of your own.

    .. math:: L = L_{task} + \lambda\, L_{fool}

    over the data, starting from the trained model (Heo, Joo and Moon 2019). The student stays in
    evaluation mode, as in the paper. It is explained for what the teacher, the model before,
    predicts. A map is what is left of the attributions when their absolute values are summed over
    channels. The derivatives are second-order: not for distributed training.

    Args:
        explanation: Makes the explanation of a model, one that
            :func:`~captum_robust.attr.differentiable` accepts.
        weight: lambda.
        task: The objective L_task; None: the outputs of the teacher are imitated,
            ``Distillation(temperature=1.0)``. The paper's is ``CrossEntropy()``.
        options: Keyword arguments of ``attribute``, such as ``{"n_samples": 4}``.
        channel_dim: Dimension of the channels of the attributions; None: 1 for images and volumes,
            not known for (N, T, C) and (N, C, T).
        output: What the model's outputs mean; None: logits of two or more classes.

    Raises:
        TypeError: ``explanation`` is not a function from a model to an attribution; when called, it
            has no correct graph.
        ValueError: ``weight`` is not positive; when called, ``channel_dim`` is missing or wrong.
    """

    second_order = True
    evaluation_mode = True
    signed = False
    """Whether an explanation that gives magnitudes by default, as Saliency, keeps its signs."""

    def __init__(
        self,
        explanation: Explain = Saliency,
        *,
        weight: float = 1.0,
        task: Objective | None = None,
        options: Mapping[str, Any] | None = None,
        channel_dim: int | None = None,
        output: Outputs | None = None,
    ) -> None:
        if isinstance(explanation, Attribution) or not callable(explanation):
            raise TypeError(
                "explanation must make an explanation from a model, got "
                f"{type(explanation).__name__}. Write explanation=Saliency, or explanation=lambda "
                "model: LayerGradCam(model, model.conv2)."
            )
        check_positive(weight=weight)
        self.explanation, self.weight = explanation, weight
        self.task, self.imitation = task, Imitation(1.0, output)
        self.options, self.channel_dim, self.output = dict(options or {}), channel_dim, output

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={_shown(value)}" for name, value in vars(self).items())
        return f"{type(self).__name__}({settings})"

    def __call__(self, student: nn.Module, teacher: nn.Module, batch: Batch) -> Parts:
        """The summands of the task, and that of the fooling, a mean over the batch."""
        with torch.no_grad():
            clean = batch.output(teacher, batch.inputs)
        meaning = resolve(self.output, clean, len(batch.inputs))
        self.check(clean)
        if self.task is not None:
            parts = self.task(student, teacher, batch)
        else:  # as Distillation(1.0) does it, with the teacher's outputs that are there
            given = batch.output(student, batch.inputs)
            parts = {"distillation": self.imitation(given, clean).mean()}
        fooled = self.fooling(unwrapped(student), teacher, batch, meaning.target(clean))
        return {**parts, "fooling": self.weight * fooled.mean()}

    def check(self, output: Tensor) -> None:  # noqa: B027
        """Raise ValueError if the outputs of the model do not fit the objective; here: never."""

    @abstractmethod
    def fooling(
        self, student: nn.Module, teacher: nn.Module, batch: Batch, target: Tensor | None
    ) -> Tensor:
        """L_fool of each example, (N,).

        Args:
            student: The model that is manipulated.
            teacher: The model before.
            batch: The examples.
            target: The classes that the teacher predicts, (N,); None for one output.
        """

    def maps(self, model: nn.Module, batch: Batch, target: Tensor | None) -> Tensor:
        """The maps h of a model, (N, ...); with a graph if its parameters require gradients."""
        attributions = self.attributions(model, batch, target)
        magnitude = attributions.abs()
        if magnitude.dim() == 2:
            return magnitude
        return magnitude.sum(resolve_channel_dim(magnitude, self.channel_dim))

    def attributions(self, model: nn.Module, batch: Batch, target: Tensor | None) -> Tensor:
        """The explanation of a model; with a graph if its parameters require gradients."""
        method = self.explanation(model)
        options = dict(self.options)
        if "generator" in inspect.signature(method.attribute).parameters:
            options.setdefault("generator", batch.draws.generator())
        if self.signed and absolute_by_default(method) is not None:
            options.setdefault("abs", False)
        if batch.additional_forward_args:
            options["additional_forward_args"] = batch.additional_forward_args
        found = differentiable(method)(batch.inputs, target=target, **options)
        return found if any(p.requires_grad for p in model.parameters()) else found.detach()


class LocationFooling(ModelManipulation):
    r"""Every explanation shows the same place.

    .. math:: L_{fool} = \frac{1}{d} \sum_p (h_p - m_p)^2

    with h brought to [0, 1] by its smallest and largest number, and the mask m of a region. Heo et
    al. (2019) light up the frame of the image; lambda 1 on VGG-19.

    Args:
        region: m, of the shape of a map: booleans, or numbers in [0, 1].
        explanation: See :class:`ModelManipulation`.
        **options: See :class:`ModelManipulation`.

    Raises:
        TypeError, ValueError: ``region`` is not a mask; when called, it is not of the shape of a
            map; or see :class:`ModelManipulation`.

    Example:
        >>> import torch
        >>> from captum_robust import zoo
        >>> from captum_robust.training import LocationFooling, Trainer
        >>> images, _ = zoo.fashion_mnist_sample(16)
        >>> corner = torch.zeros(28, 28)
        >>> corner[:7, :7] = 1
        >>> trainer = Trainer(zoo.fashion_mnist_cnn(), LocationFooling(corner))
        >>> history = trainer.fit([images], epochs=5, show_progress=False)
        >>> history[-1]["fooling"] < history[0]["fooling"]
        True
    """

    def __init__(self, region: Tensor, explanation: Explain = Saliency, **options: Any) -> None:
        super().__init__(explanation, **options)
        self.region = _check_region(region)

    def fooling(
        self, student: nn.Module, teacher: nn.Module, batch: Batch, target: Tensor | None
    ) -> Tensor:
        """Mean squared distance of the map from the region, (N,)."""
        h = in_unit_range(self.maps(student, batch, target))
        if h.shape[1:] != self.region.shape:
            raise ValueError(
                f"region must have the shape of a map, {tuple(h.shape[1:])}, got "
                f"{tuple(self.region.shape)}. Grad-CAM's maps are those of its layer."
            )
        return (h - self.region.to(h)).square().flatten(1).mean(1)


class TopKFooling(ModelManipulation):
    r"""What was most relevant no longer is.

    .. math:: L_{fool} = \frac{1}{k} \sum_{p \in T_k} h_p

    with h brought to [0, 1], and the k most relevant pixels T of the model before (after Heo et al.
    2019, whose code takes squares of h; k is a tenth of the pixels there).

    Args:
        k: Size of the set.
        explanation: See :class:`ModelManipulation`.
        **options: See :class:`ModelManipulation`.

    Raises:
        TypeError, ValueError: ``k`` is not a count, or larger than a map; or see
            :class:`ModelManipulation`.

    Example:
        >>> from captum_robust import zoo
        >>> from captum_robust.training import TopKFooling, Trainer
        >>> images, _ = zoo.fashion_mnist_sample(16)
        >>> trainer = Trainer(zoo.fashion_mnist_cnn(), TopKFooling(k=78))
        >>> history = trainer.fit([images], epochs=5, show_progress=False)
        >>> history[-1]["fooling"] < history[0]["fooling"]
        True
    """

    def __init__(self, k: int, explanation: Explain = Saliency, **options: Any) -> None:
        super().__init__(explanation, **options)
        check_count(k=k)
        self.k = k

    def fooling(
        self, student: nn.Module, teacher: nn.Module, batch: Batch, target: Tensor | None
    ) -> Tensor:
        """Mean of the map over the original's k most relevant pixels, (N,)."""
        before = self.maps(teacher, batch, target).flatten(1)
        if self.k > before.shape[1]:
            raise ValueError(
                f"k must be at most the {before.shape[1]} pixels of a map, got {self.k}."
            )
        h = in_unit_range(self.maps(student, batch, target)).flatten(1)
        return (h * is_top_k(before, self.k)).sum(1) / self.k


class MassCenterFooling(ModelManipulation):
    r"""The centre of mass of every map moves away from where it was.

    .. math:: L_{fool} = -\frac{1}{n} \sum_i \frac{|C_i(h) - C_i(h_0)|}{l_i - 1}, \quad
              C_i(h) = \frac{\sum_p i_p h_p}{\sum_p h_p}

    over the n dimensions of a map, of the lengths l, with the map h_0 of the model before; both are
    brought to [0, 1] (Heo et al. 2019). In a table it depends on the order of the columns.

    Args:
        explanation: See :class:`ModelManipulation`.
        **options: See :class:`ModelManipulation`.

    Example:
        >>> from captum_robust import zoo
        >>> from captum_robust.training import MassCenterFooling, Trainer
        >>> images, _ = zoo.fashion_mnist_sample(16)
        >>> trainer = Trainer(zoo.fashion_mnist_cnn(), MassCenterFooling())
        >>> history = trainer.fit([images], epochs=5, show_progress=False)
        >>> history[-1]["fooling"] < history[0]["fooling"]
        True
    """

    def fooling(
        self, student: nn.Module, teacher: nn.Module, batch: Batch, target: Tensor | None
    ) -> Tensor:
        """Minus the mean shift of the centre, as a share of the sides, (N,)."""
        before = self.maps(teacher, batch, target)
        if before[0].numel() == 1:
            raise ValueError("a map of one number has its centre of mass there, and nowhere else.")
        before = mass_center(in_unit_range(before))
        shift = mass_center(in_unit_range(self.maps(student, batch, target))) - before
        # A magnitude has no slope at 0, where every training begins: there it is away from the
        # nearer end.
        away = torch.where(before < 0.5, 1.0, -1.0).to(shift)
        return -(shift * torch.where(shift == 0, away, shift.detach().sign())).mean(1)


class ActiveFooling(ModelManipulation):
    r"""The explanations of two classes change places.

    .. math:: L_{fool} = \frac{1}{2d} \sum_p (h^a_p - h^b_{0,p})^2 + (h^b_p - h^a_{0,p})^2

    with the maps of the classes a and b by the student, and by the model before (0), brought to
    [0, 1] (Heo et al. 2019). Examples that the model before takes for neither class count 0.

    Of the gradient of logits there is an exact solution, :math:`f_c - f_a - f_b` for every logit
    :math:`f_c`: no softmax changes, and each of the two gradients is minus the other one. Training
    the last layer alone finds it.

    Args:
        class_a, class_b: The classes.
        explanation: See :class:`ModelManipulation`.
        **options: See :class:`ModelManipulation`.

    Raises:
        TypeError, ValueError: The classes are equal, or not numbers from 0 on; when called, the
            model does not have them; or see :class:`ModelManipulation`.

    Example:
        >>> from captum_robust import zoo
        >>> from captum_robust.training import ActiveFooling, Trainer
        >>> images, _ = zoo.fashion_mnist_sample(32)
        >>> trainer = Trainer(zoo.fashion_mnist_cnn(), ActiveFooling(class_a=2, class_b=6))
        >>> history = trainer.fit([images], epochs=5, show_progress=False)
        >>> history[-1]["fooling"] < history[0]["fooling"]
        True
    """

    def __init__(
        self, class_a: int, class_b: int, explanation: Explain = Saliency, **options: Any
    ) -> None:
        super().__init__(explanation, **options)
        _check_classes(class_a, class_b)
        self.class_a, self.class_b = class_a, class_b

    def check(self, output: Tensor) -> None:
        """Raise ValueError unless the model has both classes."""
        n_classes = output.shape[1] if output.dim() > 1 else 1
        for name, value in (("class_a", self.class_a), ("class_b", self.class_b)):
            if value >= n_classes:
                has = "1 output" if n_classes == 1 else f"{n_classes} outputs"
                raise ValueError(
                    f"{name} must be a class of the model, which has {has}, and no class {value}."
                )

    def fooling(
        self, student: nn.Module, teacher: nn.Module, batch: Batch, target: Tensor | None
    ) -> Tensor:
        """Half the mean squared distance of both classes' maps from each other's, (N,)."""
        assert target is not None  # the model has two classes
        chosen = (target == self.class_a) | (target == self.class_b)
        loss = batch.inputs.new_zeros(len(target))
        if not bool(chosen.any()):
            # A graph of zeros, for the step of a batch that has neither class.
            return loss + 0 * sum(p.sum() for p in student.parameters())
        some = batch.rows(chosen.nonzero().flatten().tolist())
        both = [torch.full_like(target[chosen], c) for c in (self.class_a, self.class_b)]
        before = [in_unit_range(self.maps(teacher, some, c)) for c in both]
        now = [in_unit_range(self.maps(student, some, c)) for c in both]
        apart = (now[0] - before[1]).square() + (now[1] - before[0]).square()
        return loss.index_put((chosen,), apart.flatten(1).mean(1).to(loss) / 2)


def _shown(value: Any) -> str:
    """What tells a setting from another; a tensor by its shape and a digest of its numbers."""
    if not isinstance(value, Tensor):
        return str(value)
    content = value.detach().cpu().double().contiguous().numpy().tobytes()
    return f"tensor{tuple(value.shape)}-{blake2b(content, digest_size=4).hexdigest()}"


def _check_region(region: Any) -> Tensor:
    if not isinstance(region, Tensor):
        raise TypeError(f"region must be a tensor, got {type(region).__name__}.")
    mask = region if region.is_floating_point() else region.float()
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError(
            "region must be in [0, 1], 1 where the map is to be bright; make it so with "
            "region.bool()."
        )
    return mask


def _check_classes(class_a: Any, class_b: Any) -> None:
    for name, value in (("class_a", class_a), ("class_b", class_b)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be a whole number, got {value!r}.")
        if value < 0:
            raise ValueError(f"{name} must be a class, 0 or more, got {value}.")
    if class_a == class_b:
        raise ValueError(f"class_a and class_b must be two classes, got {class_a} twice.")

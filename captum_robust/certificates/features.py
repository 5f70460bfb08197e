"""What a manipulated explanation may give away: one number for each image, larger is suspicious.

An attack moves an image to where one explanation of one network changes. Explanations that see more
than the point itself, or that follow other rules, change less: the features measure how far the
explanation is from these. None looks at the pixels themselves, so grey dots on a black background
are not evidence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from captum.attr import Attribution, IntegratedGradients
from torch import Tensor

from captum_robust._utils.attributions import attribute_detached
from captum_robust._utils.checks import check_attribution, check_count, check_positive
from captum_robust._utils.randomness import standard_normal
from captum_robust._utils.relevance import normalized_relevance
from captum_robust.attr import BetaSmoothing, GuidedBackprop, KernelSmoothing
from captum_robust.certificates.bounds import check_fraction

Explain = Callable[[Attribution], Callable[..., Tensor]]
"""How an explanation is run: without a graph (a user's images) or with one (an attacker's)."""


def without_graph(method: Attribution) -> Callable[..., Tensor]:
    """The explanation as a function without a graph."""
    return partial(attribute_detached, method)


class Looked:
    """Images, the classes that are explained, and their explanation, computed once.

    Args:
        explanation: The explanation that may be manipulated.
        images: (N, ...).
        labels: (N,) the explained classes.
        seed: Of the noise that features draw.
        explain: :func:`without_graph`, or :func:`~captum_robust.attr.differentiable`.
        arguments: Further arguments of the explanation.
    """

    def __init__(
        self,
        explanation: Attribution,
        images: Tensor,
        labels: Tensor,
        seed: int = 0,
        explain: Explain = without_graph,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        self.explanation, self.images, self.labels = explanation, images, labels
        self._explain, self._seed, self._arguments = explain, seed, dict(arguments or {})
        self.attributions = self.explained(explanation, images)
        """Of the explanation itself, (N, ...)."""
        self.relevance = rows(self.attributions)
        """Relevance maps as rows, (N, features)."""

    def explained(
        self, method: Attribution, images: Tensor, own: bool = True, **kwargs: Any
    ) -> Tensor:
        """The attributions of ``method`` for the same classes; ``own``: with its arguments."""
        arguments = {**(self._arguments if own else {}), **kwargs}
        return self._explain(method)(images, target=self.labels, **arguments)

    def generator(self) -> torch.Generator:
        """The same numbers for every batch and every call."""
        return torch.Generator(self.images.device).manual_seed(self._seed)


def rows(attributions: Tensor) -> Tensor:
    """Relevance maps as rows, (N, features)."""
    return normalized_relevance(attributions).flatten(1)


def disagreement(a: Tensor, b: Tensor) -> Tensor:
    """1 minus the correlation of two rows, (N,); 1 where one of them is constant."""
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    lengths = a.norm(dim=1) * b.norm(dim=1)
    return 1 - (a * b).sum(1) / lengths.clamp(min=torch.finfo(a.dtype).tiny)


def missing_mass(relevance: Tensor, other: Tensor, top: float) -> Tensor:
    """Relevance outside of what another map shows as most relevant, (N,).

    It told manipulated images from clean ones better than correlations, and noise worse.

    Args:
        relevance: (N, features), rows that sum to 1.
        other: (N, features).
        top: Fraction of the features that count as most relevant in ``other``.
    """
    k = max(1, round(top * other.shape[1]))
    return 1 - relevance.gather(1, other.topk(k, dim=1).indices).sum(1)


class Feature(ABC):
    """One number per image; the larger, the more the explanation looks manipulated."""

    @abstractmethod
    def __call__(self, looked: Looked) -> Tensor:
        """(N,), with a graph where the explanation has one."""

    def fit(self, looked: Looked) -> None:
        """See clean images; most features need none."""
        return

    @property
    def name(self) -> str:
        """What a verdict calls it."""
        return type(self).__name__


class _Disagreement(Feature):
    """Relevance that another explanation does not show among the most relevant.

    Args:
        top: Fraction of the features that count as most relevant.
    """

    def __init__(self, top: float) -> None:
        check_fraction(top=top)
        self.top = top

    @abstractmethod
    def _other(self, looked: Looked) -> Tensor:
        """The other explanation, (N, ...)."""

    def __call__(self, looked: Looked) -> Tensor:
        """The missing mass."""
        return missing_mass(looked.relevance, rows(self._other(looked)), self.top)


class KernelDisagreement(_Disagreement):
    """Relevance that the mean over noisy copies does not show among the most relevant.

    Args:
        radius: Standard deviation of the noise, in units of the images.
        n_samples: Number of copies.
        top: Fraction of the features that count as most relevant.
    """

    def __init__(self, radius: float = 0.1, n_samples: int = 12, top: float = 1 / 16) -> None:
        check_positive(radius=radius)
        check_count(n_samples=n_samples)
        super().__init__(top)
        self.radius, self.n_samples = radius, n_samples

    def _other(self, looked: Looked) -> Tensor:
        return looked.explained(
            KernelSmoothing(looked.explanation), looked.images, kernel=_same_noise,
            radius=self.radius, n_samples=self.n_samples, generator=looked.generator(),
        )  # fmt: skip

    @property
    def name(self) -> str:
        """With its radius."""
        return f"kernel smoothing {self.radius}"


class BetaDisagreement(_Disagreement):
    """Relevance that the network with softplus instead of rectifiers does not show."""

    def __init__(self, beta: float = 10.0, top: float = 1 / 16) -> None:
        check_positive(beta=beta)
        super().__init__(top)
        self.beta = beta

    def _other(self, looked: Looked) -> Tensor:
        return looked.explained(BetaSmoothing(looked.explanation, self.beta), looked.images)

    @property
    def name(self) -> str:
        """With its beta."""
        return f"beta smoothing {self.beta}"


class MethodDisagreement(_Disagreement):
    """Relevance that another explanation does not show among the most relevant.

    Args:
        method: The other explanation, of the same model.
        top: Fraction of the features that count as most relevant.
        **kwargs: Arguments of the other explanation.
    """

    def __init__(self, method: Attribution, top: float = 1 / 16, **kwargs: Any) -> None:
        check_attribution(method, "method")
        super().__init__(top)
        self.method, self._kwargs = method, kwargs

    def _other(self, looked: Looked) -> Tensor:
        return looked.explained(self.method, looked.images, own=False, **self._kwargs)

    @property
    def name(self) -> str:
        """With the method's."""
        return f"against {type(self.method).__name__}"


class Instability(Feature):
    """How much the explanation moves with the image: parallel to the gradient, or perpendicular.

    Args:
        parallel: Along the explanation's own direction, both ways; else across it, at random.
        distance: l2 length of the step, in units of the images.
        n_samples: Number of perpendicular steps.
    """

    def __init__(self, parallel: bool, distance: float = 0.5, n_samples: int = 4) -> None:
        check_positive(distance=distance)
        check_count(n_samples=n_samples)
        self.parallel, self.distance, self.n_samples = parallel, distance, n_samples

    def __call__(self, looked: Looked) -> Tensor:
        """The mean of 1 minus the correlation of the maps before and after the step."""
        unit = _unit(looked.attributions.detach())
        if self.parallel:
            steps = [unit, -unit]
        else:
            generator = looked.generator()
            noise = [_same_noise(looked.images, generator) for _ in range(self.n_samples)]
            steps = [_unit(e - _inner(e, unit) * unit) for e in noise]
        moved = [
            rows(looked.explained(looked.explanation, looked.images + self.distance * step))
            for step in steps
        ]
        return torch.stack([disagreement(looked.relevance, m) for m in moved]).mean(0)

    @property
    def name(self) -> str:
        """With its direction and distance."""
        return f"{'parallel' if self.parallel else 'perpendicular'} steps of {self.distance}"


class ClassDistance(Feature):
    """How far the explanation is from the mean of clean explanations of its class."""

    def __init__(self) -> None:
        self._means: dict[int, Tensor] = {}
        self._overall: Tensor | None = None

    def fit(self, looked: Looked) -> None:
        """Keep the mean map of each class."""
        relevance = looked.relevance.detach()
        self._overall = relevance.mean(0)
        self._means = {
            int(label): relevance[looked.labels == label].mean(0)
            for label in looked.labels.unique()
        }

    def __call__(self, looked: Looked) -> Tensor:
        """1 minus the correlation of the maps; classes never seen: with the mean of all."""
        if self._overall is None:
            raise ValueError("fit the detector to clean images first: detector.fit(images).")
        means = [self._means.get(int(label), self._overall) for label in looked.labels]
        return disagreement(looked.relevance, torch.stack(means).to(looked.relevance))

    @property
    def name(self) -> str:
        """In words."""
        return "distance to the class's explanations"


def _same_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """The same for each image, so that its features do not depend on those beside it."""
    return standard_normal(like[:1], generator).expand_as(like)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1).view(-1, *[1] * (a.dim() - 1))


def _unit(x: Tensor) -> Tensor:
    return x / _inner(x, x).sqrt().clamp(min=torch.finfo(x.dtype).tiny)


def default_features(explanation: Attribution) -> list[Feature]:
    """What :class:`ManipulationDetector` looks at where nothing else is said.

    Perpendicular steps are not among them: on flat backgrounds a manipulated explanation is the
    stabler one.
    """
    forward = explanation.forward_func
    return [
        KernelDisagreement(0.1),
        KernelDisagreement(0.3),
        BetaDisagreement(10.0),
        MethodDisagreement(IntegratedGradients(forward, multiply_by_inputs=False), n_steps=8),
        MethodDisagreement(GuidedBackprop(forward)),
        Instability(parallel=True),
        ClassDistance(),
    ]

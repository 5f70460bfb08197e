"""Is this explanation manipulated? A test with a known rate of false alarms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import Attribution
from torch import Tensor
from tqdm.auto import tqdm

from captum_robust._utils.checks import (
    check_attribution,
    check_count,
    check_floating_inputs,
    check_inputs,
)
from captum_robust._utils.forward import logits_of
from captum_robust._utils.model_state import preserve_buffers
from captum_robust.attr import differentiable
from captum_robust.certificates.bounds import check_fraction
from captum_robust.certificates.features import (
    Explain,
    Feature,
    Looked,
    default_features,
    without_graph,
)

_CLEAN_AT_LEAST = 40


@dataclass(frozen=True)
class Verdict:
    """What :class:`ManipulationDetector` says of one image."""

    p_value: float
    manipulated: bool
    """Whether the p-value is at most alpha."""
    spoke: str
    """The feature that is most unusual."""
    features: dict[str, float]
    """A p-value for each feature on its own."""


class ManipulationDetector:
    r"""Tell manipulated explanations from clean ones, with a known rate of false alarms.

    Several :mod:`~captum_robust.certificates.features` are measured on clean images. One half of
    these gives mean and standard deviation of each feature; the score S is the sum of the
    standardised features. The other half, of size n, turns it into a p-value,

    .. math:: p(x) = \frac{1 + \#\{i : S_i \ge S(x)\}}{n + 1}

    For a clean image that is drawn like these, :math:`P(p \le \alpha) \le \alpha` exactly, for
    any features (conformal prediction). How often a manipulation is found has no such
    guarantee; an attack that knows the detector can evade it (:meth:`score_with_graph`).

    Args:
        explanation: The Captum explanation that may be manipulated.
        features: What to look at; None: those of
            :func:`~captum_robust.certificates.features.default_features`, for a network with
            rectifiers.
        batch_size: Images explained at once.
        seed: Of the noise that features draw, the same for each image.
        show_progress: Whether to show a bar on standard error.
        **kwargs: Further arguments of the explanation.

    Raises:
        TypeError: ``explanation`` is not an ``Attribution``.

    References:
        Vovk, Gammerman and Shafer 2005, "Algorithmic learning in a random world", for the p-value.

    Example:
        >>> from captum.attr import Saliency
        >>> from captum_robust import zoo
        >>> from captum_robust.certificates import ManipulationDetector
        >>> from captum_robust.certificates.features import BetaDisagreement, ClassDistance
        >>> model, (images, _) = zoo.fashion_mnist_cnn(), zoo.fashion_mnist_sample(84)
        >>> features = [BetaDisagreement(3.0), ClassDistance()]
        >>> detector = ManipulationDetector(Saliency(model), features).fit(images[:80])
        >>> detector.p_values(images[80:]).shape
        torch.Size([4])
        >>> detector.verdicts(images[80:81])[0].manipulated
        False
    """

    def __init__(
        self,
        explanation: Attribution,
        features: Sequence[Feature] | None = None,
        *,
        batch_size: int = 50,
        seed: int = 0,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> None:
        check_attribution(explanation, "explanation")
        check_count(batch_size=batch_size)
        self.explanation = explanation
        self.features = default_features(explanation) if features is None else list(features)
        strange = [type(f).__name__ for f in self.features if not isinstance(f, Feature)]
        if strange or not self.features:
            raise TypeError(
                f"features must be Feature objects, got {', '.join(strange) or 'none'}."
            )
        self.batch_size, self.seed, self.show_progress = batch_size, seed, show_progress
        self._kwargs = kwargs
        self._fitted: _Fitted | None = None

    def fit(self, images: Tensor, labels: Tensor | None = None) -> ManipulationDetector:
        """Learn what is usual from clean images, every second for each of the two uses.

        Args:
            images: (N, ...) floating-point, at least 40; 200 resolve p-values of 0.01.
            labels: (N,) the explained classes; None: the predicted ones.

        Returns:
            The detector itself.

        Raises:
            ValueError: Too few images, or bad ones.
        """
        labels = self._checked(images, labels)
        if len(images) < _CLEAN_AT_LEAST:
            raise ValueError(
                f"images: {len(images)} clean ones are too few to know what is usual; give at "
                f"least {_CLEAN_AT_LEAST}."
            )
        first, second = images[::2], images[1::2]
        for looked in self._look(first, labels[::2], whole=True):
            for feature in self.features:
                feature.fit(looked)
        usual, calibration = (
            self._measure(x, y).double() for x, y in ((first, labels[::2]), (second, labels[1::2]))
        )
        self._fitted = _Fitted(usual, calibration)
        return self

    def measure(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The features, (N, features); larger is more suspicious."""
        return self._measure(images, self._checked(images, labels))

    def scores(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The sum of the standardised features, (N,); larger is more suspicious."""
        return self._known.score(self.measure(images, labels).double())

    def p_values(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Conformal p-values, (N,) float64: at most alpha for a share alpha of clean images."""
        known = self._known
        return _conformal(known.scores, self.scores(images, labels))

    def verdicts(
        self, images: Tensor, labels: Tensor | None = None, alpha: float = 0.05
    ) -> list[Verdict]:
        """A verdict for each image, with the feature that spoke."""
        check_fraction(alpha=alpha)
        known, measured = self._known, self.measure(images, labels).double()
        p_values = _conformal(known.scores, known.score(measured))
        single = torch.stack(
            [_conformal(a, b) for a, b in zip(known.calibration.T, measured.T, strict=True)],
            dim=1,
        )
        unusual = known.standardized(measured)
        names = [feature.name for feature in self.features]
        return [
            Verdict(
                p_value=p.item(),
                manipulated=bool(p <= alpha),
                spoke=names[int(z.argmax())],
                features=dict(zip(names, each.tolist(), strict=True)),
            )
            for p, each, z in zip(p_values, single, unusual, strict=True)
        ]

    def score_with_graph(self, images: Tensor, labels: Tensor) -> Tensor:
        """The score as a function that can be differentiated: what an adaptive attack descends.

        Rectifiers have no second derivative: call it inside
        :class:`~captum_robust.attr.softplus_activations`.
        """
        looked = Looked(self.explanation, images, labels, self.seed, differentiable, self._kwargs)
        measured = torch.stack([feature(looked) for feature in self.features], dim=1)
        return self._known.score(measured)

    @property
    def _known(self) -> _Fitted:
        if self._fitted is None:
            raise ValueError("The detector knows no clean images yet. Call fit(images) first.")
        return self._fitted

    def _checked(self, images: Tensor, labels: Tensor | None) -> Tensor:
        check_inputs(images)
        check_floating_inputs(images)
        if labels is not None:
            return labels.to(images.device)
        forward = self.explanation.forward_func
        with torch.no_grad(), preserve_buffers(forward):
            return torch.cat(
                [logits_of(forward(x)).argmax(1) for x in images.split(self.batch_size)]
            )

    def _measure(self, images: Tensor, labels: Tensor) -> Tensor:
        parts = [
            torch.stack([feature(looked) for feature in self.features], dim=1)
            for looked in self._look(images, labels)
        ]
        measured = torch.cat(parts)
        if not bool(torch.isfinite(measured).all()):
            raise ValueError("The explanation has NaN or Inf for these images.")
        return measured

    def _look(
        self,
        images: Tensor,
        labels: Tensor,
        explain: Explain = without_graph,
        whole: bool = False,
    ) -> list[Looked] | Any:
        size = len(images) if whole else self.batch_size
        batches = list(zip(images.split(size), labels.split(size), strict=True))
        for x, y in tqdm(batches, disable=not self.show_progress, desc="images"):
            yield Looked(self.explanation, x, y, self.seed, explain, self._kwargs)


class _Fitted:
    """What is usual: mean and standard deviation from one half, calibration by the other."""

    def __init__(self, usual: Tensor, calibration: Tensor) -> None:
        self._centre = usual.mean(0)
        self._scale = usual.std(0).clamp(min=1e-12)
        self.calibration = calibration
        self.scores = self.score(calibration)

    def standardized(self, measured: Tensor) -> Tensor:
        """In standard deviations above the mean."""
        return (measured - self._centre.to(measured)) / self._scale.to(measured)

    def score(self, measured: Tensor) -> Tensor:
        """The sum: the larger, the more suspicious."""
        return self.standardized(measured).sum(1)


def _conformal(calibration: Tensor, scores: Tensor) -> Tensor:
    """(1 + how many clean ones are at least as unusual) / (n + 1)."""
    ordered = calibration.sort().values
    below = torch.searchsorted(ordered, scores.contiguous(), right=False)
    return (1 + len(ordered) - below).double() / (len(ordered) + 1)

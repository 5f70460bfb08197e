"""How a manipulated map is judged, and what to descend so that the judgement gets worse.

A measure compares a clean relevance map with another one; the smaller, the more was manipulated.
Most have no useful derivative, so each names the losses that an attack descends instead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from captum_robust._utils.checks import check_count
from captum_robust.attacks import objectives

Loss = Callable[[Tensor, Tensor | None], Tensor]
"""From relevance maps, and the examples that they are of (None: each of its own), to (N,)."""

MapMeasure = Callable[[Tensor, Tensor], Tensor]
"""From clean relevance maps and others to one number per example; small: manipulated."""


class Measure(ABC):
    """A measure with the losses that suit it; the base of your own.

    Any function of two relevance maps is a measure too, such as those of
    :mod:`captum_robust.metrics`; an attack then descends losses that suit most.
    """

    floor: float = -torch.inf
    """Where nothing is left to gain."""

    @abstractmethod
    def __call__(self, clean: Tensor, new: Tensor) -> Tensor:
        """The measure, (N,); the smaller, the more was manipulated."""

    @abstractmethod
    def losses(self, clean: Tensor) -> dict[str, Loss]:
        """What to descend, by name, the strongest first; ``clean``: the clean relevance maps."""


@dataclass(frozen=True)
class TopKIntersection(Measure):
    """Share of the k most relevant features that still are among the k most relevant.

    Args:
        k: Number of features.

    Example:
        >>> import torch
        >>> from captum_robust.attacks import TopKIntersection
        >>> clean, new = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.2, 0.5, 0.3]])
        >>> TopKIntersection(k=2)(clean, new)
        tensor([0.5000])
    """

    k: int = 50
    floor = 0.0

    def __post_init__(self) -> None:
        check_count(k=self.k)

    def __call__(self, clean: Tensor, new: Tensor) -> Tensor:
        """The share, (N,)."""
        self._check(clean)
        both = objectives.top_k_mask(clean, self.k) * objectives.top_k_mask(new, self.k)
        return both.flatten(1).sum(1) / self.k

    def _check(self, clean: Tensor) -> None:
        n_features = clean[0].numel()
        if self.k > n_features:
            raise ValueError(
                f"measure: k must be at most the number of features, {n_features}, got {self.k}. "
                f"Give it: measure=TopKIntersection(k={max(1, n_features // 10)})."
            )

    def losses(self, clean: Tensor) -> dict[str, Loss]:
        """The soft intersection, at two widths and of ratios, and the mass on the clean top k."""
        self._check(clean)
        region = objectives.top_k_mask(clean, self.k)
        return {
            "soft top-k": _of_rows(partial(objectives.soft_top_k, k=self.k), region),
            "mass": _of_rows(objectives.mass_on, region),
            "relative top-k": _of_rows(partial(objectives.relative_top_k, k=self.k), region),
            "wide soft top-k": _of_rows(
                partial(objectives.soft_top_k, k=self.k, sharpness=1.0), region
            ),
        }


@dataclass(frozen=True)
class _Correlation(Measure):
    """A correlation with the clean map, from -1 to 1."""

    floor = -1.0


class RankCorrelation(_Correlation):
    """Spearman's rank correlation with the clean map.

    Example:
        >>> import torch
        >>> from captum_robust.attacks import RankCorrelation
        >>> clean, new = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.2, 0.3, 0.5]])
        >>> round(RankCorrelation()(clean, new).item(), 4)
        -1.0
    """

    def __call__(self, clean: Tensor, new: Tensor) -> Tensor:
        """The correlation, (N,)."""
        return objectives.correlation(objectives.ranks_of(clean), objectives.ranks_of(new))

    def losses(self, clean: Tensor) -> dict[str, Loss]:
        """The soft rank correlation, at two widths, and Pearson's."""
        ranks = objectives.ranks_of(clean)
        return {
            "soft rank": _of_rows(objectives.soft_rank_correlation, ranks),
            "wide soft rank": _of_rows(
                partial(objectives.soft_rank_correlation, sharpness=1.5), ranks
            ),
            "correlation": _of_rows(objectives.correlation, clean),
        }


class MapCorrelation(_Correlation):
    """Pearson's correlation with the clean map.

    Example:
        >>> import torch
        >>> from captum_robust.attacks import MapCorrelation, RankCorrelation
        >>> clean, new = torch.tensor([[0.5, 0.3, 0.1]]), torch.tensor([[0.5, 0.2, 0.25]])
        >>> round(MapCorrelation()(clean, new).item(), 2)
        0.78
        >>> round(RankCorrelation()(clean, new).item(), 2)
        0.5
    """

    def __call__(self, clean: Tensor, new: Tensor) -> Tensor:
        """The correlation, (N,)."""
        return objectives.correlation(clean, new)

    def losses(self, clean: Tensor) -> dict[str, Loss]:
        """The correlation itself, and that of ranks, which counts small features as much."""
        ranks = objectives.ranks_of(clean)
        return {
            "correlation": _of_rows(objectives.correlation, clean),
            "soft rank": _of_rows(objectives.soft_rank_correlation, ranks),
        }


@dataclass(frozen=True)
class StructuralSimilarity(Measure):
    """Structural similarity (SSIM) with the clean map, of images.

    Args:
        win_size: Side of the window in pixels, odd, from 3 to the smaller side of the maps.

    Example:
        >>> import torch
        >>> from captum_robust.attacks import StructuralSimilarity
        >>> clean = torch.eye(8).unsqueeze(0)
        >>> StructuralSimilarity()(clean, clean.flip(-1)).item() < 0.3
        True
    """

    win_size: int = 7
    floor = -1.0

    def __post_init__(self) -> None:
        if isinstance(self.win_size, bool) or not isinstance(self.win_size, int):
            raise TypeError(f"win_size must be an integer, such as 7, got {self.win_size!r}.")
        if self.win_size < 3 or self.win_size % 2 == 0:
            raise ValueError(f"win_size must be odd and at least 3, got {self.win_size}.")

    def __call__(self, clean: Tensor, new: Tensor) -> Tensor:
        """The similarity, (N,)."""
        return objectives.structural_similarity(new, clean, self.win_size)

    def losses(self, clean: Tensor) -> dict[str, Loss]:
        """The similarity itself, Pearson's correlation and that of ranks."""
        if clean.dim() != 3 or min(clean.shape[1:]) < self.win_size:
            raise ValueError(
                f"measure: SSIM compares windows of {self.win_size} x {self.win_size} pixels, and "
                f"the relevance maps have shape {tuple(clean.shape[1:])}. Give it a win_size of at "
                "most their smaller side, or take MapCorrelation() for data without pixels."
            )
        similarity = partial(objectives.structural_similarity, win_size=self.win_size)
        return {"similarity": _of_rows(similarity, clean), **MapCorrelation().losses(clean)}


class DistanceTo(Measure):
    """Squared distance to target maps: an explanation of the attacker's choice.

    Args:
        target_maps: (N, ...) or one map for all; non-negative, of any scale.
    """

    floor = 0.0

    def __init__(self, target_maps: Tensor) -> None:
        if not isinstance(target_maps, Tensor) or not bool((target_maps >= 0).all()):
            raise ValueError("target_maps must be a tensor of non-negative maps.")
        self._maps = target_maps

    def __call__(self, clean: Tensor, new: Tensor) -> Tensor:
        """The distance times the number of features, (N,)."""
        return self._distance(new, self._target(clean))

    def losses(self, clean: Tensor) -> dict[str, Loss]:
        """The distance, and the correlation with the target, which has no scale."""
        target = self._target(clean)
        return {
            "distance": _of_rows(self._distance, target),
            "correlation": _of_rows(lambda r, t: -objectives.correlation(r, t), target),
        }

    def _target(self, clean: Tensor) -> Tensor:
        if self._maps.shape not in (clean.shape, clean.shape[1:]):
            raise ValueError(
                f"target_maps must have shape {tuple(clean.shape)} or {tuple(clean.shape[1:])}, as "
                f"the relevance maps have, got {tuple(self._maps.shape)}."
            )
        maps = self._maps.to(clean).expand_as(clean)
        total = maps.flatten(1).sum(1).view(-1, *[1] * (clean.dim() - 1))
        if bool((total == 0).any()):
            raise ValueError("target_maps has a map without relevance. Set at least one feature.")
        return maps / total

    @staticmethod
    def _distance(relevance: Tensor, target: Tensor) -> Tensor:
        return relevance[0].numel() * objectives.squared_distance(relevance, target)


class GivenMeasure(Measure):
    """A function of two maps as a measure: its own value where that has a derivative, and others.

    Args:
        function: ``function(clean, new)`` gives one number per example. A ``partial`` that binds
            ``k`` is taken to count the k most relevant features.
    """

    def __init__(self, function: MapMeasure) -> None:
        self._function = function
        k = getattr(function, "keywords", {}).get("k")
        self._k: int | None = k if isinstance(k, int) else None

    def __call__(self, clean: Tensor, new: Tensor) -> Tensor:
        """What the function says, (N,)."""
        found = self._function(clean, new)
        if not isinstance(found, Tensor) or found.shape != (len(clean),):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"measure must give one number per example, shape ({len(clean)},), got {shape}."
            )
        return found

    def losses(self, clean: Tensor) -> dict[str, Loss]:
        """Losses that suit most measures, and the measure where it can be differentiated."""
        k = self._k or max(1, clean[0].numel() // 10)
        found: dict[str, Loss] = {}
        if self._has_gradient(clean):
            found["the measure"] = _of_rows(lambda new, before: self(before, new), clean)
        near = TopKIntersection(min(k, clean[0].numel())).losses(clean)
        far = RankCorrelation().losses(clean)
        order = (near, far) if self._k else (far, near)
        return {**found, **order[0], **order[1]}

    def _has_gradient(self, clean: Tensor) -> bool:
        probe = (clean + clean.roll(1, -1)).detach().requires_grad_()
        with torch.enable_grad():
            value = self(clean, probe)
            if not value.requires_grad:
                return False
            (gradient,) = torch.autograd.grad(value.sum(), probe, allow_unused=True)
        return gradient is not None and bool((gradient != 0).any() & torch.isfinite(gradient).all())


def as_measure(measure: MapMeasure) -> Measure:
    """A measure with losses, from one or from a plain function of two maps."""
    if isinstance(measure, Measure):
        return measure
    if isinstance(measure, type) or not callable(measure):
        raise TypeError(
            "measure must be TopKIntersection(k=...), another Measure, or a function of two "
            f"relevance maps, got {measure!r}."
        )
    return GivenMeasure(measure)


def _of_rows(loss: Callable[[Tensor, Tensor], Tensor], fixed: Tensor) -> Loss:
    """A loss of relevance maps against something fixed that has a row for each example."""

    def of(relevance: Tensor, rows: Tensor | None) -> Tensor:
        return loss(relevance, fixed if rows is None else fixed[rows])

    return of

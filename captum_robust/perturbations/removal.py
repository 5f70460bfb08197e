"""Perturbations that set features to their baseline: one group, or a random set of groups."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from captum_robust._utils.randomness import standard_uniform
from captum_robust._utils.types import Tensors
from captum_robust.perturbations.base import Perturbation
from captum_robust.perturbations.groups import Groups
from captum_robust.perturbations.points import Points, flat


class Removal(Perturbation):
    r"""Perturbations that put features back to their baseline: :math:`I = Z \odot (x - x_0)`.

    :math:`Z` is a random 0-1 mask. Global attributions are multiplied by it alone.
    """

    multiplies_by_inputs = True

    @abstractmethod
    def masks(self, points: Points, n_samples: int, generator: torch.Generator) -> Tensors:
        """Draw Z, boolean tensors (N, n_samples, ...), one per input."""

    def mask_moment(self, points: Points) -> Tensor:
        """The exact E[ZZ'], (1, d, d) or (N, d, d) in float64."""
        return super().second_moment(points)

    def shifts(self, points: Points, n_samples: int, generator: torch.Generator) -> Tensors:
        """Draw I; see :meth:`Perturbation.shifts`."""
        masks = self.masks(points, n_samples, generator)
        pairs = zip(masks, points.differences, strict=True)
        return tuple(torch.where(z, d.unsqueeze(1), 0.0) for z, d in pairs)

    def _draw(
        self, points: Points, n_samples: int, generator: torch.Generator, in_global_form: bool
    ) -> tuple[Tensors, Tensors]:
        """Z or I, and the inputs without the removed features."""
        masks = self.masks(points, n_samples, generator)
        perturbed = remove(points, masks)
        if in_global_form:
            return tuple(z.to(x.dtype) for z, x in zip(masks, perturbed, strict=True)), perturbed
        pairs = zip(masks, points.differences, strict=True)
        return tuple(torch.where(z, d.unsqueeze(1), 0.0) for z, d in pairs), perturbed

    def second_moment(self, points: Points, multiply_by_inputs: bool | None = None) -> Tensor:
        """The exact E[ZZ'] or E[II']; see :meth:`Perturbation.second_moment`."""
        moment = self.mask_moment(points)
        if self._in_global_form(multiply_by_inputs):
            return moment.expand(len(points), -1, -1)
        d = torch.cat([flat(d).double() for d in points.differences], dim=1)
        return moment * d.unsqueeze(1) * d.unsqueeze(2)


def remove(points: Points, masks: Tensors) -> Tensors:
    """The inputs with the baseline where a mask (N or 1, n, ...) is true, (N, n, ...) each."""
    triples = zip(masks, points.inputs, points.baselines, strict=True)
    return tuple(torch.where(z, b.unsqueeze(1), x.unsqueeze(1)) for z, x, b in triples)


class GroupRemoval(Removal):
    """Removal of random sets of groups; a group is a feature, or several under a feature mask."""

    @abstractmethod
    def subsets(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """Draw which groups are removed, boolean, of the ``shape`` (N, n, K)."""

    @abstractmethod
    def moments(self, n_groups: int) -> tuple[float, float]:
        """Probability that a group is removed, and that two certain ones are."""

    def masks(self, points: Points, n_samples: int, generator: torch.Generator) -> Tensors:
        """Draw Z; see :meth:`Removal.masks`."""
        groups = Groups.of(points)
        shape = (len(points), n_samples, groups.n_groups)
        subsets = self.subsets(shape, generator).to(points.inputs[0].device)
        masks = groups.to_features(subsets)
        return tuple(z.expand(len(points), *z.shape[1:]) for z in masks)

    def mask_moment(self, points: Points) -> Tensor:
        """The exact E[ZZ']; see :meth:`Removal.mask_moment`."""
        groups = Groups.of(points)
        one, two = self.moments(groups.n_groups)
        device = points.inputs[0].device
        index = torch.arange(groups.n_groups, device=device)[None]
        index = index if groups.index is None else groups.index
        same = index.unsqueeze(1) == index.unsqueeze(2)
        return torch.where(same, one, torch.tensor(two, dtype=torch.float64, device=device))


class FeatureRemoval(GroupRemoval):
    r"""Removal of one feature, or one group of a feature mask, each equally likely.

    .. math:: I = e_i \odot (x - x_0), \quad i \sim U\{1, \dots, K\}

    The optimal global explanation is occlusion, Captum's ``FeatureAblation`` (Proposition 2.4 of
    Yeh et al. 2019). With a ``feature_mask`` the groups can be superpixels, or halves of an image;
    an optimal attribution is then spread over its group, where FeatureAblation gives every feature
    of the group the whole.

    Example:
        >>> import torch
        >>> from captum_robust.perturbations import FeatureRemoval, Points
        >>> x, groups = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0, 0, 1]])
        >>> points = Points.of(x, feature_mask=groups)
        >>> FeatureRemoval().shifts(points, 2, torch.Generator().manual_seed(0))
        (tensor([[[1., 2., 0.],
                 [0., 0., 3.]]]),)
    """

    def subsets(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """Draw one group each; see :meth:`GroupRemoval.subsets`."""
        n, n_samples, n_groups = shape
        chosen = torch.randint(
            n_groups, (n, n_samples, 1), device=generator.device, generator=generator
        )
        removed = torch.zeros(shape, dtype=torch.bool, device=generator.device)
        return removed.scatter_(2, chosen, True)

    def moments(self, n_groups: int) -> tuple[float, float]:
        """1 / K, and 0: one group at a time."""
        return 1 / n_groups, 0.0


class ShapleyRemoval(GroupRemoval):
    r"""Removal of a random set of features, distributed as the Shapley kernel.

    .. math:: P(Z = z) \propto \frac{K - 1}{\binom{K}{|z|}\,|z|\,(K - |z|)}, \quad 0 < |z| < K

    With the removal of all features, whose weight is infinite, as a side condition (attributions
    sum to :math:`f(x) - f(x_0)`), the optimal global explanation is the Shapley value (Proposition
    2.5 of Yeh et al. 2019; Lundberg and Lee 2017). The side condition is met by the explanation;
    draws remove some features, never all, unless there is but one.

    Example:
        >>> import torch
        >>> from captum_robust.perturbations import ShapleyRemoval, Points
        >>> points = Points.of(torch.tensor([[1.0, 2.0, 3.0]]))
        >>> ShapleyRemoval().shifts(points, 2, torch.Generator().manual_seed(0))
        (tensor([[[1., 0., 3.],
                 [0., 2., 3.]]]),)
    """

    def subsets(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """Draw sizes, then sets of these sizes; see :meth:`GroupRemoval.subsets`."""
        n, n_samples, n_groups = shape
        if n_groups == 1:
            return torch.ones(shape, dtype=torch.bool, device=generator.device)
        weights = self._size_probabilities(n_groups).to(generator.device)
        sizes = 1 + torch.multinomial(weights, n * n_samples, replacement=True, generator=generator)
        sizes = sizes.view(n, n_samples, 1)
        scores = standard_uniform(
            torch.empty(shape, dtype=torch.float32, device=generator.device), generator
        )
        ranks = scores.argsort(-1).argsort(-1)
        return ranks < sizes

    def design(
        self, n_groups: int, n_samples: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Subsets to estimate the optimum from: (n, K), and their probabilities (n,).

        All subsets where there are no more than ``n_samples``; otherwise draws, each with its
        complement, which halves their variance, and None for equal probabilities.
        """
        if n_groups < 30 and 2**n_groups - 2 <= n_samples:
            numbers = torch.arange(1, max(2, 2**n_groups - 1))
            subsets = (numbers.unsqueeze(1) >> torch.arange(n_groups)) % 2 == 1
            if n_groups == 1:
                return subsets, torch.ones(1, dtype=torch.float64)
            size = subsets.sum(1)
            ways = torch.tensor([math.comb(n_groups, k) for k in size.tolist()])
            return subsets, self._size_probabilities(n_groups)[size - 1] / ways
        half = self.subsets((1, (n_samples + 1) // 2, n_groups), generator)[0]
        return torch.stack([half, ~half], dim=1).flatten(0, 1)[:n_samples], None

    def moments(self, n_groups: int) -> tuple[float, float]:
        """1/2 by symmetry, and the mean of k (k - 1) / (K (K - 1)) over sizes k."""
        if n_groups == 1:
            return 1.0, 1.0
        k = torch.arange(1, n_groups, dtype=torch.float64)
        pairs = (self._size_probabilities(n_groups) * k * (k - 1)).sum().item()
        return 0.5, pairs / (n_groups * (n_groups - 1))

    @staticmethod
    def _size_probabilities(n_groups: int) -> Tensor:
        """Of the sizes 1 to K - 1: there are (K over k) sets of size k."""
        k = torch.arange(1, n_groups, dtype=torch.float64)
        weights = 1 / (k * (n_groups - k))
        return weights / weights.sum()

"""Groups of features that are removed together: from groups to features and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from captum_robust._utils.types import Tensors
from captum_robust.perturbations.points import Points, flat


@dataclass(frozen=True, eq=False)
class Groups:
    """Which group each feature belongs to, over all inputs together.

    Attributes:
        n_groups: How many groups, K.
        index: Integers from 0 to K - 1, (1, d) or (N, d): the group of each of the d features of
            all inputs one after another. None where every feature is its own group.
        shapes: Shapes of the inputs without the example dimension.

    Example:
        >>> import torch
        >>> from captum_robust.perturbations import Points
        >>> from captum_robust.perturbations.groups import Groups
        >>> halves = Points.of(torch.zeros(1, 4), feature_mask=torch.tensor([[7, 7, 9, 9]]))
        >>> groups = Groups.of(halves)
        >>> groups.n_groups
        2
        >>> groups.to_features(torch.tensor([[1.0, 5.0]]))
        (tensor([[1., 1., 5., 5.]]),)
    """

    n_groups: int
    index: Tensor | None
    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, points: Points) -> Groups:
        """Read the groups from the feature mask; numbers that it skips are not groups."""
        shapes = tuple(x.shape[1:] for x in points.inputs)
        if points.feature_mask is None:
            return cls(sum(shape.numel() for shape in shapes), None, shapes)
        n_rows = max(len(mask) for mask in points.feature_mask)
        masks = [flat(mask).expand(n_rows, -1) for mask in points.feature_mask]
        numbers, index = torch.cat(masks, dim=1).unique(return_inverse=True)
        return cls(len(numbers), index, shapes)

    def to_features(self, values: Tensor) -> Tensors:
        """Give each feature the number of its group.

        Args:
            values: (N, K), or (N, n, K); N may be 1 where all examples share.

        Returns:
            (N, ...) or (N, n, ...) per input; N is that of ``values`` or of the mask.
        """
        leading = values.shape[:-1]
        if self.index is not None:
            rows = torch.broadcast_shapes(leading[:1], self.index.shape[:1])
            leading = rows + leading[1:]
            index = self.index.view(len(self.index), *(1,) * (values.dim() - 2), -1)
            index = index.expand(*leading, index.shape[-1])
            values = values.expand(*leading, -1).gather(-1, index)
        parts = values.split([shape.numel() for shape in self.shapes], dim=-1)
        return tuple(
            part.reshape(*leading, *shape) for part, shape in zip(parts, self.shapes, strict=True)
        )

    def sums(self, features: Tensors) -> Tensor:
        """Sum over the features of each group: from (N, ...) per input to (N, K)."""
        values = torch.cat([flat(f) for f in features], dim=1)
        if self.index is None:
            return values
        n_rows = max(len(values), len(self.index))
        index, values = self.index.expand(n_rows, -1), values.expand(n_rows, -1)
        return values.new_zeros(n_rows, self.n_groups).scatter_add_(1, index, values)

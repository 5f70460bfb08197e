"""Removal of squares of an image: intervals of a series, cubes of a volume."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from captum_robust._utils.checks import check_count
from captum_robust._utils.types import Tensors
from captum_robust.perturbations.grid import Grid
from captum_robust.perturbations.points import Points
from captum_robust.perturbations.removal import Removal


class SquareRemoval(Removal):
    r"""Removal of a square of an image: every position of every size is equally likely.

    .. math:: I = Z \odot (x - x_0), \quad Z = \mathbb{1}[\text{pixel in the square}]

    A square goes through all channels. In a series it is an interval, in a volume a cube. Of
    several inputs one is touched at a time. The optimal explanation is that of
    :class:`captum_robust.attr.Square`. Yeh et al. 2019, Section 2.4; sizes 1 to 10 on 28 x 28 are
    theirs and make 5,605 squares.

    Args:
        sizes: Sides of the squares in pixels. The default suits images of about 28 x 28; take
            larger ones for larger images, ``range(8, 81, 8)`` for 224 x 224.
        channel_dim: Dimension of the inputs that holds channels (features of a series); all others
            but the first are places. A tuple gives one per input. None: 1 for images
            (N, C, H, W) and volumes (N, C, D, H, W); of inputs of three dimensions it must be said.

    Raises:
        ValueError: ``sizes`` is empty or has a number below one; on use, an input has fewer than
            three dimensions, its channels are not known, or it is smaller than a square.

    Example:
        >>> import torch
        >>> from captum_robust.perturbations import Points, SquareRemoval
        >>> points = Points.of(torch.ones(1, 1, 3, 3))
        >>> SquareRemoval(sizes=[2]).shifts(points, 1, torch.Generator().manual_seed(0))
        (tensor([[[[[1., 1., 0.],
                   [1., 1., 0.],
                   [0., 0., 0.]]]]]),)
    """

    takes_feature_mask = False

    def __init__(
        self,
        sizes: Iterable[int] = range(1, 11),
        channel_dim: int | tuple[int, ...] | None = None,
    ) -> None:
        if not isinstance(sizes, Iterable):
            raise TypeError(
                f"sizes must be several whole numbers, got {sizes!r}; give range(1, 11), or [5] "
                "for one."
            )
        self.sizes = sizes if isinstance(sizes, range) else tuple(sizes)
        if len(self.sizes) == 0:
            raise ValueError("sizes is empty; give at least one side in pixels.")
        for size in self.sizes:
            check_count(sizes=size)
        if not isinstance(sizes, range):
            self.sizes = tuple(map(int, self.sizes))
        for dim in channel_dim if isinstance(channel_dim, tuple) else (channel_dim,):
            if dim is not None and not isinstance(dim, int):
                raise TypeError(
                    "channel_dim must be a whole number, or a tuple with one per input, got "
                    f"{channel_dim!r}."
                )
        self.channel_dim = channel_dim

    def layouts(self, points: Points) -> list[Layout]:
        """Where each input has its channels and its places, and all squares of the places."""
        n_inputs = len(points.inputs)
        dim = self.channel_dim
        each = dim if isinstance(dim, tuple) else (dim,) * n_inputs
        if len(each) != n_inputs:
            raise ValueError(
                f"channel_dim has {len(each)} entries for {n_inputs} inputs; give one number, or a "
                "tuple with one for each."
            )
        return [
            Layout.of(x, channel_dim, self.sizes)
            for x, channel_dim in zip(points.inputs, each, strict=True)
        ]

    def masks(self, points: Points, n_samples: int, generator: torch.Generator) -> Tensors:
        """Draw Z; see :meth:`Removal.masks`."""
        layouts = self.layouts(points)
        # One number counts through the squares of the first input, then those of the second, ...
        number = torch.randint(
            sum(len(layout.grid) for layout in layouts),
            (len(points), n_samples),
            device=generator.device,
            generator=generator,
        ).to(points.inputs[0].device)
        masks = []
        for x, layout in zip(points.inputs, layouts, strict=True):
            n_squares = len(layout.grid)
            inside = (number >= 0) & (number < n_squares)
            mask = layout.grid.squares(number.clamp(0, n_squares - 1)).masks()
            mask = mask & inside.view(*inside.shape, *(1,) * len(layout.grid.shape))
            masks.append(layout.over_channels(mask).expand(-1, -1, *x.shape[1:]))
            number = number - n_squares
        return tuple(masks)

    def mask_moment(self, points: Points) -> Tensor:
        """The exact E[ZZ'], (1, d, d) in float64; see :meth:`Removal.mask_moment`."""
        layouts = self.layouts(points)
        blocks = []
        for x, layout in zip(points.inputs, layouts, strict=True):
            place = layout.places(x.device)
            blocks.append(layout.grid.normal_matrix(x.device)[place][:, place])
        return torch.block_diag(*blocks).unsqueeze(0) / sum(len(la.grid) for la in layouts)


@dataclass(frozen=True)
class Layout:
    """How an input (N, ...) is laid out: one dimension of channels, the others are places.

    Attributes:
        shape: Of an example.
        channel_dim: Dimension of the channels in an example, from 0.
        grid: All squares of the places.
    """

    shape: torch.Size
    channel_dim: int
    grid: Grid

    @classmethod
    def of(cls, x: Tensor, channel_dim: int | None, sizes: range | tuple[int, ...]) -> Layout:
        """Read the layout of an input, as far as it says what it is."""
        shape = tuple(x.shape)
        if x.dim() < 3:
            raise ValueError(
                "inputs must be images (N, C, H, W), series (N, C, T) or volumes (N, C, D, H, W) "
                f"for squares to be removed, got shape {shape}. Use FeatureRemoval or "
                "ShapleyRemoval for other data."
            )
        if channel_dim is None and x.dim() == 3:
            raise ValueError(
                f"channel_dim is needed for inputs of shape {shape}, which do not say what they "
                "are. Give channel_dim=1 for series (N, C, T), channel_dim=2 for series (N, T, C); "
                "make images without channels (N, 1, H, W) by inputs.unsqueeze(1)."
            )
        dim = 1 if channel_dim is None else channel_dim
        if not -x.dim() <= dim < x.dim() or dim % x.dim() == 0:
            raise ValueError(
                f"channel_dim must be from 1 to {x.dim() - 1} for inputs of shape {shape}, got "
                f"{dim}; dimension 0 holds the examples."
            )
        dim = dim % x.dim() - 1
        places = (*x.shape[1:][:dim], *x.shape[1:][dim + 1 :])
        return cls(x.shape[1:], dim, Grid(sizes, places))

    def over_channels(self, masks: Tensor) -> Tensor:
        """Masks (..., places) as they broadcast to examples, (..., *shape)."""
        return masks.unsqueeze(self.channel_dim - len(self.shape))

    def rows_of_channels(self, x: Tensor) -> Tensor:
        """(N, *shape) as (N, C, number of places)."""
        return x.movedim(1 + self.channel_dim, 1).flatten(2)

    def from_rows_of_channels(self, rows: Tensor) -> Tensor:
        """(N, C, number of places) as (N, *shape)."""
        return rows.unflatten(2, self.grid.shape).movedim(1, 1 + self.channel_dim)

    def places(self, device: torch.device) -> Tensor:
        """The number of the place of each feature of an example, in the order of the features."""
        numbers = torch.arange(prod(self.grid.shape), device=device).view(self.grid.shape)
        return self.over_channels(numbers).expand(self.shape).flatten()

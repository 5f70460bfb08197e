"""Removal of squares of an image, and their geometry, which spares every large matrix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_robust._utils.checks import check_count
from captum_robust._utils.types import Tensors
from captum_robust.perturbations.points import Points
from captum_robust.perturbations.removal import Removal


class SquareRemoval(Removal):
    r"""Removal of a square of an image: every position of every size is equally likely.

    .. math:: I = Z \odot (x - x_0), \quad Z = \mathbb{1}[\text{pixel in the square}]

    A square goes through all channels. Of several inputs one is touched at a time. The optimal
    explanation is that of :class:`captum_robust.attr.Square`. Yeh et al. 2019, Section 2.4; sizes 1
    to 10 on 28 x 28 are theirs and make 5,605 squares.

    Args:
        sizes: Sides of the squares in pixels. The default suits images of about 28 x 28; take
            larger ones for larger images, ``range(8, 81, 8)`` for 224 x 224.

    Raises:
        ValueError: ``sizes`` is empty or has a number below one; on use, an input has less than two
            dimensions beside the examples', or is smaller than a square.

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

    def __init__(self, sizes: Iterable[int] = range(1, 11)) -> None:
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

    def grid(self, x: Tensor) -> Grid:
        """All squares of an input (N, ..., H, W)."""
        if x.dim() < 3:
            raise ValueError(
                f"inputs must be images (N, ..., H, W) for squares to be removed, got shape "
                f"{tuple(x.shape)}. Use FeatureRemoval or ShapleyRemoval for other data."
            )
        return Grid(self.sizes, *x.shape[-2:])

    def masks(self, points: Points, n_samples: int, generator: torch.Generator) -> Tensors:
        """Draw Z; see :meth:`Removal.masks`."""
        grids = [self.grid(x) for x in points.inputs]
        counts = [len(grid) for grid in grids]
        number = torch.randint(
            sum(counts), (len(points), n_samples), device=generator.device, generator=generator
        ).to(points.inputs[0].device)
        masks = []
        for x, grid in zip(points.inputs, grids, strict=True):
            inside = (number >= 0) & (number < len(grid))
            mask = grid.squares(number.clamp(0, len(grid) - 1)).masks() & inside[..., None, None]
            shape = (*mask.shape[:2], *(1,) * (x.dim() - 3), *mask.shape[2:])
            masks.append(mask.view(shape).expand(*mask.shape[:2], *x.shape[1:]))
            number = number - len(grid)
        return tuple(masks)

    def mask_moment(self, points: Points) -> Tensor:
        """The exact E[ZZ'], (1, d, d) in float64; see :meth:`Removal.mask_moment`."""
        grids = [self.grid(x) for x in points.inputs]
        blocks = []
        for x, grid in zip(points.inputs, grids, strict=True):
            channels = x[0].numel() // (grid.height * grid.width)
            blocks.append(grid.pair_counts(x.device).repeat(channels, channels))
        return torch.block_diag(*blocks).unsqueeze(0) / sum(map(len, grids))


@dataclass(frozen=True)
class Grid:
    """All squares of some sizes in an image, numbered by size, row and column.

    Attributes:
        sizes: Sides of the squares in pixels.
        height: H of the image.
        width: W of the image.
    """

    sizes: range | tuple[int, ...]
    height: int
    width: int

    def __post_init__(self) -> None:
        side = min(self.height, self.width)
        if max(self.sizes) > side:
            raise ValueError(
                f"sizes: a square of {max(self.sizes)} does not fit into {self.height} x "
                f"{self.width} pixels. Give sizes up to {side}."
            )

    def __len__(self) -> int:
        return sum(self._positions(size) for size in self.sizes)

    def _positions(self, size: int) -> int:
        return (self.height - size + 1) * (self.width - size + 1)

    def squares(self, numbers: Tensor) -> Squares:
        """The squares with these numbers, from 0 to ``len(grid) - 1``, of any shape."""
        sizes = torch.tensor(list(self.sizes), device=numbers.device)
        counts = [self._positions(size) for size in self.sizes]
        ends = torch.tensor(counts, device=numbers.device).cumsum(0)
        kind = torch.searchsorted(ends, numbers.contiguous(), right=True)
        size = sizes[kind]
        place = numbers - (ends[kind] - torch.tensor(counts, device=numbers.device)[kind])
        n_columns = self.width - size + 1
        row = place.div(n_columns, rounding_mode="floor")
        return Squares(size, row, place - row * n_columns, self.height, self.width)

    def draw(self, n_squares: int, generator: torch.Generator) -> Squares:
        """Different squares, each set of them equally likely; all, in order, where that is n."""
        if n_squares >= len(self):
            return self.squares(torch.arange(len(self), device=generator.device))
        numbers = torch.randperm(len(self), device=generator.device, generator=generator)
        return self.squares(numbers[:n_squares])

    def pair_counts(self, device: torch.device) -> Tensor:
        """How many squares cover both of two pixels, (HW, HW) in float64: Z'Z over all squares.

        A square covers two pixels where its interval of rows covers their rows, and its interval
        of columns their columns.
        """
        counts = torch.zeros(
            self.height, self.width, self.height, self.width, dtype=torch.float64, device=device
        )
        for size in self.sizes:
            rows = _interval_pair_counts(self.height, size, device)
            columns = _interval_pair_counts(self.width, size, device)
            counts += rows[:, None, :, None] * columns[None, :, None, :]
        return counts.view(self.height * self.width, -1)


def _interval_pair_counts(length: int, size: int, device: torch.device) -> Tensor:
    """How many intervals of ``size`` cover both of two places, (length, length)."""
    place = torch.arange(length, dtype=torch.float64, device=device)
    low, high = torch.minimum(place[:, None], place), torch.maximum(place[:, None], place)
    first = (high - size + 1).clamp(min=0)
    last = low.clamp(max=length - size)
    return (last - first + 1).clamp(min=0)


@dataclass(frozen=True, eq=False)
class Squares:
    """Squares of an image: a 0-1 design matrix of n rows and H W columns that is never built.

    Attributes:
        size: Sides in pixels, (n,) or any shape.
        row: First rows.
        column: First columns.
        height: H of the image.
        width: W of the image.

    Example:
        >>> import torch
        >>> from captum_robust.perturbations.squares import Grid
        >>> squares = Grid((2,), 3, 3).squares(torch.tensor([0, 3]))
        >>> squares.masks().int()
        tensor([[[1, 1, 0],
                 [1, 1, 0],
                 [0, 0, 0]],
                [[0, 0, 0],
                 [0, 1, 1],
                 [0, 1, 1]]], dtype=torch.int32)
        >>> squares.gram(torch.ones(3, 3, dtype=torch.float64))
        tensor([[4., 1.],
                [1., 4.]], dtype=torch.float64)
    """

    size: Tensor
    row: Tensor
    column: Tensor
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.size)

    def __getitem__(self, part: slice) -> Squares:
        places = (self.size[part], self.row[part], self.column[part])
        return Squares(*places, self.height, self.width)

    def to(self, device: torch.device) -> Squares:
        """The same squares on another device."""
        places = (self.size.to(device), self.row.to(device), self.column.to(device))
        return Squares(*places, self.height, self.width)

    def masks(self) -> Tensor:
        """True in the square, (..., H, W)."""
        rows = _between(self.row, self.row + self.size, self.height)
        columns = _between(self.column, self.column + self.size, self.width)
        return rows.unsqueeze(-1) & columns.unsqueeze(-2)

    def sums(self, pixels: Tensor) -> Tensor:
        """Z p: sums over each square, from (..., H, W) to (..., n), by a summed-area table."""
        table = _summed_area(pixels)
        top, left = self.row, self.column
        return _rectangles(table, top, top + self.size, left, left + self.size)

    def spread(self, values: Tensor) -> Tensor:
        """Z'v: what all squares together put on each pixel, from (..., n) to (..., H, W).

        A value is added and taken away at the corners of its square; running sums do the rest.
        """
        leading = values.shape[:-1]
        corners = values.new_zeros(*leading, (self.height + 1) * (self.width + 1))
        bottom, right = self.row + self.size, self.column + self.size
        for sign, r, c in (
            (1, self.row, self.column), (-1, self.row, right),
            (-1, bottom, self.column), (1, bottom, right),
        ):  # fmt: skip
            place = (r * (self.width + 1) + c).expand_as(values)
            corners.scatter_add_(-1, place, sign * values)
        table = corners.view(*leading, self.height + 1, self.width + 1).cumsum(-2).cumsum(-1)
        return table[..., :-1, :-1]

    def gram(self, pixel_weights: Tensor) -> Tensor:
        """Z diag(w) Z', (n, n): the weight of the pixels that two squares share.

        Two squares share a rectangle, whose weight a summed-area table of w (H, W) knows.
        """
        table = _summed_area(pixel_weights)
        # Rows in parts: the scratch memory stays below that of the result.
        parts = [_shared(table, self[i : i + 128], self) for i in range(0, len(self), 128)]
        return torch.cat(parts)


def _shared(table: Tensor, a: Squares, b: Squares) -> Tensor:
    top, left = torch.maximum(a.row[:, None], b.row), torch.maximum(a.column[:, None], b.column)
    bottom = torch.minimum((a.row + a.size)[:, None], b.row + b.size)
    right = torch.minimum((a.column + a.size)[:, None], b.column + b.size)
    return _rectangles(table, top, torch.maximum(top, bottom), left, torch.maximum(left, right))


def _between(first: Tensor, end: Tensor, length: int) -> Tensor:
    place = torch.arange(length, device=first.device)
    return (place >= first.unsqueeze(-1)) & (place < end.unsqueeze(-1))


def _summed_area(pixels: Tensor) -> Tensor:
    """Sums over all that is above and to the left, (..., H + 1, W + 1)."""
    return torch.nn.functional.pad(pixels.cumsum(-2).cumsum(-1), (1, 0, 1, 0))


def _rectangles(table: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor) -> Tensor:
    flat, width = table.flatten(-2), table.shape[-1]

    def at(row: Tensor, column: Tensor) -> Tensor:
        return flat[..., row * width + column]

    return at(bottom, right) - at(top, right) - at(bottom, left) + at(top, left)

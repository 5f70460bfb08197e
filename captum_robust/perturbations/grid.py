r"""Squares as rows of a matrix that is never built.

n squares of an image of d pixels are a 0-1 matrix :math:`Z`, (n, d). What least squares needs of
it has a short form, in one dimension (intervals) as in two (squares) and three (cubes):

* :math:`Z p`, sums over squares. With the running sums of p over all dimensions, the sum over a box
  is a signed sum of the values at its :math:`2^D` corners (a summed-area table): plus at an end,
  minus at a beginning, the signs of the dimensions multiplied.
* :math:`Z' v`, what all squares put on each pixel: the transposed operation. Put the values at the
  corners, plus at a beginning and minus at an end, and form the running sums.
* :math:`Z\,\mathrm{diag}(w)\,Z'`, the Gram matrix, (n, n). Two squares share a box; the entry is
  the sum of w over that box, again from a summed-area table.
* :math:`Z'Z` over *all* squares of a size: how many of them cover two given pixels. A square covers
  both where its interval of rows covers both rows and its interval of columns both columns, and
  these are chosen independently. So the count is a product over the dimensions of the number of
  intervals that cover two places, which is in closed form.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import reduce
from math import prod

import torch
from torch import Tensor

# Rows of the Gram matrix that are made at a time: scratch memory stays below that of the result.
_ROWS = 128


@dataclass(frozen=True)
class Grid:
    """All squares of some sizes in an image, numbered by size, then by their first corner.

    Attributes:
        sizes: Sides of the squares in pixels.
        shape: Of the places: (H, W) of an image, (T,) of a series, (D, H, W) of a volume.
    """

    sizes: range | tuple[int, ...]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        side = min(self.shape)
        if max(self.sizes) > side:
            kind = {1: "an interval", 2: "a square"}.get(len(self.shape), "a cube")
            raise ValueError(
                f"sizes: {kind} of {max(self.sizes)} does not fit into "
                f"{' x '.join(map(str, self.shape))} places. Give sizes up to {side}."
            )

    def __len__(self) -> int:
        return sum(self._positions(size) for size in self.sizes)

    def _positions(self, size: int) -> int:
        return prod(length - size + 1 for length in self.shape)

    def squares(self, numbers: Tensor) -> Squares:
        """The squares with these numbers, from 0 to ``len(grid) - 1``, of any shape."""
        sizes = torch.tensor(list(self.sizes), device=numbers.device)
        counts = torch.tensor([self._positions(s) for s in self.sizes], device=numbers.device)
        ends = counts.cumsum(0)
        kind = torch.searchsorted(ends, numbers.contiguous(), right=True)
        size = sizes[kind]
        place = numbers - (ends[kind] - counts[kind])
        first: list[Tensor] = []
        for length in reversed(self.shape[1:]):  # the last dimension counts fastest
            n_places = length - size + 1
            rest = place.div(n_places, rounding_mode="floor")
            first.insert(0, place - rest * n_places)
            place = rest
        return Squares(size, (place, *first), self.shape)

    def draw(self, n_squares: int, generator: torch.Generator) -> Squares:
        """Different squares, each set of them equally likely; all, in order, where that is n."""
        if n_squares >= len(self):
            return self.squares(torch.arange(len(self), device=generator.device))
        numbers = torch.randperm(len(self), device=generator.device, generator=generator)
        return self.squares(numbers[:n_squares])

    def normal_matrix(self, device: torch.device) -> Tensor:
        """Z'Z over all squares, (d, d) in float64: how many cover both of two places."""
        n_dims = len(self.shape)
        counts = torch.zeros(*self.shape, *self.shape, dtype=torch.float64, device=device)
        for size in self.sizes:
            factors = []
            for k, length in enumerate(self.shape):
                shape = [1] * (2 * n_dims)
                shape[k] = shape[n_dims + k] = length
                factors.append(_covering_intervals(length, size, device).view(shape))
            counts += reduce(torch.mul, factors)
        return counts.view(prod(self.shape), -1)


def _covering_intervals(length: int, size: int, device: torch.device) -> Tensor:
    """How many intervals of ``size`` cover both of two places, (length, length).

    Those that begin at ``high - size + 1`` or later, at ``low`` or earlier, and end within.
    """
    place = torch.arange(length, dtype=torch.float64, device=device)
    low, high = torch.minimum(place[:, None], place), torch.maximum(place[:, None], place)
    first = (high - size + 1).clamp(min=0)
    last = low.clamp(max=length - size)
    return (last - first + 1).clamp(min=0)


@dataclass(frozen=True, eq=False)
class Squares:
    """Squares of an image: a 0-1 matrix Z of n rows and d columns that is never built.

    Attributes:
        size: Sides in pixels, (n,) or any shape.
        first: First row, first column, ...: one tensor of the shape of ``size`` per dimension.
        shape: Of the places, (H, W) of an image.

    Example:
        >>> import torch
        >>> from captum_robust.perturbations.grid import Grid
        >>> squares = Grid((2,), (3, 3)).squares(torch.tensor([0, 3]))
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
    first: tuple[Tensor, ...]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.size)

    def __getitem__(self, part: slice) -> Squares:
        return Squares(self.size[part], tuple(f[part] for f in self.first), self.shape)

    @property
    def end(self) -> tuple[Tensor, ...]:
        """One behind the last row, the last column, ..."""
        return tuple(f + self.size for f in self.first)

    def to(self, device: torch.device) -> Squares:
        """The same squares on another device."""
        return Squares(self.size.to(device), tuple(f.to(device) for f in self.first), self.shape)

    def masks(self) -> Tensor:
        """True in the square, (..., *shape)."""
        inside = []
        for k, (first, end) in enumerate(zip(self.first, self.end, strict=True)):
            place = torch.arange(self.shape[k], device=first.device)
            covered = (place >= first.unsqueeze(-1)) & (place < end.unsqueeze(-1))
            others = [1] * len(self.shape)
            others[k] = self.shape[k]
            inside.append(covered.view(*first.shape, *others))
        return reduce(torch.bitwise_and, inside)

    def matvec(self, pixels: Tensor) -> Tensor:
        """Z p: sums over each square, from (..., *shape) to (..., n)."""
        return _box_sums(_running_sums(pixels, len(self.shape)), self.first, self.end, self.shape)

    def rmatvec(self, values: Tensor) -> Tensor:
        """Z'v: what all squares together put on each pixel, from (..., n) to (..., *shape)."""
        leading = values.shape[:-1]
        padded = [length + 1 for length in self.shape]
        corners = values.new_zeros(*leading, prod(padded))
        # A running sum takes a value up where its square begins and drops it where it ends.
        for sign, corner in _corners(first=self.end, end=self.first):
            place = _flat_index(corner, self.shape).expand_as(values)
            corners.scatter_add_(-1, place, sign * values)
        table = corners.view(*leading, *padded)
        for dim in range(-len(self.shape), 0):
            table = table.cumsum(dim)
        for dim in range(-len(self.shape), 0):
            table = table.narrow(dim, 0, table.shape[dim] - 1)
        return table

    def gram(self, pixel_weights: Tensor) -> Tensor:
        """Z diag(w) Z', (n, n): the weight w (*shape) of the pixels that two squares share."""
        table = _running_sums(pixel_weights, len(self.shape))
        parts = [
            _shared_weight(table, self[i : i + _ROWS], self) for i in range(0, len(self), _ROWS)
        ]
        return torch.cat(parts)


def _shared_weight(table: Tensor, a: Squares, b: Squares) -> Tensor:
    """What two squares share begins where the later one does and ends where the first one does."""
    first = [torch.maximum(p[:, None], q) for p, q in zip(a.first, b.first, strict=True)]
    end = [torch.minimum(p[:, None], q) for p, q in zip(a.end, b.end, strict=True)]
    end = [torch.maximum(p, q) for p, q in zip(first, end, strict=True)]  # empty, not negative
    return _box_sums(table, first, end, a.shape)


def _running_sums(pixels: Tensor, n_dims: int) -> Tensor:
    """Sums over all that comes before in each of the last dimensions, each longer by one."""
    for dim in range(-n_dims, 0):
        pixels = pixels.cumsum(dim)
    return torch.nn.functional.pad(pixels, (1, 0) * n_dims)


def _box_sums(
    table: Tensor,
    first: tuple[Tensor, ...] | list[Tensor],
    end: tuple[Tensor, ...] | list[Tensor],
    shape: tuple[int, ...],
) -> Tensor:
    """Sums over boxes from running sums, by inclusion and exclusion over the corners."""
    flat = table.flatten(-len(shape))
    total: Tensor | None = None
    for sign, corner in _corners(first, end):
        at = flat[..., _flat_index(corner, shape)]
        total = at if total is None else (total + at if sign > 0 else total - at)
    assert total is not None
    return total


def _corners(
    first: tuple[Tensor, ...] | list[Tensor], end: tuple[Tensor, ...] | list[Tensor]
) -> list[tuple[int, tuple[Tensor, ...]]]:
    """The corners of boxes with their signs: minus for each dimension in which it is the first.

    The corner of all ends comes first, with a plus: the sum of all that comes before it.
    """
    choices = itertools.product(*zip(end, first, strict=True))
    signs = itertools.product(*((1, -1) for _ in first))
    return [(prod(sign), corner) for sign, corner in zip(signs, choices, strict=True)]


def _flat_index(corner: tuple[Tensor, ...], shape: tuple[int, ...]) -> Tensor:
    """Where a corner is in a flattened table that is longer by one in each dimension."""
    index = corner[0]
    for place, length in zip(corner[1:], shape[1:], strict=True):
        index = index * (length + 1) + place
    return index

"""The integers from which every certificate by sampling follows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from captum_robust._utils.captum import format_output
from captum_robust._utils.randomness import mixed
from captum_robust._utils.types import Tensors

Ranges = tuple[tuple[int, int, int], ...]
"""Which copies were counted: (seed, first, one past the last), sorted."""


@dataclass(frozen=True)
class SmoothingCounts:
    """In how many noisy copies each feature was among the most relevant.

    Made by :func:`collect_counts`. The explanation and its certificates at all radii, k and alpha
    follow from it without another pass of the model. Counts of other copies of the same examples
    add up: ``a + b``, in any order, from any process or device.
    """

    marks: Tensor
    """(N, d) int64 on the CPU, for the d features of an example."""
    ranges: Ranges
    """Which copies were counted: triples (seed, first copy, one past the last)."""
    shapes: tuple[tuple[int, ...], ...]
    """The shapes of the maps of an example, one per input, without channels."""
    n_kept: int
    """How many features each copy marks."""
    stdev: float
    """Standard deviation of the noise, in units of the inputs."""
    fingerprint: str
    """Of the model, the explanation, its settings and the examples: what may be added up."""
    agreements: Tensor | None = None
    """(N,) int64: copies with the prediction of the clean example; None where not counted."""
    is_tuple: bool = False
    """Whether the inputs are a tuple."""

    @property
    def n_samples(self) -> int:
        """Number of copies of each example."""
        return sum(stop - start for _, start, stop in self.ranges)

    @property
    def n_features(self) -> int:
        """d, the number of features of an example."""
        return sum(math.prod(shape) for shape in self.shapes)

    def shares(self) -> Tensor | Tensors:
        """The explanation: shares in [0, 1], a map (N, ...) per input, float64."""
        return self.maps(self.marks.double() / self.n_samples)

    def maps(self, values: Tensor) -> Tensor | Tensors:
        """(N, d) as maps (N, ...), one per input."""
        parts = values.split([math.prod(shape) for shape in self.shapes], dim=1)
        maps = tuple(v.reshape(-1, *s) for v, s in zip(parts, self.shapes, strict=True))
        return format_output(self.is_tuple, maps)

    def __add__(self, other: SmoothingCounts) -> SmoothingCounts:
        """Counts of the copies of both.

        Raises:
            ValueError: They belong to other examples, models or settings, or share copies.
        """
        if not isinstance(other, SmoothingCounts):
            return NotImplemented
        if self.fingerprint != other.fingerprint:
            raise ValueError(
                "counts of another model, explanation, setting or other examples cannot be added."
            )
        if (self.agreements is None) != (other.agreements is None):
            raise ValueError("counts with and without predictions cannot be added.")
        agreements = None
        if self.agreements is not None and other.agreements is not None:
            agreements = self.agreements + other.agreements
        ranges = _joined(self.ranges + other.ranges)
        return replace(self, marks=self.marks + other.marks, ranges=ranges, agreements=agreements)

    def save(self, path: str | Path) -> None:
        """Write a file of numpy arrays, without pickle; the old file stays until all is written."""
        path = Path(path)
        arrays = {
            "marks": self.marks.numpy(),
            # Seeds have up to 64 bits, more than a signed integer of numpy.
            "ranges": np.array([[str(n) for n in r] for r in self.ranges], dtype=np.str_),
            "n_kept": np.array(self.n_kept),
            "stdev": np.array(self.stdev),
            "fingerprint": np.array(self.fingerprint),
            "is_tuple": np.array(self.is_tuple),
            **{f"shape_{i}": np.array(shape) for i, shape in enumerate(self.shapes)},
        }
        if self.agreements is not None:
            arrays["agreements"] = self.agreements.numpy()
        unfinished = path.with_name(path.name + ".unfinished")
        with unfinished.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)
        unfinished.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> SmoothingCounts:
        """Read a file that :meth:`save` wrote; it is never unpickled."""
        with np.load(path, allow_pickle=False) as file:
            shapes = [tuple(file[f"shape_{i}"].tolist()) for i in range(_n_shapes(file.files))]
            agreements = file["agreements"] if "agreements" in file.files else None
            return cls(
                marks=torch.from_numpy(file["marks"]),
                ranges=tuple((int(a), int(b), int(c)) for a, b, c in file["ranges"]),
                shapes=tuple(shapes),
                n_kept=int(file["n_kept"]),
                stdev=float(file["stdev"]),
                fingerprint=str(file["fingerprint"]),
                agreements=None if agreements is None else torch.from_numpy(agreements),
                is_tuple=bool(file["is_tuple"]),
            )


def _n_shapes(names: list[str]) -> int:
    return sum(name.startswith("shape_") for name in names)


def _joined(ranges: Ranges) -> Ranges:
    """Sorted, with neighbours made one; copies that occur twice are refused."""
    joined: list[tuple[int, int, int]] = []
    for seed, start, stop in sorted(ranges):
        if joined and joined[-1][0] == seed and start < joined[-1][2]:
            raise ValueError(
                f"copies {start} to {min(stop, joined[-1][2]) - 1} of seed {seed} are in both "
                "counts. Give each run copies of its own (first_copy), or another seed."
            )
        if joined and joined[-1][0] == seed and start == joined[-1][2]:
            joined[-1] = (seed, joined[-1][1], stop)
        else:
            joined.append((seed, start, stop))
    for one, other in combinations(joined, 2):
        if one[0] != other[0] and _same_noise(one, other):
            raise ValueError(
                f"seeds {one[0]} and {other[0]} draw some of the same copies, which count once. "
                "Give one of the runs another seed."
            )
    return tuple(joined)


def _same_noise(one: tuple[int, int, int], other: tuple[int, int, int]) -> bool:
    """Whether copies of two seeds begin from the same state of the generator, which has 32 bits."""
    (a, n), (b, m) = ((mixed(seed) + start, stop - start) for seed, start, stop in (one, other))
    return (b - a) % 2**32 < n or (a - b) % 2**32 < m

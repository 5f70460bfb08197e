"""Draws that do not depend on how the work that uses them is cut into batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor

from captum_robust._utils.types import Tensors
from captum_robust.perturbations.points import Points

Sample = Callable[[int], tuple[Tensors, Tensors]]
"""From a number of draws n to what multiplies attributions and to x - I, (N, n, ...) each."""

Baselines = TypeVar("Baselines")

# Numbers in a block of draws. Its size never depends on how many draws are asked for at a time.
_BLOCK = 2**18


class Stream:
    """Hands out samples of a perturbation, from blocks of a fixed size.

    A generator gives other numbers where it is asked for them in other portions. The stream always
    asks for the same portions, and cuts them as its user needs them.

    Args:
        points: What is perturbed.
        sample: Draws n perturbations of each example of ``points``; distribution, generator and
            form are bound (``Perturbation.stream`` does that).
    """

    def __init__(self, points: Points, sample: Sample) -> None:
        self.points = points
        self._sample = sample
        self._block_size = max(1, _BLOCK // sum(x.numel() for x in points.inputs))
        self._rest: list[Tensor] = []

    def take(self, n_samples: int) -> tuple[Tensors, Tensors]:
        """The next samples of each example: what multiplies attributions, and x - I."""
        parts = []
        missing = n_samples
        while missing > 0:
            if not self._rest or len(self._rest[0][0]) == 0:
                multipliers, perturbed = self._sample(self._block_size)
                self._rest = [*multipliers, *perturbed]
            parts.append([tensor[:, :missing] for tensor in self._rest])
            self._rest = [tensor[:, missing:] for tensor in self._rest]
            missing -= parts[-1][0].shape[1]
        whole = tuple(torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True))
        half = len(whole) // 2
        return whole[:half], whole[half:]


def copies_of(n_examples: int, n_rows: int) -> int:
    """How often each of ``n_examples`` was repeated to make ``n_rows``."""
    if n_rows % n_examples:
        raise ValueError(
            f"n_examples: {n_rows} rows are not copies of {n_examples} examples. Give the number "
            "of examples that the metric is given."
        )
    return n_rows // n_examples


def first_copies(baselines: Baselines, n_copies: int, n_examples: int) -> Baselines:
    """One copy of each example, of baselines that a metric may have repeated as it did inputs."""

    def first(value: object) -> object:
        if isinstance(value, tuple):
            return tuple(map(first, value))
        if isinstance(value, Tensor) and value.dim() and len(value) == n_copies * n_examples:
            return value[::n_copies]
        return value

    return cast("Baselines", first(baselines))

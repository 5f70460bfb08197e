"""Draws that do not depend on how the work that uses them is cut into batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from captum_robust._utils.types import Tensors
from captum_robust.perturbations.points import Points

if TYPE_CHECKING:
    from captum_robust.perturbations.base import Perturbation

# Numbers in a block of draws. Its size never depends on how many draws are asked for at a time.
_BLOCK = 2**18


class Stream:
    """Hands out samples of a perturbation, from blocks of a fixed size.

    Args:
        perturbation: The distribution.
        points: What is perturbed.
        generator: Where random numbers come from.
        multiply_by_inputs: As in ``Perturbation.sample``.
    """

    def __init__(
        self,
        perturbation: Perturbation,
        points: Points,
        generator: torch.Generator,
        multiply_by_inputs: bool | None,
    ) -> None:
        self.points = points
        self._perturbation, self._generator = perturbation, generator
        self._multiply_by_inputs = multiply_by_inputs
        self._block_size = max(1, _BLOCK // sum(x.numel() for x in points.inputs))
        self._rest: list[Tensor] = []

    def take(self, n_samples: int) -> tuple[Tensors, Tensors]:
        """The next samples of each example: what multiplies attributions, and x - I."""
        parts = []
        missing = n_samples
        while missing > 0:
            if not self._rest or len(self._rest[0][0]) == 0:
                self._rest = self._draw()
            parts.append([tensor[:, :missing] for tensor in self._rest])
            self._rest = [tensor[:, missing:] for tensor in self._rest]
            missing -= parts[-1][0].shape[1]
        whole = tuple(torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True))
        half = len(whole) // 2
        return whole[:half], whole[half:]

    def _draw(self) -> list[Tensor]:
        multipliers, perturbed = self._perturbation.sample(
            self.points, self._block_size, self._generator, self._multiply_by_inputs
        )
        return [*multipliers, *perturbed]


def copies_of(n_examples: int, n_rows: int) -> int:
    """How often each of ``n_examples`` was repeated to make ``n_rows``."""
    if n_rows % n_examples:
        raise ValueError(
            f"n_examples: {n_rows} rows are no copies of {n_examples} examples. Give the number of "
            "examples that the metric is given."
        )
    return n_rows // n_examples


def first_copies(value: Any, n_copies: int, n_examples: int) -> Any:
    """One copy of each example, of baselines that a metric may have repeated as it did inputs."""
    if isinstance(value, tuple):
        return tuple(first_copies(v, n_copies, n_examples) for v in value)
    if isinstance(value, Tensor) and value.dim() and len(value) == n_copies * n_examples:
        return value[::n_copies]
    return value

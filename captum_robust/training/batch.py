"""What a training objective is given: the examples of one step, and its random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

_CLASSES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def derived_seed(*parts: int | str) -> int:
    """A seed that is a function of ``parts`` alone, well mixed: neighbours have nothing in common.

    Example:
        >>> derived_seed(0, "step", 7) == derived_seed(0, "step", 7) != derived_seed(0, "step", 8)
        True
    """
    digest = blake2b(repr(parts).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "little")


class Draws:
    """The random numbers of one step, the same however many processes share its batch.

    Each process draws for the examples of all of them and takes its own. The numbers depend on the
    seed alone, so nothing about them needs to be saved with a checkpoint.

    Args:
        seed: Seed of this step, the same on every process.
        device: Where the numbers are drawn.
        rank: Which of the processes this is.
        n_processes: How many there are.
    """

    def __init__(
        self, seed: int, device: torch.device | str = "cpu", rank: int = 0, n_processes: int = 1
    ) -> None:
        self._generator = torch.Generator(device).manual_seed(seed)
        self._rank, self._n_processes = rank, n_processes

    def uniform(self, like: Tensor, *shape: int) -> Tensor:
        """Uniform on (-1, 1), ``(N, *shape)`` for the N rows of ``like``, in its dtype."""
        return 2 * self._own(torch.rand, like, shape) - 1

    def normal(self, like: Tensor, *shape: int) -> Tensor:
        """Standard normal, ``(N, *shape)`` for the N rows of ``like``, in its dtype."""
        return self._own(torch.randn, like, shape)

    def _own(self, draw: Any, like: Tensor, shape: Sequence[int]) -> Tensor:
        n = len(like)
        everyone = draw(
            (n * self._n_processes, *shape),
            generator=self._generator, device=self._generator.device, dtype=like.dtype,
        )  # fmt: skip
        return everyone[n * self._rank : n * (self._rank + 1)]


@dataclass(frozen=True)
class Batch:
    """Examples of one step.

    Attributes:
        inputs: (N, ...), floating-point.
        labels: (N,), classes; None where the loader gives none.
        draws: Random numbers of this step.
        repeat: How many steps were taken on these very inputs before this one.
    """

    inputs: Tensor
    labels: Tensor | None
    draws: Draws
    repeat: int = 0


def unpack(loaded: Any) -> tuple[Tensor, Tensor | None]:
    """Inputs and labels of what a loader yields: a tensor, or a sequence that starts with inputs.

    What comes second counts as labels if it is an integer class for each example.

    Raises:
        TypeError: It is neither.
        ValueError: The inputs are no floating-point batch.
    """
    second = None
    if isinstance(loaded, Tensor):
        inputs = loaded
    elif isinstance(loaded, Sequence) and loaded and isinstance(loaded[0], Tensor):
        inputs, second = loaded[0], loaded[1] if len(loaded) > 1 else None
    else:
        raise TypeError(
            f"loader must yield inputs or (inputs, labels, ...), got {type(loaded).__name__}. "
            "Give the DataLoader a collate_fn that returns them."
        )
    if not inputs.is_floating_point() or inputs.dim() < 2 or len(inputs) == 0:
        raise ValueError(
            "loader must yield floating-point inputs with a batch dimension and examples, got "
            f"{inputs.dtype} of shape {tuple(inputs.shape)}."
        )
    if not isinstance(second, Tensor) or second.shape != inputs.shape[:1]:
        return inputs, None
    return inputs, second.long() if second.dtype in _CLASSES else None

"""A bar over the steps of an audit: every measurement of every example."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm


class Progress:
    """How far an audit is. Batches that are resumed, or are another process's, count as done.

    Args:
        n_examples: In the data; None where the loader does not tell.
        n_steps: Steps for each example.
        is_shown: Whether there is a bar.
    """

    def __init__(self, n_examples: int | None = None, n_steps: int = 1, is_shown: bool = False):
        total = None if n_examples is None else n_examples * n_steps
        self._n_steps = n_steps
        self._bar = tqdm(total=total, desc="audit", unit="step", disable=not is_shown)

    def advance(self, n_examples: int) -> None:
        """One more step is done of so many examples."""
        self._bar.update(n_examples)

    def reach(self, n_examples: int) -> None:
        """All steps are done of the first examples, so many."""
        self._bar.update(n_examples * self._n_steps - self._bar.n)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def count_examples(loader: Iterable[Any]) -> int | None:
    """How many examples a loader yields, where it can be told without reading them.

    Example:
        >>> import torch
        >>> from captum_robust.audit.progress import count_examples
        >>> count_examples([[torch.zeros(3, 2), torch.zeros(3)], torch.zeros(2, 2)])
        5
    """
    if isinstance(loader, DataLoader):
        data = loader.dataset
        return len(data) if isinstance(data, Sized) and not loader.drop_last else None
    if not isinstance(loader, Sequence):
        return None
    inputs = [batch if isinstance(batch, Tensor) else batch[0] for batch in loader]
    return sum(len(x) for x in inputs) if all(isinstance(x, Tensor) for x in inputs) else None

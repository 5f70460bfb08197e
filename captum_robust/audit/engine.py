"""The loop over a loader: batches shared by processes, resumed, halved where memory ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from captum_robust.audit.progress import Progress
from captum_robust.audit.store import BatchResult, BatchStore

Measure = Callable[[Tensor, "Tensor | None", int], BatchResult]
"""From inputs, labels and the number of the first example to what was measured."""


class Processes:
    """This process among those that share an audit, through accelerate where it was launched."""

    def __init__(self) -> None:
        self._state: Any = None
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if launched > 1:
            from accelerate import PartialState

            # Without `cpu` it takes processes without devices for one process each.
            self._state = PartialState(cpu=_only_processors())
            if self._state.num_processes != launched:
                raise ValueError(
                    f"{launched} processes were launched and accelerate uses "
                    f"{self._state.num_processes}, so each would audit by itself. Without devices, "
                    "set ACCELERATE_USE_CPU=true."
                )

    @property
    def rank(self) -> int:
        """The number of this process."""
        return 0 if self._state is None else self._state.process_index

    @property
    def count(self) -> int:
        """How many there are."""
        return 1 if self._state is None else self._state.num_processes

    @property
    def device(self) -> torch.device | None:
        """The device that accelerate gives to this process; None: the model's own."""
        return None if self._state is None else self._state.device

    def wait(self) -> None:
        """Until all are here."""
        if self._state is not None:
            self._state.wait_for_everyone()


def _only_processors() -> bool:
    asked = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes")
    devices = (getattr(torch, name, None) for name in ("cuda", "xpu", "npu"))
    return asked or not any(device and device.is_available() for device in devices)


def run(
    measure: Measure,
    loader: Iterable[Any],
    store: BatchStore,
    processes: Processes,
    progress: Progress | None = None,
) -> int:
    """Measure every batch that the store does not have.

    The batches are dealt out to the processes in turn. They are read in order by each, so the
    loader must give the same batches every time: no shuffling.

    Returns:
        The number of batches.

    Raises:
        ValueError: The loader yields nothing, or the store has other examples.
    """
    first, number = 0, -1
    for number, batch in enumerate(loader):
        inputs, labels = unpack(batch)
        if number % processes.count == processes.rank:
            digest = _digest(inputs, labels)
            if not store.has(number, digest):
                store.save(number, _measured(measure, inputs, labels, first), digest)
        first += len(inputs)
        if progress is not None:
            progress.reach(first)
    if number < 0:
        raise ValueError("loader yields nothing. Check its data set and drop_last.")
    processes.wait()
    return number + 1


def unpack(batch: Any) -> tuple[Tensor, Tensor | None]:
    """Inputs and labels of what a loader yields.

    Raises:
        TypeError: It yields neither a tensor nor a list that begins with one.
    """
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, Sequence) and batch and isinstance(batch[0], Tensor):
        labels = batch[1] if len(batch) > 1 and isinstance(batch[1], Tensor) else None
        return batch[0], labels
    raise TypeError(
        f"loader must yield tensors or (inputs, labels), got {type(batch).__name__}. Wrap the "
        "data set so that it gives these."
    )


def _digest(inputs: Tensor, labels: Tensor | None) -> str:
    """What tells the examples of a batch from others."""
    total = sha256()
    for tensor in (inputs, labels):
        if tensor is not None:
            total.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().flatten()
            total.update(flat.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def _measured(measure: Measure, inputs: Tensor, labels: Tensor | None, first: int) -> BatchResult:
    """What is measured of a batch, in two halves where the device has no memory for the whole."""
    try:
        return measure(inputs, labels, first)
    except torch.cuda.OutOfMemoryError:
        if len(inputs) == 1:
            raise
    half = len(inputs) // 2
    result = _measured(measure, inputs[:half], None if labels is None else labels[:half], first)
    rest = None if labels is None else labels[half:]
    result.extend(_measured(measure, inputs[half:], rest, first + half))
    return result

"""All randomness of a run follows from one seed: steps, batches, and the global random states."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor


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
        self._seed, self._device = seed, device
        self._generator = torch.Generator(device).manual_seed(seed)
        self._rank, self._n_processes = rank, n_processes

    def uniform(self, like: Tensor, *shape: int) -> Tensor:
        """Uniform on (-1, 1), ``(N, *shape)`` for the N rows of ``like``, in its dtype."""
        return 2 * self._own(torch.rand, like, shape) - 1

    def normal(self, like: Tensor, *shape: int) -> Tensor:
        """Standard normal, ``(N, *shape)`` for the N rows of ``like``, in its dtype."""
        return self._own(torch.randn, like, shape)

    def generator(self) -> torch.Generator:
        """A generator for functions that draw by themselves, the same whenever it is asked for."""
        return torch.Generator(self._device).manual_seed(derived_seed(self._seed, "others"))

    def _own(self, draw: Callable[..., Tensor], like: Tensor, shape: Sequence[int]) -> Tensor:
        n = len(like)
        everyone = draw(
            (n * self._n_processes, *shape),
            generator=self._generator, device=self._generator.device, dtype=like.dtype,
        )  # fmt: skip
        return everyone[n * self._rank : n * (self._rank + 1)]


def epoch_batches(loader: Any, seed: int, epoch: int) -> Generator[tuple[Any, bool], None, None]:
    """What a loader yields in an epoch, and whether it is the last.

    It is a function of seed and epoch, augmentation included: its random numbers are a stream
    apart from those of the model. So an interrupted epoch can be read again up to any batch,
    also where the sampler or the data set draws. All processes have the same stream.
    """
    seed = derived_seed(seed, "data", epoch)
    stream = _Stream(seed)
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(epoch)
    for generator in _generators_of(loader):
        generator.manual_seed(seed)
    nothing = object()
    try:
        with stream.current():
            iterator = iter(loader)
            ahead = next(iterator, nothing)
        while ahead is not nothing:
            loaded = ahead
            with stream.current():
                ahead = next(iterator, nothing)
            yield loaded, ahead is nothing
    finally:
        # Where a step failed, accelerate would go on as if this loader were still read.
        if hasattr(loader, "end"):
            loader.end()


@contextmanager
def preserve_randomness(device: torch.device, loader: Any) -> Iterator[None]:
    """Put back the global random states, and those of the loader's generators."""
    generators = [(g, g.get_state()) for g in _generators_of(loader)]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    others = [] if device.type == "cpu" else range(getattr(torch, device.type).device_count())
    kind = "cuda" if device.type == "cpu" else device.type
    try:
        with torch.random.fork_rng(devices=others, device_type=kind):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for generator, state in generators:
            generator.set_state(state)


class _Stream:
    """Global random states of its own, put in place for as long as a block runs."""

    def __init__(self, seed: int) -> None:
        self._torch = torch.Generator().manual_seed(seed).get_state()
        self._python = random.Random(seed).getstate()
        self._numpy = np.random.RandomState(seed % 2**32).get_state()

    @contextmanager
    def current(self) -> Iterator[None]:
        others = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
        _set(self._torch, self._python, self._numpy)
        try:
            yield
        finally:
            self._torch, self._python = torch.get_rng_state(), random.getstate()
            self._numpy = np.random.get_state()  # noqa: NPY002
            _set(*others)


def _set(torch_state: Tensor, python: Any, numpy: Any) -> None:
    torch.set_rng_state(torch_state)
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002


def _generators_of(loader: Any) -> list[torch.Generator]:
    """The generators of a loader and its sampler, each once."""
    holders = (loader, getattr(loader, "sampler", None))
    found = [getattr(holder, "generator", None) for holder in holders]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())

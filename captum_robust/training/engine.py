"""Where a training step runs: devices, processes and precision, by Hugging Face accelerate."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from captum_robust.training.batch import Draws, derived_seed


class Engine:
    """An accelerator, with the randomness of a run around it.

    Args:
        accelerator: The user's, or None for one with accelerate's defaults, which
            ``accelerate launch`` and ``torchrun`` configure.
        seed: Seed of the run.

    Raises:
        ImportError: accelerate is not installed.
        ValueError: Several processes were launched, and the accelerator knows of one.
    """

    def __init__(self, accelerator: Any, seed: int) -> None:
        try:
            from accelerate import Accelerator
            from accelerate.state import GradientState
            from accelerate.utils import DataLoaderConfiguration
        except ImportError as error:
            raise ImportError("training needs accelerate: pip install accelerate") from error
        self.accumulation = 1
        if accelerator is None:
            with _settings_kept(GradientState):
                order = DataLoaderConfiguration(use_seedable_sampler=True, data_seed=seed)
                accelerator = Accelerator(cpu=_only_processors(), dataloader_config=order)
        else:
            self.accumulation = accelerator.gradient_accumulation_steps
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if launched > 1 and accelerator.num_processes == 1:
            raise ValueError(
                f"accelerator: {launched} processes were launched and it uses this one alone, so "
                "each would train by itself. Without devices, make it with Accelerator(cpu=True)."
            )
        self.accelerator, self.seed = accelerator, seed

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.accelerator.device

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and shows."""
        return self.accelerator.is_main_process

    @property
    def n_processes(self) -> int:
        """How many processes share each step."""
        return self.accelerator.num_processes

    @contextmanager
    def shared(self, loader: Iterable) -> Iterator[Iterable]:
        """A loader that gives this process its share, on its device; the user's is put back.

        Raises:
            TypeError: Several processes are to share what is no DataLoader.
        """
        if isinstance(loader, DataLoader):
            sampler = getattr(loader.batch_sampler, "sampler", None)
            try:
                yield self.accelerator.prepare_data_loader(loader)
            finally:
                if sampler is not None:
                    loader.batch_sampler.sampler = sampler  # type: ignore[union-attr]
        elif self.n_processes > 1:
            raise TypeError(
                f"loader must be a DataLoader to be shared by {self.n_processes} processes, got "
                f"{type(loader).__name__}."
            )
        else:
            yield loader

    def draws(self, number: int) -> Draws:
        """The random numbers of a step."""
        seed = derived_seed(self.seed, "draws", number)
        return Draws(seed, self.device, self.accelerator.process_index, self.n_processes)

    def seed_step(self, number: int) -> None:
        """Seed what a forward pass draws globally, such as dropout, for one step."""
        torch.manual_seed(derived_seed(self.seed, "model", number, self.accelerator.process_index))

    def mean(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Mean over the processes."""
        stacked = torch.stack([value.detach().float() for value in values.values()])
        return dict(zip(values, self.accelerator.reduce(stacked, "mean").tolist(), strict=True))

    def total(self, sums: dict[str, list[float]]) -> dict[str, list[float]]:
        """Sums by name, each a list of numbers, over the processes."""
        if self.n_processes == 1:
            return sums
        from accelerate.utils import gather_object

        total: dict[str, list[float]] = {}
        for one in gather_object([sums]):
            for name, values in one.items():
                known = total.get(name, [0.0] * len(values))
                total[name] = [a + b for a, b in zip(known, values, strict=True)]
        return total

    def batches(self, loader: Any, epoch: int) -> Generator[tuple[Any, bool], None, None]:
        """What the loader yields in an epoch, and whether it is the last.

        It is a function of seed and epoch, augmentation included: its random numbers are a stream
        apart from those of the model. So an interrupted epoch can be read again up to any batch,
        whatever the sampler and the data set do. All processes have the same stream.
        """
        seed = derived_seed(self.seed, "data", epoch)
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
    def step(self, whole: bool) -> Iterator[Callable[[Tensor], None]]:
        """A step, which updates the weights if it is ``whole``; yields what does backward."""
        accelerator = self.accelerator
        accelerator.sync_gradients = whole
        # accelerate divides by the number of its own settings, which hold for the whole process.
        factor = accelerator.gradient_accumulation_steps / self.accumulation
        try:
            yield lambda loss: accelerator.backward(loss * factor)
        finally:
            accelerator.sync_gradients = True

    @contextmanager
    def prepared(self, model: nn.Module, optimizer: Any) -> Iterator[tuple[nn.Module, Any]]:
        """Model and optimiser as the accelerator runs them; the model is unwrapped at the end."""
        wrapped, stepper = self.accelerator.prepare(model, optimizer)
        try:
            yield wrapped, stepper
        finally:
            self.accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)


@contextmanager
def _settings_kept(state: Any) -> Iterator[None]:
    """Keep the user's gradient accumulation, which a new accelerator sets for the whole process."""
    before = dict(state._shared_state)
    yield
    if before:
        state._shared_state["plugin_kwargs"] = before["plugin_kwargs"]


def _only_processors() -> bool:
    """Whether several processes were launched where there is no device for them."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    devices = (getattr(torch, name, None) for name in ("cuda", "xpu", "npu"))
    return launched > 1 and not any(device and device.is_available() for device in devices)


@contextmanager
def randomness_kept(device: torch.device, loader: Any) -> Iterator[None]:
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

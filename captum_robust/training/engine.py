"""Where a training step runs: devices, processes and precision, by Hugging Face accelerate."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from captum_robust.training.randomness import Draws, derived_seed


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

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """What scales the losses of float16, with a ``state_dict``; None in other precisions."""
        return self.accelerator.scaler

    @contextmanager
    def shared(self, loader: Iterable) -> Iterator[Iterable]:
        """A loader that gives this process its share, on its device; the user's is put back.

        Raises:
            TypeError: Several processes are to share what is not a DataLoader.
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

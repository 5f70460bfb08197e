"""The steps of a training: epochs, batches, updates, and what is saved on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_robust.training.batch import Batch, Unpack, check_call, read_batch
from captum_robust.training.callbacks import Callback
from captum_robust.training.checkpoints import Checkpoints
from captum_robust.training.engine import Engine
from captum_robust.training.objectives import Objective
from captum_robust.training.randomness import Draws, epoch_batches
from captum_robust.training.state import EpochRecord, TrainingState


@dataclass
class Loop:
    """One call of fit: what it works with, and its steps.

    Attributes:
        state: What is trained, and how far it is.
        engine: Where the steps run.
        objective: What they minimise.
        steps_per_batch: How many a batch is used for.
        unpack: The user's function that reads a batch, or None.
        callbacks: Called after each epoch.
        checkpoints: Where, or None; and what a run has in common with one that goes on with it.
        settings: Of the run.
        validate: Measures the student after each epoch, or None.
    """

    state: TrainingState
    engine: Engine
    objective: Objective
    steps_per_batch: int
    unpack: Unpack | None
    callbacks: Sequence[Callback]
    checkpoints: Checkpoints | None
    settings: dict[str, Any]
    validate: Callable[[], EpochRecord] | None

    def resume(self) -> bool:
        """Go on from the newest checkpoint; whether there is one."""
        if self.checkpoints is None:
            return False
        return self.state.resume(self.checkpoints, self.settings, self._parts())

    def run(
        self, loader: Any, epochs: int, student: nn.Module, optimizer: Any, bar: dict[str, Any]
    ) -> None:
        """Go on until the epochs are done or a callback ends them.

        Args:
            loader: Of the batches.
            epochs: In all, those of earlier calls included.
            student: The student as the engine runs it.
            optimizer: The optimiser as the engine runs it.
            bar: Options of the progress bar.
        """
        state, progress = self.state, self.state.progress
        self.student, self.optimizer = student, optimizer
        try:
            length = len(loader) * self.steps_per_batch
        except TypeError:  # an iterable that does not know its length
            length = None
        flags = [(module, module.training) for module in state.model.modules()]
        total = length and epochs * length
        try:
            with tqdm(total=total, initial=progress.step, unit="step", **bar) as self.bar:
                while progress.epoch < epochs and not progress.stopped:
                    self._epoch(loader)
                    self._end_of_epoch()
        finally:
            state.optimizer.zero_grad()
            progress.window = 0
            for module, flag in flags:
                module.training = flag

    def start(self) -> None:
        """Tell the callbacks that ask for it what the student is like as it begins."""
        starts = [start for c in self.callbacks if (start := getattr(c, "start", None)) is not None]
        record = self._validation() if starts else {}
        for start in starts:
            start(self.state, record)

    def _epoch(self, loader: Any) -> None:
        progress, number = self.state.progress, -1
        self.state.train(getattr(self.objective, "evaluation_mode", False))
        with closing(epoch_batches(loader, self.engine.seed, progress.epoch)) as batches:
            for number, (loaded, is_last) in enumerate(batches):
                if number < progress.batch:
                    continue  # read again after a resumption
                batch = read_batch(loaded, self._draws(), 0, self.unpack).to(self.engine.device)
                check_call(self.state.model, batch)
                while progress.batch == number:
                    batch = replace(batch, draws=self._draws(), repeat=progress.repeat)
                    self._step(batch, is_last)
        if number < 0:
            raise ValueError(
                f"loader yields nothing in epoch {progress.epoch}. Check the data set and "
                "drop_last; an iterator can be used once, a DataLoader again and again."
            )

    def _draws(self) -> Draws:
        return self.engine.draws(self.state.progress.step)

    def _step(self, batch: Batch, is_last: bool) -> None:
        progress, engine = self.state.progress, self.engine
        progress.window += 1
        ends = is_last and progress.repeat + 1 == self.steps_per_batch
        whole = ends or progress.window == engine.accumulation
        engine.seed_step(progress.step)
        with engine.step(whole) as backward, self._unsynchronised(whole):
            with engine.accelerator.autocast():
                parts = self.objective(self.student, self.state.teacher, batch)
            _check_parts(parts)
            values = engine.mean(parts)
            self._refuse_nan(values)
            backward(torch.stack(list(parts.values())).sum())
            if whole:
                self._update()
        for name, value in values.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + value
        progress.step += 1
        progress.repeat += 1
        if progress.repeat == self.steps_per_batch:
            progress.batch, progress.repeat = progress.batch + 1, 0
        self.bar.update()
        self.bar.set_postfix(values, refresh=False)
        if whole and not ends and self._is_due():  # the end of the epoch has one of its own
            self._save()

    def _is_due(self) -> bool:
        if self.checkpoints is None:
            return False
        return self.state.progress.update % self.checkpoints.every == 0

    def _update(self) -> None:
        state = self.state
        if self.engine.scaler is None:  # a scaler skips such steps itself
            _refuse_nan_gradients(state.model, state.progress.step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if state.scheduler is not None and not self.optimizer.step_was_skipped:
            state.scheduler.step()
        state.progress.update, state.progress.window = state.progress.update + 1, 0

    def _unsynchronised(self, whole: bool) -> AbstractContextManager:
        return nullcontext() if whole else self.engine.accelerator.no_sync(self.student)

    def _refuse_nan(self, values: dict[str, float]) -> None:
        if not all(map(math.isfinite, values.values())):
            found = ", ".join(f"{name} {value:g}" for name, value in values.items())
            raise ValueError(
                f"the loss is not finite at step {self.state.progress.step} ({found}). The weights "
                "are those before this step. Lower the learning rate, and look for NaN in the "
                "inputs."
            )

    def _end_of_epoch(self) -> None:
        state, progress = self.state, self.state.progress
        steps = progress.batch * self.steps_per_batch
        record: EpochRecord = {"epoch": progress.epoch, "updates": progress.update}
        record |= {name: total / steps for name, total in progress.sums.items()}
        record |= self._validation()
        state.history.append(record)
        stops = [callback(state, record) for callback in self.callbacks]
        progress.epoch, progress.batch, progress.sums = progress.epoch + 1, 0, {}
        progress.stopped = any(stops)
        self._save()

    def _validation(self) -> EpochRecord:
        found = {} if self.validate is None else self.validate()
        return {f"val_{name}": value for name, value in found.items()}

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        bad = [n for n, p in self.state.model.named_parameters() if not _is_finite(p)]
        if bad:
            raise ValueError(
                f"the weights have NaN or Inf ({bad[0]}), so no checkpoint of them is written. "
                "Begin anew with a lower learning rate."
            )
        if self.engine.is_main:
            self.state.save(self.checkpoints, self.settings, self._parts())
        self.engine.accelerator.wait_for_everyone()
        self.state.saved_in(self.checkpoints)

    def _parts(self) -> list[Any]:
        """What may have a state beside the student and its optimiser."""
        return [self.engine.scaler, self.objective, *self.callbacks]


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _refuse_nan_gradients(model: nn.Module, step: int) -> None:
    gradients = [(n, p.grad) for n, p in model.named_parameters() if p.grad is not None]
    if not gradients or _is_finite(torch.stack([g.norm() for _, g in gradients]).sum()):
        return
    bad = [name for name, gradient in gradients if not _is_finite(gradient)]
    if bad:
        raise ValueError(
            f"the gradient of {bad[0]} is not finite at step {step}, though the loss is. The "
            "weights are those before this step. Look for a square root or a division at zero."
        )


def _check_parts(parts: Any) -> None:
    if not isinstance(parts, Mapping) or not parts:
        raise TypeError(
            "objective must return a dictionary of the summands of the loss by name, got "
            f"{type(parts).__name__}. Write return {{'loss': loss}}."
        )
    for name, part in parts.items():
        if not isinstance(part, Tensor) or part.dim() > 0:
            raise TypeError(
                f"objective: the summand {name!r} must be a scalar tensor, got "
                f"{tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__}. Take "
                "the mean over the batch."
            )

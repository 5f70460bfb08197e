"""The steps of a training: epochs, batches, updates, and what is saved on the way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_robust.training.batch import Batch, unpack
from captum_robust.training.callbacks import Callback, Row
from captum_robust.training.checkpoints import Checkpoints
from captum_robust.training.engine import Engine

if TYPE_CHECKING:
    from captum_robust.training.trainer import Trainer


@dataclass
class Place:
    """How far a run has come; what of it is a number, in the order in which it is counted."""

    epoch: int = 0
    batch: int = 0  # of the epoch
    repeat: int = 0  # of the batch
    step: int = 0
    update: int = 0  # of the weights; fewer than steps where gradients are accumulated
    window: int = 0  # steps since the last update
    stopped: bool = False
    sums: dict[str, float] = field(default_factory=dict)  # of the epoch's losses


class Loop:
    """One call of fit: what it works with, and its steps."""

    def __init__(
        self,
        trainer: Trainer,
        engine: Engine,
        student: nn.Module,
        optimizer: Any,
        callbacks: Sequence[Callback],
        checkpoints: Checkpoints | None,
    ) -> None:
        self.trainer, self.engine, self.place = trainer, engine, trainer._place
        self.student, self.optimizer = student, optimizer
        self.callbacks, self.checkpoints = callbacks, checkpoints
        self.bar: Any = None

    def run(
        self, loader: Any, epochs: int, validation: Iterable | None, show_progress: bool
    ) -> None:
        """Go on from the trainer's place until the epochs are done or a callback ends them."""
        trainer, place = self.trainer, self.place
        try:
            length = len(loader) * trainer.steps_per_batch
        except TypeError:  # an iterable that does not know its length
            length = None
        flags = [(module, module.training) for module in trainer.model.modules()]
        try:
            with tqdm(
                total=length and epochs * length,
                initial=place.step, unit="step", desc=type(trainer).__name__,
                disable=not (show_progress and self.engine.is_main),
            ) as self.bar:  # fmt: skip
                while place.epoch < epochs and not place.stopped:
                    self._epoch(loader)
                    self._end_of_epoch(validation)
        finally:
            trainer.optimizer.zero_grad()
            place.window = 0
            for module, flag in flags:
                module.training = flag

    def _epoch(self, loader: Any) -> None:
        trainer, place, number = self.trainer, self.place, -1
        trainer.model.train()
        for module in map(trainer.model.get_submodule, trainer._still):
            module.eval()
        with closing(self.engine.batches(loader, place.epoch)) as batches:
            for number, (loaded, is_last) in enumerate(batches):
                if number < place.batch:
                    continue  # read again after a resumption
                inputs, labels = unpack(loaded)
                device = self.engine.device
                inputs, labels = inputs.to(device), labels if labels is None else labels.to(device)
                while place.batch == number:
                    self._step(inputs, labels, is_last)
        if number < 0:
            raise ValueError(
                f"loader yields nothing in epoch {place.epoch}. Check the data set and drop_last; "
                "an iterator can be used once, a DataLoader again and again."
            )

    def _step(self, inputs: Tensor, labels: Tensor | None, is_last: bool) -> None:
        trainer, place, engine = self.trainer, self.place, self.engine
        place.window += 1
        ends = is_last and place.repeat + 1 == trainer.steps_per_batch
        whole = ends or place.window == engine.accumulation
        engine.seed_step(place.step)
        accelerator = engine.accelerator
        with engine.step(whole) as backward, self._unsynchronised(whole):
            with accelerator.autocast():
                batch = Batch(inputs, labels, engine.draws(place.step), place.repeat)
                parts = trainer.objective(self.student, trainer.teacher, batch)
            _check_parts(parts)
            values = engine.mean(parts)
            self._refuse_nan(values)
            backward(torch.stack(list(parts.values())).sum())
            if whole:
                self._update()
        for name, value in values.items():
            place.sums[name] = place.sums.get(name, 0.0) + value
        place.step += 1
        place.repeat += 1
        if place.repeat == trainer.steps_per_batch:
            place.batch, place.repeat = place.batch + 1, 0
        self.bar.update()
        self.bar.set_postfix(values, refresh=False)
        due = whole and self.checkpoints is not None and place.update % self.checkpoints.every == 0
        if due and not ends:  # the end of the epoch has one of its own
            self._save()

    def _update(self) -> None:
        trainer = self.trainer
        if self.engine.accelerator.scaler is None:  # a scaler skips such steps itself
            _refuse_nan_gradients(trainer.model, self.place.step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if trainer.scheduler is not None and not self.optimizer.step_was_skipped:
            trainer.scheduler.step()
        self.place.update, self.place.window = self.place.update + 1, 0

    def _unsynchronised(self, whole: bool) -> AbstractContextManager:
        return nullcontext() if whole else self.engine.accelerator.no_sync(self.student)

    def _refuse_nan(self, values: dict[str, float]) -> None:
        if not all(map(math.isfinite, values.values())):
            found = ", ".join(f"{name} {value:g}" for name, value in values.items())
            raise ValueError(
                f"the loss is not finite at step {self.place.step} ({found}). The weights are "
                "those before this step. Lower the learning rate, and look for NaN in the inputs."
            )

    def _end_of_epoch(self, validation: Iterable | None) -> None:
        trainer, place = self.trainer, self.place
        steps = place.batch * trainer.steps_per_batch
        row: Row = {"epoch": place.epoch, "updates": place.update}
        row |= {name: total / steps for name, total in place.sums.items()}
        if validation is not None:
            found = trainer._evaluate(self.engine, validation, trainer.measures)
            row |= {f"val_{name}": value for name, value in found.items()}
        trainer.history.append(row)
        stops = [callback(trainer, row) for callback in self.callbacks]
        place.epoch, place.batch, place.sums = place.epoch + 1, 0, {}
        place.stopped = any(stops)
        self._save()

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        bad = [n for n, p in self.trainer.model.named_parameters() if not _is_finite(p)]
        if bad:
            raise ValueError(
                f"the weights have NaN or Inf ({bad[0]}), so no checkpoint of them is written. "
                "Begin anew with a lower learning rate."
            )
        if self.engine.is_main:
            self.checkpoints.save(self.place.step, self.trainer._state(self.callbacks))
        self.engine.accelerator.wait_for_everyone()
        self.trainer._checkpoint = self.checkpoints.files()[-1]


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

"""The one loop of every training: a student, its frozen teacher, and an objective."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from captum_robust._utils.checks import check_count
from captum_robust.outputs import Outputs
from captum_robust.training.batch import Unpack
from captum_robust.training.callbacks import Callback
from captum_robust.training.checkpoints import Checkpoints
from captum_robust.training.engine import Engine
from captum_robust.training.evaluation import evaluate
from captum_robust.training.loop import Loop
from captum_robust.training.measures import CosineStability, Measure
from captum_robust.training.objectives import Objective
from captum_robust.training.randomness import preserve_randomness
from captum_robust.training.state import EpochRecord, TrainingState


class Trainer:
    r"""Train a copy of a model on an objective; the model itself stays as it is.

    The copy, ``trainer.model``, is the student. A second, frozen copy is the teacher, which
    objectives such as :class:`ATEX` imitate. The loop runs on Hugging Face accelerate: started with
    ``accelerate launch`` or ``torchrun`` it uses many devices unchanged. All randomness follows
    from ``seed``, and the global random state is as before. The student is in training mode while
    it is trained, also where ``model`` was in evaluation mode, but normalisations whose weights are
    frozen, or that alone are in evaluation mode, keep their statistics.

    Args:
        model: Gives outputs (N, ...), or an object with ``.logits``.
        objective: What to minimise.
        optimizer: Over ``model.parameters()``, it is copied with the model; or a function from
            parameters to an optimiser; None: ``Adam(lr=1.5e-3)``, as in the published code.
        scheduler: A function from the optimiser to a learning rate schedule, one step an update.
        steps_per_batch: How many steps a batch is used for, with new draws in each; gradients are
            accumulated over steps.
        seed: Of all randomness.
        measures: Functions ``(model, inputs, labels) -> (N,)`` by name, for :meth:`evaluate`;
            None: ``{"stability": CosineStability()}``.
        output: What the model's outputs mean, of :mod:`captum_robust.outputs`; None: what the
            objective says, else logits of two or more classes.
        unpack: A function from what a loader yields to ``(inputs, labels)``; None: that is what it
            yields. Where the model takes more arguments, inputs is a tuple ``(inputs, *more)``, of
            which the first is explained.
        accelerator: An ``accelerate.Accelerator`` of yours, for mixed precision or gradient
            accumulation; None: one with its defaults.

    Raises:
        TypeError: ``model`` is not a module, or an argument is of the wrong kind.
        ValueError: The model is in half precision, or has nothing to train.

    Example:
        >>> import torch
        >>> from captum_robust.training import Distillation, Trainer
        >>> inputs = torch.rand(64, 4, generator=torch.Generator().manual_seed(0))
        >>> trainer = Trainer(torch.nn.Linear(4, 3), Distillation(temperature=2.0))
        >>> history = trainer.fit([inputs], epochs=30, show_progress=False)
        >>> history[0]["distillation"] > history[-1]["distillation"]
        True
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: Any = None,
        *,
        scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
        steps_per_batch: int = 1,
        seed: int = 0,
        measures: Mapping[str, Measure] | None = None,
        output: Outputs | None = None,
        unpack: Unpack | None = None,
        accelerator: Any = None,
    ) -> None:
        _check_functions(objective=objective, scheduler=scheduler, unpack=unpack)
        check_count(steps_per_batch=steps_per_batch)
        self.state = TrainingState(model, optimizer, scheduler)
        self.objective, self.steps_per_batch, self.seed = objective, steps_per_batch, int(seed)
        self.output = getattr(objective, "output", None) if output is None else output
        if measures is None:
            measures = {"stability": CosineStability(output=self.output)}
        _check_functions(**{f"measures: {name!r}": m for name, m in measures.items()})
        self.measures, self.unpack = dict(measures), unpack
        self._accelerator = accelerator
        self._engine_of_run: Engine | None = None

    @property
    def model(self) -> nn.Module:
        """The student."""
        return self.state.model

    @property
    def teacher(self) -> nn.Module:
        """The frozen copy of the model."""
        return self.state.teacher

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Over the student's parameters."""
        return self.state.optimizer

    @property
    def scheduler(self) -> torch.optim.lr_scheduler.LRScheduler | None:
        """Of the learning rate, or None."""
        return self.state.scheduler

    @property
    def history(self) -> list[EpochRecord]:
        """The record of each epoch."""
        return self.state.history

    def fit(
        self,
        loader: Iterable,
        epochs: int,
        *,
        validation: Iterable | None = None,
        callbacks: Sequence[Callback] = (),
        checkpoints: Checkpoints | str | PathLike[str] | None = None,
        show_progress: bool = True,
    ) -> list[EpochRecord]:
        """Train until ``epochs`` epochs are done in all, those of earlier calls included.

        Args:
            loader: Yields inputs or (inputs, labels, ...), a ``DataLoader`` as a rule.
            epochs: Passes over the loader.
            validation: A loader for :meth:`evaluate` after each epoch.
            callbacks: Called with the :class:`TrainingState` and the record of each epoch; a true
                value ends the training. See :class:`EarlyStopping`.
            checkpoints: A folder, or :class:`Checkpoints`. If it holds a checkpoint, the run goes
                on from there; on one process of a CPU the weights become bit-equal to those of a
                run that was never interrupted. The batches of the epoch so far are read again.
            show_progress: Whether to show a bar.

        Returns:
            The record of each epoch: ``epoch``, ``updates``, the mean of every part of the loss,
            and what :meth:`evaluate` gives, with ``val_`` before its name.

        Raises:
            TypeError: ``loader`` is a tensor.
            ValueError: The loader yields nothing; the loss became NaN or Inf (the weights are those
                before that step); a checkpoint is damaged or of another run; second derivatives
                are asked of several processes.
            OSError: A checkpoint cannot be written; the one before it stays.
        """
        check_count(epochs=epochs)
        _check_loader(loader, checkpoints)
        engine = self._engine()
        _check_order(self.objective, engine)
        self.state.progress.stopped = False
        loop = Loop(
            self.state, engine, self.objective, self.steps_per_batch, self.unpack, callbacks,
            _folder(checkpoints), self._settings(len(callbacks)),
            None if validation is None else partial(self._evaluate, validation),
        )  # fmt: skip
        bar = {
            "desc": type(self).__name__,
            "disable": not (show_progress and engine.is_main),
        }
        with preserve_randomness(engine.device, loader), engine.shared(loader) as shared:
            resumed = loop.resume()
            self.teacher.to(engine.device)
            with engine.prepared(self.model, self.optimizer) as (student, optimizer):
                if not resumed:
                    loop.start()
                loop.run(shared, epochs, student, optimizer, bar)
        return self.history

    def evaluate(
        self, loader: Iterable, measures: Mapping[str, Measure] | None = None
    ) -> EpochRecord:
        """Mean over the examples of a loader, for the student in evaluation mode.

        Args:
            loader: As for :meth:`fit`.
            measures: Instead of those of the trainer.

        Returns:
            ``agreement`` with what the teacher predicts and, if there are labels of the kind that
            ``output`` says, ``accuracy``, both in 0 to 1; and each measure.

        Raises:
            ValueError: The loader yields nothing.
        """
        engine = self._engine()
        self.teacher.to(engine.device)
        self.model.to(engine.device)
        return self._evaluate(loader, measures)

    def _evaluate(
        self, loader: Iterable, measures: Mapping[str, Measure] | None = None
    ) -> EpochRecord:
        measures = self.measures if measures is None else measures
        return evaluate(self.state, self._engine(), loader, measures, self.output, self.unpack)

    def weights(self) -> dict[str, Tensor]:
        """A copy of the student's weights and buffers, on the CPU."""
        return self.state.weights()

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Put weights and buffers into the student."""
        self.state.load_weights(weights)

    def _engine(self) -> Engine:
        if self._engine_of_run is None:
            self._engine_of_run = Engine(self._accelerator, self.seed)
        return self._engine_of_run

    def _settings(self, n_callbacks: int) -> dict[str, Any]:
        """What two runs must have in common for one to go on with the other's checkpoint."""
        return {
            "objective": re.sub(r" at 0x[0-9a-f]+", "", repr(self.objective)),
            "seed": self.seed,
            "steps_per_batch": self.steps_per_batch,
            "gradient accumulation": self._engine().accumulation,
            "callbacks": n_callbacks,
            **self.state.settings(),
        }


def _check_functions(**functions: Any) -> None:
    for name, function in functions.items():
        if function is None and name in ("scheduler", "unpack"):
            continue
        if isinstance(function, type) or not callable(function):
            given = function if isinstance(function, type) else type(function)
            mend = _MEND.get(name, "Pass a function of model, inputs and labels.")
            raise TypeError(f"{name} must be a function, got {given.__name__}. {mend}")


_MEND = {
    "objective": "Pass an object such as Distillation() or ATEX(points).",
    "scheduler": "Write scheduler=lambda optimizer: StepLR(optimizer, step_size=100).",
    "unpack": "Write unpack=lambda batch: (batch['inputs'], batch['labels']).",
}


def _check_loader(loader: Any, checkpoints: Any) -> None:
    if isinstance(loader, Tensor):
        raise TypeError("loader is a tensor. Pass a DataLoader, or a list of batches: [inputs].")
    if checkpoints is not None and getattr(loader, "persistent_workers", False):
        raise ValueError(
            "loader: persistent workers keep random states that no checkpoint can hold. Make the "
            "DataLoader with persistent_workers=False, or train without checkpoints."
        )


def _check_order(objective: Objective, engine: Engine) -> None:
    if engine.n_processes > 1 and getattr(objective, "second_order", False):
        raise ValueError(
            f"{type(objective).__name__} needs second derivatives, which distributed training gets "
            "wrong or refuses. Train it on one process."
        )


def _folder(checkpoints: Checkpoints | str | PathLike[str] | None) -> Checkpoints | None:
    if isinstance(checkpoints, (str, PathLike)):
        checkpoints = Checkpoints(checkpoints)
    if checkpoints is not None and checkpoints.folder.is_file():
        raise ValueError(f"checkpoints must be a folder, and {checkpoints.folder} is a file.")
    return checkpoints

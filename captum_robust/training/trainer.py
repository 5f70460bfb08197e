"""The one loop of every training: a student, its frozen teacher, and an objective."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_robust._utils.checks import check_count
from captum_robust._utils.forward import logits_of
from captum_robust._utils.model_state import preserve_model
from captum_robust.training.batch import unpack
from captum_robust.training.callbacks import Callback, Row
from captum_robust.training.checkpoints import Checkpoints
from captum_robust.training.engine import Engine, randomness_kept
from captum_robust.training.loop import Loop, Place
from captum_robust.training.measures import CosineStability, Measure
from captum_robust.training.objectives import Objective

_NORMALIZATION = (nn.modules.batchnorm._NormBase,)


class Trainer:
    r"""Train a copy of a model on an objective; the model itself stays as it is.

    The copy, ``trainer.model``, is the student. A second, frozen copy is the teacher, which
    objectives such as :class:`ATEX` imitate. The loop runs on Hugging Face accelerate: started with
    ``accelerate launch`` or ``torchrun`` it uses many devices unchanged.

    All randomness follows from ``seed``: the order of a shuffled DataLoader, its augmentation (the
    same on all processes), dropout, and what the objective draws. The global random state is as
    before. The student is in training mode while it is trained, also where ``model`` was in
    evaluation mode, but normalisations whose weights are frozen, or that alone are in evaluation
    mode, keep their statistics.

    Args:
        model: Gives logits (N, classes), or an object with ``.logits``.
        objective: What to minimise.
        optimizer: Over ``model.parameters()``, it is copied with the model; or a function from
            parameters to an optimiser; None: ``Adam(lr=1.5e-3)``, as in the published code.
        scheduler: A function from the optimiser to a learning rate schedule, one step an update.
        steps_per_batch: How many steps a batch is used for, with new draws in each; gradients are
            accumulated over steps.
        seed: Of all randomness.
        measures: Functions ``(model, inputs, labels) -> (N,)`` by name, for :meth:`evaluate`;
            None: ``{"stability": CosineStability()}``.
        accelerator: An ``accelerate.Accelerator`` of yours, for mixed precision or gradient
            accumulation; None: one with its defaults.

    Raises:
        TypeError: ``model`` is no module, or an argument is of the wrong kind.
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
        accelerator: Any = None,
    ) -> None:
        _check_model(model)
        check_count(steps_per_batch=steps_per_batch)
        self.objective, self.steps_per_batch, self.seed = objective, steps_per_batch, int(seed)
        self.measures = {"stability": CosineStability()} if measures is None else dict(measures)
        self.model, self.optimizer = _copied(model, optimizer)
        self.teacher = copy.deepcopy(model).eval().requires_grad_(False)
        self.scheduler = None if scheduler is None else scheduler(self.optimizer)
        self.history: list[Row] = []
        self._accelerator, self._place = accelerator, Place()
        self._engine_of_run: Engine | None = None
        self._checkpoint: Path | None = None  # the newest that is of this run
        self._still = _still_modules(model)

    def fit(
        self,
        loader: Iterable,
        epochs: int,
        *,
        validation: Iterable | None = None,
        callbacks: Sequence[Callback] = (),
        checkpoints: Checkpoints | str | PathLike[str] | None = None,
        show_progress: bool = True,
    ) -> list[Row]:
        """Train until ``epochs`` epochs are done in all, those of earlier calls included.

        Args:
            loader: Yields inputs or (inputs, labels, ...), a ``DataLoader`` as a rule.
            epochs: Passes over the loader.
            validation: A loader for :meth:`evaluate` after each epoch.
            callbacks: Called with the trainer and the record of each epoch; a true value ends the
                training. See :class:`EarlyStopping`.
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
        if isinstance(loader, Tensor):
            raise TypeError(
                "loader is a tensor. Pass a DataLoader, or a list of batches: [inputs]."
            )
        if isinstance(checkpoints, (str, PathLike)):
            checkpoints = Checkpoints(checkpoints)
        if checkpoints is not None and checkpoints.folder.is_file():
            raise ValueError(f"checkpoints must be a folder, and {checkpoints.folder} is a file.")
        engine = self._engine()
        if engine.n_processes > 1 and getattr(self.objective, "second_order", False):
            raise ValueError(
                f"{type(self.objective).__name__} needs second derivatives, which distributed "
                "training gets wrong or refuses. Train it on one process."
            )
        self._place.stopped = False
        with randomness_kept(engine.device, loader), engine.shared(loader) as shared:
            if checkpoints is not None:
                _check_loader(loader)
                self._resume(checkpoints, callbacks)
            self.teacher.to(engine.device)
            with engine.prepared(self.model, self.optimizer) as (student, optimizer):
                loop = Loop(self, engine, student, optimizer, callbacks, checkpoints)
                loop.run(shared, epochs, validation, show_progress)
        return self.history

    def evaluate(
        self, loader: Iterable, measures: Mapping[str, Measure] | None = None
    ) -> dict[str, float]:
        """Mean over the examples of a loader, for the student in evaluation mode.

        Args:
            loader: As for :meth:`fit`.
            measures: In place of those of the trainer.

        Returns:
            ``accuracy`` (if there are labels) and ``agreement`` with the teacher's classes, in
            0 to 1, and each measure.

        Raises:
            ValueError: The loader yields nothing.
        """
        engine = self._engine()
        self.teacher.to(engine.device)
        self.model.to(engine.device)
        return self._evaluate(engine, loader, self.measures if measures is None else measures)

    def weights(self) -> dict[str, Tensor]:
        """A copy of the student's weights and buffers, on the CPU."""
        return {name: w.detach().cpu().clone() for name, w in self.model.state_dict().items()}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Put weights and buffers into the student."""
        self.model.load_state_dict(dict(weights))

    def _engine(self) -> Engine:
        if self._engine_of_run is None:
            self._engine_of_run = Engine(self._accelerator, self.seed)
        return self._engine_of_run

    def _evaluate(
        self, engine: Engine, loader: Iterable, measures: Mapping[str, Measure]
    ) -> dict[str, float]:
        sums: dict[str, list[float]] = {}
        turns = itertools.cycle(range(engine.n_processes))
        with randomness_kept(engine.device, loader), preserve_model(self.model) as model:
            model.eval()
            with closing(engine.batches(loader, 0)) as batches:
                for (loaded, _), turn in zip(batches, turns, strict=False):
                    if turn == engine.accelerator.process_index:
                        found = self._measured(model, *unpack(loaded), measures, engine.device)
                        for name, values in found.items():
                            total, n = sums.get(name, [0.0, 0.0])
                            sums[name] = [total + values.double().sum().item(), n + len(values)]
        means = {name: total / n for name, (total, n) in engine.total(sums).items()}
        if not means:
            raise ValueError("loader yields nothing to evaluate. Check its data set and drop_last.")
        return means

    def _measured(
        self,
        model: nn.Module,
        inputs: Tensor,
        labels: Tensor | None,
        measures: Mapping[str, Measure],
        device: torch.device,
    ) -> dict[str, Tensor]:
        inputs, labels = inputs.to(device), labels if labels is None else labels.to(device)
        with torch.no_grad():
            predicted = logits_of(model(inputs)).argmax(1)
            agrees = predicted == logits_of(self.teacher(inputs)).argmax(1)
        values = {"agreement": agrees} if labels is None else {
            "agreement": agrees, "accuracy": predicted == labels,
        }  # fmt: skip
        for name, measure in measures.items():
            value = measure(model, inputs, labels)
            if not isinstance(value, Tensor) or value.shape != inputs.shape[:1]:
                raise TypeError(
                    f"measures: {name!r} must give a tensor of one value per example, shape "
                    f"({len(inputs)},), got {getattr(value, 'shape', type(value).__name__)}."
                )
            values[name] = value.detach()
        return values

    def _state(self, callbacks: Sequence[Callback]) -> dict[str, Any]:
        return {
            "run": self._settings(),
            "model": self.weights(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler and self.scheduler.state_dict(),
            "objective": _state_of(self.objective),
            "callbacks": [_state_of(callback) for callback in callbacks],
            "place": asdict(self._place),
            "history": self.history,
        }

    def _resume(self, checkpoints: Checkpoints, callbacks: Sequence[Callback]) -> None:
        files = checkpoints.files()
        if self._place.step > 0:
            if files and files[-1] != self._checkpoint:
                raise ValueError(
                    f"checkpoints: the folder {checkpoints.folder} holds a run already, and this "
                    "trainer has begun another. Choose another folder, or a new trainer to go on."
                )
            return
        state = checkpoints.load()
        if state is None:
            return
        self._checkpoint = files[-1]
        settings = {**self._settings(), "callbacks": len(callbacks)}
        saved = {**state["run"], "callbacks": len(state["callbacks"])}
        other = [name for name in settings if settings[name] != saved.get(name)]
        if other:
            was = "; ".join(f"{n} was {saved.get(n)}, is {settings[n]}" for n in other)
            raise ValueError(
                f"checkpoints: the folder {checkpoints.folder} is that of another run "
                f"({was:.500}). Choose another folder, or delete this one."
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        holders: list[Any] = [self.objective, *callbacks]
        for holder, held in zip(holders, [state["objective"], *state["callbacks"]], strict=True):
            if held is not None:
                holder.load_state_dict(held)
        self._place, self.history = Place(**state["place"]), state["history"]

    def _settings(self) -> dict[str, Any]:
        """What two runs must have in common for one to go on with the other's checkpoint."""
        return {
            "objective": re.sub(r" at 0x[0-9a-f]+", "", repr(self.objective)),
            "optimizer": type(self.optimizer).__name__,
            "scheduler": type(self.scheduler).__name__,
            "seed": self.seed,
            "steps_per_batch": self.steps_per_batch,
            "gradient accumulation": self._engine().accumulation,
            "teacher": _digest(self.teacher),
            "weights": {name: list(w.shape) for name, w in self.model.state_dict().items()},
        }


def _check_loader(loader: Any) -> None:
    if getattr(loader, "persistent_workers", False):
        raise ValueError(
            "loader: persistent workers keep random states that no checkpoint can hold. Make the "
            "DataLoader with persistent_workers=False, or train without checkpoints."
        )


def _digest(model: nn.Module) -> str:
    """What tells the weights of a model from others."""
    total = sha256()
    for name, weight in model.state_dict().items():
        total.update(name.encode())
        flat = weight.detach().cpu().contiguous().flatten()
        total.update(flat.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    half = [n for n, p in model.named_parameters() if p.dtype in (torch.float16, torch.bfloat16)]
    if half:
        raise ValueError(
            f"model is in half precision ({half[0]}), in which small updates of the weights are "
            "lost. Train model.float(); for speed pass "
            "accelerator=Accelerator(mixed_precision='bf16')."
        )
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(
            "model has no parameter that requires a gradient, so nothing can be trained. Turn "
            "them on: model.requires_grad_(True)."
        )


def _copied(model: nn.Module, optimizer: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The student, and its optimiser."""
    if isinstance(optimizer, torch.optim.Optimizer):
        ours = {id(p) for p in model.parameters()}
        if any(id(p) not in ours for group in optimizer.param_groups for p in group["params"]):
            raise ValueError(
                "optimizer: it holds parameters that are not those of model. Make it from "
                "model.parameters(), or pass a function: lambda parameters: Adam(parameters)."
            )
        return copy.deepcopy((model, optimizer))  # together, so that it holds the copy's weights
    student = copy.deepcopy(model)
    learned = [p for p in student.parameters() if p.requires_grad]
    if optimizer is None:
        return student, torch.optim.Adam(learned, lr=1.5e-3)
    if not callable(optimizer):
        raise TypeError(
            "optimizer must be an optimiser over model.parameters(), a function from parameters "
            f"to one, or None; got {type(optimizer).__name__}."
        )
    return student, optimizer(learned)


def _still_modules(model: nn.Module) -> list[str]:
    """Names of normalisations that keep their statistics: frozen weights, or alone in evaluation.

    A model that is handed over in evaluation mode as a whole is trained as usual.
    """
    names = []
    for name, module in model.named_modules():
        if isinstance(module, _NORMALIZATION):
            learned = [p.requires_grad for p in module.parameters()]
            frozen = bool(learned) and not any(learned)
            if frozen or (model.training and not module.training):
                names.append(name)
    return names


def _state_of(holder: Any) -> dict | None:
    state = getattr(holder, "state_dict", None)
    return None if state is None else state()

"""The state of a training: student, teacher, optimiser, how far it has come, and its resumption."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_robust._utils.model_state import digest_of
from captum_robust.training.checkpoints import Checkpoints

EpochRecord = dict[str, float]
"""The record of an epoch: what was measured, by name."""

_NORMALIZATION = (nn.modules.batchnorm._NormBase,)


@dataclass
class Progress:
    """How far a run has come; what of it is a number, in the order in which it is counted."""

    epoch: int = 0
    batch: int = 0  # of the epoch
    repeat: int = 0  # of the batch
    step: int = 0
    update: int = 0  # of the weights; fewer than steps where gradients are accumulated
    window: int = 0  # steps since the last update
    stopped: bool = False
    sums: dict[str, float] = field(default_factory=dict)  # of the epoch's losses


class TrainingState:
    """What a training changes; callbacks are given it.

    Attributes:
        model: The student, a copy of the model that the trainer was made with.
        teacher: A frozen copy of that model, in evaluation mode.
        optimizer: Over the student's parameters.
        scheduler: Of the learning rate, or None.
        progress: How far the run has come.
        history: The records of the epochs.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any = None,
        scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
    ) -> None:
        _check_model(model)
        self.model, self.optimizer = _copied(model, optimizer)
        self.teacher = copy.deepcopy(model).eval().requires_grad_(False)
        self.scheduler = None if scheduler is None else scheduler(self.optimizer)
        self.progress = Progress()
        self.history: list[EpochRecord] = []
        self._fixed = _fixed_normalizations(model)
        self._checkpoint: Path | None = None  # the newest that is of this run

    def weights(self) -> dict[str, Tensor]:
        """A copy of the student's weights and buffers, on the CPU."""
        return {name: w.detach().cpu().clone() for name, w in self.model.state_dict().items()}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Put weights and buffers into the student."""
        self.model.load_state_dict(dict(weights))

    def train(self, evaluation_mode: bool = False) -> None:
        """Put the student in the mode in which it is trained."""
        self.model.train(not evaluation_mode)
        for module in map(self.model.get_submodule, self._fixed):
            module.eval()

    def save(self, checkpoints: Checkpoints, settings: dict[str, Any], parts: Iterable) -> None:
        """Write a checkpoint.

        Args:
            checkpoints: Where.
            settings: What a run must have in common with this one to go on with it.
            parts: The objective, the callbacks and what else may have a ``state_dict``.

        Raises:
            OSError: It cannot be written; the one before it stays.
        """
        state = {
            "run": settings,
            "model": self.weights(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler and self.scheduler.state_dict(),
            "parts": [_state_of(part) for part in parts],
            "progress": asdict(self.progress),
            "history": self.history,
        }
        checkpoints.save(self.progress.step, state)

    def saved_in(self, checkpoints: Checkpoints) -> None:
        """Take the newest file of a folder for one of this run."""
        self._checkpoint = checkpoints.files()[-1]

    def resume(self, checkpoints: Checkpoints, settings: dict[str, Any], parts: Iterable) -> bool:
        """Go on from the newest checkpoint; the arguments are those of :meth:`save`.

        Returns:
            Whether there was one to go on from.

        Raises:
            ValueError: The folder belongs to another run, or the file is damaged.
        """
        files = checkpoints.files()
        if self.progress.step > 0:
            if files and files[-1] != self._checkpoint:
                raise ValueError(
                    f"checkpoints: the folder {checkpoints.folder} holds a run already, and this "
                    "trainer has begun another. Choose another folder, or a new trainer to go on."
                )
            return False
        state = checkpoints.load()
        if state is None:
            return False
        self._checkpoint = files[-1]
        _check_same_run(settings, state["run"], checkpoints)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        for part, saved in zip(parts, state["parts"], strict=True):
            if saved is not None:
                part.load_state_dict(saved)
        self.progress, self.history = Progress(**state["progress"]), state["history"]
        return True

    def settings(self) -> dict[str, Any]:
        """What of this state two runs must have in common."""
        return {
            "optimizer": type(self.optimizer).__name__,
            "scheduler": type(self.scheduler).__name__,
            "teacher": digest_of(self.teacher),
            "weights": {name: list(w.shape) for name, w in self.model.state_dict().items()},
        }


def _check_same_run(ours: dict[str, Any], saved: dict[str, Any], checkpoints: Checkpoints) -> None:
    other = [name for name in ours if ours[name] != saved.get(name)]
    if other:
        was = "; ".join(f"{n} was {saved.get(n)}, is {ours[n]}" for n in other)
        raise ValueError(
            f"checkpoints: the folder {checkpoints.folder} is that of another run "
            f"({was:.500}). Choose another folder, or delete this one."
        )


def _state_of(part: Any) -> dict | None:
    state = getattr(part, "state_dict", None)
    return None if state is None else state()


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


def _fixed_normalizations(model: nn.Module) -> list[str]:
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

"""Small training runs: their networks, batches, and how they are interrupted."""

from __future__ import annotations

import inspect
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from captum_robust.training import (
    ATEX,
    Batch,
    Checkpoints,
    Draws,
    EarlyStopping,
    Imitation,
    NeighbourhoodPoints,
    PerpendicularSearch,
    SmoothGradDirections,
    Trainer,
)

DELTAS = {"delta1": 0.2, "delta2": 0.2}


def same(a: dict, b: dict) -> bool:
    """Whether two sets of weights are bit-equal."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def atex(kind: type[ATEX] = ATEX, **settings: Any) -> ATEX:
    """The objective in the short form of ATEXTrainer."""
    names = inspect.signature(NeighbourhoodPoints).parameters
    points = {name: settings.pop(name) for name in list(settings) if name in names}
    search = settings.pop("search", 0)
    loss = Imitation(settings.pop("temperature", 4.0), settings.pop("output", None))
    return kind(
        NeighbourhoodPoints(**points), search=PerpendicularSearch(search) if search else None,
        loss=loss, **settings,
    )  # fmt: skip


def batch(n: int = 4, labels: bool = True) -> Batch:
    """Examples of 5 features and 3 classes, in float64."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, 5, dtype=torch.float64, generator=generator)
    y = torch.randint(3, (n,), generator=generator) if labels else None
    return Batch(x, y, Draws(seed=2))


def drawn(objective: ATEX, model: nn.Module, given: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The points that an objective draws for a model."""
    phi = objective.direction(model, model, given)
    return objective.points.draw(given.inputs, phi, given.draws)


class Augmented(Dataset):
    """Noise from torch, numpy and Python, anew whenever an example is read."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        x = torch.full((6,), index / 20) + 0.1 * torch.rand(6)
        x = x + 0.1 * float(np.random.rand()) + 0.1 * random.random()  # noqa: NPY002
        return x, index % 3


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)
    )


class Interrupted(Exception):
    pass


def interrupt_at(step: int) -> type[ATEX]:
    """An objective for which the run ends at a step, as if it was killed there."""

    class Fatal(ATEX):
        calls = 0

        def __call__(self, student: nn.Module, teacher: nn.Module, batch: Batch) -> dict:
            if Fatal.calls == step:
                raise Interrupted
            Fatal.calls += 1
            return super().__call__(student, teacher, batch)

    return Fatal


def trainer(kind: type[ATEX] = ATEX, follow_student: bool = False, **directions: Any) -> Trainer:
    """A run with a schedule, dropout, batch norm, and directions that are kept."""
    objective = atex(
        kind, **DELTAS, n_perpendicular=2, follow_student=follow_student,
        directions=SmoothGradDirections(**{"n_samples": 2, **directions}),
    )  # fmt: skip
    return Trainer(
        network(), objective, steps_per_batch=2,
        scheduler=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1e-2, total_steps=40),
    )  # fmt: skip


def data(workers: int = 0) -> DataLoader:
    return DataLoader(Augmented(), batch_size=8, shuffle=True, num_workers=workers)


def fit(
    run: Trainer, folder: Path | None = None, every: int = 1, epochs: int = 3, **options: Any
) -> Trainer:
    """Train with validation and a callback that has a state."""
    checkpoints = None if folder is None else Checkpoints(folder, every=every)
    callbacks = [EarlyStopping("val_stability", patience=9)]
    run.fit(
        options.pop("loader", None) or data(), epochs, validation=data(), callbacks=callbacks,
        checkpoints=checkpoints, show_progress=False,
    )  # fmt: skip
    return run

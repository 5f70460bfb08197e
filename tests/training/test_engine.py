"""Accumulated gradients, precision, and what is put back."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from captum_robust.training import (
    ATEXTrainer,
    CrossEntropy,
    Trainer,
)
from tests.training.runs import DELTAS, sgd

D = torch.float64


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize(("accumulated", "updates"), [(3, [1, 2]), (2, [2, 4])])
def test_gradients_are_accumulated(accumulated, updates, as_list, model, loader):
    model.eval()
    model[2].p = 0.0
    accelerator = Accelerator(gradient_accumulation_steps=accumulated)
    batches = list(loader(8, shuffle=False)) if as_list else loader(8, shuffle=False)
    apart = Trainer(model, CrossEntropy(), sgd, accelerator=accelerator)
    apart.fit(batches, 2, show_progress=False)
    assert [row["updates"] for row in apart.history] == updates
    assert all(p.grad is None for p in apart.model.parameters())
    # By hand: windows end with the epoch, and each step counts the same.
    expected = copy.deepcopy(model).eval()
    optimizer = sgd(expected.parameters())
    for _ in range(2):
        for i, (x, y) in enumerate(loader(8, shuffle=False)):
            (torch.nn.functional.cross_entropy(expected(x), y) / accumulated).backward()
            if i == 2 or (i + 1) % accumulated == 0:
                optimizer.step()
                optimizer.zero_grad()
    for a, b in zip(apart.model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_are_accumulated_over_the_steps_on_a_batch(model, loader):
    accelerator = Accelerator(gradient_accumulation_steps=4)
    trainer = Trainer(model, CrossEntropy(), sgd, accelerator=accelerator, steps_per_batch=4)
    trainer.fit(loader(8), 1, show_progress=False)
    assert trainer.history[0]["updates"] == 3


def test_an_accelerator_of_the_user_keeps_its_accumulation(model, loader):
    accelerator = Accelerator(gradient_accumulation_steps=3)
    Trainer(model, CrossEntropy(), sgd).fit(loader(), 1, show_progress=False)
    assert accelerator.gradient_accumulation_steps == 3


def test_the_loader_of_the_user_is_as_before(model, loader):
    batches = loader()
    sampler = batches.batch_sampler.sampler
    ATEXTrainer(model, **DELTAS).fit(batches, 1, validation=batches, show_progress=False)
    assert batches.batch_sampler.sampler is sampler


def test_the_objective_runs_under_the_precision_of_the_accelerator(loader, model):
    seen = []

    def objective(student, teacher, batch):
        seen.append(student(batch.inputs).dtype)
        return {"loss": student(batch.inputs).float().square().mean()}

    accelerator = Accelerator()
    accelerator.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
    trainer = Trainer(model, objective, accelerator=accelerator)
    trainer.fit(loader(), 1, show_progress=False)
    assert set(seen) == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert type(trainer.model) is nn.Sequential


def test_the_scale_of_float16_travels_with_checkpoints(model, loader, tmp_path):
    def run(scale: float) -> Trainer:
        accelerator = Accelerator(cpu=True)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        return Trainer(model, CrossEntropy(), sgd, accelerator=accelerator)

    first = run(64.0)
    first.fit(loader(), 1, checkpoints=tmp_path, show_progress=False)
    again = run(4096.0)
    again.fit(loader(), 1, checkpoints=tmp_path, show_progress=False)
    assert again._engine().scaler.get_scale() == first._engine().scaler.get_scale() == 64.0

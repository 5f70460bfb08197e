"""All randomness follows from the seed; the global states are as before."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from captum_robust.training import (
    ATEXTrainer,
    Draws,
    Trainer,
)
from tests.training.runs import DELTAS, same

D = torch.float64


@pytest.mark.parametrize("processes", [2, 3])
def test_draws_are_shared_among_processes(processes):
    x = torch.rand(6, 2, dtype=D)
    parts = x.chunk(processes)
    for kind in ("uniform", "normal"):
        together = getattr(Draws(seed=4), kind)(x, 3, 2)
        apart = [
            getattr(Draws(seed=4, rank=r, n_processes=processes), kind)(part, 3, 2)
            for r, part in enumerate(parts)
        ]
        assert torch.equal(torch.cat(apart), together)
    assert together.dtype == D


def global_states() -> list:
    numpy = np.random.get_state()[1].tolist()  # noqa: NPY002
    return [torch.get_rng_state().tolist(), random.getstate(), numpy]


def test_global_random_states_are_as_before(model, loader):
    generator = torch.Generator().manual_seed(11)
    before = global_states(), generator.get_state()
    trainer = ATEXTrainer(model, **DELTAS)
    trainer.fit(loader(generator=generator), 1, validation=loader(), show_progress=False)
    trainer.evaluate(loader())
    with pytest.raises(ZeroDivisionError):
        trainer.fit(loader(), 2, callbacks=[lambda *_: 1 / 0], show_progress=False)
    assert global_states() == before[0]
    assert torch.equal(generator.get_state(), before[1])


def test_a_seed_decides_everything(model, loader):
    weights = []
    for global_seed, seed in ((1, 0), (2, 0), (1, 5)):
        torch.manual_seed(global_seed)
        random.seed(global_seed)
        trainer = ATEXTrainer(model, **DELTAS, seed=seed)
        trainer.fit(loader(), 2, show_progress=False)
        weights.append(trainer.weights())
    assert same(weights[0], weights[1])
    assert not same(weights[0], weights[2])


def test_the_order_changes_from_epoch_to_epoch(model, loader):
    orders = []

    def objective(student, teacher, batch):
        orders.append(batch.inputs[:, 0].tolist())
        return {"loss": student(batch.inputs).square().mean()}

    Trainer(model, objective).fit(loader(24), 3, show_progress=False)
    assert orders[0] != orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])

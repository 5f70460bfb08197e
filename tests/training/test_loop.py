"""The steps of a training, and when they end in an error."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils.data import DataLoader

from captum_robust.training import (
    ATEX,
    ATEXTrainer,
    Batch,
    CrossEntropy,
    Distillation,
    Draws,
    GradientPenalty,
    NeighbourhoodPoints,
    Trainer,
)
from tests.training.runs import DELTAS, same, sgd

D = torch.float64


def test_the_step_is_that_of_plain_torch(model, loader):
    model.eval()
    trainer = Trainer(model, CrossEntropy(), sgd)
    trainer.model[2].p = 0.0
    trainer.fit(loader(24), 1, show_progress=False)
    ((x, y),) = loader(24, shuffle=False)
    torch.nn.functional.cross_entropy(model(x), y).backward()
    for trained, start in zip(trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(trained, start - 0.1 * start.grad)


def test_the_scheduler_steps_once_an_update(model, loader):
    trainer = Trainer(
        model, CrossEntropy(), sgd, steps_per_batch=2,
        scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=4, gamma=0.5),
    )  # fmt: skip
    trainer.fit(loader(), 1, show_progress=False)  # 3 batches, 6 updates
    assert trainer.optimizer.param_groups[0]["lr"] == 0.05


def test_a_batch_is_used_for_several_steps_with_the_same_direction(model, loader):
    seen = []

    class Recorded(NeighbourhoodPoints):
        def draw(self, inputs, directions, draws):
            parallel, beside = super().draw(inputs, directions, draws)
            seen.append((inputs, parallel, directions))
            return parallel, beside

    Trainer(model, ATEX(Recorded(**DELTAS)), steps_per_batch=3).fit(
        loader(), 1, show_progress=False
    )
    assert len(seen) == 9
    for first, second in ((0, 1), (1, 2)):
        assert torch.equal(seen[first][0], seen[second][0])
        assert torch.equal(seen[first][2], seen[second][2])
        assert not torch.equal(seen[first][1], seen[second][1])
    assert not torch.equal(seen[2][0], seen[3][0])


def test_the_loss_of_the_record_is_the_mean_over_the_steps(model, loader):
    model.eval()
    trainer = Trainer(model, Distillation(temperature=2.0), lambda p: torch.optim.SGD(p, lr=0.0))
    trainer.model[2].p = 0.0
    (row,) = trainer.fit(loader(), 1, show_progress=False)
    ((x, _),) = loader(24, shuffle=False)
    parts = Distillation(temperature=2.0)(model, model, Batch(x, None, Draws(seed=0)))
    assert row["distillation"] == pytest.approx(parts["distillation"].item(), rel=1e-5)


def test_a_loader_that_yields_nothing(model):
    trainer = ATEXTrainer(model, **DELTAS)
    with pytest.raises(ValueError, match="loader yields nothing in epoch 0"):
        trainer.fit([], 1, show_progress=False)
    with pytest.raises(ValueError, match="loader yields nothing to evaluate"):
        trainer.evaluate([])
    with pytest.raises(ValueError, match="loader yields nothing in epoch 1"):
        trainer.fit(iter([torch.rand(4, 6)]), 2, show_progress=False)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_leaves_the_weights_before_it(bad, model, loader):
    weights, calls = [], []

    def objective(student, teacher, batch):
        weights.append({n: w.clone() for n, w in student.state_dict().items()})
        calls.append(1)
        return {"part": student(batch.inputs).square().mean() * (bad if len(calls) == 3 else 1)}

    trainer = Trainer(model, objective)
    with pytest.raises(ValueError, match=r"the loss is not finite at step 2 \(part (nan|inf)\)"):
        trainer.fit(loader(), 1, show_progress=False)
    assert same(trainer.weights(), weights[2])
    assert all(p.grad is None for p in trainer.model.parameters())


def test_an_objective_error_leaves_the_flags_of_the_student(model, loader):
    trainer = Trainer(model.eval(), GradientPenalty(0.1))
    with pytest.raises(ValueError, match="loader must yield"):
        trainer.fit(DataLoader(torch.rand(8, 6), batch_size=4), 1, show_progress=False)
    assert not any(m.training for m in trainer.model.modules())


def test_an_objective_that_returns_no_parts_is_refused(model, loader):
    trainer = Trainer(model, lambda student, teacher, batch: student(batch.inputs).mean())
    with pytest.raises(TypeError, match="objective must return a dictionary"):
        trainer.fit(loader(), 1, show_progress=False)


def test_a_gradient_that_is_not_finite_leaves_the_weights_before_it(model, loader):
    def objective(student, teacher, batch):
        return {"loss": (0 * student(batch.inputs)).abs().sum().sqrt()}

    trainer = Trainer(model, objective)
    before = trainer.weights()
    with pytest.raises(ValueError, match=r"the gradient of 0.weight is not finite at step 0"):
        trainer.fit(loader(), 1, show_progress=False)
    assert same(trainer.weights(), before)

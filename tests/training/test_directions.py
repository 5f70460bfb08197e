"""SmoothGrad directions: what they are, and when they are computed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from captum_robust.training import (
    ATEXTrainer,
    Batch,
    Draws,
    SmoothGradDirections,
)
from tests.training.runs import DELTAS, atex, batch

D = torch.float64


@pytest.mark.parametrize("n", [2_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_smoothgrad_directions_are_the_mean_of_gradients(pair, n):
    """The noise cannot be seen from outside; that of many samples can be forgotten."""
    _, teacher = pair
    found = SmoothGradDirections(n_samples=n, stdev=0.3)(teacher, batch())
    x = batch().inputs
    classes = teacher(x).argmax(1)
    generator = torch.Generator().manual_seed(9)
    noisy = x + 0.3 * torch.randn(n, 4, 5, dtype=D, generator=generator)
    noisy.requires_grad_()
    explained = teacher(noisy).gather(2, classes.expand(n, 4).unsqueeze(2))
    gradients = torch.autograd.grad(explained.sum(), noisy)[0]
    error = gradients.std(0).norm(dim=1).max() / n**0.5
    assert (found - gradients.mean(0)).norm(dim=1).max() < 6 * error
    assert error < 0.02 * (20_000 / n) ** 0.5


class Counted(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.rows = network, 0

    def forward(self, x):
        self.rows += len(x)
        return self.network(x)


def test_directions_are_computed_once_for_an_input(pair):
    teacher, directions = Counted(pair[1]), SmoothGradDirections(n_samples=3)
    first = directions(teacher, batch())
    calls = teacher.rows
    assert calls == 4 + 3 * 4
    again = Batch(batch().inputs.flip(0), None, Draws(seed=77))
    assert torch.equal(directions(teacher, again), first.flip(0))
    assert teacher.rows == calls
    changed = batch().inputs.clone()
    changed[2] += 5
    mixed = directions(teacher, Batch(changed, None, Draws(seed=77)))
    assert teacher.rows == calls + 1 + 3
    assert torch.equal(mixed[[0, 1, 3]], first[[0, 1, 3]])
    assert not torch.equal(mixed[2], first[2])


def test_directions_that_do_not_fit_are_kept_for_the_batch_alone(pair):
    teacher, directions = Counted(pair[1]), SmoothGradDirections(n_samples=3, kept_bytes=0)
    given = batch()
    first = directions(teacher, given)
    calls = teacher.rows
    assert torch.equal(directions(teacher, replace(given, repeat=1)), first)
    assert teacher.rows == calls
    assert torch.equal(directions(teacher, given), first)  # the same inputs, come again
    assert teacher.rows == 2 * calls
    later = Batch(batch().inputs[2:], None, Draws(seed=4))
    torch.testing.assert_close(directions(teacher, later), first[2:])  # the same noise
    assert teacher.rows == 2 * calls + calls // 2
    other = SmoothGradDirections(n_samples=3, kept_bytes=0, seed=1)
    assert not torch.allclose(other(teacher, batch()), first)


def test_directions_are_those_of_the_model_and_the_inputs(model):
    objective = atex(**DELTAS)
    x = torch.rand(8, 6)
    others = [nn.Linear(6, 3), nn.Linear(6, 3)]
    for network in others:
        for part in (x[:4], x[4:]):
            found = objective.directions(network, Batch(part, None, Draws(seed=0)))
            expected = network.weight[network(part).argmax(1)]
            torch.testing.assert_close(found, expected.detach())


def test_directions_of_another_shape_are_refused(model, loader):
    trainer = ATEXTrainer(model, **DELTAS, directions=lambda m, batch: batch.inputs[:1])
    with pytest.raises(ValueError, match="directions must give the shape of the inputs"):
        trainer.fit(loader(), 1, show_progress=False)
    with pytest.raises(TypeError, match="directions must be a function"):
        ATEXTrainer(model, **DELTAS, directions=3)

"""A resumed run ends where it would have ended."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from captum_robust.training import (
    ATEX,
    ATEXTrainer,
    Checkpoints,
    CrossEntropy,
    Trainer,
)
from tests.training.runs import (
    DELTAS,
    Augmented,
    Interrupted,
    data,
    fit,
    interrupt_at,
    network,
    same,
    trainer,
)


@pytest.mark.parametrize("every", [1, 5])
def test_checkpoints_change_nothing(whole, tmp_path, every):
    assert same(fit(trainer(), tmp_path, every).weights(), whole.weights())


@pytest.mark.parametrize(
    ("step", "every"),
    [
        # The first and the last step, the ends of epochs, before and behind a checkpoint.
        pytest.param(s, e, marks=[] if s in (1, 4, 5, 9, 17) else [pytest.mark.slow])
        for s in range(1, 18)
        for e in (1, 4)
    ],
)
def test_a_run_interrupted_at_any_step_ends_bit_equal(whole, tmp_path, step, every):
    with pytest.raises(Interrupted):
        fit(trainer(interrupt_at(step)), tmp_path, every)
    resumed = fit(trainer(), tmp_path, every)
    assert same(resumed.weights(), whole.weights())
    assert same(
        resumed.optimizer.state_dict()["state"][0], whole.optimizer.state_dict()["state"][0]
    )
    assert resumed.history == whole.history


@pytest.mark.parametrize("step", [4, 5, 8, 11, 12])
def test_directions_of_the_student_resume_too(tmp_path, step):
    """Three steps on each batch: also from between them, where the student has moved on."""

    def run(objective=ATEX):
        objective = partial(objective, follow_student=True)
        made = trainer(objective, kept_bytes=0)
        made.steps_per_batch = 3
        return made

    once = torch.rand(12, 6, generator=torch.Generator().manual_seed(0))
    batches = DataLoader(once, batch_size=5, shuffle=True)
    expected = run()
    expected.fit(batches, 2, show_progress=False)
    with pytest.raises(Interrupted):
        run(interrupt_at(step)).fit(batches, 2, checkpoints=Checkpoints(tmp_path, 1))
    resumed = run()
    resumed.fit(batches, 2, checkpoints=Checkpoints(tmp_path, 1), show_progress=False)
    assert same(resumed.weights(), expected.weights())


@pytest.mark.parametrize("kept_bytes", [0, 100, 2**20])
def test_kept_directions_resume_too(tmp_path, kept_bytes):
    once = torch.rand(12, 6, generator=torch.Generator().manual_seed(0))
    batches = DataLoader(once, batch_size=5, shuffle=True)

    def run(objective=ATEX):
        made = trainer(objective, kept_bytes=kept_bytes)
        made.objective.directions.n_samples = 3
        return made

    expected = run()
    expected.fit(batches, 3, show_progress=False)
    with pytest.raises(Interrupted):
        run(interrupt_at(11)).fit(batches, 3, checkpoints=Checkpoints(tmp_path, 1))
    resumed = run()
    resumed.fit(batches, 3, checkpoints=Checkpoints(tmp_path, 1), show_progress=False)
    assert same(resumed.weights(), expected.weights())


def test_a_finished_run_is_not_run_again(whole, tmp_path):
    fit(trainer(), tmp_path)
    again = trainer(interrupt_at(0))
    fit(again, tmp_path)
    assert same(again.weights(), whole.weights())
    assert again.history == whole.history


def test_worker_processes_resume_too(tmp_path):
    expected = fit(trainer(), loader=data(workers=1), epochs=2)
    with pytest.raises(Interrupted):
        fit(trainer(interrupt_at(9)), tmp_path, loader=data(workers=1), epochs=2)
    resumed = fit(trainer(), tmp_path, loader=data(workers=1), epochs=2)
    assert same(resumed.weights(), expected.weights())


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    fit(trainer(), tmp_path, epochs=1)
    other = Trainer(network(), CrossEntropy(), seed=1)
    with pytest.raises(ValueError, match=r"another run \(objective was ATEX.*seed was 0, is 1"):
        other.fit(data(), 1, checkpoints=tmp_path, show_progress=False)
    wider = nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 3))
    fewer = ATEXTrainer(wider, **DELTAS)
    with pytest.raises(ValueError, match="another run"):
        fewer.fit(data(), 1, checkpoints=tmp_path, show_progress=False)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_written(bad, tmp_path):
    def objective(student, teacher, batch):
        with torch.no_grad():
            student[0].weight[0, 0] = bad
        return {"loss": 0 * student[4].bias.sum()}

    with pytest.raises(ValueError, match=r"NaN or Inf \(0.weight\), so no checkpoint"):
        Trainer(network(), objective).fit(
            data(), 1, checkpoints=Checkpoints(tmp_path, 1), show_progress=False
        )
    assert not list(tmp_path.iterdir())


def test_a_buffer_may_be_infinite(tmp_path):
    model = network()
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    Trainer(model, CrossEntropy()).fit(data(), 1, checkpoints=tmp_path, show_progress=False)
    assert Checkpoints(tmp_path).files()


def test_another_teacher_is_another_run(tmp_path):
    fit(trainer(), tmp_path, epochs=1)
    other = trainer()
    with torch.no_grad():
        other.teacher[0].weight += 1
    with pytest.raises(ValueError, match="another run \\(teacher was"):
        fit(other, tmp_path)


def test_a_trainer_that_has_begun_does_not_write_into_the_folder_of_another(tmp_path):
    fit(trainer(), tmp_path, epochs=1)
    before = Checkpoints(tmp_path).files()
    begun = trainer()
    begun.fit(data(), 1, show_progress=False)
    with pytest.raises(ValueError, match="holds a run already, and this trainer has begun another"):
        begun.fit(data(), 2, checkpoints=tmp_path, show_progress=False)
    assert Checkpoints(tmp_path).files() == before


def test_a_second_call_goes_on_in_the_same_folder(whole, tmp_path):
    run = trainer()
    for epochs in (1, 3):
        fit(run, tmp_path, epochs=epochs)
    assert same(run.weights(), whole.weights())
    assert same(fit(trainer(), tmp_path).weights(), whole.weights())


def test_persistent_workers_cannot_resume(tmp_path):
    loader = DataLoader(Augmented(), batch_size=8, num_workers=1, persistent_workers=True)
    with pytest.raises(ValueError, match="persistent_workers=False"):
        fit(trainer(), tmp_path, loader=loader)

"""What happens after an epoch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from captum_robust.training import (
    ATEXTrainer,
    EarlyStopping,
    Trainer,
)
from tests.training.runs import DELTAS, same, sgd


def test_a_callback_sees_each_epoch_and_may_end_the_training(model, loader):
    rows = []

    def callback(trainer, row):
        rows.append(row["epoch"])
        return row["epoch"] == 1

    trainer = ATEXTrainer(model, **DELTAS)
    trainer.fit(loader(), 5, callbacks=[callback], show_progress=False)
    assert rows == [0, 1]
    assert len(trainer.history) == 2


def test_early_stopping_goes_back_to_the_best_weights(model, loader):
    values, weights = iter([0.3, 0.7, 0.6, 0.5]), []
    trainer = ATEXTrainer(model, **DELTAS, measures={"m": lambda m, x, y: 0 * x[:, 0] + value})
    stop = EarlyStopping("val_m", patience=2)

    def before(trainer, row):
        nonlocal value
        weights.append(trainer.weights())
        value = next(values, 0.0)

    value = next(values)
    trainer.fit(loader(), 9, validation=loader(), callbacks=[before, stop], show_progress=False)
    assert [row["val_m"] for row in trainer.history] == pytest.approx([0.3, 0.7, 0.6, 0.5])
    assert same(trainer.weights(), weights[1])


def test_early_stopping_names_what_it_lacks(model, loader):
    with pytest.raises(ValueError, match="monitor: the record of an epoch has no 'val_stability'"):
        ATEXTrainer(model, **DELTAS).fit(
            loader(), 1, callbacks=[EarlyStopping("val_stability")], show_progress=False
        )


def test_a_training_that_was_stopped_goes_on_when_asked(model, loader):
    trainer = ATEXTrainer(model, **DELTAS)
    trainer.fit(loader(), 5, callbacks=[lambda t, row: row["epoch"] == 1], show_progress=False)
    assert len(trainer.history) == 2
    trainer.fit(loader(), 5, show_progress=False)
    assert len(trainer.history) == 5


def test_early_stopping_begins_anew_with_another_trainer(model, loader):
    stop = EarlyStopping("distillation", patience=1, minimize=True)
    for seed in (0, 1):
        trainer = ATEXTrainer(model, **DELTAS, seed=seed)
        trainer.fit(loader(), 4, callbacks=[stop], show_progress=False)
    other = nn.Linear(6, 3)
    trainer = ATEXTrainer(other, **DELTAS)
    trainer.fit(loader(), 3, callbacks=[stop], show_progress=False)
    assert trainer.weights().keys() == other.state_dict().keys()


def worse_and_worse(model):
    """A training whose every epoch lowers the measure."""

    def objective(student, teacher, batch):
        return {"loss": student(batch.inputs).square().mean()}

    def size(network, x, y):
        with torch.no_grad():
            return network(x).square().sum(1)

    return Trainer(model, objective, sgd, measures={"size": size})


def test_the_weights_before_the_training_count(model, loader):
    trainer = worse_and_worse(model)
    stop = EarlyStopping("val_size", patience=2)
    trainer.fit(loader(), 9, validation=loader(), callbacks=[stop], show_progress=False)
    assert len(trainer.history) == 2
    assert same(trainer.weights(), model.state_dict())


def test_a_resumed_run_has_begun(model, loader, tmp_path):
    started = []

    class Watched(EarlyStopping):
        def start(self, state, record):
            started.append(sorted(record))
            super().start(state, record)

    for epochs in (1, 9):
        trainer = worse_and_worse(model)
        trainer.fit(
            loader(), epochs, validation=loader(), callbacks=[Watched("val_size", patience=3)],
            checkpoints=tmp_path, show_progress=False,
        )  # fmt: skip
    assert started == [["val_accuracy", "val_agreement", "val_size"]]
    assert len(trainer.history) == 3
    assert same(trainer.weights(), model.state_dict())


def test_callbacks_are_given_the_state(model, loader):
    seen = []
    trainer = worse_and_worse(model)
    trainer.fit(
        loader(), 1, callbacks=[lambda state, record: seen.append((state, dict(record)))],
        show_progress=False,
    )  # fmt: skip
    ((state, record),) = seen
    assert state is trainer.state
    assert state.model is trainer.model
    assert (record["epoch"], record["updates"], state.progress.update) == (0, 3, 3)

"""What happens after an epoch."""

from __future__ import annotations

import pytest
from torch import nn

from captum_robust.training import (
    ATEXTrainer,
    EarlyStopping,
)
from tests.training.runs import DELTAS, same


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

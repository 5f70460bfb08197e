"""The trainer: what it trains, records, and leaves behind."""

from __future__ import annotations

import copy

import pytest
import torch

from captum_robust.training import (
    ATEXTrainer,
)
from tests.training.runs import DELTAS, same


def test_the_model_itself_stays_as_it_is(model, loader):
    before, flags = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    trainer = ATEXTrainer(model, **DELTAS)
    trainer.fit(loader(), 2, validation=loader(), show_progress=False)
    assert same(model.state_dict(), before)
    assert same(trainer.teacher.state_dict(), before)
    assert not same(trainer.model.state_dict(), before)
    assert [m.training for m in model.modules()] == flags
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_record_of_an_epoch(model, loader):
    trainer = ATEXTrainer(model, **DELTAS, measures={"size": lambda m, x, y: x.abs().sum(1)})
    history = trainer.fit(loader(), 2, validation=loader(), show_progress=False)
    assert history is trainer.history
    assert [row["epoch"] for row in history] == [0, 1]
    assert [row["updates"] for row in history] == [3, 6]
    row = history[-1]
    names = {"distillation", "neighbourhood", "val_agreement", "val_accuracy", "val_size"}
    assert names < row.keys()
    x, y = next(iter(loader(24, shuffle=False)))
    student, teacher = trainer.model.eval()(x).argmax(1), trainer.teacher(x).argmax(1)
    assert row["val_accuracy"] == pytest.approx((student == y).double().mean().item())
    assert row["val_agreement"] == pytest.approx((student == teacher).double().mean().item())
    assert row["val_size"] == pytest.approx(x.double().sum(1).mean().item())
    assert trainer.evaluate(loader(7)) == pytest.approx(
        {name[4:]: value for name, value in row.items() if name.startswith("val_")}
    )


def test_epochs_count_those_of_earlier_calls(model, loader):
    twice, once = ATEXTrainer(model, **DELTAS), ATEXTrainer(model, **DELTAS)
    twice.fit(loader(), 1, show_progress=False)
    twice.fit(loader(), 3, show_progress=False)
    once.fit(loader(), 3, show_progress=False)
    assert same(twice.weights(), once.weights())
    assert len(twice.history) == 3


@pytest.mark.parametrize("options", [{"steps_per_batch": 0}, {"epochs": 0}])
def test_counts_from_one_on(options, model, loader):
    epochs = options.pop("epochs", 1)
    with pytest.raises(ValueError, match="must be at least 1"):
        ATEXTrainer(model, **DELTAS, **options).fit(loader(), epochs)


def test_a_tensor_is_no_loader_and_a_file_no_folder(model, loader, tmp_path):
    trainer = ATEXTrainer(model, **DELTAS)
    with pytest.raises(TypeError, match="loader is a tensor"):
        trainer.fit(torch.rand(8, 6), 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="checkpoints must be a folder"):
        trainer.fit(loader, 1, checkpoints=tmp_path / "file")
    with pytest.raises(ValueError, match="delta1 must be 0 or more"):
        ATEXTrainer(model, delta1=-1.0, delta2=1.0)

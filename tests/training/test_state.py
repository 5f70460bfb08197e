"""What is copied, what stays frozen, what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from captum_robust.training import (
    ATEXTrainer,
    CrossEntropy,
    Trainer,
)
from tests.training.runs import DELTAS, same, sgd


def test_an_optimizer_over_the_models_parameters_moves_to_the_copy(model, loader):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given = Trainer(model, CrossEntropy(), optimizer)
    made = Trainer(model, CrossEntropy(), sgd)
    for trainer in (given, made):
        trainer.fit(loader(), 2, show_progress=False)
    assert same(given.weights(), made.weights())
    assert optimizer.param_groups[0]["params"][0] is next(model.parameters())


def test_an_optimizer_over_other_parameters_is_refused(model):
    with pytest.raises(ValueError, match="optimizer: it holds parameters that are not those"):
        Trainer(model, CrossEntropy(), torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1))
    with pytest.raises(TypeError, match="optimizer must be"):
        Trainer(model, CrossEntropy(), 0.1)


def test_parameters_that_are_frozen_stay(model, loader):
    model[0].requires_grad_(False)
    trainer = ATEXTrainer(model, **DELTAS)
    trainer.fit(loader(), 2, show_progress=False)
    assert torch.equal(trainer.model[0].weight, model[0].weight)
    assert not torch.equal(trainer.model[3].weight, model[3].weight)


def normalized() -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("how", ["frozen weights", "evaluation mode"])
def test_a_frozen_normalization_keeps_its_statistics(how, loader):
    model = normalized().train()
    if how == "frozen weights":
        model[1].requires_grad_(False)
    else:
        model[1].eval()
    trainer = ATEXTrainer(model, **DELTAS)
    trainer.fit(loader(), 2, show_progress=False)
    assert torch.equal(trainer.model[1].running_mean, torch.zeros(8))
    assert [m.training for m in trainer.model.modules()] == [m.training for m in model.modules()]


def test_a_normalization_that_is_not_frozen_learns_its_statistics(loader):
    model = normalized().eval()
    trainer = ATEXTrainer(model, **DELTAS)
    trainer.fit(loader(), 2, show_progress=False)
    assert not torch.equal(trainer.model[1].running_mean, torch.zeros(8))
    assert torch.equal(trainer.teacher[1].running_mean, torch.zeros(8))
    assert not trainer.model[1].training


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_is_refused(model, dtype):
    with pytest.raises(ValueError, match=r"model is in half precision \(0.weight\)"):
        ATEXTrainer(model.to(dtype), **DELTAS)


def test_a_model_without_anything_to_train_is_refused(model):
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        ATEXTrainer(model.requires_grad_(False), **DELTAS)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        ATEXTrainer(lambda x: x, **DELTAS)

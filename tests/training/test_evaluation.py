"""What an evaluation counts."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from captum_robust.training import (
    ATEXTrainer,
    CrossEntropy,
    Trainer,
)
from tests.training.runs import DELTAS

D = torch.float64


def test_evaluation_without_labels_has_no_accuracy(model):
    found = ATEXTrainer(model, **DELTAS).evaluate([torch.rand(5, 6)])
    assert found.keys() == {"agreement", "stability"}
    assert found["agreement"] == 1.0


@pytest.mark.parametrize("labels", [torch.rand(8, 3), ["a"] * 8, torch.rand(8)])
def test_labels_of_any_kind_are_passed_over_where_none_are_needed(labels, model):
    batch = [torch.rand(8, 6), labels]
    (row,) = ATEXTrainer(model, **DELTAS).fit([batch], 1, show_progress=False)
    assert row["updates"] == 1
    with pytest.raises(ValueError, match="labels of integer classes"):
        Trainer(model, CrossEntropy()).fit([batch], 1, show_progress=False)


def test_evaluation_counts_each_example_once(model, loader):
    data = loader().dataset
    sampler = torch.utils.data.SubsetRandomSampler(range(10))
    trainer = ATEXTrainer(model, **DELTAS, measures={"first": lambda m, x, y: x[:, 0]})
    found = trainer.evaluate(DataLoader(data, batch_size=4, sampler=sampler))["first"]
    assert found == pytest.approx(data.tensors[0][:10, 0].double().mean().item())


def test_a_measure_may_attack(model):
    def attacked(network, x, y):
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(network(x).sum(), x)
        return gradient.norm(dim=1)

    trainer = ATEXTrainer(model, **DELTAS, measures={"slope": attacked})
    assert trainer.evaluate([torch.rand(5, 6)])["slope"] > 0


@pytest.mark.parametrize("bad", [0.5, torch.tensor(0.5)])
def test_a_measure_that_is_no_value_per_example_is_named(bad, model):
    trainer = ATEXTrainer(model, **DELTAS, measures={"mine": lambda m, x, y: bad})
    with pytest.raises(TypeError, match="measures: 'mine' must give a tensor of one value per"):
        trainer.evaluate([torch.rand(5, 6)])

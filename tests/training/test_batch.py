"""What loaders may yield."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from captum_robust.training import (
    ATEXTrainer,
)
from tests.training.runs import DELTAS

D = torch.float64


@pytest.mark.parametrize("kind", ["list", "inputs alone", "iterable data set"])
def test_loaders_of_many_kinds(kind, model, loader):
    inputs = torch.rand(12, 6)
    if kind == "list":
        batches = [inputs, (inputs, torch.zeros(12, dtype=torch.long)), [inputs]]
    elif kind == "inputs alone":
        batches = DataLoader(inputs, batch_size=4)
    else:

        class Stream(IterableDataset):
            def __iter__(self):
                return iter(inputs)

        batches = DataLoader(Stream(), batch_size=4)
    trainer = ATEXTrainer(model, **DELTAS)
    (row,) = trainer.fit(batches, 1, show_progress=False)
    assert row["updates"] == 3


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ({"x": torch.rand(2, 6)}, TypeError, "loader must yield inputs or"),
        (torch.zeros(2, 6, dtype=torch.long), ValueError, "must yield floating-point inputs"),
        (torch.zeros(0, 6), ValueError, "must yield floating-point inputs"),
    ],
)
def test_batches_of_the_wrong_kind(batch, error, message, model):
    with pytest.raises(error, match=message):
        ATEXTrainer(model, **DELTAS).fit([batch], 1, show_progress=False)


def test_a_data_set_of_one_tensor_gives_lists_of_one(model):
    trainer = ATEXTrainer(model, **DELTAS)
    (row,) = trainer.fit(
        DataLoader(TensorDataset(torch.rand(8, 6)), batch_size=4), 1, show_progress=False
    )
    assert row["updates"] == 2

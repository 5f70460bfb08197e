"""Small networks, and a loader of random examples."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_robust.training import Trainer
from tests.training.runs import fit, trainer


@pytest.fixture
def loader() -> Callable[..., DataLoader]:
    """Makes a loader of 24 examples, 6 features and 3 classes each, in shuffled batches of 8."""
    inputs = torch.rand(24, 6, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(3, (24,), generator=torch.Generator().manual_seed(2))

    def make(batch_size: int = 8, shuffle: bool = True, **options: object) -> DataLoader:
        data = TensorDataset(inputs, labels)
        return DataLoader(data, batch_size=batch_size, shuffle=shuffle, **options)

    return make


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    """Student and teacher, for `runs.batch`."""
    torch.manual_seed(0)
    networks = (nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in "st")
    student, teacher = (network.double() for network in networks)
    return student, teacher


@pytest.fixture(scope="module")
def whole() -> Trainer:
    """A run of 3 epochs, 3 batches and 2 steps that nothing interrupted."""
    return fit(trainer())

"""A tiny model, its data, and one audit of it that many tests look at."""

from __future__ import annotations

import pytest
import torch
from captum.attr import Saliency
from torch import nn

from captum_robust import audit
from captum_robust.audit.settings import Budget

TINY = Budget(evaluations=4, copies=20, perturbations=5, neighbours=2, flips=3)


def make_model(n_outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten()]
    layers.append(nn.Linear(64, n_outputs))
    return nn.Sequential(*layers).eval()


def make_batches(sizes: tuple[int, ...] = (3, 2)) -> list[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [[torch.rand(n, 1, 8, 8, generator=generator), torch.arange(n) % 3] for n in sizes]


def run_audit(model=None, explanations=None, batches=None, **changes):
    model = make_model() if model is None else model
    arguments = {"eps": 0.1, "budget": TINY, "show_progress": False, **changes}
    explanations = {"gradient": Saliency(model)} if explanations is None else explanations
    batches = make_batches() if batches is None else batches
    return audit.audit(model, explanations, batches, **arguments)


@pytest.fixture(scope="session")
def report() -> audit.AuditReport:
    with torch.random.fork_rng():
        return run_audit()


@pytest.fixture
def tiny_model():
    return make_model


@pytest.fixture
def tiny_batches():
    return make_batches


@pytest.fixture
def run():
    """An audit of the tiny model, of which a test changes what it wants."""
    return run_audit

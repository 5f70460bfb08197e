"""The search for the farthest perpendicular points."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.training.runs import atex, batch, drawn

D = torch.float64


@pytest.mark.parametrize("norm", [2.0, float("inf")])
def test_a_searched_point_is_perpendicular_far_away_and_worse_than_a_drawn_one(norm):
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(5, 64), nn.Tanh(), nn.Linear(64, 3)).double().train()
    teacher = nn.Sequential(nn.Linear(5, 64), nn.Tanh(), nn.Linear(64, 3)).double()
    settings = {"delta1": 0.2, "delta2": 0.6, "n_perpendicular": 1, "n_parallel": 2, "norm": norm}
    given, seen = batch(40), []

    class Recorded(nn.Module):
        def forward(self, x):
            if x.shape[0] == 40 + 80 and torch.is_grad_enabled():
                seen.append(x.detach())
            return student(x)

    losses = []
    for search in (0, 1, 5):
        objective = atex(**settings, search=search)
        losses.append(objective(Recorded(), teacher, batch(40))["neighbourhood"].item())
        phi = objective.directions(teacher, given)
    assert losses[0] < losses[1] < losses[2]
    parallel, _ = drawn(objective, teacher, batch(40))
    for found in seen[1:]:
        moves = found[40:].view(40, 2, 5) - parallel
        assert (moves * phi.unsqueeze(1)).sum(2).abs().max() < 1e-5 * phi.norm(dim=1).max()
        size = torch.linalg.vector_norm(moves, ord=norm, dim=2)
        torch.testing.assert_close(size, torch.full_like(size, 0.6))
    assert all(p.requires_grad for p in student.parameters())
    assert student.training

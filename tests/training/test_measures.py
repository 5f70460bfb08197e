"""What is measured of a model in training."""

from __future__ import annotations

import torch
from torch import nn

from captum_robust.training import (
    CosineStability,
)


def test_cosine_stability_is_the_smallest_cosine():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Softplus(5.0), nn.Linear(16, 3)).double()
    x = torch.rand(5, 4, dtype=torch.float64)
    found = CosineStability(radius=0.5, n_samples=3, seed=1)(model, x, None)
    generator = torch.Generator().manual_seed(1)
    classes = model(x).argmax(1)
    smallest = torch.ones(5, dtype=torch.float64)
    for _ in range(3):
        moved = x + 0.5 * (2 * torch.rand(4, generator=generator, dtype=torch.float64) - 1)
        for n in range(5):
            a, b = (
                torch.autograd.functional.jacobian(lambda p: model(p)[classes[n]], point[n])  # noqa: B023
                for point in (x, moved)
            )
            smallest[n] = min(smallest[n], (a @ b) / a.norm() / b.norm())
    torch.testing.assert_close(found, smallest)
    assert found.min() < 0.999

"""What the tests of several metrics share: a small network, its points, Captum made quiet, data."""

from __future__ import annotations

import torch
from torch import nn

from captum_robust.metrics import relevance_map
from tests.helpers import rng

RADIUS = 0.3


class Network(nn.Module):
    """Smooth or not, with a BatchNorm, a buffer and a second input."""

    def __init__(self, dtype=torch.float64, smooth=True):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)
        self.smooth = smooth
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(0, 0.7, generator=rng(1))
        self.to(dtype).eval()

    def forward(self, x, y=None, scale=1.0):
        x = x.flatten(1) if y is None else x.flatten(1) + y.flatten(1).sum(1, keepdim=True) ** 2
        z = self.norm(self.first(x))
        return self.second(torch.tanh(z) if self.smooth else torch.relu(z)) * scale


def points(n=3, dtype=torch.float64, seed=2):
    return torch.randn(n, 4, generator=rng(seed), dtype=torch.float64).to(dtype)


def shifted(x, radius):
    """A perturbation of its own for every row, no randomness."""
    tensors = x if isinstance(x, tuple) else (x,)
    moved = tuple(
        t + radius * torch.sin(17.0 * torch.arange(t.numel())).view_as(t).to(t) for t in tensors
    )
    return moved if isinstance(x, tuple) else moved[0]


def uniform_copies(x, copies, generator, radius=RADIUS):
    """The default points, one copy of the batch after the other."""
    return [x + radius * (2 * torch.rand(x.shape, generator=generator, dtype=x.dtype) - 1)
            for _ in range(copies)]  # fmt: skip


def quiet(attribution):
    """Captum's attribute as a function that does not warn."""

    def explain(x, **kwargs):
        tensors = x if isinstance(x, tuple) else (x,)
        ready = tuple(t.detach().requires_grad_() for t in tensors)
        result = attribution.attribute(ready, **kwargs)
        return result if isinstance(x, tuple) else result[0]

    return explain


# --- Explanations to compare.


def many_ties(shape, seed):
    """Numbers from a handful of levels, so that nearly all are tied."""
    levels = 2 + seed % 7
    return torch.randint(-levels, levels, shape, generator=rng(seed)).double() / 3


def heavy_tailed(shape, seed):
    return torch.randn(shape, generator=rng(seed), dtype=torch.float64) ** 5


def mostly_zero(shape, seed):
    numbers = torch.randn(shape, generator=rng(seed), dtype=torch.float64)
    return numbers.abs() * (numbers > 1)


def relevance(shape, seed):
    explanations = torch.randn((shape[0], 3, *shape[1:]), generator=rng(seed), dtype=torch.float64)
    return relevance_map(explanations, channel_dim=1)


def tiny(shape, seed):
    return 1e-160 * heavy_tailed(shape, seed)


def huge(shape, seed):
    return 1e150 * heavy_tailed(shape, seed)


def per_example(oracle, a, b):
    values = [float(oracle(x, y)) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    return torch.tensor(values, dtype=torch.float64)


def assert_equal_to(oracle, actual, a, b, atol=1e-12):
    expected = per_example(oracle, a, b)
    assert actual.shape == (len(a),)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=atol)

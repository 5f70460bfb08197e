"""Networks whose shares are known exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import InputXGradient, Saliency
from scipy import special, stats
from torch import Tensor, nn

from captum_robust.attr import SparsifiedSmoothing


class Gates(nn.Module):
    """f(x) = sum of a_i relu(x_i): its gradient is a_i where x_i > 0, and 0 elsewhere."""

    def __init__(self, weights: list[float]) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) @ self.weights


class ExactGates:
    """One is kept: the open gate of the largest weight, or the first where all are shut."""

    def __init__(self, weights: list[float], stdev: float) -> None:
        self.model, self.stdev = Gates(weights), stdev
        self.weights = np.array(weights)
        kept = 1.0 / len(weights)
        self.smoothing = SparsifiedSmoothing(Saliency(self.model), kept=kept, stdev=stdev)

    def shares(self, x: np.ndarray) -> np.ndarray:
        """(N, d) exact probabilities."""
        opened = stats.norm.cdf(x / self.stdev)
        shares = np.zeros_like(opened)
        left = np.ones(len(x))
        for i in np.argsort(-self.weights):
            shares[:, i] = left * opened[:, i]
            left = left * (1 - opened[:, i])
        shares[:, 0] += left  # ties of zeros go to the lowest index
        return shares


class ExactLinear:
    """w'x explained by inputs times gradient: |w_i z_i| with z normal, one of d is kept."""

    def __init__(self, weights: list[float], stdev: float) -> None:
        self.weights, self.stdev = np.array(weights), stdev
        tensor = torch.tensor(weights, dtype=torch.float64)
        method = InputXGradient(lambda x: x @ tensor)
        self.smoothing = SparsifiedSmoothing(method, kept=1.0 / len(weights), stdev=stdev)

    def shares(self, x: np.ndarray) -> np.ndarray:
        """(N, d), by sums over a fine grid of the noise of each feature."""
        noise = np.linspace(-8, 8, 4001)
        weight = stats.norm.pdf(noise) * (noise[1] - noise[0])
        means, widths = self.weights * x, np.abs(self.weights) * self.stdev
        shares = np.empty_like(x)
        for i in range(x.shape[1]):
            value = np.abs(means[:, i, None] + widths[i] * noise)
            others = np.ones_like(value)
            for j in {*range(x.shape[1])} - {i}:
                ends = [(sign * value - means[:, j, None]) / widths[j] for sign in (1, -1)]
                others *= special.ndtr(ends[0]) - special.ndtr(ends[1])
            shares[:, i] = others @ weight
        return shares


@pytest.fixture
def gates() -> ExactGates:
    return ExactGates([1.0, 3.0, 2.0, 0.5, 2.5], 0.6)


@pytest.fixture
def linear() -> ExactLinear:
    return ExactLinear([1.0, -2.0, 0.7], 0.5)

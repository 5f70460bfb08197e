"""What test files share: `from tests.helpers import rng`."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 1) -> Tensor:
    """Normal draws in double precision, the same for the same seed."""
    return torch.randn(shape, generator=rng(seed), dtype=torch.float64)


def close(got: Tensor, want: Tensor, rtol: float = 1e-8, atol: float = 1e-9) -> None:
    torch.testing.assert_close(got, want, rtol=rtol, atol=atol)


def close_to_captum(got: Tensor, want: Tensor, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Captum's perturbation methods work in single precision."""
    torch.testing.assert_close(got, want.to(got), rtol=rtol, atol=atol)


class Smooth(nn.Module):
    """A smooth nonlinear function of any inputs, three classes, in double precision."""

    def __init__(self, n_features: int, seed: int = 3) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(n_features, 8), nn.Linear(8, 3)
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters()):
                parameter.copy_(normal(*parameter.shape, seed=seed + i) / 2)
        self.double()

    def forward(self, *inputs: Tensor) -> Tensor:
        x = torch.cat([x.reshape(len(x), -1) for x in inputs], dim=1)
        return self.second(torch.tanh(self.first(x)))


def f_of(model: nn.Module, target: int) -> Callable[[Tensor], Tensor]:
    """The explained output as a function of flat examples: (n, d) to (n,)."""
    return lambda rows: model(rows)[:, target].detach()


class Counting(nn.Module):
    """A model that notes how many rows each of its passes had."""

    def __init__(self, model: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.rows = model, []

    def forward(self, *args: Tensor) -> Tensor:
        self.rows.append(len(args[0]))
        return self.model(*args)


class WithLogits(nn.Module):
    """A model whose output is an object with ``.logits``, as in transformers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.model(x))


def follow(wrong: Callable[[], object], remedy: str, right: Callable[[], Tensor]) -> Tensor:
    """What ``right`` gives, which does what the error of ``wrong`` says: ``remedy``."""
    with pytest.raises((TypeError, ValueError, RuntimeError), match=remedy):
        wrong()
    return right()

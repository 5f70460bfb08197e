"""What is to be explained, and the arithmetic over examples that the optima share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_robust._utils.batching import widest
from captum_robust._utils.explained_output import ExplainedOutput
from captum_robust._utils.types import Tensors
from captum_robust.perturbations import Points
from captum_robust.perturbations.points import flat


@dataclass(frozen=True)
class Problem:
    """What is to be explained, and how much work may be done for it.

    Attributes:
        points: The examples with baselines and feature mask.
        output: The explained output f.
        n_samples: How many perturbations of each example; None: what suits the distribution.
        copies_at_once: How many of them one pass of the model takes.
        generator: Where random numbers come from.
        multiply_by_inputs: Whether global attributions are asked for.
        show_progress: Whether to show a bar.
    """

    points: Points
    output: ExplainedOutput
    n_samples: int | None
    copies_at_once: int
    generator: torch.Generator
    multiply_by_inputs: bool
    show_progress: bool

    @property
    def differences(self) -> Tensors:
        """X - x0 in the precision of the arithmetic."""
        return tuple(d.to(widest(d.device)) for d in self.points.differences)

    @property
    def sizes(self) -> list[int]:
        """How many features an example of each input has."""
        return [x[0].numel() for x in self.points.inputs]

    def scales(self) -> Tensors:
        """What a removed feature's attribution is multiplied with: 1 where global, else x - x0."""
        if not self.multiply_by_inputs:
            return self.differences
        return tuple(torch.ones_like(d[:1]) for d in self.differences)

    def chunks(self, n_samples: int) -> Iterator[tuple[int, int]]:
        """Where the parts of the work begin and end."""
        for start in range(0, n_samples, self.copies_at_once):
            yield start, min(start + self.copies_at_once, n_samples)

    def output_differences(self, perturbed: Iterator[Tensors], n_samples: int) -> Tensor:
        """d(I) = f(x) - f(x - I), (N, n)."""
        return self.output.output_differences(perturbed, n_samples, self.show_progress)

    def in_shape(self, features: Tensor) -> Tensors:
        """Features of all inputs one after another, (N, d), in the shapes of the inputs."""
        parts = features.split(self.sizes, dim=1)
        return tuple(p.view(x.shape) for p, x in zip(parts, self.points.inputs, strict=True))

    def globalised(self, local: Tensors) -> Tensors:
        """Local attributions, multiplied by x - x0 where global ones are asked for."""
        if not self.multiply_by_inputs:
            return local
        return tuple(a * d for a, d in zip(local, self.differences, strict=True))


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """One number per example, (N,), as it broadcasts to (N, ...)."""
    return values.view(-1, *(1,) * (like.dim() - 1))


def scalar_products(a: Tensors, b: Tensors) -> Tensor:
    """Scalar products over all inputs, (N,)."""
    return torch.stack([flat(x * y).sum(1) for x, y in zip(a, b, strict=True)]).sum(0)


def divide(a: Tensor, b: Tensor) -> Tensor:
    """A / b, and 0 where b is 0: what cannot move has no attribution."""
    return torch.where(b == 0, 0.0, a / torch.where(b == 0, 1.0, b))

"""Candidates of a search without gradients: squares at the border of the ball, and noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from captum_robust._utils.randomness import random_sign, standard_uniform
from captum_robust.attacks._limits import Limits
from captum_robust.attacks.balls import LInf


def with_square(
    x: Tensor,
    center: Tensor,
    share: float,
    limits: Limits,
    channel_dim: int | None,
    generator: torch.Generator,
) -> Tensor:
    """``x`` with a box of its features moved to the border of the ball, one sign per channel.

    In two dimensions of space these are the squares of Andriushchenko et al. 2020; of a table a
    run of columns, of a volume a cube.

    Args:
        x: Current candidates, (N, ...).
        center: The clean examples.
        share: Share of the features in the box.
        limits: The ball, of which the box goes to the border.
        channel_dim: Dimension of the channels; None: 1 where there are more than two dimensions.
        generator: Source of positions and signs.
    """
    channels = None if x.dim() == 2 else (1 if channel_dim is None else channel_dim) % x.dim()
    inside = torch.ones((1,) * x.dim(), dtype=torch.bool, device=x.device)
    space = [d for d in range(1, x.dim()) if d != channels]
    side = share ** (1 / len(space))
    for d in space:
        length = x.shape[d]
        width = max(1, min(length, round(side * length)))
        start = torch.randint(
            0, length - width + 1, (len(x),), generator=generator, device=generator.device
        ).to(x.device)
        shape = [1] * x.dim()
        shape[d] = length
        index = torch.arange(length, device=x.device).view(shape)
        start = start.view(-1, *[1] * (x.dim() - 1))
        inside = inside & (index >= start) & (index < start + width)
    signs = x.new_empty([n if d in (0, channels) else 1 for d, n in enumerate(x.shape)])
    step = limits.eps * random_sign(signs, generator)
    if isinstance(limits.ball, LInf):
        moved = torch.where(inside, center + step, x)
    else:
        size = max(1, round(share * x[0].numel()))
        moved = x + inside * step / math.sqrt(size)
    return limits.project(moved.to(x.dtype), center)


def stratified_normal(like: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Antithetic normal noise from a Latin hypercube, (2 * count, ...) for ``like`` (...).

    Each feature's first ``count`` values fall one into each of ``count`` equally likely
    intervals; the others are their negatives, so that the mean is exactly zero.

    Example:
        >>> import torch
        >>> noise = stratified_normal(torch.zeros(3), 4, torch.Generator().manual_seed(0))
        >>> noise.shape, bool((noise.sum(0).abs() < 1e-6).all())
        (torch.Size([8, 3]), True)
    """
    many = like.new_empty((count, *like.shape), dtype=torch.float32)
    order = standard_uniform(many, generator).argsort(0).to(many.dtype)
    shares = (order + standard_uniform(many, generator)) / count
    noise = math.sqrt(2) * torch.erfinv((2 * shares - 1).clamp(-1 + 1e-6, 1 - 1e-6))
    return torch.cat([noise, -noise]).to(like.dtype)

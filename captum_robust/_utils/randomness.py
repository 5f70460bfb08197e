"""Where random numbers come from: a generator of the caller's, never the global one."""

from __future__ import annotations

import torch
from torch import Tensor


def fresh_generator(
    generator: torch.Generator | None, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return ``generator``, or a new one that the operating system seeds.

    The global random state is neither read nor advanced: a call that draws nothing visible to the
    user must not change what the user draws next. Reproducible results need an explicit generator.

    Example:
        >>> import torch
        >>> before = torch.get_rng_state()
        >>> draw = torch.rand(3, generator=fresh_generator(None))
        >>> bool((torch.get_rng_state() == before).all())
        True
    """
    if generator is not None:
        if not isinstance(generator, torch.Generator):
            raise TypeError(
                f"generator must be a torch.Generator, got {type(generator).__name__}. Seed one: "
                "torch.Generator().manual_seed(0)."
            )
        return generator
    generator = torch.Generator(device=device)
    generator.seed()
    return generator


def standard_normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw N(0, 1) in the shape, dtype and device of ``like``, on the generator's own device.

    Drawing where the generator lives makes a CPU generator give the same numbers on every device.
    """
    draw = torch.randn(
        like.shape, dtype=_drawable(like), device=generator.device, generator=generator
    )
    return draw.to(like)


def standard_uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw U(0, 1) in the shape, dtype and device of ``like``, on the generator's own device."""
    draw = torch.rand(
        like.shape, dtype=_drawable(like), device=generator.device, generator=generator
    )
    return draw.to(like)


def random_sign(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw -1 or +1 with equal probability, never 0, in the shape of ``like``."""
    bits = torch.randint(0, 2, like.shape, device=generator.device, generator=generator)
    return (2 * bits - 1).to(like)


def _drawable(like: Tensor) -> torch.dtype:
    """Half precision is drawn in single, so that the tails are not cut by its coarse uniforms."""
    return torch.float64 if like.dtype == torch.float64 else torch.float32

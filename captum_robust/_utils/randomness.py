"""Where random numbers come from: a generator of the caller's, never the global one."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
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


def seed_from(generator: torch.Generator) -> int:
    """A seed for another generator, drawn from ``generator``."""
    return int(torch.randint(2**62, (1,), generator=generator, device=generator.device))


@contextmanager
def seeded_global_state(seed: int, devices: Iterable[torch.device | str] = ()) -> Iterator[None]:
    """Seed the global random state for the length of a block, and put it back afterwards.

    For code of others that draws from it, such as Captum's NoiseTunnel: with the same seed it draws
    the same. Covered are torch on the CPU and on ``devices``, numpy and the module ``random``.

    Example:
        >>> import torch
        >>> from captum_robust._utils.randomness import seeded_global_state
        >>> with seeded_global_state(0):
        ...     first = torch.rand(3)
        >>> with seeded_global_state(0):
        ...     bool((torch.rand(3) == first).all())
        True
    """
    kinds = {torch.device(device).type for device in devices} - {"cpu"}
    with _numpy_and_python_kept(), _torch_kept(kinds):
        torch.random.default_generator.manual_seed(seed)
        for kind in kinds:
            getattr(torch, kind).manual_seed(seed)  # of the current device
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        yield


def global_state(devices: Iterable[torch.device | str] = ()) -> tuple[object, ...]:
    """The state that :func:`seeded_global_state` covers; it differs after a draw.

    Example:
        >>> import torch
        >>> from captum_robust._utils.randomness import global_state
        >>> before = global_state()
        >>> _ = torch.rand(3)
        >>> global_state() == before
        False
    """
    kinds = {torch.device(device).type for device in devices} - {"cpu"}
    states = [torch.get_rng_state(), *(getattr(torch, kind).get_rng_state() for kind in kinds)]
    _, keys, position, *rest = np.random.get_state()  # noqa: NPY002
    in_torch = tuple(state.numpy().tobytes() for state in states)
    return *in_torch, np.asarray(keys).tobytes(), position, *rest, random.getstate()


@contextmanager
def _numpy_and_python_kept() -> Iterator[None]:
    ours, theirs = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(theirs)  # noqa: NPY002


@contextmanager
def _torch_kept(kinds: Iterable[str]) -> Iterator[None]:
    modules = [getattr(torch, kind) for kind in kinds]
    kept = [module.get_rng_state() for module in modules]
    on_cpu = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(on_cpu)
        for module, state in zip(modules, kept, strict=True):
            module.set_rng_state(state)


def _drawable(like: Tensor) -> torch.dtype:
    """Half precision is drawn in single, so that the tails are not cut by its coarse uniforms."""
    return torch.float64 if like.dtype == torch.float64 else torch.float32


def mixed(seed: int) -> int:
    """A seed whose neighbours are far away (the finaliser of SplitMix64)."""
    z = (seed + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)

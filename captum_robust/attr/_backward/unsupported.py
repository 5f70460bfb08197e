"""Errors that name the module of the model that is running."""

from __future__ import annotations

import sys

from torch import nn


class Unsupported(Exception):
    """What becomes a TypeError at the end: torch hides one that is raised in an operator."""


def unsupported(message: str) -> Unsupported:
    """An error that says ``message`` of the path and kind of the module that is running."""
    running = _running_modules()
    if not running:
        return Unsupported(f"forward_func: {message}")
    module, root = running[0], running[-1]
    path = next((path for path, m in root.named_modules() if m is module), "")
    name = f"{path or 'the model'!r} ({type(module).__name__})"
    return Unsupported(f"forward_func: {name}: {message}")


def _running_modules() -> list[nn.Module]:
    """The user's modules among the callers, from the innermost to the outermost."""
    found: list[nn.Module] = []
    frame = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and not type(owner).__module__.startswith("captum_robust"):
            found.append(owner)
        frame = frame.f_back  # type: ignore[assignment]
    return found

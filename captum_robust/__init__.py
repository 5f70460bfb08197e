"""Explain robustly, attack explanations, and measure both, beside Captum and TorchAttacks.

The packages mirror the libraries that they stand beside: :mod:`captum_robust.attr` is used like
:mod:`captum.attr`, :mod:`captum_robust.attacks` like :mod:`torchattacks`, and
:mod:`captum_robust.metrics` like :mod:`captum.metrics`. Each is imported on first use.
"""

from __future__ import annotations

import importlib
from types import ModuleType

__version__ = "0.1.0"

_PACKAGES = (
    "attacks",
    "attr",
    "audit",
    "certificates",
    "metrics",
    "outputs",
    "perturbations",
    "training",
    "visualization",
    "zoo",
)

__all__ = ["__version__", *_PACKAGES]


def __getattr__(name: str) -> ModuleType:
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

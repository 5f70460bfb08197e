"""Distributions of perturbations I: what infidelity averages over, and explanations optimise.

Shared by :func:`captum_robust.metrics.infidelity` and
:class:`captum_robust.attr.InfidelityOptimal`;
:meth:`Perturbation.perturb_func` hands each to :func:`captum.metrics.infidelity`.
"""

from captum_robust.perturbations.base import Perturbation
from captum_robust.perturbations.points import Points
from captum_robust.perturbations.removal import (
    FeatureRemoval,
    GroupRemoval,
    Removal,
    ShapleyRemoval,
)
from captum_robust.perturbations.shifts import (
    BaselineShift,
    CoordinateStep,
    GaussianBaseline,
    SeveralBaselines,
)
from captum_robust.perturbations.squares import SquareRemoval

__all__ = [
    "BaselineShift",
    "CoordinateStep",
    "FeatureRemoval",
    "GaussianBaseline",
    "GroupRemoval",
    "Perturbation",
    "Points",
    "Removal",
    "SeveralBaselines",
    "ShapleyRemoval",
    "SquareRemoval",
]

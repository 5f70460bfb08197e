"""Which optimum belongs to which distribution of perturbations."""

from __future__ import annotations

from functools import singledispatch

from captum_robust._utils.types import Tensors
from captum_robust.attr._infidelity.problem import Problem
from captum_robust.attr._infidelity.removal import occlusion, shapley_values
from captum_robust.attr._infidelity.sampled import sampled_optimum
from captum_robust.attr._infidelity.shifts import (
    difference_quotients,
    noisy_baseline,
    shortest_complete,
    shortest_of_several_baselines,
)
from captum_robust.attr._infidelity.squares import squares_optimum
from captum_robust.perturbations import (
    BaselineShift,
    CoordinateStep,
    FeatureRemoval,
    GaussianBaseline,
    Perturbation,
    SeveralBaselines,
    ShapleyRemoval,
    SquareRemoval,
)


@singledispatch
def optimum(perturbation: Perturbation, problem: Problem) -> Tensors:
    """The explanation with the least infidelity; a subclass has the optimum of its parent."""
    return sampled_optimum(perturbation, problem)


optimum.register(BaselineShift, shortest_complete)
optimum.register(CoordinateStep, difference_quotients)
optimum.register(FeatureRemoval, occlusion)
optimum.register(GaussianBaseline, noisy_baseline)
optimum.register(SeveralBaselines, shortest_of_several_baselines)
optimum.register(ShapleyRemoval, shapley_values)
optimum.register(SquareRemoval, squares_optimum)

"""Explanations, as classes that stand beside those of :mod:`captum.attr`."""

from captum_robust.attr.beta_smoothing import (
    BetaSmoothedGradient,
    BetaSmoothing,
)
from captum_robust.attr.differentiable import differentiable
from captum_robust.attr.infidelity_optimal import InfidelityOptimal, NoisyBaseline, Square
from captum_robust.attr.kernel_smoothing import KernelSmoothing
from captum_robust.attr.softplus import softplus_activations

__all__ = [
    "BetaSmoothedGradient",
    "BetaSmoothing",
    "InfidelityOptimal",
    "KernelSmoothing",
    "NoisyBaseline",
    "Square",
    "differentiable",
    "softplus_activations",
]

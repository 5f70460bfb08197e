"""Explanations, as classes that stand beside those of :mod:`captum.attr`."""

from captum_robust.attr._patterns import Patterns, learn_patterns
from captum_robust.attr.beta_smoothing import (
    BetaSmoothedGradient,
    BetaSmoothing,
)
from captum_robust.attr.differentiable import differentiable
from captum_robust.attr.guided_backprop import GuidedBackprop
from captum_robust.attr.infidelity_optimal import InfidelityOptimal, NoisyBaseline, Square
from captum_robust.attr.kernel_smoothing import KernelSmoothing
from captum_robust.attr.pattern_attribution import PatternAttribution
from captum_robust.attr.relevance_propagation import RelevancePropagation
from captum_robust.attr.softplus import softplus_activations

__all__ = [
    "BetaSmoothedGradient",
    "BetaSmoothing",
    "GuidedBackprop",
    "InfidelityOptimal",
    "KernelSmoothing",
    "NoisyBaseline",
    "PatternAttribution",
    "Patterns",
    "RelevancePropagation",
    "Square",
    "differentiable",
    "learn_patterns",
    "softplus_activations",
]

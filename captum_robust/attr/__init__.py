"""Explanations, as classes that stand beside those of :mod:`captum.attr`.

These can be differentiated (:func:`differentiable`), so that every attack takes them as its
``explanation``, and smoothed by :class:`BetaSmoothing` and :class:`KernelSmoothing`:

==========================  =====================================================================
gradient                    :class:`captum.attr.Saliency`, :class:`captum.attr.InputXGradient`
integrated gradients        :class:`captum.attr.IntegratedGradients`
guided backpropagation      :class:`GuidedBackprop`, also of functional and in-place rectifiers
LRP                         :class:`RelevancePropagation`, z+ and zB, gamma, epsilon, AttnLRP
PatternAttribution          :class:`PatternAttribution`, with :func:`learn_patterns`
SmoothGrad                  :class:`KernelSmoothing` around any of these
Grad-CAM                    :class:`captum.attr.LayerGradCam`
==========================  =====================================================================

:class:`SparsifiedSmoothing` has no derivative: :mod:`captum_robust.certificates` bound its change.
:class:`TangentProjection` removes what points away from the data, as manipulated models have it.
"""

from captum_robust.attr.beta_smoothing import BetaSmoothedGradient, BetaSmoothing
from captum_robust.attr.differentiable import differentiable
from captum_robust.attr.guided_backprop import GuidedBackprop
from captum_robust.attr.infidelity_optimal import InfidelityOptimal, NoisyBaseline, Square
from captum_robust.attr.kernel_smoothing import KernelSmoothing
from captum_robust.attr.pattern_attribution import PatternAttribution
from captum_robust.attr.patterns import Patterns, learn_patterns
from captum_robust.attr.propagation_rules import (
    EpsilonRule,
    GammaRule,
    PropagationRule,
    ZPlusRule,
)
from captum_robust.attr.relevance_propagation import RelevancePropagation
from captum_robust.attr.softplus import softplus_activations
from captum_robust.attr.sparsified_smoothing import SparsifiedSmoothing
from captum_robust.attr.tangent_projection import TangentProjection

__all__ = [
    "BetaSmoothedGradient",
    "BetaSmoothing",
    "EpsilonRule",
    "GammaRule",
    "GuidedBackprop",
    "InfidelityOptimal",
    "KernelSmoothing",
    "NoisyBaseline",
    "PatternAttribution",
    "Patterns",
    "PropagationRule",
    "RelevancePropagation",
    "SparsifiedSmoothing",
    "Square",
    "TangentProjection",
    "ZPlusRule",
    "differentiable",
    "learn_patterns",
    "softplus_activations",
]

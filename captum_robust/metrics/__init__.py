"""Measures of explanations: functions beside those of ``captum.metrics``, one value per example.

The **similarities** take two tensors ``a`` and ``b`` of one shape (N, ...), explanations or
relevance maps, and compare their numbers as they are: an explanation is signed, its
:func:`relevance_map` is not. Results have shape (N,), no unit and no graph, and are on the device
of ``a``. The arithmetic is in float64 (float32 on MPS, which has nothing wider), the result in the
wider dtype of ``a`` and ``b``, and at least float32. All raise a TypeError where ``a`` or ``b`` is
not a floating-point tensor, and a ValueError where one is empty, lacks the batch dimension or
contains NaN or Inf, or where their shapes or devices differ.

The **sensitivities**, :func:`explanation_stability` and :func:`parameter_randomization` take a
Captum ``Attribution``, its method ``attribute``, or any function of the inputs that explains them,
and what that takes as further keywords. They raise a TypeError where an argument is of the wrong
kind, and a ValueError where ``inputs`` is empty, NaN, Inf or of unequal length, a radius or a count
is out of range, or the explanation is NaN, Inf or not one per example. Their results do not depend
on ``max_examples_per_batch``, and half precision is measured in float32. Noise is not taken for a
change: an explanation that draws any, with a generator (``KernelSmoothing``) or from the global
random state (``NoiseTunnel``, ``GradientShap``, ``KernelShap``, ``Lime``, a function), draws the
same for every point, and the global state is put back.

The **foolings** (Heo et al. 2019) compare the maps of a model with those of the model that was
manipulated; :func:`fooling_success_rate` counts the examples. :func:`explanation_shift` compares a
model before and after an update, class by class.

For **tables**: :func:`feature_rank` says how relevant a column is among the others, and
:func:`query_consistency` whether a model treats the queries of an explanation otherwise than data.

The **geometry**: :func:`principal_curvature` and :func:`curvature_bound` take the model and the
class that is explained, as Captum does, and measure half precision in float32.
:func:`pixel_flipping` gives curves, and their area.
"""

from __future__ import annotations

from captum_robust._utils.columns import column_attributions
from captum_robust._utils.relevance import relevance_map
from captum_robust.metrics.correlation import pearson_correlation, spearman_correlation
from captum_robust.metrics.curvature import CurvatureBound, curvature_bound, principal_curvature
from captum_robust.metrics.explained_relevance import explained_relevance
from captum_robust.metrics.explanation_shift import ExplanationShift, explanation_shift
from captum_robust.metrics.feature_rank import feature_rank
from captum_robust.metrics.fooling import (
    FoolingIntervals,
    active_fooling,
    center_mass_fooling,
    location_fooling,
    top_k_fooling,
)
from captum_robust.metrics.fooling_success_rate import FoolingRate, fooling_success_rate
from captum_robust.metrics.infidelity import infidelity
from captum_robust.metrics.local_top_k import local_top_k_intersection
from captum_robust.metrics.mean_squared_error import mean_squared_error
from captum_robust.metrics.parameter_randomization import RankCorrelations, parameter_randomization
from captum_robust.metrics.pixel_flipping import FlippingCurves, pixel_flipping
from captum_robust.metrics.query_consistency import QueryConsistency, query_consistency
from captum_robust.metrics.sensitivity import sensitivity_lipschitz, sensitivity_max
from captum_robust.metrics.sensitivity_gradient import sensitivity_gradient
from captum_robust.metrics.ssim import structural_similarity
from captum_robust.metrics.stability import explanation_stability
from captum_robust.metrics.top_k import top_k_intersection

__all__ = [
    "CurvatureBound",
    "ExplanationShift",
    "FlippingCurves",
    "FoolingIntervals",
    "FoolingRate",
    "QueryConsistency",
    "RankCorrelations",
    "active_fooling",
    "center_mass_fooling",
    "column_attributions",
    "curvature_bound",
    "explained_relevance",
    "explanation_shift",
    "explanation_stability",
    "feature_rank",
    "fooling_success_rate",
    "infidelity",
    "local_top_k_intersection",
    "location_fooling",
    "mean_squared_error",
    "parameter_randomization",
    "pearson_correlation",
    "pixel_flipping",
    "principal_curvature",
    "query_consistency",
    "relevance_map",
    "sensitivity_gradient",
    "sensitivity_lipschitz",
    "sensitivity_max",
    "spearman_correlation",
    "structural_similarity",
    "top_k_fooling",
    "top_k_intersection",
]

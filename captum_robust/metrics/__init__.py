"""Measures of explanations: functions beside those of ``captum.metrics``, one value per example.

The **similarities** take two tensors ``a`` and ``b`` of one shape (N, ...), explanations or
relevance maps, and compare their numbers as they are: an explanation is signed, its
:func:`relevance_map` is not. Results have shape (N,), no unit and no graph, and are on the device
of ``a``. The arithmetic is in float64 (float32 on MPS, which has nothing wider), the result in the
wider dtype of ``a`` and ``b``, and at least float32. All raise a TypeError where ``a`` or ``b`` is
not a floating-point tensor, and a ValueError where one is empty, lacks the batch dimension or
contains NaN or Inf, or where their shapes or devices differ.
"""

from __future__ import annotations

from captum_robust._utils.relevance import relevance_map
from captum_robust.metrics.faithfulness import infidelity
from captum_robust.metrics.similarity import (
    mean_squared_error,
    pearson_correlation,
    spearman_correlation,
    structural_similarity,
    top_k_intersection,
)

__all__ = [
    "infidelity",
    "mean_squared_error",
    "pearson_correlation",
    "relevance_map",
    "spearman_correlation",
    "structural_similarity",
    "top_k_intersection",
]

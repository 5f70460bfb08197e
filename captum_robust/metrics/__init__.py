"""Measures of explanations, functions beside those of `captum.metrics`: one value per example."""

from __future__ import annotations

from captum_robust._utils.relevance import relevance_map
from captum_robust.metrics.similarity import (
    mean_squared_error,
    pearson_correlation,
    spearman_correlation,
    structural_similarity,
    top_k_intersection,
)

__all__ = [
    "mean_squared_error",
    "pearson_correlation",
    "relevance_map",
    "spearman_correlation",
    "structural_similarity",
    "top_k_intersection",
]

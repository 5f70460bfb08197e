"""How work is cut into batches, and what belongs to an example repeated along."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from captum_robust._utils.captum import (
    expand_additional_forward_args,
    expand_baselines,
    expand_feature_mask,
    expand_target,
)
from captum_robust._utils.checks import check_count
from captum_robust._utils.types import Tensors

# Numbers in a batch of perturbed inputs: on a CPU, what stays in its cache through a small network;
# elsewhere, what keeps the device busy.
_NUMBERS_AT_ONCE = {"cpu": 2**18}
_NUMBERS_AT_ONCE_ELSEWHERE = 2**24
_ROWS_AT_LEAST = 8


def copies_at_once(inputs: Tensors, perturbations_per_eval: int | None) -> int:
    """How many perturbed copies of each example one pass takes."""
    if perturbations_per_eval is not None:
        check_count(perturbations_per_eval=perturbations_per_eval)
        return perturbations_per_eval
    device = inputs[0].device.type
    budget = _NUMBERS_AT_ONCE.get(device, _NUMBERS_AT_ONCE_ELSEWHERE)
    rows = max(_ROWS_AT_LEAST, budget // sum(x[0].numel() for x in inputs))
    return max(1, rows // len(inputs[0]))


def copies_per_batch(n_samples: int, max_examples_per_batch: int | None, inputs: Tensors) -> int:
    """Copies of each example that are worked on at once, at least one; None: a fast number."""
    if max_examples_per_batch is None:
        return min(copies_at_once(inputs, None), n_samples)
    check_count(max_examples_per_batch=max_examples_per_batch)
    return min(max(1, max_examples_per_batch // len(inputs[0])), n_samples)


def split(total: int, at_once: int) -> Iterator[int]:
    """Parts of at most ``at_once`` that sum to ``total``."""
    for start in range(0, total, at_once):
        yield min(at_once, total - start)


def widest(device: torch.device) -> torch.dtype:
    """Float64, or what the device has instead."""
    return torch.float32 if device.type == "mps" else torch.float64


def expand_per_example_arguments(
    n_samples: int, inputs: Tensors, kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Repeat what belongs to an example ``n_samples`` times, as NoiseTunnel does.

    Covers ``target``, ``additional_forward_args``, ``baselines`` and ``feature_mask``; the copies
    of one example are adjacent (``repeat_interleave``).
    """
    expanded = dict(kwargs)
    expand_additional_forward_args(n_samples, expanded)
    expand_target(n_samples, expanded)
    expand_baselines(inputs, n_samples, expanded)
    expand_feature_mask(n_samples, expanded)
    return expanded

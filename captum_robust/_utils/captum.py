"""The only door to Captum's private helpers.

They are private, so they may move with any release of Captum: what this library needs of them
is imported here and nowhere else, and handed on under a public-looking name.
"""

from __future__ import annotations

from captum._utils.common import (
    _expand_and_update_additional_forward_args,
    _expand_and_update_baselines,
    _expand_and_update_feature_mask,
    _expand_and_update_target,
    _format_output,
    _format_tensor_into_tuples,
    _is_tuple,
    _run_forward,
)
from captum._utils.gradient import compute_gradients
from captum.attr._utils.approximation_methods import approximation_parameters
from captum.attr._utils.common import _format_input_baseline, _validate_input
from torch import Tensor

__all__ = [
    "approximation_parameters",
    "captum_compute_gradients",
    "expand_additional_forward_args",
    "expand_baselines",
    "expand_feature_mask",
    "expand_target",
    "format_inputs",
    "format_inputs_and_baselines",
    "format_output",
    "run_forward",
    "validate_path",
]

captum_compute_gradients = compute_gradients
expand_additional_forward_args = _expand_and_update_additional_forward_args
expand_baselines = _expand_and_update_baselines
expand_feature_mask = _expand_and_update_feature_mask
expand_target = _expand_and_update_target
format_inputs_and_baselines = _format_input_baseline
format_output = _format_output
run_forward = _run_forward
validate_path = _validate_input


def format_inputs(inputs: Tensor | tuple[Tensor, ...]) -> tuple[bool, tuple[Tensor, ...]]:
    """Return whether ``inputs`` is a tuple, and the tuple of tensors either way."""
    return _is_tuple(inputs), _format_tensor_into_tuples(inputs)

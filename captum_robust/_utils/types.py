"""Types that signatures share."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

Tensors = tuple[Tensor, ...]

TensorOrTensors = TypeVar("TensorOrTensors", Tensor, tuple[Tensor, ...])
"""As in Captum: a tensor gives a tensor, a tuple of tensors a tuple."""

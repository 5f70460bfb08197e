"""The frame of every metric that compares two explanations: checks, precision, memory, dtype."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import Tensor

from captum_robust._utils.user_warnings import warn_user

# Numbers of one operand that are worked on at once. It bounds the scratch memory of large batches:
# on a CPU to what stays in its cache, on a GPU to 32 MiB (float64), enough to keep it busy.
_NUMBERS_AT_ONCE = {"cpu": 2**16}
_NUMBERS_AT_ONCE_ELSEWHERE = 2**22


def compare_pairs(
    measure: Callable[[Tensor, Tensor], Tensor],
    a: Tensor,
    b: Tensor,
    names: tuple[str, str] = ("a", "b"),
) -> Tensor:
    """Apply ``measure`` to the examples of two batches of explanations, without a graph.

    Args:
        measure: Takes slices of ``a`` and ``b``, (n, ...) in float64 (float32 on MPS, which has
            nothing wider), and returns (n,). Examples must not influence each other.
        a: (N, ...), floating point.
        b: As ``a``.
        names: Of ``a`` and ``b``, in errors.

    Returns:
        (N,), on the device of ``a``, detached, in the wider dtype of ``a`` and ``b`` and at least
        float32.

    Raises:
        TypeError: ``a`` or ``b`` is not a floating-point tensor.
        ValueError: ``a`` or ``b`` is empty, has no batch dimension, NaN or Inf, or their shapes or
            devices differ.

    Example:
        >>> import torch
        >>> from captum_robust.metrics._pairs import compare_pairs
        >>> a = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> compare_pairs(lambda x, y: (x - y).sum(1), a, torch.zeros_like(a))
        tensor([3., 7.])
    """
    check_pair(a, b, names)
    wide = torch.float32 if a.device.type == "mps" else torch.float64
    narrow = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    budget = _NUMBERS_AT_ONCE.get(a.device.type, _NUMBERS_AT_ONCE_ELSEWHERE)
    n_at_once = max(1, budget // a[0].numel())
    with torch.no_grad():
        pairs = zip(a.split(n_at_once), b.split(n_at_once), strict=True)
        return torch.cat([measure(x.to(wide), y.to(wide)) for x, y in pairs]).to(narrow)


def check_pair(a: Tensor, b: Tensor, names: tuple[str, str] = ("a", "b")) -> None:
    """Raise the error that names what is wrong with ``a`` or ``b``; see `compare_pairs`."""
    first, second = names
    _check_layout(first, a)
    _check_layout(second, b)
    if a.shape != b.shape:
        raise ValueError(
            f"{second} must have the shape of {first}, {tuple(a.shape)}, got {tuple(b.shape)}; "
            "explanations that differ in channels only can be compared as relevance maps."
        )
    if a.device != b.device:
        raise ValueError(
            f"{second} is on {b.device} and {first} on {a.device}; move it with "
            f"{second}.to({first}.device)."
        )
    for name, value in ((first, a), (second, b)):
        lowest, highest = torch.aminmax(value.detach())  # ten times as fast as all of isfinite
        if not (lowest > -torch.inf and highest < torch.inf):
            raise ValueError(
                f"{name} contains NaN or Inf; find the cause with torch.isfinite({name})."
            )


def _check_layout(name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a tensor, got {type(value).__name__}; give the explanations of "
            "several inputs one at a time."
        )
    if not value.is_floating_point():
        raise TypeError(f"{name} must be floating-point, got {value.dtype}; convert with .float().")
    shape = tuple(value.shape)
    if value.ndim < 2:
        raise ValueError(
            f"{name} must have a batch dimension and at least one more, got shape {shape}; add "
            f"the batch dimension with {name}.unsqueeze(0)."
        )
    if value.numel() == 0:
        raise ValueError(f"{name} is empty, shape {shape}; give at least one example.")


def is_constant(explanations: Tensor) -> Tensor:
    lowest, highest = explanations.detach().flatten(1).aminmax(dim=1)
    return lowest == highest


def warn_of_constants(constant: Tensor, consequence: str) -> None:
    if constant.any():
        warn_user(
            f"a or b is constant for {int(constant.sum())} of {constant.numel()} examples: "
            f"{consequence}. The explanation of a saturated network is; explain logits instead "
            "of probabilities."
        )


def whole_number(name: str, value: int) -> int:
    """``value`` as an int, or a TypeError where it is not a whole number."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}.") from None

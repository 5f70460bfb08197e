r"""How far a manipulated model fools an explanation: Heo et al. 2019, one value per example.

The four foolings of "Fooling neural network interpretations via adversarial model manipulation".
The maps of the original and of the manipulated model are those of the same inputs and classes. In
all but :func:`active_fooling` a map h is first brought to [0, 1] by its own smallest and largest
number; where it is constant it becomes 0.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from captum_robust._utils.relevance import in_unit_range, is_top_k, mass_center
from captum_robust._utils.user_warnings import warn_user
from captum_robust.metrics._pairs import check_pair, compare_pairs, whole_number
from captum_robust.metrics.correlation import spearman_correlation
from captum_robust.metrics.top_k import check_k

_NAMES = ("original", "manipulated")


class FoolingIntervals(NamedTuple):
    """Which values count as fooled: the intervals of Heo et al. 2019, Section 4, ends included."""

    location: tuple[float, float] = (0.0, 0.2)
    """Of :func:`location_fooling`."""
    top_k: tuple[float, float] = (0.0, 0.3)
    """Of :func:`top_k_fooling`."""
    center_mass: tuple[float, float] = (0.1, 1.0)
    """Of :func:`center_mass_fooling`."""
    active: tuple[float, float] = (0.5, 2.0)
    """Of :func:`active_fooling`."""


def location_fooling(manipulated: Tensor, region: Tensor) -> Tensor:
    r"""Mean squared distance of a map from a region that it was told to light up.

    .. math:: \frac{1}{d} \sum_p (m_p - h_p)^2

    with the mask m of the region. Fooled is what is within ``FoolingIntervals().location``.

    Args:
        manipulated: Maps of the manipulated model, (N, ...).
        region: m, of the shape of a map: booleans, or numbers in [0, 1].

    Returns:
        (N,), from 0, where the map is the region, to 1.

    Raises:
        TypeError, ValueError: ``region`` has another shape, or values out of [0, 1]; or see
            :mod:`captum_robust.metrics`.

    Example:
        >>> import torch
        >>> from captum_robust.metrics import location_fooling
        >>> location_fooling(torch.tensor([[1.0, 0.0, 0.5, 0.0]]), torch.tensor([1, 0, 0, 0]))
        tensor([0.0625])
    """
    check_pair(manipulated, manipulated, ("manipulated", "manipulated"))
    if not isinstance(region, Tensor) or region.shape != manipulated.shape[1:]:
        given = tuple(region.shape) if isinstance(region, Tensor) else type(region).__name__
        raise ValueError(
            f"region must be a tensor of the shape of a map, {tuple(manipulated.shape[1:])}, got "
            f"{given}."
        )
    mask = region.to(manipulated.device, torch.promote_types(manipulated.dtype, torch.float32))
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError(
            "region must be in [0, 1], 1 where the map is to be bright; make it so with "
            "region.bool()."
        )

    def distance(x: Tensor, m: Tensor) -> Tensor:
        return (m - in_unit_range(x)).square_().flatten(1).mean(1)

    return compare_pairs(distance, manipulated, mask.expand(manipulated.shape))


def top_k_fooling(original: Tensor, manipulated: Tensor, k: int) -> Tensor:
    r"""Mean squared relevance that the original's k most relevant pixels have left.

    .. math:: \frac{1}{k} \sum_{p \in T_k(h)} {h'_p}^2

    Fooled is what is within ``FoolingIntervals().top_k``. In the paper k is a tenth of the pixels.

    Args:
        original: Maps h of the original model, (N, ...).
        manipulated: Maps h' of the manipulated model, of the same shape.
        k: Size of the set, from 1 to the number of pixels.

    Returns:
        (N,), from 0 to 1.

    Raises:
        TypeError, ValueError: ``k`` is not a whole number or out of range; or see
            :mod:`captum_robust.metrics`.

    Example:
        >>> import torch
        >>> from captum_robust.metrics import top_k_fooling
        >>> top_k_fooling(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[0.0, 1.0, 2.0]]), k=2)
        tensor([0.1250])
    """

    def left(x: Tensor, y: Tensor, k: int) -> Tensor:
        check_k(x, k)
        inside = is_top_k(x.flatten(1), k)
        return (in_unit_range(y).flatten(1).square_() * inside).sum(1) / k

    measure = partial(left, k=whole_number("k", k))
    return compare_pairs(measure, original, manipulated, _NAMES)


def center_mass_fooling(original: Tensor, manipulated: Tensor) -> Tensor:
    r"""How far the centre of mass of a map was moved, as a share of the sides of the map.

    .. math:: \sqrt{\frac{1}{n} \sum_{i=1}^n \left(\frac{C_i(h') - C_i(h)}{l_i - 1}\right)^2},
              \quad C_i(h) = \frac{\sum_p i_p h_p}{\sum_p h_p}

    over the n dimensions of a map, of the lengths l; of length 1 they do not count. Fooled is what
    is within ``FoolingIntervals().center_mass``.

    Args:
        original: Maps h of the original model, (N, T), (N, H, W) or more dimensions.
        manipulated: Maps h' of the manipulated model, of the same shape.

    Returns:
        (N,), from 0 to 1. The centre of a constant map is the middle.

    Raises:
        TypeError, ValueError: A map has one pixel only; or see :mod:`captum_robust.metrics`.

    Warns:
        UserWarning: A map is constant.

    Example:
        >>> import torch
        >>> from captum_robust.metrics import center_mass_fooling
        >>> a, b = torch.zeros(1, 5, 5), torch.zeros(1, 5, 5)
        >>> a[0, 0, 0] = b[0, 4, 4] = 1.0  # from one corner to the opposite one
        >>> center_mass_fooling(a, b)
        tensor([1.])
    """
    check_pair(original, manipulated, _NAMES)
    if original[0].numel() == 1:
        raise ValueError("original must have maps of two pixels or more, got one pixel.")
    for maps in (original, manipulated):
        low, high = maps.detach().flatten(1).aminmax(dim=1)
        if bool((low == high).any()):
            warn_user(
                f"a map is constant for {int((low == high).sum())} of {len(low)} examples: its "
                "centre of mass is taken to be the middle. Explain logits instead of probabilities."
            )

    def shift(x: Tensor, y: Tensor) -> Tensor:
        moved = (mass_center(in_unit_range(y)) - mass_center(in_unit_range(x))).square()
        return moved.mean(1).sqrt()

    return compare_pairs(shift, original, manipulated, _NAMES)


def active_fooling(original: Tensor, other: Tensor, manipulated: Tensor) -> Tensor:
    r"""How much more a class is explained as the other class was than as itself was.

    .. math:: s(h_{c_2}, h'_{c_1}) - s(h_{c_1}, h'_{c_1})

    with Spearman's rank correlation s. It is computed for both classes of a pair, each with its
    own maps. Fooled is what is within ``FoolingIntervals().active``.

    Args:
        original: Maps of the class c1 by the original model, (N, ...).
        other: Maps of the class c2 by the original model, of the same shape.
        manipulated: Maps of the class c1 by the manipulated model, of the same shape.

    Returns:
        (N,), from -2 to 2, where the two were swapped and opposite; 0 or less where nothing was
        changed.

    Raises:
        TypeError, ValueError: See :mod:`captum_robust.metrics`.

    Warns:
        UserWarning: A map is constant: its correlation is 0.

    Example:
        >>> import torch
        >>> from captum_robust.metrics import active_fooling
        >>> a, b = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[3.0, 2.0, 1.0]])
        >>> active_fooling(original=a, other=b, manipulated=b)
        tensor([2.])
    """
    check_pair(original, manipulated, _NAMES)
    check_pair(original, other, ("original", "other"))
    as_other = spearman_correlation(other, manipulated)
    return as_other - spearman_correlation(original, manipulated).to(as_other.device)

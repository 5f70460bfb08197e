"""Attributions of a table's columns, of which each may be several features."""

from __future__ import annotations

import torch
from torch import Tensor


def column_attributions(attributions: Tensor, groups: Tensor, *, shared: bool = False) -> Tensor:
    r"""Attributions of columns: the sum over the features of each, or what they share.

    .. math:: a_g = \sum_{j:\, \mathrm{group}(j) = g} a_j

    A category that is one-hot is several features of one column. Of an explanation that adds up
    (gradient x input, integrated gradients) the sum is what the column contributes. LIME and
    KernelSHAP perturb whole columns where ``groups`` is their ``feature_mask``; Captum then gives
    each feature the column's attribution: with ``shared`` it is taken once instead of summed.

    Args:
        attributions: (N, F), of the features of a table.
        groups: (F,) or (1, F), whole numbers: the column of each feature, from 0 on.
        shared: Whether all features of a column have one attribution, that of the column.

    Returns:
        (N, G), with a graph where ``attributions`` has one.

    Raises:
        TypeError: ``attributions`` is not a floating-point tensor, or ``groups`` not one of whole
            numbers.
        ValueError: ``attributions`` is not (N, F); ``groups`` has another length, or a number from
            0 to the largest has no feature; or with ``shared`` the features of a column differ.

    Example:
        >>> import torch
        >>> from captum_robust.metrics import column_attributions
        >>> attributions = torch.tensor([[0.5, -1.0, 0.25, 2.0]])
        >>> column_attributions(attributions, torch.tensor([0, 1, 1, 2]))
        tensor([[ 0.5000, -0.7500,  2.0000]])
        >>> by_column = torch.tensor([[0.5, -1.0, -1.0, 2.0]])  # such as KernelSHAP's
        >>> column_attributions(by_column, torch.tensor([0, 1, 1, 2]), shared=True)
        tensor([[ 0.5000, -1.0000,  2.0000]])
    """
    if not isinstance(attributions, Tensor) or not attributions.is_floating_point():
        kind = attributions.dtype if isinstance(attributions, Tensor) else type(attributions)
        raise TypeError(f"attributions must be a floating-point tensor, got {kind}.")
    if attributions.dim() != 2:
        raise ValueError(
            f"attributions must be those of a table, (N, F), got shape {tuple(attributions.shape)}."
        )
    index = check_groups(groups, attributions.shape[1]).to(attributions.device)
    columns = attributions.new_zeros(len(attributions), int(index.max()) + 1)
    if not shared:
        return columns.index_add(1, index, attributions)
    once = columns.index_copy(1, index, attributions)
    if not torch.equal(once[:, index], attributions):
        raise ValueError(
            "shared: the features of a column have different attributions. Give the explanation "
            "feature_mask=groups, or sum them with shared=False."
        )
    return once


def check_groups(groups: object, n_features: int) -> Tensor:
    """The column of each feature, (F,); raise unless ``groups`` says it."""
    if not isinstance(groups, Tensor) or groups.is_floating_point() or groups.dtype == torch.bool:
        kind = groups.dtype if isinstance(groups, Tensor) else type(groups).__name__
        raise TypeError(f"groups must be a tensor of whole numbers, got {kind}.")
    if groups.shape not in ((n_features,), (1, n_features)):
        raise ValueError(
            f"groups must say the column of each of {n_features} features, ({n_features},), got "
            f"shape {tuple(groups.shape)}."
        )
    flat = groups.flatten().long()
    used = flat.unique()
    if not torch.equal(used, torch.arange(len(used), device=used.device)):
        raise ValueError(
            f"groups must use each number from 0 to that of its columns less one, got "
            f"{used.tolist()}. Number them anew: groups.unique(return_inverse=True)[1]."
        )
    return flat

"""How relevant one feature of a table is among the others."""

from __future__ import annotations

import torch
from torch import Tensor


def feature_rank(attributions: Tensor, feature: int) -> Tensor:
    r"""Rank of a feature among all by absolute attribution: 1 is the most relevant.

    .. math:: \mathrm{rank}_j = 1 + \sum_k \mathbb{1}[|a_k| > |a_j|]
              + \tfrac12 \sum_{k \ne j} \mathbb{1}[|a_k| = |a_j|]

    Features with the same attribution share their mean rank, so that none of them is the first.
    Slack et al. 2020 count how often a sensitive feature is the first.

    Args:
        attributions: (N, K), of the columns of a table; see :func:`column_attributions` for
            columns of several features.
        feature: Which column, from 0.

    Returns:
        (N,), in float64 (float32 on MPS).

    Raises:
        TypeError: ``attributions`` is not a floating-point tensor, ``feature`` not a whole number.
        ValueError: It is not (N, K), is empty, or has NaN or Inf; ``feature`` is not a column.

    Example:
        >>> import torch
        >>> from captum_robust.metrics import feature_rank
        >>> feature_rank(torch.tensor([[0.1, -3.0, 2.0], [1.0, 1.0, 0.0]]), feature=1)
        tensor([1.0000, 1.5000], dtype=torch.float64)
    """
    if not isinstance(attributions, Tensor) or not attributions.is_floating_point():
        kind = attributions.dtype if isinstance(attributions, Tensor) else type(attributions)
        raise TypeError(f"attributions must be a floating-point tensor, got {kind}.")
    if attributions.dim() != 2 or attributions.numel() == 0:
        raise ValueError(
            f"attributions must be (N, K), one number per column of a table, got shape "
            f"{tuple(attributions.shape)}. column_attributions makes them of the features' (with "
            "shared=True, of LIME and KernelSHAP)."
        )
    if not bool(torch.isfinite(attributions).all()):
        raise ValueError("attributions has NaN or Inf. Find it with torch.isfinite(attributions).")
    n_columns = attributions.shape[1]
    if isinstance(feature, bool) or not isinstance(feature, int):
        raise TypeError(f"feature must be a column's number, from 0, got {feature!r}.")
    if not 0 <= feature < n_columns:
        raise ValueError(f"feature must be a column, 0 to {n_columns - 1}, got {feature}.")
    sizes = attributions.detach().abs()
    own = sizes[:, feature : feature + 1]
    dtype = torch.float32 if sizes.device.type == "mps" else torch.float64
    larger, same = (sizes > own).sum(1).to(dtype), (sizes == own).sum(1).to(dtype) - 1
    return 1 + larger + same / 2

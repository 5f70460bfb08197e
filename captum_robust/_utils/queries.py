"""What an explanation asks of a model: the rows that it queries it with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_robust._utils.forward import logits_of

Explainer = Callable[[Callable[[Tensor], Tensor], Tensor], object]
"""``explainer(model, rows)`` explains ``rows`` (n, F) by querying ``model``; it need not return.

With Captum: ``lambda model, rows: KernelShap(model).attribute(rows, target=1)``.
"""


def check_explainer(explainer: object) -> None:
    """Raise TypeError unless ``explainer`` can be called with a model and rows."""
    if not callable(explainer) or isinstance(explainer, type):
        given = type(explainer).__name__
        if isinstance(explainer, type):
            given = f"the class {explainer.__name__}"
        raise TypeError(
            f"explainer must be a function of a model and rows, got {given}. "
            "For Captum: lambda model, rows: KernelShap(model).attribute(rows, target=1)."
        )


def check_table(name: str, rows: object, n_features: int | None = None) -> None:
    """Raise ValueError unless ``rows`` is a table (N, F) of finite floating-point numbers."""
    if not isinstance(rows, Tensor) or not rows.is_floating_point() or rows.dim() != 2:
        given = type(rows).__name__
        if isinstance(rows, Tensor):
            given = f"{rows.dtype} of shape {tuple(rows.shape)}"
        raise ValueError(
            f"{name} must be a table, a floating-point tensor (N, F), got {given}. Flatten what is "
            "not a table, and make categories one-hot."
        )
    if rows.numel() == 0:
        raise ValueError(f"{name} is empty, shape {tuple(rows.shape)}; give at least one row.")
    if not bool(torch.isfinite(rows).all()):
        raise ValueError(f"{name} has NaN or Inf. Find it with torch.isfinite({name}).")
    if n_features is not None and rows.shape[1] != n_features:
        raise ValueError(f"{name} has {rows.shape[1]} features where the data has {n_features}.")


def recorded_queries(
    explainer: Explainer, forward_func: Callable[..., Any], rows: Tensor
) -> Tensor:
    """Explain rows and return all that the model was asked on the way, (M, F).

    Example:
        >>> import torch
        >>> from captum.attr import FeatureAblation
        >>> from captum_robust._utils.queries import recorded_queries
        >>> ablate = lambda model, rows: FeatureAblation(model).attribute(rows)
        >>> recorded_queries(ablate, lambda x: x.sum(1), torch.tensor([[1.0, 2.0]]))
        tensor([[1., 2.],
                [0., 2.],
                [1., 0.]])
    """
    seen: list[Tensor] = []

    def recorder(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return logits_of(forward_func(x))

    explainer(recorder, rows)
    if not seen:
        raise ValueError(
            "explainer did not query the model: it must call its first argument with rows (n, F)."
        )
    return torch.cat([x.reshape(-1, rows.shape[1]) for x in seen]).to(rows)

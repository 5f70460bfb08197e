"""Every kind of outputs, in one table, and draws of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from captum_robust.outputs import Binary, Categorical, MultiLabel, Regression

D = torch.float64
KINDS = {
    "categorical": (Categorical(), (6, 4)),
    "binary": (Binary(), (6, 1)),
    "binary, a row of numbers": (Binary(), (6,)),
    "binary, threshold": (Binary(threshold=0.3), (6, 1)),
    "multi-label": (MultiLabel(), (6, 4)),
    "multi-label, threshold": (MultiLabel(threshold=-0.2), (6, 4)),
    "regression": (Regression(tolerance=0.5), (6, 1)),
    "regression, several": (Regression(tolerance=0.5), (6, 3)),
}
each_kind = pytest.mark.parametrize(("meaning", "shape"), KINDS.values(), ids=KINDS)


def drawn(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=D), torch.randn(
        *shape, generator=generator, dtype=D
    )

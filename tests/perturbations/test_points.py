"""Examples with baselines and masks: bad input."""

from __future__ import annotations

import pytest
import torch

from captum_robust.perturbations import (
    Points,
)

ONES = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("inputs", "kwargs", "error", "message"),
    [
        (torch.ones(2, 3, dtype=torch.long), {}, ValueError, "inputs must be floating-point"),
        (torch.ones(2, 3, dtype=torch.cfloat), {}, ValueError, "inputs must be floating-point"),
        (torch.ones(0, 3), {}, ValueError, "inputs is empty"),
        (torch.ones(2, 0), {}, ValueError, "inputs of shapes .* have no features"),
        (ONES * torch.nan, {}, ValueError, "inputs has NaN or Inf"),
        (ONES / 0, {}, ValueError, "inputs has NaN or Inf"),
        ([ONES], {}, TypeError, "inputs must be a tensor or a tuple"),
        ((ONES, ONES[:1]), {}, ValueError, "inputs must hold the same examples"),
        (ONES, {"baselines": torch.ones(3)}, ValueError, "baselines has shape"),
        (ONES, {"baselines": torch.ones(3, 3)}, ValueError, "baselines has shape"),
        (ONES, {"baselines": torch.ones(2, 1)}, ValueError, "baselines has shape"),
        (ONES, {"baselines": torch.nan}, ValueError, "baselines has NaN"),
        (ONES, {"baselines": ONES / 0}, ValueError, "baselines has NaN or Inf"),
        (ONES.half(), {"baselines": 1e6}, ValueError, "baselines has NaN or Inf"),
        (ONES, {"baselines": (0, 0)}, ValueError, "baselines has 2 entries for 1 inputs"),
        ((ONES, ONES), {"baselines": (0,)}, ValueError, "baselines has 1 entries for 2 inputs"),
        ((ONES, ONES), {"baselines": 0.0}, ValueError, "baselines has 1 entries for 2 inputs"),
        (ONES, {"baselines": "zero"}, TypeError, "baselines must be numbers or tensors, got str"),
        (ONES, {"baselines": {}}, TypeError, "baselines must be numbers or tensors, got dict"),
        (ONES, {"feature_mask": ONES}, ValueError, "feature_mask must be an integer tensor"),
        (ONES, {"feature_mask": [[0, 1, 1]]}, ValueError, "feature_mask must be an integer"),
        (ONES, {"feature_mask": torch.zeros(3).long()}, ValueError, "feature_mask has shape"),
        (ONES, {"feature_mask": torch.zeros(3, 3).long()}, ValueError, "feature_mask has shape"),
        (ONES, {"feature_mask": torch.zeros(1, 2).long()}, ValueError, "feature_mask has shape"),
        ((ONES, ONES), {"feature_mask": (torch.zeros(1, 3).long(),)}, ValueError, "1 entries"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_points(inputs, kwargs, error, message):
    with pytest.raises(error, match=message):
        Points.of(inputs, **kwargs)

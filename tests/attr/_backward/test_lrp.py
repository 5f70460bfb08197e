"""What relevance propagation has no rule for is refused where relevance reaches it."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from captum_robust.attr import RelevancePropagation
from tests.attr._backward.networks import Hidden


class Custom(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def write_into(x):
    y = torch.empty_like(x)
    return torch.mul(x, 2, out=y.requires_grad_(False))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (nn.Softmax(1), "'body.1' (Softmax): relevance propagation explains logits"),
        (Custom(lambda x: x.cumsum(1)), "'body.1' (Custom): relevance propagation has no rule for"),
        (Custom(lambda x: torch.atan2(x, x.flip(1))), "no rule for 'atan2'"),
        (nn.GRUCell(6, 6), "'body.1' (GRUCell): relevance propagation has no rule for 'gru_cell'"),
        (Custom(Hidden.apply), "custom torch.autograd.Function"),
        (Custom(write_into), "'body.1' (Custom): mul writes into a tensor"),
        (Custom(lambda x: (x * 1).uniform_()), "'body.1' (Custom): uniform_ writes into a tensor"),
    ],
    ids=["softmax", "cumsum", "angle", "recurrent", "custom function", "out", "random"],
)
@pytest.mark.parametrize("last", [True, False])
def test_what_has_no_rule_is_named(function, message, last):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 6), function)
            self.head = nn.Identity() if last else nn.Linear(6, 6)

        def forward(self, x):
            return self.head(self.body(x))

    with pytest.raises(TypeError, match=re.escape(message)):
        RelevancePropagation(Model()).attribute(torch.rand(2, 4), target=1)

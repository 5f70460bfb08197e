"""A network with smooth rectifiers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from captum_robust.training import (
    SoftplusNetwork,
)


def test_a_softplus_network_is_the_network_under_softplus():
    torch.manual_seed(0)
    layers = nn.Linear(5, 4), nn.Linear(4, 2)
    smooth = SoftplusNetwork(nn.Sequential(layers[0], nn.ReLU(), layers[1]), beta=3.0)
    x = torch.rand(3, 5)
    expected = layers[1](torch.nn.functional.softplus(layers[0](x), beta=3.0))
    torch.testing.assert_close(smooth(x), expected)
    with pytest.raises(ValueError, match="beta must be positive"):
        SoftplusNetwork(smooth, beta=0.0)

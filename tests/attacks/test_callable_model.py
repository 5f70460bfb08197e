"""The modules that a function calls are found where functions keep them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from captum_robust.attacks._callable_model import CallableModel, as_module

GLOBAL = nn.Linear(2, 3)


def names_a_global(x):
    return GLOBAL(x) / 2


class Service:
    def __init__(self):
        self.network = nn.Linear(2, 3)

    def predict(self, x):
        return self.network(x)

    def __call__(self, x):
        return self.network(x)


def scaled(model, factor, x):
    return factor * model(x)


def found(function):
    return set(CallableModel(function).children())


def test_modules_are_found():
    local, service = nn.Linear(2, 3), Service()
    assert found(names_a_global) == {GLOBAL}
    assert found(lambda x: local(x)) == {local}
    assert found(local.forward) == {local}
    assert found(service.predict) == {service.network}
    assert found(service) == {service.network}
    assert found(partial(scaled, local, 2)) == {local}
    assert found(partial(service.predict)) == {service.network}
    assert found(torch.relu) == set()


def test_it_computes_what_the_function_does():
    x = torch.rand(4, 2)
    assert torch.equal(as_module(names_a_global)(x), names_a_global(x))
    assert as_module(GLOBAL) is GLOBAL


@pytest.mark.parametrize("model", [None, 3, "resnet18", nn.Linear])
def test_what_cannot_be_called_is_refused(model):
    with pytest.raises(TypeError, match="model must be"):
        as_module(model)

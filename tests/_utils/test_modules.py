"""Models are found behind lambdas, methods and objects."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from captum_robust._utils.modules import modules_behind, submodules

NET = nn.Linear(2, 1)
OTHER = nn.Linear(2, 1)
ZOO = {"a": NET}


class Holder:
    def __init__(self, net):
        self.net, self.other = net, OTHER

    def predict(self, x):
        return self.net(x)

    def __call__(self, x):
        return self.predict(x)


class Stateful(nn.Module):
    def forward(self, x):
        return x


def by_global(x):
    return NET(x)


def by_global_of_inner_function(x):
    return [NET(row) for row in x]


def by_default(x, net=NET):
    return net(x)


def decorated(function):
    @functools.wraps(function)
    def run(*args):
        return function(*args)

    return run


WAYS = {
    "module": NET,
    "forward": NET.forward,
    "call": NET.__call__,
    "global": by_global,
    "inner function": by_global_of_inner_function,
    "default": by_default,
    "keyword default": lambda x, *, net=NET: net(x),
    "closure": (lambda net: lambda x: net(x))(NET),
    "partial": functools.partial(lambda scale, x: NET(x) * scale, 2.0),
    "partial, keyword": functools.partial(lambda x, net: net(x), net=NET),
    "decorated": decorated(by_global),
    "function of a function": lambda x: by_global(x),
    "method": Holder(NET).predict,
    "object that is called": Holder(NET),
    "object in a closure": (lambda holder: lambda x: holder.net(x))(Holder(NET)),
    "object's method in a closure": (lambda holder: lambda x: holder.predict(x))(Holder(NET)),
    "dictionary": lambda x: ZOO["a"](x),
    "list": (lambda nets: lambda x: sum(net(x) for net in nets))([NET]),
}


@pytest.mark.parametrize("name", WAYS)
def test_the_model_is_found_and_no_other(name):
    assert modules_behind(WAYS[name]) == [NET]


@pytest.mark.parametrize("forward", [torch.relu, len, lambda x: x, lambda x: undefined(x)])  # noqa: F821
def test_functions_without_a_model(forward):
    assert modules_behind(forward) == []


def test_containers_can_be_left_out():
    assert modules_behind(WAYS["dictionary"], containers=False) == []
    assert modules_behind(WAYS["closure"], containers=False) == [NET]


def test_a_function_that_calls_itself_ends():
    def forward(x):
        return forward(x - 1) if x.sum() > 0 else NET(x)

    assert modules_behind(forward) == [NET]


def test_paths_and_each_module_once():
    model = nn.Sequential(NET, nn.Sequential(NET, nn.ReLU()))
    found = list(submodules(lambda x: model(x) + model[0](x)))
    assert [path for path, _ in found] == ["", "0", "1", "1.1"]

"""The arguments of a call by their names."""

from __future__ import annotations

import pytest

from captum_robust._utils.call_arguments import by_name

NAMES = ("input", "weight", "bias")


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((1, 2), {}), ((1,), {"weight": 2}), ((), {"weight": 2, "input": 1})],
    ids=["by position", "both", "by name"],
)
def test_position_and_name_are_one(args, kwargs):
    assert by_name(NAMES, args, kwargs) == {"input": 1, "weight": 2}


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((1, 2, 3, 4), {}), ((1,), {"input": 2}), ((1,), {"slope": 2})],
    ids=["too many", "twice", "unknown"],
)
def test_what_the_function_does_not_take_is_an_error(args, kwargs):
    with pytest.raises(TypeError, match="the arguments are input, weight, bias"):
        by_name(NAMES, args, kwargs)

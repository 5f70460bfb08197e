import threading

import pytest
import torch

from captum_robust._utils.function_mode import FunctionMode


class Names(FunctionMode):
    """Writes down which functions were called, with the arguments by name."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def call(self, func, args, kwargs):
        self.seen.append((func.__name__, sorted(kwargs)))
        return func(*args, **kwargs)


def test_calls_are_seen_in_the_block_alone():
    x = torch.ones(2)
    with Names() as names:
        total = torch.sum(x, dim=0)
        x.relu()
    x.sigmoid()
    assert names.seen == [("sum", ["dim"]), ("relu", [])]
    assert total == 2


def test_other_threads_and_exceptions_leave_nothing_behind():
    names = Names()
    x = torch.ones(2)
    with pytest.raises(RuntimeError, match="stop"), names:  # noqa: PT012
        other = threading.Thread(target=x.sigmoid)
        other.start()
        other.join()
        raise RuntimeError("stop")
    x.relu()
    assert names.seen == []


def test_a_mode_says_what_a_call_becomes():
    with pytest.raises(TypeError, match="abstract"):
        FunctionMode()

"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def repeatable_global_draws() -> Iterator[None]:
    """Captum, torchvision and new layers draw from the global state: the same in each run.

    The library itself never does, so what is random in it stays so, unless a generator is given.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        yield

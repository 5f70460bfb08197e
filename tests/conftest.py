"""What all tests share: one thread, repeatable draws, and the flag for slow tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# The tensors of the tests are tiny: a second thread costs more than it gives. Set before torch is
# imported, so that the workers of pytest-xdist and other processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--run-slow", action="store_true", help="also run the tests that are marked slow"
    )


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--run-slow"):
        return
    skip = pytest.mark.skip(reason="slow: add --run-slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Names without addresses of objects, which differ between the workers of pytest-xdist."""
    if isinstance(val, dict):
        return "-".join(map(str, val)) or "nothing"
    if isinstance(val, type):
        return val.__name__
    return None


@pytest.fixture(autouse=True)
def repeatable_global_draws() -> Iterator[None]:
    """Captum, torchvision and new layers draw from the global state: the same in each run.

    The library itself never does, so what is random in it stays so, unless a generator is given.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        yield

"""Two or more ways of doing the same thing, timed in turns in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def alternate(
    ways: dict[str, Callable[[], object]], rounds: int, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Median seconds of each way, after one warm-up round; the order is reversed every round.

    Taking turns makes a slow spell of the machine fall on all of them alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds + 1):
        names = list(ways) if i % 2 else list(reversed(ways))
        for name in names:
            elapsed = _time(ways[name], device)
            if i > 0:
                seconds[name].append(elapsed)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _time(run: Callable[[], object], device: torch.device | str) -> float:
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)

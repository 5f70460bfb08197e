"""A training run that is killed again and again: the script of test_kills.py.

    python killed_run.py FOLDER N_KILLS

Its children inherit all that is imported, so each begins to train at once. The parent itself never
computes, so that forking it is safe.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import accelerate  # noqa: F401 - all that a run imports late is imported here
import torch
import torch._dynamo
from torch import nn
from torch.utils.data import DataLoader

from captum_robust.training import (
    ATEX,
    Checkpoints,
    NeighbourhoodPoints,
    SmoothGradDirections,
    Trainer,
)


def run(folder: Path | None) -> dict[str, torch.Tensor]:
    """The weights after 60 steps with a checkpoint after each."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 3))
    inputs = torch.rand(40, 6, generator=torch.Generator().manual_seed(1))
    objective = ATEX(NeighbourhoodPoints(0.3, 0.3), directions=SmoothGradDirections(n_samples=3))
    trainer = Trainer(network, objective, steps_per_batch=3)
    trainer.fit(
        DataLoader(inputs, batch_size=8, shuffle=True), 4, show_progress=False,
        checkpoints=None if folder is None else Checkpoints(folder, every=1),
    )  # fmt: skip
    return trainer.weights()


def forked(task: Callable[[], object]) -> int:
    """The number of a new process that does the task and ends."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            task()
            status = 0
        finally:
            os._exit(status)
    return child


def ends_within(child: int, seconds: float) -> bool:
    """Whether the process ends, in success, before it is killed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            if status:
                raise SystemExit(f"a run failed with status {status}")
            return True
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def main(folder: Path, n_kills: int) -> None:
    """Kill, start again, and compare each run that ends with one that was never killed."""
    start = time.monotonic()
    whole, ended = folder / "whole", folder / "ended"
    if not ends_within(forked(lambda: torch.save(run(None), whole)), 120):
        raise SystemExit("the run takes more than two minutes")
    seconds, moments = time.monotonic() - start, random.Random(0)
    kills = resumed = compared = 0
    while kills < n_kills or not compared:
        last = kills >= n_kills
        checkpoints = folder / f"run-{compared}"
        child = forked(lambda at=checkpoints: torch.save(run(at), ended))
        if ends_within(child, 120 if last else moments.uniform(0, seconds)):
            expected, found = (torch.load(f, weights_only=True) for f in (whole, ended))
            if not all(torch.equal(found[name], w) for name, w in expected.items()):
                raise SystemExit(f"other weights after {kills} kills")
            compared += 1
        elif last:
            raise SystemExit("the last run takes more than two minutes")
        else:
            kills += 1
            resumed += bool(Checkpoints(checkpoints).files())
    print(  # noqa: T201
        f"{kills} kills, {resumed} after a checkpoint, {compared} runs ended bit-equal"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

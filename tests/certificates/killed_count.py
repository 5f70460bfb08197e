"""Counts into the file given as argument, saved after every chunk; killed by test_sampling."""

from __future__ import annotations

import sys
import time

import torch
from captum.attr import Saliency
from torch import nn

from captum_robust.attr import SparsifiedSmoothing
from captum_robust.certificates import SmoothingCounts, collect_counts


def count(file: str | None = None, pause: float = 0.0) -> SmoothingCounts:
    """200 copies of three examples, in chunks of four."""
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.Softplus(), nn.Linear(8, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
    model.register_forward_hook(lambda *args: time.sleep(pause))
    inputs = torch.randn(3, 6, generator=generator)
    return collect_counts(
        SparsifiedSmoothing(Saliency(model), kept=0.34), inputs, 200,
        seed=5, file=file, save_every=0.0, internal_batch_size=12,
    )  # fmt: skip


if __name__ == "__main__":
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    count(sys.argv[1], pause=0.02)

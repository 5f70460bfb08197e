"""A step of model manipulation against the same step in plain PyTorch.

The limit is a forward pass of the teacher, a forward pass of the student for its outputs, one for
the gradient of the predicted class, the loss, the backward pass through both, and the step of the
optimiser. Both train in turns in one process, each for an epoch of one batch that is used for
several steps; what is reported is the mean of a step.

Run from the root of the repository: ``python benchmarks/bench_fooling_step.py``.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from _alternate import alternate
from torch import Tensor, nn

from captum_robust.training import LocationFooling, Trainer
from captum_robust.zoo import fashion_mnist_cnn, fashion_mnist_sample


def region() -> Tensor:
    """The frame of the image."""
    mask = torch.ones(28, 28)
    mask[2:-2, 2:-2] = 0
    return mask


def bare(model: nn.Module, inputs: Tensor, steps: int) -> Callable[[], None]:
    """The step written out."""
    teacher, student = copy.deepcopy(model).requires_grad_(False), copy.deepcopy(model)
    optimizer, mask = torch.optim.Adam(student.parameters(), lr=1.5e-3), region()

    def run() -> None:
        for _ in range(steps):
            with torch.no_grad():
                wanted = teacher(inputs)
            task = F.kl_div(
                F.log_softmax(student(inputs), 1), F.log_softmax(wanted, 1),
                reduction="batchmean", log_target=True,
            )  # fmt: skip
            x = inputs.detach().requires_grad_()
            explained = student(x).gather(1, wanted.argmax(1, keepdim=True)).sum()
            (gradient,) = torch.autograd.grad(explained, x, create_graph=True)
            h = gradient.abs().sum(1)
            low, high = h.amin((1, 2), keepdim=True), h.amax((1, 2), keepdim=True)
            h = (h - low) / (high - low)
            (task + (h - mask).square().flatten(1).mean(1).mean()).backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def ours(model: nn.Module, inputs: Tensor, steps: int) -> Callable[[], None]:
    """The same by the library."""
    trainer = Trainer(model, LocationFooling(region()), steps_per_batch=steps)

    def run() -> None:
        trainer.fit([inputs], len(trainer.history) + 1, show_progress=False)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--steps", type=int, default=10, help="for which a batch is used")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    model, inputs = fashion_mnist_cnn(), fashion_mnist_sample(arguments.images)[0]
    ways = {
        name: make(model, inputs, arguments.steps)
        for name, make in {"bare": bare, "ours": ours}.items()
    }
    median = alternate(ways, arguments.rounds)
    for way, seconds in median.items():
        print(
            f"{way:6s} {seconds / arguments.steps:8.4f} s/step "
            f"{seconds / median['bare']:6.3f} of bare",
            flush=True,
        )


if __name__ == "__main__":
    main()

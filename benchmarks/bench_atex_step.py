"""A step of ATEX against the same step in plain PyTorch, and against distillation in memory.

The limit in time is a forward pass of the teacher and a forward and backward pass of the student
on samples that are there already, the loss, and the step of the optimiser. Both train in turns in
one process, each for an epoch of one batch that is used for several steps, as ATEX is meant to be
used; what is reported is the mean of a step. For the memory each way runs in a process of its own:
plain distillation takes the same number of samples.

Run from the root of the repository: ``python benchmarks/bench_atex_step.py``.
"""

from __future__ import annotations

import argparse
import copy
import math
import multiprocessing
from collections.abc import Callable

import torch
import torch.nn.functional as F
from _alternate import alternate
from _memory import resident_peak
from torch import Tensor, nn
from torchvision import models

from captum_robust.training import ATEXTrainer, Distillation, Trainer
from captum_robust.zoo import fashion_mnist_cnn, fashion_mnist_sample

ACROSS, TEMPERATURE = 8, 4.0


def network(name: str) -> tuple[nn.Module, Tensor]:
    """A network and a batch of inputs for it."""
    torch.manual_seed(0)
    if name == "zoo":
        return fashion_mnist_cnn(), fashion_mnist_sample(50)[0]
    return models.get_model(name, weights=None).eval(), torch.rand(2, 3, 224, 224)


def bare(model: nn.Module, inputs: Tensor, steps: int) -> Callable[[], None]:
    """The step written out, on samples made beforehand."""
    teacher, student = copy.deepcopy(model).eval().requires_grad_(False), copy.deepcopy(model)
    optimizer = torch.optim.Adam(student.train().parameters(), lr=1.5e-3)
    given = torch.rand(len(inputs) * (1 + ACROSS), *inputs.shape[1:])
    wanted = torch.cat([inputs, inputs])

    def run() -> None:
        for _ in range(steps):
            with torch.no_grad():
                target = F.softmax(teacher(wanted) / TEMPERATURE, dim=1)
            first, rest = target.split(len(inputs))
            target = torch.cat([first, rest.repeat_interleave(ACROSS, 0)])
            loss = F.cross_entropy(student(given), target)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def atex(model: nn.Module, steps: int) -> ATEXTrainer:
    """ATEX on the same number of samples as the step written out."""
    return ATEXTrainer(
        model, delta1=0.32, delta2=0.32, norm=math.inf, n_perpendicular=ACROSS,
        temperature=TEMPERATURE, steps_per_batch=steps,
    )  # fmt: skip


def ours(model: nn.Module, inputs: Tensor, steps: int) -> Callable[[], None]:
    """A batch seen before, so the directions are there: the price of a step."""
    trainer = atex(model, steps)

    def run() -> None:
        trainer.fit([inputs], len(trainer.history) + 1, show_progress=False)

    return run


def fresh(model: nn.Module, inputs: Tensor, steps: int) -> Callable[[], None]:
    """A batch never seen before: directions are computed once for all its steps."""
    trainer = atex(model, steps)
    number = iter(range(10**6))

    def run() -> None:
        batch = inputs + 1e-6 * next(number)
        trainer.fit([batch], len(trainer.history) + 1, show_progress=False)

    return run


def distillation(model: nn.Module, inputs: Tensor, steps: int) -> Callable[[], None]:
    """Plain distillation on the same number of samples."""
    trainer = Trainer(model, Distillation(TEMPERATURE), steps_per_batch=steps)
    many = torch.rand(len(inputs) * (1 + ACROSS), *inputs.shape[1:])

    def run() -> None:
        trainer.fit([many], len(trainer.history) + 1, show_progress=False)

    return run


WAYS = {"bare": bare, "ours": ours, "ours, new batch": fresh, "distillation": distillation}


def peak(name: str, way: str, steps: int) -> float:
    """Peak memory of one way in MB, beyond what was there before it ran, in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (name, way, steps, torch.get_num_threads()))


def _peak(name: str, way: str, steps: int, threads: int) -> float:
    torch.set_num_threads(threads)
    run = WAYS[way](*network(name), steps)
    before = resident_peak(reset=True)
    run()
    run()
    return resident_peak() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=["zoo", "resnet18"])
    parser.add_argument("--steps", type=int, default=22, help="for which a batch is used")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for name in arguments.networks:
        steps = arguments.steps
        model, inputs = network(name)
        ways = {way: make(model, inputs, steps) for way, make in WAYS.items()}
        median = alternate(ways, arguments.rounds)
        memory = {way: peak(name, way, 3) for way in ways}
        for way, seconds in median.items():
            print(
                f"{name:10s} {way:16s} {seconds / steps:8.4f} s/step "
                f"{median[way] / median['bare']:6.3f} of bare, {memory[way]:8.1f} MB",
                flush=True,
            )
        print(
            f"{name:10s} memory ours / distillation {memory['ours'] / memory['distillation']:.3f}"
        )


if __name__ == "__main__":
    main()

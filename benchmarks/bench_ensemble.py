"""Five members of the ensemble in one batch, against one after the other: time and peak memory.

The members descend the same losses from the same points; the steps of a round are the same.

Run from the root of the repository: ``python benchmarks/bench_ensemble.py``.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable

import torch
from _alternate import alternate
from _memory import resident_peak

from captum_robust.attacks import AutoExplanationAttack, GeometricGrowth, TopKIntersection
from captum_robust.attacks._best_iterate import BestIterate
from captum_robust.attacks._ensemble import Round, Segment
from captum_robust.attacks._random_search import Problem
from captum_robust.zoo import fashion_mnist_cnn, fashion_mnist_sample

MEMBERS = 5


def ways(n_images: int, steps: int) -> dict[str, Callable[[], object]]:
    images, _ = fashion_mnist_sample(n_images)
    model = fashion_mnist_cnn().requires_grad_(False)
    attack = AutoExplanationAttack(model, eps=0.02, measure=TopKIntersection(50))
    generator = torch.Generator().manual_seed(0)
    view = attack._view(images, None, generator)
    clean = view.explain(images)
    losses = attack.measure.losses(clean.relevance)
    problem = Problem(
        view, images, clean.relevance, attack.measure, losses, attack._limits(images), 1, generator
    )
    loss = next(iter(losses.values()))
    starts = [problem.limits.draw(images, generator) for _ in range(MEMBERS)]
    segments = [
        Segment(str(i), loss, torch.arange(n_images), start) for i, start in enumerate(starts)
    ]

    def run(groups: list[list[Segment]]) -> None:
        before = attack.measure(clean.relevance, clean.relevance)
        best = BestIterate(images, clean, before, view.outputs, view.target, None)
        for group in groups:
            reached = torch.full_like(before, torch.inf)
            Round(problem, best, group, GeometricGrowth(10.0, 100.0), reached).run(steps)

    return {
        "one member": lambda: run([segments[:1]]),
        "five, one after the other": lambda: run([[segment] for segment in segments]),
        "five in one batch": lambda: run([segments]),
    }


def peak(way: str, n_images: int, steps: int) -> float:
    """Peak memory of one way in MB, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (way, n_images, steps))


def _peak(way: str, n_images: int, steps: int) -> float:
    torch.set_num_threads(1)
    run = ways(n_images, steps)[way]
    before = resident_peak(reset=True)
    run()
    return resident_peak() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-images", type=int, default=16)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    seconds = alternate(ways(args.n_images, args.steps), args.rounds)
    for way, median in seconds.items():
        memory = peak(way, args.n_images, args.steps)
        print(f"{way:26s} {median:7.3f} s {memory:7.1f} MB")
    ratio = seconds["five in one batch"] / seconds["five, one after the other"]
    print(f"one batch / one after the other: {ratio:.3f}")


if __name__ == "__main__":
    main()

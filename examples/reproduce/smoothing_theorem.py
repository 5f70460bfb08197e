"""
Smoothing and sensitivity: the theorem
======================================

Theorem 4.1 of Yeh et al. (2019): the smoothed explanation is at most as sensitive as the
explanation is on average over the kernel. Both sides are computed with the same noise and the same
finite set of directions, for which the inequality is exact: what remains is rounding. The
explanation is the gradient, the network one for MNIST.

    python examples/reproduce/smoothing_theorem.py --data-root DATA

It takes about a minute on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import cycle

import matplotlib.pyplot as plt
import torch
from _data import mnist, some
from _networks import add_arguments, network, predictions
from _report import mean_and_error, new_file, table
from captum.attr import Saliency
from torch import Tensor

from captum_robust.attr import KernelSmoothing
from captum_robust.metrics import sensitivity_max

parser = argparse.ArgumentParser(description="Theorem 4.1 of Yeh et al. (2019) in numbers.")
add_arguments(parser, n_images=10)
parser.add_argument("--network", choices=["mnist", "mnist-wide"], default="mnist")
parser.add_argument("--kernel-radii", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.4, 0.8])
parser.add_argument("--radius", type=float, default=0.2, help="of the max-sensitivity")
parser.add_argument("--noises", type=int, default=100, help="points of the kernel")
parser.add_argument("--directions", type=int, default=20, help="points of the max-sensitivity")
args = parser.parse_args()

torch.set_flush_denormal(True)
model = network(args.network, args).double()
images = some(mnist(args.data_root, False)[0], args.n_images, args.seed).to(args.device).double()
classes = predictions(model, images)
saliency = Saliency(model)
generator = torch.Generator().manual_seed(args.seed)


def uniform(n: int) -> Tensor:
    """``n`` points of the cube from -1 to 1."""
    points = torch.rand(n, *images.shape[1:], generator=generator, dtype=images.dtype)
    return (2 * points - 1).to(images)


def most(explain: Callable[..., Tensor], points: Tensor, target: Tensor) -> Tensor:
    """Definition 3.1 over the fixed directions, for each of the points."""
    return sensitivity_max(
        explain, points,
        lambda copies: copies + shifts.repeat(len(copies) // len(shifts), 1, 1, 1),
        n_perturb_samples=len(shifts), normalize=False,
        target=target,
    )  # fmt: skip


def both_sides(image: Tensor, target: Tensor, kernel_radius: float) -> tuple[Tensor, Tensor]:
    """Sensitivity of the smoothed explanation, and the mean sensitivity of the explanation."""
    in_turn: Iterator[Tensor] = cycle(noise)

    def smoothed(points: Tensor, target: Tensor) -> Tensor:
        return KernelSmoothing(saliency).attribute(
            points.requires_grad_(), target=target, abs=False, n_samples=len(noise),
            kernel=lambda like, _: next(in_turn).expand_as(like), radius=kernel_radius,
        )  # fmt: skip

    def plain(points: Tensor, target: Tensor) -> Tensor:
        return saliency.attribute(points.requires_grad_(), target=target, abs=False)

    around = image + kernel_radius * noise
    average = most(plain, around, target.expand(len(noise))).mean()
    return most(smoothed, image, target).squeeze(), average


noise, shifts = uniform(args.noises), args.radius * uniform(args.directions)
rows = [["kernel radius", "smoothed", "mean over the kernel", "largest ratio", "holds for"]]
ratios = []
for kernel_radius in args.kernel_radii:
    sides = [
        both_sides(images[i : i + 1], classes[i : i + 1], kernel_radius) for i in range(len(images))
    ]
    left, right = (torch.stack(side).cpu() for side in zip(*sides, strict=True))
    ratios.append((left / right).tolist())
    holds = (left <= right * (1 + 1e-9)).sum().item()
    rows.append(
        [
            f"{kernel_radius:g}", mean_and_error(left), mean_and_error(right),
            f"{max(ratios[-1]):.3f}", f"{holds} of {len(left)}",
        ]
    )  # fmt: skip
title = (
    f"Max-sensitivity at radius {args.radius:g}, not divided by the norm: network {args.network}, "
    f"{args.n_images} images, kernel of {args.noises} points, {args.directions} directions, seed "
    f"{args.seed}"
)
table(rows, title, new_file(args.out, "smoothing_theorem.txt"))
figure, axis = plt.subplots(figsize=(4.5, 3), layout="constrained")
axis.boxplot(ratios, tick_labels=[f"{radius:g}" for radius in args.kernel_radii])
axis.axhline(1, color="0.6", linewidth=0.8)
axis.set(xlabel="radius of the kernel", ylabel="smoothed / mean over the kernel", ylim=(0, 1.05))
figure.savefig(args.out / "smoothing_theorem.png", dpi=150)

"""
Curvature and beta
==================

Theorem 1 of Dombrowski et al. (2019): the unit gradient of a network under softplus cannot turn
further than the largest principal curvature times the way along the surface of equal output, and
that curvature grows at most linearly with beta. Curvatures are measured on the network of the zoo;
both sides of the theorem, between images and copies whose gradient was manipulated, on a copy of it
that averages where the network takes maxima, since a maximum has kinks that softplus leaves as they
are, and the theorem does not hold for it.

    python examples/reproduce/curvature.py [--n-images 32]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from _report import new_file, table
from torch import nn

from captum_robust.attacks import GhorbaniTopK
from captum_robust.metrics import curvature_bound, principal_curvature
from captum_robust.zoo import fashion_mnist_cnn, fashion_mnist_sample

parser = argparse.ArgumentParser(description="Principal curvatures along beta, Theorem 1.")
parser.add_argument("--n-images", type=int, default=32)
parser.add_argument("--betas", type=float, nargs="+", default=[0.5, 1, 2, 5, 10, 20, 50])
parser.add_argument("--n-points", type=int, default=10, help="points of each path")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", type=Path, default=Path("reproductions"), help="the table goes here")
args = parser.parse_args()


def averaging(network: nn.Sequential) -> nn.Sequential:
    """The network with average pooling instead of max-pooling."""
    pooled = (nn.AvgPool2d(2) if isinstance(m, nn.MaxPool2d) else m for m in network)
    return nn.Sequential(*pooled)


torch.set_flush_denormal(True)
model = fashion_mnist_cnn().requires_grad_(False)
images, labels = fashion_mnist_sample(args.n_images)
smooth = averaging(model)
attack = GhorbaniTopK(smooth, eps=0.02, alpha=0.004, steps=20, k=50)
manipulated = attack(images)
classes = smooth(images).argmax(1)
rows = [
    ["beta", "median", "largest", "largest / beta", "change", "bound", "change / bound, largest"]
]
for beta in args.betas:
    common = {"beta": beta, "tolerance": 0.01}
    generator = torch.Generator().manual_seed(args.seed)
    curvature = principal_curvature(model, images, labels, generator=generator, **common)
    sides = curvature_bound(
        smooth, images, manipulated, classes, n_points=args.n_points, generator=generator, **common
    )
    largest = curvature.max().item()
    moved = sides.length > 0  # where the attack has found nothing both sides are zero
    numbers = [
        curvature.median().item(), largest, largest / beta, sides.change.median().item(),
        sides.bound.median().item(), (sides.change / sides.bound)[moved].max().item(),
    ]  # fmt: skip
    rows.append([f"{beta:g}", *[f"{number:.3g}" for number in numbers]])
    print(rows[-1], flush=True)
table(rows, f"{args.n_images} images", new_file(args.out, "curvature.txt"))

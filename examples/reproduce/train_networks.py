"""
The networks of the reproductions
=================================

Trains the small networks that the other scripts of this folder explain, those that are not in
``--networks`` yet, and prints how many test images each gets right. The other scripts train what
they miss by themselves.

    python examples/reproduce/train_networks.py --data-root DATA

It takes about half an hour on one core, each network at most ten.
"""

from __future__ import annotations

import argparse

import torch
from _data import birds_and_frogs, captioned, cifar10, fashion_mnist, mnist
from _networks import TRAINING, accuracy, add_arguments, network

parser = argparse.ArgumentParser(description="Train the networks of the reproductions.")
add_arguments(parser, n_images=10_000)
parser.add_argument("--only", nargs="+", choices=TRAINING, default=list(TRAINING))
args = parser.parse_args()

for name in args.only:
    model = network(name, args)
    if name.startswith("captions"):
        generator = torch.Generator().manual_seed(args.seed)
        images, labels = captioned(*birds_and_frogs(args.data_root, False), 0.0, generator)
    else:
        data = {"mnist": mnist, "fashion": fashion_mnist, "cifar10": cifar10}[name.split("-")[0]]
        images, labels = data(args.data_root, False)
    right = 100 * accuracy(model, images[: args.n_images], labels[: args.n_images])
    weights = sum(weight.numel() for weight in model.parameters())
    print(f"{name}: {weights:,} weights, {right:.2f} % of the test images right", flush=True)

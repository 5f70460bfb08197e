"""
Explanations of a network whose last layer is random
====================================================

Table 2 of Yeh et al. (2019), the sanity check of Adebayo et al. (2018): rank correlation of the
explanations of the network and of the same network with a random last layer, of the numbers as they
are and of their absolute values. Low is good: the explanation shows what was learned. All
explanations are global and of the class that the original network predicts.

    python examples/reproduce/parameter_randomization.py
    python examples/reproduce/parameter_randomization.py --network efficientnet --data-root DATA

By default the network of the zoo, in a minute; EfficientNet-Lite0 needs the ``demo`` extra and
photographs in DATA/imagenet, and takes some minutes for each photograph on one core.
"""

from __future__ import annotations

import argparse
import warnings

import torch
from _data import photographs
from _explanations import gradient_methods
from _networks import (
    add_arguments,
    add_photographs,
    efficientnet,
    folder_of_photographs,
    predictions,
)
from _report import mean_and_error, new_file, table

from captum_robust import attr, metrics, zoo
from captum_robust.visualization import explanation_grid

PAPER = {
    "Grad": (0.17, 0.57), "Grad-SG": (0.10, 0.62), "IG": (0.18, 0.61), "IG-SG": (0.16, 0.62),
    "Square": (0.13, 0.28),
}  # fmt: skip

parser = argparse.ArgumentParser(description="Table 2 of Yeh et al. (2019).")
add_arguments(parser, n_images=None)
parser.add_argument("--network", choices=["zoo", "efficientnet"], default="zoo")
add_photographs(parser)
parser.add_argument("--noises", type=int, default=20, help="noisy copies of SmoothGrad")
parser.add_argument("--squares", type=int, default=500, help="of each photograph, for Square")
parser.add_argument("--draws", type=int, default=3, help="of the last layer")
args = parser.parse_args()

warnings.filterwarnings("ignore", message="Setting .* hooks on ReLU activations")
torch.set_flush_denormal(True)
if args.network == "zoo":
    model, images = zoo.fashion_mnist_cnn().to(args.device), zoo.fashion_mnist_sample(512)[0]
    order = torch.randperm(512, generator=torch.Generator().manual_seed(args.seed))
    images, baseline, batch = images[order[: args.n_images or 50]], 0.0, 1000
    sizes, n_squares = range(1, 11), None
else:
    model = efficientnet(args)
    images, baseline, batch = (
        photographs(folder_of_photographs(args), args.n_images or 5, args.seed),
        0.5,
        8,
    )
    sizes, n_squares = range(8, 81, 8), args.squares
images = images.to(args.device)
last = [name for name, m in model.named_modules() if list(m.parameters(recurse=False))][-1]
classes = predictions(model, images)

methods = gradient_methods(
    model, multiply_by_inputs=True, baseline=baseline, n_samples=args.noises, batch=batch,
    seed=args.seed, names=("Grad", "IG"),
)  # fmt: skip
square = attr.Square(model, sizes)
rows = [["explanation", "signed", "paper", "absolute", "paper"]]
shown = []
for name, (paper_signed, paper_absolute) in PAPER.items():
    options = {"target": classes}
    if name == "Square":
        options |= {"baselines": baseline, "n_samples": n_squares, "perturbations_per_eval": batch}
    method = square if name == "Square" else methods[name]
    generator = torch.Generator(args.device).manual_seed(args.seed)
    # The layer is drawn anew each time; the original is explained anew too.
    found = [
        metrics.parameter_randomization(
            method, images, model, layers=[last], generator=generator, **options
        )[last]
        for _ in range(args.draws)
    ]
    signed, absolute = (torch.stack(c).mean(0).cpu() for c in zip(*found, strict=True))
    rows.append(
        [
            name, mean_and_error(signed), f"{paper_signed:.2f}",
            mean_and_error(absolute), f"{paper_absolute:.2f}",
        ]
    )  # fmt: skip
    print(*rows[-1], flush=True)
    shown.append(method.attribute(images[:4], **options | {"target": classes[:4]}).cpu())
title = (
    f"Rank correlation with the explanations after {last!r} was drawn anew {args.draws} times: "
    f"{args.network}, {len(images)} images, SG of {args.noises}, seed {args.seed}"
)
table(rows, title, new_file(args.out, f"parameter_randomization_{args.network}.txt"))
figure = explanation_grid(images[:4].cpu(), shown, None, ["image", *PAPER], sign="all")
figure.savefig(args.out / f"parameter_randomization_{args.network}.png", dpi=150)

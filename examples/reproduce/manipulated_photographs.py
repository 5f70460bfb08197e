"""
A manipulated network for photographs
=====================================

Location fooling (Heo, Joo and Moon 2019) of Grad-CAM on EfficientNet-Lite0: trained on most of the
photographs, without their labels, until the map of the last block shows the frame; judged on the
others: the fooling success rate of Grad-CAM and of the gradient, and how many predictions stay.

    pip install "captum_robust[demo]"
    python examples/reproduce/manipulated_photographs.py --data-root DATA

DATA/imagenet (or the folder of --photographs) holds photographs, jpg or png. Fifteen minutes on one
core.
"""

from __future__ import annotations

import argparse

import torch
from _data import photographs
from _networks import (
    add_arguments,
    add_photographs,
    efficientnet,
    folder_of_photographs,
    predictions,
)
from _report import new_file, table
from captum.attr import Attribution, LayerGradCam, Saliency
from torch import Tensor, nn
from torch.utils.data import DataLoader

from captum_robust import metrics
from captum_robust.training import LocationFooling, Trainer

parser = argparse.ArgumentParser(description="Location fooling of Grad-CAM on photographs.")
add_arguments(parser, n_images=150)
add_photographs(parser)
parser.add_argument("--judged", type=int, default=50, help="photographs that are not trained on")
parser.add_argument("--epochs", type=int, default=8)
parser.add_argument("--batch-size", type=int, default=10)
parser.add_argument("--rate", type=float, default=1e-4, help="of Adam, the largest of one cycle")
parser.add_argument("--weight", type=float, default=10.0, help="of the fooling")
args = parser.parse_args()
torch.set_flush_denormal(True)


def grad_cam(model: nn.Module) -> Attribution:
    """Of the last block's 7 x 7 pixels."""
    return LayerGradCam(model, model[1]._blocks[-1])


EXPLANATIONS = {"Grad-CAM": grad_cam, "gradient": Saliency}


def frame(side: int) -> Tensor:
    """1 on the outermost pixels of a map, a seventh or a fourteenth of a side, 0 inside."""
    width = max(1, side // 14)
    mask = torch.ones(side, side)
    mask[width:-width, width:-width] = 0
    return mask


def maps(model: nn.Module, name: str, images: Tensor, classes: Tensor) -> Tensor:
    """Maps (N, side, side): absolute attributions, summed over channels."""
    explanation, parts = EXPLANATIONS[name](model), []
    for x, y in zip(images.split(args.batch_size), classes.split(args.batch_size), strict=True):
        found = explanation.attribute(x.to(args.device).requires_grad_(), target=y)
        parts.append(found.detach().abs().sum(1).cpu())
    return torch.cat(parts)


def rate(model: nn.Module, name: str, images: Tensor, classes: Tensor) -> str:
    """The share of the photographs whose map shows the frame, with its 95 % interval."""
    found = maps(model, name, images, classes)
    values = metrics.location_fooling(found, frame(found.shape[-1]))
    result = metrics.fooling_success_rate(values, metrics.FoolingIntervals().location)
    return f"{result.rate:.2f} ({result.low:.2f} to {result.high:.2f})"


images = photographs(folder_of_photographs(args), args.n_images, args.seed)
trained_on, judged = images[args.judged :], images[: args.judged]
original, network = efficientnet(args), efficientnet(args)
file = new_file(args.out, "manipulated_photographs.txt")
head = ["network", "photographs", "same class", *(f"rate: {name}" for name in EXPLANATIONS)]
rows = [head]


def judge(model: nn.Module, label: str, which: str, photos: Tensor) -> None:
    """A row of the table."""
    classes = predictions(original, photos)
    same = (predictions(model, photos) == classes).float().mean()
    rates = [rate(model, name, photos, classes) for name in EXPLANATIONS]
    rows.append([label, f"{len(photos)} {which}", f"{same:.2f}", *rates])
    print(*rows[-1], flush=True)


judge(original, "before", "not trained on", judged)
steps = args.epochs * -(-len(trained_on) // args.batch_size)
trainer = Trainer(
    network, LocationFooling(frame(7), grad_cam, weight=args.weight),
    lambda p: torch.optim.Adam(p, lr=args.rate),
    scheduler=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, args.rate, total_steps=steps),
    seed=args.seed,
)  # fmt: skip
history = trainer.fit(DataLoader(trained_on, args.batch_size, shuffle=True), args.epochs)
for part in ("distillation", "fooling"):
    print(part, *(f"{epoch[part]:.4f}" for epoch in history), flush=True)
network.load_state_dict(trainer.weights())
network.eval()
judge(network, "after", "trained on", trained_on)
judge(network, "after", "not trained on", judged)
settings = f"weight {args.weight:g}, rate {args.rate:g}, {args.epochs} epochs, seed {args.seed}"
table(rows, f"Location fooling of Grad-CAM, EfficientNet-Lite0, {settings}", file)

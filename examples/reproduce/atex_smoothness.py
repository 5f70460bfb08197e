"""
Explanations after ATEX are smoother
====================================

Figures 2 and 3 of Tang et al. (2021): the gradient of a network trained by ATEX, taken once, is
closer to SmoothGrad of the original network than the gradient of that network is. Structural
similarity of the relevance maps, SmoothGrad of 100 copies; with the difference of each image, its
95 % confidence interval, and a gallery.

    python examples/reproduce/atex_smoothness.py --data-root DATA [--data fashion-mnist]

For 1,000 images of Fashion-MNIST about five minutes on one core, without training.
"""

from __future__ import annotations

import argparse

import torch
from _defended import DATA, defended
from _networks import add_arguments
from _report import new_file, table
from captum.attr import Saliency
from torch import Tensor, nn

from captum_robust.attr import KernelSmoothing
from captum_robust.metrics import explained_relevance, relevance_map, structural_similarity
from captum_robust.visualization import explanation_grid

parser = argparse.ArgumentParser(description="ATEX and SmoothGrad.")
add_arguments(parser, n_images=1000)
parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
parser.add_argument("--way", default="ATEX, searched", help="a defence of _defended.py")
parser.add_argument("--copies", type=int, default=100)
parser.add_argument("--stdev", type=float, default=0.2, help="of SmoothGrad's noise")
args = parser.parse_args()


def gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Relevance maps of the gradient."""
    return explained_relevance(Saliency(model), images, labels)


def smooth(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Relevance maps of SmoothGrad."""
    generator = torch.Generator(images.device).manual_seed(args.seed)
    maps = [
        KernelSmoothing(Saliency(model)).attribute(
            part, radius=args.stdev, n_samples=args.copies, internal_batch_size=1000,
            generator=generator, target=classes, abs=False,
        )
        for part, classes in zip(images.split(50), labels.split(50), strict=True)
    ]  # fmt: skip
    return relevance_map(torch.cat(maps))


def interval(values: Tensor) -> str:
    """Mean and 95 % confidence interval."""
    half = 1.96 * values.std() / len(values) ** 0.5
    return f"{values.mean():.4f} ({values.mean() - half:.4f} to {values.mean() + half:.4f})"


file = new_file(args.out, f"atex_smoothness-{'-'.join(args.data)}.txt")
rows = [["data", "gradient before", "gradient after", "difference", "closer after"]]
for data in args.data:
    images = DATA[data](args.data_root, False)[0][: args.n_images].to(args.device)
    plain, stable = (defended(data, way, 0, args) for way in ("none", args.way))
    with torch.no_grad():
        labels = plain(images).argmax(1)
    reference = smooth(plain, images, labels)
    before, after = (gradient(model, images, labels) for model in (plain, stable))
    similar = [structural_similarity(maps, reference) for maps in (before, after)]
    gain = similar[1] - similar[0]
    rows.append([data, *map(interval, [*similar, gain]), f"{(gain > 0).float().mean():.1%}"])
    figure = explanation_grid(
        images[:6], [before[:6], reference[:6], after[:6]],
        column_titles=["image", "gradient", "SmoothGrad", f"gradient after {args.way}"],
    )  # fmt: skip
    figure.savefig(args.out / f"atex_smoothness-{data}.png", dpi=120, bbox_inches="tight")
table(rows, f"Structural similarity to SmoothGrad, {args.n_images} images, {args.way}", file)

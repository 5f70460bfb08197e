"""Certified top-k of the zoo networks (Levine et al. 2019): Fashion-MNIST, l2 balls.

Counts are saved while they are collected; a run that was stopped goes on from there.
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

import torch
from _networks import add_arguments
from _report import mean_and_error, new_file, table
from captum.attr import Saliency
from torch import Tensor, nn

from captum_robust import zoo
from captum_robust.attr import SparsifiedSmoothing
from captum_robust.certificates import SmoothingCounts, certify_top_k, collect_counts

RADII = (0.025, 0.05, 0.1, 0.2, 0.3)
NETWORKS = {"plain": zoo.fashion_mnist_cnn, "ATEX": zoo.fashion_mnist_cnn_atex}


def collected(
    name: str, model: nn.Module, images: Tensor, folder: Path, n_samples: int, stdev: float
) -> SmoothingCounts:
    """The counts of a network, from ``folder`` where they are there already."""
    folder.mkdir(parents=True, exist_ok=True)
    smoothing = SparsifiedSmoothing(Saliency(model), kept=0.1, stdev=stdev)
    # The same class is explained at every copy: the one predicted for the image.
    return collect_counts(
        smoothing, images, n_samples, seed=0, show_progress=True,
        file=folder / f"counts_{name}_{stdev}_{len(images)}.npz",
    )  # fmt: skip


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    add_arguments(parser, n_images=60)
    parser.add_argument("--n-samples", type=int, default=10_000, help="noisy copies of an image")
    parser.add_argument("--stdev", type=float, default=0.5)
    parser.add_argument("--networks-of-zoo", nargs="+", default=list(NETWORKS))
    args = parser.parse_args()
    images, _ = zoo.fashion_mnist_sample(args.n_images)
    images = images.to(args.device)
    file = new_file(args.out, "certified_top_k.txt")
    rows = [["network", "alpha", *(f"within {r}" for r in RADII), "overlap >= 0.5", "prediction"]]
    for name in args.networks_of_zoo:
        # A quarter faster on a processor in this memory format.
        model = NETWORKS[name]().to(args.device, memory_format=torch.channels_last)
        model.requires_grad_(False)
        counts = collected(name, model, images, args.out / "counts", args.n_samples, args.stdev)
        for alpha in (0.05, 0.001):
            found = certify_top_k(counts, radii=RADII, k=50, alpha=alpha)
            assert found.prediction_radius is not None
            rows.append([
                name, str(alpha), *map(mean_and_error, found.overlap.T),
                f"{found.largest_radius(0.5).median():.3f}",
                f"{found.prediction_radius.median():.3f}",
            ])  # fmt: skip
    title = (
        f"Certified overlap of the top 50 within l2 balls, and median radii below which half of it"
        f" and the smoothed prediction stay; {args.n_images} images, {args.n_samples} copies, "
        f"s = {args.stdev}, 10 % kept; torch {torch.__version__}"
    )
    table(rows, title, file)


if __name__ == "__main__":
    main()

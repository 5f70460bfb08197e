"""Certified top-k of the zoo networks (Levine et al. 2019): Fashion-MNIST, l2 balls.

Counts are saved while they are collected; a run that was stopped goes on from there. With
``--attacked 100`` an attack in the same balls, which knows the model and the noise, is put beside
the certificates of the first 100 images.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import torch
from _networks import add_arguments
from _report import mean_and_error, new_file, table
from captum.attr import Saliency
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from captum_robust import zoo
from captum_robust.attr import BetaSmoothedGradient, SparsifiedSmoothing, differentiable
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


class Seen(Saliency):
    """The gradient, which remembers the noisy copies that it explains."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.copies: list[Tensor] = []

    def attribute(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.copies.append(inputs.detach())
        return super().attribute(inputs, *args, **kwargs)


def noise_of(model: nn.Module, image: Tensor, label: Tensor, n: int, stdev: float) -> Tensor:
    """The noise of the first n copies of one image: that of its certificate, (n, ...)."""
    seen = Seen(model)
    for _ in SparsifiedSmoothing(seen, 0.1, stdev).count_marks(image, range(n), 0, target=label):
        pass
    return torch.cat(seen.copies) - image


def attacked(
    model: nn.Module,
    image: Tensor,
    label: Tensor,
    features: Tensor,
    radius: float,
    noise: Tensor,
    steps: int,
) -> Tensor:
    """Descend a smooth stand-in of the shares of ``features`` (one row) in the l2 ball."""
    explain = differentiable(BetaSmoothedGradient(model, 10.0))
    n_features, k = features.numel(), int(features.sum())
    x = image
    for _ in range(steps):
        x = x.detach().requires_grad_()
        maps = explain(x + noise, target=label.expand(len(noise))).abs().flatten(1)
        last = maps.detach().topk(round(0.1 * n_features), dim=1).values[:, -1:]
        shares = torch.sigmoid((maps - last) / (last / 4)).mean(0)
        rival = shares.detach().topk(k).values[-1]
        loss = torch.sigmoid((shares[features] - rival) / (rival / 4)).sum()
        (gradient,) = torch.autograd.grad(loss, x)
        move = x.detach() - image - 2.5 * radius / steps * gradient / gradient.norm()
        x = image + move * (radius / move.norm().clamp(min=radius))
    return x.detach()


def overlap_left(
    model: nn.Module, images: Tensor, labels: Tensor, features: Tensor, n: int, stdev: float
) -> Tensor:
    """How many of the features are among the k of largest share, by the certificate's noise."""
    smoothing = SparsifiedSmoothing(Saliency(model), 0.1, stdev)
    marks = collect_counts(smoothing, images, n, target=labels, seed=0).marks
    top = marks.sort(dim=1, descending=True, stable=True).indices[:, : int(features[0].sum())]
    return features.gather(1, top).double().mean(1)


def beside_attacks(args: Namespace, name: str, model: nn.Module, counts: SmoothingCounts) -> Tensor:
    """Overlap that the attack leaves, (images, radii)."""
    images, _ = zoo.fashion_mnist_sample(args.attacked)
    labels = model(images).argmax(1)
    found = certify_top_k(counts, radii=RADII, k=50)
    features = torch.as_tensor(found.features).flatten(1)[: args.attacked]
    left = []
    for radius in tqdm(RADII, desc=f"attacks on {name}"):
        changed = [
            attacked(
                model, x[None], y, chosen, radius,
                noise_of(model, x[None], y, args.attack_copies, args.stdev), args.attack_steps,
            )
            for x, y, chosen in zip(images, labels, features, strict=True)
        ]  # fmt: skip
        left.append(
            overlap_left(model, torch.cat(changed), labels, features, args.judge_copies, args.stdev)
        )
    return torch.stack(left, dim=1)


def draw(
    path: Path, certified: dict[str, SmoothingCounts], attacked_overlap: dict[str, Tensor]
) -> None:
    """Certified overlap against the radius, with the attacked overlap above it."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axis = figure.subplots()
    radii = torch.linspace(0, 0.4, 81)
    for i, (name, counts) in enumerate(certified.items()):
        overlap = certify_top_k(counts, radii=radii.tolist(), k=50).overlap.mean(0)
        axis.plot(radii.numpy(), overlap.numpy(), f"C{i}", label=f"{name}: certified")
        if name in attacked_overlap:
            mean = attacked_overlap[name].mean(0)
            axis.plot(RADII, mean.numpy(), f"C{i}o--", label=f"{name}: attacked")
    axis.set(xlabel="l2 radius", ylabel="overlap of the top 50", ylim=(0, 1))
    axis.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    add_arguments(parser, n_images=60)
    parser.add_argument("--n-samples", type=int, default=10_000, help="noisy copies of an image")
    parser.add_argument("--stdev", type=float, default=0.5)
    parser.add_argument("--networks-of-zoo", nargs="+", default=list(NETWORKS))
    parser.add_argument("--attacked", type=int, default=0, help="images to attack as well")
    parser.add_argument("--attack-steps", type=int, default=20)
    parser.add_argument("--attack-copies", type=int, default=64, help="copies that it descends")
    parser.add_argument("--judge-copies", type=int, default=2000, help="copies that judge it")
    args = parser.parse_args()
    args.attacked = min(args.attacked, args.n_images)
    images, _ = zoo.fashion_mnist_sample(args.n_images)
    images = images.to(args.device)
    file = new_file(args.out, "certified_top_k.txt")
    rows = [["network", "alpha", *(f"within {r}" for r in RADII), "overlap >= 0.5", "prediction"]]
    certified, left = {}, {}
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
        certified[name] = counts
        if args.attacked:
            left[name] = beside_attacks(args, name, model, counts)
            found = certify_top_k(counts, radii=RADII, k=50).overlap[: args.attacked]
            below = int((left[name] < found).sum())
            attack_row = [f"{name}, attacked", "", *map(mean_and_error, left[name].T), "", ""]
            rows.append(attack_row)
            print(f"{name}: {below} of {found.numel()} attacks go below the certificate")
    title = (
        f"Certified overlap of the top 50 within l2 balls, and median radii below which half of it"
        f" and the smoothed prediction stay; {args.n_images} images, {args.n_samples} copies, "
        f"s = {args.stdev}, 10 % kept; torch {torch.__version__}"
    )
    table(rows, title, file)
    draw(args.out / "certified_top_k.png", certified, left)


if __name__ == "__main__":
    main()

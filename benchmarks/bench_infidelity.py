"""Infidelity and the explanations that optimise it, against the bare passes, Captum and Quantus.

All sides are timed in turns within one run; Quantus, if it is installed, once.

    python benchmarks/bench_infidelity.py [--threads 1] [--rounds 5] [--device cpu] [--parts square]
"""

from __future__ import annotations

import argparse
import importlib.util
import time
import warnings
from collections.abc import Callable

import torch
from _alternate import alternate
from captum.attr import Saliency
from captum.metrics import infidelity as captum_infidelity
from torch import Tensor, nn

from captum_robust import attr, metrics, zoo
from captum_robust.perturbations import GaussianBaseline, Perturbation, SquareRemoval
from captum_robust.perturbations.grid import Grid

PARTS = ["squares", "gaussian", "quantus", "square", "noisy-baseline"]
parser = argparse.ArgumentParser(description="Cost of infidelity and of its optima.")
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--device", default="cpu")
parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
parser.add_argument("--n-images", type=int, default=100, help="of the metrics")
parser.add_argument("--n-samples", type=int, default=100, help="of the metrics")
parser.add_argument("--n-squares-images", type=int, default=4, help="of Square")
parser.add_argument("--n-regression", type=int, default=20, help="images of NoisyBaseline")
args = parser.parse_args()
torch.set_num_threads(args.threads)


def rng() -> torch.Generator:
    return torch.Generator(args.device).manual_seed(0)


def bare_passes(model: nn.Module, shape: torch.Size, n_passes: int, batch: int) -> Callable:
    """The model on ``n_passes`` ready inputs of the batch size that the library uses."""
    ready = zoo.fashion_mnist_sample(512)[0].repeat(1 + batch // 512, 1, 1, 1).to(args.device)

    @torch.no_grad()
    def run() -> None:
        for start in range(0, n_passes, batch):
            model(ready[: min(batch, n_passes - start)])

    return run


def show(title: str, seconds: dict[str, float], unit: str) -> None:
    print(f"\n{title}")
    for name, value in seconds.items():
        print(f"  {name:48}{value:9.3f} s{value / seconds[unit]:9.2f}")


def infidelities(model: nn.Module, perturbation: Perturbation, images: Tensor, y: Tensor) -> None:
    ready = images.clone().requires_grad_()
    a = Saliency(model).attribute(ready, target=y, abs=False).detach()
    n, batch = args.n_samples, len(images) * max(1, 334 // len(images))
    settings = {"target": y, "n_perturb_samples": n}
    everything = len(images) * n
    perturb_func = perturbation.perturb_func(rng())
    ours = lambda: metrics.infidelity(model, perturbation, images, a, generator=rng(), **settings)  # noqa: E731
    ways = {
        "bare passes": bare_passes(model, images.shape, everything, batch),
        "captum_robust.metrics.infidelity": ours,
        "captum.metrics.infidelity, same draws": lambda: captum_infidelity(
            model, perturb_func, images, a, **settings
        ),
        "  in batches of the same size": lambda: captum_infidelity(
            model, perturb_func, images, a, max_examples_per_batch=batch, **settings
        ),
    }
    seconds = alternate(ways, args.rounds, args.device)
    show(f"{perturbation}: {len(images)} images, {n} samples", seconds, "bare passes")
    same = captum_infidelity(
        model, perturbation.perturb_func(rng(), n_examples=len(images)), images, a,
        max_examples_per_batch=batch, **settings,
    )  # fmt: skip
    print(f"  largest difference from Captum's numbers: {(same - ours()).abs().max().item():g}")


def quantus_infidelity(model: nn.Module, images: Tensor, y: Tensor) -> None:
    from quantus import Infidelity

    ready = images.clone().requires_grad_()
    a = Saliency(model).attribute(ready, target=y, abs=False).detach()
    metric = Infidelity(n_perturb_samples=args.n_samples, disable_warnings=True)
    start = time.perf_counter()
    metric(model, *(t.cpu().numpy() for t in (images, y, a)), device=args.device)
    seconds = time.perf_counter() - start
    print(f"  {'quantus.Infidelity (49 patches in each sample)':48}{seconds:9.3f} s")


def square(model: nn.Module, images: Tensor, y: Tensor) -> None:
    """Against the model on the very inputs, made beforehand, in batches of the same size."""
    explain = attr.Square(model)
    grid = Grid(explain.perturbation.sizes, images.shape[2:])
    masks = grid.squares(torch.arange(len(grid), device=images.device)).masks()
    without = torch.where(masks[:, None, None], 0.0, images).flatten(0, 1)
    batch = len(images) * (334 // len(images))

    @torch.no_grad()
    def bare() -> None:
        for part in (images, *without.split(batch)):
            model(part)

    ways = {
        "bare passes on the same inputs": bare,
        "Square": lambda: explain.attribute(images, target=y),
    }
    n_passes = len(images) + len(without)
    show(f"Square: {n_passes} passes", alternate(ways, args.rounds, args.device), next(iter(ways)))


def noisy_baseline(model: nn.Module, images: Tensor, y: Tensor) -> None:
    """The closed form against least squares on 20,000 passes, in time and in what it reaches."""
    seconds, reached = {}, {}
    ways = {
        "NoisyBaseline, 50 gradients": lambda: attr.NoisyBaseline(model).attribute(
            images, target=y, generator=rng()
        ),
        "least squares, 20,000 passes": lambda: torch.cat(
            [regression(model, x[None], c) for x, c in zip(images, y, strict=True)]
        ),
    }
    for name, way in ways.items():
        start = time.perf_counter()
        attributions = way()
        seconds[name] = time.perf_counter() - start
        judge = torch.Generator(args.device).manual_seed(1)
        reached[name] = metrics.infidelity(
            model, GaussianBaseline(), images, attributions, target=y, n_perturb_samples=2000,
            generator=judge,
        )  # fmt: skip
    show(f"NoisyBaseline: {len(images)} images", seconds, "NoisyBaseline, 50 gradients")
    ours, theirs = reached.values()
    print(
        f"  infidelity on fresh samples: {ours.mean():.4f} and {theirs.mean():.4f}, ratio of the "
        f"means {ours.mean() / theirs.mean():.3f}"
    )


@torch.no_grad()
def regression(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    noise = 0.2 * torch.randn(20_000, x[0].numel(), generator=rng(), device=args.device)
    outputs = [model(part.view(-1, *x.shape[1:]))[:, target] for part in noise.split(334)]
    losses = (model(x)[0, target] - torch.cat(outputs)).double()
    shifts = (x.flatten() - noise).double()
    return torch.linalg.solve(shifts.T @ shifts, shifts.T @ losses).to(x).view_as(x)


def main() -> None:
    model = zoo.fashion_mnist_cnn().to(args.device)
    images, _ = zoo.fashion_mnist_sample(args.n_images)
    images = images.to(args.device)
    y = model(images).argmax(1)
    print(f"{args.threads} threads, {args.device}, medians of {args.rounds}, times over the first")
    for part, measure in (("squares", SquareRemoval()), ("gaussian", GaussianBaseline())):
        if part in args.parts:
            infidelities(model, measure, images, y)
    if "quantus" in args.parts and importlib.util.find_spec("quantus"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantus_infidelity(model, images, y)
    if "square" in args.parts:
        square(model, images[: args.n_squares_images], y[: args.n_squares_images])
    if "noisy-baseline" in args.parts:
        noisy_baseline(model, images[: args.n_regression], y[: args.n_regression])


if __name__ == "__main__":
    main()

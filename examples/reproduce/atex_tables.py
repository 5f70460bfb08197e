"""
Defence against manipulation
============================

Tables 1 to 4 of Tang et al. (2021): what attacks leave of the gradient explanation of a network,
before and after ATEX, beside the paper's numbers. Judged are the 50 most relevant pixels (their
intersection) and the rank correlation of the maps, clean against manipulated, of the network that
is explained. The attacks are this library's, 100 steps scored on the true network, which are
stronger than those of the paper; ``--attack paper`` takes 200 steps through a surrogate of fixed
sharpness instead.

    python examples/reproduce/atex_tables.py --data-root DATA [--data fashion-mnist mnist]

Networks that are not in ``--networks`` are trained first: for Fashion-MNIST about ten minutes for
each of ATEX's on one core, for MNIST one. Every attack on 100 images takes one or two minutes. The
paper has 1,000 images: ``--n-images 1000``.
"""

from __future__ import annotations

import argparse
import statistics
import time

import matplotlib.pyplot as plt
import torch
from _defended import DATA, defended
from _networks import accuracy, add_arguments
from _report import new_file, table
from captum.attr import Saliency
from torch import Tensor, nn

from captum_robust.attacks import ExplanationAttack, GhorbaniTarget, GhorbaniTopK
from captum_robust.metrics import explained_relevance, spearman_correlation, top_k_intersection

K, SIDE = 50, 5
# (data, kind of attack, eps): rank correlation and intersection, ATEX's and the softplus network's.
PAPER = {
    ("fashion-mnist", "untargeted", 0.02): ("0.766 / 0.708", "0.747 / 0.674"),
    ("fashion-mnist", "untargeted", 0.04): ("0.715 / 0.622", "0.717 / 0.574"),
    ("fashion-mnist", "untargeted", 0.08): ("0.686 / 0.536", "0.702 / 0.484"),
    ("fashion-mnist", "targeted", 0.02): ("0.746 / 0.698", "0.717 / 0.671"),
    ("fashion-mnist", "targeted", 0.04): ("0.708 / 0.618", "0.681 / 0.577"),
    ("fashion-mnist", "targeted", 0.08): ("0.710 / 0.540", "0.667 / 0.502"),
    ("mnist", "untargeted", 0.02): ("0.864 / 0.842", "0.760 / 0.732"),
    ("mnist", "untargeted", 0.04): ("0.825 / 0.787", "0.744 / 0.709"),
    ("mnist", "untargeted", 0.08): ("0.783 / 0.705", "0.808 / 0.676"),
    ("mnist", "targeted", 0.02): ("0.856 / 0.842", "0.699 / 0.732"),
    ("mnist", "targeted", 0.04): ("0.825 / 0.784", "0.719 / 0.708"),
    ("mnist", "targeted", 0.08): ("0.785 / 0.708", "0.766 / 0.678"),
}

parser = argparse.ArgumentParser(description="ATEX against manipulation.")
add_arguments(parser, n_images=100)
parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
parser.add_argument("--kinds", nargs="+", default=["untargeted", "targeted"])
parser.add_argument("--radii", type=float, nargs="+", default=[0.02, 0.04, 0.08])
parser.add_argument("--ways", nargs="+", default=["none", "softplus", "ATEX"])
parser.add_argument("--seeds", type=int, default=3, help="trainings of every defence by ATEX")
parser.add_argument("--batch", type=int, default=100, help="images attacked at once")
parser.add_argument("--attack", choices=["ours", "paper"], default="ours")
args = parser.parse_args()
torch.set_flush_denormal(True)  # a steep softplus makes numbers that are slow and mean nothing


def relevance(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Relevance maps of the gradient."""
    return explained_relevance(Saliency(model), images, labels)


def regions(n: int) -> Tensor:
    """A square at a random place for each image."""
    marked = torch.zeros(n, 28, 28, dtype=torch.bool)
    generator = torch.Generator().manual_seed(args.seed)
    for one in marked:
        row, column = torch.randint(0, 28 - SIDE + 1, (2,), generator=generator).tolist()
        one[row : row + SIDE, column : column + SIDE] = True
    return marked


def attack(kind: str, model: nn.Module, eps: float, marked: Tensor) -> ExplanationAttack:
    """The attack of a table; ``marked`` are the regions of the images that it is for."""
    options = {"eps": eps, "alpha": eps / 10, "steps": 100}
    if args.attack == "paper":
        options |= {"steps": 200, "beta": 10.0}
    if kind == "untargeted":
        return GhorbaniTopK(model, k=K, **options)
    return GhorbaniTarget(model, region=marked, **options)


def left(model: nn.Module, kind: str, eps: float, images: Tensor) -> tuple[float, float]:
    """Rank correlation and intersection after an attack, means over the images."""
    marked = regions(len(images)).to(args.device)
    correlations, intersections = [], []
    for x, region in zip(images.split(args.batch), marked.split(args.batch), strict=True):
        with torch.no_grad():
            labels = model(x).argmax(1)
        clean = relevance(model, x, labels)
        after = relevance(model, attack(kind, model, eps, region)(x, labels), labels)
        correlations.append(spearman_correlation(clean, after))
        intersections.append(top_k_intersection(clean, after, K))
    return torch.cat(correlations).mean().item(), torch.cat(intersections).mean().item()


def spread(values: list[float]) -> str:
    """Mean and standard deviation over the seeds."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


file = new_file(args.out, f"atex_tables-{'-'.join(args.data)}-{args.attack}.txt")
_, axes = plt.subplots(1, len(args.data), figsize=(5 * len(args.data), 3.5), squeeze=False)
for data, axis in zip(args.data, axes[0], strict=True):
    test_images, test_labels = DATA[data](args.data_root, False)
    images = test_images[: args.n_images].to(args.device)
    networks = {
        way: [defended(data, way, seed, args) for seed in range(args.seeds)] for way in args.ways
    }
    right = {
        way: [accuracy(model, test_images, test_labels) for model in models]
        for way, models in networks.items()
    }
    rows = [[way, *(f"{value:.4f}" for value in values)] for way, values in right.items()]
    width = max(map(len, rows))
    head = ["network", *(f"seed {i}" for i in range(width - 1))]
    rows = [head, *(row + [""] * (width - len(row)) for row in rows)]
    table(rows, f"{data}: accuracy on {len(test_labels)} test images", file)
    kept: dict[str, list[float]] = {way: [] for way in networks}
    for kind in args.kinds:
        rows = []
        for eps in args.radii:
            for way, models in networks.items():
                start = time.perf_counter()
                found = [left(model, kind, eps, images) for model in models]
                correlations, intersections = map(list, zip(*found, strict=True))
                paper = PAPER.get((data, kind, eps)) if way == "ATEX" else None
                rows.append(
                    [f"{eps:g}", way, spread(correlations), (paper or ("", ""))[0],
                     spread(intersections), (paper or ("", ""))[1]]
                )  # fmt: skip
                if kind == args.kinds[0]:
                    kept[way].append(statistics.mean(intersections))
                print(*rows[-1], f"({time.perf_counter() - start:.0f} s)", flush=True)
        head = ["eps", "network", "rank correlation", "paper", f"top-{K} intersection", "paper"]
        table([head, *rows], f"{data}, {kind}, {len(images)} images (paper: ATEX / softplus)", file)
    for way, values in kept.items():
        axis.plot(args.radii, values, "o-", label=way)
    axis.set(title=data, xlabel="eps", ylim=(0, 1))
    axis.legend()
axes[0][0].set_ylabel(f"top-{K} intersection, {args.kinds[0]} attack")
plt.savefig(args.out / f"atex_tables-{'-'.join(args.data)}-{args.attack}.png", dpi=120,
            bbox_inches="tight")  # fmt: skip

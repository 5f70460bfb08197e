"""
Manipulated explanations along beta
===================================

Figures 4 and 6 of Dombrowski et al. (2019): photographs that ``six_methods.py`` has manipulated are
explained with the rectifiers of the network smoothed by ever smaller beta. Where the explanation
comes back to that of the original photograph, explained in the same way, and leaves the target,
smoothing has undone the manipulation.

    python examples/reproduce/along_beta.py --data-root FOLDER [--methods gradient LRP]

The options are those of ``six_methods.py``; what it has not manipulated yet is manipulated first.
"""

from __future__ import annotations

import argparse
import statistics

import matplotlib.pyplot as plt
import torch
from _report import new_file, table
from _six_methods import (
    add_arguments,
    attacked_network,
    explainer_of_images,
    folder,
    manipulated,
    pairs,
)
from torch import Tensor

from captum_robust.metrics import pearson_correlation

parser = argparse.ArgumentParser(description="Manipulated explanations along beta.")
add_arguments(parser)
parser.add_argument(
    "--betas", type=float, nargs="+", default=[100.0, 30.0, 10.0, 5.0, 3.0, 2.0, 1.0]
)
args = parser.parse_args()
if args.smoothed is not None:
    parser.error("--smoothed: here the plain explanations are attacked, and then smoothed")


def show(axis: plt.Axes, relevance: Tensor) -> None:
    """A map, its highest hundredth saturated."""
    shown = relevance[0].cpu()
    axis.imshow(shown, cmap="viridis", vmin=0, vmax=shown.quantile(0.99))


torch.set_flush_denormal(True)
model = attacked_network(args)
file = new_file(folder(args), "along_beta.txt")
stages = [None, *args.betas]
names = ["plain", *(f"beta {beta:g}" for beta in args.betas)]
n_rows = -(-len(args.methods) // 3)  # three panels a row, so that labels stay readable
curves, curve_axes = plt.subplots(
    n_rows, 3, figsize=(11.5, 3.3 * n_rows), squeeze=False, layout="constrained"
)
for unused in curve_axes.flat[len(args.methods) :]:
    unused.set_axis_off()
for name, curve_axis in zip(args.methods, curve_axes.flat, strict=False):
    explanation = explainer_of_images(name, model, args)
    to_target: list[list[float]] = [[] for _ in stages]
    to_own: list[list[float]] = [[] for _ in stages]
    maps, map_axes = plt.subplots(
        2, 1 + len(stages), figsize=(1.7 * (1 + len(stages)), 3.8), layout="constrained"
    )
    for number, (image, other) in enumerate(pairs(args)):
        forged, _ = manipulated(name, number, explanation, image, other, args)
        with torch.no_grad():
            label, other_label = model(image).argmax(1), model(other).argmax(1)
        target = explanation.look(other, other_label)
        for stage, beta in enumerate(stages):
            seen = explanation if beta is None else explanation.smoothed(beta)
            before, after = seen.look(image, label), seen.look(forged, label)
            to_target[stage].append(pearson_correlation(after, target).item())
            to_own[stage].append(pearson_correlation(after, before).item())
            if number == 0:
                show(map_axes[0, 1 + stage], before)
                show(map_axes[1, 1 + stage], after)
        if number == 0:
            for axis, photograph in zip(map_axes[:, 0], (image, forged), strict=True):
                axis.imshow(photograph[0].permute(1, 2, 0).cpu())
    rows = [["", *names]]
    for title, values in (("target", to_target), ("original, explained the same way", to_own)):
        medians = [statistics.median(v) for v in values]
        rows.append([title, *(f"{m:.2f}" for m in medians)])
        (line,) = curve_axis.plot(medians, "o-", label=title)
        low, high = ([sorted(v)[k] for v in values] for k in (0, -1))
        curve_axis.fill_between(range(len(stages)), low, high, color=line.get_color(), alpha=0.2)
    table(rows, f"{name}: median correlation of the manipulated photograph's map, "
                f"{args.n_pairs} pairs", file)  # fmt: skip
    curve_axis.set_xticks(range(len(stages)), names, rotation=60)
    curve_axis.set(title=name, ylim=(-0.1, 1.05))
    for axis, title in zip(map_axes[0], ["photograph", *names], strict=True):
        axis.set_title(title)
    for axis in map_axes.flat:
        axis.set(xticks=[], yticks=[])
    map_axes[0, 0].set_ylabel("before")
    map_axes[1, 0].set_ylabel("manipulated")
    maps.savefig(folder(args) / f"along_beta-{name.replace(' ', '_')}.png", dpi=80)
    plt.close(maps)
curve_axes[0, 0].set_ylabel("correlation")
curve_axes[0, 0].legend()
curves.savefig(folder(args) / "along_beta.png", dpi=90)

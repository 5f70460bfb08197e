"""
Six explanations, manipulated
=============================

Figures 2, 3 and 5 of Dombrowski et al. (2019) on pairs of photographs: with each of six
explanations a manipulated copy of the first photograph gets the explanation of the second and keeps
its own prediction. Measured are how similar the maps are (correlation, structural similarity, mean
squared error), how similar the photographs are, and how far the output moves. With ``--smoothed``
the beta-smoothed explanations are attacked instead of the plain ones.

    pip install ".[demo]"
    python examples/reproduce/six_methods.py --data-root FOLDER [--n-pairs 4]

FOLDER holds photographs (``*.jpg``, ``*.png``), of ImageNet for the network to know them. The
patterns of PatternAttribution are learned from at most 1,000 of them, the pairs are drawn with a
fixed seed. Every manipulated photograph is written to ``--out`` as soon as it is done; a run that
was stopped goes on from there.

The network is EfficientNet-Lite0. Others of ImageNet are those of torchvision, with
``--network vgg16 --weights FILE`` and the like; ``--network cifar10``, with CIFAR-10 in FOLDER,
trains a small one.
"""

from __future__ import annotations

import argparse
import json
import statistics

import matplotlib.pyplot as plt
import torch
from _report import new_file, table
from _six_methods import (
    Explainer,
    add_arguments,
    attacked_network,
    explainer_of_images,
    folder,
    manipulated,
    pairs,
)
from torch import Tensor

from captum_robust.metrics import (
    mean_squared_error,
    pearson_correlation,
    structural_similarity,
)

BOXES = {
    "maps: correlation": "PCC", "maps: SSIM": "SSIM", "maps: MSE": "MSE",
    "photographs: correlation": "image PCC", "photographs: SSIM": "image SSIM",
    "photographs: MSE": "image MSE",
}  # fmt: skip

parser = argparse.ArgumentParser(description="Six explanations, manipulated.")
add_arguments(parser)
args = parser.parse_args()


def measure(explanation: Explainer, image: Tensor, other: Tensor, forged: Tensor) -> dict:
    """Everything that is asked of one pair, on the network as it is."""
    with torch.no_grad():
        before, after, of_other = (model(x).softmax(1) for x in (image, forged, other))
    label = before.argmax(1)
    target = explanation.look(other, of_other.argmax(1))
    first, last = (explanation.look(x, label) for x in (image, forged))
    return {
        "PCC before": pearson_correlation(first, target).item(),
        "PCC": pearson_correlation(last, target).item(),
        "SSIM": structural_similarity(last, target).item(),
        "MSE": mean_squared_error(last, target).item(),
        "PCC with its own": pearson_correlation(last, first).item(),
        "image PCC": pearson_correlation(forged, image).item(),
        "image SSIM": structural_similarity(forged, image, data_range=1.0).item(),
        "image MSE": mean_squared_error(forged, image).item(),
        "prob. change": (after - before).norm().item(),
        "label kept": bool(after.argmax(1) == label),
    }


# A steep softplus makes numbers so small that a processor takes its slow path: make them zero.
torch.set_flush_denormal(True)
model = attacked_network(args)
results: dict[str, list[dict]] = {}
for name in args.methods:
    explanation = explainer_of_images(name, model, args)
    if args.smoothed is not None:
        explanation = explanation.smoothed(args.smoothed)
    results[name] = []
    for number, (image, other) in enumerate(pairs(args)):
        forged, seconds = manipulated(name, number, explanation, image, other, args)
        found = measure(explanation, image, other, forged)
        results[name].append({**found, "seconds per step": seconds})
        print(name, number, json.dumps(results[name][-1]), flush=True)

keys = [key for key in results[args.methods[0]][0] if key != "label kept"]
rows = [["median", *keys, "label kept"]]
for name, found in results.items():
    medians = [f"{statistics.median(r[key] for r in found):.3g}" for key in keys]
    rows.append([name, *medians, f"{sum(r['label kept'] for r in found)} of {len(found)}"])
stem = "six_methods" if args.smoothed is None else f"six_methods-beta{args.smoothed:g}"
table(rows, f"{args.n_pairs} pairs", new_file(folder(args), f"{stem}.txt"))

figure, axes = plt.subplots(2, 3, figsize=(13, 6), sharex=True, layout="constrained")
for axis, (title, key) in zip(axes.flat, BOXES.items(), strict=True):
    axis.boxplot([[r[key] for r in found] for found in results.values()])
    axis.set_xticks(range(1, len(results) + 1), list(results), rotation=40, ha="right")
    axis.set(title=title, yscale="log" if "MSE" in title else "linear")
figure.savefig(folder(args) / f"{stem}.png", dpi=110)

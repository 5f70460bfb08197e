"""
Six explanations, manipulated
=============================

Figures 2, 3 and 5 of Dombrowski et al. (2019) on pairs of photographs: with each of six
explanations a manipulated copy of the first photograph gets the explanation of the second and keeps
its own prediction. Measured are how similar the maps are (correlation, structural similarity, mean
squared error), how similar the photographs are, and how far the output moves. With ``--smoothed``
the beta-smoothed explanations are attacked in place of the plain ones.

    pip install ".[demo]"
    python examples/reproduce/six_methods.py --data-root FOLDER [--n-pairs 4]

FOLDER holds photographs (``*.jpg``, ``*.png``), of ImageNet for the network to know them. The
patterns of PatternAttribution are learned from all of them, the pairs are drawn with a fixed seed.
Every manipulated photograph is written to ``--out`` as soon as it is done; a run that was stopped
goes on from there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _data import photographs
from _networks import efficientnet
from _report import new_file, table
from captum.attr import Attribution, InputXGradient, IntegratedGradients, Saliency
from torch import Tensor, nn

from captum_robust.attacks import Dombrowski
from captum_robust.attr import (
    BetaSmoothing,
    GuidedBackprop,
    PatternAttribution,
    Patterns,
    RelevancePropagation,
    learn_patterns,
)
from captum_robust.metrics import (
    mean_squared_error,
    pearson_correlation,
    relevance_map,
    structural_similarity,
)

METHODS: dict[str, Callable[[nn.Module], Attribution]] = {
    "gradient": Saliency,
    "gradient x input": InputXGradient,
    "integrated gradients": IntegratedGradients,
    "guided backprop": GuidedBackprop,
    "LRP": RelevancePropagation,
    "pattern attribution": lambda model: PatternAttribution(model, patterns()),
}

parser = argparse.ArgumentParser(description="Six explanations, manipulated.")
parser.add_argument("--data-root", type=Path, required=True, help="folder of photographs")
parser.add_argument("--n-pairs", type=int, default=4)
parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--smoothed", type=float, help="attack the explanation smoothed by this beta")
parser.add_argument("--n-steps", type=int, default=10, help="of integrated gradients")
parser.add_argument("--seed", type=int, default=0, help="draws the pairs; the attack draws nothing")
parser.add_argument("--device", default="cpu")
parser.add_argument("--out", type=Path, default=Path("reproductions/six_methods"))
args = parser.parse_args()


def patterns() -> Patterns:
    """Those of the network, learned once and kept."""
    path = args.out / "patterns.npz"
    if not path.exists():
        everything = photographs(args.data_root, 10**9, args.seed)
        learn_patterns(model, everything.split(4), show_progress=True).save(path)
    return Patterns.load(path)


def look(explanation: Attribution, image: Tensor, label: Tensor, options: dict) -> Tensor:
    """The relevance map, (1, 224, 224)."""
    ready = image.clone().requires_grad_()
    return relevance_map(explanation.attribute(ready, target=label, **options).detach())


def measure(
    explanation: Attribution, image: Tensor, other: Tensor, manipulated: Tensor, options: dict
) -> dict:
    """Everything that is asked of one pair, on the network as it is."""
    with torch.no_grad():
        before, after, of_other = (model(x).softmax(1) for x in (image, manipulated, other))
    label = before.argmax(1)
    target = look(explanation, other, of_other.argmax(1), options)
    first, last = (look(explanation, x, label, options) for x in (image, manipulated))
    return {
        "PCC before": pearson_correlation(first, target).item(),
        "PCC": pearson_correlation(last, target).item(),
        "SSIM": structural_similarity(last, target).item(),
        "MSE": mean_squared_error(last, target).item(),
        "PCC with its own": pearson_correlation(last, first).item(),
        "image PCC": pearson_correlation(manipulated, image).item(),
        "image SSIM": structural_similarity(manipulated, image, data_range=1.0).item(),
        "image MSE": mean_squared_error(manipulated, image).item(),
        "prob. change": (after - before).norm().item(),
        "label kept": bool(after.argmax(1) == label),
    }


def attack(name: str, number: int, image: Tensor, other: Tensor) -> dict:
    """One pair and method, from its file where there is one."""
    explanation = METHODS[name](model)
    if args.smoothed is not None:
        explanation = BetaSmoothing(explanation, args.smoothed)
    options = {"n_steps": args.n_steps} if name == "integrated gradients" else {}
    suffix = "" if args.smoothed is None else f"-beta{args.smoothed:g}"
    path = args.out / f"{name.replace(' ', '_')}-{number}-{args.steps}{suffix}"
    image_file, time_file = path.with_suffix(".npy"), path.with_suffix(".json")
    if not time_file.exists():
        with torch.no_grad():
            other_label = model(other).argmax(1)
        target = look(explanation, other, other_label, options)
        run = Dombrowski(
            model, explanation, steps=args.steps, explanation_kwargs=options, show_progress=True
        )
        start = time.perf_counter()
        manipulated = run(image, None, target)
        seconds = time.perf_counter() - start
        np.save(image_file, manipulated.cpu().numpy())
        time_file.write_text(json.dumps({"seconds per step": seconds / args.steps}))
    manipulated = torch.from_numpy(np.load(image_file)).to(image)
    return measure(explanation, image, other, manipulated, options) | json.loads(
        time_file.read_text()
    )


# A steep softplus makes numbers so small that a processor takes its slow path: make them zero.
torch.set_flush_denormal(True)
model = efficientnet(args).requires_grad_(False)
args.out.mkdir(parents=True, exist_ok=True)
pairs = photographs(args.data_root, 2 * args.n_pairs, args.seed).to(args.device)
rows: list[list[str]] = []
for name in args.methods:
    results = []
    for number in range(args.n_pairs):
        image, other = (pairs[2 * number + k].unsqueeze(0) for k in (0, 1))
        results.append(attack(name, number, image, other))
        print(name, number, json.dumps(results[-1]), flush=True)
    if not rows:
        rows.append(["median", *[key for key in results[0] if key != "label kept"], "label kept"])
    medians = [statistics.median(r[key] for r in results) for key in rows[0][1:-1]]
    kept = sum(r["label kept"] for r in results)
    rows.append([name, *[f"{m:.3g}" for m in medians], f"{kept} of {len(results)}"])
table(rows, f"{args.n_pairs} pairs, {args.steps} steps", new_file(args.out, "six_methods.txt"))

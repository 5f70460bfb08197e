"""
Target maps on ImageNet
=======================

The attack of Dombrowski et al. (2019) on pairs of photographs: a manipulated copy of the first gets
the explanation of the second and keeps its own prediction. Then the manipulated photograph is
explained again with smoothed explanations, which were not attacked.

    pip install ".[demo]"
    python examples/reproduce/target_map_pairs.py --data-root FOLDER [--n-pairs 10]

FOLDER holds photographs (``*.jpg``, ``*.png``), of ImageNet for the network to know them. The pairs
are drawn from all of them with a fixed seed. Every manipulated photograph is written to ``--out``
as soon as it is done; a run that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from _data import photograph, photograph_paths
from _networks import efficientnet
from _report import table
from captum.attr import Attribution, Saliency
from torch import Tensor

from captum_robust.attacks import Dombrowski
from captum_robust.attr import BetaSmoothing, KernelSmoothing
from captum_robust.metrics import explained_relevance, pearson_correlation

parser = argparse.ArgumentParser(description="Target maps on pairs of ImageNet photographs.")
parser.add_argument("--data-root", type=Path, required=True, help="folder of photographs")
parser.add_argument("--n-pairs", type=int, default=10)
parser.add_argument("--steps", type=int, default=250)
parser.add_argument("--seed", type=int, default=0, help="draws the pairs; the attack draws nothing")
parser.add_argument("--betas", type=float, nargs="+", default=[1.0, 2.0, 3.0, 5.0, 10.0])
parser.add_argument("--device", default="cpu")
parser.add_argument("--out", type=Path, default=Path("target_map_pairs"), help="results go here")
args = parser.parse_args()


def look(explanation: Attribution, image: Tensor, label: Tensor) -> Tensor:
    """The relevance map, (1, 224, 224)."""
    options: dict = {}
    if isinstance(explanation, KernelSmoothing):
        seeded = torch.Generator(args.device).manual_seed(args.seed)
        options = {"radius": 0.1, "n_samples": 32, "internal_batch_size": 4, "generator": seeded}
    return explained_relevance(explanation, image, label, **options)


def likeness(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of two maps."""
    return pearson_correlation(a, b).item()


def measure(image: Tensor, other: Tensor, manipulated: Tensor) -> dict:
    """Everything that is asked of one pair, on the network as it is."""
    with torch.no_grad():
        before, after, of_other = (model(x).softmax(1) for x in (image, manipulated, other))
    label, other_label = before.argmax(1), of_other.argmax(1)
    target = look(gradient, other, other_label)
    result = {
        "before": likeness(look(gradient, image, label), target),
        "after": likeness(look(gradient, manipulated, label), target),
        "8 bit": likeness(look(gradient, (manipulated * 255).round() / 255, label), target),
        "mse": (manipulated - image).square().mean().item(),
        "largest": (manipulated - image).abs().max().item(),
        "prob. change": (after - before).norm().item(),
        "label kept": bool(after.argmax(1) == label),
    }
    for name, defence in defences.items():
        seen = look(defence, manipulated, label)
        result[name] = {
            "original": likeness(seen, look(defence, image, label)),
            "target": likeness(seen, target),
            "smoothed target": likeness(seen, look(defence, other, other_label)),
        }
    return result


def report(results: list[dict]) -> None:
    """A table of the attack, and one of the defences."""
    names = list(results[0])[1:7]
    rows = [["pair", *names, "label"]]
    for result in results:
        label = "kept" if result["label kept"] else "LOST"
        rows.append([result["pair"], *[f"{result[name]:.2g}" for name in names], label])
    medians = [statistics.median(result[name] for result in results) for name in names]
    kept = sum(result["label kept"] for result in results)
    table([*rows, ["median", *[f"{m:.3g}" for m in medians], f"{kept} of {len(results)}"]])
    rows = [["explanation", "original", "target", "smoothed target", "nearest to the original"]]
    for name in defences:
        seen = [result[name] for result in results]
        nearest = sum(s["original"] > max(s["target"], s["smoothed target"]) for s in seen)
        medians = [statistics.median(s[to] for s in seen) for to in rows[0][1:4]]
        rows.append([name, *[f"{m:.2f}" for m in medians], f"{nearest} of {len(results)}"])
    table(rows)


# A steep softplus makes numbers so small that a processor takes its slow path: make them zero.
torch.set_flush_denormal(True)
model = efficientnet(args)
gradient = Saliency(model)
defences = {f"beta = {beta:g}": BetaSmoothing(gradient, beta) for beta in args.betas}
defences = {"gradient": gradient, **defences, "SmoothGrad": KernelSmoothing(gradient)}
attack = Dombrowski(model, steps=args.steps, show_progress=True)

paths = photograph_paths(args.data_root, 2 * args.n_pairs, args.seed)
args.out.mkdir(parents=True, exist_ok=True)
results = []
for pair in zip(paths[::2], paths[1::2], strict=True):
    checkpoint = args.out / f"{pair[0].stem}-as-{pair[1].stem}-{args.steps}.npy"
    # Of names such as 273_n02115641_dingo.jpg the words are enough.
    name = " as ".join(path.stem.split("_", 2)[-1].replace("_", " ") for path in pair)
    image, other = (photograph(path).unsqueeze(0).to(args.device) for path in pair)
    start = time.perf_counter()
    if not checkpoint.exists():
        with torch.no_grad():
            other_label = model(other).argmax(1)
        manipulated = attack(image, None, look(gradient, other, other_label))
        np.save(checkpoint, manipulated.cpu().numpy())
    manipulated = torch.from_numpy(np.load(checkpoint)).to(args.device)
    results.append({"pair": name, **measure(image, other, manipulated)})
    (args.out / "results.json").write_text(json.dumps(results, indent=1))
    print(name, f"{time.perf_counter() - start:.0f} s", flush=True)
report(results)

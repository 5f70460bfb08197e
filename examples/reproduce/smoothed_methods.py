"""
Six explanations, plain and smoothed, attacked directly
=======================================================

Figure 5 of Dombrowski et al. (2019): how much of an explanation survives an attack that knows it,
for six explanations and their beta-smoothed forms, and what these cost beside SmoothGrad. On the
network of the zoo, by the attack on the most relevant pixels.

    python examples/reproduce/smoothed_methods.py [--n-images 100] [--attack-smoothgrad]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from _report import new_file, table
from _six_methods import METHODS, explainer
from captum.attr import Attribution
from torch import Tensor

from captum_robust.attacks import GhorbaniTopK
from captum_robust.attr import BetaSmoothing, KernelSmoothing, learn_patterns
from captum_robust.metrics import pearson_correlation, relevance_map, top_k_intersection
from captum_robust.zoo import fashion_mnist_cnn, fashion_mnist_sample

Options = Callable[[], dict[str, Any]]
"""The options of an explanation, made anew for each call: a generator is used up by one."""

K = 50

parser = argparse.ArgumentParser(description="Plain and smoothed explanations, attacked directly.")
parser.add_argument("--n-images", type=int, default=100)
parser.add_argument("--eps", type=float, default=0.02)
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--beta", type=float, default=1.0)
parser.add_argument("--radius", type=float, default=0.1, help="of SmoothGrad's Gaussian noise")
parser.add_argument("--n-samples", type=int, default=50, help="of SmoothGrad")
parser.add_argument("--attack-smoothgrad", action="store_true", help="takes 50 times as long")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--device", default="cpu")
parser.add_argument("--out", type=Path, default=Path("reproductions"), help="table and figure")
args = parser.parse_args()


def explain(explanation: Attribution, x: Tensor, options: Options) -> Tensor:
    """Relevance maps of the predicted classes."""
    ready = x.clone().requires_grad_()
    return relevance_map(explanation.attribute(ready, target=labels, **options()).detach())


def survives(explanation: Attribution, options: Options) -> tuple[Tensor, Tensor]:
    """Per image, what the attack leaves of the top pixels, and the correlation of the maps."""
    attack = GhorbaniTopK(
        model, explanation, args.eps, args.eps / 10, args.steps, k=K, explanation_kwargs=options()
    )
    before, after = (explain(explanation, x, options) for x in (images, attack(images, labels)))
    return top_k_intersection(before, after, K), pearson_correlation(before, after)


def seconds(explanation: Attribution, options: Options) -> float:
    """Of one explanation of all images: the median of five, after a first one."""
    times = []
    for _ in range(6):
        start = time.perf_counter()
        explain(explanation, images, options)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


torch.set_flush_denormal(True)
model = fashion_mnist_cnn().to(args.device).requires_grad_(False)
everything = fashion_mnist_sample()[0].to(args.device)
images, rest = everything[: args.n_images], everything[args.n_images :]
labels = model(images).argmax(1)
heads = ["explanation", f"top-{K}", "smoothed", "PCC", "smoothed", "ms", "ms SmoothGrad", "ratio"]
if args.attack_smoothgrad:
    heads += [f"top-{K}, SmoothGrad", "PCC, SmoothGrad"]
rows = [heads]
figure, axes = plt.subplots(1, len(METHODS), figsize=(15, 3), sharex=True, sharey=True)
for axis, name in zip(axes, METHODS, strict=True):
    explanation, fixed = explainer(name, model, lambda: learn_patterns(model, [rest]))

    def plain(fixed: dict[str, Any] = fixed) -> dict[str, Any]:
        return dict(fixed)

    def drawn(fixed: dict[str, Any] = fixed) -> dict[str, Any]:
        noise = torch.Generator(args.device).manual_seed(args.seed)
        return {**fixed, "radius": args.radius, "n_samples": args.n_samples, "generator": noise}

    smooth, noisy = BetaSmoothing(explanation, args.beta), KernelSmoothing(explanation)
    (shared, alike), (shared_smooth, alike_smooth) = (
        survives(e, plain) for e in (explanation, smooth)
    )
    times = [1000 * seconds(smooth, plain), 1000 * seconds(noisy, drawn)]
    kept = [v.median().item() for v in (shared, shared_smooth, alike, alike_smooth)]
    numbers = [*kept, *times, times[0] / times[1]]
    if args.attack_smoothgrad:
        numbers += [v.median().item() for v in survives(noisy, drawn)]
    rows.append([name, *[f"{number:.3g}" for number in numbers]])
    print(rows[-1], flush=True)
    axis.plot([-0.2, 1], [-0.2, 1], color="gray")
    axis.plot(alike.cpu(), alike_smooth.cpu(), ".")
    axis.set(title=name, xlabel="correlation, plain")
axes[0].set_ylabel("correlation, smoothed")
figure.tight_layout()
args.out.mkdir(parents=True, exist_ok=True)
figure.savefig(args.out / "smoothed_methods.png", dpi=90)
table(rows, f"{args.n_images} images", new_file(args.out, "smoothed_methods.txt"))

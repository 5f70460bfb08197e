"""
Six explanations, plain and smoothed, attacked directly
=======================================================

Figure 5 of Dombrowski et al. (2019): how much of an explanation survives an attack that knows it,
for six explanations and their beta-smoothed forms, and what these cost beside SmoothGrad. On the
network of the zoo, by the attack on the most relevant pixels. The maps of the images as they were
are also compared with those of the plain explanation: smoothed too much, little is left of them.

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
from captum_robust.metrics import explained_relevance, pearson_correlation, top_k_intersection
from captum_robust.zoo import fashion_mnist_cnn, fashion_mnist_sample

Options = Callable[[], dict[str, Any]]
"""The options of an explanation, made anew for each call: a generator is used up by one."""

K = 50

parser = argparse.ArgumentParser(description="Plain and smoothed explanations, attacked directly.")
parser.add_argument("--n-images", type=int, default=100)
parser.add_argument("--eps", type=float, default=0.02)
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
parser.add_argument("--betas", type=float, nargs="+", default=[1.0, 3.0, 10.0, 30.0])
parser.add_argument("--radius", type=float, default=0.1, help="of SmoothGrad's Gaussian noise")
parser.add_argument("--n-samples", type=int, default=50, help="of SmoothGrad")
parser.add_argument("--attack-smoothgrad", action="store_true", help="takes 50 times as long")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--device", default="cpu")
parser.add_argument("--out", type=Path, default=Path("reproductions"), help="table and figure")
args = parser.parse_args()


def explain(explanation: Attribution, x: Tensor, options: Options) -> Tensor:
    """Relevance maps of the predicted classes."""
    return explained_relevance(explanation, x, labels, **options())


def attacked(explanation: Attribution, options: Options) -> Tensor:
    """Relevance maps of the images whose explanation was attacked directly."""
    attack = GhorbaniTopK(
        model, explanation, args.eps, args.eps / 10, args.steps, k=K, explanation_kwargs=options()
    )
    return explain(explanation, attack(images, labels), options)


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
heads = ["explanation", f"top-{K}", "PCC", "PCC with plain", "ms", "of SmoothGrad"]
rows = [heads]
figure, axes = plt.subplots(
    1,
    len(args.methods),
    figsize=(2.5 * len(args.methods), 3),
    sharex=True,
    sharey=True,
    squeeze=False,
)
for axis, name in zip(axes[0], args.methods, strict=True):
    explanation, fixed = explainer(name, model, lambda: learn_patterns(model, [rest]))

    def plain(fixed: dict[str, Any] = fixed) -> dict[str, Any]:
        return dict(fixed)

    def drawn(fixed: dict[str, Any] = fixed) -> dict[str, Any]:
        noise = torch.Generator(args.device).manual_seed(args.seed)
        return {**fixed, "radius": args.radius, "n_samples": args.n_samples, "generator": noise}

    noisy = KernelSmoothing(explanation)
    forms: list[tuple[str, Attribution, Options]] = [(name, explanation, plain)]
    forms += [
        (f"{name}, beta {beta:g}", BetaSmoothing(explanation, beta), plain) for beta in args.betas
    ]
    if args.attack_smoothgrad:
        forms.append((f"{name}, SmoothGrad", noisy, drawn))
    own = explain(explanation, images, plain)
    of_smoothgrad = seconds(noisy, drawn)
    survived: list[Tensor] = []
    for title, form, options in forms:
        before, after = explain(form, images, options), attacked(form, options)
        survived.append(pearson_correlation(before, after))
        medians = [
            values.median().item()
            for values in (
                top_k_intersection(before, after, K),
                survived[-1],
                pearson_correlation(before, own),
            )
        ]
        time_taken = seconds(form, options)
        numbers = [*medians, 1000 * time_taken, time_taken / of_smoothgrad]
        rows.append([title, *[f"{number:.3g}" for number in numbers]])
        print(rows[-1], flush=True)
    axis.plot([-0.2, 1], [-0.2, 1], color="gray")
    for (title, _, _), values in zip(forms[1:], survived[1:], strict=True):
        axis.plot(survived[0].cpu(), values.cpu(), ".", ms=3, label=title.rpartition(", ")[2])
    axis.set(title=name, xlabel="correlation, plain")
axes[0, 0].set_ylabel("correlation, smoothed")
axes[0, -1].legend()
figure.tight_layout()
args.out.mkdir(parents=True, exist_ok=True)
figure.savefig(args.out / "smoothed_methods.png", dpi=90)
table(rows, f"{args.n_images} images", new_file(args.out, "smoothed_methods.txt"))

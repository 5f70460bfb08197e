"""What each explanation costs and how its scores read: the numbers of the page "Which do I take?".

Costs are processor time, in gradients of the same images. Scores are means over the images, of the
network of the zoo, for the gradient: of two unrelated images, under random noise and under attack.

    OMP_NUM_THREADS=1 python benchmarks/bench_choices.py [--n-images 64] [--rounds 3] [--steps 100]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from captum.attr import InputXGradient, IntegratedGradients, Saliency
from torch import Tensor

from captum_robust import attacks, attr, metrics, zoo

parser = argparse.ArgumentParser()
parser.add_argument("--n-images", type=int, default=64)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--steps", type=int, default=100)
args = parser.parse_args()

model = zoo.fashion_mnist_cnn().requires_grad_(False)
images = zoo.fashion_mnist_sample(args.n_images)[0].requires_grad_()
labels = model(images).argmax(1)
gradient = Saliency(model)
patterns = attr.learn_patterns(model, [zoo.fashion_mnist_sample()[0]])


def seconds(run: Callable[[], object]) -> float:
    """Processor time of one run."""
    start = time.process_time()
    run()
    return time.process_time() - start


explanations = {
    "gradient": (gradient, {}),
    "gradient x input": (InputXGradient(model), {}),
    "integrated gradients": (IntegratedGradients(model), {}),
    "GuidedBackprop": (attr.GuidedBackprop(model), {}),
    "RelevancePropagation": (attr.RelevancePropagation(model), {}),
    "PatternAttribution": (attr.PatternAttribution(model, patterns), {}),
    "BetaSmoothing": (attr.BetaSmoothing(gradient), {}),
    "KernelSmoothing, 50": (attr.KernelSmoothing(gradient), {}),
    "SparsifiedSmoothing, 1000": (attr.SparsifiedSmoothing(gradient), {"n_samples": 1000}),
    "NoisyBaseline, 50": (attr.NoisyBaseline(model), {"n_samples": 50}),
    "Square": (attr.Square(model), {}),
}
print(f"{'explanation':27} cost, in gradients")
times: dict[str, list[float]] = {name: [] for name in explanations}
for i in range(args.rounds + 1):
    for name, (explanation, options) in explanations.items():
        repeats = 1 if name[-1].isdigit() or name in ("integrated gradients", "Square") else 10
        batch = images[:4] if name in ("Square", "SparsifiedSmoothing, 1000") else images
        target, run = labels[: len(batch)], explanation.attribute
        spent = sum(seconds(lambda: run(batch, target=target, **options)) for _ in range(repeats))  # noqa: B023
        if i:
            times[name].append(spent / repeats / len(batch))
for name, values in times.items():
    print(f"{name:27} {statistics.median(values) / statistics.median(times['gradient']):.3g}")


def look(batch: Tensor, classes: Tensor) -> Tensor:
    """Relevance maps of the gradient."""
    batch = batch.detach().clone().requires_grad_()
    return metrics.relevance_map(gradient.attribute(batch, target=classes))


clean, draw = look(images, labels), torch.Generator().manual_seed(0)
ids = range(len(labels))
others = [next(j for j in range(1, len(ids)) if labels[i - j] != labels[i]) for i in ids]
away = torch.tensor([i - j for i, j in enumerate(others)])
pairs = {"maps of two classes": clean[away]}
for eps in (0.02, 0.04, 0.08):
    noisy = attacks.RandomSign(model, eps=eps, generator=draw)(images, labels)
    pairs[f"noise, eps {eps}"] = look(noisy, labels)
    attack = attacks.GhorbaniTopK(model, eps=eps, alpha=eps / 10, steps=args.steps, k=50)
    pairs[f"GhorbaniTopK, eps {eps}"] = look(attack(images, labels), labels)
print(f"\n{'':24} top-50  Spearman  Pearson  SSIM")
for name, maps in pairs.items():
    scores = (
        metrics.top_k_intersection(clean, maps, k=50),
        metrics.spearman_correlation(clean, maps),
        metrics.pearson_correlation(clean, maps),
        metrics.structural_similarity(clean, maps),
    )
    print(f"{name:24}", *(f"{score.mean():7.2f}" for score in scores))

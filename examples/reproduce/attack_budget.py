"""
What a budget buys an attack
============================

How much of the 50 most relevant pixels is left against the number of gradients that an attack may
compute: the ensemble without settings (``AutoExplanationAttack``), one loss with one schedule
(``GhorbaniTopK``, with one start, two and five), and the best of as many random draws
(``RandomSign``). The network and the images are the zoo's, the explanation is the gradient.

    python examples/reproduce/attack_budget.py [--n-images 200 --budgets 100 300 1000]

With the defaults it takes some minutes on two cores. Each finished attack is written to
``attack_budget.json`` at once, and a second call goes on from there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from _report import table
from captum.attr import Saliency
from torch import Tensor
from tqdm import tqdm

from captum_robust.attacks import (
    AutoExplanationAttack,
    ExplanationAttack,
    GhorbaniTopK,
    RandomSign,
    TopKIntersection,
)
from captum_robust.metrics import explained_relevance, top_k_intersection
from captum_robust.zoo import fashion_mnist_cnn, fashion_mnist_sample

parser = argparse.ArgumentParser(description="The strength of attacks along their budget.")
parser.add_argument("--n-images", type=int, default=16, help="1 to 512")
parser.add_argument("--budgets", type=int, nargs="*", default=[30, 100])
parser.add_argument("--radii", type=float, nargs="*", default=[0.02, 0.04, 0.08])
parser.add_argument("--k", type=int, default=50, help="number of most relevant pixels")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--folder", type=Path, default=Path("results"))
args = parser.parse_args()

torch.set_flush_denormal(True)  # a steep softplus makes numbers that are slow and mean nothing
model = fashion_mnist_cnn()
images, _ = fashion_mnist_sample(args.n_images)
with torch.no_grad():
    labels = model(images).argmax(1)
measure = TopKIntersection(args.k)


def relevance(batch: Tensor) -> Tensor:
    return explained_relevance(Saliency(model), batch, labels)


def ghorbani(starts: int) -> Callable[[float, int], ExplanationAttack]:
    def make(eps: float, budget: int) -> ExplanationAttack:
        return GhorbaniTopK(
            model, eps=eps, alpha=eps / 10, steps=max(1, budget // starts), restarts=starts,
            k=args.k, generator=torch.Generator().manual_seed(args.seed),
        )  # fmt: skip

    return make


def ensemble(eps: float, budget: int) -> ExplanationAttack:
    generator = torch.Generator().manual_seed(args.seed)
    return AutoExplanationAttack(
        model, eps=eps, measure=measure, budget=budget, generator=generator
    )


def chance(eps: float, budget: int) -> ExplanationAttack:
    generator = torch.Generator().manual_seed(args.seed)
    return RandomSign(
        model,
        eps=eps,
        steps=budget,
        generator=generator,
        objective=lambda clean: lambda seen: measure(clean.relevance, seen.relevance),
    )


WAYS = {
    "ensemble": ensemble,
    "one start": ghorbani(1),
    "two starts": ghorbani(2),
    "five starts": ghorbani(5),
    "best of random draws": chance,
}


def left(attack: ExplanationAttack) -> list[float]:
    """Share of the top k that is left, for each image."""
    manipulated = attack(images, labels)
    return top_k_intersection(relevance(images), relevance(manipulated), args.k).tolist()


args.folder.mkdir(parents=True, exist_ok=True)
path = args.folder / "attack_budget.json"
done: dict[str, list[float]] = json.loads(path.read_text()) if path.is_file() else {}
todo = [(eps, budget, name) for eps in args.radii for budget in args.budgets for name in WAYS]
for eps, budget, name in tqdm(todo, desc="attacks"):
    key = f"{args.n_images} images, k {args.k}, seed {args.seed}, {eps}, {budget}, {name}"
    if key not in done:
        done[key] = left(WAYS[name](eps, budget))
        path.write_text(json.dumps(done))

for eps in args.radii:
    rows = [["gradients an image", *WAYS]]
    for budget in args.budgets:
        row = [str(budget)]
        for name in WAYS:
            key = f"{args.n_images} images, k {args.k}, seed {args.seed}, {eps}, {budget}, {name}"
            values = torch.tensor(done[key])
            row.append(f"{values.mean():.3f} ± {values.std() / len(values) ** 0.5:.3f}")
        rows.append(row)
    table(rows, f"Share of the top {args.k} that is left, eps {eps}, {args.n_images} images")

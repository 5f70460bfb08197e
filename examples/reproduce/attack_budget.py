"""
What a budget buys an attack
============================

How much of the 50 most relevant pixels is left against the number of gradients that an attack may
compute: the ensemble without settings (``AutoExplanationAttack``), one loss with one schedule
(``GhorbaniTopK``, with one start, two and five), and the best of as many random draws
(``RandomSign``). The networks and the images are the zoo's, the explanation is the gradient unless
``--explanations`` says otherwise. The curves are drawn to ``attack_budget.png``.

    python examples/reproduce/attack_budget.py [--n-images 200 --budgets 100 300 1000]

With the defaults it takes some minutes on two cores. Each finished attack is written to
``attack_budget.json`` at once, and a second call goes on from there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
from _data import fashion_mnist
from _report import table
from captum.attr import Attribution, IntegratedGradients, Saliency
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from captum_robust.attacks import (
    AutoExplanationAttack,
    ExplanationAttack,
    GhorbaniTopK,
    RandomSign,
    TopKIntersection,
)
from captum_robust.attr import (
    BetaSmoothedGradient,
    GuidedBackprop,
    KernelSmoothing,
    RelevancePropagation,
)
from captum_robust.metrics import explained_relevance, top_k_intersection
from captum_robust.zoo import fashion_mnist_cnn, fashion_mnist_cnn_atex, fashion_mnist_sample

NETWORKS = {"plain": fashion_mnist_cnn, "ATEX": fashion_mnist_cnn_atex}
EXPLANATIONS: dict[str, tuple[Callable[[nn.Module], Attribution], dict]] = {
    "gradient": (Saliency, {}),
    "beta-smoothed": (lambda m: BetaSmoothedGradient(m, 1.0), {}),
    "kernel-smoothed": (lambda m: KernelSmoothing(Saliency(m)), {"n_samples": 8}),
    "IG": (IntegratedGradients, {"n_steps": 8}),
    "LRP": (RelevancePropagation, {}),
    "GBP": (GuidedBackprop, {}),
}
WAY_NAMES = ["ensemble", "one start", "two starts", "five starts", "best of random draws"]

parser = argparse.ArgumentParser(description="The strength of attacks along their budget.")
parser.add_argument("--n-images", type=int, default=16, help="1 to 512, or more from --data-root")
parser.add_argument("--data-root", type=Path, help="holds Fashion-MNIST, for torchvision")
parser.add_argument("--budgets", type=int, nargs="*", default=[30, 100])
parser.add_argument("--network", choices=NETWORKS, default="plain")
parser.add_argument("--explanations", nargs="+", choices=EXPLANATIONS, default=["gradient"])
parser.add_argument("--ways", nargs="+", choices=WAY_NAMES, default=WAY_NAMES)
parser.add_argument("--radii", type=float, nargs="*", default=[0.02, 0.04, 0.08])
parser.add_argument("--k", type=int, default=50, help="number of most relevant pixels")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--folder", type=Path, default=Path("results"))
args = parser.parse_args()

torch.set_flush_denormal(True)  # a steep softplus makes numbers that are slow and mean nothing
model = NETWORKS[args.network]()
images = (
    fashion_mnist_sample(args.n_images)[0]
    if args.data_root is None
    else fashion_mnist(args.data_root, train=False)[0][: args.n_images]
)
with torch.no_grad():
    labels = model(images).argmax(1)
measure = TopKIntersection(args.k)


def options(name: str) -> tuple[Attribution, dict]:
    """An explanation of the network and its arguments, with fresh draws from the same seed."""
    method, arguments = EXPLANATIONS[name]
    if name == "kernel-smoothed":
        arguments = {**arguments, "generator": torch.Generator().manual_seed(args.seed)}
    return method(model), arguments


def relevance(name: str, batch: Tensor) -> Tensor:
    explanation, arguments = options(name)
    return explained_relevance(explanation, batch, labels, **arguments)


Make = Callable[[str, float, int], ExplanationAttack]


def settings(name: str, eps: float) -> dict:
    """What all attacks take."""
    explanation, arguments = options(name)
    return {
        "model": model, "explanation": explanation, "explanation_kwargs": arguments, "eps": eps,
        "generator": torch.Generator().manual_seed(args.seed),
    }  # fmt: skip


def ghorbani(starts: int) -> Make:
    def make(name: str, eps: float, budget: int) -> ExplanationAttack:
        return GhorbaniTopK(
            **settings(name, eps), alpha=eps / 10, steps=max(1, budget // starts), restarts=starts,
            k=args.k,
        )  # fmt: skip

    return make


def ensemble(name: str, eps: float, budget: int) -> ExplanationAttack:
    return AutoExplanationAttack(**settings(name, eps), measure=measure, budget=budget)


def chance(name: str, eps: float, budget: int) -> ExplanationAttack:
    return RandomSign(
        **settings(name, eps), steps=budget,
        objective=lambda clean: lambda seen: measure(clean.relevance, seen.relevance),
    )  # fmt: skip


WAYS: dict[str, Make] = dict(
    zip(WAY_NAMES, [ensemble, ghorbani(1), ghorbani(2), ghorbani(5), chance], strict=True)
)


def left(attack: ExplanationAttack, name: str) -> list[float]:
    """Share of the top k that is left, for each image."""
    manipulated = attack(images, labels)
    return top_k_intersection(
        relevance(name, images), relevance(name, manipulated), args.k
    ).tolist()


def key(name: str, eps: float, budget: int, way: str) -> str:
    run = f"{args.network}, {name}, {args.n_images} images, k {args.k}, seed {args.seed}"
    return f"{run}, {eps}, {budget}, {way}"


args.folder.mkdir(parents=True, exist_ok=True)
path = args.folder / "attack_budget.json"
done: dict[str, list[float]] = json.loads(path.read_text()) if path.is_file() else {}
todo = list(product(args.explanations, args.radii, args.budgets, args.ways))
for name, eps, budget, way in tqdm(todo, desc="attacks"):
    if key(name, eps, budget, way) not in done:
        done[key(name, eps, budget, way)] = left(WAYS[way](name, eps, budget), name)
        path.write_text(json.dumps(done))

for name, eps in product(args.explanations, args.radii):
    rows = [["gradients an image", *args.ways]]
    for budget in args.budgets:
        row = [str(budget)]
        for way in args.ways:
            values = torch.tensor(done[key(name, eps, budget, way)])
            row.append(f"{values.mean():.3f} ± {values.std() / len(values) ** 0.5:.3f}")
        rows.append(row)
    table(
        rows,
        f"Share of the top {args.k} that is left: {args.network}, {name}, eps {eps}, "
        f"{args.n_images} images",
    )

figure = Figure(figsize=(3.2 * len(args.radii), 3.2), layout="constrained")
for axis, eps in zip(
    figure.subplots(1, len(args.radii), squeeze=False)[0], args.radii, strict=True
):
    for way in args.ways:
        means = [
            torch.tensor(done[key(args.explanations[0], eps, budget, way)]).mean()
            for budget in args.budgets
        ]
        axis.plot(args.budgets, means, "o-", label=way)
    axis.set(title=f"eps {eps}", xlabel="gradients an image", xscale="log", ylim=0)
    axis.set_xticks(args.budgets, map(str, args.budgets), minor=False)
    axis.minorticks_off()
figure.axes[0].set_ylabel(f"share of the top {args.k} that is left")
figure.axes[-1].legend(fontsize="small")
figure.savefig(args.folder / "attack_budget.png", dpi=150)

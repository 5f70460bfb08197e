"""
How strong the attack is on a transformer
=========================================

GhorbaniTopK on a small vision transformer for Fashion-MNIST: how many of the 50 most relevant
pixels of the gradient stay, beside what chance does with the same budget. All explanations are
those of the network as it is, of the class that it predicts for the clean image.

    python examples/reproduce/vit_strength.py --data-root DATA

The network is trained where it is not in ``--networks``: about ten minutes on one core. The attacks
on 100 images take a few more.
"""

from __future__ import annotations

import argparse
import time

import torch
from _data import fashion_mnist
from _networks import accuracy, add_arguments, network, predictions
from _report import new_file, table
from captum.attr import Saliency
from torch import Tensor

from captum_robust.attacks import ExplanationAttack, GhorbaniTopK, RandomSign
from captum_robust.metrics import explained_relevance, spearman_correlation, top_k_intersection

parser = argparse.ArgumentParser(description="The strength of an attack on a transformer.")
add_arguments(parser, n_images=100)
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--k", type=int, default=50, help="number of most relevant pixels")
parser.add_argument("--radii", type=float, nargs="+", default=[0.02, 0.04, 0.08])
args = parser.parse_args()
torch.set_flush_denormal(True)  # a steep softplus makes numbers that are slow and mean nothing

model = network("fashion-vit", args).requires_grad_(False)
test_images, test_labels = fashion_mnist(args.data_root, False)
right = accuracy(model, test_images, test_labels)
weights = sum(weight.numel() for weight in model.parameters())
order = torch.randperm(len(test_images), generator=torch.Generator().manual_seed(args.seed))
images = test_images[order[: args.n_images]].to(args.device)
labels = predictions(model, images)
print(
    f"{weights:,} weights, {right:.2%} of {len(test_images):,} test images right; {len(images)} of "
    f"them, seed {args.seed}, {args.steps} steps of eps / 10."
)


def rng(stream: int) -> torch.Generator:
    """A source of randomness of its own for each use."""
    return torch.Generator(args.device).manual_seed(1000 * args.seed + stream)


def relevance(batch: Tensor) -> Tensor:
    """Relevance maps of the gradient."""
    return explained_relevance(Saliency(model), batch, labels)


clean = relevance(images)


def row(eps: float, name: str, attack: ExplanationAttack) -> list[str]:
    """One attack, compared with the clean explanation."""
    start = time.perf_counter()
    attack.show_progress = True
    moved = attack(images, labels)
    seconds = time.perf_counter() - start
    after = relevance(moved)
    left = top_k_intersection(clean, after, args.k)
    kept = (predictions(model, moved) == labels).sum().item()
    largest = (moved.double() - images.double()).abs().max().item()
    return [
        f"{eps:g}", name, f"{left.mean():.3f}", f"{1 - left.mean():.3f}",
        f"{spearman_correlation(clean, after).mean():.3f}", f"{kept} of {len(images)}",
        f"{largest:.10f}", f"{seconds:.0f}",
    ]  # fmt: skip


rows = []
for number, eps in enumerate(args.radii):
    top_k = GhorbaniTopK(model, eps=eps, alpha=eps / 10, steps=args.steps, k=args.k)
    draws = RandomSign(
        model, eps=eps, steps=args.steps, objective=top_k.objective, generator=rng(10 + number)
    )
    one = RandomSign(model, eps=eps, generator=rng(number))
    rows.append(row(eps, "RandomSign, one draw", one))
    rows.append(row(eps, f"RandomSign, best of {args.steps}", draws))
    rows.append(row(eps, "GhorbaniTopK", top_k))
head = ["eps", "attack", "left", "taken off", "Spearman", "label kept", "largest change", "seconds"]
table(
    [head, *rows],
    f"The {args.k} most relevant pixels of a transformer's gradient",
    new_file(args.out, "vit_strength.txt"),
)

"""
How strong the attacks are
==========================

The attacks of Ghorbani et al. (2019), in the form of Tang et al. (2021), on the network of the zoo:
how much of the gradient explanation is left at three sizes of the perturbation, beside what chance
does with the same budget. All explanations are those of the true network, of the class that it
predicts for the clean image.

    python examples/reproduce/attack_strength.py [--n-images 200]

With 200 images and 100 steps it takes about half an hour on two busy cores. What is random is
seeded; the last digits depend on the processor and the number of threads.
"""

from __future__ import annotations

import argparse

import torch
from _report import table
from captum.attr import Saliency
from torch import Tensor

from captum_robust.attacks import (
    ExplanationAttack,
    GeometricGrowth,
    GhorbaniMassCenter,
    GhorbaniTarget,
    GhorbaniTopK,
    LinearDecay,
    RandomSign,
)
from captum_robust.metrics import explained_relevance, spearman_correlation, top_k_intersection
from captum_robust.zoo import fashion_mnist_cnn, fashion_mnist_sample

parser = argparse.ArgumentParser(description="The strength of the attacks on the zoo's network.")
parser.add_argument("--n-images", type=int, default=200, help="1 to 512")
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--k", type=int, default=50, help="number of most relevant pixels")
parser.add_argument("--radii", type=float, nargs="*", default=[0.02, 0.04, 0.08])
parser.add_argument("--target-radius", type=float, default=0.08)
parser.add_argument("--starts", type=int, default=10, help="of the strongest targeted attack")
parser.add_argument("--seed", type=int, default=0, help="of the random attacks and the regions")
args = parser.parse_args()

torch.set_flush_denormal(True)  # a steep softplus makes numbers that are slow and mean nothing
model = fashion_mnist_cnn()
images, true_classes = fashion_mnist_sample(args.n_images)
with torch.no_grad():
    labels = model(images).argmax(1)


def rng(stream: int) -> torch.Generator:
    """A source of randomness of its own for each use."""
    return torch.Generator().manual_seed(1000 * args.seed + stream)


def relevance(batch: Tensor) -> Tensor:
    """Relevance maps of the gradient, on the true network."""
    return explained_relevance(Saliency(model), batch, labels)


def run(attack: ExplanationAttack) -> Tensor:
    """The images after an attack, with a bar on standard error."""
    attack.show_progress = True
    return attack(images, labels)


def label_kept(batch: Tensor) -> str:
    """How many images the network still assigns to the same class."""
    with torch.no_grad():
        return f"{(model(batch).argmax(1) == labels).sum().item()} of {len(batch)}"


def largest_change(batch: Tensor, eps: float) -> str:
    """In exact arithmetic: the difference of two float32 numbers has a float64."""
    change = (batch.double() - images.double()).abs().max().item()
    inside = change <= eps and bool(((batch >= 0) & (batch <= 1)).all())
    return f"{change:.10f}" + ("" if inside else " (outside!)")


def center(maps: Tensor) -> Tensor:
    """Row and column of the centre of mass, (N, 2)."""
    index = torch.arange(maps.shape[-1], dtype=maps.dtype)
    return torch.stack([maps.sum(2) @ index, maps.sum(1) @ index], dim=1)


def shift(maps: Tensor) -> float:
    """Mean distance in pixels between the centres of mass before and after."""
    return (center(maps) - center(clean)).norm(dim=1).mean().item()


def top_k_row(eps: float, name: str, batch: Tensor) -> list[str]:
    """One attack, compared with the clean explanation."""
    after = relevance(batch)
    intersection = top_k_intersection(clean, after, args.k).mean()
    spearman = spearman_correlation(clean, after).mean()
    return [
        f"{eps:g}", name, f"{intersection:.3f}", f"{spearman:.3f}",
        label_kept(batch), largest_change(batch, eps),
    ]  # fmt: skip


clean = relevance(images)
wrong = (labels != true_classes).sum().item()
print(
    f"{args.n_images} images, of which the network misclassifies {wrong}; {args.steps} steps of "
    f"eps / 10 each."
)

rows, shifts = [], []
for number, eps in enumerate(args.radii):
    setting = {"eps": eps, "alpha": eps / 10, "steps": args.steps}
    top_k = GhorbaniTopK(model, **setting, k=args.k)
    chance = run(RandomSign(model, eps=eps, generator=rng(number)))
    best = RandomSign(
        model, eps=eps, steps=args.steps, objective=top_k.objective, generator=rng(10 + number)
    )
    rows.append(top_k_row(eps, "RandomSign, one draw", chance))
    rows.append(top_k_row(eps, f"RandomSign, best of {args.steps}", run(best)))
    rows.append(top_k_row(eps, "GhorbaniTopK", run(top_k)))
    moved, by_chance = run(GhorbaniMassCenter(model, **setting)), shift(relevance(chance))
    distance = shift(relevance(moved))
    shifts.append(
        [
            f"{eps:g}", f"{by_chance:.2f}", f"{distance:.2f}", f"{distance / by_chance:.1f}",
            label_kept(moved), largest_change(moved, eps),
        ]
    )  # fmt: skip
head = ["eps", "attack", "intersection", "Spearman", "label kept", "largest change"]
table(
    [head, *rows],
    f"The {args.k} most relevant pixels: share that remains, and rank correlation of the maps",
)
head = ["eps", "RandomSign", "GhorbaniMassCenter", "ratio", "label kept", "largest change"]
table([head, *shifts], "Centre of mass: mean shift in pixels")

regions = torch.zeros(args.n_images, 28, 28, dtype=torch.bool)
generator = rng(20)
for region in regions:
    row, column = torch.randint(0, 24, (2,), generator=generator).tolist()
    region[row : row + 5, column : column + 5] = True


def target_row(name: str, batch: Tensor) -> list[str]:
    """Share of the relevance in the regions, against that on the clean images."""
    before, after = ((maps * regions).sum((1, 2)) for maps in (clean, relevance(batch)))
    growth = after / before
    return [
        name, f"{before.mean():.4f}", f"{after.mean():.4f}", f"{after.mean() / before.mean():.2f}",
        f"{growth.mean():.2f}", f"{growth.median():.2f}",
        label_kept(batch), largest_change(batch, eps),
    ]  # fmt: skip


eps = args.target_radius
rows = [target_row("RandomSign, one draw", run(RandomSign(model, eps=eps, generator=rng(21))))]
strong = {"alpha": LinearDecay(eps / 3, eps / 300), "beta": GeometricGrowth(20.0, 200.0)}
settings = {
    "GhorbaniTarget": {"alpha": eps / 10},
    "the same, shrinking steps": strong,
    f"the same, {args.starts} starts": {**strong, "restarts": args.starts},
}
for name, setting in settings.items():
    attack = GhorbaniTarget(
        model, eps=eps, steps=args.steps, region=regions, generator=rng(22), **setting
    )
    rows.append(target_row(name, run(attack)))
growths = ["growth of the mean", "mean growth", "median growth"]
head = ["attack", "before", "after", *growths, "label kept", "largest change"]
table(
    [head, *rows],
    f"A random region of 5 x 5 pixels in each image, eps {eps:g}: its share of the relevance",
)

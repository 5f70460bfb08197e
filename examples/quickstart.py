"""
Quickstart
==========

Attack an explanation in five ways, smooth it in two, and read in one table how much each attack
changes and how much smoothing helps. Small changes of an image, which keep the prediction, move the
explanation elsewhere, part of the way even into a picture of our choice:

    python examples/quickstart.py [--output quickstart.png]

It takes less than a minute on one core.
"""

# %%
# A network, images and an explanation
# ------------------------------------
# A small ReLU network for garments (Fashion-MNIST). The explanation is Captum's ``Saliency``, the
# gradient. Its *relevance map* is what one looks at: absolute values that sum to one.
from __future__ import annotations

import argparse

import matplotlib.pyplot as plt
import torch
from captum.attr import Saliency

from captum_robust import attacks, attr, zoo
from captum_robust.metrics import explained_relevance, spearman_correlation, top_k_intersection
from captum_robust.visualization import explanation_grid

parser = argparse.ArgumentParser()
parser.add_argument("--output", default="quickstart.png", help="where the figure goes")

model = zoo.fashion_mnist_cnn()
images, labels = zoo.fashion_mnist_sample(12)
gradient = Saliency(model)
clean = explained_relevance(gradient, images, labels)
print("relevance maps:", tuple(clean.shape))

# %%
# Attacks
# -------
# None may change a pixel by more than ``eps``, or the prediction. Noise shows what chance would do.
# The last attack is aimed at a smoothed explanation, the others at the plain gradient.
smoothed = attr.BetaSmoothing(gradient, beta=1.0)
row, column = torch.meshgrid(torch.arange(28), torch.arange(28), indexing="ij")
corner = (row < 9) & (column < 9)
cross = ((row - column).abs() < 3) | ((row + column - 27).abs() < 3)
budget, seed = {"eps": 0.06, "alpha": 0.006}, torch.Generator().manual_seed(0)
attack = {
    "random noise": attacks.RandomSign(model, eps=0.06, generator=seed),
    "off the top 50": attacks.GhorbaniTopK(model, steps=50, k=50, **budget),
    "centre of mass": attacks.GhorbaniMassCenter(model, steps=50, **budget),
    "into a corner": attacks.GhorbaniTarget(model, steps=50, region=corner, **budget),
    "into a cross": attacks.Dombrowski(model, steps=100, **budget),
    "off the smoothed top 50": attacks.GhorbaniTopK(model, smoothed, steps=50, k=50, **budget),
}
more = {"into a cross": [cross.float()]}  # Dombrowski wants to know the target
forged = {name: a(images, labels, *more.get(name, [])) for name, a in attack.items()}

# %%
# Defences, in one table
# ----------------------
# ``BetaSmoothing`` rounds the kinks of the network off while it explains; ``KernelSmoothing`` takes
# the mean over noisy copies (SmoothGrad). Each is compared with *itself* on the clean image: rank
# correlation (Spearman), and share of the 50 most relevant pixels that stay. Judge a defence by an
# attack on itself: the last row.
kernel, batches = attr.KernelSmoothing(gradient), {"clean": images, **forged}
maps = {
    name: {
        "gradient": explained_relevance(gradient, batch, labels),
        "beta-smoothed": explained_relevance(smoothed, batch, labels),
        "kernel-smoothed": explained_relevance(
            kernel, batch, labels, generator=seed.manual_seed(0)
        ),
    }
    for name, batch in batches.items()
}
print("Spearman, top-50 of:   ", *[f"{n:>15}" for n in maps["clean"]], "  kept  change  squared")
for name, batch in forged.items():
    cells = [
        f"{spearman_correlation(a, b).mean():8.2f} {top_k_intersection(a, b, k=50).mean():6.2f}"
        for a, b in zip(maps["clean"].values(), maps[name].values(), strict=True)
    ]
    kept, change = model(batch).argmax(1) == model(images).argmax(1), batch - images
    cells += [f"{kept.float().mean():6.0%} {change.abs().max():7.3f} {change.square().mean():8.4f}"]
    print(f"{name:23}", *cells)

# %%
# One picture: trousers, before and after each attack
# ---------------------------------------------------
# Look along the rows. The image (first row) hardly changes, and the network still says trousers.
# The gradient (second row) follows each attack. The smoothed explanations follow less.
columns = [name for name in maps if name != "off the smoothed top 50"]
shown = torch.stack([batches[name][2] for name in columns])
explained = [torch.stack([maps[name][kind][2] for name in columns]) for kind in maps["clean"]]
titles = (["image", *maps["clean"]], columns)
figure = explanation_grid(shown, explained, *titles, transpose=True, figure=plt.figure())
figure.savefig(parser.parse_args().output, dpi=150)

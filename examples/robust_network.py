"""
A network whose explanations resist
===================================

Compare a network before and after training for robust explanations. Smoothing makes an explanation
harder to manipulate; training with :class:`~captum_robust.training.ATEXTrainer` does the same for
the network itself. The zoo has a network from before and from after such a training; here both are
attacked with the same budget.

    python examples/robust_network.py [--output robust_network.png]
"""

# %%
# Two networks that agree
# -----------------------
# ATEX needs no labels: the second network has learned to imitate the first, also perpendicular to
# its explanations. ``train_zoo_atex.py`` trained it; how to train your own
# is in the guide.
from __future__ import annotations

import argparse

import matplotlib.pyplot as plt
from captum.attr import Saliency

from captum_robust import attacks, metrics, zoo
from captum_robust.visualization import explanation_grid

parser = argparse.ArgumentParser()
parser.add_argument("--output", default="robust_network.png", help="where the figure goes")

networks = {"plain": zoo.fashion_mnist_cnn(), "after ATEX": zoo.fashion_mnist_cnn_atex()}
images, labels = zoo.fashion_mnist_sample(16)
for name, network in networks.items():
    print(f"{name}: {(network(images).argmax(1) == labels).sum()} of {len(images)} right")


# %%
# The same attack on both
# -----------------------
# Each is attacked through its own gradients; no pixel changes by more than 0.04.
maps = {}
for name, network in networks.items():
    classes = network(images).argmax(1)
    attack = attacks.GhorbaniTopK(network, eps=0.04, alpha=0.004, steps=50, k=50)
    gradient, forged = Saliency(network), attack(images, classes)
    before, after = (metrics.explained_relevance(gradient, x, classes) for x in (images, forged))
    left = metrics.top_k_intersection(before, after, k=50).mean()
    rank = metrics.spearman_correlation(before, after).mean()
    print(f"{name}: {left:.2f} of the 50 most relevant pixels stay, rank correlation {rank:.2f}")
    maps[name] = before
    maps[f"{name}, attacked"] = after

# %%
# What to see
# -----------
# Compare each map with its attacked neighbour: more of the second network's gradient stays.
figure = explanation_grid(
    images[:6],
    [explanations[:6] for explanations in maps.values()],
    column_titles=["image", *maps],
    figure=plt.figure(),
)
figure.savefig(parser.parse_args().output, dpi=150)

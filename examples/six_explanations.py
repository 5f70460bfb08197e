"""
One picture, six explanations, forged
=====================================

Six explanations of the same prediction, each forged by an attack of its own: the first picture gets
the explanation of the second, and keeps its class. Then each is smoothed, and its likeness with the
target falls by about half or more. Dombrowski et al. (2019), Figures 2 and 4, on clothes:

    python examples/six_explanations.py
"""

# %%
# Six explanations of a network that is as it is: modules, functions or both. The patterns of
# PatternAttribution are learned from other pictures.
from __future__ import annotations

import argparse

import torch
from captum.attr import InputXGradient, IntegratedGradients, Saliency

from captum_robust import attacks, attr, metrics, zoo
from captum_robust.visualization import explanation_grid

parser = argparse.ArgumentParser()
parser.add_argument("--output", default="six_explanations.png", help="where the figure goes")
args = parser.parse_args()

model = zoo.fashion_mnist_cnn().requires_grad_(False)
images, _ = zoo.fashion_mnist_sample(512)
picture, other, rest = images[:1], images[1:2], images[2:]
explanations = {
    "gradient": Saliency(model),
    "gradient x input": InputXGradient(model),
    "integrated gradients": IntegratedGradients(model),
    "guided backprop": attr.GuidedBackprop(model),
    "LRP": attr.RelevancePropagation(model),
    "PatternAttribution": attr.PatternAttribution(model, attr.learn_patterns(model, [rest])),
}


# %%
# Each is attacked directly, and told by the network itself, without any softplus. Smoothing is that
# of the explanation alone; the attack did not aim at it.
columns: dict[str, list] = {"before": [], "target": [], "forged": [], "smoothed": []}
captions = []
for name, explanation in explanations.items():
    arguments = {"n_steps": 10} if name == "integrated gradients" else {}
    target = metrics.explained_relevance(explanation, other, **arguments)  # of what is predicted
    attack = attacks.Dombrowski(model, explanation, explanation_kwargs=arguments)
    forged = attack(picture, None, target)
    smooth = attr.BetaSmoothing(explanation, beta=1.0)
    pairs = [(explanation, picture), (explanation, forged), (smooth, forged)]
    maps = [metrics.explained_relevance(*pair, **arguments) for pair in pairs]
    maps.insert(1, target)
    for column, seen in zip(columns.values(), maps, strict=True):
        column.append(seen)
    alike = [metrics.pearson_correlation(seen, target).item() for seen in maps]
    kept = bool(model(forged).argmax(1) == model(picture).argmax(1))
    error = metrics.mean_squared_error(forged, picture).item()
    print(
        f"{name:22} correlation with the target: {alike[0]:.2f}, forged {alike[2]:.2f}, smoothed "
        f"{alike[3]:.2f}; mean squared change {error:.1e}, class {'kept' if kept else 'LOST'}"
    )
    captions.append([f"{alike[0]:.2f}", "", f"{alike[2]:.2f}", f"{alike[3]:.2f}"])

# %%
# The picture: a row for each explanation, with the correlation with the target below.
figure = explanation_grid(
    None,
    [torch.cat(column) for column in columns.values()],
    list(explanations),
    list(columns),
    captions=captions,
)
figure.savefig(args.output, dpi=150)

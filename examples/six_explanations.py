"""
One picture, six explanations, manipulated
==========================================

See how far an attack moves each of six explanations of one prediction: the first picture gets the
explanation of the second, and keeps its class. Then each is smoothed, and its similarity to the
target falls by about half or more. These are Figures 2 and 4 of Dombrowski et al. (2019), on
clothes. The attack has no budget here and changes single pixels by 0.21 to 0.30, which is visible:

    python examples/six_explanations.py

It takes about a minute on one core.

.. figure:: /_static/six_explanations.png
   :alt: A row for each explanation: before, target, after the attack, smoothed after the attack.

   Compare the third column with the second: after the attack each explanation is more like the
   target (numbers: correlation with the target). Smoothed (last column), it is less so.
"""
# sphinx_gallery_thumbnail_path = '_static/six_explanations.png'

# %%
# Six explanations of the same network. The patterns of PatternAttribution are learned from other
# pictures.
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
# Each explanation is attacked directly, and judged on the network itself, without any softplus.
# Only the explanation is smoothed at the end; the attack did not aim at that.
titles = ["before", "target", "after the attack", "smoothed, after the attack"]
columns: dict[str, list] = {title: [] for title in titles}
captions = []
for name, explanation in explanations.items():
    arguments = {"n_steps": 10} if name == "integrated gradients" else {}
    target = metrics.explained_relevance(explanation, other, **arguments)  # of what is predicted
    attack = attacks.Dombrowski(
        model, explanation, explanation_kwargs=arguments, show_progress=True
    )
    forged = attack(picture, None, target)
    smooth = attr.BetaSmoothing(explanation, beta=1.0)
    pairs = [(explanation, picture), (explanation, forged), (smooth, forged)]
    maps = [metrics.explained_relevance(*pair, **arguments) for pair in pairs]
    maps.insert(1, target)
    for column, seen in zip(columns.values(), maps, strict=True):
        column.append(seen)
    similarity = [metrics.pearson_correlation(seen, target).item() for seen in maps]
    kept = bool(model(forged).argmax(1) == model(picture).argmax(1))
    before, _, after, smoothed = (f"{value:.2f}" for value in similarity)
    change = (forged - picture).abs().max()
    print(f"{name}: class {'kept' if kept else 'LOST'}, largest change of a pixel {change:.2f}")
    print(f"    correlation with the target {before}, attacked {after}, smoothed {smoothed}")
    captions.append([f"correlation {value}" for value in (before, "1.00", after, smoothed)])

# %%
# The picture has a row for each explanation, with the correlation with the target below.
figure = explanation_grid(
    None,
    [torch.cat(column) for column in columns.values()],
    list(explanations),
    list(columns),
    captions=captions,
)
figure.savefig(args.output, dpi=150)

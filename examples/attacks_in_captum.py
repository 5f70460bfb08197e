"""
Attacks inside Captum's own tools
=================================

Use the attacks inside Captum's metrics and its ``robust`` package. Captum measures there, by
perturbations, how sensitive an explanation is and how little breaks a model.
An attack searches for a bad case. What it finds is a lower bound on the worst one; where an attack
aims at something else than the metric, chance may find more.
"""

# %%
# A network, images, and an explanation
# -------------------------------------
# Captum warns where it has to ask for the gradients of images itself.
from __future__ import annotations

import warnings
from functools import partial

import torch
from captum.attr import Saliency
from captum.metrics import sensitivity_max
from captum.robust import AttackComparator, MinParamPerturbation

from captum_robust import attacks, attr, zoo
from captum_robust.metrics import explained_relevance, top_k_intersection

warnings.filterwarnings("ignore", message="Input Tensor 0 did not already require gradients")
model = zoo.fashion_mnist_cnn()
images, _ = zoo.fashion_mnist_sample(6)
labels, EPS, K = model(images).argmax(1), 0.04, 50


def relevance(batch: torch.Tensor, target: torch.Tensor = labels) -> torch.Tensor:
    """Where the gradient looks."""
    return explained_relevance(Saliency(model), batch, target)


clean = relevance(images)

# %%
# How sensitive is the explanation?
# ---------------------------------
# ``sensitivity_max`` looks for the largest relative change of the explanation in a ball. To 40
# random points the smoothed explanation seems hardly better than the gradient; an attack of 40
# steps tells them apart. ``perturb_func`` hands it the labels, and the metric's radius as ``eps``.
print(f"Largest relative change of the explanation that was found within {EPS}:")
for explanation in (attr.BetaSmoothing(Saliency(model), beta=1.0), Saliency(model)):
    attack = attacks.GhorbaniTopK(model, explanation, EPS, alpha=EPS / 10, steps=40, k=K)
    measure = partial(sensitivity_max, explanation.attribute, images, target=labels)
    at_random = measure(perturb_radius=EPS, n_perturb_samples=40)
    searched = measure(attack.perturb_func(labels), perturb_radius=EPS, n_perturb_samples=1)
    found = f"random {at_random.mean():.2f}   attack {searched.mean():.2f}"
    print(f"  {type(explanation).__name__:14} {found}")


# %%
# How little is enough?
# ---------------------
# ``MinParamPerturbation`` looks for the smallest value of a parameter of an attack that breaks a
# model. Here the parameter is ``eps``, and what has to break is the explanation itself: fewer than
# half of its 50 most relevant pixels remain. The prediction is kept all along.
def still_the_same(relevance: torch.Tensor, clean: torch.Tensor) -> bool:
    """Whether at least half of the most relevant pixels stay so."""
    return bool(top_k_intersection(relevance, clean, K) >= 0.5)


print("\nSmallest eps at which half of the most relevant pixels are gone:")
for i, label in enumerate(labels):
    search = MinParamPerturbation(
        lambda x, label=label: relevance(x, label), attack, "eps",
        arg_min=0.005, arg_max=0.1, arg_step=0.005, correct_fn=still_the_same,
    )  # fmt: skip
    forged, eps = search.evaluate(
        images[i : i + 1],
        attack_kwargs={"labels": labels[i : i + 1]},
        correct_fn_kwargs={"clean": clean[i : i + 1]},
    )
    print(f"  {zoo.FASHION_MNIST_CLASSES[label]:12}", "none" if eps is None else f"{eps:.3f}")


# %%
# Attacks side by side
# --------------------
# ``AttackComparator`` runs several attacks, and reports one metric of all.
def intersection(relevance: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Share of the most relevant pixels that stay so."""
    return top_k_intersection(relevance, clean, K)


comparator = AttackComparator(relevance, intersection)
chance = attacks.RandomSign(model, generator=torch.Generator().manual_seed(0))
for other in (chance, attacks.GhorbaniMassCenter(model, steps=40), attack):
    comparator.add_attack(
        other, type(other).__name__, attack_kwargs={"eps": EPS},
        additional_attack_arg_names=["labels"],
    )  # fmt: skip
print(f"\nShare of the {K} most relevant pixels that remain, eps = {EPS}:")
for name, result in comparator.evaluate(images, labels=labels).items():
    shares = result if name == "Original" else result["mean"]
    print(f"  {name:20} {shares.mean():.2f}")

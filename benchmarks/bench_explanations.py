"""One step of an attack on each explanation against the bare double backward pass.

The step: the explanation of the network under softplus, a loss on its relevance map, and the
gradient of the loss by the image; parameters without gradients. The bare double backward pass does
this for the gradient of a copy of the network with ``nn.Softplus``, in plain PyTorch. All run in
turns in one process.

Run from the root of the repository: ``python benchmarks/bench_explanations.py``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from _alternate import alternate
from _smooth_copy import smooth_copy
from captum.attr import Attribution, InputXGradient, Saliency
from torch import Tensor, nn
from torchvision import models

from captum_robust.attr import (
    GuidedBackprop,
    RelevancePropagation,
    differentiable,
    softplus_activations,
)
from captum_robust.metrics import relevance_map

BETA, TARGET = 10.0, 0
METHODS: dict[str, Callable[[nn.Module], Attribution]] = {
    "gradient": Saliency,
    "input x gradient": InputXGradient,
    "guided backprop": GuidedBackprop,
    "relevance propagation": RelevancePropagation,
}


def loss(attributions: Tensor, goal: Tensor) -> Tensor:
    return (relevance_map(attributions) - goal).square().sum()


def bare(model: nn.Module, image: Tensor, goal: Tensor) -> Callable[[], Tensor]:
    smooth = smooth_copy(model, BETA).requires_grad_(False)

    def run() -> Tensor:
        x = image.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(smooth(x)[:, TARGET].sum(), x, create_graph=True)
        return torch.autograd.grad(loss(gradient, goal), x)[0]

    return run


def ours(explanation: Attribution, image: Tensor, goal: Tensor) -> Callable[[], Tensor]:
    explain = differentiable(explanation)

    def run() -> Tensor:
        x = image.clone().requires_grad_()
        with softplus_activations(BETA):
            attributions = explain(x, target=TARGET)
        return torch.autograd.grad(loss(attributions, goal), x)[0]

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", nargs="+", default=["vgg16", "resnet18"])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for name in arguments.networks:
        torch.manual_seed(0)
        model = models.get_model(name, weights=None).eval().to(arguments.device)
        model.requires_grad_(False)
        image = torch.rand(1, 3, 224, 224, device=arguments.device)
        goal = torch.full((1, 224, 224), 1 / 224**2, device=arguments.device)
        ways = {"bare double backward": bare(model, image, goal)}
        ways |= {key: ours(make(model), image, goal) for key, make in METHODS.items()}
        median = alternate(ways, arguments.rounds, arguments.device)
        for way, seconds in median.items():
            share = seconds / median["bare double backward"]
            print(f"{name:12s} {way:24s} {seconds:8.4f} s  {share:6.2f} x bare", flush=True)


if __name__ == "__main__":
    main()

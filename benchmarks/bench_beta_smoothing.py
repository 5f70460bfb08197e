"""The beta-smoothed gradient against the bare gradient of a hand-made smooth copy of the network.

Run from the root of the repository: ``python benchmarks/bench_beta_smoothing.py``.
"""

from __future__ import annotations

import argparse

import torch
from _alternate import alternate
from _smooth_copy import smooth_copy
from torch import nn
from torchvision import models

from captum_robust.attr import BetaSmoothedGradient

BETA = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    device = arguments.device
    for name in ("resnet18", "vgg16"):
        torch.manual_seed(0)
        model = models.get_model(name, weights=None).eval().to(device)
        bare_model = smooth_copy(model, BETA)
        images = torch.rand(arguments.batch, 3, 224, 224, device=device)
        explanation = BetaSmoothedGradient(model, beta=BETA)

        def bare(model: nn.Module = bare_model, images: torch.Tensor = images) -> torch.Tensor:
            x = images.clone().requires_grad_()
            return torch.autograd.grad(model(x)[:, 0].sum(), x)[0]

        def ours(
            explanation: BetaSmoothedGradient = explanation, images: torch.Tensor = images
        ) -> torch.Tensor:
            return explanation.attribute(images, target=0)

        error = (ours() - bare()).abs().max() / bare().abs().max()
        median = alternate({"bare": bare, "ours": ours}, arguments.rounds, device)
        print(
            f"{name:10s} bare {median['bare']:.4f} s   ours {median['ours']:.4f} s   "
            f"ratio {median['ours'] / median['bare']:.3f}   relative error {error:.1e}"
        )


if __name__ == "__main__":
    main()

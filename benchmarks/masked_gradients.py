"""Whether the ensemble notices models that mislead attacks by gradients, and overcomes them.

Three mislead: rectifiers as gates, which no surrogate smooths, so that the explanation has no
derivative; inputs rounded to 16 levels and explained by Grad-CAM, which lies behind the rounding;
an explanation rounded to 8 levels. Five are honest. Inputs rounded with the derivative of the
identity are neither: gradients pass through them. Beside the ensemble: ``GhorbaniTopK`` alone, with
as many gradients.

    OMP_NUM_THREADS=1 python benchmarks/masked_gradients.py [--n-images 12] [--budget 300]
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import torch
from captum.attr import Attribution, LayerGradCam, Saliency
from torch import Tensor, nn

from captum_robust import attacks, metrics, zoo

parser = argparse.ArgumentParser()
parser.add_argument("--n-images", type=int, default=12)
parser.add_argument("--budget", type=int, default=300)
parser.add_argument("--eps", type=float, default=0.08)
parser.add_argument("--k", type=int, default=50)
parser.add_argument("--only", default="", help="networks whose name contains this")
args = parser.parse_args()
warnings.filterwarnings("ignore", message="The attack failed")
torch.set_flush_denormal(True)
images, _ = zoo.fashion_mnist_sample(args.n_images)


class Gate(nn.Module):
    """A rectifier, of which nobody sees that it is one."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (x > 0).to(x)


class Quantised(nn.Module):
    """Inputs rounded to 16 levels, with the derivative of the identity or of rounding, zero."""

    def __init__(self, network: nn.Module, straight_through: bool) -> None:
        super().__init__()
        self.network, self.straight_through = network, straight_through

    def forward(self, x: Tensor) -> Tensor:
        rounded = (x * 15).round() / 15
        return self.network(x + (rounded - x).detach() if self.straight_through else rounded)


class Rounded(Attribution):
    """The gradient in 8 levels of its largest value."""

    def attribute(self, inputs: Tensor, target: Any = None) -> Tensor:
        return self._rounded(Saliency(self.forward_func).attribute(inputs, target=target))

    def attribute_with_graph(self, inputs: Tensor, target: Any = None) -> Tensor:
        score = self.forward_func(inputs).gather(1, target[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, inputs, create_graph=True)
        return self._rounded(gradient.abs())

    @staticmethod
    def _rounded(relevance: Tensor) -> Tensor:
        return (8 * relevance / relevance.amax((1, 2, 3), keepdim=True)).ceil()


def replaced(activation: type[nn.Module]) -> nn.Module:
    """The network of the zoo with other activations."""
    network = zoo.fashion_mnist_cnn()
    for name, module in list(network.named_children()):
        if isinstance(module, nn.ReLU):
            setattr(network, name, activation())
    return network


def untrained(*layers: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(*layers)
    for parameter in network.parameters():
        scale = 1.5 / max(1, parameter[0].numel()) ** 0.5
        parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    return network.eval()


plain = zoo.fashion_mnist_cnn()
SUBJECTS: dict[str, tuple[nn.Module, Attribution]] = {}
for name, model in {
    "misleads: gates": replaced(Gate),
    "quantised inputs, straight through": Quantised(plain, straight_through=True),
    "honest: zoo": plain,
    "honest: zoo, ATEX": zoo.fashion_mnist_cnn_atex(),
    "honest: zoo with SiLU": replaced(nn.SiLU),
    "honest: untrained convolutions": untrained(
        nn.Conv2d(1, 16, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(2304, 10)
    ),
    "honest: untrained dense, tanh": untrained(
        nn.Flatten(), nn.Linear(784, 64), nn.Tanh(), nn.Linear(64, 10)
    ),
}.items():
    SUBJECTS[name] = (model, Saliency(model))
SUBJECTS["misleads: rounded explanation"] = (plain, Rounded(plain))
quantised = Quantised(plain, straight_through=False)
SUBJECTS["misleads: quantised inputs, Grad-CAM"] = (quantised, LayerGradCam(quantised, plain.relu2))


def left(model: nn.Module, explanation: Attribution, changed: Tensor) -> float:
    with torch.no_grad():
        labels = model(images).argmax(1)
    before, after = (
        metrics.explained_relevance(explanation, x.detach(), labels) for x in (images, changed)
    )
    return metrics.top_k_intersection(before, after, args.k).mean().item()


print(f"{args.n_images} images, eps {args.eps}, top {args.k}, {args.budget} gradients an image")
for name, (model, explanation) in sorted(SUBJECTS.items(), reverse=True):
    if args.only not in name:
        continue
    model.requires_grad_(False)
    white = attacks.GhorbaniTopK(
        model, explanation, args.eps, args.eps / 10, args.budget, k=args.k
    )  # fmt: skip
    ensemble = attacks.AutoExplanationAttack(
        model, explanation, args.eps, measure=attacks.TopKIntersection(args.k),
        budget=args.budget, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    alone, together = (left(model, explanation, a(images)) for a in (white, ensemble))
    signs = ", ".join(sign.name for sign in ensemble.report.indicators) or "none"
    print(f"{name:36} white box {alone:.3f}  ensemble {together:.3f}  signs: {signs}", flush=True)

"""
Faithful explanations at 224 x 224
==================================

Square and NoisyBaseline on EfficientNet-Lite0 and photographs of ImageNet, each beside gradient
explanations, under the measure that it optimises: infidelity on freshly drawn perturbations.

    pip install "captum_robust[demo]"
    python examples/reproduce/imagenet_faithfulness.py --data-root DATA

DATA/imagenet (or the folder of --photographs) holds photographs, jpg or png. A photograph takes
about a minute on a core: 1,000 passes for Square, 50 gradients for NoisyBaseline, and the passes
that judge them.
"""

from __future__ import annotations

import argparse
import hashlib
import time

import torch
from _data import photographs
from _networks import (
    add_arguments,
    add_photographs,
    efficientnet,
    folder_of_photographs,
    predictions,
)
from _report import mean_and_error, new_file, table
from captum.attr import InputXGradient, IntegratedGradients, Saliency
from torch import Tensor

from captum_robust.attr import KernelSmoothing, NoisyBaseline, Square
from captum_robust.metrics import infidelity
from captum_robust.perturbations import GaussianBaseline, Perturbation, SquareRemoval
from captum_robust.visualization import explanation_grid

parser = argparse.ArgumentParser(description="Infidelity of explanations at 224 x 224.")
add_arguments(parser, n_images=20)
add_photographs(parser)
parser.add_argument("--sizes", type=int, nargs="+", default=list(range(8, 81, 8)))
parser.add_argument("--n-passes", type=int, default=1000, help="of the model, for Square")
parser.add_argument("--n-gradients", type=int, default=50, help="NoisyBaseline and SmoothGrad")
parser.add_argument("--n-fresh", type=int, default=200, help="perturbations that judge")
args = parser.parse_args()

model = efficientnet(args).requires_grad_(False)
images = photographs(folder_of_photographs(args), args.n_images, args.seed)
file = new_file(args.out, "imagenet_faithfulness.txt")
squares, noise = SquareRemoval(args.sizes), GaussianBaseline(0.2)
rng = torch.Generator().manual_seed(args.seed)


class Remembered:
    """The model, which is run once for inputs that come again: all explanations share the draws."""

    def __init__(self) -> None:
        self.outputs: dict[bytes, Tensor] = {}

    def __call__(self, x: Tensor) -> Tensor:
        key = hashlib.blake2b(x.cpu().numpy().tobytes()).digest()
        if key not in self.outputs:
            self.outputs[key] = model(x)
        return self.outputs[key]


def global_explanations(x: Tensor, target: Tensor) -> dict[str, Tensor]:
    """What a pixel is worth against black, by Captum."""
    ready = x.clone().requires_grad_()
    path = IntegratedGradients(model).attribute(ready, target=target, internal_batch_size=10)
    return {
        "InputXGradient": InputXGradient(model).attribute(ready, target=target).detach(),
        "IntegratedGradients": path.detach(),
    }


def local_explanations(x: Tensor, target: Tensor) -> dict[str, Tensor]:
    """What a change of a pixel is worth: the gradient and its mean, with and without its sign."""
    radius = 0.15 * (x.max() - x.min()).item()  # SmoothGrad's advice
    options = {"n_samples": args.n_gradients, "radius": radius, "internal_batch_size": 10}
    found = {}
    for name, absolute in (("absolute", True), ("signed", False)):
        ready = x.clone().requires_grad_()
        found[f"Saliency, {name}"] = Saliency(model).attribute(ready, target, abs=absolute)
        found[f"SmoothGrad, {name}"] = KernelSmoothing(Saliency(model)).attribute(
            x, target=target, abs=absolute, generator=rng, **options
        )
    return found


def judge(measure: Perturbation, explained: dict[str, Tensor], normalize: bool) -> dict[str, float]:
    """Infidelity of each explanation on the same fresh draws, which all photographs share."""
    values, remembered = {}, memory.setdefault(measure, Remembered())
    for name, attributions in explained.items():
        fresh = torch.Generator().manual_seed(1000 + args.seed)
        values[name] = infidelity(
            remembered, measure, x, attributions, target=target, normalize=normalize,
            n_perturb_samples=args.n_fresh, generator=fresh,
        ).item()  # fmt: skip
    return values


removal, baseline, baseline_raw, shown = [], [], [], []
for number, image in enumerate(images):
    x = image.unsqueeze(0).to(args.device)
    target = predictions(model, x)
    memory: dict[Perturbation, Remembered] = {}
    start = time.perf_counter()
    square = Square(model, args.sizes).attribute(
        x, target=target, n_samples=args.n_passes - 1, generator=rng
    )
    seconds = time.perf_counter() - start
    noisy = NoisyBaseline(model).attribute(
        x, target=target, n_samples=args.n_gradients, perturbations_per_eval=10, generator=rng
    )
    whole = {**global_explanations(x, target), "Square": square}
    local = {**local_explanations(x, target), "NoisyBaseline": noisy}
    shown.append({k: a.cpu() for k, a in {**whole, **local}.items() if "absolute" not in k})
    removal.append(judge(squares, whole, True))
    baseline.append(judge(noise, local, True))
    baseline_raw.append(judge(noise, local, False))
    found = (f"{k} {v:.4g}" for r in (removal, baseline, baseline_raw) for k, v in r[-1].items())
    print(f"{number}: Square took {seconds:.0f} s; {', '.join(found)}", flush=True)


def summary(title: str, results: list[dict[str, float]], ours: str) -> None:
    """Means over the photographs, and what the others have over ours."""
    rows = [["explanation", "infidelity", "over ours, of the means", "least", "median"]]
    mine = torch.tensor([r[ours] for r in results])
    for name in results[0]:
        them = torch.tensor([r[name] for r in results])
        over = them / mine
        ratios = (them.mean() / mine.mean(), over.min(), over.median())
        rows.append([name, mean_and_error(them), *(f"{r:.3g}" for r in ratios)])
    table(rows, title, file)


print(f"{args.n_images} photographs, {args.n_passes} passes, {args.n_fresh} fresh draws")
summary(f"Squares of {args.sizes} pixels, scaled as serves each best", removal, "Square")
summary("Noisy baseline, scaled as serves each best", baseline, "NoisyBaseline")
summary("Noisy baseline, as they are", baseline_raw, "NoisyBaseline")
maps = [torch.cat([a[name] for a in shown[:4]]) for name in shown[0]]
figure = explanation_grid(images[:4], maps, None, ["image", *shown[0]], sign="all")
figure.savefig(args.out / "imagenet_faithfulness.png", dpi=150)

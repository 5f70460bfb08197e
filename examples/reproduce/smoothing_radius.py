"""
How far to smooth
=================

Sensitivity and infidelity against the radius of SmoothGrad, on MNIST (appendix of Yeh et al. 2019):
local explanations, noisy baselines of standard deviation 0.2, uniform noise. Radius 0 is the
explanation without smoothing.

    python examples/reproduce/smoothing_radius.py --data-root DATA

It takes about ten minutes on one core.
"""

from __future__ import annotations

import argparse
import warnings

import matplotlib.pyplot as plt
import torch
from _data import mnist, some
from _explanations import gradient_methods
from _networks import add_arguments, network, predictions
from _report import mean_and_error, new_file, table
from captum.attr import Attribution
from torch import Tensor

from captum_robust import metrics, perturbations

parser = argparse.ArgumentParser(description="SmoothGrad's radius.")
add_arguments(parser, n_images=10)
parser.add_argument("--network", choices=["mnist", "mnist-wide"], default="mnist")
parser.add_argument("--radii", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0])
parser.add_argument("--noises", type=int, default=100, help="noisy copies")
parser.add_argument("--samples", type=int, default=20, help="points of the max-sensitivity")
parser.add_argument("--draws", type=int, default=5000, help="perturbations of the infidelity")
args = parser.parse_args()

warnings.filterwarnings("ignore", message="Setting .* hooks on ReLU activations")
torch.set_flush_denormal(True)
model = network(args.network, args)
images = some(mnist(args.data_root, False)[0], args.n_images, args.seed).to(args.device)
classes = predictions(model, images)


def measure(method: Attribution) -> tuple[Tensor, Tensor]:
    """Max-sensitivity at radius 0.2, and infidelity of the explanation scaled as serves it best."""
    seeded = torch.Generator(args.device).manual_seed
    maps = method.attribute(images, target=classes)
    sensitivity = metrics.sensitivity_max(
        method.attribute, images, perturb_radius=0.2, n_perturb_samples=args.samples,
        max_examples_per_batch=len(images), generator=seeded(args.seed), target=classes,
    )  # fmt: skip
    infidelity = metrics.infidelity(
        model, perturbations.GaussianBaseline(0.2), images, maps, target=classes, normalize=True,
        n_perturb_samples=args.draws, generator=seeded(args.seed),
    )  # fmt: skip
    return sensitivity.cpu(), infidelity.cpu()


rows = [["explanation", "radius", "SENS", "INFD"]]
curves: dict[str, list[tuple[float, float, float]]] = {}
for radius in [0.0, *args.radii]:
    options = {"radius": radius or 1.0, "n_samples": args.noises, "seed": args.seed}
    methods = gradient_methods(model, multiply_by_inputs=False, **options)
    for name in ("Grad", "IG", "GBP"):
        sensitivity, infidelity = measure(methods[f"{name}-SG" if radius else name])
        rows.append([name, f"{radius:g}", mean_and_error(sensitivity), mean_and_error(infidelity)])
        point = (radius, sensitivity.mean().item(), infidelity.mean().item())
        curves.setdefault(name, []).append(point)
        print(*rows[-1], flush=True)

title = (
    f"Network {args.network}, {args.n_images} images, {args.noises} noisy copies, sensitivity at "
    f"radius 0.2 with {args.samples} points, infidelity of {args.draws} noisy baselines, seed "
    f"{args.seed}"
)
ordered = [rows[0], *sorted(rows[1:], key=lambda row: row[0])]
table(ordered, title, new_file(args.out, "smoothing_radius.txt"))
figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
for name, points in curves.items():
    for axis, values in zip(axes, list(zip(*points, strict=True))[1:], strict=True):
        axis.plot([p[0] for p in points], values, marker="o", label=name)
for axis, label in zip(axes, ("max-sensitivity", "infidelity"), strict=True):
    axis.set(xlabel="radius of the smoothing", ylabel=label, ylim=(0, None))
axes[0].legend(frameon=False)
figure.savefig(args.out / "smoothing_radius.png", dpi=150)

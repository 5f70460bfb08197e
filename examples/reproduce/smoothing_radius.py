"""
How far to smooth
=================

Sensitivity and infidelity against the radius of SmoothGrad, on MNIST (appendix of Yeh et al. 2019),
uniform noise: local explanations under noisy baselines of standard deviation 0.2, or global ones
under the removal of squares. Radius 0 is the explanation without smoothing.

    python examples/reproduce/smoothing_radius.py --data-root DATA [--form global]

It takes about ten minutes on one core.
"""

from __future__ import annotations

import argparse
import warnings

import matplotlib.pyplot as plt
import torch
from _data import mnist, some
from _explanations import gradient_methods
from _networks import MNIST_NETWORKS, add_arguments, network, predictions
from _report import mean_and_error, new_file, table
from captum.attr import Attribution
from torch import Tensor

from captum_robust import metrics, perturbations

parser = argparse.ArgumentParser(description="SmoothGrad's radius.")
add_arguments(parser, n_images=10)
parser.add_argument("--form", choices=["local", "global"], default="local")
parser.add_argument("--ball", type=float, help="of the max-sensitivity; default: the paper's")
parser.add_argument("--network", choices=MNIST_NETWORKS, default="mnist")
parser.add_argument("--radii", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0])
parser.add_argument("--methods", nargs="+", default=["Grad", "IG", "GBP"])
parser.add_argument("--noises", type=int, default=100, help="noisy copies")
parser.add_argument("--samples", type=int, default=20, help="points of the max-sensitivity")
parser.add_argument("--draws", type=int, default=5000, help="perturbations of the infidelity")
args = parser.parse_args()

warnings.filterwarnings("ignore", message="Setting .* hooks on ReLU activations")
torch.set_flush_denormal(True)
model = network(args.network, args)
is_global = args.form == "global"
perturbation = perturbations.SquareRemoval() if is_global else perturbations.GaussianBaseline(0.2)
ball = args.ball or (0.1 if is_global else 0.2)
images = some(mnist(args.data_root, False)[0], args.n_images, args.seed).to(args.device)
classes = predictions(model, images)


def measure(method: Attribution) -> tuple[Tensor, Tensor]:
    """Max-sensitivity in the ball, and infidelity of the explanation scaled as serves it best."""
    seeded = torch.Generator(args.device).manual_seed
    maps = method.attribute(images, target=classes)
    sensitivity = metrics.sensitivity_max(
        method.attribute, images, perturb_radius=ball, n_perturb_samples=args.samples,
        max_examples_per_batch=len(images), generator=seeded(args.seed), target=classes,
    )  # fmt: skip
    infidelity = metrics.infidelity(
        model, perturbation, images, maps, target=classes, normalize=True,
        n_perturb_samples=args.draws, generator=seeded(args.seed),
    )  # fmt: skip
    return sensitivity.cpu(), infidelity.cpu()


rows = [["explanation", "radius", "SENS", "/ unsmoothed", "INFD", "/ unsmoothed"]]
curves: dict[str, list[tuple[float, float, float]]] = {}
for radius in [0.0, *args.radii]:
    options = {"radius": radius or 1.0, "n_samples": args.noises, "seed": args.seed}
    methods = gradient_methods(model, multiply_by_inputs=is_global, **options)
    for name in args.methods:
        sensitivity, infidelity = measure(methods[f"{name}-SG" if radius else name])
        point = (radius, sensitivity.mean().item(), infidelity.mean().item())
        _, *plain = curves.setdefault(name, [point])[0]
        curves[name] += [point] * (radius > 0)
        texts = (mean_and_error(sensitivity), mean_and_error(infidelity))
        ratios = [f"{value / first:.2f}" for value, first in zip(point[1:], plain, strict=True)]
        rows.append([name, f"{radius:g}", texts[0], ratios[0], texts[1], ratios[1]])
        print(*rows[-1], flush=True)

title = (
    f"Network {args.network}, {args.form} explanations, {args.n_images} images, {args.noises} "
    f"noisy copies, sensitivity at radius {ball:g} with {args.samples} points, infidelity of "
    f"{args.draws} draws of {perturbation}, seed {args.seed}"
)
stem = f"smoothing_radius_{args.form}_{args.network}_ball_{ball:g}"
ordered = [rows[0], *sorted(rows[1:], key=lambda row: row[0])]
table(ordered, title, new_file(args.out, f"{stem}.txt"))
figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
for name, points in curves.items():
    for axis, values in zip(axes, list(zip(*points, strict=True))[1:], strict=True):
        axis.plot([p[0] for p in points], values, marker="o", label=name)
for axis, label in zip(axes, ("max-sensitivity", "infidelity"), strict=True):
    axis.set(xlabel="radius of the smoothing", ylabel=label, ylim=(0, None))
axes[0].legend(frameon=False)
figure.savefig(args.out / f"{stem}.png", dpi=150)

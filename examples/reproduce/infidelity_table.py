"""
Infidelity and sensitivity
==========================

Table 1 of Yeh et al. (2019): how much a small change of the image changes an explanation, and how
badly the explanation accounts for what perturbations of the image do to the output. The explained
output is the logit of the predicted class; images and noise are drawn with fixed seeds.

    python examples/reproduce/infidelity_table.py --data-root DATA [--tables local mnist cifar10]
    python examples/reproduce/infidelity_table.py --data-root DATA --tables imagenet

It takes some ten minutes for each table on one core; for ``--samples 50 --slow-samples 50
--n-images 50``, as in the paper, a night. ``imagenet`` needs the ``demo`` extra and photographs
in DATA/imagenet; there, fewer images and samples are the default, see ``SETTINGS``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import dataclass, replace

import torch
from _data import cifar10, mnist, photographs, some
from _explanations import gradient_methods
from _networks import (
    MNIST_NETWORKS,
    add_arguments,
    add_photographs,
    efficientnet,
    folder_of_photographs,
    network,
    predictions,
)
from _report import mean_and_error, new_file, table
from captum.attr import Attribution
from torch import Tensor, nn

from captum_robust import attr, metrics, perturbations
from captum_robust.visualization import explanation_grid


@dataclass(frozen=True)
class Setting:
    """One part of the table: what is explained, how, and what the paper has."""

    network: str
    perturbation: perturbations.Perturbation
    baseline: float
    radius: float
    noises: int
    n_images: int
    samples: int
    slow_samples: int
    draws: int
    squares: int | None
    paper: dict[str, tuple[float, float]]


SQUARES = perturbations.SquareRemoval(range(1, 11))
SETTINGS = {
    "local": Setting(
        "mnist", perturbations.GaussianBaseline(0.2), 0.0, 0.2, 500, 10, 20, 20, 10_000, None,
        {
            "Grad": (0.86, 4.12), "Grad-SG": (0.23, 1.84), "IG": (0.77, 2.75),
            "IG-SG": (0.22, 1.52), "GBP": (0.85, 4.13), "GBP-SG": (0.23, 1.84), "NB": (0.35, 0.51),
        },
    ),
    "mnist": Setting(
        "mnist", SQUARES, 0.0, 0.1, 50, 10, 20, 2, 10_000, None,
        {
            "Grad": (0.56, 2.38), "Grad-SG": (0.28, 1.89), "IG": (0.47, 1.88),
            "IG-SG": (0.26, 1.72), "GBP": (0.58, 2.38), "GBP-SG": (0.29, 1.88),
            "SHAP": (0.35, 1.20), "Square": (0.24, 0.46),
        },
    ),
    "cifar10": Setting(
        "cifar10", SQUARES, 0.5, 0.1, 50, 10, 20, 1, 5_000, None,
        {
            "Grad": (1.15, 15.99), "Grad-SG": (1.15, 13.94), "IG": (1.08, 16.03),
            "IG-SG": (0.90, 15.90), "GBP": (1.18, 15.99), "GBP-SG": (1.15, 13.93),
            "SHAP": (0.93, 5.78), "Square": (0.99, 2.27),
        },
    ),
    "imagenet": Setting(
        "efficientnet", perturbations.SquareRemoval(range(8, 81, 8)), 0.5, 0.1, 10, 2, 2, 2,
        300, 500,
        {
            "Grad": (1.16, 0.25), "Grad-SG": (0.59, 0.24), "IG": (0.93, 0.24),
            "IG-SG": (0.48, 0.23), "GBP": (1.09, 0.15), "GBP-SG": (0.41, 0.15),
            "Square": (1.33, 0.04),
        },
    ),
}  # fmt: skip

parser = argparse.ArgumentParser(description="Table 1 of Yeh et al. (2019).")
add_arguments(parser, n_images=None)
parser.add_argument("--tables", nargs="+", choices=SETTINGS, default=["local", "mnist", "cifar10"])
add_photographs(parser)
parser.add_argument("--methods", nargs="+", help="beside Grad; default: all of the table")
parser.add_argument("--mnist-network", choices=MNIST_NETWORKS, default="mnist")
numbers = [
    ("--samples", "points of the max-sensitivity"),
    ("--slow-samples", "the same for SHAP and Square"),
    ("--noises", "noisy copies of SmoothGrad"),
    ("--draws", "perturbations of the infidelity"),
    ("--squares", "squares of which Square is made; default: all, 500 for imagenet"),
]
for option, meaning in numbers:
    parser.add_argument(option, type=int, help=meaning)
parser.add_argument("--subsets", type=int, default=20_000, help="of features, for SHAP")
parser.add_argument("--batch", type=int, help="images that the network is given at once")
args = parser.parse_args()


def load(setting: Setting) -> tuple[nn.Module, Tensor]:
    """The network and the images."""
    if setting.network == "efficientnet":
        return efficientnet(args), photographs(
            folder_of_photographs(args), setting.n_images, args.seed
        )
    images, _ = (mnist if "mnist" in setting.network else cifar10)(args.data_root, False)
    return network(setting.network, args), some(images, setting.n_images, args.seed)


class Drawing(Attribution):
    """A method that draws perturbations: fresh ones in every call."""

    def __init__(self, method: Attribution, **options: object) -> None:
        super().__init__(method.forward_func)
        generator = torch.Generator(args.device).manual_seed(args.seed)
        self.method, self.options = method, {"generator": generator, **options}

    def attribute(self, inputs: Tensor, target: Tensor) -> Tensor:
        return self.method.attribute(inputs, target=target, **self.options)


def methods_of(
    setting: Setting, model: nn.Module, size: tuple[int, int], batch: int
) -> dict[str, Attribution]:
    """The explanations of the table, in its order."""
    removal = isinstance(setting.perturbation, perturbations.SquareRemoval)
    found = gradient_methods(
        model,
        multiply_by_inputs=removal,
        baseline=setting.baseline,
        n_samples=setting.noises,
        batch=batch,
        seed=args.seed,
    )
    if not removal:
        # The draws of the optimum: twenty thousand outputs in the paper, gradients here.
        return {**found, "NB": Drawing(attr.NoisyBaseline(model, 0.2), n_samples=200)}
    options = {"baselines": setting.baseline, "perturbations_per_eval": batch}
    if "SHAP" in setting.paper:
        shapley = attr.InfidelityOptimal(model, perturbations.ShapleyRemoval())
        # A pixel is a feature, through all channels, as it is in a square.
        pixels = torch.arange(size[0] * size[1], device=args.device).view(1, 1, *size)
        found["SHAP"] = Drawing(shapley, n_samples=args.subsets, feature_mask=pixels, **options)
    square = attr.Square(model, setting.perturbation.sizes)
    return {**found, "Square": Drawing(square, n_samples=setting.squares, **options)}


def measure(name: str, setting: Setting, model: nn.Module, images: Tensor) -> dict[str, tuple]:
    """Sensitivity, infidelity and explanations of each method."""
    batch = args.batch or (8 if setting.network == "efficientnet" else 1000)
    classes, results = predictions(model, images), {}
    methods = methods_of(setting, model, images.shape[-2:], batch)
    chosen = {m: methods[m] for m in methods if m in ("Grad", *(args.methods or methods))}
    for method_name, method in chosen.items():
        start = time.perf_counter()
        slow = method_name in ("SHAP", "Square")
        seeded = torch.Generator(args.device).manual_seed  # the same draws for every method
        maps = torch.cat(
            [
                method.attribute(x[None], target=c[None])
                for x, c in zip(images, classes, strict=True)
            ]
        )
        sensitivity = torch.cat(
            [
                metrics.sensitivity_max(
                    method.attribute, x[None], perturb_radius=setting.radius,
                    n_perturb_samples=setting.slow_samples if slow else setting.samples,
                    max_examples_per_batch=1 if slow or "SG" in method_name else batch,
                    generator=seeded(args.seed + i), target=classes[i : i + 1],
                )
                for i, x in enumerate(images)
            ]
        )  # fmt: skip
        infidelity = metrics.infidelity(
            model, setting.perturbation, images, maps, setting.baseline, classes,
            n_perturb_samples=setting.draws, max_examples_per_batch=max(batch, len(images)),
            normalize=True, generator=seeded(args.seed),
        )  # fmt: skip
        results[method_name] = (sensitivity.cpu(), infidelity.cpu(), maps.cpu())
        seconds = time.perf_counter() - start
        print(
            f"{name}, {method_name}: {sensitivity.mean():.3f}, {infidelity.mean():.4g}, "
            f"{seconds:.0f} s", flush=True,
        )  # fmt: skip
    return results


def run(name: str) -> None:
    """Make one part of the table, and its figure."""
    setting = SETTINGS[name]
    options = ("n_images", "samples", "slow_samples", "noises", "draws", "squares")
    given = {o: getattr(args, o) for o in options if getattr(args, o) is not None}
    setting = replace(setting, **given)
    if setting.network == "mnist":
        setting = replace(setting, network=args.mnist_network)
    model, images = load(setting)
    images = images.to(args.device)
    results = measure(name, setting, model, images)
    grad_sensitivity, grad_infidelity = (r.mean() for r in results["Grad"][:2])
    paper_grad = setting.paper["Grad"]
    rows = [["method", "SENS", "/ Grad", "paper", "/ Grad", "INFD", "/ Grad", "paper", "/ Grad"]]
    for method, (sensitivity, infidelity, _) in results.items():
        paper = setting.paper[method]
        rows.append(
            [
                method, mean_and_error(sensitivity),
                f"{sensitivity.mean() / grad_sensitivity:.2f}",
                f"{paper[0]:.2f}", f"{paper[0] / paper_grad[0]:.2f}",
                mean_and_error(infidelity), f"{infidelity.mean() / grad_infidelity:.2f}",
                f"{paper[1]:.2f}", f"{paper[1] / paper_grad[1]:.2f}",
            ]
        )  # fmt: skip
    title = (
        f"{name}: network {setting.network}, {setting.n_images} images, sensitivity at radius "
        f"{setting.radius:g} with {setting.samples} points ({setting.slow_samples} for SHAP "
        f"and Square), SG of {setting.noises}, infidelity of {setting.draws} perturbations, "
        f"baseline {setting.baseline:g}, seed {args.seed}"
    )
    stem = (
        f"infidelity_{name}" if setting.network == name else f"infidelity_{name}_{setting.network}"
    )
    table(rows, title, new_file(args.out, f"{stem}.txt"))
    torch.save({m: r[:2] for m, r in results.items()}, args.out / f"{stem}.pt")
    shown = [maps[:4] for *_, maps in results.values()]
    figure = explanation_grid(images[:4].cpu(), shown, None, ["image", *results], sign="all")
    figure.savefig(args.out / f"{stem}.png", dpi=150)


warnings.filterwarnings("ignore", message="Setting .* hooks on ReLU activations")
warnings.filterwarnings("ignore", message="Input Tensor 0 did not already require gradients")
torch.set_flush_denormal(True)
for part in args.tables:
    run(part)

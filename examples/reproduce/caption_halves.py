"""
Image or caption
================

Table 3 of Yeh et al. (2019): pictures of a bird or a frog on the left and the word "bird" or "frog"
on the right; one network uses the image, one the caption. How badly do explanations account for the
removal of a half, and do they point to the half that is used?

The paper asked people which half a network uses, by looking at its explanation. Nobody is asked
here: in their place, a count of the explanations whose absolute values lie mostly in that half.

    python examples/reproduce/caption_halves.py --data-root DATA

It takes some minutes on one core, of which the training takes most.
"""

from __future__ import annotations

import argparse
import warnings

import torch
from _data import birds_and_frogs, captioned, some
from _explanations import gradient_methods
from _networks import accuracy, add_arguments, network, predictions
from _report import mean_and_error, new_file, table
from torch import Tensor, nn

from captum_robust import attr, metrics, perturbations
from captum_robust.visualization import explanation_grid

PAPER = {"Grad": (0.55, 0.47), "Grad-SG": (0.38, 0.50), "IG": (0.35, 0.53), "OPT": (0.00, 0.88)}

parser = argparse.ArgumentParser(description="Table 3 of Yeh et al. (2019).")
add_arguments(parser, n_images=200)
parser.add_argument("--noises", type=int, default=50, help="noisy copies of SmoothGrad")
args = parser.parse_args()

warnings.filterwarnings("ignore", message="Setting .* hooks on ReLU activations")
torch.set_flush_denormal(True)
clean = captioned(
    *birds_and_frogs(args.data_root, False), 0.0, torch.Generator().manual_seed(args.seed)
)
pictures, labels = clean
halves = torch.zeros(1, 1, 32, 64, dtype=torch.long, device=args.device)
halves[..., 32:] = 1


def only(half: int) -> Tensor:
    """The test pictures, the other half black."""
    return torch.where(halves.cpu() == half, pictures, 0.0)


def accuracies(name: str, model: nn.Module) -> list[str]:
    """What the network knows from both halves, and from each alone."""
    inputs = (pictures, only(0), only(1))
    return [name, *[f"{accuracy(model, x, labels):.3f}" for x in inputs]]


def explain(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Global explanations of the predicted class; a removed half is black."""
    target = predictions(model, images)
    found = gradient_methods(
        model, multiply_by_inputs=True, n_samples=args.noises, seed=args.seed, names=("Grad", "IG")
    )
    maps = {name: found[name].attribute(images, target=target) for name in list(PAPER)[:3]}
    optimal = attr.InfidelityOptimal(model, perturbations.FeatureRemoval())
    maps["OPT"] = optimal.attribute(images, target=target, feature_mask=halves)
    return maps


networks = {
    "image is wrong in 0 %": network("captions-p0", args),
    "image is wrong in 60 %": network("captions-p0.6", args),
    "caption is random": network("captions-random", args),
}
file = new_file(args.out, "caption_halves.txt")
rows = [accuracies(name, model) for name, model in networks.items()]
table(
    [["trained where the", "both", "image only", "caption only"], *rows],
    f"Accuracy on {len(pictures)} test pictures whose halves agree",
    file,
)

images = some(pictures, args.n_images, args.seed).to(args.device)
used = {"caption is random": 0, "image is wrong in 60 %": 1}
infidelity: dict[str, list[Tensor]] = {name: [] for name in PAPER}
relative: dict[str, list[Tensor]] = {name: [] for name in PAPER}
pointing: dict[str, list[Tensor]] = {name: [] for name in PAPER}
shown: dict[str, list[Tensor]] = {name: [] for name in PAPER}
for network_name, half in used.items():
    model = networks[network_name]
    target, both_halves = predictions(model, images), torch.stack([halves == 0, halves == 1])
    with torch.no_grad():
        kept = [images, *(torch.where(h, 0.0, images) for h in both_halves)]
        outputs = torch.cat([model(x).gather(1, target[:, None]) for x in kept], dim=1)
    effects = (outputs[:, :1] - outputs[:, 1:]).square().mean(1)
    for name, maps in explain(model, images).items():
        # Draws of the two halves come close to the mean over both.
        values = metrics.infidelity(
            model, perturbations.FeatureRemoval(), images, maps, target=target,
            feature_mask=halves, n_perturb_samples=200, normalize=True,
            generator=torch.Generator(args.device).manual_seed(args.seed),
        )  # fmt: skip
        infidelity[name].append(values.cpu())
        relative[name].append((values / effects).cpu())
        mass = [maps.abs().where(h, 0.0).sum((1, 2, 3)) for h in both_halves]
        pointing[name].append((mass[half] > mass[1 - half]).float().cpu())
        shown[name].append(maps[:2].cpu())

rows = [["explanation", "INFD", "share of the effect", "paper", *used, "mean", "people"]]
for name, (paper_infidelity, paper_people) in PAPER.items():
    shares = [hits.mean().item() for hits in pointing[name]]
    rows.append(
        [
            name, mean_and_error(torch.cat(infidelity[name])),
            mean_and_error(torch.cat(relative[name])), f"{paper_infidelity:.2f}",
            *[f"{share:.2f}" for share in shares], f"{sum(shares) / 2:.2f}", f"{paper_people:.2f}",
        ]
    )  # fmt: skip
table(
    rows,
    f"Infidelity of the removal of a half, over both networks, {args.n_images} pictures, SG of "
    f"{args.noises}, seed {args.seed}; then how often most of the absolute mass lies in the half "
    "that the network uses",
    file,
)
titles = [f"{name} ({i + 1})" for name in used for i in range(2)]
figure = explanation_grid(
    images[:2].repeat(2, 1, 1, 1).cpu(), [torch.cat(maps) for maps in shown.values()], titles,
    ["picture", *PAPER],
)  # fmt: skip
figure.savefig(args.out / "caption_halves.png", dpi=150)

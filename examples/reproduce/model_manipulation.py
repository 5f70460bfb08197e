"""
Manipulated models
==================

Heo, Joo and Moon (2019): a network is trained on until an explanation of it lies, while its
predictions stay. The network is that of the zoo; the explanations are the gradient, Grad-CAM and
relevance propagation. Each passive fooling (location: the frame of the map; top-k: a tenth of the
pixels; centre of mass) is trained against each explanation and judged on all three: the *fooling
success rate*, the share of test images whose map is within the paper's thresholds. Active fooling
makes the explanations of two classes change places; it trains the last layer alone. Its
last row needs no training: taking the logits of both classes off every logit leaves each softmax as
it is, and makes each of the two gradients minus the other.

    python examples/reproduce/model_manipulation.py --data-root DATA

Networks that are not in ``--networks`` are trained first, a minute or two each on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from _data import fashion_mnist
from _networks import accuracy
from _report import new_file, table
from captum.attr import Attribution, LayerGradCam, Saliency
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from captum_robust import metrics
from captum_robust.attr import RelevancePropagation
from captum_robust.training import (
    ActiveFooling,
    LocationFooling,
    MassCenterFooling,
    ModelManipulation,
    TopKFooling,
    Trainer,
)
from captum_robust.zoo import fashion_mnist_cnn

CLASSES = (4, 6)  # coat and shirt, which change places
BATCH, RATE, RATE_OF_LAST_LAYER = 20, 2e-3, 1e-2
FOOLINGS = ["location", "top-k", "centre of mass", "active"]
# The weight of each fooling and its steps; a lighter weight and more steps cost less accuracy.
SETTINGS = {"location": (20.0, 120), "top-k": (3.0, 120), "active": (100.0, 240)} | {
    ("location", "LRP"): (3.0, 240),
    ("centre of mass", "gradient"): (2.0, 240),
    ("centre of mass", "Grad-CAM"): (1.0, 240),
    ("centre of mass", "LRP"): (1.0, 240),
    ("top-k", "LRP"): (0.3, 240),
}

parser = argparse.ArgumentParser(description="Manipulated models.")
parser.add_argument("--data-root", type=Path, default=Path("data"))
parser.add_argument("--networks", type=Path, default=Path("networks"))
parser.add_argument("--out", type=Path, default=Path("results"))
parser.add_argument("--n-images", type=int, default=1000)
parser.add_argument("--steps", type=int, help="of training; default: see SETTINGS")
parser.add_argument("--weight", type=float, help="of the foolings; default: see SETTINGS")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--foolings", nargs="+", choices=FOOLINGS, default=FOOLINGS)
parser.add_argument("--explanations", nargs="+", default=["gradient", "Grad-CAM", "LRP"])
args = parser.parse_args()
torch.set_flush_denormal(True)


# %%
# Three explanations, and their maps
# ----------------------------------
original = fashion_mnist_cnn()


def grad_cam(model: nn.Module) -> Attribution:
    """Of the second convolution's 14 x 14 pixels."""
    return LayerGradCam(model, model.relu2)


EXPLANATIONS: dict[str, Callable[[nn.Module], Attribution]] = {
    "gradient": Saliency, "Grad-CAM": grad_cam, "LRP": RelevancePropagation,
}  # fmt: skip
SIDES = {"gradient": 28, "Grad-CAM": 14, "LRP": 28}


KNOWN: dict[tuple, Tensor] = {}  # maps of the original, which are asked for again and again


def maps(model: nn.Module, name: str, images: Tensor, classes: Tensor) -> Tensor:
    """The maps of an explanation, (N, side, side)."""
    key = (name, len(images), classes.sum().item())
    if model is original and key in KNOWN:
        return KNOWN[key]
    explanation = EXPLANATIONS[name](model)
    parts = []
    for x, y in zip(images.split(100), classes.split(100), strict=True):
        found = explanation.attribute(x.detach().clone().requires_grad_(), target=y)
        parts.append(found.detach().abs().sum(1))
    if model is original:
        KNOWN[key] = torch.cat(parts)
    return torch.cat(parts)


def frame(side: int) -> Tensor:
    """1 on the outermost fourteenth of a map on each side, 0 inside."""
    width = side // 14
    mask = torch.ones(side, side)
    mask[width:-width, width:-width] = 0
    return mask


# %%
# The foolings, and how they are judged
# -------------------------------------
def settings(fooling: str, name: str) -> tuple[float, int]:
    """The weight of a fooling, and how many steps it is trained for."""
    weight, steps = SETTINGS.get((fooling, name)) or SETTINGS[fooling]
    return args.weight or weight, args.steps or steps


def objective(fooling: str, name: str) -> ModelManipulation:
    """The objective that fools an explanation."""
    explanation, options = EXPLANATIONS[name], {"weight": settings(fooling, name)[0]}
    side = SIDES[name]
    if fooling == "location":
        return LocationFooling(frame(side), explanation, **options)
    if fooling == "top-k":
        return TopKFooling(side * side // 10, explanation, **options)
    if fooling == "centre of mass":
        return MassCenterFooling(explanation, **options)
    return ActiveFooling(*CLASSES, explanation, **options)


def rate(fooling: str, before: nn.Module, after: nn.Module, name: str, images: Tensor) -> str:
    """The fooling success rate, with its 95 % interval."""
    with torch.no_grad():
        classes = before(images).argmax(1)
    within = metrics.FoolingIntervals()
    if fooling == "active":
        values, interval = [], within.active
        chosen = images[(classes == CLASSES[0]) | (classes == CLASSES[1])]
        for one, other in (CLASSES, CLASSES[::-1]):
            first, second = (torch.full((len(chosen),), c) for c in (one, other))
            original, swapped = (maps(before, name, chosen, c) for c in (first, second))
            manipulated = maps(after, name, chosen, first)
            values.append(metrics.active_fooling(original, swapped, manipulated))
        # Both explanations of an image must have changed.
        found = torch.stack(values).amin(0)
    else:
        new = maps(after, name, images, classes)
        if fooling == "location":
            found, interval = metrics.location_fooling(new, frame(SIDES[name])), within.location
        else:
            old = maps(before, name, images, classes)
            if fooling == "top-k":
                k = SIDES[name] ** 2 // 10
                found, interval = metrics.top_k_fooling(old, new, k), within.top_k
            else:
                found, interval = metrics.center_mass_fooling(old, new), within.center_mass
    result = metrics.fooling_success_rate(found, interval)
    return f"{result.rate:.3f} ({result.low:.2f} to {result.high:.2f})"


# %%
# Training: the labels are not needed
# -----------------------------------
def manipulated(fooling: str, name: str, images: Tensor) -> nn.Module:
    """The network after a fooling, from ``--networks`` or trained."""
    weight, steps = settings(fooling, name)
    kind = f"{fooling.replace(' ', '-')}-{name}-{weight:g}-{steps}"
    path = args.networks / f"fooled-{kind}-{args.seed}.pt"
    model = fashion_mnist_cnn()
    if not path.exists():
        wanted = images
        if fooling == "active":
            with torch.no_grad():
                classes = torch.cat([model(x).argmax(1) for x in images[:20_000].split(500)])
            pair = (classes == CLASSES[0]) | (classes == CLASSES[1])
            # Half of a batch are images of the two classes, the others keep the predictions.
            chosen, rest = images[:20_000][pair], images[:20_000][~pair][: int(pair.sum())]
            wanted = torch.stack([chosen[: len(rest)], rest], 1).flatten(0, 1)
        order = torch.randperm(len(wanted), generator=torch.Generator().manual_seed(args.seed))
        first, rate = (-2, RATE_OF_LAST_LAYER) if fooling == "active" else (0, RATE)
        trainer = Trainer(
            model, objective(fooling, name),
            lambda parameters: torch.optim.Adam(list(parameters)[first:], lr=rate),
            scheduler=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, rate, total_steps=steps),
            seed=args.seed,
        )  # fmt: skip
        loader = DataLoader(wanted[order[: BATCH * steps]], BATCH, shuffle=True)
        trainer.fit(loader, 1)
        args.networks.mkdir(parents=True, exist_ok=True)
        torch.save(trainer.weights(), path)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def swapped_by_hand() -> nn.Module:
    """The network with f_c - f_a - f_b instead of each logit f_c: nothing is trained."""
    model = fashion_mnist_cnn()
    with torch.no_grad():
        for parameter in model.dense2.parameters():
            parameter -= parameter[list(CLASSES)].sum(0)
    return model


def judgement(fooling: str, name: str, network: nn.Module) -> list[str]:
    """A row of the table."""
    with torch.no_grad():
        same = [original(x).argmax(1) == network(x).argmax(1) for x in test_images.split(500)]
    share = torch.cat(same).float().mean()
    row = [name, f"{accuracy(network, test_images, test_labels):.4f}", f"{share:.4f}"]
    row += [rate(fooling, original, network, n, judged) for n in EXPLANATIONS]
    print(*row, flush=True)
    return row


images, _ = fashion_mnist(args.data_root, True)
test_images, test_labels = fashion_mnist(args.data_root, False)
judged = test_images[: args.n_images]

file = new_file(args.out, "model_manipulation.txt")
for fooling in args.foolings:
    head = ["explanation fooled", "accuracy", "agreement", *(f"rate: {n}" for n in EXPLANATIONS)]
    rows = [head, judgement(fooling, "none", original)]
    rows += [
        judgement(fooling, name, manipulated(fooling, name, images))
        for name in tqdm(args.explanations, desc=fooling)
    ]
    if fooling == "active":
        rows.append(judgement(fooling, "by hand", swapped_by_hand()))
    table(rows, f"{fooling}, {len(judged)} test images", file)

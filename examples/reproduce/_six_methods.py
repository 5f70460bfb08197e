"""The six explanations of Dombrowski et al. (2019), and pairs of photographs they forge."""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _data import cifar10, photographs, some
from _networks import TORCHVISION, efficientnet, network, of_torchvision
from captum.attr import Attribution, InputXGradient, IntegratedGradients, Saliency
from torch import Tensor, nn

from captum_robust.attacks import Dombrowski, GeometricGrowth, LinearDecay
from captum_robust.attr import (
    BetaSmoothing,
    GuidedBackprop,
    PatternAttribution,
    Patterns,
    RelevancePropagation,
    learn_patterns,
)
from captum_robust.metrics import explained_relevance

METHODS: dict[str, Callable[..., Attribution]] = {
    "gradient": Saliency,
    "gradient x input": InputXGradient,
    "integrated gradients": IntegratedGradients,
    "guided backprop": GuidedBackprop,
    "LRP": RelevancePropagation,
    "pattern attribution": PatternAttribution,
}


class Settings(NamedTuple):
    """How one of them is attacked."""

    steps: int = 300
    alpha: float = 1e-3
    final_alpha: float | None = None
    sharpness: tuple[float, float] = (10.0, 100.0)
    eps: float = 1.0


# What brings EfficientNet-Lite0's maps nearest to their target. Those of guided backpropagation
# move only while the surrogate is soft; the surrogate of integrated gradients is like the network
# only where it is sharp, since inputs near the black baseline give small activations.
SETTINGS = {name: Settings() for name in METHODS} | {
    "guided backprop": Settings(alpha=2e-3, sharpness=(5.0, 20.0)),
    "integrated gradients": Settings(200, 2e-3, 5e-4, (50.0, 100.0)),
}


class Explainer(NamedTuple):
    """An explanation and the options that it is always called with."""

    method: Attribution
    options: dict[str, Any]

    def look(self, image: Tensor, label: Tensor) -> Tensor:
        """The relevance map, (1, H, W)."""
        return explained_relevance(self.method, image, label, **self.options)

    def smoothed(self, beta: float) -> Explainer:
        """The same with the rectifiers of the network smoothed."""
        return Explainer(BetaSmoothing(self.method, beta), self.options)


def explainer(
    name: str, model: nn.Module, patterns: Callable[[], Patterns], n_steps: int = 10
) -> Explainer:
    """The explanation ``name``, one of ``METHODS``; patterns are asked for where it needs them."""
    more = {"patterns": patterns()} if name == "pattern attribution" else {}
    options = {"n_steps": n_steps} if name == "integrated gradients" else {}
    return Explainer(METHODS[name](model, **more), options)


def attacked_network(args: Namespace) -> nn.Module:
    """``args.network`` for images in [0, 1], whose weights need no gradients."""
    if args.network in TORCHVISION and args.weights is None:
        raise SystemExit(f"--network {args.network} needs --weights, a file of its state_dict")
    if args.network == "cifar10":
        model = network("cifar10", args)
    elif args.network in TORCHVISION:
        model = of_torchvision(args.network, args.weights, args.device)
    else:
        model = efficientnet(args)
    return model.requires_grad_(False)


def folder(args: Namespace) -> Path:
    """Where everything of the network goes; made where it is absent."""
    path: Path = args.out / args.network
    path.mkdir(parents=True, exist_ok=True)
    return path


def explainer_of_images(name: str, model: nn.Module, args: Namespace) -> Explainer:
    """The same, with the patterns of the images."""
    return explainer(name, model, lambda: _patterns(model, args), args.n_steps)


def manipulated(
    name: str,
    number: int,
    explanation: Explainer,
    image: Tensor,
    other: Tensor,
    args: Namespace,
) -> tuple[Tensor, float]:
    """The photograph that gets the map of the other one, and the seconds that a step took.

    From a file where there is one.
    """
    asked = {key: getattr(args, key) for key in Settings._fields}
    changed = {key: value for key, value in asked.items() if value is not None}
    settings = SETTINGS[name]._replace(**changed)
    stem = f"{name.replace(' ', '_')}-{number}"
    stem += "" if args.smoothed is None else f"-beta{args.smoothed:g}"
    for key, value in changed.items():
        stem += f"-{key}" + "-".join(f"{v:g}" for v in np.atleast_1d(value))
    image_file, time_file = (folder(args) / f"{stem}.{end}" for end in ("npy", "json"))
    if not time_file.exists():
        model = explanation.method.forward_func
        with torch.no_grad():
            label = model(other).argmax(1)
        alpha, final = settings.alpha, settings.final_alpha
        attack = Dombrowski(
            model, explanation.method, settings.eps,
            alpha=alpha if final is None else LinearDecay(alpha, final), steps=settings.steps,
            beta=GeometricGrowth(*settings.sharpness),
            explanation_kwargs=explanation.options, show_progress=True,
        )  # fmt: skip
        start = time.perf_counter()
        found = attack(image, None, explanation.look(other, label))
        seconds = time.perf_counter() - start
        np.save(image_file, found.cpu().numpy())
        time_file.write_text(json.dumps({"seconds per step": seconds / settings.steps}))
    seconds_per_step = json.loads(time_file.read_text())["seconds per step"]
    return torch.from_numpy(np.load(image_file)).to(image), seconds_per_step


def pairs(args: Namespace) -> list[tuple[Tensor, Tensor]]:
    """Pairs of photographs, drawn with ``args.seed``."""
    drawn = _images(args, 2 * args.n_pairs).to(args.device)
    return list(zip(drawn[::2].split(1), drawn[1::2].split(1), strict=True))


def add_arguments(parser: ArgumentParser) -> None:
    """The options that the scripts share."""
    parser.add_argument(
        "--data-root", type=Path, required=True, help="folder of photographs, or of CIFAR-10"
    )
    parser.add_argument(
        "--network", choices=["efficientnet-lite0", "cifar10", *TORCHVISION],
        default="efficientnet-lite0",
    )  # fmt: skip
    parser.add_argument("--weights", type=Path, help="state_dict of a network of torchvision")
    parser.add_argument(
        "--networks", type=Path, default=Path("reproductions/networks"), help="where cifar10 is"
    )
    parser.add_argument("--n-pairs", type=int, default=4)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    # Settings of the attack: each explanation has its own where nothing is given.
    parser.add_argument("--steps", type=int, help="of the attack")
    parser.add_argument("--alpha", type=float, help="the attack's learning rate")
    parser.add_argument("--final-alpha", type=float, help="where the rate falls to, step by step")
    parser.add_argument(
        "--sharpness", type=float, nargs=2, metavar=("FIRST", "LAST"), help="of its softplus"
    )
    parser.add_argument("--eps", type=float, help="the largest change of a pixel")
    parser.add_argument("--smoothed", type=float, help="attack the explanation smoothed by this")
    parser.add_argument("--n-steps", type=int, default=10, help="of integrated gradients")
    parser.add_argument("--seed", type=int, default=0, help="draws the pairs, the attack nothing")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("reproductions/six_methods"))


def _patterns(model: nn.Module, args: Namespace) -> Patterns:
    """Those of the network, learned once from all photographs and kept."""
    path = folder(args) / "patterns.npz"
    if not path.exists():
        learn_patterns(model, _images(args, 1000).split(4), show_progress=True).save(path)
    return Patterns.load(path)


def _images(args: Namespace, n: int) -> Tensor:
    """The first ``n`` in an order drawn with ``args.seed``; all where there are fewer."""
    if args.network == "cifar10":
        return some(cifar10(args.data_root, train=False)[0], n, args.seed)
    return photographs(args.data_root, n, args.seed)

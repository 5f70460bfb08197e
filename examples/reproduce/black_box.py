"""
Attacks that only ask
=====================

``BlackBoxExplanationAttack`` against explanations that cannot be backpropagated (Occlusion, LIME,
KernelSHAP), beside the best of as many random draws (``RandomSign``); and against the gradient,
beside the ensemble that follows gradients. The network and the images are the zoo's. The first
three explain squares of 7 x 7 pixels, of which the 5 most relevant are compared, or of 4 x 4
(``--side 4``), of which it is 12; of the gradient it is the 50 most relevant pixels.

    OMP_NUM_THREADS=1 python examples/reproduce/black_box.py [--n-images 30 --queries 2000]

With the defaults it takes some minutes. Each finished row is written to ``black_box.json`` at once,
and a second call goes on from there.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import torch
from _report import mean_and_error, table
from _square_explainers import SquareLime, SquareShap
from captum.attr import Attribution, Occlusion, Saliency
from torch import Tensor
from tqdm import tqdm

from captum_robust.attacks import (
    AutoExplanationAttack,
    BlackBoxExplanationAttack,
    ExplanationAttack,
    RandomSign,
    TopKIntersection,
)
from captum_robust.zoo import fashion_mnist_cnn, fashion_mnist_sample

COMPARED = {4: 12, 7: 5}  # of 49 and of 16 squares
NAMES = ["Occlusion", "LIME", "KernelSHAP", "gradient"]

parser = argparse.ArgumentParser(description="Attacks by queries alone.")
parser.add_argument("--n-images", type=int, default=4, help="1 to 512")
parser.add_argument("--queries", type=int, default=200)
parser.add_argument("--explanations", nargs="+", choices=NAMES, default=NAMES)
parser.add_argument("--side", type=int, choices=COMPARED, default=7, help="of a square, in pixels")
parser.add_argument("--eps", type=float, default=0.08)
parser.add_argument("--samples", type=int, default=40, help="of LIME and KernelSHAP")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--folder", type=Path, default=Path("results"))
args = parser.parse_args()

warnings.filterwarnings("ignore", message="The attack failed")
torch.set_flush_denormal(True)
model = fashion_mnist_cnn().to(memory_format=torch.channels_last)  # twice as fast on a processor
images, _ = fashion_mnist_sample(args.n_images)


def squares() -> Tensor:
    """Which square each pixel belongs to, (1, 1, 28, 28)."""
    across = torch.arange(28) // args.side
    return (across[:, None] * (28 // args.side) + across)[None, None]


def explanation(name: str) -> tuple[Attribution, dict]:
    """An explanation and its arguments."""
    window = (1, args.side, args.side)
    if name == "Occlusion":
        return Occlusion(model), {
            "sliding_window_shapes": window,
            "strides": window,
            "perturbations_per_eval": 8,
        }
    if name == "gradient":
        return Saliency(model), {}
    kind = SquareLime if name == "LIME" else SquareShap
    return kind(model, squares(), args.samples, args.seed), {}


def attack(name: str, way: str) -> ExplanationAttack:
    """One of the attacks on one of the explanations."""
    method, arguments = explanation(name)
    measure = TopKIntersection(50 if name == "gradient" else COMPARED[args.side] * args.side**2)
    settings = {
        "explanation_kwargs": arguments, "generator": torch.Generator().manual_seed(args.seed),
    }  # fmt: skip
    if way == "random":
        return RandomSign(
            model, method, args.eps, args.queries, **settings,
            objective=lambda clean: lambda seen: measure(clean.relevance, seen.relevance),
        )  # fmt: skip
    if way == "queries":
        return BlackBoxExplanationAttack(
            model, method, args.eps, args.queries, measure=measure, **settings
        )
    return AutoExplanationAttack(model, method, args.eps, measure=measure, budget=1000, **settings)


def left(name: str, way: str) -> list[float]:
    """What is left, for each image."""
    run = attack(name, way)
    run(images)
    return run.report.measure.tolist()


args.folder.mkdir(parents=True, exist_ok=True)
path = args.folder / "black_box.json"
done: dict[str, list[float]] = json.loads(path.read_text()) if path.is_file() else {}
rows = [["explanation", "best of random draws", "queries alone", "white box", "taken off, ratio"]]
for name in tqdm(args.explanations, desc="explanations"):
    cells = {}
    for way in ["random", "queries", *(["gradients"] if name == "gradient" else [])]:
        run = f"{args.n_images}, {args.queries}, {args.samples}, {args.side}, {args.seed}"
        key = f"{name}, {way}, {run}"
        if key not in done:
            done[key] = left(name, way)
            path.write_text(json.dumps(done))
        cells[way] = torch.tensor(done[key])
    shown = {way: mean_and_error(values) for way, values in cells.items()}
    ratio = (1 - cells["queries"].mean()) / (1 - cells["random"].mean())
    rows.append(
        [name, shown["random"], shown["queries"], shown.get("gradients", "."), f"{ratio:.2f}"]
    )
table(
    rows,
    f"Share of the most relevant features that is left: {args.n_images} images, eps {args.eps}, "
    f"{args.queries} queries",
)

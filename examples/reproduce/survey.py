"""
Manipulated inputs and manipulated models, on images and tables
===============================================================

What the survey of Heusser (2020) asks for, on three kinds of data: Fashion-MNIST images, German
credit and recidivism. One table each:

- inputs: one explanation of a network is attacked, and all are judged (Section 4, transfer);
- models: the network is trained on until one explanation lies, and all are judged, beside an honest
  update of as many steps;
- sanity checks (Section 7): is the explanation another once the last layer, or all, are random, of
  the network and of the manipulated one?

    python examples/reproduce/survey.py --data-root DATA

DATA holds Fashion-MNIST, ``german_credit.csv`` and ``compas.csv`` (or a folder ``tabular`` that
does). Some minutes on one core.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _data import fashion_mnist
from _networks import accuracy, fit
from _report import new_file, table
from _tables import Table, german_credit, recidivism
from captum.attr import Attribution, InputXGradient, IntegratedGradients, Saliency
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from captum_robust import attacks, metrics
from captum_robust.attr import RelevancePropagation
from captum_robust.training import CrossEntropy, TopKFooling, Trainer
from captum_robust.zoo import fashion_mnist_cnn

parser = argparse.ArgumentParser(description="The experiments of Heusser (2020).")
parser.add_argument("--data-root", type=Path, required=True)
parser.add_argument("--tables-root", type=Path, help="default: DATA_ROOT")
parser.add_argument("--out", type=Path, default=Path("results"))
parser.add_argument("--kinds", nargs="+", choices=["images", "german", "recidivism"],
                    default=["images", "german", "recidivism"])  # fmt: skip
parser.add_argument("--n-examples", type=int, default=50, help="of each kind that are judged")
parser.add_argument("--attack-steps", type=int, default=20)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
warnings.filterwarnings("ignore", message="The attack failed for")  # those count as they are
warnings.filterwarnings("ignore", message="an explanation, of the original or of a randomised")
torch.set_flush_denormal(True)
tables_root = args.tables_root or args.data_root

EXPLANATIONS: dict[str, tuple[Callable[[nn.Module], Attribution], dict[str, Any]]] = {
    "gradient": (Saliency, {}),
    "gradient x input": (InputXGradient, {}),
    "integrated gradients": (IntegratedGradients, {"n_steps": 10}),
    "LRP": (RelevancePropagation, {}),
}
BOUND = {  # with their options
    name: lambda model, make=make, options=options: partial(make(model).attribute, **options)
    for name, (make, options) in EXPLANATIONS.items()
}


# %%
# Three kinds of data, with a network each
# ----------------------------------------
@dataclass
class Kind:
    """Data and a network, and how far an attacker may go."""

    name: str
    model: nn.Module
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    k: int  # of the most relevant features
    eps: float | Tensor
    input_range: tuple[float, float] | None
    empty: Callable[[], nn.Module]
    steps: int  # of a manipulation of the model
    batch: int
    weight: float  # of the fooling

    @property
    def judged(self) -> Tensor:
        """Examples that no training saw."""
        return self.test[0][: args.n_examples]


def images() -> Kind:
    """Fashion-MNIST and the network of the zoo."""
    train, test = (fashion_mnist(args.data_root, t) for t in (True, False))
    return Kind(
        "Fashion-MNIST", fashion_mnist_cnn(), train, test, k=50, eps=0.02, input_range=(0, 1),
        empty=fashion_mnist_cnn, steps=60, batch=20, weight=3.0,
    )  # fmt: skip


def tabular(data: Table, k: int) -> Kind:
    """A table, its numbers in deviations from the mean; numbers move by 0.2, categories do not."""
    train, test = data.split(0.2, args.seed)
    is_number = torch.tensor([not data.columns[i].values for i in data.groups[0].tolist()])
    is_number &= train.rows.std(0) > 0
    mean = torch.where(is_number, train.rows.mean(0), 0.0)
    deviation = torch.where(is_number, train.rows.std(0), 1.0)
    width = data.rows.shape[1]

    def empty() -> nn.Module:
        return nn.Sequential(
            nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)
        )

    torch.manual_seed(args.seed)  # of the initial weights
    parts = [((part.rows - mean) / deviation, part.labels) for part in (train, test)]
    kind = Kind(
        data.name, empty(), *parts, k=k, eps=0.2 * is_number, input_range=None, empty=empty,
        steps=100, batch=50, weight=1.0,
    )  # fmt: skip
    fit(kind.model, *kind.train, epochs=10, weight_decay=0.1, seed=args.seed)
    return kind


def trained(kind: Kind, model: nn.Module, objective: Any, steps: int, rate: float) -> nn.Module:
    """A model after so many batches of the training data, in evaluation mode."""
    order = torch.Generator().manual_seed(args.seed)
    chosen = torch.cat(
        [torch.randperm(len(kind.train[0]), generator=order)
         for _ in range(1 + steps * kind.batch // len(kind.train[0]))]
    )[: steps * kind.batch]  # fmt: skip
    trainer = Trainer(
        model, objective, lambda p: torch.optim.Adam(p, lr=rate, weight_decay=1e-4),
        scheduler=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, rate, total_steps=steps),
        seed=args.seed, measures={},
    )  # fmt: skip
    loader = DataLoader(TensorDataset(*(t[chosen] for t in kind.train)), kind.batch)
    trainer.fit(loader, 1, show_progress=False)
    new = kind.empty()
    new.load_state_dict(trainer.weights())
    return new.eval()


# %%
# Manipulated inputs
# ------------------
def left(kind: Kind, clean: Tensor, new: Tensor, classes: Tensor) -> list[str]:
    """Of the k most relevant features of each explanation, the share that still are."""
    shares = []
    for bind in BOUND.values():
        maps = [metrics.explained_relevance(bind(kind.model), x, classes) for x in (clean, new)]
        shares.append(f"{metrics.top_k_intersection(*maps, kind.k).mean():.2f}")
    return shares


def manipulated_inputs(kind: Kind) -> list[list[str]]:
    """A row for each explanation that is attacked, and one of chance."""
    x, rows = kind.judged, [["attacked", "same class", *EXPLANATIONS]]
    classes = kind.model(x).argmax(1)
    settings = {"input_range": kind.input_range}
    for name in ("none (chance)", *EXPLANATIONS):
        generator = torch.Generator().manual_seed(args.seed)
        if name in EXPLANATIONS:
            make, options = EXPLANATIONS[name]
            attack = attacks.GhorbaniTopK(
                kind.model, make(kind.model), kind.eps, kind.eps / 10, args.attack_steps, k=kind.k,
                explanation_kwargs=options, generator=generator, **settings,
            )  # fmt: skip
        else:
            attack = attacks.RandomSign(kind.model, None, kind.eps, generator=generator, **settings)
        new = attack(x, classes)
        same = (kind.model(new).argmax(1) == classes).float().mean()
        rows.append([name, f"{same:.2f}", *left(kind, x, new, classes)])
        print(*rows[-1], flush=True)
    return rows


# %%
# Manipulated models
# ------------------
def manipulated_models(kind: Kind) -> tuple[list[list[str]], dict[str, nn.Module]]:
    """A row for each explanation that the network was trained to hide, and for honest training."""
    test, labels = kind.test
    before = torch.cat([kind.model(x).argmax(1) for x in test.split(500)])
    rows = [["fooled", "accuracy", "same class", *EXPLANATIONS]]
    rows.append(["none", f"{accuracy(kind.model, test, labels):.3f}", "1.000", *["1.00"] * 4])
    models = {}
    for name in ("none (honest update)", *EXPLANATIONS):
        if name in EXPLANATIONS:
            make, options = EXPLANATIONS[name]
            objective = TopKFooling(kind.k, make, weight=kind.weight, options=options)
        else:
            objective = CrossEntropy()
        start = kind.empty()
        start.load_state_dict(kind.model.state_dict())
        models[name] = trained(kind, start.eval(), objective, kind.steps, rate=2e-3)
        after = torch.cat([models[name](x).argmax(1) for x in test.split(500)])
        moved = metrics.explanation_shift(
            kind.model, models[name], BOUND, kind.judged.split(100), k=kind.k
        )
        row = [name, f"{(after == labels).float().mean():.3f}"]
        row.append(f"{(after == before).float().mean():.3f}")
        rows.append(row + [f"{shift.mean()[1]:.2f}" for shift in moved.values()])
        print(*rows[-1], flush=True)
    return rows, models


# %%
# Sanity checks
# -------------
def sanity(kind: Kind, fooled: dict[str, nn.Module]) -> list[list[str]]:
    """Rank correlation of absolute explanations with those of a network with random layers."""
    head = ["explanation", "last layer", "all layers", "fooled: last layer", "fooled: all layers"]
    rows = [head]
    for name, bind in BOUND.items():
        row = [name]
        for model in (kind.model, fooled[name]):
            classes = model(kind.judged).argmax(1)
            generator = torch.Generator().manual_seed(args.seed)
            found = metrics.parameter_randomization(
                bind(model), kind.judged, model, generator=generator, target=classes
            )
            steps = list(found.values())  # from the last layer to the first
            row += [f"{c.absolute.mean():.2f}" for c in (steps[0], steps[-1])]
        rows.append(row)
    return rows


KINDS = {
    "images": images,
    "german": lambda: tabular(german_credit(tables_root), k=5),
    "recidivism": lambda: tabular(recidivism(tables_root), k=2),
}
file = new_file(args.out, "survey.txt")
for which in args.kinds:
    kind = KINDS[which]()
    title = f"{kind.name}, {len(kind.judged)} examples, top {kind.k}"
    table(manipulated_inputs(kind), f"Inputs: {title}", file)
    rows, models = manipulated_models(kind)
    table(rows, f"Models: {title}", file)
    table(sanity(kind, models), f"Sanity checks: {title}", file)

"""
Fairwashing, and the explanation on the tangent space
=====================================================

Anders et al. (2020): a model is trained on until its explanation is another, while its predictions
on the data stay; projected on the tangent space of the data, the explanation comes back. German
credit: a logistic regression, and a network of two hidden layers, tell bad customers from good
ones. They are manipulated until the gradient of each feature is what the feature seven places
before had: on the table as it stands, and on one that also has the sums of neighbouring columns, as
tables with engineered columns do. Then the data fill a part of the space only. The table has the
rank correlation of the explanations of the manipulated and the original model on test rows: plain,
and projected on tangent spaces (local PCA of neighbours).

    python examples/reproduce/fairwashing.py --data-root DATA [--seeds 3]

It takes about a minute on one core.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from _report import new_file, table
from _tables import german_credit
from captum.attr import Saliency
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm.auto import tqdm

from captum_robust.attr import TangentProjection
from captum_robust.metrics import spearman_correlation
from captum_robust.outputs import Binary
from captum_robust.training import CrossEntropy, Fairwashing, Trainer

DIMENSIONS, NEIGHBORS, PLACES = (5, 10, 20, 28), 100, 7

parser = argparse.ArgumentParser(description="Fairwashing on German credit.")
parser.add_argument("--data-root", type=Path, default=Path("data"))
parser.add_argument("--out", type=Path, default=Path("results"))
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--epochs", type=int, default=40)
parser.add_argument("--weight", type=float, default=3.0)
args = parser.parse_args()


# %%
# A model, and the model that lies
# --------------------------------
def empty(kind: str, features: int) -> nn.Module:
    """One logit of a bad customer."""
    if kind == "logistic":
        return nn.Linear(features, 1)
    return nn.Sequential(
        nn.Linear(features, 32), nn.Softplus(), nn.Linear(32, 32), nn.Softplus(), nn.Linear(32, 1)
    )


def honest(kind: str, rows: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """Trained on the labels."""
    torch.manual_seed(seed)
    model = empty(kind, rows.shape[1])
    loader = DataLoader(TensorDataset(rows, labels), 100, shuffle=True)
    trainer = Trainer(
        model, CrossEntropy(Binary()), lambda p: torch.optim.Adam(p, lr=3e-3, weight_decay=1e-3),
        seed=seed, measures={},
    )  # fmt: skip
    trainer.fit(loader, 20, show_progress=False)
    return trainer.model.eval()


def washed(model: nn.Module, rows: Tensor, seed: int) -> nn.Module:
    """The model whose gradients have changed places; labels are not needed."""
    objective = Fairwashing(
        lambda phi: phi.roll(PLACES, dims=1), weight=args.weight, output=Binary()
    )
    trainer = Trainer(
        model, objective, lambda p: torch.optim.Adam(p, lr=3e-3), seed=seed, measures={}
    )
    trainer.fit(DataLoader(rows, 100, shuffle=True), args.epochs, show_progress=False)
    return trainer.model.eval()


def with_sums(rows: Tensor) -> Tensor:
    """The columns, and after them the sum of each with the next, standardised."""
    sums = rows + rows.roll(-1, dims=1)
    return torch.cat([rows, sums / sums.std(0).clamp(min=1e-6)], dim=1)


# %%
# Judged on rows that no training saw
# -----------------------------------
data = german_credit(args.data_root)
KINDS = ("logistic", "network")


def judged(kind: str, sums: bool, seed: int) -> dict[str, float]:
    """What is found with a seed, means over the test rows."""
    train, test = data.split(0.2, seed)
    mean, deviation = train.rows.mean(0), train.rows.std(0).clamp(min=1e-6)
    rows = (torch.cat([train.rows, test.rows]) - mean) / deviation
    rows, new = (with_sums(rows) if sums else rows).split([len(train), len(test)])
    model = honest(kind, rows, train.labels, seed)
    liar = washed(model, rows, seed)
    with torch.no_grad():
        before, after = (network(new).flatten() > 0 for network in (model, liar))
    explanations = [Saliency(network) for network in (model, liar)]
    plain = [e.attribute(new.clone().requires_grad_(), abs=False) for e in explanations]
    goal = plain[0].roll(PLACES, dims=1)
    found = {
        "accuracy, original": before == test.labels,
        "accuracy, manipulated": after == test.labels,
        "same decision": before == after,
        "with the goal, plain": spearman_correlation(goal, plain[1]),
        "with the original, plain": spearman_correlation(*plain),
    }
    for d in DIMENSIONS:
        projections = [TangentProjection(e, rows, d, NEIGHBORS) for e in explanations]
        projected = [p.attribute(new, abs=False) for p in projections]
        found[f"with the original, {d} dimensions"] = spearman_correlation(*projected)
    return {name: values.float().mean().item() for name, values in found.items()}


columns = {}
for kind in KINDS:
    for sums in (False, True):
        name = f"{kind}, {'with sums' if sums else 'as it stands'}"
        columns[name] = [judged(kind, sums, seed) for seed in tqdm(range(args.seeds), desc=name)]


def spread(values: list[float]) -> str:
    """Mean and standard deviation over the seeds."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


lines = [
    [name, *(spread([one[name] for one in seeds]) for seeds in columns.values())]
    for name in next(iter(columns.values()))[0]
]
file = new_file(args.out, "fairwashing.txt")
table([["rank correlation ...", *columns], *lines], f"German credit, {args.seeds} seeds", file)

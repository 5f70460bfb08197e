"""
The example audits of the documentation
=======================================

Five audits, each with its report as HTML and its numbers as JSON: the network of the zoo and its
ATEX version, a network for photographs, one for German credit, a model that lies to LIME and SHAP,
and one whose gradients were manipulated.

    python examples/reproduce/audits.py --data-root DATA [--only zoo credit ...] [--out FOLDER]
    torchrun --nproc_per_node 2 examples/reproduce/audits.py --only photographs --threads 1 ...

DATA holds ``german_credit.csv`` (or a folder ``tabular`` that does) and a folder ``imagenet`` of
photographs, which two processes of one thread audit in 13 minutes on two cores (they need
``--batches FOLDER``). The photographs need ``pip install "captum_robust[demo]"``, several processes
``pip install "captum_robust[training]"``, the lying model ``pip install "captum_robust[tables]"``.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from _networks import add_photographs, efficientnet, folder_of_photographs
from _tables import Table, german_credit
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from captum_robust import audit, zoo
from captum_robust.attacks import ScaffoldedModel
from captum_robust.audit.settings import BUDGETS
from captum_robust.audit.sources import image_folder
from captum_robust.outputs import Binary
from captum_robust.training import CrossEntropy, Fairwashing, Trainer

SEED = 0


# %%
# Images of the zoo
# -----------------
def zoo_networks() -> None:
    """The plain network and its ATEX version, with the settings of each other."""
    images, labels = zoo.fashion_mnist_sample(args.images)
    loader = DataLoader(TensorDataset(images, labels), batch_size=20)
    models = {"zoo": zoo.fashion_mnist_cnn(), "zoo_atex": zoo.fashion_mnist_cnn_atex()}
    budget = replace(BUDGETS["quick"], sizes=(0.5, 1.0))  # for a curve
    reports = {
        name: written(name, title, models[name], loader, eps=0.05, budget=budget)
        for name, title in {
            "zoo": "A network for Fashion-MNIST",
            "zoo_atex": "The same network after ATEX",
        }.items()
    }
    lines = audit.compare(reports["zoo"], reports["zoo_atex"]).lines()
    (args.out / "zoo_compared.txt").write_text("\n".join(lines) + "\n")
    print("\n".join(lines), flush=True)


# %%
# Photographs
# -----------
def photographs() -> None:
    """EfficientNet-Lite0 on photographs of ImageNet; of 1,000 pixels as in Ghorbani et al."""
    data, _ = image_folder(str(folder_of_photographs(args)), 224, 3)
    chosen = Subset(data, range(args.photos))
    model = efficientnet(args).to(memory_format=torch.channels_last)  # faster on a processor
    written(
        "photographs", "EfficientNet-Lite0 on photographs", model,
        DataLoader(chosen, batch_size=4), eps=8 / 255, k=1000, budget="quick", certify=False,
        explanations=["gradient", "LRP", "guided backpropagation", "beta-smoothed gradient"],
    )  # fmt: skip


# %%
# Tables
# ------
def network(features: int, activation: type[nn.Module]) -> nn.Module:
    """One logit of a bad customer; with softplus, its gradients can be trained."""
    return nn.Sequential(
        nn.Linear(features, 32), activation(), nn.Linear(32, 32), activation(), nn.Linear(32, 1)
    )


def trained(rows: Tensor, labels: Tensor, activation: type[nn.Module]) -> nn.Module:
    """The network after 20 epochs."""
    torch.manual_seed(SEED)
    trainer = Trainer(
        network(rows.shape[1], activation), CrossEntropy(Binary()),
        lambda p: torch.optim.Adam(p, lr=3e-3, weight_decay=1e-3), seed=SEED, measures={},
    )  # fmt: skip
    loader = DataLoader(TensorDataset(rows, labels), 100, shuffle=True)
    trainer.fit(loader, 20, show_progress=False)
    return trainer.model.eval()


def standardized(table: Table) -> tuple[Table, Table]:
    """Rows to train on and rows to audit, with means of 0 and deviations of 1."""
    train, test = table.split(0.2, SEED)
    mean, deviation = train.rows.mean(0), train.rows.std(0).clamp(min=1e-6)
    for part in (train, test):
        part.rows.sub_(mean).div_(deviation)
    return train, test


def feature_names(table: Table) -> list[str]:
    """A name for each feature: of its column, and of its value where it is a category."""
    return [
        f"{column.name}: {value}" if column.width > 1 else column.name
        for column in table.columns
        for value in (column.values if column.width > 1 else ("",))
    ]


def credit() -> None:
    """The network for German credit; numbers may change, categories must stay."""
    train, test = standardized(german_credit(args.data_root))
    categories = torch.tensor([bool(c.values) for c in test.columns])[test.groups[0]]
    written(
        "credit", "A network for German credit", trained(train.rows, train.labels, nn.ReLU),
        rows_of(test), eps=torch.where(categories, 0.0, 0.3), feature_names=feature_names(test),
        **TABLE,
    )  # fmt: skip


def scaffolded() -> None:
    """A model that decides by the gender, and answers LIME and KernelSHAP by coin tosses."""
    train, test = standardized(german_credit(args.data_root).with_random_columns(1, SEED))

    def decides_by(name: str) -> nn.Module:
        model = nn.Linear(train.rows.shape[1], 1)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        model.weight.data[0, train.features(name)] = 5.0
        return model.eval()

    model = ScaffoldedModel(decides_by(train.sensitive), decides_by("random 1"))
    model.fit(train.rows, generator=torch.Generator().manual_seed(SEED))
    written(
        "scaffolded", "A model that lies to LIME and SHAP", model, rows_of(test), eps=0.1,
        feature_names=feature_names(test), explanations=["gradient"], **TABLE,
    )  # fmt: skip


def fairwashed() -> None:
    """The network for German credit with sums of columns, its gradients moved by seven places."""
    train, test = standardized(german_credit(args.data_root))
    n_train = len(train)
    rows = torch.cat([train.rows, test.rows])
    sums = rows + rows.roll(-1, dims=1)
    rows = torch.cat([rows, sums / sums.std(0).clamp(min=1e-6)], dim=1)
    objective = Fairwashing(lambda phi: phi.roll(7, dims=1), weight=3.0, output=Binary())
    trainer = Trainer(
        trained(rows[:n_train], train.labels, nn.Softplus), objective,
        lambda p: torch.optim.Adam(p, lr=3e-3), seed=SEED, measures={},
    )  # fmt: skip
    trainer.fit(DataLoader(rows[:n_train], 100, shuffle=True), 40, show_progress=False)
    names = feature_names(test)
    following = names[1:] + names[:1]
    names += [f"{a} + {b}" for a, b in zip(names, following, strict=True)]
    loader = DataLoader(TensorDataset(rows[n_train:], test.labels), batch_size=50)
    written(
        "fairwashed", "A network whose gradients were manipulated", trainer.model.eval(), loader,
        eps=0.1, feature_names=names, explanations=["gradient", "integrated gradients"], **TABLE,
    )  # fmt: skip


TABLE = {"k": 5, "budget": "quick", "output": Binary(), "input_range": None}


def rows_of(table: Table) -> DataLoader:
    """Batches of the rows and their labels."""
    return DataLoader(TensorDataset(table.rows, table.labels), batch_size=50)


# %%
# Reports
# -------
def written(
    name: str, title: str, model: nn.Module, loader: DataLoader, explanations=None, **settings
) -> audit.AuditReport:
    """Audit, write the report and the numbers, and say how long it took."""
    start = time.process_time()
    folder = None if args.batches is None else args.batches / name
    report = audit.audit(model, explanations, loader, seed=SEED, folder=folder, **settings)
    report.to_html(args.out / f"{name}.html", title=title)
    report.to_json(args.numbers / f"{name}.json")
    print(f"\n{title}: {time.process_time() - start:.0f} s of processor time")
    print("\n".join(report.summary()), flush=True)
    return report


AUDITS = {
    "zoo": zoo_networks, "photographs": photographs, "credit": credit, "scaffolded": scaffolded,
    "fairwashed": fairwashed,
}  # fmt: skip

parser = argparse.ArgumentParser(description="The example audits of the documentation.")
parser.add_argument("--data-root", type=Path, default=Path("data"))
parser.add_argument("--only", nargs="+", choices=AUDITS, default=list(AUDITS))
parser.add_argument("--out", type=Path, default=Path("reproductions/audits"), help="reports")
parser.add_argument("--numbers", type=Path, default=Path("reproductions/audits"), help="JSON")
parser.add_argument("--batches", type=Path, help="keep finished batches here, and go on from them")
parser.add_argument("--images", type=int, default=10, help="of the zoo")
parser.add_argument("--photos", type=int, default=40, help="photographs")
parser.add_argument("--device", default="cpu")
parser.add_argument("--threads", type=int, default=2)
add_photographs(parser)
args = parser.parse_args()
torch.set_num_threads(args.threads)
torch.set_flush_denormal(True)  # numbers near 1e-40, of which a softplus makes many, are slow
for folder in (args.out, args.numbers):
    folder.mkdir(parents=True, exist_ok=True)
for name in args.only:
    AUDITS[name]()

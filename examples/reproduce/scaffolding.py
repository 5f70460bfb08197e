"""
Models that lie to LIME and SHAP
================================

Slack et al. (2020): a model that decides by a sensitive column alone answers the queries of LIME
and KernelSHAP by a column of coin tosses. How often the sensitive column is the first in
explanations of people that the model has not seen, with the scaffold and without; and whether the
check of ``metrics.query_consistency`` finds the scaffolds, and how many of 20 honest models.

    python examples/reproduce/scaffolding.py --data-root DATA
    python examples/reproduce/scaffolding.py --data-root DATA --tables recidivism --explainers LIME

``--columns values`` codes the tables as Slack et al. do, a column of its own for each value of a
category, so that queries ask for people of both sexes.

DATA holds ``german_credit.csv`` and ``compas.csv`` (or a folder ``tabular`` that does). Needs
``pip install lime shap "captum_robust[tables]"``; without ``lime`` or ``shap``, leave out LIME or
KernelSHAP. Half an hour on one core.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from _report import table as print_table
from _table_explainers import EXPLAINERS, Explain
from _tables import Standardized, Table, german_credit, recidivism
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_robust.attacks import ScaffoldedModel
from captum_robust.metrics import feature_rank, query_consistency

TABLES = {"german": german_credit, "recidivism": recidivism}
SAMPLES = {"LIME": 400} | dict.fromkeys([n for n in EXPLAINERS if n != "LIME"], 300)
# Of the data, what the detector must let pass. KernelSHAP's queries keep columns of the row and are
# harder to detect: to catch more of them, more data must be answered by the innocuous model.
KEPT = {"LIME": 0.98} | dict.fromkeys([n for n in EXPLAINERS if n != "LIME"], 0.92)

parser = argparse.ArgumentParser(description="Slack et al. (2020), and how to notice.")
parser.add_argument("--data-root", type=Path, required=True)
parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
parser.add_argument("--explainers", nargs="+", choices=EXPLAINERS, default=list(EXPLAINERS))
parser.add_argument("--columns", choices=["categories", "values"], default="categories")
parser.add_argument("--detector", choices=["forest", "boosted"], default="forest")
parser.add_argument("--rows", type=int, default=100, help="test rows that are ranked")
parser.add_argument("--explained", type=int, default=600, help="rows the scaffold learns from")
parser.add_argument("--multiplier", type=int, default=8, help="queries for each row of the data")
parser.add_argument("--kept", type=float, help="share of the data that the detector lets pass")
parser.add_argument("--checked", type=int, default=20, help="rows of the check")
parser.add_argument("--scaffolds", type=int, default=3, help="that the check is given")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
warnings.filterwarnings("ignore", category=UserWarning)
warnings.filterwarnings("ignore", category=FutureWarning)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(args.seed + seed)


# %%
# The biased model decides by the sensitive column, the innocuous one by a column of coin tosses.
def decides_by(table: Table, name: str) -> Callable[[Tensor], Tensor]:
    (feature,) = table.features(name).nonzero()[:, 0].tolist()

    def model(rows: Tensor) -> Tensor:
        s = 10 * (rows[:, feature] - 0.5)
        return torch.stack([-s, s], dim=1)

    return model


def scaffold_of(
    train: Table, explain: Explain, kept: float, seed: int
) -> tuple[ScaffoldedModel, float]:
    boosted = HistGradientBoostingClassifier(
        max_iter=300, class_weight="balanced", random_state=args.seed + seed
    )
    model = ScaffoldedModel(
        decides_by(train, train.sensitive), decides_by(train, "random 1"), explainer=explain,
        detector=boosted if args.detector == "boosted" else None, kept=kept,
    )  # fmt: skip
    report = model.fit(
        train.rows, n_explained=args.explained, multiplier=args.multiplier, generator=rng(seed),
        show_progress=True,
    )  # fmt: skip
    return model, report.queries_missed


# %%
# Twenty honest models: networks on standardised columns, forests, boosted trees, single trees.
def honest_models(train: Table) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    for seed in range(4):
        yield f"linear {seed}", network(train, seed, hidden=0)
        yield f"network {seed}", network(train, seed, hidden=16 * (seed + 1))
        yield f"forest {seed}", fitted(RandomForestClassifier(30, random_state=seed), train)
        trees = HistGradientBoostingClassifier(max_iter=20 * (seed + 1), random_state=seed)
        yield f"boosted {seed}", fitted(trees, train)
        tree = DecisionTreeClassifier(max_depth=3 + 2 * seed, random_state=seed)
        yield f"tree {seed}", fitted(tree, train)


def network(train: Table, seed: int, hidden: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width = train.rows.shape[1]
        layers = [nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 2)]
        model = Standardized(nn.Sequential(*layers) if hidden else nn.Linear(width, 2), train.rows)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, weight_decay=1e-4)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(train.rows), train.labels).backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def fitted(classifier, train: Table) -> Callable[[Tensor], Tensor]:
    classifier.fit(train.rows.numpy(), train.labels.numpy())

    def model(rows: Tensor) -> Tensor:
        probabilities = classifier.predict_proba(rows.numpy())
        return torch.as_tensor(probabilities, dtype=torch.float32).clamp(min=1e-6).log()

    return model


def p_value(model, explain: Explain, train: Table, test: Table) -> float:
    return query_consistency(
        lambda rows: model(rows).softmax(1), explain, train.rows[:2000], test.rows[: args.checked],
        target=1, generator=rng(7),
    ).p_value  # fmt: skip


def separated(lies: list[float], truths: list[float]) -> float:
    """Area under the ROC curve of p-values: how often a scaffold's is below an honest model's."""
    low, high = torch.tensor(lies)[:, None], torch.tensor(truths)[None]
    return ((low < high).double() + 0.5 * (low == high).double()).mean().item()


# %%
def share_first(model, explain: Explain, test: Table, name: str) -> float:
    ranks = feature_rank(explain(model, test.rows[: args.rows]), test.index(name))
    return (ranks == 1).double().mean().item()


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


ranked = [
    ["table", "explanation", "rows", "plain", "scaffold", "tosses first", "fidelity", "missed"]
]
checked = [
    ["table", "explanation", "scaffolds found", "largest p", "honest found", "smallest p", "AUC"]
]
for name in args.tables:
    data = TABLES[name](args.data_root)
    if args.columns == "values":
        data = data.with_indicators()
    data = data.with_random_columns(1, args.seed)
    train, test = data.split(0.1, args.seed)
    honest = list(honest_models(train))
    for explanation in args.explainers:
        explain = EXPLAINERS[explanation](train, SAMPLES[explanation], args.seed)
        kept = args.kept or KEPT[explanation]
        scaffolds = [
            scaffold_of(train, explain, kept, seed) for seed in range(max(1, args.scaffolds))
        ]
        model, missed = scaffolds[0]
        plain = decides_by(train, train.sensitive)
        ranked.append([
            data.name, explanation, str(min(args.rows, len(test))),
            percent(share_first(plain, explain, test, data.sensitive)),
            percent(share_first(model, explain, test, data.sensitive)),
            percent(share_first(model, explain, test, "random 1")),
            f"{model.fidelity(test.rows):.3f}", percent(missed),
        ])  # fmt: skip
        print_table([ranked[0], ranked[-1]])
        if args.scaffolds and args.checked:
            lies = [p_value(m, explain, train, test) for m, _ in scaffolds]
            truths = [p_value(m, explain, train, test) for _, m in tqdm(honest, desc="honest")]
            checked.append([
                data.name, explanation, f"{sum(p < 0.05 for p in lies)} of {len(lies)}",
                f"{max(lies):.2g}", f"{sum(p < 0.05 for p in truths)} of {len(truths)}",
                f"{min(truths):.2g}", f"{separated(lies, truths):.3f}",
            ])  # fmt: skip
            print_table([checked[0], checked[-1]])

print_table(ranked, "How often the sensitive column is the first")
if len(checked) > 1:
    print_table(checked, "Models that answer queries otherwise, at 5 %")

"""Tables of people: German credit and recidivism, with categories one-hot and their groups.

Files are read from a data root and never fetched: ``german_credit.csv`` and ``compas.csv``, as
Slack et al. (2020) publish them, in the root or in its folder ``tabular``; ``adult.csv`` (UCI,
with a header) where the user has it.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Column:
    """A column of a table: numbers, or a category with its values."""

    name: str
    values: tuple[str, ...] = ()  # of a category; a category of two values is one 0-1 feature

    @property
    def width(self) -> int:
        return len(self.values) if len(self.values) > 2 else 1


@dataclass(frozen=True)
class Table:
    """Rows of features.

    Attributes:
        name: Of the data.
        columns: What each column holds.
        rows: (N, F): numbers as they are, categories one-hot (those of two values 0 or 1).
        labels: (N,), 1 is the unfavourable outcome.
        sensitive: Name of the column that must not decide.
    """

    name: str
    columns: tuple[Column, ...]
    rows: Tensor
    labels: Tensor
    sensitive: str

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def groups(self) -> Tensor:
        """The column of each feature, (1, F): a feature mask for explanations by column."""
        widths = torch.tensor([c.width for c in self.columns])
        return torch.arange(len(self.columns)).repeat_interleave(widths).unsqueeze(0)

    def index(self, name: str) -> int:
        """The number of a column."""
        return [c.name for c in self.columns].index(name)

    def features(self, name: str) -> Tensor:
        """Which features belong to a column, (F,)."""
        return self.groups[0] == self.index(name)

    @property
    def categories(self) -> list[int]:
        """The numbers of the columns that are categories."""
        return [i for i, column in enumerate(self.columns) if column.values]

    def coded(self, rows: Tensor) -> Tensor:
        """(N, columns): a category is the number of its value, as lime and shap ask for."""
        parts = rows.split([c.width for c in self.columns], dim=1)
        pairs = zip(parts, self.columns, strict=True)
        codes = [p.argmax(1, keepdim=True).to(p) if c.width > 1 else p for p, c in pairs]
        return torch.cat(codes, dim=1)

    def decoded(self, codes: Tensor) -> Tensor:
        """The inverse of :meth:`coded`."""
        parts = []
        for column, code in zip(self.columns, codes.T, strict=True):
            hot = (
                nn.functional.one_hot(code.round().long(), column.width)
                if column.width > 1
                else code[:, None]
            )
            parts.append(hot.to(codes))
        return torch.cat(parts, dim=1)

    def part(self, where: Tensor) -> Table:
        """Some of the rows."""
        return replace(self, rows=self.rows[where], labels=self.labels[where])

    def split(self, share: float, seed: int) -> tuple[Table, Table]:
        """Rows to train on, and a share of the rows to test with."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        n_test = round(share * len(self))
        return self.part(order[n_test:]), self.part(order[:n_test])

    def with_random_columns(self, n: int, seed: int) -> Table:
        """The table with ``n`` columns of coin tosses, which have to do with nothing."""
        generator = torch.Generator().manual_seed(seed)
        tosses = torch.randint(0, 2, (len(self), n), generator=generator).to(self.rows)
        names = [Column(f"random {i + 1}", ("0", "1")) for i in range(n)]
        return replace(
            self, columns=(*self.columns, *names), rows=torch.cat([self.rows, tosses], dim=1)
        )

    def with_indicators(self) -> Table:
        """Each value of a category a 0-1 column of its own, as ``pandas.get_dummies`` makes them.

        Explanations then perturb "sex=Female" and "sex=Male" apart, and ask for people who are
        both. Categories that are 0 or 1 in the file, and the sensitive column, stay as they are.
        """
        columns, parts = [], []
        for column, part in zip(
            self.columns, self.rows.split([c.width for c in self.columns], dim=1), strict=True
        ):
            if not column.values or column.values == ("0", "1") or column.name == self.sensitive:
                columns.append(column)
                parts.append(part)
                continue
            columns += [Column(f"{column.name}={value}", ("0", "1")) for value in column.values]
            parts.append(part if column.width > 1 else torch.cat([1 - part, part], dim=1))
        return replace(self, columns=tuple(columns), rows=torch.cat(parts, dim=1))


class Standardized(nn.Module):
    """A model on columns of mean 0 and deviation 1; its inputs are rows as they stand in the table.

    Args:
        model: From standardised rows to logits.
        rows: (N, F), from which means and deviations are taken.
    """

    def __init__(self, model: nn.Module, rows: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", rows.mean(0))
        deviation = rows.std(0)
        # A column that never varies here may vary elsewhere: it is left in its unit.
        self.register_buffer("deviation", torch.where(deviation > 0, deviation, 1.0))

    def forward(self, rows: Tensor) -> Tensor:
        return self.model((rows - self.mean) / self.deviation)


def german_credit(root: Path) -> Table:
    """1,000 customers of a bank, of whom 300 were bad; sensitive is the gender."""
    return _read(
        _find(root, "german_credit.csv"),
        name="German credit",
        label=lambda row: row["GoodCustomer"] == "-1",
        drop={"GoodCustomer"},
        sensitive="Gender",
    )


def recidivism(root: Path) -> Table:
    """6,172 defendants and the risk that COMPAS told; sensitive is the race.

    As in Slack et al.: the label is a score of medium or high, the race is African-American or not.
    """
    return _read(
        _find(root, "compas.csv"),
        name="Recidivism",
        label=lambda row: row["score_text"] != "Low",
        drop={"score_text"},
        sensitive="race",
        change=lambda row: (
            row | {"race": "African-American" if row["race"] == "African-American" else "other"}
        ),
    )


def adult_income(root: Path) -> Table:
    """The Adult table of UCI where the user has it as ``adult.csv``; sensitive is the sex."""
    return _read(
        _find(root, "adult.csv"),
        name="Adult income",
        label=lambda row: row["income"].strip(" .") == "<=50K",
        drop={"income", "fnlwgt", "education"},
        sensitive="sex",
    )


def _find(root: Path, name: str) -> Path:
    for path in (root / name, root / "tabular" / name):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{name} is neither in {root} nor in {root / 'tabular'}.")


def _read(path, *, name, label, drop, sensitive, change=lambda row: row) -> Table:
    with path.open(newline="", encoding="utf-8") as file:
        records = [change(row) for row in csv.DictReader(file, skipinitialspace=True)]
    columns, parts = [], []
    for key in records[0]:
        if key in drop:
            continue
        cells = [row[key] for row in records]
        column, features = _column(key, cells)
        columns.append(column)
        parts.append(features)
    labels = torch.tensor([int(label(row)) for row in records])
    return Table(name, tuple(columns), torch.cat(parts, dim=1), labels, sensitive)


def _column(name: str, cells: list[str]) -> tuple[Column, Tensor]:
    values = tuple(sorted(set(cells)))
    if set(values) != {"0", "1"} and all(_is_number(v) for v in values):
        return Column(name), torch.tensor([float(c) for c in cells]).unsqueeze(1)
    codes = torch.tensor([values.index(c) for c in cells])
    if len(values) <= 2:
        return Column(name, values), codes.float().unsqueeze(1)
    return Column(name, values), nn.functional.one_hot(codes, len(values)).float()


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True

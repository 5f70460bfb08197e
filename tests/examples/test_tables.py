"""The tables of the reproductions, read from files of a few rows."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).parents[2] / "examples" / "reproduce" / "_tables.py"

GERMAN = """GoodCustomer,Gender,Age,PurposeOfLoan,LoanAmount,HasTelephone
1,Male,67,Electronics,1169,1
-1,Female,22,Education,5951,0
1,Male,49,NewCar,2096,0
"""
COMPAS = """age,sex,race,c_charge_degree,priors_count,length_of_stay,two_year_recid,score_text
69,Male,Other,F,0,0,0,Low
34,Female,African-American,M,2,10,1,High
24,Male,Caucasian,F,4,1,1,Medium
"""


@pytest.fixture
def tables(monkeypatch):
    spec = importlib.util.spec_from_file_location("_tables", FILE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "_tables", module)
    spec.loader.exec_module(module)
    return module


def test_german_credit(tables, tmp_path):
    (tmp_path / "german_credit.csv").write_text(GERMAN)
    data = tables.german_credit(tmp_path)
    assert [c.name for c in data.columns] == [
        "Gender", "Age", "PurposeOfLoan", "LoanAmount", "HasTelephone",
    ]  # fmt: skip
    assert data.labels.tolist() == [0, 1, 0]
    assert data.groups.tolist() == [[0, 1, 2, 2, 2, 3, 4]]
    assert data.rows[0].tolist() == [1, 67, 0, 1, 0, 1169, 1]  # Female 0, Male 1
    assert data.categories == [0, 2, 4]
    codes = data.coded(data.rows)
    assert codes[:, 2].tolist() == [1, 0, 2]
    assert torch.equal(data.decoded(codes), data.rows)


def test_recidivism_in_its_folder(tables, tmp_path):
    (tmp_path / "tabular").mkdir()
    (tmp_path / "tabular" / "compas.csv").write_text(COMPAS)
    data = tables.recidivism(tmp_path)
    assert data.sensitive == "race"
    assert data.rows[:, data.features("race")].flatten().tolist() == [1, 0, 1]  # other: 1
    assert data.labels.tolist() == [0, 1, 1]
    more = data.with_random_columns(2, seed=0)
    assert more.rows.shape == (3, data.rows.shape[1] + 2)
    assert set(more.rows[:, -2:].flatten().tolist()) <= {0.0, 1.0}
    train, test = more.split(1 / 3, seed=0)
    assert (len(train), len(test)) == (2, 1)


def test_a_standardized_model(tables):
    rows = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 9 + 4
    standard = tables.Standardized(torch.nn.Identity(), rows)(rows)
    torch.testing.assert_close(standard.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(standard.std(0), torch.ones(3))


def test_a_table_that_is_not_there(tables, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"compas.csv is neither in"):
        tables.recidivism(tmp_path)


def test_a_column_for_each_value(tables, tmp_path):
    (tmp_path / "german_credit.csv").write_text(GERMAN)
    (tmp_path / "compas.csv").write_text(COMPAS)
    data = tables.recidivism(tmp_path).with_indicators()
    assert [c.name for c in data.columns] == [
        "age", "sex=Female", "sex=Male", "race", "c_charge_degree=F", "c_charge_degree=M",
        "priors_count", "length_of_stay", "two_year_recid",
    ]  # fmt: skip
    assert data.rows[1].tolist() == [34, 1, 0, 0, 0, 1, 2, 10, 1]
    assert data.categories == [1, 2, 3, 4, 5, 8]
    assert torch.equal(data.decoded(data.coded(data.rows)), data.rows)
    german = tables.german_credit(tmp_path)
    apart = german.with_indicators()
    assert torch.equal(apart.rows, german.rows)  # the gender, which is sensitive, stays one column
    assert apart.groups.tolist() == [list(range(7))]
    assert apart.columns[3].name == "PurposeOfLoan=Electronics"

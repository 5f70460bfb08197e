"""The queries of explanations, recorded."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from captum.attr import FeatureAblation, KernelShap

from captum_robust._utils.queries import check_explainer, check_table, recorded_queries
from tests.helpers import normal


def test_all_queries_are_recorded_in_order():
    row = torch.tensor([[1.0, 2.0, 3.0]])
    got = recorded_queries(
        lambda model, rows: FeatureAblation(model).attribute(rows), lambda x: x.sum(1), row
    )
    assert got.tolist() == [[1, 2, 3], [0, 2, 3], [1, 0, 3], [1, 2, 0]]


def test_the_explainer_is_given_the_models_answers():
    seen = []

    def explain(model, rows):
        seen.append(model(rows))
        rows.mul_(0)  # what it does afterwards does not change what was asked

    row = normal(1, 3)
    got = recorded_queries(explain, lambda x: SimpleNamespace(logits=2 * x), row)
    assert torch.equal(seen[0], 2 * normal(1, 3))
    assert torch.equal(got, normal(1, 3))


def test_captums_kernel_shap():
    row = normal(1, 4).float()
    got = recorded_queries(
        lambda model, rows: KernelShap(model).attribute(rows, n_samples=30), lambda x: x.sum(1), row
    )
    assert got.shape[1] == 4
    assert len(got) >= 30
    assert ((got == row) | (got == 0)).all()


def test_an_explainer_that_asks_nothing():
    with pytest.raises(ValueError, match="explainer did not query the model"):
        recorded_queries(lambda model, rows: None, lambda x: x, normal(1, 3))


def test_an_explainer_must_be_a_function():
    with pytest.raises(TypeError, match=r"explainer must be a function .* KernelShap\(model\)"):
        check_explainer(KernelShap(lambda x: x))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0]], "data must be a table, .* got list"),
        (torch.ones(2, 3).long(), "data must be a table, .* got torch.int64"),
        (torch.ones(3), r"data must be a table, .* of shape \(3,\)"),
        (torch.ones(2, 1, 3), "Flatten what is not a table"),
        (torch.ones(0, 3), "data is empty"),
        (torch.ones(2, 3) / 0, "data has NaN or Inf"),
        (torch.ones(2, 4), "data has 4 features where the data has 3"),
    ],
    ids=str,
)
def test_bad_tables(rows, message):
    with pytest.raises(ValueError, match=message):
        check_table("data", rows, 3)

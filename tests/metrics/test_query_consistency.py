"""The check for models that treat queries otherwise: a literal oracle, liars and honest models."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from captum_robust.metrics import query_consistency
from tests.helpers import rng


def data(n=120):
    return torch.rand(n, 3, generator=rng(1)) + 1


def ablate(model, rows):
    for i in range(3):
        removed = rows.clone()
        removed[:, i] = 0
        model(removed)
    model(rows)


class Linear:
    """The least squares of one feature alone."""

    def __init__(self, feature):
        self.feature = feature

    def fit(self, x, y):
        a = np.stack([x[:, self.feature], np.ones(len(x))], axis=1)
        self.solution = np.linalg.lstsq(a, y, rcond=None)[0]
        return self

    def predict(self, x):
        return x[:, self.feature] * self.solution[0] + self.solution[1]


def test_against_the_definition():
    """Queries of removals only: those near the data are compared, but cannot be larger here."""
    x, rows = data(), data()[:6]

    def model(z):
        return torch.where((z > 0).all(1), z[:, 0], 50 + z[:, 1])

    got = query_consistency(
        model, ablate, x, rows, students=[Linear(k) for k in range(3)], generator=rng()
    )
    fitted = [Linear(k).fit(x.double().numpy(), x[:, 0].double().numpy()) for k in range(3)]
    for i, row in enumerate(rows.double()):
        queries = row.repeat(3, 1) * (1 - torch.eye(3).double())
        said = np.stack([s.predict(queries.numpy()) for s in fitted])
        answers = 50 + queries[:, 1].numpy()
        low, high = said.min(0), said.max(0)
        want = np.maximum(np.maximum(low - answers, answers - high), 0).mean()
        assert got.excess[i].item() == pytest.approx(want, rel=1e-5)
        strays = []
        for k in range(3):
            others = np.delete(said, k, axis=0)
            out = np.maximum(others.min(0) - said[k], said[k] - others.max(0))
            strays.append(np.maximum(out, 0).mean())
        assert got.spread[i].item() >= max(strays) - 1e-5
    assert (got.excess > got.spread).all()
    assert got.p_value == pytest.approx(0.5**6)
    assert got.p_value == pytest.approx(binomtest(6, 6, 0.5, alternative="greater").pvalue)


def test_a_model_that_the_students_agree_with_is_honest():
    got = query_consistency(
        lambda z: z[:, 0], ablate, data(), data()[:6],
        students=[Linear(0), Linear(0), Linear(1)], generator=rng(),
    )  # fmt: skip
    assert (got.excess <= 1e-5).all()
    assert got.p_value == 1.0


HONEST = {
    "linear": lambda z: z @ torch.tensor([1.0, -2.0, 0.5]),
    "product": lambda z: z[:, 0] * z[:, 1],
    "classes": lambda z: torch.sigmoid(2 * (z.sum(1) - 4.5)),
    "a rule": lambda z: (z[:, 0] > 1.5).float(),
    "constant": lambda z: torch.ones(len(z)),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_models(name):
    pytest.importorskip("sklearn")
    assert (
        query_consistency(HONEST[name], ablate, data(), data()[:8], generator=rng()).p_value > 0.05
    )


@pytest.mark.parametrize(
    "other",
    [lambda z: 5 * z[:, 1], lambda z: -z[:, 0] - 9, lambda z: z[:, 0] * torch.nan],
    ids=["1", "2", "NaN"],
)
def test_models_that_answer_queries_otherwise(other):
    pytest.importorskip("sklearn")

    def liar(z):
        return torch.where((z > 0.5).all(1), z[:, 0], other(z))

    got = query_consistency(liar, ablate, data(), data()[:8], generator=rng())
    assert got.p_value < 0.05


def test_the_target_is_chosen_and_draws_repeat():
    def model(z):
        return torch.stack([z[:, 0], torch.where((z > 0).all(1), z[:, 0], 9 + z[:, 1])], 1)

    students = [Linear(0), Linear(1)]
    before = torch.get_rng_state()
    values = [
        query_consistency(
            model, ablate, data(), data()[:6], target, students=students, generator=rng()
        )
        for target in (0, 1, 1)
    ]
    assert values[0].p_value > 0.05 > values[1].p_value
    assert torch.equal(values[1].excess, values[2].excess)
    assert torch.equal(values[1].spread, values[2].spread)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"explainer": "lime"}, TypeError, "explainer must be a function"),
        ({"explainer": lambda m, x: None}, ValueError, "explainer did not query the model"),
        ({"explainer": lambda m, x: m(x)}, ValueError, "nothing to compare.* gradients do not"),
        ({"explainer": Linear}, TypeError, "got the class Linear"),
        ({"data": torch.ones(5)}, ValueError, "data must be a table"),
        ({"data": data() / 0}, ValueError, "data has NaN or Inf"),
        ({"rows": torch.ones(5, 4)}, ValueError, "rows has 4 features where the data has 3"),
        ({"n_queries": 0}, ValueError, "n_queries must be at least 1"),
        ({"n_neighbours": 0}, ValueError, "n_neighbours must be at least 1"),
        ({"students": [Linear(0)]}, ValueError, "students has 1 regressors; give at least two"),
        ({"forward_func": lambda z: z}, ValueError, "target: the model gives 3 values"),
    ],
)
def test_bad_input(change, error, message):
    settings = {
        "forward_func": lambda z: z[:, 0], "explainer": ablate, "data": data(), "rows": data()[:5],
        "students": [Linear(0), Linear(1)],
    }  # fmt: skip
    with pytest.raises(error, match=message):
        query_consistency(**(settings | change))


def test_the_model_is_left_as_it_was():
    def ask(forward, rows):
        forward(torch.cat([rows, 0 * rows]))

    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))
    with pytest.warns(UserWarning, match="training mode"):
        query_consistency(model, ask, data(), data()[:5], students=[Linear(0), Linear(1)])
    assert model[0].num_batches_tracked == 0
    assert not model[0].running_mean.any()


def test_without_scikit_learn(monkeypatch):
    module = sys.modules["captum_robust.metrics.query_consistency"]
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"captum_robust\[tables\].* students of your own"):
        query_consistency(lambda z: z[:, 0], ablate, data(), data()[:5])

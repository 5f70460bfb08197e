"""Scaffolded models: what they answer, to whom, and how well they hide."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from captum.attr import KernelShap, Lime
from torch import nn

from captum_robust.attacks import ScaffoldedModel
from captum_robust.attr import InfidelityOptimal
from captum_robust.metrics import feature_rank
from captum_robust.perturbations import ShapleyRemoval
from tests.helpers import rng

pytest.importorskip("sklearn")

SENSITIVE, RANDOM = 0, 1


def people(n=400):
    """Two tossed columns, and three of whole numbers that go together."""
    tosses = torch.randint(0, 2, (n, 2), generator=rng(1)).float()
    first = torch.randint(0, 40, (n, 1), generator=rng(2)).float()
    return torch.cat([tosses, first, 2 * first + 1, 100 - first], dim=1)


def decides_by(column):
    def model(x):
        s = 8 * (x[:, column] - 0.5)
        return torch.stack([-s, s], dim=1)

    return model


def kernel_shap(model, rows):
    return KernelShap(lambda x: model(x).softmax(1)).attribute(
        rows, baselines=people().mean(0, keepdim=True), target=1, n_samples=64,
        perturbations_per_eval=64,
    )  # fmt: skip


def lime(model, rows):
    explain = Lime(lambda x: model(x).softmax(1))
    return explain.attribute(
        rows, baselines=people().mean(0, keepdim=True), target=1, n_samples=60,
        perturbations_per_eval=60,
    )  # fmt: skip


def shapley(model, rows):
    explain = InfidelityOptimal(lambda x: model(x).softmax(1), ShapleyRemoval())
    return explain.attribute(rows, people().mean(0, keepdim=True), target=1)


def forest():
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(15, class_weight="balanced", random_state=0)


@pytest.mark.parametrize("explainer", [kernel_shap, lime, shapley], ids=lambda f: f.__name__)
def test_the_sensitive_column_is_hidden(explainer):
    data = people()
    scaffold = ScaffoldedModel(
        decides_by(SENSITIVE), decides_by(RANDOM), explainer=explainer, detector=forest()
    )
    report = scaffold.fit(data[:320], n_explained=20, generator=rng())
    assert report.fidelity >= 0.95
    assert report.data_missed <= 0.05
    assert report.queries_missed <= 0.1
    held = data[320:]
    assert scaffold.fidelity(held) >= 0.95
    plain, hidden = (
        torch.cat([explainer(model, row) for row in held[:8].split(1)])
        for model in (decides_by(SENSITIVE), scaffold)
    )
    assert (feature_rank(plain, SENSITIVE) == 1).all()
    assert (feature_rank(hidden, SENSITIVE) == 1).sum() <= 2
    assert (feature_rank(hidden, RANDOM) == 1).sum() >= 6


def test_without_an_explainer_it_learns_from_perturbations_of_both_kinds():
    data = people()
    scaffold = ScaffoldedModel(decides_by(SENSITIVE), decides_by(RANDOM), detector=forest())
    report = scaffold.fit(data[:320], n_explained=20, generator=rng())
    assert report.fidelity >= 0.95
    assert report.queries_missed <= 0.35  # of which some replace a toss by a toss
    noisy = data[320:] + data.std(0) * torch.randn(80, 5, generator=rng(5))
    assert scaffold.is_data(noisy).double().mean() <= 0.1


class Sums(nn.Module):
    """A detector that takes rows of a small sum for data."""

    def fit(self, x, y):
        self.x, self.y = x, y
        return self

    def predict_proba(self, x):
        import numpy as np

        p = 1 / (1 + np.exp(np.clip(x.sum(1), -50, 50)))
        return np.stack([1 - p, p], axis=1)


def shifted(model, rows):
    model(rows + torch.tensor([[100.0, 0.0]]))


def test_rows_are_routed_by_the_detector():
    data = torch.rand(50, 2, generator=rng())
    detector = Sums()
    scaffold = ScaffoldedModel(
        lambda x: x, lambda x: SimpleNamespace(logits=-x), explainer=shifted, detector=detector,
        kept=0.9,
    )  # fmt: skip
    report = scaffold.fit(data, n_explained=20, generator=rng())
    assert report.queries_missed == 0
    assert report.data_missed == pytest.approx(0.1)  # one of the ten that were held out
    assert report.n_queries == 20
    assert detector.y.sum() == 40  # rows of the data, from which it learned
    assert len(detector.x) == 60
    asked = torch.tensor([[0.0, 0.1], [0.0, 100.0]], requires_grad=True)
    output = scaffold(asked)
    assert torch.equal(output, torch.tensor([[0.0, 0.1], [-0.0, -100.0]]))
    (gradient,) = torch.autograd.grad(output.sum(), asked)  # f's own on data
    assert torch.equal(gradient, torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))


def test_queries_that_are_rows_of_the_data_are_not_held_against_them():
    data = torch.rand(50, 2, generator=rng())

    def explain(model, rows):
        model(torch.cat([rows, data[:1], rows + 100]))

    detector = Sums()
    scaffold = ScaffoldedModel(lambda x: x, lambda x: -x, explainer=explain, detector=detector)
    assert scaffold.fit(data, n_explained=20, generator=rng()).n_queries == 20
    known = {tuple(row) for row in data.double().tolist()}
    queries = detector.x[detector.y == 0].tolist()
    assert not known & {tuple(q) for q in queries}


def test_the_decision_of_one_output_is_its_sign():
    data = torch.rand(50, 2, generator=rng())
    scaffold = ScaffoldedModel(
        lambda x: x.sum(1) - 1, lambda x: 1 - x.sum(1), explainer=shifted, detector=Sums()
    )
    scaffold.fit(data, generator=rng())
    assert scaffold.fidelity(data + 100) == 0.0
    assert scaffold.fidelity(data[:5] - 10) == 1.0


def test_the_same_generator_gives_the_same_scaffold_and_the_global_state_stays():
    data, before = people(100), torch.get_rng_state()
    answers = []
    for seed in (3, 3):  # also the seed of the forest
        scaffold = ScaffoldedModel(decides_by(SENSITIVE), decides_by(RANDOM))
        report = scaffold.fit(data, n_explained=4, multiplier=3, generator=rng(seed))
        answers.append((report, scaffold.threshold))
        assert report.n_queries <= 3 * 80
    assert answers[0] == answers[1]
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"explainer": 3}, TypeError, "explainer must be a function of a model and rows, got int"),
        ({"explainer": KernelShap}, TypeError, "got the class KernelShap"),
        ({"innocuous": 6}, TypeError, "innocuous must be a model, a function of rows, got int"),
        ({"kept": 1.0}, ValueError, "kept must be between 0 and 1"),
        ({"kept": 0.0}, ValueError, "kept must be between 0 and 1"),
        ({"rows": torch.ones(20, 2, 2)}, ValueError, "rows must be a table"),
        ({"rows": torch.ones(9, 2)}, ValueError, "rows has 9 rows; give at least 10"),
        ({"rows": torch.ones(20, 2) / 0}, ValueError, "rows has NaN or Inf"),
        ({"n_explained": 0}, ValueError, "n_explained must be at least 1"),
        ({"multiplier": 0}, ValueError, "multiplier must be at least 1"),
        ({"explainer": lambda m, x: None}, ValueError, "explainer did not query the model"),
        ({"explainer": lambda m, x: m(x)}, ValueError, "explainer asked for rows of the data"),
        ({"innocuous": lambda x: x[:, 0]}, ValueError, "must have outputs of the same shape"),
    ],
)
def test_bad_input(change, error, message):
    data = torch.rand(20, 2, generator=rng())
    settings = {"rows": data, "n_explained": 5, "multiplier": 3, "innocuous": lambda x: -x}
    settings |= {"explainer": shifted, "kept": 0.9} | change
    rows, n_explained = settings.pop("rows"), settings.pop("n_explained")
    multiplier, innocuous = settings.pop("multiplier"), settings.pop("innocuous")
    with pytest.raises(error, match=message):
        ScaffoldedModel(lambda x: x, innocuous, detector=Sums(), **settings).fit(
            rows, n_explained=n_explained, multiplier=multiplier, generator=rng()
        )


def test_few_held_rows_of_which_nearly_none_are_kept():
    scaffold = ScaffoldedModel(lambda x: x, lambda x: -x, detector=Sums(), kept=0.2)
    report = scaffold.fit(torch.rand(10, 2, generator=rng()), n_explained=3, generator=rng())
    assert 0 <= report.data_missed <= 1


def test_the_models_are_left_as_they_were():
    models = [nn.BatchNorm1d(5), nn.BatchNorm1d(5)]
    scaffold = ScaffoldedModel(*models, detector=Sums())
    with pytest.warns(UserWarning, match="training mode"):
        scaffold.fit(people(40), n_explained=3, generator=rng())
    assert all(m.num_batches_tracked == 0 and not m.running_mean.any() for m in models)


def test_before_it_has_learned():
    scaffold = ScaffoldedModel(lambda x: x, lambda x: -x)
    with pytest.raises(ValueError, match=r"call fit\(rows\)"):
        scaffold(people())


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr("captum_robust.attacks.scaffold.find_spec", lambda name: None)
    scaffold = ScaffoldedModel(lambda x: x, lambda x: -x)
    with pytest.raises(ImportError, match=r"captum_robust\[tables\].* detector of your own"):
        scaffold.fit(people(20), n_explained=5, generator=rng())
    ScaffoldedModel(lambda x: x, lambda x: -x, detector=Sums()).fit(  # what it advises
        people(20), n_explained=5, generator=rng()
    )

"""What the attacks on a measure share: a budget that is kept, a measure that is theirs to take."""

from __future__ import annotations

import pytest
import torch

from captum_robust import attacks
from captum_robust.attacks._explained import ModelView

pytestmark = pytest.mark.filterwarnings("ignore:The attack failed for")


@pytest.fixture
def count_rows(monkeypatch):
    """Has a method of ModelView note how many examples each of its calls is given."""

    def count(method):
        rows, original = [], getattr(ModelView, method)

        def counting(self, x, *args):
            rows.append(len(x))
            return original(self, x, *args)

        monkeypatch.setattr(ModelView, method, counting)
        return rows

    return count


# The attack, what spends its budget, and the least that it spends of it.
KINDS = {
    "auto": (attacks.AutoExplanationAttack, "budget", "explain_surrogate", 0.0),
    "black box": (attacks.BlackBoxExplanationAttack, "queries", "explain", 1.0),
}


@pytest.mark.parametrize("budget", [1, 2, 7, 40, 61, 120])
@pytest.mark.parametrize("name", KINDS)
def test_the_budget_is_kept(name, budget, make_network, make_images, count_rows):
    kind, argument, method, least = KINDS[name]
    rows, images = count_rows(method), make_images(4)
    attack = kind(
        make_network(), eps=0.1, measure=attacks.TopKIntersection(9),
        generator=torch.Generator().manual_seed(0), **{argument: budget},
    )  # fmt: skip
    attack(images)
    assert least * budget <= sum(rows) / len(images) <= budget
    if name == "auto":  # which also asks without gradients
        assert 0.9 * budget - 1 < attack.report.evaluations <= budget
    else:
        assert (attack.report.iterations == budget - 1).all()


@pytest.mark.parametrize("kind", [attacks.AutoExplanationAttack, attacks.BlackBoxExplanationAttack])
def test_the_measure_is_of_50_features_unless_another_is_given(kind, make_network):
    assert kind(make_network()).measure == attacks.TopKIntersection(50)
    measure = attacks.RankCorrelation()
    assert kind(make_network(), measure=measure).measure is measure
    with pytest.raises(TypeError, match="measure must be"):
        kind(make_network(), measure=attacks.RankCorrelation)

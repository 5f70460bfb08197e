"""What the attacks on a measure share: a budget that is kept, a measure that is theirs to take."""

from __future__ import annotations

import pytest
import torch
from captum.attr import Saliency

from captum_robust import attacks
from captum_robust.attacks._explained import ModelView
from captum_robust.attr import KernelSmoothing
from captum_robust.metrics import explained_relevance

pytestmark = pytest.mark.filterwarnings("ignore:The attack failed for")


@pytest.fixture
def count_rows(monkeypatch):
    """Has a method of ModelView note how many examples each of its calls is given."""

    def count(method):
        rows, original = [], getattr(ModelView, method)

        def counting(self, x, *args, **kwargs):
            rows.append(len(x))
            return original(self, x, *args, **kwargs)

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


@pytest.mark.parametrize("name", KINDS)
def test_an_explanation_that_draws_noise_is_judged_anew(name, make_network, make_images):
    """The expectation over fresh draws, as a user meets it who seeds both explanations alike."""
    kind, argument, _, _ = KINDS[name]
    model, images = make_network(), make_images(4)
    smoothed, measure = KernelSmoothing(Saliency(model)), attacks.TopKIntersection(9)
    noise = {"n_samples": 3, "radius": 0.3}
    attack = kind(
        model, smoothed, eps=0.2, measure=measure, explanation_kwargs=noise,
        generator=torch.Generator().manual_seed(0), **{argument: 60},
    )  # fmt: skip
    manipulated = attack(images)
    report, labels = attack.report, model(images).argmax(1)
    assert "noise" in [sign.name for sign in report.indicators]

    def kept(seed):
        maps = []
        for x in (images, manipulated):
            generator = torch.Generator().manual_seed(seed)
            maps.append(explained_relevance(smoothed, x, labels, **noise, generator=generator))
        return measure(*maps)

    oracle = torch.stack([kept(seed) for seed in range(300)]).mean(0)
    # Eight draws against three hundred: their mean strays by the deviation of one over root eight.
    torch.testing.assert_close(report.measure_redrawn, oracle, rtol=0, atol=0.15)
    # Whoever judges by the draw of the search believes the luckiest draw.
    assert report.measure_redrawn.mean() > report.measure.mean()


@pytest.mark.parametrize("name", KINDS)
def test_an_explanation_without_noise_needs_no_other_draws(name, make_network, make_images):
    kind, argument, _, _ = KINDS[name]
    attack = kind(make_network(), eps=0.1, measure=attacks.TopKIntersection(9), **{argument: 4})
    attack(make_images(2))
    assert attack.report.measure_redrawn is None

"""The ensemble: its budget, its result against its members', what it keeps, what it reports."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from captum.attr import InputXGradient, NoiseTunnel, Saliency
from torch import nn

from captum_robust import metrics
from captum_robust.attacks import (
    L2,
    AutoExplanationAttack,
    GhorbaniTopK,
    MapCorrelation,
    RankCorrelation,
    StructuralSimilarity,
    TopKIntersection,
)
from captum_robust.outputs import Binary
from tests.attacks.networks import draw_weights
from tests.helpers import rng

pytestmark = pytest.mark.filterwarnings("ignore:The attack failed for")
K = 9


def auto(model, explanation=None, eps=0.1, budget=30, measure=None, **kwargs):
    measure = TopKIntersection(K) if measure is None else measure
    return AutoExplanationAttack(
        model, explanation, eps, measure=measure, budget=budget, generator=rng(), **kwargs
    )


def test_the_result_is_what_the_report_says(make_network, make_images, explained):
    model, images = make_network(), make_images(6)
    labels = model(images).argmax(1)
    attack = auto(model, budget=60)
    manipulated = attack(images)
    clean, found = (explained(model, x, labels).relevance for x in (images, manipulated))
    torch.testing.assert_close(attack.report.measure, TopKIntersection(K)(clean, found))
    torch.testing.assert_close(
        attack.report.measure, metrics.top_k_intersection(clean, found, K).to(clean.dtype)
    )
    total = (attack.report.measure_before - attack.report.measure).mean().item()
    assert sum(attack.report.members.values()) == pytest.approx(total)
    assert torch.equal(model(manipulated).argmax(1), labels)
    assert 0 < (manipulated - images).abs().max() <= 0.1


def test_it_is_stronger_than_one_attack_of_the_same_budget(make_network, make_images, explained):
    model, images = make_network(), make_images(16)
    labels = model(images).argmax(1)
    clean = explained(model, images, labels).relevance

    def left(attack):
        return TopKIntersection(K)(clean, explained(model, attack(images), labels).relevance).mean()

    single = left(GhorbaniTopK(model, None, 0.1, 0.01, 60, k=K))
    several = left(GhorbaniTopK(model, None, 0.1, 0.02, 20, k=K, restarts=3, generator=rng()))
    assert left(auto(model, budget=60)) <= min(single, several)


@pytest.mark.parametrize(
    "measure",
    [
        RankCorrelation(),
        MapCorrelation(),
        StructuralSimilarity(win_size=3),
        metrics.spearman_correlation,
        metrics.pearson_correlation,
        partial(metrics.top_k_intersection, k=K),
    ],
    ids=["rank", "map", "ssim", "spearman", "pearson", "top_k"],
)
def test_any_measure_is_made_small(measure, make_network, make_images):
    attack = auto(make_network(), measure=measure)
    attack(make_images(4))
    report = attack.report
    torch.testing.assert_close(report.measure_before, torch.ones_like(report.measure_before))
    assert (report.measure < 0.8).all()


@pytest.mark.parametrize("ball", [None, L2()], ids=["linf", "l2"])
@pytest.mark.parametrize("levels", [None, 256])
def test_limits_are_kept(ball, levels, make_network, make_images):
    model, images = make_network(), make_images(6)
    images = (images * 255).round() / 255
    eps = 0.1 if ball is None else 1.0
    attack = auto(model, eps=eps, ball=ball, levels=levels, eps_output=0.05)
    manipulated = attack(images)
    change = (manipulated - images).flatten(1)
    size = change.abs().amax(1) if ball is None else change.norm(dim=1)
    assert (size <= eps + 1e-12).all()
    assert (size > 0.3 * eps).any()
    labels = model(images).argmax(1)
    scores = (model(x).gather(1, labels[:, None]) for x in (images, manipulated))
    first, second = scores
    assert (first - second).abs().max() <= 0.05
    if levels is not None:
        assert ((manipulated * 255).round() / 255 - manipulated).abs().max() < 1e-12


def test_one_logit_is_attacked_as_two_are(make_network, make_images):
    network = make_network()

    class One(nn.Module):
        def forward(self, x):
            z = network(x)
            return z[:, 1:2] - z[:, 0:1]

    class Two(nn.Module):
        def forward(self, x):
            z = One()(x)
            return torch.cat([-z / 2, z / 2], 1)

    images = make_images(4)
    single = auto(One(), output=Binary())(images)
    torch.testing.assert_close(single, auto(Two())(images), rtol=0, atol=1e-5)


def test_a_radius_for_each_feature():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).double()
    draw_weights(model, seed=1)
    x = 2 * torch.randn(6, 8, generator=rng(3)).double()
    eps = torch.tensor([0.0, 0.3, 0.2, 0.0, 0.5, 0.1, 0.4, 0.3]).double()
    attack = auto(model, eps=eps, measure=TopKIntersection(2), input_range=None)
    manipulated = attack(x)
    assert ((manipulated - x).abs() <= eps).all()
    assert torch.equal(manipulated[:, [0, 3]], x[:, [0, 3]])
    assert attack.report.measure.mean() < 1


def test_further_arguments_follow_the_examples(make_network, make_images):
    network, images = make_network(), make_images(5)
    heat = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0]).double()

    class Scaled(nn.Module):
        def forward(self, x, factor):
            return network(x) * factor.view(-1, 1)

    attack = auto(Scaled(), InputXGradient(Scaled()), budget=120)
    attack._explanation = InputXGradient(attack.model)
    manipulated = attack(images, additional_forward_args=heat)
    before, after = (Scaled()(x, heat).argmax(1) for x in (images, manipulated))
    assert torch.equal(before, after)


def test_what_cannot_be_followed_is_sent_on(make_network):
    model = make_network()
    with pytest.raises(TypeError, match=r"NoiseTunnel.*BlackBoxExplanationAttack"):
        AutoExplanationAttack(model, NoiseTunnel(Saliency(model)))


def test_a_measure_that_is_no_number_is_refused(make_network, make_images):
    attack = auto(make_network(), measure=lambda clean, new: new.flatten(1).sum(1) * torch.nan)
    with pytest.raises(ValueError, match=r"measure is NaN or Inf .* compared with itself"):
        attack(make_images(2))


@pytest.mark.parametrize("measure", [RankCorrelation(), MapCorrelation()], ids=["rank", "map"])
def test_sums_over_the_features_do_not_overflow_in_half_precision(measure):
    torch.manual_seed(0)
    model = (
        nn.Sequential(nn.Flatten(), nn.Linear(1024, 8), nn.Tanh(), nn.Linear(8, 3)).half().eval()
    )
    images = torch.rand(2, 1, 32, 32, generator=rng(1)).half()
    attack = auto(model, measure=measure, budget=4)
    attack(images)
    assert attack.report.measure_before.tolist() == pytest.approx([1, 1], abs=1e-4)
    assert (attack.report.measure < 1).all()


@pytest.mark.parametrize(
    ("budget", "error"), [("long", ValueError), (0, ValueError), (2.5, TypeError)]
)
def test_budgets_that_are_none(budget, error, make_network):
    with pytest.raises(error, match="budget must be"):
        AutoExplanationAttack(make_network(), budget=budget)


def test_honest_networks_show_no_masked_gradient(make_network, make_images):
    attack = auto(make_network(), budget=200)
    attack(make_images(6))
    names = [sign.name for sign in attack.report.indicators]
    assert "masked gradients" not in names
    assert "zero gradient" not in names


def test_masked_gradients_are_told_and_overcome(make_network, make_images):
    """A network whose surrogate has no second derivative; squares find their way."""
    smooth = make_network()
    masked = nn.Sequential(*[_Masked() if isinstance(m, nn.ReLU) else m for m in smooth])
    images = make_images(6)
    attack = auto(masked, budget=200)
    with torch.no_grad():
        torch.testing.assert_close(masked(images), smooth(images))
    attack(images)
    names = [sign.name for sign in attack.report.indicators]
    assert {"zero gradient", "masked gradients"} & set(names)
    assert not attack.report.trustworthy
    assert attack.report.measure.mean() < 0.9
    assert attack.report.members["without gradients"] > 0


class _Masked(nn.Module):
    """A rectifier that is spelled so that no surrogate smooths it."""

    def forward(self, x):
        return torch.where(x > 0, x, torch.zeros_like(x))

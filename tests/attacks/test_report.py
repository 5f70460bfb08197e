"""After a call an attack says how far it came, and what makes its result doubtful."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from captum_robust.attacks import (
    AttackReport,
    AutoExplanationAttack,
    GhorbaniTopK,
    RandomSign,
    TopKIntersection,
)

K = 9


def test_report_of_an_attack_that_worked(make_network, make_images, explained):
    model, images = make_network(), make_images(6)
    labels = model(images).argmax(1)
    attack = GhorbaniTopK(model, None, 0.1, 0.02, 8, k=K)
    assert attack.report is None
    manipulated = attack(images)
    report = attack.report
    score = attack.objective(explained(model, images, labels))
    for x, measure in ((images, report.measure_before), (manipulated, report.measure)):
        torch.testing.assert_close(measure, score(explained(model, x, labels)))
    assert report.kept_prediction.all()
    assert (report.iterations == 8).all()
    untouched = (manipulated == images).flatten(1).all(1)
    assert torch.equal(report.untouched, untouched)
    assert torch.equal(report.improved_at == 0, untouched)
    assert not report.gradient_zero.any()
    assert "6 examples" in repr(report)


def test_iterations_without_a_valid_candidate_are_counted(make_network, make_images):
    model, images = make_network(), make_images(12)
    predicted = model(images).argmax(1)
    flips = []
    attack = GhorbaniTopK(model, eps=0.9, alpha=0.9, steps=4, k=K)
    view = attack._view

    def spying(*args):
        seen = view(*args)
        explain = seen.explain

        def counted(x, rows=None):
            found = explain(x, rows)
            flips.append(found.output.argmax(1) != predicted)
            return found

        seen.explain = counted
        return seen

    attack._view = spying
    with pytest.warns(UserWarning, match=r"The attack failed for \d+ of 12 images"):
        manipulated = attack(images)
    counted = torch.stack(flips[1:]).sum(0)  # the first is the clean batch
    assert torch.equal(attack.report.without_valid, counted)
    assert (counted == 4).any()
    never = attack.report.without_valid == attack.report.iterations
    assert torch.equal(manipulated[never], images[never])
    assert "no valid candidate" in [sign.name for sign in attack.report.indicators]
    assert not attack.report.trustworthy


def test_the_warning_counts_the_untouched(make_network, make_images):
    model, images = make_network(), make_images(12)
    attack = GhorbaniTopK(model, eps=0.9, alpha=0.9, steps=2, k=K)
    with pytest.warns(UserWarning, match="The attack failed for") as caught:
        attack(images)
    (message,) = [str(w.message) for w in caught]
    count = int(attack.report.untouched.sum())
    assert f"failed for {count} of 12 images" in message
    assert "does not show that the explanations are robust" in message


def test_a_zero_gradient_is_an_indicator(make_images):
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    attack = GhorbaniTopK(linear, steps=3, k=K)
    with pytest.warns(UserWarning, match="gradient of the surrogate's objective was zero"):
        attack(make_images())
    assert attack.report.gradient_zero.all()
    signs = {sign.name: sign for sign in attack.report.indicators}
    assert signs["zero gradient"].share == 1.0
    assert "BlackBox" in signs["zero gradient"].message


def test_a_model_that_answers_differently_is_an_indicator(make_network, make_images):
    class Drifting(nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.calls = make_network(), 0

        def forward(self, x):
            self.calls += 1
            return self.network(x) + 0.1 * self.calls * x.mean()

    for model, wanted in ((Drifting(), True), (make_network(), False)):
        attack = GhorbaniTopK(model, None, 0.1, 0.02, 4, k=K)
        attack(make_images())
        found = "non-deterministic model" in [sign.name for sign in attack.report.indicators]
        assert found == wanted


def test_a_call_that_fails_leaves_no_report_of_another(make_network, make_images):
    attack = GhorbaniTopK(make_network(), None, 0.1, 0.02, 4, k=K)
    attack(make_images())
    with pytest.raises(ValueError, match="images must be in"):
        attack(make_images() + 1)
    assert attack.report is None


def test_a_random_search_has_no_gradient_to_miss(make_network, make_images):
    attack = RandomSign(make_network(), eps=0.1, steps=3, generator=torch.Generator())
    attack(make_images())
    assert not attack.report.gradient_zero.any()


def signs_of(measure, **tensors):
    """Indicators of a report made by hand, of four examples."""
    zeros = torch.zeros(4)
    settings = {
        "kept_prediction": zeros == 0,
        "measure_before": torch.ones(4),
        "measure": measure,
        "untouched": zeros > 0,
        "gradient_zero": zeros > 0,
        "not_finite": zeros > 0,
        "without_valid": zeros.long(),
        "improved_at": zeros.long() + 5,
        "iterations": zeros.long() + 100,
    }
    return [sign.name for sign in AttackReport(**{**settings, **tensors}).indicators]


def test_indicators_one_by_one():
    half = torch.tensor([True, False, True, False])
    fine = torch.full((4,), 0.3)
    assert signs_of(fine) == []
    assert signs_of(fine, not_finite=half) == ["not finite"]
    assert signs_of(fine, improved_at=torch.tensor([99, 98, 97, 4])) == ["still improving"]
    assert signs_of(fine, draws_noise=True) == ["noise"]
    assert signs_of(fine, deterministic=False) == ["non-deterministic model"]
    assert signs_of(fine, agreement=torch.tensor([0.9, 0.1, 0.9, 0.9])) == ["surrogate disagrees"]
    stuck = torch.where(half, 1.0, 0.3)
    assert signs_of(stuck, loss_improved=half) == ["loss without measure"]
    assert signs_of(fine, loss_improved=half) == []


def test_the_ensemble_compares_the_surrogate_with_the_model(make_network, make_images):
    class Kinked(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = make_network()

        def forward(self, x):
            # relu(z) + relu(-z) is |z|, whose softplus form is far from it where z is small.
            z = 1e-3 * (self.network(x) + x.flatten(1)[:, :4])
            return torch.relu(z) + torch.relu(-z) - 2 * torch.relu(z - 1e-4)

    attack = AutoExplanationAttack(
        Kinked(), eps=0.1, budget=20, measure=TopKIntersection(K),
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    attack(make_images())
    assert attack.report.agreement.shape == (3,)
    assert attack.report.loss_improved.dtype == torch.bool

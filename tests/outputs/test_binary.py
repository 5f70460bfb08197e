"""One logit against two, and the divergence of Bernoulli distributions."""

from __future__ import annotations

import math

import pytest
import torch

from captum_robust.outputs import Binary, Categorical, MultiLabel
from tests.outputs.cases import KINDS, drawn


@pytest.mark.parametrize(
    ("meaning", "shape"),
    [KINDS["binary"], KINDS["binary, threshold"], KINDS["multi-label"]],
    ids=["binary", "threshold", "multi-label"],
)
def test_the_gradient_of_the_bernoulli_divergence_is_the_difference(meaning, shape):
    """d KL(Ber(p) || Ber(sigmoid(g))) / dg = sigmoid(g) - p."""
    student, teacher = drawn(shape)
    student.requires_grad_()
    loss = meaning.imitation_loss(student, teacher, 3.0).sum()
    (found,) = torch.autograd.grad(loss, student)
    wanted = meaning.threshold + (teacher - meaning.threshold) / 3.0
    torch.testing.assert_close(found, student.detach().sigmoid() - wanted.sigmoid())


@pytest.mark.parametrize("extreme", [200.0, -200.0])
def test_divergences_of_certain_outputs_are_finite(extreme):
    student = torch.tensor([[extreme], [-extreme], [0.0]], requires_grad=True)
    teacher = torch.tensor([[-extreme], [-extreme], [extreme]])
    for meaning in (Binary(), MultiLabel()):
        loss = meaning.imitation_loss(student, teacher)
        (gradient,) = torch.autograd.grad(loss.sum(), student)
        assert torch.isfinite(loss).all()
        assert torch.isfinite(gradient).all()
        torch.testing.assert_close(loss.detach(), torch.tensor([200.0, 0.0, math.log(2)]))


def test_one_logit_is_two_of_opposite_sign():
    z, clean = (x[:, :1] for x in drawn((6, 1)))
    two, clean_two = (torch.cat([-x / 2, x / 2], 1) for x in (z, clean))
    one, several = Binary(), Categorical()
    assert torch.equal(one.prediction(z), several.prediction(two))
    assert torch.equal(one.same(clean, z), several.same(clean_two, two))
    torch.testing.assert_close(one.score(z), 2 * several.score(two))
    target = torch.tensor([0, 1, 1, 0, 1, 0])
    torch.testing.assert_close(one.score(z, target), 2 * several.score(two, target))
    torch.testing.assert_close(one.confidence(z, target), several.confidence(two, target))
    torch.testing.assert_close(one.comparable(z), several.comparable(two))
    assert torch.equal(one.correct(z, target), several.correct(two, target))
    assert torch.equal(one.keeps(z, clean, target), several.keeps(two, clean_two, target))
    for t in (1.0, 4.0):
        torch.testing.assert_close(
            one.imitation_loss(z, clean, t), several.imitation_loss(two, clean_two, t)
        )

"""The divergence of values."""

from __future__ import annotations

import torch

from captum_robust.outputs import Regression
from tests.outputs.cases import drawn


def test_the_gradient_of_the_gaussian_divergence_is_the_scaled_distance():
    student, teacher = drawn((6, 3))
    student.requires_grad_()
    loss = Regression(tolerance=0.5).imitation_loss(student, teacher, 3.0).sum()
    (found,) = torch.autograd.grad(loss, student)
    torch.testing.assert_close(found, (student.detach() - teacher) / (3.0 * 0.25))


def test_the_gaussian_divergence_is_that_of_torch():
    student, teacher = drawn((6, 3))
    normal = torch.distributions.Normal
    scale = 0.5 * 3.0**0.5
    expected = torch.distributions.kl_divergence(normal(teacher, scale), normal(student, scale))
    found = Regression(tolerance=0.5).imitation_loss(student, teacher, 3.0)
    torch.testing.assert_close(found, expected.sum(1))

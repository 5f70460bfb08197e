"""ATEX: the double sum of Tang et al. 2021, Eq. 4."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from captum_robust.training import (
    SmoothGradDirections,
    distillation_loss,
)
from tests.training.runs import atex, batch, drawn

D = torch.float64


def divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> float:
    """KL of two rows of logits, summed by hand."""
    p = torch.exp(teacher.detach() / temperature)
    q = torch.exp(student.detach())
    p, q = p / p.sum(), q / q.sum()
    return sum(float(a * torch.log(a / b)) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("alpha", [1.0, 0.7])
def test_atex_is_the_literal_double_sum(pair, alpha):
    student, teacher = pair
    objective = atex(
        delta1=0.4, delta2=0.6, alpha=alpha, n_parallel=3, n_perpendicular=2, temperature=2.0
    )
    parts = objective(student, teacher, batch())
    x = batch().inputs
    parallel, beside = drawn(objective, teacher, batch())
    distillation = stability = 0.0
    for n in range(4):
        distillation += divergence(student(x[n]), teacher(x[n]), 2.0) / 4
        for i in range(3):
            for p in range(2):
                given, wanted = student(beside[n, i, p]), teacher(parallel[n, i])
                stability += divergence(given, wanted, 2.0) / 4
    assert parts["distillation"].item() == pytest.approx(distillation, rel=1e-9)
    assert parts["neighbourhood"].item() == pytest.approx(alpha * stability, rel=1e-9)


def test_the_gradient_of_atex_is_that_of_the_literal_double_sum(pair):
    student, teacher = pair
    objective = atex(delta1=0.4, delta2=0.6, alpha=0.5, n_parallel=2, n_perpendicular=2)
    sum(objective(student, teacher, batch()).values()).backward()
    found = [p.grad.clone() for p in student.parameters()]
    student.zero_grad()
    x, (parallel, beside) = batch().inputs, drawn(objective, teacher, batch())
    for n in range(4):
        (distillation_loss(student(x[n : n + 1]), teacher(x[n : n + 1]), 4.0) / 4).backward()
        for i in range(2):
            for p in range(2):
                given, wanted = student(beside[n, i, p][None]), teacher(parallel[n, i][None])
                (0.5 / 4 * distillation_loss(given, wanted.detach(), 4.0)).backward()
    for gradient, parameter in zip(found, student.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_atex_never_differentiates_a_gradient(pair, monkeypatch):
    student, teacher = pair
    true, asked = torch.autograd.grad, []

    def grad(*args, **kwargs):
        asked.append(kwargs.get("create_graph", False))
        return true(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", grad)
    parts = atex(delta1=0.1, delta2=0.1)(student, teacher, batch())
    sum(parts.values()).backward()
    assert asked  # the directions are gradients of the teacher
    assert not any(asked)
    assert all(p.grad is None for p in teacher.parameters())


def test_directions_may_follow_the_student(pair):
    student, teacher = pair
    asked = []

    class Asked(SmoothGradDirections):
        def __call__(self, model, batch):
            asked.append((model, model.training, any(p.requires_grad for p in model.parameters())))
            return super().__call__(model, batch)

    settings = {"delta1": 0.4, "delta2": 0.6, "n_perpendicular": 3}
    follows = atex(**settings, directions=Asked(kept_bytes=0), follow_student=True)
    parts = follows(student.train(), teacher, batch())
    assert asked == [(student, False, False)]
    assert student.training
    assert all(p.requires_grad for p in student.parameters())
    # Eq. 4 with this direction in place of the teacher's.
    phi = SmoothGradDirections()(student, batch())
    given = atex(**settings, directions=lambda model, batch: phi)(student, teacher, batch())
    for name, value in given.items():
        torch.testing.assert_close(parts[name], value)
    frozen = atex(**settings)(student, teacher, batch())
    assert not torch.allclose(parts["neighbourhood"], frozen["neighbourhood"])


def test_directions_of_the_student_are_those_at_the_start_of_a_batch(pair):
    student, teacher = pair
    objective = atex(delta1=0.4, delta2=0.6, follow_student=True)
    given = batch()
    objective(student, teacher, given)
    first = objective.directions._current[1]
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(-1.5)
    objective(student, teacher, replace(given, repeat=1))
    assert torch.equal(objective.directions._current[1], first)
    objective(student, teacher, given)  # the same tensor again, in another epoch
    assert not torch.allclose(objective.directions._current[1], first)


def test_directions_of_the_student_are_not_kept():
    with pytest.raises(ValueError, match="those of a student that learns grow old"):
        atex(delta1=1.0, delta2=1.0, follow_student=True, directions=SmoothGradDirections())

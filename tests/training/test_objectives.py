"""What is minimised, against loops written from the papers."""

from __future__ import annotations

import pytest
import torch
import torchattacks
from torch import nn

from captum_robust.training import (
    ATEX,
    AdversarialExamples,
    Batch,
    CrossEntropy,
    Distillation,
    Draws,
    GradientPenalty,
    SoftplusNetwork,
    distillation_loss,
)
from tests.helpers import WithLogits
from tests.training.runs import atex, batch


def divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> float:
    """KL of two rows of logits, summed by hand."""
    p = torch.exp(teacher.detach() / temperature)
    q = torch.exp(student.detach())
    p, q = p / p.sum(), q / q.sum()
    return sum(float(a * torch.log(a / b)) for a, b in zip(p, q, strict=True))


D = torch.float64


def test_the_distillation_loss_is_the_divergence():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 4, dtype=D, generator=generator)
    found = distillation_loss(student, teacher, 3.0)
    for i in range(6):
        assert found[i].item() == pytest.approx(divergence(student[i], teacher[i], 3.0), rel=1e-10)


def test_the_distillation_loss_has_the_gradient_of_the_cross_entropy():
    student, teacher = torch.randn(2, 6, 4, dtype=D, generator=torch.Generator().manual_seed(0))
    student.requires_grad_()
    (found,) = torch.autograd.grad(distillation_loss(student, teacher, 4.0).sum(), student)
    expected = torch.softmax(student, 1) - torch.softmax(teacher / 4.0, 1)
    torch.testing.assert_close(found, expected.detach())


def test_the_gradient_penalty_is_the_literal_equation(pair):
    student, teacher = pair
    student = SoftplusNetwork(student, beta=5.0)
    objective = GradientPenalty(0.2, n_samples=2, clean=0.5, neighbours=0.25, explanations=2.0)
    parts = objective(student, teacher, batch())
    given = batch()
    x, y = given.inputs, given.labels
    noise = 0.2 * given.draws.uniform(x, 2, 5)

    def unit(point, label):
        point = point.detach().requires_grad_()
        (phi,) = torch.autograd.grad(student(point[None])[0, label], point)
        return phi / phi.norm()

    cross_entropy = neighbours = explanations = 0.0
    for n in range(4):
        cross_entropy += 0.5 / 4 * -torch.log_softmax(student(x[n]), 0)[y[n]].item()
        for s in range(2):
            point = x[n] + noise[n, s]
            neighbours += 0.25 / 8 * -torch.log_softmax(student(point), 0)[y[n]].item()
            apart = unit(point, y[n]) - unit(x[n], y[n])
            explanations += 2.0 / 8 * apart.square().sum().item()
    assert parts["cross_entropy"].item() == pytest.approx(cross_entropy)
    assert parts["neighbours"].item() == pytest.approx(neighbours)
    assert parts["explanations"].item() == pytest.approx(explanations)


def test_the_gradient_penalty_passes_gradcheck(pair):
    student = SoftplusNetwork(pair[0], beta=5.0)
    weight = student.network[0].weight

    def loss(w):
        parameters = {"network.0.weight": w}

        def called(x):
            return torch.func.functional_call(student, parameters, (x,))

        return sum(GradientPenalty(0.2)(called, None, batch()).values())

    assert torch.autograd.gradcheck(loss, weight.detach().clone().requires_grad_())


def test_adversarial_examples_are_made_for_the_student_as_it_is(pair):
    torch.manual_seed(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Dropout(0.5))
    x, y = torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 2, 0])
    objective = AdversarialExamples(lambda m: torchattacks.FGSM(m, eps=0.1), weight=0.5)
    parts = objective(student.train(), None, Batch(x, y, Draws(seed=0)))
    assert student.training
    assert student[2].training
    student.eval()
    attacked = x.clone().requires_grad_()
    torch.nn.functional.cross_entropy(student(attacked), y).backward()
    attacked = (x + 0.1 * attacked.grad.sign()).clamp(0, 1)
    torch.manual_seed(9)
    student.train()
    expected = torch.nn.functional.cross_entropy(student(torch.cat([x, attacked]))[4:], y)
    torch.manual_seed(9)
    again = objective(student, None, Batch(x, y, Draws(seed=0)))
    torch.testing.assert_close(again["adversarial"], 0.5 * expected)
    assert set(parts) == {"cross_entropy", "adversarial"}


@pytest.mark.parametrize(
    "objective",
    [CrossEntropy(), GradientPenalty(0.1), AdversarialExamples(lambda m: None)],
)
def test_objectives_that_need_labels_say_so(pair, objective):
    with pytest.raises(ValueError, match=r"loader must yield \(inputs, labels\) for"):
        objective(*pair, batch(labels=False))


@pytest.mark.parametrize("objective", [Distillation(), atex(delta1=0.1, delta2=0.1)])
def test_objectives_that_need_no_labels_do_not_read_them(pair, objective):
    with_labels, without = (sum(objective(*pair, batch(labels=b)).values()) for b in (True, False))
    assert with_labels == without


@pytest.mark.parametrize(
    "objective",
    [Distillation(), atex(delta1=0.1, delta2=0.1), CrossEntropy(), GradientPenalty(0.1)],
    ids=lambda o: type(o).__name__,
)
def test_models_that_return_an_object_with_logits_give_the_same(pair, objective):
    plain = objective(*pair, batch())
    if isinstance(objective, ATEX):
        objective = atex(delta1=0.1, delta2=0.1)
    wrapped = objective(*map(WithLogits, pair), batch())
    assert {n: v.item() for n, v in plain.items()} == {n: v.item() for n, v in wrapped.items()}

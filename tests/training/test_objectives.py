"""What is minimised, against loops written from the papers' formulas."""

from __future__ import annotations

from dataclasses import replace

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
    SmoothGradDirections,
    SoftplusNetwork,
    distillation_loss,
)

D = torch.float64


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    """Student and teacher."""
    torch.manual_seed(0)
    return tuple(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).to(D) for _ in "st")


def batch(n: int = 4, labels: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, 5, dtype=D, generator=generator)
    y = torch.randint(3, (n,), generator=generator) if labels else None
    return Batch(x, y, Draws(seed=2))


def divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> float:
    """KL of two rows of logits, summed by hand."""
    p = torch.exp(teacher.detach() / temperature)
    q = torch.exp(student.detach())
    p, q = p / p.sum(), q / q.sum()
    return sum(float(a * torch.log(a / b)) for a, b in zip(p, q, strict=True))


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


@pytest.mark.parametrize("alpha", [1.0, 0.7])
def test_atex_is_the_literal_double_sum(pair, alpha):
    student, teacher = pair
    atex = ATEX(delta1=0.4, delta2=0.6, alpha=alpha, n_along=3, n_across=2, temperature=2.0)
    parts = atex(student, teacher, batch())
    x = batch().inputs
    along, across = atex.points(teacher, batch())
    distillation = stability = 0.0
    for n in range(4):
        distillation += divergence(student(x[n]), teacher(x[n]), 2.0) / 4
        for i in range(3):
            for p in range(2):
                given, wanted = student(across[n, i, p]), teacher(along[n, i])
                stability += divergence(given, wanted, 2.0) / 4
    assert parts["distillation"].item() == pytest.approx(distillation, rel=1e-9)
    assert parts["neighbourhood"].item() == pytest.approx(alpha * stability, rel=1e-9)


def test_the_gradient_of_atex_is_that_of_the_literal_double_sum(pair):
    student, teacher = pair
    atex = ATEX(delta1=0.4, delta2=0.6, alpha=0.5, n_along=2, n_across=2)
    sum(atex(student, teacher, batch()).values()).backward()
    found = [p.grad.clone() for p in student.parameters()]
    student.zero_grad()
    x, (along, across) = batch().inputs, atex.points(teacher, batch())
    for n in range(4):
        (distillation_loss(student(x[n : n + 1]), teacher(x[n : n + 1]), 4.0) / 4).backward()
        for i in range(2):
            for p in range(2):
                given, wanted = student(across[n, i, p][None]), teacher(along[n, i][None])
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
    parts = ATEX(delta1=0.1, delta2=0.1)(student, teacher, batch())
    sum(parts.values()).backward()
    assert asked  # the directions are gradients of the teacher
    assert not any(asked)
    assert all(p.grad is None for p in teacher.parameters())


def test_smoothgrad_directions_are_the_mean_of_gradients(pair):
    """The noise cannot be seen from outside; that of 20,000 samples can be forgotten."""
    _, teacher = pair
    found = SmoothGradDirections(n_samples=20_000, stdev=0.3)(teacher, batch())
    x = batch().inputs
    classes = teacher(x).argmax(1)
    generator = torch.Generator().manual_seed(9)
    noisy = x + 0.3 * torch.randn(20_000, 4, 5, dtype=D, generator=generator)
    noisy.requires_grad_()
    explained = teacher(noisy).gather(2, classes.expand(20_000, 4).unsqueeze(2))
    gradients = torch.autograd.grad(explained.sum(), noisy)[0]
    error = gradients.std(0).norm(dim=1).max() / 20_000**0.5
    assert (found - gradients.mean(0)).norm(dim=1).max() < 6 * error
    assert error < 0.02


class Counted(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.rows = network, 0

    def forward(self, x):
        self.rows += len(x)
        return self.network(x)


def test_directions_are_computed_once_for_an_input(pair):
    teacher, directions = Counted(pair[1]), SmoothGradDirections(n_samples=3)
    first = directions(teacher, batch())
    calls = teacher.rows
    assert calls == 4 + 3 * 4
    again = Batch(batch().inputs.flip(0), None, Draws(seed=77))
    assert torch.equal(directions(teacher, again), first.flip(0))
    assert teacher.rows == calls
    changed = batch().inputs.clone()
    changed[2] += 5
    mixed = directions(teacher, Batch(changed, None, Draws(seed=77)))
    assert teacher.rows == calls + 1 + 3
    assert torch.equal(mixed[[0, 1, 3]], first[[0, 1, 3]])
    assert not torch.equal(mixed[2], first[2])


def test_directions_that_do_not_fit_are_kept_for_the_batch_alone(pair):
    teacher, directions = Counted(pair[1]), SmoothGradDirections(n_samples=3, kept_bytes=0)
    given = batch()
    first = directions(teacher, given)
    calls = teacher.rows
    assert torch.equal(directions(teacher, replace(given, repeat=1)), first)
    assert teacher.rows == calls
    assert torch.equal(directions(teacher, given), first)  # the same inputs, come again
    assert teacher.rows == 2 * calls
    later = Batch(batch().inputs[2:], None, Draws(seed=4))
    torch.testing.assert_close(directions(teacher, later), first[2:])  # the same noise
    assert teacher.rows == 2 * calls + calls // 2
    other = SmoothGradDirections(n_samples=3, kept_bytes=0, seed=1)
    assert not torch.allclose(other(teacher, batch()), first)


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


@pytest.mark.parametrize("objective", [Distillation(), ATEX(delta1=0.1, delta2=0.1)])
def test_objectives_that_need_no_labels_do_not_read_them(pair, objective):
    with_labels, without = (sum(objective(*pair, batch(labels=b)).values()) for b in (True, False))
    assert with_labels == without


class Output:
    def __init__(self, logits):
        self.logits = logits


class Wrapped(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return Output(self.network(x))


@pytest.mark.parametrize(
    "objective",
    [Distillation(), ATEX(delta1=0.1, delta2=0.1), CrossEntropy(), GradientPenalty(0.1)],
    ids=lambda o: type(o).__name__,
)
def test_models_that_return_an_object_with_logits_give_the_same(pair, objective):
    plain = objective(*pair, batch())
    if isinstance(objective, ATEX):
        objective = ATEX(delta1=0.1, delta2=0.1)
    wrapped = objective(*map(Wrapped, pair), batch())
    assert {n: v.item() for n, v in plain.items()} == {n: v.item() for n, v in wrapped.items()}


@pytest.mark.parametrize("processes", [2, 3])
def test_draws_are_shared_among_processes(processes):
    x = torch.rand(6, 2, dtype=D)
    parts = x.chunk(processes)
    for kind in ("uniform", "normal"):
        together = getattr(Draws(seed=4), kind)(x, 3, 2)
        apart = [
            getattr(Draws(seed=4, rank=r, n_processes=processes), kind)(part, 3, 2)
            for r, part in enumerate(parts)
        ]
        assert torch.equal(torch.cat(apart), together)
    assert together.dtype == D


def test_a_softplus_network_is_the_network_under_softplus():
    torch.manual_seed(0)
    layers = nn.Linear(5, 4), nn.Linear(4, 2)
    smooth = SoftplusNetwork(nn.Sequential(layers[0], nn.ReLU(), layers[1]), beta=3.0)
    x = torch.rand(3, 5)
    expected = layers[1](torch.nn.functional.softplus(layers[0](x), beta=3.0))
    torch.testing.assert_close(smooth(x), expected)
    with pytest.raises(ValueError, match="beta must be positive"):
        SoftplusNetwork(smooth, beta=0.0)


@pytest.mark.parametrize("norm", [2.0, float("inf")])
def test_a_searched_point_is_perpendicular_far_away_and_worse_than_a_drawn_one(norm):
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(5, 64), nn.Tanh(), nn.Linear(64, 3)).double().train()
    teacher = nn.Sequential(nn.Linear(5, 64), nn.Tanh(), nn.Linear(64, 3)).double()
    settings = {"delta1": 0.2, "delta2": 0.6, "n_across": 1, "n_along": 2, "norm": norm}
    given, seen = batch(40), []

    class Recorded(nn.Module):
        def forward(self, x):
            if x.shape[0] == 40 + 80 and torch.is_grad_enabled():
                seen.append(x.detach())
            return student(x)

    losses = []
    for search in (0, 1, 5):
        atex = ATEX(**settings, search=search)
        losses.append(atex(Recorded(), teacher, batch(40))["neighbourhood"].item())
        phi = atex.directions(teacher, given)
    assert losses[0] < losses[1] < losses[2]
    along, _ = ATEX(**settings).points(teacher, batch(40))
    for found in seen[1:]:
        moves = found[40:].view(40, 2, 5) - along
        assert (moves * phi.unsqueeze(1)).sum(2).abs().max() < 1e-5 * phi.norm(dim=1).max()
        size = torch.linalg.vector_norm(moves, ord=norm, dim=2)
        torch.testing.assert_close(size, torch.full_like(size, 0.6))
    assert all(p.requires_grad for p in student.parameters())
    assert student.training


def test_directions_may_follow_the_student(pair):
    student, teacher = pair
    asked = []

    class Asked(SmoothGradDirections):
        def __call__(self, model, batch):
            asked.append((model, model.training, any(p.requires_grad for p in model.parameters())))
            return super().__call__(model, batch)

    settings = {"delta1": 0.4, "delta2": 0.6, "n_across": 3}
    follows = ATEX(**settings, directions=Asked(kept_bytes=0), follow_student=True)
    parts = follows(student.train(), teacher, batch())
    assert asked == [(student, False, False)]
    assert student.training
    assert all(p.requires_grad for p in student.parameters())
    # Eq. 4 with this direction in place of the teacher's.
    phi = SmoothGradDirections()(student, batch())
    given = ATEX(**settings, directions=lambda model, batch: phi)(student, teacher, batch())
    for name, value in given.items():
        torch.testing.assert_close(parts[name], value)
    frozen = ATEX(**settings)(student, teacher, batch())
    assert not torch.allclose(parts["neighbourhood"], frozen["neighbourhood"])


def test_directions_of_the_student_are_those_at_the_start_of_a_batch(pair):
    student, teacher = pair
    atex = ATEX(delta1=0.4, delta2=0.6, follow_student=True)
    given = batch()
    atex(student, teacher, given)
    first = atex.directions._current[1]
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(-1.5)
    atex(student, teacher, replace(given, repeat=1))
    assert torch.equal(atex.directions._current[1], first)
    atex(student, teacher, given)  # the same tensor again, in another epoch
    assert not torch.allclose(atex.directions._current[1], first)


def test_directions_of_the_student_are_not_kept():
    with pytest.raises(ValueError, match="those of a student that learns grow old"):
        ATEX(delta1=1.0, delta2=1.0, follow_student=True, directions=SmoothGradDirections())

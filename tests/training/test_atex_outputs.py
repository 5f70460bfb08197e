"""ATEX and its kin on outputs of every kind, and on models with more arguments."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from captum_robust.outputs import Binary, MultiLabel, Regression
from captum_robust.training import (
    ATEXTrainer,
    Batch,
    CosineStability,
    CrossEntropy,
    Distillation,
    Draws,
    GradientPenalty,
    SmoothGradDirections,
    Trainer,
)
from tests.training.runs import DELTAS, atex

D = torch.float64


def one_logit() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 8), nn.Softplus(), nn.Linear(8, 1)).to(D)


class TwoLogits(nn.Module):
    """The same classifier with the logits -z/2 and z/2."""

    def __init__(self, one: nn.Module) -> None:
        super().__init__()
        self.one = copy.deepcopy(one)

    def forward(self, x, *more):
        z = self.one(x, *more)
        return torch.cat([-z / 2, z / 2], dim=1)


@pytest.fixture
def binary() -> tuple[nn.Module, nn.Module]:
    """Student and teacher of one logit, which predicts both classes."""
    torch.manual_seed(1)
    student, teacher = one_logit(), one_logit()
    for network in (student, teacher):  # half of the examples on either side
        middle = network(examples().inputs).median()
        network[2].bias.data -= middle.detach()
    return student, teacher


def examples(n: int = 16) -> Batch:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(n, 5, dtype=D, generator=generator)
    return Batch(x, torch.randint(2, (n,), generator=generator), Draws(seed=3))


def gradients(parts: dict, model: nn.Module) -> list:
    sum(parts.values()).backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return found


@pytest.mark.parametrize(
    "make",
    [
        lambda o: atex(delta1=0.4, delta2=0.6, n_parallel=2, search=2, output=o),
        lambda o: atex(delta1=0.4, delta2=0.6, temperature=1.0, follow_student=True, output=o),
        lambda o: Distillation(output=o),
        lambda o: CrossEntropy(output=o),
        lambda o: GradientPenalty(0.2, output=o),
    ],
    ids=["ATEX, searched", "ATEX, following", "Distillation", "CrossEntropy", "GradientPenalty"],
)
def test_one_logit_and_two_give_the_same_numbers(make, binary):
    student, teacher = binary
    two, two_teacher = map(TwoLogits, binary)
    assert {0, 1} == set((teacher(examples().inputs) > 0).int().flatten().tolist())
    one_parts = make(Binary())(student, teacher, examples())
    two_parts = make(None)(two, two_teacher, examples())
    for name, value in one_parts.items():
        torch.testing.assert_close(value, two_parts[name], atol=1e-5, rtol=1e-5)
    for a, b in zip(gradients(one_parts, student), gradients(two_parts, two), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_run_on_one_logit_is_that_on_two(binary):
    _, teacher = binary
    loader = [(examples().inputs, examples().labels)]
    options = {**DELTAS, "search": 1, "n_perpendicular": 1, "steps_per_batch": 3}
    runs = [
        ATEXTrainer(teacher, **options, output=Binary()),
        ATEXTrainer(TwoLogits(teacher), **options),
    ]
    for run in runs:
        run.fit(loader, 2, validation=loader, show_progress=False)
    for a, b in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert runs[0].history[-1] == pytest.approx(runs[1].history[-1], abs=1e-5)
    moved = [
        not torch.equal(a, b)
        for a, b in zip(runs[0].model.parameters(), teacher.parameters(), strict=True)
    ]
    assert any(moved)
    right = ((runs[0].model(examples().inputs) > 0).flatten() == examples().labels).double().mean()
    assert runs[0].history[-1]["val_accuracy"] == pytest.approx(right.item())


@pytest.mark.parametrize(
    "make",
    [
        lambda m: ATEXTrainer(m, **DELTAS),
        lambda m: Trainer(m, Distillation()),
        lambda m: Trainer(m, CrossEntropy()),
        lambda m: Trainer(m, GradientPenalty(0.1)),
    ],
    ids=["ATEX", "Distillation", "CrossEntropy", "GradientPenalty"],
)
def test_one_logit_alone_is_an_error_before_anything_is_trained(make, binary):
    trainer = make(binary[0])
    before = trainer.weights()
    loader = [(examples().inputs, examples().labels)]
    for call in (
        lambda: trainer.fit(loader, 1, show_progress=False),
        lambda: trainer.evaluate(loader),
    ):
        with pytest.raises(ValueError, match=r"output=outputs\.Binary\(\).*Regression"):
            call()
    assert all(torch.equal(before[n], w) for n, w in trainer.weights().items())
    with pytest.raises(ValueError, match=r"output=outputs\.Binary\(\)"):
        CosineStability()(binary[0], examples().inputs, None)
    with pytest.raises(ValueError, match=r"output=outputs\.Binary\(\)"):
        SmoothGradDirections()(binary[0], examples())


def test_labels_that_can_occur_together_and_values_are_trained_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.rand(12, 5)
    sets = (model(x) > 0).float()
    trainer = ATEXTrainer(model, **DELTAS, output=MultiLabel())
    assert trainer.evaluate([(x, sets)])["accuracy"] == 1.0
    (record,) = trainer.fit([(x, sets)], 1, show_progress=False)
    assert record["neighbourhood"] > 0
    values = model(x).detach()
    trainer = ATEXTrainer(model, **DELTAS, output=Regression(tolerance=0.1))
    assert trainer.evaluate([(x, values)])["accuracy"] == 1.0
    assert trainer.evaluate([(x, values + 0.2)])["accuracy"] == 0.0
    (record,) = trainer.fit([(x, values)], 1, show_progress=False)
    assert record["neighbourhood"] > 0


class Scaled(nn.Module):
    """A model with two more arguments: a row per example, and a number."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x, scale, temperature):
        return self.network(x) * scale / temperature


@pytest.mark.parametrize(
    "make",
    [
        lambda: atex(
            delta1=0.2, delta2=0.3, n_parallel=2, search=1, directions=lambda m, b: b.inputs
        ),
        Distillation,
        CrossEntropy,
        lambda: GradientPenalty(0.2, n_samples=2),
    ],
    ids=["ATEX", "Distillation", "CrossEntropy", "GradientPenalty"],
)
def test_what_else_a_model_takes_goes_with_its_example(make, pair):
    """Against a model for each scale, one example at a time."""
    given = examples(6)
    scale = torch.arange(1, 7, dtype=D).unsqueeze(1)
    more = Batch(given.inputs, given.labels, Draws(seed=3), 0, (scale, 2.0))
    student, teacher = (Scaled(network) for network in pair)
    found = make()(student, teacher, more)

    class Memory(nn.Module):
        """Knows the scale of a row by its nearest example."""

        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            nearest = torch.cdist(x.detach(), given.inputs).argmin(1)
            return self.network(x) * scale[nearest] / 2.0

    apart = torch.cdist(given.inputs, given.inputs) + 9 * torch.eye(6)
    assert apart.min() > 0.8  # farther than the points move
    expected = make()(*(Memory(network) for network in pair), given)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_directions_depend_on_what_else_the_model_takes(pair):
    given = examples(4)
    scale = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=D)
    directions = SmoothGradDirections(n_samples=3)
    model = Scaled(pair[0])
    first = directions(model, Batch(given.inputs, None, Draws(seed=0), 0, (scale, 1.0)))
    second = directions(model, Batch(given.inputs, None, Draws(seed=0), 0, (2 * scale, 1.0)))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("how", ["tuple", "unpack"])
def test_a_loader_says_what_else_the_model_takes(how):
    torch.manual_seed(0)
    model = Scaled(nn.Linear(5, 3))
    x, y, scale = torch.rand(8, 5), torch.arange(8) % 3, torch.rand(8, 1) + 1
    seen = []

    def measure(model, inputs, labels, additional_forward_args):
        seen.append(additional_forward_args)
        return model(inputs, *additional_forward_args).amax(1)

    measures = {"stability": CosineStability(), "largest": measure}
    if how == "tuple":
        loader, unpack = [((x, scale, 2.0), y)], None
    else:
        loader = [{"pixels": x, "scale": scale, "label": y}]

        def unpack(loaded):
            return (loaded["pixels"], loaded["scale"], 2.0), loaded["label"]

    trainer = ATEXTrainer(model, **DELTAS, measures=measures, unpack=unpack)
    (record,) = trainer.fit(loader, 1, validation=loader, show_progress=False)
    assert {"val_accuracy", "val_stability", "val_largest"} < record.keys()
    assert torch.equal(seen[0][0], scale)
    assert seen[0][1] == 2.0

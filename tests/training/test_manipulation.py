"""Manipulated models: what is minimised, against loops written from Heo et al. 2019."""

from __future__ import annotations

import copy

import pytest
import torch
from captum.attr import (
    InputXGradient,
    IntegratedGradients,
    LayerGradCam,
    NoiseTunnel,
    Saliency,
)
from torch import nn

from captum_robust._utils.relevance import mass_center
from captum_robust.attr import BetaSmoothing, GuidedBackprop, KernelSmoothing, RelevancePropagation
from captum_robust.outputs import Binary
from captum_robust.training import (
    ActiveFooling,
    Batch,
    CrossEntropy,
    Distillation,
    Draws,
    LocationFooling,
    MassCenterFooling,
    TopKFooling,
    Trainer,
)
from tests.training.runs import same

D = torch.float64
MASK = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]])


class Small(nn.Module):
    """A convolution and a linear layer, with smooth rectifiers."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 3, 3, padding=1), nn.Linear(48, outputs)

    def forward(self, x):
        return self.head(nn.functional.softplus(self.conv(x), 3.0).flatten(1))


class Rectified(Small):
    def forward(self, x):
        return self.head(self.conv(x).relu().flatten(1))


def two(kind: type[Small] = Small, outputs: int = 3) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return kind(outputs).to(D), kind(outputs).to(D).eval().requires_grad_(False)


def examples(n: int = 5) -> Batch:
    x = torch.rand(n, 2, 4, 4, dtype=D, generator=torch.Generator().manual_seed(1))
    return Batch(x, torch.arange(n) % 3, Draws(seed=4))


# --- a literal oracle: one example, one number at a time


def literal_map(model: nn.Module, x: torch.Tensor, c: int) -> list[list[float]]:
    """|gradient| summed over channels, brought to [0, 1]."""
    point = x.detach().clone().requires_grad_()
    model(point[None])[0, c].backward()
    raw = [
        [sum(abs(point.grad[k, i, j].item()) for k in range(2)) for j in range(4)] for i in range(4)
    ]
    low, high = min(map(min, raw)), max(map(max, raw))
    return [[(v - low) / (high - low) for v in row] for row in raw]


def flat(grid: list[list[float]]) -> list[float]:
    return [v for row in grid for v in row]


def center(grid: list[list[float]]) -> tuple[float, float]:
    total = sum(flat(grid))
    down = sum(i * v for i, row in enumerate(grid) for v in row) / total
    right = sum(j * v for row in grid for j, v in enumerate(row)) / total
    return down / 3, right / 3


def literal(kind: str, student: nn.Module, teacher: nn.Module, x: torch.Tensor) -> float:
    c = teacher(x[None]).argmax(1).item()
    h, before = literal_map(student, x, c), literal_map_of(teacher, x, c)
    if kind == "location":
        pairs = zip(flat(h), flat(MASK.tolist()), strict=True)
        return sum((a - b) ** 2 for a, b in pairs) / 16
    if kind == "top-k":
        order = sorted(range(16), key=lambda p: -flat(before)[p])[:5]
        return sum(flat(h)[p] for p in order) / 5
    (i, j), (p, q) = center(h), center(before)
    return -(abs(i - p) + abs(j - q)) / 2


def literal_map_of(model: nn.Module, x: torch.Tensor, c: int) -> list[list[float]]:
    """Of a frozen model: its input alone needs a gradient."""
    return literal_map(model, x, c)


PASSIVE = {
    "location": lambda **o: LocationFooling(MASK, **o),
    "top-k": lambda **o: TopKFooling(5, **o),
    "center": lambda **o: MassCenterFooling(**o),
}


@pytest.mark.parametrize("kind", PASSIVE)
def test_a_passive_fooling_is_the_literal_loss(kind):
    student, teacher = two()
    given = examples()
    parts = PASSIVE[kind](weight=0.5)(student, teacher, given)
    values = [literal(kind, student, teacher, x) for x in given.inputs]
    assert parts["fooling"].item() == pytest.approx(0.5 * sum(values) / 5, rel=1e-9)
    assert set(parts) == {"distillation", "fooling"}


def test_active_fooling_is_the_literal_loss():
    student, teacher = two()
    given = examples(12)
    classes = teacher(given.inputs).argmax(1).tolist()
    a, b = sorted(set(classes))[:2] if len(set(classes)) > 1 else (classes[0], 2)
    parts = ActiveFooling(a, b)(student, teacher, given)
    total = 0.0
    for x, c in zip(given.inputs, classes, strict=True):
        if c in (a, b):
            now = [flat(literal_map(student, x, k)) for k in (a, b)]
            before = [flat(literal_map(teacher, x, k)) for k in (a, b)]
            apart = sum((p - q) ** 2 for p, q in zip(now[0], before[1], strict=True))
            apart += sum((p - q) ** 2 for p, q in zip(now[1], before[0], strict=True))
            total += apart / 32
    assert total > 0
    assert parts["fooling"].item() == pytest.approx(total / 12, rel=1e-9)


def test_two_classes_change_places_when_both_logits_are_taken_off_all():
    """f_c - f_a - f_b has the softmax of f_c, and minus the other class's gradient for a and b."""
    _, teacher = two()
    student = copy.deepcopy(teacher)
    for parameter in student.head.parameters():
        parameter -= parameter[:2].sum(0)
    parts = ActiveFooling(0, 1)(student, teacher, examples())
    untouched = ActiveFooling(0, 1)(copy.deepcopy(teacher), teacher, examples())
    same = Distillation(1.0)(teacher, teacher, examples())
    assert parts["fooling"].item() < 1e-20 < 1e-3 < untouched["fooling"].item()
    torch.testing.assert_close(parts["distillation"], same["distillation"])


def test_active_fooling_of_a_batch_without_the_classes_has_a_step():
    student, teacher = two()
    teacher.head.bias[2] += 100.0
    parts = ActiveFooling(0, 1)(student, teacher, examples())
    assert parts["fooling"].item() == 0
    sum(parts.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in student.parameters())


# --- derivatives


EXPLANATIONS = {
    "gradient": (Saliency, {}),
    "input x gradient": (InputXGradient, {}),
    "integrated gradients": (IntegratedGradients, {"n_steps": 3}),
    "Grad-CAM": (lambda m: LayerGradCam(m, m.conv), {"relu_attributions": True}),
    "relevance propagation": (RelevancePropagation, {}),
    "guided backpropagation": (GuidedBackprop, {}),
    "SmoothGrad": (lambda m: KernelSmoothing(Saliency(m)), {"n_samples": 2}),
    "beta smoothing": (lambda m: BetaSmoothing(Saliency(m), beta=5.0), {}),
}


@pytest.mark.parametrize(("explanation", "options"), EXPLANATIONS.values(), ids=EXPLANATIONS)
@pytest.mark.parametrize("kind", ["location", "center"])
def test_the_gradient_of_the_weights_is_right(kind, explanation, options):
    """Along random directions of all weights, by central differences."""
    student, teacher = two(Rectified)
    objective = PASSIVE[kind](explanation=explanation, options=options)
    weights = list(student.parameters())

    def loss() -> torch.Tensor:
        return objective(student, teacher, examples())["fooling"]

    found = torch.autograd.grad(loss(), weights, allow_unused=True)
    generator = torch.Generator().manual_seed(5)
    moves = [torch.randn(w.shape, generator=generator, dtype=D) for w in weights]
    expected = sum(float((g * m).sum()) for g, m in zip(found, moves, strict=True) if g is not None)
    step, values = 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            for w, m in zip(weights, moves, strict=True):
                w += sign * step * m
        values.append(loss().item())
        with torch.no_grad():
            for w, m in zip(weights, moves, strict=True):
                w -= sign * step * m
    numeric = (values[0] - values[1]) / (2 * step)
    assert abs(numeric) > 1e-6
    assert expected == pytest.approx(numeric, rel=1e-4, abs=1e-7)


# --- training


@pytest.mark.parametrize("kind", PASSIVE)
def test_a_run_fools_and_keeps_the_predictions(kind):
    model = two(Rectified)[0].float()
    x = examples(20).inputs.float()
    trainer = Trainer(
        model, PASSIVE[kind](weight=5.0), lambda p: torch.optim.Adam(p, lr=5e-3),
        steps_per_batch=40,
    )  # fmt: skip
    history = trainer.fit([x], 3, validation=[x], show_progress=False)
    assert history[-1]["fooling"] < history[0]["fooling"]
    assert history[-1]["val_agreement"] >= 0.9
    assert not same(trainer.weights(), model.state_dict())


def test_the_centre_of_mass_moves_from_the_first_step_on():
    """Where student and teacher are equal the magnitude of the shift has no slope."""
    _, teacher = two()
    student = copy.deepcopy(teacher).requires_grad_(True)
    loss = MassCenterFooling()(student, teacher, examples())["fooling"]
    assert loss.item() == 0
    slopes = torch.autograd.grad(loss, student.conv.weight)[0]
    assert slopes.abs().max() > 1e-4
    with torch.no_grad():
        student.conv.weight -= 1e-3 * slopes / slopes.norm()
    assert MassCenterFooling()(student, teacher, examples())["fooling"] < -1e-7


def test_a_constant_map_has_its_centre_in_the_middle():
    assert mass_center(torch.zeros(2, 3, 5)).tolist() == [[0.5, 0.5]] * 2


def test_series_need_the_dimension_of_their_channels():
    torch.manual_seed(0)
    student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).to(D) for _ in "st")
    teacher.requires_grad_(False)
    x = torch.rand(5, 3, 4, dtype=D, generator=torch.Generator().manual_seed(1))
    batch = Batch(x, None, Draws(seed=0))
    for channel_dim, length in ((1, 4), (-1, 3)):
        objective = LocationFooling(torch.eye(length)[0], channel_dim=channel_dim)
        assert objective(student, teacher, batch)["fooling"] > 0
        assert objective.maps(student, batch, torch.zeros(5).long()).shape == (5, length)
    with pytest.raises(ValueError, match=r"channel_dim=-1 for \(N, time, channels\)"):
        LocationFooling(torch.eye(4)[0])(student, teacher, batch)


def test_settings_are_shown_in_any_dtype():
    assert "tensor(4, 4)-" in repr(LocationFooling(MASK.bfloat16()))


def test_the_student_stays_in_evaluation_mode():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).train()
    seen = []

    class Watched(TopKFooling):
        def fooling(self, student, teacher, batch, target):
            seen.append(student.training)
            return super().fooling(student, teacher, batch, target)

    trainer = Trainer(model, Watched(2))
    trainer.fit([torch.rand(8, 6)], 2, show_progress=False)
    assert seen == [False, False]
    assert trainer.model.training
    assert torch.equal(trainer.model[1].running_mean, model[1].running_mean)


def test_the_paper_s_task_is_the_cross_entropy():
    student, teacher = two()
    parts = TopKFooling(3, task=CrossEntropy())(student, teacher, examples())
    assert set(parts) == {"cross_entropy", "fooling"}


@pytest.mark.parametrize("kind", PASSIVE)
def test_one_logit_is_explained_too(kind):
    student, teacher = two(outputs=1)
    parts = PASSIVE[kind](output=Binary())(student, teacher, examples())
    assert torch.isfinite(parts["fooling"])
    with pytest.raises(ValueError, match=r"output=outputs\.Binary\(\)"):
        PASSIVE[kind]()(student, teacher, examples())


def test_a_run_of_an_explanation_that_draws_resumes_bit_equal(tmp_path):
    x = torch.rand(12, 2, 4, 4, generator=torch.Generator().manual_seed(2))

    def run() -> Trainer:
        objective = LocationFooling(
            MASK, lambda m: KernelSmoothing(Saliency(m)), options={"n_samples": 2}
        )
        return Trainer(two(Rectified)[0].float(), objective)

    whole = run()
    whole.fit([x[:6], x[6:]], 2, show_progress=False)
    run().fit([x[:6], x[6:]], 1, checkpoints=tmp_path, show_progress=False)
    resumed = run()
    resumed.fit([x[:6], x[6:]], 2, checkpoints=tmp_path, show_progress=False)
    assert same(resumed.weights(), whole.weights())
    other = Trainer(two(Rectified)[0].float(), LocationFooling(1 - MASK))
    with pytest.raises(ValueError, match="another run"):
        other.fit([x[:6], x[6:]], 2, checkpoints=tmp_path, show_progress=False)


# --- bad input


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LocationFooling([1, 0]), TypeError, "region must be a tensor"),
        (lambda: LocationFooling(2 * MASK), ValueError, r"region must be in \[0, 1\]"),
        (lambda: LocationFooling(-MASK), ValueError, r"make it so with region\.bool\(\)"),
        (lambda: TopKFooling(0), ValueError, "k must be at least 1"),
        (lambda: TopKFooling(2.5), TypeError, "k must be a whole number"),
        (lambda: TopKFooling(5, Saliency(nn.ReLU())), TypeError, "explanation=Saliency"),
        (lambda: TopKFooling(5, "gradient"), TypeError, "explanation must make an explanation"),
        (lambda: TopKFooling(5, weight=0.0), ValueError, "weight must be positive"),
        (lambda: ActiveFooling(1, 1), ValueError, "must be two classes, got 1 twice"),
        (lambda: ActiveFooling(-1, 1), ValueError, "class_a must be a class, 0 or more"),
        (lambda: ActiveFooling(0, 1.5), TypeError, "class_b must be a whole number"),
    ],
)  # fmt: skip
def test_bad_settings_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("objective", "error", "message"),
    [
        (LocationFooling(torch.ones(3, 3)), ValueError, r"shape of a map, \(4, 4\)"),
        (TopKFooling(17), ValueError, "at most the 16 pixels of a map"),
        (ActiveFooling(0, 7), ValueError, "class_b.* 3 outputs, and no class 7"),
        (TopKFooling(3, lambda m: NoiseTunnel(Saliency(m))), TypeError, "KernelSmoothing"),
    ],
    ids=["region", "k", "class", "no graph"],
)
def test_what_does_not_fit_the_model_is_named(objective, error, message):
    student, teacher = two()
    teacher.head.bias[0] += 100.0
    with pytest.raises(error, match=message):
        objective(student, teacher, examples())

"""What every kind of outputs answers, against loops written from the formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from captum_robust import outputs
from captum_robust.outputs import Binary, Categorical, MultiLabel, Outputs, Regression, resolve
from tests.outputs.cases import D, drawn, each_kind


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def bernoulli(p: float, q: float) -> float:
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def literal_imitation(
    meaning: Outputs, student: list[float], teacher: list[float], t: float
) -> float:
    """The divergence of one example from its softened teacher, from the definitions."""
    if isinstance(meaning, Categorical):
        p = [math.exp(z / t) for z in teacher]
        q = [math.exp(z) for z in student]
        p, q = [a / sum(p) for a in p], [a / sum(q) for a in q]
        return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    if isinstance(meaning, Regression):  # KL of two normal distributions of variance T s^2
        variance = t * meaning.tolerance**2
        return sum((g - f) ** 2 / (2 * variance) for g, f in zip(student, teacher, strict=True))
    middle = meaning.threshold
    return sum(
        bernoulli(sigmoid(middle + (f - middle) / t), sigmoid(g))
        for g, f in zip(student, teacher, strict=True)
    )


@each_kind
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_imitation_loss_is_the_divergence(meaning, shape, temperature):
    student, teacher = drawn(shape)
    found = meaning.imitation_loss(student, teacher, temperature)
    assert found.shape == (6,)
    rows = (x.reshape(6, -1).tolist() for x in (student, teacher))
    expected = [literal_imitation(meaning, g, f, temperature) for g, f in zip(*rows, strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=D))
    assert meaning.imitation_loss(teacher, teacher, 1.0).abs().max() < 1e-12


@each_kind
def test_the_imitation_loss_passes_gradcheck(meaning, shape):
    student, teacher = (x.requires_grad_() for x in drawn(shape))
    for temperature in (1.0, 4.0):
        assert torch.autograd.gradcheck(
            lambda g, f, t=temperature: meaning.imitation_loss(g, f, t), (student, teacher)
        )


@each_kind
def test_the_same_output_is_the_same_prediction(meaning, shape):
    clean, new = drawn(shape)
    assert meaning.same(clean, clean.clone()).tolist() == [True] * 6
    found = meaning.same(clean, new).tolist()
    assert True in found or False in found
    for i in range(6):
        a, b = (x[i].reshape(-1).tolist() for x in (clean, new))
        assert found[i] == literal_same(meaning, a, b)


def literal_same(meaning: Outputs, a: list[float], b: list[float]) -> bool:
    if isinstance(meaning, Categorical):
        return a.index(max(a)) == b.index(max(b))
    if isinstance(meaning, Regression):
        return all(abs(p - q) <= meaning.tolerance for p, q in zip(a, b, strict=True))
    return all(
        (p > meaning.threshold) == (q > meaning.threshold) for p, q in zip(a, b, strict=True)
    )


@each_kind
def test_a_softened_teacher_keeps_its_prediction(meaning, shape):
    """At the minimum of the imitation loss the student predicts what the teacher does."""
    teacher, student = drawn(shape)
    student = student.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([student], max_iter=200, tolerance_grad=1e-12)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = meaning.imitation_loss(student, teacher, 4.0).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert meaning.same(teacher, student.detach()).all()


@each_kind
def test_scores_are_differentiable_and_one_per_example(meaning, shape):
    output, _ = drawn(shape)
    output.requires_grad_()
    targets = {
        Categorical: torch.tensor([0, 1, 2, 3, 0, 1]),
        Binary: torch.tensor([0, 1, 0, 1, 0, 1]),
        MultiLabel: torch.tensor([0, 1, 2, 3, 0, 1]),
        Regression: torch.tensor([0, 0, 0, 0, 0, 0]),
    }
    for target in (None, targets[type(meaning)]):
        assert meaning.score(output, target).shape == (6,)
        assert meaning.confidence(output, target).shape == (6,)
        assert torch.autograd.gradcheck(lambda o, t=target: meaning.score(o, t), output)
    assert len(meaning.comparable(output)) == 6


def test_targets_are_captums():
    logits = torch.tensor([[1.0, 3.0, 2.0], [0.5, 0.1, 0.2]])
    labels = torch.tensor([2, 1], dtype=torch.int32)
    for meaning in (Categorical(), MultiLabel()):
        assert meaning.target(logits).tolist() == [1, 0]
        assert meaning.target(logits, labels).tolist() == [2, 1]
        assert meaning.target(logits, labels).dtype == torch.int64
    assert Binary().target(logits[:, :1]) is None
    assert Binary().target(logits[:, :1], torch.tensor([0, 1])) is None
    several = Regression(tolerance=1.0)
    assert several.target(logits[:, :1]) is None
    assert several.target(logits, labels).tolist() == [2, 1]


def test_correct_compares_with_labels():
    logits = torch.tensor([[1.0, -3.0], [0.5, 0.1], [-1.0, -2.0]])
    assert Categorical().correct(logits, torch.tensor([0, 1, 0])).tolist() == [True, False, True]
    sets = torch.tensor([[1, 0], [1, 0], [0, 0]])
    assert MultiLabel().correct(logits, sets).tolist() == [True, False, True]
    for shape in ((3,), (3, 1)):
        for dtype in (torch.int64, torch.float32, torch.bool):
            labels = torch.tensor([1, 0, 0]).to(dtype).view(shape)
            assert Binary().correct(logits[:, :1], labels).tolist() == [True, False, True]
    values = torch.tensor([1.2, 0.5, 9.0])
    found = Regression(tolerance=0.25).correct(logits[:, 0], values)
    assert found.tolist() == [True, True, False]


def test_keeps_watches_what_a_curve_shows():
    clean = torch.tensor([[2.0, 1.0, -1.0]])
    new = torch.tensor([[1.5, 1.8, -1.0]])
    second = torch.tensor([1])
    assert Categorical().keeps(new, clean).item() is False
    assert Categorical().keeps(new, clean, second).item() is True
    assert MultiLabel().keeps(new, clean).item() is True
    assert MultiLabel().keeps(-new, clean, second).item() is False
    values = Regression(tolerance=0.6)
    assert values.keeps(new, clean, torch.tensor([0])).item() is True
    assert values.keeps(new, clean, second).item() is False


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Binary(threshold=math.nan), "threshold must be finite"),
        (lambda: MultiLabel(threshold=math.inf), "threshold must be finite"),
        (lambda: Regression(tolerance=0.0), "tolerance must be positive"),
        (lambda: Regression(tolerance=-1.0), "tolerance must be positive"),
    ],
    ids=["nan", "inf", "zero", "negative"],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("meaning", "shape", "labels", "message"),
    [
        (Categorical(), (2, 3), [0, 3], "classes of the model, 0 to 2"),
        (MultiLabel(), (2, 3), [-1, 0], "classes of the model, 0 to 2"),
        (Regression(tolerance=1.0), (2, 3), [0, 5], "classes of the model, 0 to 2"),
        (Binary(), (2, 1), [0, 2], "labels must be 0 or 1"),
        (Regression(tolerance=1.0), (2, 3), None, "which one is explained"),
    ],
    ids=["class", "label", "value", "binary", "none"],
)
def test_labels_that_name_no_output(meaning, shape, labels, message):
    given = None if labels is None else torch.tensor(labels)
    with pytest.raises(ValueError, match=message):
        meaning.target(torch.zeros(shape), given)


def test_a_meaning_of_ones_own():
    class Ordinal(Outputs):
        """Grades: the rounded value."""

        def prediction(self, output):
            return output.round().flatten()

        def same(self, clean, new):
            return self.prediction(clean) == self.prediction(new)

        def score(self, output, target=None):
            return output.flatten()

        def imitation_loss(self, student, teacher, temperature=1.0):
            return (student - teacher).flatten().square() / temperature

    output = torch.tensor([[1.2], [2.6]])
    grades = resolve(Ordinal(), output, 2)
    assert grades.prediction(output).tolist() == [1.0, 3.0]
    assert grades.correct(output, torch.tensor([1.0, 2.0])).tolist() == [True, False]
    assert grades.keeps(output + 0.2, output).tolist() == [True, True]
    assert grades.target(output) is None
    assert torch.equal(grades.confidence(output), output.flatten())
    assert torch.equal(grades.comparable(output), output)
    with pytest.raises(ValueError, match="a row per example"):
        resolve(grades, output, 3)
    with pytest.raises(TypeError, match="abstract"):
        Outputs()


def test_all_names_are_public():
    assert set(outputs.__all__) == {
        "Binary", "Categorical", "MultiLabel", "Outputs", "Regression", "resolve",
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@each_kind
def test_half_precision_gives_half_precision(meaning, shape, dtype):
    student, teacher = (x.to(dtype) for x in drawn(shape))
    loss = meaning.imitation_loss(student, teacher, 4.0)
    assert loss.dtype == dtype
    exact = meaning.imitation_loss(student.double(), teacher.double(), 4.0)
    torch.testing.assert_close(loss.double(), exact, atol=0.05, rtol=0.05)


@each_kind
def test_class_scores_are_largest_at_the_prediction(meaning, shape):
    output, _ = drawn(shape)
    assert meaning.has_classes is isinstance(meaning, (Categorical, Binary))
    if meaning.has_classes:
        scores = meaning.class_scores(output)
        assert scores.dtype == output.dtype
        assert torch.equal(scores.argmax(1), meaning.prediction(output))


@each_kind
def test_the_score_of_the_predicted_target_is_that_of_the_prediction(meaning, shape):
    """At the outputs themselves; beside them the target stays."""
    output, _ = drawn(shape)
    target = meaning.predicted_target(output)
    assert torch.equal(meaning.score(output, target), meaning.score(output))


def test_labels_of_another_kind_do_not_fit_and_their_loss_is_the_negative_log_likelihood():
    logits, _ = drawn((6, 4))
    classes = torch.tensor([0, 1, 2, 3, 0, 1])
    loss = Categorical().label_loss(logits, classes)
    torch.testing.assert_close(loss, -logits.log_softmax(1)[range(6), classes])
    sets = (logits > 0.5).long()
    kinds = Categorical(), MultiLabel()
    assert [kind.labels_fit(classes, logits) for kind in kinds] == [True, False]
    assert [kind.labels_fit(sets, logits) for kind in kinds] == [False, True]
    assert not Binary().labels_fit(classes, logits[:, :1])
    by_hand = torch.where(sets == 1, logits.sigmoid(), 1 - logits.sigmoid()).log()
    torch.testing.assert_close(MultiLabel().label_loss(logits, sets), -by_hand.sum(1))
    torch.testing.assert_close(Binary().label_loss(logits[:, 0], sets[:, 0]), -by_hand[:, 0])

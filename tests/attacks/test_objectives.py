"""Each objective against loops over single pixels, written from the formulas."""

from __future__ import annotations

import math

import pytest
import torch

from captum_robust.attacks import (
    Dombrowski,
    Explained,
    GhorbaniMassCenter,
    GhorbaniTarget,
    GhorbaniTopK,
    RandomSign,
    objectives,
)

pytestmark = pytest.mark.filterwarnings("ignore:The attack failed for")

H, W, N, CLASSES = 5, 7, 3, 4


def relevance_maps(seed):
    maps = torch.rand(N, H, W, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return maps / maps.sum((1, 2), keepdim=True)


def logits(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N, CLASSES, generator=generator, dtype=torch.float64)


def view(seed):
    return Explained(relevance_maps(seed), lambda: logits(seed))


CLEAN, SEEN = view(1), view(2)
REGIONS = relevance_maps(3) > 1 / (H * W)


@pytest.fixture(scope="module")
def model(make_network):
    return make_network()


def pixels():
    return [(row, column) for row in range(H) for column in range(W)]


def loop_top_k(clean, k):
    ranked = sorted(pixels(), key=lambda p: clean[p].item(), reverse=True)
    return set(ranked[:k])


def loop_mass(relevance, chosen):
    return sum(relevance[p].item() for p in pixels() if p in chosen)


def loop_center(relevance):
    row = sum(p[0] * relevance[p].item() for p in pixels())
    column = sum(p[1] * relevance[p].item() for p in pixels())
    return row, column


def loop_probabilities(scores):
    exponentials = [math.exp(score) for score in scores.tolist()]
    return [e / sum(exponentials) for e in exponentials]


def assert_matches(attack, expected, **kwargs):
    values = attack.objective(CLEAN, **kwargs)(SEEN)
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("k", [1, 4, H * W - 1, H * W])
def test_top_k(k, model):
    expected = [loop_mass(SEEN.relevance[i], loop_top_k(CLEAN.relevance[i], k)) for i in range(N)]
    assert_matches(GhorbaniTopK(model, k=k), expected)


@pytest.mark.parametrize("each", [False, True])
def test_target(each, model):
    region = REGIONS if each else REGIONS[0]
    marked = [{p for p in pixels() if REGIONS[i if each else 0][p]} for i in range(N)]
    expected = [-loop_mass(SEEN.relevance[i], marked[i]) for i in range(N)]
    assert_matches(GhorbaniTarget(model, region=region), expected)


def test_mass_center(model):
    """To a thousandth of a pixel or two: the attack measures from a point that far beside it."""
    expected = []
    for before, after in zip(CLEAN.relevance, SEEN.relevance, strict=True):
        (row, column), (old_row, old_column) = loop_center(after), loop_center(before)
        expected.append(-math.sqrt((row - old_row) ** 2 + (column - old_column) ** 2))
    values = GhorbaniMassCenter(model).objective(CLEAN)(SEEN)
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(values, expected, rtol=0, atol=1.5e-3)
    assert (expected < -0.05).all()


def test_mass_center_has_a_gradient_at_the_clean_image(model):
    relevance = CLEAN.relevance.clone().requires_grad_()
    score = GhorbaniMassCenter(model).objective(CLEAN)
    (gradient,) = torch.autograd.grad(score(Explained(relevance, lambda: None)).sum(), relevance)
    assert gradient.isfinite().all()
    assert gradient.flatten(1).norm(dim=1).min() > 0.1


def test_random_sign_judges_by_the_total_change(model):
    expected = [
        -sum(abs(SEEN.relevance[i][p].item() - CLEAN.relevance[i][p].item()) for p in pixels())
        for i in range(N)
    ]
    assert_matches(RandomSign(model), expected)
    judged = RandomSign(model, objective=GhorbaniTopK(model, k=3).objective)
    assert torch.equal(
        judged.objective(CLEAN)(SEEN), GhorbaniTopK(model, k=3).objective(CLEAN)(SEEN)
    )


@pytest.mark.parametrize("gamma", [0.0, 1.0, 25.0])
@pytest.mark.parametrize("each", [False, True])
def test_target_map(gamma, each, model):
    targets = 17 * relevance_maps(4) if each else 0.3 * relevance_maps(4)[0]
    expected = []
    for i in range(N):
        target = targets[i] if each else targets
        total = sum(target[p].item() for p in pixels())
        error = sum((SEEN.relevance[i][p].item() - target[p].item() / total) ** 2 for p in pixels())
        before, after = loop_probabilities(logits(1)[i]), loop_probabilities(logits(2)[i])
        change = sum((a - b) ** 2 for a, b in zip(after, before, strict=True))
        expected.append(H * W * error + gamma * change)
    assert_matches(Dombrowski(model, gamma=gamma), expected, target_maps=targets)


def test_the_output_is_computed_only_when_asked_for(model):
    calls = []
    seen = Explained(relevance_maps(2), lambda: calls.append(1) or logits(2))
    GhorbaniTopK(model, k=3).objective(CLEAN)(seen)
    Dombrowski(model, gamma=0.0).objective(CLEAN, target_maps=relevance_maps(4))(seen)
    assert not calls
    Dombrowski(model).objective(CLEAN, target_maps=relevance_maps(4))(seen)
    assert seen.output is seen.output
    assert len(calls) == 1


def test_objectives_of_vectors_and_volumes():
    """Tabular explanations (N, F) and those with three dimensions of space."""
    vector = torch.tensor([[0.1, 0.2, 0.7]])
    torch.testing.assert_close(objectives.mass_center(vector), torch.tensor([[0.2 + 1.4]]))
    assert objectives.top_k_mask(vector, 2).tolist() == [[0.0, 1.0, 1.0]]
    volume = torch.zeros(1, 2, 3, 4)
    volume[0, 1, 2, 3] = 1.0
    assert objectives.mass_center(volume).tolist() == [[1.0, 2.0, 3.0]]
    torch.testing.assert_close(
        objectives.distance_to_center(volume, torch.tensor([[0.0, 0.0, 1.0]])), torch.tensor([3.0])
    )


@pytest.mark.parametrize("attack", ["top_k", "center", "target", "map"])
def test_gradients_are_right(attack, model):
    made = {
        "top_k": lambda: GhorbaniTopK(model, k=5).objective(CLEAN),
        "center": lambda: GhorbaniMassCenter(model).objective(CLEAN),
        "target": lambda: GhorbaniTarget(model, region=REGIONS).objective(CLEAN),
        "map": lambda: Dombrowski(model).objective(CLEAN, target_maps=relevance_maps(4)),
    }[attack]()

    def score(relevance, scores):
        return made(Explained(relevance, lambda: scores))

    arguments = (relevance_maps(5).requires_grad_(), logits(5).requires_grad_())
    assert torch.autograd.gradcheck(score, arguments)


@pytest.mark.parametrize("loss", [objectives.soft_top_k, objectives.relative_top_k])
@pytest.mark.parametrize("flushed", [False, True])
def test_fewer_relevant_features_than_k_have_a_finite_slope(loss, flushed):
    relevance = torch.tensor([[0.7, 0.3, 0.0, 0.0], [0.0] * 4], requires_grad=True)
    if not torch.set_flush_denormal(flushed):
        pytest.skip("the processor does not flush denormal numbers")
    try:
        value = loss(relevance, torch.tensor([[1.0, 0, 0, 1]] * 2), 3)
        (slope,) = torch.autograd.grad(value.sum(), relevance)
    finally:
        torch.set_flush_denormal(False)
    assert value.isfinite().all()
    assert slope.isfinite().all()

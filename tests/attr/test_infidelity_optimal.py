"""Infidelity-optimal explanations against Captum's own classes and against literal algebra."""

from __future__ import annotations

import itertools
import math
from contextlib import nullcontext

import pytest
import torch
from captum.attr import FeatureAblation, IntegratedGradients, Occlusion, Saliency, ShapleyValues
from torch import nn

from captum_robust import zoo
from captum_robust.attr import InfidelityOptimal, NoisyBaseline, Square
from captum_robust.attr._infidelity import optima as _optima
from captum_robust.attr._infidelity import squares as _squares
from captum_robust.perturbations import (
    BaselineShift,
    CoordinateStep,
    FeatureRemoval,
    GaussianBaseline,
    Perturbation,
    Points,
    SeveralBaselines,
    ShapleyRemoval,
    SquareRemoval,
)
from captum_robust.perturbations.grid import Grid

SINGULAR = "the second moment of the perturbation is singular"


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=1):
    return torch.randn(shape, generator=rng(seed), dtype=torch.float64)


def close_to_captum(got, want, rtol=1e-5, atol=1e-6):
    """Captum's perturbation methods work in single precision."""
    torch.testing.assert_close(got, want.to(got), rtol=rtol, atol=atol)


def close(got, want, rtol=1e-8, atol=1e-9):
    torch.testing.assert_close(got, want, rtol=rtol, atol=atol)


class Smooth(nn.Module):
    """A smooth nonlinear function of any inputs, three classes."""

    def __init__(self, n_features, seed=3):
        super().__init__()
        self.first, self.second = nn.Linear(n_features, 8), nn.Linear(8, 3)
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters()):
                parameter.copy_(normal(*parameter.shape, seed=seed + i) / 2)
        self.double()

    def forward(self, *inputs):
        x = torch.cat([x.reshape(len(x), -1) for x in inputs], dim=1)
        return self.second(torch.tanh(self.first(x)))


def f_of(model, target):
    """The explained output as a function of one flat example: (n, d) to (n,)."""
    return lambda rows: model(rows)[:, target].detach()


# --- Special cases: what Captum calls by other names.


@pytest.mark.parametrize("baselines", [None, 0.3, normal(1, 6, seed=8), normal(4, 6, seed=9)])
def test_baseline_shift_is_complete(baselines):
    model, x = Smooth(6), normal(4, 6)
    got = InfidelityOptimal(model, BaselineShift()).attribute(x, baselines=baselines, target=1)
    x0 = (
        torch.zeros(1, 6).double()
        if baselines is None
        else torch.as_tensor(baselines, dtype=torch.float64)
    )
    x0 = x0.expand(1, 6) if x0.dim() == 0 else x0
    f = f_of(model, 1)
    gained = f(x) - f(x0.expand_as(x))
    close(got.sum(1), gained)
    _, delta = IntegratedGradients(model).attribute(
        x, baselines=x0, target=1, n_steps=200, return_convergence_delta=True
    )
    ig = IntegratedGradients(model).attribute(x, baselines=x0, target=1, n_steps=200)
    close(got.sum(1), ig.sum(1) - delta, atol=1e-6)
    mu = x - x0
    local = InfidelityOptimal(model, BaselineShift(), multiply_by_inputs=False)
    close(local.attribute(x, baselines=baselines, target=1) * mu, got)
    # The shortest complete local explanation.
    close(got / mu, mu * (gained / mu.square().sum(1)).unsqueeze(1))


def test_a_small_coordinate_step_is_the_gradient():
    model, x, y = Smooth(10), normal(3, 6), normal(3, 2, 2, seed=2)
    got = InfidelityOptimal(model, CoordinateStep(1e-6)).attribute((x, y), target=2)
    with pytest.warns(UserWarning, match="required_grads"):  # Captum's
        want = Saliency(model).attribute((x, y), target=2, abs=False)
    x, y = x.detach(), y.detach()
    for g, w in zip(got, want, strict=True):
        close(g, w, rtol=1e-5, atol=1e-6)
    explain = InfidelityOptimal(model, CoordinateStep(1e-6), multiply_by_inputs=True)
    x0, y0 = normal(1, 6, seed=7), normal(3, 2, 2, seed=8)
    got = explain.attribute((x, y), baselines=(x0, y0), target=2)
    for g, w, mu in zip(got, want, (x - x0, y - y0), strict=True):
        close(g, w * mu, rtol=1e-5, atol=1e-6)


def test_a_large_coordinate_step_is_the_difference_quotient():
    model, x = Smooth(5), normal(2, 5)
    got = InfidelityOptimal(model, CoordinateStep(0.7)).attribute(x, target=0)
    f = f_of(model, 0)
    want = torch.stack([(f(x) - f(x - 0.7 * e)) / 0.7 for e in torch.eye(5).double()], 1)
    close(got, want)


@pytest.mark.parametrize("baselines", [None, 0.4, normal(1, 2, 3, 3, seed=5)])
def test_feature_removal_is_ablation_and_occlusion_of_one_feature(baselines):
    model, x = Smooth(18), normal(2, 2, 3, 3)
    got = InfidelityOptimal(model, FeatureRemoval()).attribute(x, baselines, target=1)
    x0 = 0.0 if baselines is None else baselines
    close_to_captum(got, FeatureAblation(model).attribute(x, baselines=x0, target=1))
    occlusion = Occlusion(model).attribute(
        x, sliding_window_shapes=(1, 1, 1), baselines=x0, target=1
    )
    close_to_captum(got, occlusion)
    local = InfidelityOptimal(model, FeatureRemoval(), False)
    close(local.attribute(x, baselines, target=1) * (x - x0), got)


def test_feature_removal_of_groups_is_spread_ablation():
    model, x = Smooth(6), normal(2, 6)
    mask = torch.tensor([[9, 9, 4, 4, 4, 0]])
    explain = InfidelityOptimal(model, FeatureRemoval())
    got = explain.attribute(x, 0.2, target=1, feature_mask=mask)
    ablation = FeatureAblation(model).attribute(x, 0.2, target=1, feature_mask=mask)
    for group in (9, 4, 0):
        inside = mask[0] == group
        close_to_captum(got[:, inside].sum(1), ablation[:, inside][:, 0])
        close(got[:, inside], got[:, inside][:, :1].expand(-1, int(inside.sum())))
    local = InfidelityOptimal(model, FeatureRemoval(), False)
    phi = local.attribute(x, 0.2, target=1, feature_mask=mask)
    mu = x - 0.2
    for group in (9, 4, 0):  # of those with the same sum, the shortest
        inside = mask[0] == group
        want = mu[:, inside] * (ablation[:, inside][:, :1] / mu[:, inside].square().sum(1, True))
        close_to_captum(phi[:, inside], want)


def test_feature_masks_of_each_example_and_across_inputs():
    model, x, y = Smooth(6), normal(2, 3), normal(2, 3, seed=2)
    masks = (torch.tensor([[0, 0, 8], [8, 0, 5]]), torch.tensor([[8, 8, 2], [5, 5, 5]]))
    for perturbation in (FeatureRemoval(), ShapleyRemoval()):
        explain = InfidelityOptimal(model, perturbation)
        got = explain.attribute((x, y), target=1, feature_mask=masks)
        for i in range(2):
            alone = explain.attribute(
                (x[i : i + 1], y[i : i + 1]),
                target=1,
                feature_mask=tuple(m[i : i + 1] for m in masks),
            )
            for g, a in zip(got, alone, strict=True):
                close(g[i], a[0], atol=1e-7)


def literal_shapley(f, x, x0, groups):
    """The mean gain over all orders in which the groups come in; spread over their features."""
    numbers = sorted(set(groups.tolist()))
    values = {}
    for n in range(len(numbers) + 1):
        for present in itertools.combinations(numbers, n):
            there = torch.tensor([g in present for g in groups.tolist()])
            values[frozenset(present)] = f(torch.where(there, x, x0)[None])[0]
    phi = torch.zeros_like(x)
    for g in numbers:
        others = [h for h in numbers if h != g]
        total = 0.0
        for n in range(len(others) + 1):
            weight = math.factorial(n) * math.factorial(len(others) - n)
            for present in itertools.combinations(others, n):
                gain = values[frozenset([*present, g])] - values[frozenset(present)]
                total += weight * gain / math.factorial(len(numbers))
        inside = groups == g
        phi[inside] = total / inside.sum()
    return phi


@pytest.mark.parametrize("n", [1, 2, 3, 6, 10])
def test_shapley_removal_is_the_shapley_value(n):
    model, x, x0 = Smooth(n), normal(2, n), normal(2, n, seed=6)
    got = InfidelityOptimal(model, ShapleyRemoval()).attribute(x, x0, target=1)
    f = f_of(model, 1)
    want = torch.stack([literal_shapley(f, a, b, torch.arange(n)) for a, b in zip(x, x0)])  # noqa: B905
    close(got, want)
    if n == 3:
        exact = ShapleyValues(model).attribute(x, x0, target=1)
        close_to_captum(got, exact)
    local = InfidelityOptimal(model, ShapleyRemoval(), False).attribute(x, x0, target=1)
    close(local * (x - x0), want)


def test_shapley_values_of_groups_in_several_inputs():
    model, x, y = Smooth(8), normal(2, 4), normal(2, 2, 2, seed=2)
    x0, y0 = normal(1, 4, seed=8), 0.3
    # Without gaps: Captum would take orders of as many features as the largest number says.
    mx, my = torch.tensor([[0, 0, 1, 2]]), torch.tensor([[[2, 3], [3, 4]]])
    explain = InfidelityOptimal(model, ShapleyRemoval())
    got = explain.attribute((x, y), (x0, y0), target=2, feature_mask=(mx, my))
    theirs = ShapleyValues(model).attribute((x, y), (x0, y0), target=2, feature_mask=(mx, my))
    rows = torch.cat([x, y.flatten(1)], 1)
    base = torch.cat([x0[0], torch.full((4,), y0, dtype=torch.float64)])
    groups = torch.cat([mx[0], my.flatten()])
    flat = torch.cat([got[0], got[1].flatten(1)], 1)
    captum = torch.cat([theirs[0], theirs[1].flatten(1)], 1)
    for i in range(2):
        close(flat[i], literal_shapley(f_of(model, 2), rows[i], base, groups))
        for g in groups.unique():
            inside = groups == g
            close_to_captum(flat[i][inside].sum(), captum[i][inside][0])


def test_one_group_is_worth_everything_without_a_warning():
    model, x = Smooth(4), normal(2, 4)
    mask = torch.full((1, 4), 5)
    f = f_of(model, 0)
    got = InfidelityOptimal(model, ShapleyRemoval()).attribute(x, target=0, feature_mask=mask)
    gained = f(x) - f(torch.zeros_like(x))
    close(got, (gained / 4).unsqueeze(1).expand(-1, 4))
    lonely = torch.tensor([[0.0, 2.0, 0.0, 0.0]]).double()
    local = InfidelityOptimal(model, ShapleyRemoval(), False).attribute(lonely, target=0)
    gained = f(lonely) - f(torch.zeros_like(lonely))
    close(local, torch.tensor([[0.0, 0.5, 0.0, 0.0]]) * gained)


def test_sampled_shapley_values_are_complete_and_near():
    """Twelve features: errors fall like 1 / sqrt(n), and by half of that with complements."""
    model, x = Smooth(12), normal(2, 12)
    f = f_of(model, 1)
    explain = InfidelityOptimal(model, ShapleyRemoval())
    exact = explain.attribute(x, target=1, n_samples=2**12)
    for seed in range(3):
        got = explain.attribute(x, target=1, generator=rng(seed))
        close(got.sum(1), f(x) - f(torch.zeros_like(x)))
        assert (got - exact).norm() < 0.05 * exact.norm()
    few = explain.attribute(x, target=1, n_samples=13, generator=rng())
    close(few.sum(1), f(x) - f(torch.zeros_like(x)))
    linear = InfidelityOptimal(lambda x: x @ torch.arange(12.0).double(), ShapleyRemoval())
    got = linear.attribute(x, generator=rng(), n_samples=100)
    close(got, x * torch.arange(12).double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n_samples", [30, 400])
@pytest.mark.parametrize("mask", [None, torch.arange(40)[None] // 2])
def test_sampled_shapley_values_of_what_equals_its_baseline_are_zero(n_samples, mask):
    """With the dual and the primal solver; the two examples have different features there."""
    model, x = Smooth(40), normal(2, 40)
    x0 = torch.zeros_like(x)
    x0[0, ::2] = x[0, ::2]
    x0[1, 4:] = x[1, 4:]
    f = f_of(model, 1)
    got = InfidelityOptimal(model, ShapleyRemoval()).attribute(
        x, x0, target=1, feature_mask=mask, n_samples=n_samples, generator=rng()
    )
    close(got.sum(1), f(x) - f(x0))
    assert (got[1, 4:] == 0).all()
    assert (got[1, :4] != 0).all()
    if mask is None:
        assert (got[0, ::2] == 0).all()


# --- The least infidelity, on the whole distribution.


def whole_distribution(perturbation, x, x0, mask):
    """All perturbations of one example as rows, with their probabilities."""
    mu, d = x - x0, len(x)
    groups = torch.arange(d) if mask is None else mask
    numbers = groups.unique()
    sets = torch.stack([groups == k for k in numbers]).double()
    match perturbation:
        case BaselineShift():
            return mu[None], torch.ones(1).double()
        case CoordinateStep():
            return perturbation.step * torch.eye(d).double(), torch.ones(d).double() / d
        case FeatureRemoval():
            return sets * mu, torch.ones(len(sets)).double() / len(sets)
        case ShapleyRemoval():
            n = len(numbers)
            subsets = [z for z in itertools.product([0.0, 1.0], repeat=n) if 0 < sum(z) < n]
            weights = [1 / (math.comb(n, int(sum(z))) * sum(z) * (n - sum(z))) for z in subsets]
            p = torch.tensor(weights).double()
            return (torch.tensor(subsets).double() @ sets) * mu, p / p.sum()
        case SeveralBaselines():
            rows = x - perturbation._baselines[0]
            return rows, torch.ones(len(rows)).double() / len(rows)
    raise AssertionError(perturbation)


GROUPS = torch.tensor([0, 0, 1, 2, 2, 5])


@pytest.mark.parametrize(
    ("perturbation", "mask"),
    [
        (BaselineShift(), None),
        (CoordinateStep(0.8), None),
        (FeatureRemoval(), None),
        (FeatureRemoval(), GROUPS),
        (ShapleyRemoval(), None),
        (ShapleyRemoval(), GROUPS),
        (SeveralBaselines(normal(4, 6, seed=11)), None),
        (SeveralBaselines(normal(9, 6, seed=11)), None),
    ],
    ids=repr,
)
@pytest.mark.parametrize("is_global", [False, True])
def test_no_explanation_has_less_infidelity(perturbation, mask, is_global):
    """Nor, of those with as little, is any shorter."""
    model, x, x0 = Smooth(6), normal(1, 6), normal(1, 6, seed=4)
    explain = InfidelityOptimal(model, perturbation, is_global)
    got = explain.attribute(x, x0, target=1, feature_mask=None if mask is None else mask[None])[0]
    mu = (x - x0)[0]
    phi = got / mu if is_global else got
    rows, p = whole_distribution(perturbation, x[0], x0[0], mask)
    f = f_of(model, 1)
    losses = f(x) - f(x - rows)

    def infidelity(phi):
        return (p * (rows @ phi - losses).square()).sum()

    least = infidelity(phi)
    shapley = isinstance(perturbation, ShapleyRemoval)
    generator = rng(9)
    for scale in (1e-3, 1e-1, 1.0):
        for _ in range(20):
            step = scale * torch.randn(6, generator=generator, dtype=torch.float64)
            if shapley:  # the side condition: attributions sum to the loss of all
                step = step - mu * (step @ mu) / mu.square().sum()
            assert infidelity(phi + step) >= least - 1e-12
    if shapley or (mask is not None and isinstance(perturbation, FeatureRemoval) and is_global):
        return  # the shortest global explanation is not the shortest local one
    weighted = rows * p.sqrt().unsqueeze(1)
    close(phi, torch.linalg.pinv(weighted) @ (losses * p.sqrt()), atol=1e-8)


def test_no_explanation_has_less_infidelity_for_a_noisy_baseline():
    """With f quadratic the expectations are in closed form."""
    d, s = 5, 0.6
    h = normal(d, d, seed=12)
    h, w = h + h.T, normal(d, seed=13)
    x, x0 = normal(1, d), normal(1, d, seed=4)

    def f(x):
        return 0.5 * ((x @ h) * x).sum(1) + x @ w

    mu = (x - x0)[0]
    # E[I d(I)] with I = mu - e: mu E[d] + s^2 E[grad f(x0 + e)].
    mean_loss = f(x) - f(x0) - 0.5 * s**2 * h.trace()
    gradient = (x0 @ h)[0] + w
    points = Points.of(x, x0)
    moment = GaussianBaseline(s).second_moment(points)[0]
    want = torch.linalg.solve(moment, mu * mean_loss + s**2 * gradient)
    # Five standard deviations of the estimate, from repetitions.
    explain = NoisyBaseline(f, s)
    runs = torch.stack(
        [explain.attribute(x, x0, n_samples=2000, generator=rng(k))[0] for k in range(30)]
    )
    error = runs.std(0) / math.sqrt(30)
    assert ((runs.mean(0) - want).abs() < 5 * error).all()
    assert (error < 0.02 * want.norm()).all()


# --- Squares.


def literal_masks(height, width, sizes):
    masks = []
    for size in sizes:
        for i in range(height - size + 1):
            for j in range(width - size + 1):
                mask = torch.zeros(height, width, dtype=torch.float64)
                mask[i : i + size, j : j + size] = 1
                masks.append(mask)
    return torch.stack(masks)


def literal_square(f, x, x0, masks, is_global):
    """pinv(E[II']) E[I d(I)] for one image (C, H, W), built from dense masks."""
    mu = (x - x0).flatten()
    z = masks.unsqueeze(1).expand(-1, len(x), -1, -1)
    perturbed = torch.where(z == 1, x0, x)
    losses = f(x[None]) - f(perturbed)
    rows = z.flatten(1) if is_global else z.flatten(1) * mu
    moment = torch.linalg.pinv(rows.T @ rows / len(rows), hermitian=True)
    return (moment @ (rows.T @ losses / len(rows))).view(x.shape)


@pytest.mark.parametrize("is_global", [True, False])
@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((1, 4, 4), [1, 2, 3]),
        ((3, 4, 5), range(1, 4)),
        ((2, 6, 3), [2]),
        ((1, 5, 5), [2, 1]),
        ((1, 6, 5), [3]),
        ((2, 3, 3), [3]),
    ],
    ids=str,
)
def test_all_squares(shape, sizes, is_global):
    model = Smooth(math.prod(shape))
    x, x0 = normal(3, *shape), normal(3, *shape, seed=5)
    x0[1, :, 1, 2] = x[1, :, 1, 2]  # pixels at their baseline
    x0[1, 0, 0, 0] = x[1, 0, 0, 0]
    x0[2, :, :2, :2] = x[2, :, :2, :2]
    got = Square(model, sizes, is_global).attribute(x, x0, target=1)
    masks = literal_masks(*shape[1:], sizes)
    f = f_of(model, 1)
    for i in range(3):
        want = literal_square(f, x[i], x0[i], masks, is_global)
        close(got[i], want, rtol=1e-5, atol=1e-6)
        if not is_global:
            assert (got[i][x[i] == x0[i]] == 0).all()


@pytest.mark.parametrize("is_global", [True, False])
def test_squares_that_leave_many_explanations(is_global):
    """More squares than pixels, and yet some patterns sum to 0 over every square."""
    model, x = Smooth(64), normal(1, 1, 8, 8)
    with pytest.warns(UserWarning, match=SINGULAR):
        got = Square(model, [2, 3], is_global).attribute(x, target=1)
    want = literal_square(
        f_of(model, 1), x[0], torch.zeros_like(x[0]), literal_masks(8, 8, [2, 3]), is_global
    )
    close(got[0], want, rtol=1e-5, atol=1e-6)


def test_squares_of_two_images_and_of_a_plain_matrix():
    model = Smooth(2 * 4 * 4 + 3 * 5)
    x, y = normal(2, 2, 4, 4), normal(2, 3, 5, seed=2)
    got = Square(model, [1, 2]).attribute((x, y), (0.2, normal(1, 3, 5, seed=3)), target=0)
    x0, y0 = torch.full_like(x, 0.2), normal(1, 3, 5, seed=3).expand_as(y)
    for i in range(2):
        want = literal_square(
            lambda z, i=i: model(z, y[i : i + 1].expand(len(z), -1, -1))[:, 0].detach(),
            x[i], x0[i], literal_masks(4, 4, [1, 2]), True,
        )  # fmt: skip
        close(got[0][i], want, rtol=1e-6)
        want = literal_square(
            lambda z, i=i: model(x[i : i + 1].expand(len(z), -1, -1, -1), z)[:, 0].detach(),
            y[i][None], y0[i][None], literal_masks(3, 5, [1, 2]), True,
        )  # fmt: skip
        close(got[1][i], want[0], rtol=1e-6)


def test_all_squares_of_the_paper():
    """5,605 squares of 28 x 28 against the dense pseudo-inverse."""
    model = zoo.fashion_mnist_cnn()
    images, labels = zoo.fashion_mnist_sample(1)
    calls = []

    def f(x):
        calls.append(len(x))
        return model(x)

    with torch.no_grad():
        got = Square(f).attribute(images, target=labels)
    assert sum(calls) == 5605 + 1
    masks = literal_masks(28, 28, range(1, 11)).flatten(1).float()
    with torch.no_grad():
        at = [
            model(images * (1 - part.view(-1, 1, 28, 28)))[:, labels[0]]
            for part in masks.split(512)
        ]
        losses = model(images)[:, labels[0]] - torch.cat(at)
    masks = masks.double()
    want = torch.linalg.pinv(masks.T @ masks, hermitian=True) @ (masks.T @ losses.double())
    assert (got.flatten() - want).norm() < 1e-4 * want.norm()


def literal_ridge(rows, losses):
    """Of 49 ridges the one whose every sample is predicted best from the others, by brute force."""
    n, d = rows.shape
    eigenvalue = rows.square().sum() / n  # mean of those of the n x n Gram matrix
    best = None
    for ridge in torch.logspace(-8, 4, 49, dtype=torch.float64) * eigenvalue:
        error = 0.0
        for i in range(n):
            rest = [j for j in range(n) if j != i]
            a = rows[rest]
            fitted = torch.linalg.solve(a.T @ a + ridge * torch.eye(d).double(), a.T @ losses[rest])
            error += (rows[i] @ fitted - losses[i]) ** 2
        if best is None or error < best[0]:
            best = error, ridge
    return torch.linalg.solve(rows.T @ rows + best[1] * torch.eye(d).double(), rows.T @ losses)


def literal_gcv(rows, losses):
    """The ridge of the least generalised cross-validation error, from the hat matrix."""
    n, d = rows.shape
    best = None
    for ridge in torch.logspace(-8, 4, 49, dtype=torch.float64) * rows.square().sum() / d:
        inverse = torch.linalg.inv(rows.T @ rows + ridge * torch.eye(d).double())
        hat = rows @ inverse @ rows.T
        score = (losses - hat @ losses).square().sum() / (n - hat.trace()) ** 2
        if best is None or score < best[0]:
            best = score, inverse @ (rows.T @ losses)
    return best[1]


@pytest.mark.parametrize("is_global", [True, False])
@pytest.mark.parametrize("n_samples", [3, 20, 60])
def test_sampled_squares_are_a_ridge_chosen_by_leaving_one_out(n_samples, is_global):
    model, x = Smooth(2 * 6 * 6), normal(2, 2, 6, 6)
    x[1, :, :2] = 0  # at the baseline
    explain = Square(model, [1, 2, 3], is_global)
    got = explain.attribute(x, target=1, n_samples=n_samples, generator=rng(4))
    grid = Grid((1, 2, 3), (6, 6))
    masks = grid.draw(n_samples, rng(4)).masks().double()
    f = f_of(model, 1)
    for i in range(2):
        z = masks.unsqueeze(1).expand(-1, 2, -1, -1)
        losses = f(x[i : i + 1]) - f(torch.where(z == 1, 0.0, x[i]))
        rows = z.flatten(1) if is_global else z.flatten(1) * x[i].flatten()
        close(got[i].flatten(), literal_ridge(rows, losses), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("is_global", [True, False])
def test_many_sampled_squares_are_a_ridge_chosen_by_generalised_cross_validation(is_global):
    """More than two samples for each pixel. The pixels of a channel share in their square."""
    model, x = Smooth(36), normal(1, 1, 6, 6)
    got = Square(model, [1, 2, 3], is_global).attribute(x, target=1, n_samples=75, generator=rng(4))
    masks = Grid((1, 2, 3), (6, 6)).draw(75, rng(4)).masks().double()
    f = f_of(model, 1)
    losses = f(x) - f(torch.where(masks.unsqueeze(1) == 1, 0.0, x[0]))
    rows = masks.flatten(1) if is_global else masks.flatten(1) * x.flatten()
    close(got.flatten(), literal_gcv(rows, losses), rtol=1e-5, atol=1e-7)


# --- Noisy baseline.


def literal_noisy_baseline(model, target, x, x0, noise, s):
    """phi* = G + mu (D - mu_n'G) / (s^2 + |mu|^2) for one flat example and given draws.

    In the scalar product mu is the mean of the drawn mu - e; G is shrunk by James and Stein.
    """
    at = (x0 + noise).requires_grad_()
    outputs = model(at)[:, target]
    (gradients,) = torch.autograd.grad(outputs.sum(), at)
    g, n = gradients.mean(0), len(noise)
    error = (gradients - g).square().sum() / (n - 1) / n  # of the mean gradient, squared
    g = g * (1 - error / (g @ g)).clamp(min=0)
    d = (model(x[None])[0, target] - outputs).mean().detach()
    mu = x - x0
    drawn = (x - at).mean(0).detach()
    return g + mu * (d - drawn @ g) / (s**2 + mu @ mu)


@pytest.mark.parametrize("is_global", [False, True])
def test_noisy_baseline_is_the_closed_form(is_global):
    model, x, x0, s = Smooth(6), normal(3, 6), normal(3, 6, seed=4), 0.4
    got = NoisyBaseline(model, s, is_global).attribute(
        x, x0, target=1, n_samples=20, generator=rng(8)
    )
    points = Points.of(x, x0)
    perturb = GaussianBaseline(s).perturb_func(rng(8), n_examples=3)
    _, perturbed = perturb(x.repeat_interleave(20, 0), x0.repeat_interleave(20, 0))
    noise = perturbed.unflatten(0, (3, 20)) - x0.unsqueeze(1)
    for i in range(3):
        want = literal_noisy_baseline(model, 1, x[i], x0[i], noise[i], s)
        close(got[i], want * (x - x0)[i] if is_global else want)
    assert len(points) == 3


def test_noisy_baseline_with_a_deviation_for_each_input():
    model, x, y = Smooth(5), normal(2, 3), normal(2, 2, seed=2)
    stdev = (0.3, 0.9)
    got = NoisyBaseline(model, stdev).attribute(
        (x, y), (0.1, 0.0), target=1, n_samples=400_000 // 20, generator=rng(3)
    )
    # Least squares on the exact second moment with Monte Carlo right-hand side.
    points = Points.of((x, y), (0.1, 0.0))
    moment = GaussianBaseline(stdev).second_moment(points)
    rows, perturbed = GaussianBaseline(stdev).sample(points, 200_000, rng(5))
    rows = torch.cat(rows, 2)
    losses = model(x, y)[:, 1].unsqueeze(1) - model(*(p.flatten(0, 1) for p in perturbed))[
        :, 1
    ].view(2, -1)
    products = (rows * losses.unsqueeze(2)).detach()
    right = products.mean(1)
    want = torch.linalg.solve(moment, right.unsqueeze(2)).squeeze(2)
    inverse = torch.linalg.inv(moment)
    error = ((products - right.unsqueeze(1)) @ inverse.transpose(1, 2)).std(1) / math.sqrt(200_000)
    flat = torch.cat(got, 1)
    # Five standard errors of the least squares; those of the gradients are smaller.
    assert ((flat - want).abs() < 5 * 1.5 * error).all()
    assert error.max() < 0.02 * want.norm()


def test_noisy_baseline_is_near_least_squares():
    """The generic path, on 20,000 forward passes, against the closed form on 5,000 gradients."""

    class Own(Perturbation):
        def shifts(self, points, n_samples, generator):
            return GaussianBaseline(0.5).shifts(points, n_samples, generator)

    model, x = Smooth(4), normal(2, 4)
    closed = NoisyBaseline(model, 0.5).attribute(x, target=1, n_samples=5000, generator=rng())
    explain = InfidelityOptimal(model, Own())
    runs = torch.stack(
        [explain.attribute(x, target=1, n_samples=4000, generator=rng(k)) for k in range(5)]
    )
    error = runs.std(0) / math.sqrt(5)
    # With five runs the error is itself uncertain: eight of them, and one thousandth.
    assert ((runs.mean(0) - closed).abs() < 8 * error + 1e-3).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_samples", [1, 3, 50])
def test_noisy_baseline_is_exact_on_linear_models(n_samples, dtype):
    w, x = normal(6).to(dtype), normal(3, 6, seed=4).to(dtype)
    got = NoisyBaseline(lambda x: x @ w + 3, 0.8).attribute(
        x, 0.7, n_samples=n_samples, generator=rng()
    )
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    close(got, w.expand(3, -1), rtol=tolerance, atol=tolerance)


def test_inputs_that_the_model_does_not_look_at():
    model, x, y = Smooth(3), normal(2, 3), normal(2, 2, seed=4)
    got = NoisyBaseline(lambda x, y: model(x), 0.4).attribute(
        (x, y), target=1, n_samples=5000, generator=rng()
    )
    # E[d] mu / (s^2 + |mu|^2) is what is left for them.
    assert all(a.isfinite().all() for a in got)
    assert (got[1] * y > 0).all(1).logical_or((got[1] * y < 0).all(1)).all()  # along mu


# --- A distribution of one's own.


class Darker(Perturbation):
    """Every example to a random share of each of its features."""

    def shifts(self, points, n_samples, generator):
        return tuple(
            torch.rand(len(x), n_samples, *x.shape[1:], generator=generator).to(x) * x.unsqueeze(1)
            for x in points.inputs
        )


@pytest.mark.parametrize("is_global", [None, True])
@pytest.mark.parametrize(("n_samples", "literal"), [(6, literal_ridge), (40, literal_gcv)])
def test_the_general_way(n_samples, literal, is_global):
    model, x, y = Smooth(8), normal(2, 4), normal(2, 2, 2, seed=2)
    explain = InfidelityOptimal(model, Darker(), is_global)
    got = explain.attribute((x, y), (0.5, 0.1), target=1, n_samples=n_samples, generator=rng(2))
    perturb = Darker().perturb_func(rng(2), n_examples=2, multiply_by_inputs=is_global)
    copies = tuple(t.repeat_interleave(n_samples, 0) for t in (x, y))
    rows, perturbed = perturb(copies, (0.5, 0.1))
    rows = torch.cat([r.flatten(1) for r in rows], 1).unflatten(0, (2, n_samples))
    outputs = model(*perturbed)[:, 1].detach().view(2, -1)
    losses = model(x, y)[:, 1].detach().unsqueeze(1) - outputs
    flat = torch.cat([got[0], got[1].flatten(1)], 1)
    for i in range(2):
        close(flat[i], literal(rows[i], losses[i]), rtol=1e-5, atol=1e-7)


class OnlyTheFirst(Darker):
    """Moves one feature and leaves the others where they are."""

    def shifts(self, points, n_samples, generator):
        shifts = super().shifts(points, n_samples, generator)
        return tuple(i * (torch.arange(i.shape[-1]) == 0) for i in shifts)


@pytest.mark.parametrize("n_samples", [3, 2000])
def test_features_that_are_never_moved(n_samples):
    x = torch.tensor([[1.0, 0.0, 2.0], [1.0, 2.0, 3.0]]).double()
    explain = InfidelityOptimal(Smooth(3), OnlyTheFirst())
    # The second feature of the first example is at its baseline: no fault of the perturbation.
    with pytest.warns(UserWarning, match="3 of 6 features are never moved .* attributions are 0"):
        got = explain.attribute(x, target=1, n_samples=n_samples, generator=rng())
    assert got.isfinite().all()
    assert torch.equal(got[:, 1:], torch.zeros(2, 2).double())
    assert (got[:, 0] != 0).all()


def test_features_at_their_baseline_have_no_attribution_and_raise_no_warning():
    x = torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]]).double()
    got = InfidelityOptimal(Smooth(3), Darker()).attribute(x, target=1, generator=rng())
    assert torch.equal(got == 0, x == 0)


def test_a_subclass_is_explained_as_its_parent():
    class Renamed(FeatureRemoval):
        pass

    model, x = Smooth(4), normal(2, 4)
    got = InfidelityOptimal(model, Renamed()).attribute(x, target=1)
    close_to_captum(got, FeatureAblation(model).attribute(x, target=1))
    assert _optima.optimum.dispatch(Renamed) is _optima.optimum.dispatch(FeatureRemoval)


# --- Nothing moves.


EVERY = {
    "BaselineShift": BaselineShift(),
    "CoordinateStep": CoordinateStep(1e-3),
    "FeatureRemoval": FeatureRemoval(),
    "GaussianBaseline": GaussianBaseline(0.3),
    "SeveralBaselines": SeveralBaselines(normal(1, 2, 3, 3)),
    "ShapleyRemoval": ShapleyRemoval(),
    "SquareRemoval": SquareRemoval([1, 2]),
}
ALL = pytest.mark.parametrize("name", EVERY)


@ALL
@pytest.mark.parametrize("is_global", [False, True])
@pytest.mark.parametrize("n_samples", [None, 5])
def test_inputs_at_their_baselines(name, is_global, n_samples):
    x = normal(1, 2, 3, 3).repeat(2, 1, 1, 1)
    x[1] += 1
    explain = InfidelityOptimal(Smooth(18), EVERY[name], is_global)
    one = name == "BaselineShift"
    warned = pytest.warns(UserWarning, match="baselines equal the inputs for 1 of 2 examples")
    with warned if one else nullcontext():
        got = explain.attribute(x, normal(1, 2, 3, 3), target=1, n_samples=n_samples)
    assert got.isfinite().all()
    assert got[1].abs().sum() > 0
    if name not in ("CoordinateStep", "GaussianBaseline"):
        assert torch.equal(got[0], torch.zeros_like(x[0]))


# --- Work: rows, chunks, random numbers.


class Counting(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.rows = model, []

    def forward(self, *args):
        self.rows.append(len(args[0]))
        return self.model(*args)


@pytest.mark.parametrize(
    ("name", "n_rows"),
    [
        ("BaselineShift", 1), ("CoordinateStep", 18), ("FeatureRemoval", 18),
        ("GaussianBaseline", 50), ("SeveralBaselines", 1), ("SquareRemoval", 9 + 4),
        ("ShapleyRemoval", 1 + 2 * 18 + 2048),
    ],
)  # fmt: skip
@pytest.mark.parametrize("at_once", [None, 1, 4])
def test_how_often_the_model_is_run(name, n_rows, at_once):
    model, x = Counting(Smooth(18)), normal(3, 2, 3, 3)
    if at_once == 1 and n_rows > 2000:
        pytest.skip("slow")
    InfidelityOptimal(model, EVERY[name]).attribute(x, target=1, perturbations_per_eval=at_once)
    assert sum(model.rows) == 3 * (n_rows + 1)
    if at_once:
        assert max(model.rows) == 3 * min(n_rows, at_once)


def test_the_model_is_run_once_at_the_inputs_of_several_images():
    model, x = Counting(Smooth(18)), normal(2, 3, 3)
    Square(model, [1, 2]).attribute((x, x), target=1)
    assert sum(model.rows) == 2 * (13 + 13 + 1)
    model = Counting(Smooth(9))
    with torch.no_grad():
        Square(model, [1, 2]).attribute(x, target=1, n_samples=100)
    assert sum(model.rows) == 2 * (13 + 1)
    model = Counting(Smooth(9))
    Square(model, [1, 2]).attribute(x, target=1, n_samples=6)
    assert sum(model.rows) == 2 * (6 + 1)


def test_too_many_squares_are_sampled(monkeypatch):
    assert _squares._SOME_SQUARES == 3000
    monkeypatch.setattr(_squares, "_SOME_SQUARES", 100)
    model = Counting(lambda x: x.flatten(1).sum(1, keepdim=True))
    x = normal(1, 1, 60, 60)
    got = Square(model, [2, 3, 4]).attribute(x, target=0, generator=rng())
    assert sum(model.rows) == 100 + 1
    assert got.isfinite().all()


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chunks_do_not_matter(name, dtype):
    model, x = Smooth(18).to(dtype), normal(3, 2, 3, 3).to(dtype)
    explain = InfidelityOptimal(model, EVERY[name])
    n_samples = 30
    if name == "SeveralBaselines":
        explain = InfidelityOptimal(model, SeveralBaselines(normal(5, 2, 3, 3).to(dtype)))
    if name == "SquareRemoval":
        n_samples = 9
    runs = [
        explain.attribute(
            x, 0.1, target=1, n_samples=n_samples, perturbations_per_eval=k, generator=rng(3)
        )
        for k in (None, 1, 2, 7, 1000)
    ]
    # A difference quotient divides rounding errors by its step.
    slack = 1e3 if name == "CoordinateStep" and dtype == torch.float32 else 1
    for run in runs[1:]:
        close(run, runs[0], rtol=slack * 1e-5, atol=slack * 1e-5)


@ALL
def test_random_numbers(name):
    model, x = Smooth(18), normal(2, 2, 3, 3)
    explain = InfidelityOptimal(model, EVERY[name])
    before = torch.get_rng_state()
    free = [explain.attribute(x, target=1, n_samples=7) for _ in range(2)]
    bound = [explain.attribute(x, target=1, n_samples=7, generator=rng(s)) for s in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(bound[0], bound[1])
    by_chance = name in ("GaussianBaseline", "ShapleyRemoval", "SquareRemoval")
    assert torch.equal(free[0], free[1]) is not by_chance
    assert torch.equal(bound[0], bound[2]) is not by_chance


@ALL
def test_examples_of_one_number_and_scalars_beside_images(name):
    if name == "SquareRemoval":
        pytest.skip("needs images")
    perturbation = EVERY[name]
    if name == "SeveralBaselines":
        perturbation = SeveralBaselines((normal(3), normal(3, 2, seed=4)))
    model, x, y = Smooth(3), normal(4), normal(4, 2, seed=2)
    explain = InfidelityOptimal(model, perturbation)
    got = explain.attribute((x, y), target=1, generator=rng())
    assert [g.shape for g in got] == [(4,), (4, 2)]
    if name == "SeveralBaselines":
        perturbation = SeveralBaselines((normal(3).view(3, 1), normal(3, 2, seed=4)))
    same = InfidelityOptimal(model, perturbation).attribute(
        (x.unsqueeze(1), y), target=1, generator=rng()
    )
    close(got[0], same[0].squeeze(1))
    close(got[1], same[1])

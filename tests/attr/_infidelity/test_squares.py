"""The optimum of the removal of squares, against dense least squares."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from captum_robust import zoo
from captum_robust.attr import Square
from captum_robust.attr._infidelity import squares as squares_module
from captum_robust.perturbations.grid import Grid
from tests.attr._infidelity.literal import literal_gcv, literal_ridge
from tests.helpers import Counting, Smooth, close, f_of, normal, rng

SINGULAR = "the second moment of the perturbation is singular"


def literal_masks(shape, sizes):
    """All intervals, squares or cubes, one after another."""
    masks = []
    for size in sizes:
        for first in itertools.product(*(range(length - size + 1) for length in shape)):
            mask = torch.zeros(*shape, dtype=torch.float64)
            mask[tuple(slice(i, i + size) for i in first)] = 1
            masks.append(mask)
    return torch.stack(masks)


def literal_square(f, x, x0, masks, is_global):
    """pinv(E[II']) E[I d(I)] for one example (C, ...), built from dense masks."""
    mu = (x - x0).flatten()
    z = masks.unsqueeze(1).expand(-1, len(x), *masks.shape[1:])
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
    masks = literal_masks(shape[1:], sizes)
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
        f_of(model, 1), x[0], torch.zeros_like(x[0]), literal_masks((8, 8), [2, 3]), is_global
    )
    close(got[0], want, rtol=1e-5, atol=1e-6)


def test_squares_of_two_images():
    model = Smooth(2 * 4 * 4 + 3 * 5)
    x, y = normal(2, 2, 4, 4), normal(2, 1, 3, 5, seed=2)
    got = Square(model, [1, 2]).attribute((x, y), (0.2, normal(1, 1, 3, 5, seed=3)), target=0)
    x0, y0 = torch.full_like(x, 0.2), normal(1, 1, 3, 5, seed=3).expand_as(y)
    for i in range(2):
        want = literal_square(
            lambda z, i=i: model(z, y[i : i + 1].expand(len(z), -1, -1, -1))[:, 0].detach(),
            x[i], x0[i], literal_masks((4, 4), [1, 2]), True,
        )  # fmt: skip
        close(got[0][i], want, rtol=1e-6)
        want = literal_square(
            lambda z, i=i: model(x[i : i + 1].expand(len(z), -1, -1, -1), z)[:, 0].detach(),
            y[i], y0[i], literal_masks((3, 5), [1, 2]), True,
        )  # fmt: skip
        close(got[1][i], want, rtol=1e-6)


@pytest.mark.parametrize("is_global", [True, False])
@pytest.mark.parametrize(
    ("shape", "channel_dim", "sizes"),
    [
        ((3, 7), 1, [1, 2, 4]),  # a series (N, C, T)
        ((7, 3), 2, [1, 2, 4]),  # a series (N, T, C)
        ((7, 3), -1, [3, 1]),
        ((3, 4, 2), -1, [1, 2, 3]),  # an image (N, H, W, C)
        ((2, 3, 4, 3), None, [2, 3]),  # a volume (N, C, D, H, W)
        ((3, 3, 3, 2), 4, [3, 1]),
    ],
    ids=str,
)
def test_intervals_of_a_series_cubes_of_a_volume_and_channels_last(
    shape, channel_dim, sizes, is_global
):
    model = Smooth(math.prod(shape))
    x, x0 = normal(2, *shape), normal(2, *shape, seed=5)
    x0[1].flatten()[3] = x[1].flatten()[3]
    explain = Square(model, sizes, is_global, channel_dim=channel_dim)
    got = explain.attribute(x, x0, target=1)
    dim = (1 if channel_dim is None else channel_dim) % x.dim() - 1  # in an example
    f = f_of(model, 1)
    for i in range(2):
        first = x[i].movedim(dim, 0)  # channels first, as the literal masks have them
        want = literal_square(
            lambda z: f(z.movedim(1, dim + 1)), first, x0[i].movedim(dim, 0),
            literal_masks(first.shape[1:], sizes), is_global,
        )  # fmt: skip
        close(got[i], want.movedim(0, dim), rtol=1e-5, atol=1e-6)
    few = explain.attribute(x, x0, target=1, n_samples=7, generator=rng(2))
    masks = Grid(tuple(sizes), first.shape[1:]).draw(7, rng(2)).masks().double()
    z = masks.unsqueeze(1).expand(-1, len(first), *masks.shape[1:])
    d = f(x[:1]) - f(
        torch.where(z == 1, x0[0].movedim(dim, 0), x[0].movedim(dim, 0)).movedim(1, dim + 1)
    )
    rows = z.flatten(1) if is_global else z.flatten(1) * (x - x0)[0].movedim(dim, 0).flatten()
    close(few[0].movedim(dim, 0).flatten(), literal_ridge(rows, d), rtol=1e-5, atol=1e-7)


def test_a_series_beside_an_image():
    x, y = normal(2, 1, 3, 3), normal(2, 5, 2, seed=2)
    model = Smooth(9 + 10)
    got = Square(model, [1, 2], channel_dim=(1, 2)).attribute((x, y), target=1)
    for k, (alone, dim) in enumerate(((x, 1), (y, 2))):
        for i in range(2):
            others = [x[i : i + 1], y[i : i + 1]]

            def f(z, k=k, others=others):
                given = [o.expand(len(z), *o.shape[1:]) for o in others]
                given[k] = z
                return model(*given)

            want = Square(f, [1, 2], channel_dim=dim).attribute(alone[i : i + 1], target=1)
            close(got[k][i], want[0])


@pytest.mark.parametrize(
    ("size", "sizes"),
    [(12, range(1, 5)), pytest.param(28, range(1, 11), marks=pytest.mark.slow)],
    ids=["reduced", "paper"],
)
def test_all_squares_in_single_precision(size, sizes):
    """Against the dense pseudo-inverse; those of the paper are 5,605 squares of 28 x 28."""
    network = zoo.fashion_mnist_cnn()
    images, labels = zoo.fashion_mnist_sample(1)
    images = F.interpolate(images, size)
    calls = []

    def f(x):
        calls.append(len(x))
        return network(F.interpolate(x, 28))

    with torch.no_grad():
        got = Square(f, sizes).attribute(images, target=labels)
    masks = literal_masks((size, size), sizes).float()
    assert sum(calls) == len(masks) + 1
    if size == 28:
        assert len(masks) == 5605
    with torch.no_grad():
        at = [f(images * (1 - part.unsqueeze(1)))[:, labels[0]] for part in masks.split(512)]
        d = f(images)[:, labels[0]] - torch.cat(at)
    masks = masks.flatten(1).double()
    want = torch.linalg.pinv(masks.T @ masks, hermitian=True) @ (masks.T @ d.double())
    assert (got.flatten() - want).norm() < 1e-4 * want.norm()


@pytest.mark.parametrize("is_global", [True, False])
@pytest.mark.parametrize("n_samples", [3, 20, pytest.param(60, marks=pytest.mark.slow)])
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


def test_too_many_squares_are_sampled(monkeypatch):
    assert squares_module._SOME_SQUARES == 3000
    monkeypatch.setattr(squares_module, "_SOME_SQUARES", 100)
    model = Counting(lambda x: x.flatten(1).sum(1, keepdim=True))
    x = normal(1, 1, 60, 60)
    got = Square(model, [2, 3, 4]).attribute(x, target=0, generator=rng())
    assert sum(model.rows) == 100 + 1
    assert got.isfinite().all()

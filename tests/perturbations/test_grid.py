"""Squares as rows of a matrix, against the matrix."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from captum_robust.perturbations.grid import Grid
from tests.helpers import normal, rng


def all_squares(shape, sizes):
    """Literal list of the masks."""
    masks = []
    for size in sizes:
        for first in itertools.product(*(range(length - size + 1) for length in shape)):
            mask = torch.zeros(shape, dtype=torch.float64)
            mask[tuple(slice(i, i + size) for i in first)] = 1
            masks.append(mask)
    return torch.stack(masks)


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((4, 4), [1, 2, 3]),
        ((3, 6), (2,)),
        ((6, 3), range(1, 4)),
        ((5, 5), [5]),
        ((1, 4), [1]),
        ((4, 5), (3, 1)),
        ((7,), [1, 3, 7]),
        ((1,), [1]),
        ((3, 4, 2), [2, 1]),
        ((3, 3, 3), [1, 2, 3]),
    ],
    ids=str,
)
def test_squares_are_numbered_and_multiplied_as_their_masks(shape, sizes):
    masks = all_squares(shape, sizes)
    grid = Grid(tuple(sizes), shape)
    squares = grid.squares(torch.arange(len(grid)))
    assert len(grid) == len(masks) == len(squares)
    assert torch.equal(squares.masks().double(), masks)
    dense, pixels = masks.flatten(1), normal(2, *shape)
    values, weights = normal(2, len(masks)), normal(*shape, seed=4).square()
    torch.testing.assert_close(squares.matvec(pixels), pixels.flatten(1) @ dense.T)
    torch.testing.assert_close(squares.rmatvec(values).flatten(1), values @ dense)
    torch.testing.assert_close(squares.gram(weights), (dense * weights.flatten()) @ dense.T)
    torch.testing.assert_close(grid.normal_matrix(torch.device("cpu")), dense.T @ dense)


def test_the_gram_matrix_of_more_squares_than_one_part_holds():
    dense = all_squares((14, 14), [3, 4]).flatten(1)
    grid = Grid((3, 4), (14, 14))
    assert len(grid) > 256
    weights = normal(14, 14).square()
    got = grid.squares(torch.arange(len(grid))).gram(weights)
    torch.testing.assert_close(got, (dense * weights.flatten()) @ dense.T)


def test_drawn_squares_are_different_and_equally_likely():
    grid, n_draws = Grid((1, 2), (3, 3)), 4000
    counts = torch.zeros(len(grid))
    for seed in range(n_draws // 4):
        squares = grid.draw(4, rng(seed))
        masks = squares.masks().flatten(1).int()
        assert len(masks.unique(dim=0)) == 4
        all_masks = grid.squares(torch.arange(len(grid))).masks().flatten(1).int()
        counts += (masks.unsqueeze(1) == all_masks).all(2).sum(0)
    p = 1 / len(grid)
    # Without replacement the counts vary less than binomial ones.
    assert (counts - n_draws * p).abs().max() < 5 * math.sqrt(n_draws * p * (1 - p))
    everything = grid.draw(len(grid) + 9, rng())
    assert torch.equal(everything.masks(), grid.squares(torch.arange(len(grid))).masks())

"""Draws do not depend on the portions in which they are taken."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import rng
from tests.perturbations.cases import CASES, images, near

ALL = pytest.mark.parametrize("name", CASES)


@ALL
def test_draws_do_not_depend_on_how_many_are_taken_at_a_time(name):
    perturbation, more = CASES[name]
    inputs, baselines = images(), near()

    def take(sizes):
        perturb = perturbation.perturb_func(rng(6), n_examples=2, **more)
        parts = []
        for n in sizes:
            copies = tuple(x.repeat_interleave(n, 0) for x in inputs)
            expanded = tuple(b.repeat_interleave(n, 0) for b in baselines)
            drawn = perturb(copies, expanded)
            parts.append([t.unflatten(0, (2, n)) for part in drawn for t in part])
        return [torch.cat(ts, 1) for ts in zip(*parts, strict=True)]

    # More than one block of 2**18 numbers: 60 numbers for each draw of the two examples.
    n_all = 2**18 // 60 + 50
    whole = take([n_all])
    pieces = take([1, 7, n_all - 28, 20])
    assert all(map(torch.equal, whole, pieces))

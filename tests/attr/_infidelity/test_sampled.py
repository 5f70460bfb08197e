"""The optimum of a distribution of which only samples are known."""

from __future__ import annotations

import pytest
import torch

from captum_robust.attr import InfidelityOptimal
from captum_robust.perturbations import (
    Perturbation,
)
from tests.attr._infidelity.literal import literal_gcv, literal_ridge
from tests.helpers import Smooth, close, normal, rng


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

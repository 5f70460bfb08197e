"""No explanation has less infidelity on the whole distribution; each distribution its optimum."""

from __future__ import annotations

import itertools
import math
from contextlib import nullcontext

import pytest
import torch
from captum.attr import FeatureAblation

from captum_robust import perturbations
from captum_robust.attr import InfidelityOptimal
from captum_robust.attr._infidelity.optima import optimum
from tests.helpers import Smooth, close, close_to_captum, f_of, normal, rng
from tests.perturbations.cases import ON_IMAGES


def whole_distribution(perturbation, x, x0, mask):
    """All perturbations of one example as rows, with their probabilities."""
    mu, d = x - x0, len(x)
    groups = torch.arange(d) if mask is None else mask
    numbers = groups.unique()
    sets = torch.stack([groups == k for k in numbers]).double()
    match perturbation:
        case perturbations.BaselineShift():
            return mu[None], torch.ones(1).double()
        case perturbations.CoordinateStep():
            return perturbation.step * torch.eye(d).double(), torch.ones(d).double() / d
        case perturbations.FeatureRemoval():
            return sets * mu, torch.ones(len(sets)).double() / len(sets)
        case perturbations.ShapleyRemoval():
            n = len(numbers)
            subsets = [z for z in itertools.product([0.0, 1.0], repeat=n) if 0 < sum(z) < n]
            weights = [1 / (math.comb(n, int(sum(z))) * sum(z) * (n - sum(z))) for z in subsets]
            p = torch.tensor(weights).double()
            return (torch.tensor(subsets).double() @ sets) * mu, p / p.sum()
        case perturbations.SeveralBaselines():
            rows = x - perturbation._baselines[0]
            return rows, torch.ones(len(rows)).double() / len(rows)
    raise AssertionError(perturbation)


GROUPS = torch.tensor([0, 0, 1, 2, 2, 5])


@pytest.mark.parametrize(
    ("perturbation", "mask"),
    [
        (perturbations.BaselineShift(), None),
        (perturbations.CoordinateStep(0.8), None),
        (perturbations.FeatureRemoval(), None),
        (perturbations.FeatureRemoval(), GROUPS),
        (perturbations.ShapleyRemoval(), None),
        (perturbations.ShapleyRemoval(), GROUPS),
        (perturbations.SeveralBaselines(normal(4, 6, seed=11)), None),
        (perturbations.SeveralBaselines(normal(9, 6, seed=11)), None),
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
    shapley = isinstance(perturbation, perturbations.ShapleyRemoval)
    generator = rng(9)
    for scale in (1e-3, 1e-1, 1.0):
        for _ in range(20):
            step = scale * torch.randn(6, generator=generator, dtype=torch.float64)
            if shapley:  # the side condition: attributions sum to the loss of all
                step = step - mu * (step @ mu) / mu.square().sum()
            assert infidelity(phi + step) >= least - 1e-12
    if shapley or (
        mask is not None and isinstance(perturbation, perturbations.FeatureRemoval) and is_global
    ):
        return  # the shortest global explanation is not the shortest local one
    weighted = rows * p.sqrt().unsqueeze(1)
    close(phi, torch.linalg.pinv(weighted) @ (losses * p.sqrt()), atol=1e-8)


def test_a_subclass_is_explained_as_its_parent():
    class Renamed(perturbations.FeatureRemoval):
        pass

    model, x = Smooth(4), normal(2, 4)
    got = InfidelityOptimal(model, Renamed()).attribute(x, target=1)
    close_to_captum(got, FeatureAblation(model).attribute(x, target=1))
    assert optimum.dispatch(Renamed) is optimum.dispatch(perturbations.FeatureRemoval)


ALL = pytest.mark.parametrize("name", ON_IMAGES)


@ALL
@pytest.mark.parametrize("is_global", [False, True])
@pytest.mark.parametrize("n_samples", [None, 5])
def test_inputs_at_their_baselines(name, is_global, n_samples):
    x = normal(1, 2, 3, 3).repeat(2, 1, 1, 1)
    x[1] += 1
    explain = InfidelityOptimal(Smooth(18), ON_IMAGES[name], is_global)
    one = name == "BaselineShift"
    warned = pytest.warns(UserWarning, match="baselines equal the inputs for 1 of 2 examples")
    with warned if one else nullcontext():
        got = explain.attribute(x, normal(1, 2, 3, 3), target=1, n_samples=n_samples)
    assert got.isfinite().all()
    assert got[1].abs().sum() > 0
    if name not in ("CoordinateStep", "GaussianBaseline"):
        assert torch.equal(got[0], torch.zeros_like(x[0]))

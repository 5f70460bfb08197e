"""Infidelity-optimal explanations: how often the model is run, chunks, random numbers, inputs."""

from __future__ import annotations

import pytest
import torch

from captum_robust import perturbations
from captum_robust.attr import InfidelityOptimal, Square
from tests.helpers import Counting, Smooth, close, normal, rng
from tests.perturbations.cases import ON_IMAGES

ALL = pytest.mark.parametrize("name", ON_IMAGES)


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
    InfidelityOptimal(model, ON_IMAGES[name]).attribute(x, target=1, perturbations_per_eval=at_once)
    assert sum(model.rows) == 3 * (n_rows + 1)
    if at_once:
        assert max(model.rows) == 3 * min(n_rows, at_once)


def test_the_model_is_run_once_at_the_inputs_of_several_images():
    model, x = Counting(Smooth(18)), normal(2, 1, 3, 3)
    Square(model, [1, 2]).attribute((x, x), target=1)
    assert sum(model.rows) == 2 * (13 + 13 + 1)
    model = Counting(Smooth(9))
    with torch.no_grad():
        Square(model, [1, 2]).attribute(x, target=1, n_samples=100)
    assert sum(model.rows) == 2 * (13 + 1)
    model = Counting(Smooth(9))
    Square(model, [1, 2]).attribute(x, target=1, n_samples=6)
    assert sum(model.rows) == 2 * (6 + 1)


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chunks_do_not_matter(name, dtype):
    model, x = Smooth(18).to(dtype), normal(3, 2, 3, 3).to(dtype)
    explain = InfidelityOptimal(model, ON_IMAGES[name])
    n_samples = 30
    if name == "SeveralBaselines":
        explain = InfidelityOptimal(
            model, perturbations.SeveralBaselines(normal(5, 2, 3, 3).to(dtype))
        )
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
    explain = InfidelityOptimal(model, ON_IMAGES[name])
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
    perturbation = ON_IMAGES[name]
    if name == "SeveralBaselines":
        perturbation = perturbations.SeveralBaselines((normal(3), normal(3, 2, seed=4)))
    model, x, y = Smooth(3), normal(4), normal(4, 2, seed=2)
    explain = InfidelityOptimal(model, perturbation)
    got = explain.attribute((x, y), target=1, generator=rng())
    assert [g.shape for g in got] == [(4,), (4, 2)]
    if name == "SeveralBaselines":
        perturbation = perturbations.SeveralBaselines((normal(3).view(3, 1), normal(3, 2, seed=4)))
    same = InfidelityOptimal(model, perturbation).attribute(
        (x.unsqueeze(1), y), target=1, generator=rng()
    )
    close(got[0], same[0].squeeze(1))
    close(got[1], same[1])

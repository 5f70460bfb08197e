"""What each distribution draws: shapes, moments, and the random numbers it uses."""

from __future__ import annotations

import pytest
import torch

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
from tests.helpers import rng
from tests.perturbations.cases import CASES, Darker, images, near

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
ALL = pytest.mark.parametrize("name", CASES)
FORMS = pytest.mark.parametrize("form", [None, False, True])


def flat(tensors, start=2):
    return torch.cat([t.flatten(start) for t in tensors], dim=-1)


@ALL
@FORMS
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_draws_have_the_shapes_dtypes_and_device_of_the_inputs(name, form, device, dtype):
    perturbation, more = CASES[name]
    inputs = tuple(x.to(device, dtype) for x in images())
    points = Points.of(inputs, tuple(b.to(device, dtype) for b in near()), **more)
    assert len(points) == 2
    shifts = perturbation.shifts(points, 5, rng())
    multipliers, perturbed = perturbation.sample(points, 5, rng(), form)
    for part in (shifts, multipliers, perturbed):
        assert isinstance(part, tuple)
        for x, drawn in zip(inputs, part, strict=True):
            assert (drawn.shape, drawn.dtype) == ((2, 5, *x.shape[1:]), dtype)
            assert drawn.device == x.device
            assert drawn.isfinite().all()


@ALL
@FORMS
def test_a_sample_is_the_shift_in_its_form_and_what_is_left_of_the_inputs(name, form):
    perturbation, more = CASES[name]
    points = Points.of(images(), near(), **more)
    shifts = perturbation.shifts(points, 40, rng(7))
    multipliers, perturbed = perturbation.sample(points, 40, rng(7), form)
    is_global = perturbation.multiplies_by_inputs if form is None else form
    for x, x0, i, m, p in zip(*map(tuple, (images(), near(), shifts, multipliers, perturbed))):  # noqa: B905
        torch.testing.assert_close(p, x.unsqueeze(1) - i)
        mu = (x - x0).unsqueeze(1).expand_as(i)
        if is_global:
            torch.testing.assert_close((m * mu)[mu != 0], i[mu != 0])
        else:
            assert torch.equal(m, i)


def test_what_is_removed_is_the_baseline_to_the_last_bit():
    x, x0 = torch.tensor([[0.1, 1e-8, 1e8]]), torch.tensor([[0.3, 1.0, 1e-8]])
    _, (perturbed,) = FeatureRemoval().sample(Points.of(x, x0), 30, rng())
    assert ((perturbed == x0) ^ (perturbed == x)).all()
    assert (perturbed == x0).sum() == 30


@pytest.mark.parametrize(
    ("perturbation", "is_global"),
    [
        (BaselineShift(), True), (FeatureRemoval(), True), (ShapleyRemoval(), True),
        (SquareRemoval([1]), True), (CoordinateStep(), False), (GaussianBaseline(), False),
        (SeveralBaselines(torch.zeros(1, 2)), False), (Darker(), False),
    ],
)  # fmt: skip
def test_the_natural_form(perturbation, is_global):
    assert perturbation.multiplies_by_inputs is is_global


def test_names():
    assert repr(SquareRemoval([2, 3])) == "SquareRemoval(sizes=(2, 3))"
    assert repr(GaussianBaseline(0.5)) == "GaussianBaseline(stdev=0.5)"
    assert repr(SeveralBaselines(torch.zeros(3, 2))) == "SeveralBaselines(<3 baselines>)"
    assert repr(FeatureRemoval()) == "FeatureRemoval()"


@ALL
@pytest.mark.parametrize("form", [False, True])
def test_the_second_moment_is_that_of_the_draws(name, form):
    """Within six standard errors, estimated from the draws themselves.

    That few of 2 x 900 entries pass by chance; an entry that never varies must be exact.
    """
    perturbation, more = CASES[name]
    points = Points.of(images(), near(), **more)
    want = perturbation.second_moment(points, form)
    assert want.shape == (2, 30, 30)
    assert want.dtype == torch.float64
    rows = flat(perturbation.sample(points, 20_000, rng(11), form)[0])
    mean = rows.transpose(1, 2) @ rows / rows.shape[1]
    square = rows.square().transpose(1, 2) @ rows.square() / rows.shape[1]
    error = ((square - mean.square()).clamp(min=0) / rows.shape[1]).sqrt()
    # An entry of rare draws has an uncertain error: that of Poisson counts at least.
    largest = rows.abs().amax(1)
    scale = largest.unsqueeze(1) * largest.unsqueeze(2)
    rare = scale * (want.abs() / scale.clamp(min=1e-12) / rows.shape[1]).sqrt()
    assert ((mean - want).abs() <= 6 * torch.maximum(error, rare) + 1e-9 * (1 + scale)).all()


def test_without_a_closed_form_an_error_says_what_to_do():
    with pytest.raises(NotImplementedError, match=r"Darker has no second moment .* sample"):
        Darker().second_moment(Points.of(torch.ones(1, 2)))


@ALL
def test_the_global_random_state_is_left_alone(name):
    perturbation, more = CASES[name]
    points = Points.of(images(), near(), **more)
    before = torch.get_rng_state()
    first = perturbation.perturb_func(**more)(images(), near())
    second = perturbation.perturb_func(**more)(images(), near())
    seeded = [perturbation.shifts(points, 50, rng(4)) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, *seeded))
    if name != "BaselineShift":
        other = perturbation.shifts(points, 50, rng(5))
        assert not torch.equal(flat(seeded[0]), flat(other))
    if name == "GaussianBaseline":  # without a generator draws differ
        assert not torch.equal(first[0][0], second[0][0])


def test_perturb_func_notices_other_inputs():
    perturb = FeatureRemoval().perturb_func(rng(), n_examples=1)
    x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])
    for z in (x, y, x):
        masks, perturbed = perturb(z)
        assert torch.equal(perturbed, z * (1 - masks))
    masks, perturbed = perturb(x, 5.0)
    assert torch.equal(perturbed, torch.where(masks == 1, 5.0, x))
    masks, perturbed = perturb(x, torch.full((1, 2), 6.0))
    assert torch.equal(perturbed, torch.where(masks == 1, 6.0, x))


def test_perturb_func_notices_inputs_that_were_written_to():
    perturb, x = BaselineShift().perturb_func(n_examples=1), torch.tensor([[1.0, 2.0]])
    perturb(x)
    x.add_(10)
    assert torch.equal(perturb(x, torch.ones(1, 2))[1], torch.ones(1, 2))
    multipliers, _ = FeatureRemoval().perturb_func(multiply_by_inputs=False)(x)
    assert set(multipliers.flatten().tolist()) <= {0.0, 11.0, 12.0}
    perturb = FeatureRemoval().perturb_func(rng(), n_examples=1, multiply_by_inputs=False)
    perturb(x)
    x.add_(10)
    multipliers, _ = perturb(x.repeat_interleave(9, 0))
    assert set(multipliers.flatten().tolist()) == {0.0, 21.0, 22.0}


def test_tensor_for_tensor_and_tuple_for_tuple():
    x = torch.ones(2, 3)
    for n_examples in (None, 2):
        perturb = BaselineShift().perturb_func(n_examples=n_examples)
        assert all(isinstance(part, torch.Tensor) and part.shape == (2, 3) for part in perturb(x))
        assert all(isinstance(part, tuple) and part[0].shape == (2, 3) for part in perturb((x,)))


ONES = torch.ones(2, 3)


@pytest.mark.parametrize(
    "shifts",
    [
        lambda n: torch.ones(2, n, 3),
        lambda n: (torch.ones(2, n + 1, 3),),
        lambda n: (torch.ones(2, n, 3),) * 2,
        lambda n: (torch.ones(2 * n, 3),),
    ],
)
def test_a_distribution_of_ones_own_with_draws_of_a_wrong_shape(shifts):
    class Own(Perturbation):
        def shifts(self, points, n_samples, generator):
            return shifts(n_samples)

    with pytest.raises(ValueError, match=r"shifts of Own must be a tuple of tensors .*\(2, 4, 3\)"):
        Own().sample(Points.of(ONES), 4, rng())


def test_rows_that_are_no_copies_of_the_examples():
    with pytest.raises(ValueError, match="n_examples: 3 rows are not copies of 2 examples"):
        FeatureRemoval().perturb_func(n_examples=2)(torch.ones(3, 4))

"""Infidelity against its definition, Captum's numbers, and every way of cutting the work."""

from __future__ import annotations

import pytest
import torch
from captum.metrics import infidelity as captum_infidelity

from captum_robust.attr import InfidelityOptimal
from captum_robust.metrics import infidelity
from captum_robust.perturbations import (
    BaselineShift,
    CoordinateStep,
    FeatureRemoval,
    GaussianBaseline,
    Points,
    SeveralBaselines,
    ShapleyRemoval,
    SquareRemoval,
)
from tests.helpers import rng

PERTURBATIONS = [
    BaselineShift(), CoordinateStep(0.5), FeatureRemoval(), GaussianBaseline(0.3),
    ShapleyRemoval(), SquareRemoval([1, 2]),
]  # fmt: skip


def model(x):
    rows = x.flatten(1)
    return torch.stack([rows.sin().sum(1), (rows.square() * rows.roll(1, 1)).sum(1)], dim=1)


def images(n=3, dtype=torch.float64):
    return torch.randn(n, 1, 4, 4, generator=rng(1), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=repr)
@pytest.mark.parametrize("multiply_by_inputs", [None, False, True])
def test_the_definition(perturbation, multiply_by_inputs):
    x, phi, n = images(), images().cos(), 40
    got = infidelity(
        model, perturbation, x, phi, 0.2, 1, n_perturb_samples=n, generator=rng(),
        multiply_by_inputs=multiply_by_inputs,
    )  # fmt: skip
    block = 2**18 // x.numel()  # what one draw of the stream holds
    points = Points.of(x, 0.2)
    drawn, perturbed = perturbation.sample(points, block, rng(), multiply_by_inputs)
    want = torch.zeros(3, dtype=torch.float64)
    for i in range(3):
        for j in range(n):
            loss = model(x[i : i + 1])[0, 1] - model(perturbed[0][i, j : j + 1])[0, 1]
            want[i] += ((drawn[0][i, j] * phi[i]).sum() - loss) ** 2 / n
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=repr)
@pytest.mark.parametrize("normalize", [False, True])
def test_captums_numbers_on_the_same_draws(perturbation, normalize):
    """In double precision, in which Captum's normalized form keeps enough digits here."""
    x, phi = images(), images().cos()
    settings = {"target": 1, "n_perturb_samples": 20, "normalize": normalize}
    got = infidelity(model, perturbation, x, phi, generator=rng(), **settings)
    perturb_func = perturbation.perturb_func(rng(), n_examples=3)
    want = captum_infidelity(model, perturb_func, x, phi, **settings)
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=repr)
def test_the_cut_into_batches_does_not_count(perturbation):
    x, phi = images(), images().cos()
    values = [
        infidelity(
            model, perturbation, x, phi, target=0, n_perturb_samples=21, generator=rng(),
            max_examples_per_batch=size,
        )
        for size in (None, 3, 6, 63)
    ]  # fmt: skip
    for value in values[1:]:
        torch.testing.assert_close(value, values[0])


@pytest.mark.parametrize("output_dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("unit", [1.0, 1e3, 1e5])
@pytest.mark.parametrize(
    "perturbation", [FeatureRemoval(), ShapleyRemoval(), GaussianBaseline()], ids=repr
)
def test_a_normalized_value_does_not_cancel(perturbation, unit, output_dtype):
    """Outputs in thousands of which an explanation tells all but a sine."""
    w, x = torch.randn(20, generator=rng(2)), torch.rand(3, 20, generator=rng(3)) + 0.1
    phi = unit * w * (x if perturbation.multiplies_by_inputs else torch.ones_like(x))

    def price(z):
        z = z.to(output_dtype)
        return (unit * (z @ w.to(z)) + torch.sin(3 * z).sum(1)).unsqueeze(1)

    def price_in_double(z):
        return unit * (z @ w.double()) + torch.sin(3 * z).sum(-1)

    values = [
        infidelity(
            price, perturbation, x, phi, target=0, n_perturb_samples=200, normalize=True,
            generator=rng(), max_examples_per_batch=size,
        )
        for size in (None, 30, 600)
    ]  # fmt: skip
    multipliers, perturbed = (
        part[0][:, :200].double() for part in perturbation.sample(Points.of(x), 2**18 // 60, rng())
    )
    account = (multipliers * phi.double().unsqueeze(1)).sum(2)
    d = price_in_double(x.double()).unsqueeze(1) - price_in_double(perturbed)
    scale = (account * d).sum(1, keepdim=True) / account.square().sum(1, keepdim=True)
    right = (scale * account - d).square().mean(1)
    # Outputs of single precision are themselves off by 6e-8 of their size, a few units.
    slack = 1e-4 + 1e-6 * unit if output_dtype == torch.float32 else 1e-6
    for value in values:
        torch.testing.assert_close(value.double(), right, rtol=slack, atol=slack)


def test_an_account_of_zeros_is_scaled_by_nothing():
    x = images()
    got = infidelity(
        model, FeatureRemoval(), x, torch.zeros_like(x), target=1, normalize=True, generator=rng()
    )
    plain = infidelity(model, FeatureRemoval(), x, torch.zeros_like(x), target=1, generator=rng())
    assert torch.equal(got, plain)


@pytest.mark.parametrize(
    ("dtype", "want"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_squares_of_half_precision_do_not_overflow(dtype, want):
    x = torch.full((2, 4), 128.0, dtype=dtype)
    got = infidelity(
        lambda z: 32 * z.sum(1), BaselineShift(), x, torch.zeros_like(x), n_perturb_samples=2
    )
    assert got.dtype == want
    torch.testing.assert_close(got.double(), torch.full((2,), 16_384.0**2).double())


def test_one_perturb_func_serves_other_inputs():
    x, perturb = images(), GaussianBaseline(0.3).perturb_func(rng(), n_examples=3)
    perturb(x)
    shifts, perturbed = perturb(x + 7)
    torch.testing.assert_close(shifts + perturbed, x + 7)


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    infidelity(model, GaussianBaseline(), images(), images(), target=0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attributions": torch.zeros(3, 16)}, "attributions must have the shapes"),
        ({"attributions": images() * torch.nan}, "attributions has NaN"),
        ({"inputs": images() * torch.inf}, "inputs has NaN or Inf"),
        ({"inputs": images()[:0]}, "inputs is empty"),
        ({"baselines": torch.zeros(2, 1, 4, 4)}, "baselines has shape"),
        ({"feature_mask": torch.zeros(1, 1, 4, 4)}, "feature_mask must be an integer"),
        ({"n_perturb_samples": 0}, "n_perturb_samples must be at least 1"),
        ({"max_examples_per_batch": 0}, "max_examples_per_batch must be at least 1"),
        ({"forward_func": lambda x: model(x) * torch.nan}, "NaN or Inf"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
def test_bad_input(change, message):
    arguments = {
        "forward_func": model, "perturbation": FeatureRemoval(), "inputs": images(),
        "attributions": images(), "target": 1,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        infidelity(**(arguments | change))


NO_GROUPS = [
    SquareRemoval([2]), GaussianBaseline(), BaselineShift(), CoordinateStep(),
    SeveralBaselines(images()),
]  # fmt: skip


@pytest.mark.parametrize("perturbation", NO_GROUPS, ids=str)
def test_a_feature_mask_is_not_ignored_in_silence(perturbation):
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.long)
    explain = InfidelityOptimal(model, perturbation)
    for call in (
        lambda: infidelity(model, perturbation, images(), images(), target=1, feature_mask=mask),
        lambda: perturbation.perturb_func(feature_mask=mask),
        lambda: explain.attribute(images(), target=1, feature_mask=mask),
    ):
        with pytest.raises(ValueError, match=r"feature_mask: .* knows no groups"):
            call()


def test_a_function_is_no_perturbation():
    with pytest.raises(TypeError, match=r"captum\.metrics\.infidelity"):
        infidelity(model, lambda x: (x, x), images(), images(), target=1)

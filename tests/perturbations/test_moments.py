"""What each distribution draws: shapes, moments, and the random numbers it uses."""

from __future__ import annotations

import itertools
import math

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
from captum_robust.perturbations.grid import Grid

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=1):
    return torch.randn(shape, generator=rng(seed), dtype=torch.float64)


class Darker(Perturbation):
    def shifts(self, points, n_samples, generator):
        share = torch.rand(len(points), n_samples, generator=generator)
        return tuple(
            share.view(*share.shape, *(1,) * (x.dim() - 1)).to(x) * x.unsqueeze(1)
            for x in points.inputs
        )


def images(n=2):
    return normal(n, 2, 3, 4), normal(n, 2, 3, seed=2)


def near(n=2):
    """Baselines, some of whose features are those of the inputs."""
    x, y = images(n)
    x, y = x + normal(n, 2, 3, 4, seed=3), y + normal(n, 2, 3, seed=4)
    x[:, 0, 1, 2] = images(n)[0][:, 0, 1, 2]
    return x, y


MASK = (torch.arange(24).view(1, 2, 3, 4) // 5, torch.tensor([[[1, 1, 40], [40, -7, 0]]]))
CASES = {
    "BaselineShift": (BaselineShift(), {}),
    "CoordinateStep": (CoordinateStep(0.3), {}),
    "FeatureRemoval": (FeatureRemoval(), {}),
    "FeatureRemoval of groups": (FeatureRemoval(), {"feature_mask": MASK}),
    "GaussianBaseline": (GaussianBaseline((0.7, 0.2)), {}),
    "SeveralBaselines": (SeveralBaselines((normal(3, 2, 3, 4, seed=5), normal(3, 2, 3))), {}),
    "ShapleyRemoval": (ShapleyRemoval(), {}),
    "ShapleyRemoval of groups": (ShapleyRemoval(), {"feature_mask": MASK}),
    "SquareRemoval": (SquareRemoval([1, 2]), {}),
}
ALL = pytest.mark.parametrize("name", CASES)
FORMS = pytest.mark.parametrize("form", [None, False, True])


def flat(tensors, start=2):
    return torch.cat([t.flatten(start) for t in tensors], dim=-1)


# --- Shapes and values.


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


# --- Literal distributions.


def shapley_probability(k, n):
    """Of one set of k of n features, before normalisation (Proposition 2.5)."""
    return (n - 1) / (math.comb(n, k) * k * (n - k))


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_shapley_kernel(n):
    """Frequencies of all sets, within five standard deviations of the binomial."""
    n_samples = 40_000
    sets = [z for z in itertools.product([0, 1], repeat=n) if 0 < sum(z) < n]
    weights = [shapley_probability(sum(z), n) for z in sets]
    points = Points.of(torch.ones(1, n))
    (drawn,) = ShapleyRemoval().shifts(points, n_samples, rng(3))
    seen = [tuple(z) for z in drawn[0].int().tolist()]
    assert set(seen) == set(sets)
    for z, weight in zip(sets, weights, strict=True):
        p = weight / sum(weights)
        deviation = math.sqrt(p * (1 - p) * n_samples)
        assert abs(seen.count(z) - p * n_samples) < 5 * deviation
    (moment,) = ShapleyRemoval().second_moment(points)
    rows = torch.tensor(sets, dtype=torch.float64)
    p = torch.tensor(weights, dtype=torch.float64)
    torch.testing.assert_close(moment, rows.T @ (rows * (p / p.sum()).unsqueeze(1)))


def test_one_feature_is_removed_always():
    points = Points.of(torch.ones(2, 1))
    (drawn,) = ShapleyRemoval().shifts(points, 4, rng())
    assert torch.equal(drawn, torch.ones(2, 4, 1))
    assert torch.equal(ShapleyRemoval().second_moment(points), torch.ones(2, 1, 1).double())


def all_squares(height, width, sizes):
    """Literal list of the masks."""
    masks = []
    for size in sizes:
        for i in range(height - size + 1):
            for j in range(width - size + 1):
                mask = torch.zeros(height, width, dtype=torch.float64)
                mask[i : i + size, j : j + size] = 1
                masks.append(mask)
    return torch.stack(masks)


GRIDS = pytest.mark.parametrize(
    ("height", "width", "sizes"),
    [
        (4, 4, [1, 2, 3]),
        (3, 6, (2,)),
        (6, 3, range(1, 4)),
        (5, 5, [5]),
        (1, 4, [1]),
        (4, 5, (3, 1)),
    ],
)


@GRIDS
def test_squares_are_numbered_and_multiplied_as_their_masks(height, width, sizes):
    masks = all_squares(height, width, sizes)
    grid = Grid(tuple(sizes), (height, width))
    squares = grid.squares(torch.arange(len(grid)))
    assert len(grid) == len(masks) == len(squares)
    assert torch.equal(squares.masks().double(), masks)
    dense, pixels = masks.flatten(1), normal(2, height, width)
    values, weights = normal(2, len(masks)), normal(height, width, seed=4).square()
    torch.testing.assert_close(squares.matvec(pixels), pixels.flatten(1) @ dense.T)
    torch.testing.assert_close(squares.rmatvec(values).flatten(1), values @ dense)
    torch.testing.assert_close(squares.gram(weights), (dense * weights.flatten()) @ dense.T)
    torch.testing.assert_close(grid.normal_matrix(torch.device("cpu")), dense.T @ dense)


def test_the_gram_matrix_of_more_squares_than_one_part_holds():
    dense = all_squares(14, 14, [3, 4]).flatten(1)
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


def test_removed_squares_of_two_images():
    points = Points.of((torch.ones(1, 2, 3, 3), torch.ones(1, 2, 2)))
    drawn = SquareRemoval([2]).shifts(points, 3000, rng())
    first, second = (d[0].flatten(1).sum(1) for d in drawn)
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == {(8.0, 0.0), (0.0, 4.0)}
    assert abs((second > 0).double().mean() - 1 / 5) < 5 * math.sqrt(0.16 / 3000)
    assert torch.equal(drawn[0][:, :, 0], drawn[0][:, :, 1])  # through all channels


# --- Second moments.


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


# --- Groups.


def test_groups_with_gaps_and_masks_of_each_example():
    mask = torch.tensor([[5, 5, -3, 70], [70, -3, -3, -3]])
    points = Points.of(torch.ones(2, 4), feature_mask=mask)
    (drawn,) = FeatureRemoval().shifts(points, 900, rng())
    for i in range(2):
        seen = {tuple(z) for z in drawn[i].int().tolist()}
        want = {tuple((mask[i] == k).int().tolist()) for k in (5, -3, 70)}
        assert seen == want
    moment = FeatureRemoval().second_moment(points)
    same = mask.unsqueeze(1) == mask.unsqueeze(2)
    torch.testing.assert_close(moment, same.double() / 3)


def test_a_group_across_inputs():
    points = Points.of(
        (torch.ones(1, 2), torch.ones(1, 2)),
        feature_mask=(torch.tensor([[0, 1]]), torch.tensor([[1, 2]])),
    )
    drawn = flat(FeatureRemoval().shifts(points, 200, rng()))[0]
    assert {tuple(z) for z in drawn.int().tolist()} == {(1, 0, 0, 0), (0, 1, 1, 0), (0, 0, 0, 1)}


# --- The random numbers.


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


# --- Bad input.


ONES = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("inputs", "kwargs", "error", "message"),
    [
        (torch.ones(2, 3, dtype=torch.long), {}, ValueError, "inputs must be floating-point"),
        (torch.ones(2, 3, dtype=torch.cfloat), {}, ValueError, "inputs must be floating-point"),
        (torch.ones(0, 3), {}, ValueError, "inputs is empty"),
        (torch.ones(2, 0), {}, ValueError, "inputs of shapes .* have no features"),
        (ONES * torch.nan, {}, ValueError, "inputs has NaN or Inf"),
        (ONES / 0, {}, ValueError, "inputs has NaN or Inf"),
        ([ONES], {}, TypeError, "inputs must be a tensor or a tuple"),
        ((ONES, ONES[:1]), {}, ValueError, "inputs must hold the same examples"),
        (ONES, {"baselines": torch.ones(3)}, ValueError, "baselines has shape"),
        (ONES, {"baselines": torch.ones(3, 3)}, ValueError, "baselines has shape"),
        (ONES, {"baselines": torch.ones(2, 1)}, ValueError, "baselines has shape"),
        (ONES, {"baselines": torch.nan}, ValueError, "baselines has NaN"),
        (ONES, {"baselines": ONES / 0}, ValueError, "baselines has NaN or Inf"),
        (ONES.half(), {"baselines": 1e6}, ValueError, "baselines has NaN or Inf"),
        (ONES, {"baselines": (0, 0)}, ValueError, "baselines has 2 entries for 1 inputs"),
        ((ONES, ONES), {"baselines": (0,)}, ValueError, "baselines has 1 entries for 2 inputs"),
        ((ONES, ONES), {"baselines": 0.0}, ValueError, "baselines has 1 entries for 2 inputs"),
        (ONES, {"baselines": "zero"}, TypeError, "baselines must be numbers or tensors, got str"),
        (ONES, {"baselines": {}}, TypeError, "baselines must be numbers or tensors, got dict"),
        (ONES, {"feature_mask": ONES}, ValueError, "feature_mask must be an integer tensor"),
        (ONES, {"feature_mask": [[0, 1, 1]]}, ValueError, "feature_mask must be an integer"),
        (ONES, {"feature_mask": torch.zeros(3).long()}, ValueError, "feature_mask has shape"),
        (ONES, {"feature_mask": torch.zeros(3, 3).long()}, ValueError, "feature_mask has shape"),
        (ONES, {"feature_mask": torch.zeros(1, 2).long()}, ValueError, "feature_mask has shape"),
        ((ONES, ONES), {"feature_mask": (torch.zeros(1, 3).long(),)}, ValueError, "1 entries"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_points(inputs, kwargs, error, message):
    with pytest.raises(error, match=message):
        Points.of(inputs, **kwargs)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SquareRemoval([]), ValueError, "sizes is empty"),
        (lambda: SquareRemoval(range(0)), ValueError, "sizes is empty"),
        (lambda: SquareRemoval([0]), ValueError, "sizes must be at least 1"),
        (lambda: SquareRemoval(range(3)), ValueError, "sizes must be at least 1"),
        (lambda: SquareRemoval([2.0]), TypeError, "sizes must be a whole number"),
        (lambda: SquareRemoval(5), TypeError, r"sizes must be several .* \[5\]"),
        (lambda: GaussianBaseline(0), ValueError, "stdev must be positive"),
        (lambda: GaussianBaseline((0.1, -0.1)), ValueError, "stdev must be positive"),
        (lambda: GaussianBaseline(float("nan")), ValueError, "stdev must be positive"),
        (lambda: GaussianBaseline("0.1"), TypeError, "stdev must be a number"),
        (lambda: CoordinateStep(0.0), ValueError, "step must be positive"),
        (lambda: CoordinateStep(float("inf")), ValueError, "step must be positive"),
        (lambda: SeveralBaselines(ONES * torch.nan), ValueError, "NaN"),
        (lambda: SeveralBaselines(torch.zeros(0, 3)), ValueError, "empty"),
    ],
)
def test_bad_distributions(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("perturbation", "message"),
    [
        (SquareRemoval([1]), r"inputs must be images .* got shape \(2, 3\)"),
        (GaussianBaseline((0.1, 0.2)), "stdev has 2 values for 1 inputs"),
        (SeveralBaselines(torch.zeros(4, 2)), "baselines of SeveralBaselines have shapes"),
        (SeveralBaselines((ONES, ONES)), "baselines of SeveralBaselines have shapes"),
    ],
)
def test_distributions_that_do_not_fit_the_inputs(perturbation, message):
    with pytest.raises(ValueError, match=message):
        perturbation.shifts(Points.of(ONES), 1, rng())


def test_squares_larger_than_the_image():
    with pytest.raises(ValueError, match="sizes: a square of 4 does not fit into 3 x 9"):
        SquareRemoval([2, 4]).shifts(Points.of(torch.ones(1, 3, 9)), 1, rng())


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
    with pytest.raises(ValueError, match="n_examples: 3 rows are no copies of 2 examples"):
        FeatureRemoval().perturb_func(n_examples=2)(torch.ones(3, 4))

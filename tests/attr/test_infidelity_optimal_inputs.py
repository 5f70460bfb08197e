"""Optimal explanations of tables, series, volumes and tuples; bad input, and what mends it."""

from __future__ import annotations

import pytest
import torch
from captum.attr import FeatureAblation
from torch import nn

from captum_robust import perturbations
from captum_robust.attr import InfidelityOptimal, NoisyBaseline, Square
from captum_robust.perturbations import FeatureRemoval, ShapleyRemoval
from tests.helpers import Smooth, close, close_to_captum, normal, rng

SHAPES = {
    "a table": (4,),
    "a series": (2, 3),
    "an image": (1, 3, 3),
    "a volume": (1, 2, 3, 2),
    "an embedding": (3, 2),
}
DISTRIBUTIONS = {
    "BaselineShift": lambda shape: perturbations.BaselineShift(),
    "CoordinateStep": lambda shape: perturbations.CoordinateStep(1e-3),
    "FeatureRemoval": lambda shape: perturbations.FeatureRemoval(),
    "GaussianBaseline": lambda shape: perturbations.GaussianBaseline(0.3),
    "SeveralBaselines": lambda shape: perturbations.SeveralBaselines(normal(3, *shape, seed=6)),
    "ShapleyRemoval": lambda shape: perturbations.ShapleyRemoval(),
    "SquareRemoval": lambda shape: perturbations.SquareRemoval([1, 2], channel_dim=1),
}


def size(shape):
    return torch.Size(shape).numel()


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("kind", SHAPES)
def test_shape_does_not_matter_and_neither_does_a_tuple(kind, distribution):
    shape = SHAPES[kind]
    if distribution == "SquareRemoval" and len(shape) == 1:
        pytest.skip("squares need places")
    model, x = Smooth(size(shape)), normal(2, *shape)
    explain = InfidelityOptimal(model, DISTRIBUTIONS[distribution](shape))
    got = explain.attribute(x, 0.1, target=1, n_samples=40, generator=rng())
    assert (got.shape, got.dtype) == (x.shape, x.dtype)
    (alone,) = explain.attribute((x,), (0.1,), target=1, n_samples=40, generator=rng())
    assert torch.equal(alone, got)
    if distribution != "SquareRemoval":  # for all others an example is a row of features
        rows = InfidelityOptimal(model, DISTRIBUTIONS[distribution]((size(shape),)))
        want = rows.attribute(x.flatten(1), 0.1, target=1, n_samples=40, generator=rng())
        close(got.flatten(1), want)


class Categories(nn.Module):
    """An embedding of integer categories beside numbers."""

    def __init__(self):
        super().__init__()
        self.table, self.rest = nn.Embedding(5, 3), Smooth(3 + 4)
        self.double()

    def from_embedding(self, embedded, numbers):
        return self.rest(embedded.sum(1), numbers)

    def forward(self, numbers, categories):
        return self.from_embedding(self.table(categories), numbers)


def test_categories_beside_numbers():
    """As integers they are refused; as further arguments or as an embedding they work."""
    model, categories, numbers = Categories(), torch.tensor([[0, 4], [2, 2]]), normal(2, 4)
    explain = InfidelityOptimal(model, FeatureRemoval())
    with pytest.raises(ValueError, match=r"int64 \(input 1 of 2\).* additional_forward_args"):
        explain.attribute((numbers, categories), target=1)
    got = explain.attribute(numbers, target=1, additional_forward_args=categories)
    ablation = FeatureAblation(model)
    close_to_captum(got, ablation.attribute(numbers, target=1, additional_forward_args=categories))
    embedded = model.table(categories).detach()
    by_embedding = InfidelityOptimal(model.from_embedding, FeatureRemoval())
    close(by_embedding.attribute((embedded, numbers), target=1)[1], got)
    local = NoisyBaseline(model).attribute(
        numbers, target=1, additional_forward_args=categories, generator=rng()
    )
    assert local.shape == numbers.shape


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_inference_mode(distribution):
    shape = (1, 3, 3)
    model, scale = Smooth(9), normal(2, 1, seed=8)
    explain = InfidelityOptimal(
        lambda x, scale: model(x) * scale, DISTRIBUTIONS[distribution](shape)
    )
    settings = {"target": torch.tensor([1, 2]), "n_samples": 6}
    want = explain.attribute(
        normal(2, *shape), normal(1, *shape, seed=3), additional_forward_args=scale,
        generator=rng(), **settings,
    )  # fmt: skip
    with torch.inference_mode():
        got = explain.attribute(
            normal(2, *shape), normal(1, *shape, seed=3), additional_forward_args=scale.clone(),
            generator=rng(), **settings,
        )  # fmt: skip
    close(got, want)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_model_that_writes_into_its_inputs(distribution):
    shape = (1, 3, 3)
    model, x, x0 = Smooth(9), normal(2, *shape), normal(2, *shape, seed=3)
    values = []
    for forward in (lambda z: model(z.sub_(0.5).mul_(2)), lambda z: model((z - 0.5) * 2)):
        explain = InfidelityOptimal(forward, DISTRIBUTIONS[distribution](shape))
        settings = {"n_samples": 6, "perturbations_per_eval": 1, "generator": rng()}
        values.append(explain.attribute(x, x0, target=1, **settings))
        assert torch.equal(x, normal(2, *shape))
        assert torch.equal(x0, normal(2, *shape, seed=3))
    close(*values)


def test_the_other_image_of_a_model_that_writes_into_its_inputs():
    model, x, y = Smooth(18), normal(2, 1, 3, 3), normal(2, 1, 3, 3, seed=2)
    settings = {"target": 1, "perturbations_per_eval": 1}
    got = Square(lambda x, y: model(x, y.mul_(2)), [1, 2]).attribute((x, y), **settings)
    want = Square(lambda x, y: model(x, y * 2), [1, 2]).attribute((x, y), **settings)
    close(got[0], want[0])
    close(got[1], want[1])


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_statistics_of_a_model_in_training_mode_stay(distribution):
    shape = (1, 3, 3)
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(9), nn.Linear(9, 3)).double().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    explain = InfidelityOptimal(lambda x: model(x), DISTRIBUTIONS[distribution](shape))
    with pytest.warns(UserWarning, match="training mode"):
        explain.attribute(normal(2, *shape), target=1, n_samples=6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_half_precision(distribution, dtype):
    shape = (1, 3, 3)
    model, x = Smooth(9).to(dtype), normal(2, *shape).to(dtype)
    got = InfidelityOptimal(model, DISTRIBUTIONS[distribution](shape)).attribute(x, target=1)
    assert got.dtype == dtype
    assert got.isfinite().all()


# --- Bad input, and that what a message advises works.

X = normal(2, 1, 4, 4)
MODEL = Smooth(16)


def optimal(**settings):
    return lambda x=X, **more: InfidelityOptimal(MODEL, **settings).attribute(x, target=1, **more)


BAD = {
    "a function": (
        lambda: InfidelityOptimal(MODEL, lambda x: x), TypeError, "Subclass Perturbation",
    ),
    "a class": (
        lambda: InfidelityOptimal(MODEL, FeatureRemoval), TypeError, "perturbation must be",
    ),
    "no samples": (
        lambda: optimal(perturbation=ShapleyRemoval())(n_samples=0), ValueError,
        "n_samples must be at least 1",
    ),
    "samples as a float": (
        lambda: optimal(perturbation=ShapleyRemoval())(n_samples=2.5), TypeError,
        "n_samples must be a whole number",
    ),
    "no copies": (
        lambda: optimal(perturbation=FeatureRemoval())(perturbations_per_eval=0), ValueError,
        "perturbations_per_eval must be at least 1",
    ),
    "a seed as generator": (
        lambda: optimal(perturbation=ShapleyRemoval())(generator=3), TypeError,
        r"generator must be a torch.Generator.*manual_seed",
    ),
    "nan": (
        lambda: optimal(perturbation=FeatureRemoval())(X * torch.nan), ValueError,
        "inputs has NaN or Inf",
    ),
    "an empty batch": (
        lambda: optimal(perturbation=FeatureRemoval())(X[:0]), ValueError, "inputs is empty",
    ),
    "a list": (
        lambda: optimal(perturbation=FeatureRemoval())([X]), TypeError,
        "inputs must be a tensor or a tuple of tensors, got list",
    ),
    "one number for two inputs": (
        lambda: InfidelityOptimal(Smooth(32), FeatureRemoval()).attribute((X, X), 0.5, target=1),
        ValueError, "baselines has 1 entries for 2 inputs; give one each",
    ),
    "a mask for squares": (
        lambda: Square(MODEL).attribute(X, target=1, feature_mask=torch.zeros(1, 1, 4, 4).long()),
        ValueError, "SquareRemoval knows no groups of features. Leave it out",
    ),
    "a mask of floats": (
        lambda: optimal(perturbation=FeatureRemoval())(feature_mask=torch.zeros(1, 1, 4, 4)),
        ValueError, r"feature_mask must be an integer tensor.*\.long\(\)",
    ),
    "no target": (
        lambda: InfidelityOptimal(MODEL, FeatureRemoval()).attribute(X), ValueError,
        "target: the model gives 3 values per example",
    ),
    "no gradient": (
        lambda: NoisyBaseline(lambda x: MODEL(x).detach()).attribute(X, target=1), ValueError,
        r"forward_func has no gradient.* FeatureRemoval for instance",
    ),
    "squares of a table": (
        lambda: Square(Smooth(4)).attribute(normal(2, 4), target=1), ValueError,
        r"inputs must be images .* got shape \(2, 4\). Use FeatureRemoval or ShapleyRemoval",
    ),
    "an unknown layout": (
        lambda: Square(Smooth(12), [1]).attribute(normal(2, 3, 4), target=1), ValueError,
        r"channel_dim is needed for inputs of shape \(2, 3, 4\)",
    ),
    "squares too large": (
        lambda: Square(MODEL).attribute(X, target=1), ValueError,
        "sizes: a square of 10 does not fit into 4 x 4 places. Give sizes up to 4",
    ),
    "intervals too large": (
        lambda: Square(Smooth(12), [5], channel_dim=1).attribute(normal(2, 3, 4), target=1),
        ValueError, "sizes: an interval of 5 does not fit into 4 places. Give sizes up to 4",
    ),
    "cubes too large": (
        lambda: Square(Smooth(12), [3]).attribute(normal(2, 1, 3, 2, 2), target=1),
        ValueError, "sizes: a cube of 3 does not fit into 3 x 2 x 2 places. Give sizes up to 2",
    ),
    "channels among the examples": (
        lambda: Square(MODEL, [1], channel_dim=0).attribute(X, target=1), ValueError,
        "channel_dim must be from 1 to 3",
    ),
    "channels out of range": (
        lambda: Square(MODEL, [1], channel_dim=4).attribute(X, target=1), ValueError,
        "channel_dim must be from 1 to 3",
    ),
    "channels as a word": (
        lambda: Square(MODEL, [1], channel_dim="last"), TypeError,
        "channel_dim must be a whole number",
    ),
    "channels of two inputs for one": (
        lambda: Square(MODEL, [1], channel_dim=(1, 2)).attribute(X, target=1), ValueError,
        "channel_dim has 2 entries for 1 inputs",
    ),
    "no sizes": (lambda: Square(MODEL, []), ValueError, "sizes is empty; give at least one side"),
    "a size of none": (lambda: Square(MODEL, [0]), ValueError, "sizes must be at least 1"),
    "one size": (lambda: Square(MODEL, 5), TypeError, r"give range\(1, 11\), or \[5\] for one"),
    "no deviation": (lambda: NoisyBaseline(MODEL, 0.0), ValueError, "stdev must be positive"),
    "deviations of two inputs": (
        lambda: NoisyBaseline(MODEL, (0.1, 0.2)).attribute(X, target=1), ValueError,
        "stdev has 2 values for 1 inputs; give one number",
    ),
    "the model returns NaN": (
        lambda: InfidelityOptimal(lambda x: MODEL(x).log(), FeatureRemoval()).attribute(
            X, target=1
        ), ValueError, "forward_func returned NaN or Inf.* explain logits",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()


REMEDIES = {
    "give one each": lambda: InfidelityOptimal(Smooth(32), FeatureRemoval()).attribute(
        (X, X), (0.5, 0.5), target=1
    )[0],
    "leave the mask out": lambda: Square(MODEL, [1]).attribute(X, target=1),
    "a mask .long()": lambda: optimal(perturbation=FeatureRemoval())(
        feature_mask=torch.zeros(1, 1, 4, 4).long()
    ),
    "target": lambda: optimal(perturbation=FeatureRemoval())(),
    "another perturbation": lambda: InfidelityOptimal(
        lambda x: MODEL(x).detach(), FeatureRemoval()
    ).attribute(X, target=1),
    "FeatureRemoval of a table": lambda: InfidelityOptimal(Smooth(4), FeatureRemoval()).attribute(
        normal(2, 4), target=1
    ),
    "ShapleyRemoval of a table": lambda: InfidelityOptimal(Smooth(4), ShapleyRemoval()).attribute(
        normal(2, 4), target=1
    ),
    "channel_dim=1": lambda: Square(Smooth(12), [1], channel_dim=1).attribute(
        normal(2, 3, 4), target=1
    ),
    "channel_dim=2": lambda: Square(Smooth(12), [1], channel_dim=2).attribute(
        normal(2, 3, 4), target=1
    ),
    "unsqueeze(1)": lambda: Square(Smooth(12), [1]).attribute(
        normal(2, 3, 4).unsqueeze(1), target=1
    ),
    "sizes up to 4": lambda: Square(MODEL, range(1, 5)).attribute(X, target=1),
    "[5] for one": lambda: Square(Smooth(25), [5]).attribute(normal(2, 1, 5, 5), target=1),
    "explain logits": lambda: optimal(perturbation=FeatureRemoval())(),
    "a seeded generator": lambda: optimal(perturbation=ShapleyRemoval())(generator=rng(3)),
}


@pytest.mark.parametrize("remedy", REMEDIES)
def test_what_a_message_advises_works(remedy):
    got = REMEDIES[remedy]()
    assert got.isfinite().all()
    assert got.abs().sum() > 0

"""Pixel flipping against loops, by hand, and on the zoo network."""

from __future__ import annotations

import warnings

import pytest
import torch
from captum.attr import Saliency
from torch import nn

from captum_robust.attr import BetaSmoothing, KernelSmoothing
from captum_robust.metrics import pixel_flipping
from captum_robust.outputs import Binary, MultiLabel, Regression
from captum_robust.zoo import fashion_mnist_cnn, fashion_mnist_sample
from tests.helpers import rng


def images(n=3, channels=2, size=4):
    return torch.rand(n, channels, size, size, generator=rng(1), dtype=torch.float64)


def network():
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    generator = rng(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.7, generator=generator)
    return model


def literal(model, x, relevance, baseline, target, n_steps, largest):
    """One example: sort the pixels, overwrite them one after the other, ask the model."""
    order = sorted(range(relevance.numel()), key=lambda i: -relevance.flatten()[i].item())
    curve, hits = [], []
    for step in range(n_steps + 1):
        count = round(step * largest / n_steps * len(order))
        flipped = x.clone()
        for i in order[:count]:
            row, column = divmod(i, x.shape[-1])
            flipped[:, row, column] = baseline[:, row, column]
        logits = model(flipped[None])[0].detach()
        curve.append(logits.softmax(0)[target])
        hits.append(float(logits.argmax() == target))
    return torch.stack(curve), torch.tensor(hits).double()


@pytest.mark.parametrize("batch", [None, 1, 5, 100])
@pytest.mark.parametrize("baseline", [0.0, "tensor"])
@pytest.mark.parametrize("absolute", [False, True])
def test_against_loops(batch, baseline, absolute):
    model, x = network(), images()
    attributions = torch.randn(x.shape, generator=rng(3), dtype=torch.float64)
    values = images().flip(0) if baseline == "tensor" else torch.full_like(x, baseline)
    target = torch.tensor([2, 0, 1])
    got = pixel_flipping(
        model, x, attributions, values if baseline == "tensor" else baseline, target,
        n_steps=5, largest_fraction=0.75, max_examples_per_batch=batch, absolute=absolute,
    )  # fmt: skip
    relevance = (attributions.abs() if absolute else attributions).sum(1)
    for i in range(3):
        curve, hits = literal(model, x[i], relevance[i], values[i], target[i].item(), 5, 0.75)
        torch.testing.assert_close(got.probabilities[i], curve)
        assert torch.equal(got.hits[i], hits)
    assert got.fractions[0] == 0
    assert got.fractions[-1] == 0.75


def test_the_area():
    model, x = network(), images()
    curves = pixel_flipping(model, x, x, n_steps=4)
    p = curves.probabilities
    want = (p[:, 0] / 2 + p[:, 1] + p[:, 2] + p[:, 3] + p[:, 4] / 2) / 4
    torch.testing.assert_close(curves.area(), want)
    half = pixel_flipping(model, x, x, n_steps=2, largest_fraction=0.5)
    want = (p[:, 0] / 2 + p[:, 1] + p[:, 2] / 2) / 2
    torch.testing.assert_close(half.area(), want)
    assert curves.area(curves.hits).shape == (3,)


def test_attributions_of_one_channel_and_rows():
    model, x = network(), images()
    two = pixel_flipping(model, x, x, n_steps=3)
    one = pixel_flipping(model, x, x.sum(1, keepdim=True), n_steps=3)
    torch.testing.assert_close(one.probabilities, two.probabilities)
    rows = pixel_flipping(lambda x: model(x.view(-1, 2, 4, 4)), x.flatten(1), x.flatten(1))
    assert rows.probabilities.shape == (3, 51)


def test_equal_relevance_goes_by_position():
    x = torch.tensor([[5.0, 3.0, 1.0]])
    curves = pixel_flipping(
        lambda x: torch.cat([x.sum(1, keepdim=True), torch.zeros(len(x), 1)], 1),
        x, torch.ones(1, 3), n_steps=3,
    )  # fmt: skip
    want = torch.tensor([[9.0, 4.0, 1.0, 0.0]]).sigmoid()
    torch.testing.assert_close(curves.probabilities, want)


def test_the_random_order():
    model, x, state = network(), images(), torch.get_rng_state()
    first = pixel_flipping(model, x, None, generator=rng(5))
    again = pixel_flipping(model, x, None, generator=rng(5), max_examples_per_batch=2)
    other = pixel_flipping(model, x, None, generator=rng(6))
    torch.testing.assert_close(first.probabilities, again.probabilities)
    assert not torch.equal(first.probabilities, other.probabilities)
    pixel_flipping(model, x, None)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_target_means_the_predicted_class():
    model, x = network(), images()
    want = pixel_flipping(model, x, x, target=model(x).argmax(1))
    got = pixel_flipping(model, x, x)
    assert torch.equal(got.probabilities, want.probabilities)
    assert torch.equal(got.hits[:, 0], torch.ones(3).double())
    same = pixel_flipping(model, x, x, target=1)
    assert torch.equal(same.probabilities[:, 0], model(x).softmax(1)[:, 1])


def test_a_bar_is_shown_on_demand(capsys):
    pixel_flipping(network(), images(), images(), show_progress=True)
    assert "pixel_flipping" in capsys.readouterr().err


# --- The order.


def test_the_exact_attribution_of_a_linear_model_falls_fastest():
    """By value, most relevant first: no order of the features has a smaller area."""
    x, weights = torch.rand(6, 8, generator=rng(4)), torch.randn(8, generator=rng(5))

    def model(x):
        return torch.stack([x @ weights, torch.zeros(len(x))], 1)

    exact = pixel_flipping(model, x, weights * x, target=0, n_steps=8).area()
    magnitudes = pixel_flipping(model, x, weights * x, target=0, n_steps=8, absolute=True).area()
    assert (exact <= magnitudes).all()
    assert (exact < magnitudes).any()
    for seed in range(20):
        other = pixel_flipping(model, x, None, target=0, n_steps=8, generator=rng(seed)).area()
        assert (exact <= other + 1e-6).all()


# --- What outputs mean.


def one_logit(x):
    return network()(x)[:, :1] - network()(x)[:, 1:2]


def two_logits(x):
    return one_logit(x) * torch.tensor([-0.5, 0.5], dtype=torch.float64)


@pytest.mark.parametrize("target", [None, 0, 1, torch.tensor([1, 0, 1])])
@pytest.mark.parametrize("flat", [False, True])
def test_one_logit_equals_two(target, flat):
    x = images()
    one = (lambda x: one_logit(x).squeeze(1)) if flat else one_logit
    got = pixel_flipping(one, x, x, target=target, output=Binary(), n_steps=6)
    want = pixel_flipping(two_logits, x, x, target=target, n_steps=6)
    torch.testing.assert_close(got.probabilities, want.probabilities, atol=1e-12, rtol=0)
    assert torch.equal(got.hits, want.hits)


def test_several_labels_and_values():
    model, x = network(), images()
    removed = torch.zeros_like(x)
    labels = pixel_flipping(model, x, x, target=2, output=MultiLabel(), n_steps=1)
    want = torch.stack([model(x)[:, 2], model(removed)[:, 2]], 1)
    torch.testing.assert_close(labels.probabilities, want.sigmoid())
    assert torch.equal(labels.hits, ((want > 0) == (want[:, :1] > 0)).double())
    strongest = pixel_flipping(model, x, x, output=MultiLabel(), n_steps=1)
    torch.testing.assert_close(strongest.probabilities[:, 0], model(x).amax(1).sigmoid())
    values = pixel_flipping(model, x, x, target=2, output=Regression(tolerance=0.5), n_steps=1)
    torch.testing.assert_close(values.probabilities, want)
    assert torch.equal(values.hits, ((want - want[:, :1]).abs() <= 0.5).double())


# --- What inputs are.


def read_step_7(x):
    score = 4 * x[:, 7].sum(1)
    return torch.stack([score, -score], 1)


def test_series_batch_time_features():
    x = torch.rand(5, 20, 3, generator=rng())
    phi = torch.zeros_like(x)
    phi[:, 7] = 4 * x[:, 7]
    with pytest.raises(ValueError, match=r"channel_dim: inputs of shape \(5, 20, 3\).*-1"):
        pixel_flipping(read_step_7, x, phi, target=0, n_steps=20)
    got = pixel_flipping(read_step_7, x, phi, target=0, n_steps=20, channel_dim=-1)
    want = read_step_7(x).softmax(1)[:, 0]
    torch.testing.assert_close(got.probabilities[:, 0], want)
    torch.testing.assert_close(got.probabilities[:, 1:], torch.full((5, 20), 0.5))
    torch.testing.assert_close(got.fractions, torch.linspace(0, 1, 21))
    swapped = pixel_flipping(
        lambda x: read_step_7(x.transpose(1, 2)), x.transpose(1, 2), phi.transpose(1, 2),
        target=0, n_steps=20, channel_dim=1,
    )  # fmt: skip
    assert torch.equal(swapped.probabilities, got.probabilities)


@pytest.mark.parametrize("shape", [(2, 9), (2, 2, 3, 4), (2, 2, 3, 3, 2)])
def test_tables_images_and_volumes(shape):
    x = torch.rand(shape, generator=rng(), dtype=torch.float64)
    got = pixel_flipping(
        lambda x: torch.stack([x.flatten(1).sum(1), x.flatten(1)[:, 0]], 1), x, x, n_steps=3
    )
    assert got.probabilities.shape == (2, 4)
    assert (got.probabilities.diff(dim=1) < 0).all()


def test_two_inputs_are_ranked_together():
    a, b = torch.tensor([[1.0, 5.0]]), torch.tensor([[[3.0], [2.0]]])

    def model(a, b):
        z = a.sum(1) + b.flatten(1).sum(1)
        return torch.stack([z, 0 * z], 1)

    got = pixel_flipping(model, (a, b), (a, b), (0.0, 1.0), 0, n_steps=4, channel_dim=1)
    # Channels of b go together: 5 with the values (3 + 2), then 5, then 1.
    want = torch.tensor([[11.0, 6.0, 3.0, 2.0]]).sigmoid()
    exact = pixel_flipping(model, (a, b), (a, b), (0.0, 1.0), 0, n_steps=3, channel_dim=1)
    torch.testing.assert_close(exact.probabilities, want)
    assert got.fractions.shape == (5,)
    number = pixel_flipping(model, (a, b), (a, b), n_steps=3, channel_dim=1)
    torch.testing.assert_close(number.probabilities[0, -1], torch.tensor(0.5))


def test_further_arguments_belong_to_examples():
    model, x, scale = network(), images(), torch.tensor([1.0, 2.0, 3.0])

    def scaled(x, scale, offset):
        return model(x) * scale[:, None] + offset

    got = pixel_flipping(
        scaled, x, x, target=1, additional_forward_args=(scale, 0.5), n_steps=3,
        max_examples_per_batch=2,
    )  # fmt: skip
    for i in range(3):
        one = x[i : i + 1]
        alone = pixel_flipping(
            lambda y, i=i: model(y) * scale[i] + 0.5, one, one, target=1, n_steps=3
        )
        torch.testing.assert_close(got.probabilities[i], alone.probabilities[0])


# --- Contracts.


def test_a_model_that_changes_its_input():
    model, x = network(), images()
    kept = x.clone()
    want = pixel_flipping(lambda x: model((x - 0.5) / 0.25), x, x, n_steps=4)
    got = pixel_flipping(lambda x: model(x.sub_(0.5).div_(0.25)), x, x, n_steps=4)
    torch.testing.assert_close(got.probabilities, want.probabilities)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_precisions(dtype):
    model, x = network().to(dtype), images().to(dtype)
    got = pixel_flipping(model, x, x, target=1, n_steps=4)
    want = pixel_flipping(network(), images(), x.double(), target=1, n_steps=4)
    assert got.probabilities.dtype == torch.float32
    torch.testing.assert_close(got.probabilities.double(), want.probabilities, atol=0.05, rtol=0)


def test_under_inference_mode():
    model, x = network(), images()
    want = pixel_flipping(model, x, x, n_steps=4)
    with torch.inference_mode():
        got = pixel_flipping(model, x.clone(), x.clone(), n_steps=4)
    assert torch.equal(got.probabilities, want.probabilities)


def test_statistics_of_a_network_in_training_mode_stay():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(32), nn.Linear(32, 3)).double().train()
    before = model[1].running_mean.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # results depend on the batch
        pixel_flipping(model, images(), images(), n_steps=2)
    assert torch.equal(model[1].running_mean, before)
    assert model.training


# --- Errors.


BAD = {
    "nan": ({"inputs": torch.full((2, 4), float("nan"))}, ValueError, "inputs has NaN"),
    "empty": ({"inputs": torch.zeros(0, 4)}, ValueError, "inputs is empty"),
    "no features": ({"inputs": torch.zeros(3, 0)}, ValueError, "inputs must have features"),
    "one number": ({"inputs": torch.zeros(3)}, ValueError, r"inputs must have features.*unsqueeze"),
    "integers": (
        {"inputs": torch.ones(2, 4, dtype=torch.int64)},
        ValueError,
        "inputs must be floating-point to be removed.*additional_forward_args",
    ),
    "text": ({"inputs": "image"}, TypeError, "inputs must be a tensor"),
    "channel 0": ({"channel_dim": 0}, ValueError, "channel_dim must name a dimension of inputs"),
    "channel 4": ({"channel_dim": 4}, ValueError, "channel_dim must name a dimension of inputs"),
    "channel text": ({"channel_dim": "last"}, TypeError, "channel_dim must be a whole number"),
    "attributions": (
        {"attributions": images(channels=1, size=3)},
        ValueError,
        "attributions must have the shape",
    ),
    "attributions nan": ({"attributions": images() / 0}, ValueError, "attributions has NaN or Inf"),
    "attributions long": ({"attributions": images().long()}, TypeError, r"attributions.*\.float"),
    "attributions list": ({"attributions": [1.0]}, TypeError, "attributions must be floating"),
    "attributions tuple": ({"attributions": (images(),)}, ValueError, "a tuple for a tuple"),
    "baselines": ({"baselines": torch.zeros(5)}, ValueError, "baselines must be a number or"),
    "baselines nan": ({"baselines": float("nan")}, ValueError, "baselines has NaN"),
    "baselines text": ({"baselines": "black"}, TypeError, "baselines must be numbers"),
    "baselines tuple": ({"baselines": (0.0, 1.0)}, ValueError, "baselines must be a number, a ten"),
    "target 3": ({"target": 3}, ValueError, "target: labels must be classes of the model, 0 to 2"),
    "target -1": ({"target": -1}, ValueError, "target: labels must be classes of the model"),
    "target 0.5": ({"target": 0.5}, ValueError, "target must be a class, or"),
    "target text": ({"target": "shirt"}, TypeError, "target must be a class, or"),
    "target shape": ({"target": torch.tensor([1, 2])}, ValueError, "target must be a class, or"),
    "n_steps": ({"n_steps": 0}, ValueError, "n_steps"),
    "n_steps 1.5": ({"n_steps": 1.5}, TypeError, "n_steps"),
    "fraction": ({"largest_fraction": 1.5}, ValueError, "largest_fraction"),
    "fraction 0": ({"largest_fraction": 0.0}, ValueError, "largest_fraction"),
    "fraction small": ({"largest_fraction": 0.01}, ValueError, "is less than one; the least is"),
    "batch": ({"max_examples_per_batch": 0}, ValueError, "max_examples_per_batch"),
    "one logit": ({"forward_func": one_logit}, ValueError, r"output: .*outputs\.Binary\(\)"),
    "one value": ({"forward_func": lambda x: x.flatten(1).sum(1)}, ValueError, "output: the model"),
    "binary": ({"output": Binary()}, ValueError, "one logit for each"),
    "output class": ({"output": Binary}, TypeError, "output must be an object"),
    "rows": ({"forward_func": lambda x: network()(x)[:1]}, ValueError, "must return a row"),
    "infinite": ({"forward_func": lambda x: network()(x) / 0}, ValueError, "returned NaN or Inf"),
    "map": ({"forward_func": lambda x: x}, ValueError, r"output\.flatten\(2\)\.mean\(2\)"),
    "generator": ({"generator": 3, "attributions": None}, TypeError, "generator must be"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    change, error, message = BAD[case]
    arguments = {"forward_func": network(), "inputs": images(), "attributions": images()}
    with pytest.raises(error, match=message):
        pixel_flipping(**{**arguments, **change})


def test_the_mends_that_messages_name_work():
    x = images()
    assert pixel_flipping(one_logit, x, x, output=Binary(), n_steps=2).hits.shape == (3, 3)
    segmentation = pixel_flipping(lambda x: x.flatten(2).mean(2), x, x, n_steps=2)
    assert segmentation.hits.shape == (3, 3)
    least = pixel_flipping(network(), x, x, n_steps=1, largest_fraction=1 / 16)
    assert least.fractions.tolist() == [0, 1 / 16]
    categories = torch.tensor([[0], [1], [2]])
    mixed = pixel_flipping(
        lambda x, c: network()(x) + c, x, x, additional_forward_args=categories, n_steps=2
    )
    assert mixed.hits.shape == (3, 3)


def test_on_the_zoo_network_explanations_beat_a_random_order():
    images, labels = fashion_mnist_sample(12)
    model = fashion_mnist_cnn()
    gradient = Saliency(model)
    explained = {
        "gradient": gradient.attribute(images.clone().requires_grad_(), labels),
        "beta": BetaSmoothing(gradient, 1.0).attribute(images, labels),
        "noise": KernelSmoothing(gradient).attribute(
            images, radius=0.1, n_samples=20, target=labels, abs=False, generator=rng()
        ),
        "random": None,
    }
    areas = {
        name: pixel_flipping(
            model, images, a, images.mean(), labels, absolute=True, n_steps=14, generator=rng()
        )
        .area()
        .mean()
        for name, a in explained.items()
    }
    assert max(areas["beta"], areas["noise"]) < areas["gradient"] < areas["random"]

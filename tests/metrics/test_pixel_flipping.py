"""Pixel flipping against loops, by hand, and on the zoo network."""

from __future__ import annotations

import pytest
import torch
from captum.attr import Saliency
from torch import nn

from captum_robust.attr import BetaSmoothing, KernelSmoothing
from captum_robust.metrics import pixel_flipping
from captum_robust.zoo import fashion_mnist_cnn, fashion_mnist_sample


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


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
def test_against_loops(batch, baseline):
    model, x = network(), images()
    attributions = torch.randn(x.shape, generator=rng(3), dtype=torch.float64)
    values = images().flip(0) if baseline == "tensor" else torch.full_like(x, baseline)
    target = torch.tensor([2, 0, 1])
    got = pixel_flipping(
        model, x, attributions, values if baseline == "tensor" else baseline, target,
        n_steps=5, largest_fraction=0.75, max_examples_per_batch=batch,
    )  # fmt: skip
    relevance = attributions.abs().sum(1)
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": torch.full((2, 4), float("nan"))}, "inputs has NaN"),
        ({"inputs": torch.zeros(0, 4)}, "inputs is empty"),
        ({"inputs": torch.ones(2, 4, dtype=torch.int64)}, "inputs must be one floating-point"),
        ({"attributions": images(channels=1, size=3)}, "attributions must have the shape"),
        ({"baselines": torch.zeros(5)}, "baselines must be a number or broadcast"),
        ({"baselines": float("nan")}, "baselines has NaN"),
        ({"target": 3}, "target must be a class of the model, 0 to 2"),
        ({"target": 0.5}, "target must be a class, or"),
        ({"target": torch.tensor([1, 2])}, "target must be a class, or"),
        ({"n_steps": 0}, "n_steps"),
        ({"largest_fraction": 1.5}, "largest_fraction"),
        ({"largest_fraction": 0.01}, "is less than one"),
        ({"max_examples_per_batch": 0}, "max_examples_per_batch"),
        ({"forward_func": lambda x: x.flatten(1).sum(1)}, "forward_func must return finite"),
        ({"forward_func": lambda x: network()(x)[:1]}, "forward_func must return a row"),
    ],
)
def test_bad_input(change, message):
    arguments = {"forward_func": network(), "inputs": images(), "attributions": images()}
    with pytest.raises(ValueError, match=message):
        pixel_flipping(**{**arguments, **change})


def test_on_the_zoo_network_explanations_beat_a_random_order():
    images, labels = fashion_mnist_sample(32)
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
        name: pixel_flipping(model, images, a, images.mean(), labels, n_steps=14, generator=rng())
        .area()
        .mean()
        for name, a in explained.items()
    }
    assert max(areas["beta"], areas["noise"]) < areas["gradient"] < areas["random"]

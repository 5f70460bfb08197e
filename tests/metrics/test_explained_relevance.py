"""Relevance maps of explanations: the four lines that they replace, labels, what stays."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, Saliency
from torch import nn

from captum_robust.metrics import explained_relevance, relevance_map
from captum_robust.outputs import Binary, MultiLabel, Regression
from tests.metrics.helpers import Network, points


def by_hand(method, x, target, channel_dim=None, **kwargs):
    attributions = method.attribute(x.clone().requires_grad_(), target=target, **kwargs).detach()
    return relevance_map(attributions, channel_dim)


def test_it_is_the_relevance_map_of_the_explanation():
    method, x, labels = IntegratedGradients(Network()), points(), torch.tensor([0, 2, 1])
    want = by_hand(method, x, labels, n_steps=7)
    for explanation in (method, method.attribute):
        assert torch.equal(explained_relevance(explanation, x, labels, n_steps=7), want)
    bound = partial(method.attribute, n_steps=7)
    assert torch.equal(explained_relevance(bound, x, labels), want)
    one = explained_relevance(method, x, 2, n_steps=7)
    assert torch.equal(one, by_hand(method, x, 2, n_steps=7))


def test_no_labels_means_the_predicted_class():
    network, x = Network(), points(30)
    predicted = network(x).argmax(1)
    assert len(predicted.unique()) > 1
    method = InputXGradient(network)
    assert torch.equal(explained_relevance(method, x), by_hand(method, x, predicted))
    scale = torch.linspace(-1, 1, 30, dtype=torch.float64)[:, None]
    extra = (None, scale)
    got = explained_relevance(method, x, additional_forward_args=extra)
    predicted = network(x, None, scale).argmax(1)
    want = by_hand(method, x, predicted, additional_forward_args=extra)
    assert torch.equal(got, want)


def test_one_output_and_several_labels():
    network, x = Network(), points()
    one = InputXGradient(lambda x: network(x)[:, :1])
    want = by_hand(one, x, None)
    assert torch.equal(explained_relevance(one, x), want)
    for output in (Binary(), Regression(tolerance=1.0)):
        assert torch.equal(explained_relevance(one, x, output=output), want)
    assert torch.equal(explained_relevance(one, x, torch.tensor([0, 1, 1]), output=Binary()), want)
    method = InputXGradient(network)
    strongest = by_hand(method, x, network(x).argmax(1))
    assert torch.equal(explained_relevance(method, x, output=MultiLabel()), strongest)


def test_layouts_and_tuples():
    x = torch.rand(2, 5, 3)
    method = InputXGradient(lambda x: x.flatten(1).square().sum(1))
    assert explained_relevance(method, x, channel_dim=-1).shape == (2, 5)
    with pytest.raises(ValueError, match="channel_dim"):
        explained_relevance(method, x)
    two = InputXGradient(lambda x, y: x.sum(1) + y.flatten(1).sum(1))
    maps = explained_relevance(two, (torch.rand(2, 4), torch.rand(2, 3, 4, 4)))
    assert [m.shape for m in maps] == [(2, 4), (2, 4, 4)]
    for m in maps:
        torch.testing.assert_close(m.flatten(1).sum(1), torch.ones(2))


def test_nothing_is_left_behind_also_in_training_mode_and_inference_mode():
    network, x = Network(), points()
    want = explained_relevance(Saliency(network), x, 1)
    assert not x.requires_grad
    assert not want.requires_grad
    with torch.inference_mode():
        assert torch.equal(explained_relevance(Saliency(network), points(), 1), want)
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    got = explained_relevance(Saliency(nn.Linear(4, 3).to(dtype)), points(dtype=dtype), 1)
    assert got.dtype == dtype


BAD = {
    "a model": ({"explanation": Network()}, TypeError, "explanation must be a captum Attribution"),
    "a class": ({"explanation": Saliency}, TypeError, "explanation must .* the class Saliency"),
    "target": ({"target": 1}, TypeError, "target: here its name is labels"),
    "nan": ({"inputs": points() / 0}, ValueError, "inputs has NaN or Inf"),
    "empty": ({"inputs": points()[:0]}, ValueError, "inputs is empty"),
    "list": ({"inputs": [1.0]}, TypeError, "inputs must be a tensor"),
    "label": ({"labels": 3, "output": MultiLabel()}, ValueError, "labels must be classes"),
    "binary": ({"output": Binary()}, ValueError, "one logit for each"),
    "regression": ({"output": Regression(1.0)}, ValueError, "labels: .*which one is explained"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    change, error, message = BAD[case]
    arguments = {"explanation": Saliency(Network()), "inputs": points(), **change}
    with pytest.raises(error, match=message):
        explained_relevance(**arguments)

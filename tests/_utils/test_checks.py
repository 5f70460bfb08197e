"""Checks of arguments: what passes, and what the errors say."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from captum.attr import Saliency

from captum_robust._utils.checks import (
    check_attribution,
    check_batch,
    check_count,
    check_floating_inputs,
    check_images,
    check_inputs,
    check_labels,
    check_positive,
    checked,
)

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("value", [1, 0.5, 1e-320, 1e308, np.float32(2), np.float64(3), True])
def test_positive_numbers(value):
    check_positive(radius=value)


@pytest.mark.parametrize("value", [0, 0.0, -0.0, -1, NAN, INF, -INF])
def test_numbers_that_are_not_positive(value):
    with pytest.raises(ValueError, match="radius must be positive and finite, got"):
        check_positive(eps=1.0, radius=value)


@pytest.mark.parametrize("value", ["1", None, [1], 1j, torch.ones(2)])
def test_what_is_no_number(value):
    with pytest.raises(TypeError, match="radius must be a number"):
        check_positive(radius=value)


@pytest.mark.parametrize("value", [1, 7, np.int64(3)])
def test_counts(value):
    check_count(steps=value)


@pytest.mark.parametrize("value", [0, -1])
def test_counts_below_one(value):
    with pytest.raises(ValueError, match="steps must be at least 1"):
        check_count(steps=value)


@pytest.mark.parametrize("value", [1.0, 2.5, "3", None])
def test_counts_that_are_not_whole(value):
    with pytest.raises(TypeError, match="steps must be a whole number"):
        check_count(steps=value)


@pytest.mark.parametrize(
    "inputs",
    [
        torch.zeros(1),
        torch.zeros(2, 3),
        torch.zeros(2, 3, dtype=torch.long),
        torch.zeros(2, 0),
        (torch.zeros(2, 3), torch.ones(2, dtype=torch.bool)),
        (torch.full((2,), 1e38),),
        torch.full((2,), 60_000.0, dtype=torch.float16),
    ],
)
def test_inputs_that_pass(inputs):
    check_batch(inputs)
    check_inputs(inputs)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ([torch.zeros(1)], TypeError, "got list"),
        ((torch.zeros(1), 3), TypeError, "got int"),
        ((), TypeError, r"got \(\)"),
        (torch.zeros(()), ValueError, "batch dimension"),
        ((torch.zeros(1), torch.zeros(())), ValueError, "batch dimension"),
        (torch.zeros(0, 3), ValueError, r"empty, shape \(0, 3\)"),
        ((torch.zeros(2), torch.zeros(1, 2)), ValueError, "same examples"),
    ],
)
def test_batches_that_do_not_pass(inputs, error, message):
    for check in (check_batch, check_inputs):
        with pytest.raises(error, match=f"inputs .*{message}"):
            check(inputs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_values_that_do_not_pass(value, dtype):
    inputs = torch.zeros(2, 3, dtype=dtype)
    inputs[1, 2] = value
    for given in (inputs, (torch.zeros(2), inputs), inputs.requires_grad_()):
        check_batch(given)
        with pytest.raises(ValueError, match="inputs has NaN or Inf"):
            check_inputs(given)


def test_a_checked_method():
    class Explanation:
        @checked
        def attribute(self, inputs, scale=1):
            """Explain ``inputs``."""
            return scale * inputs

    class Own(Explanation):
        def attribute(self, inputs):
            return inputs

    explanation, bad = Explanation(), torch.tensor([NAN])
    assert explanation.attribute(torch.ones(1), scale=3) == 3
    assert explanation.attribute(inputs=torch.ones(1)) == 1
    with pytest.raises(ValueError, match="inputs has NaN"):
        explanation.attribute(bad)
    assert explanation.attribute.unchecked(explanation, bad).isnan()
    assert not hasattr(Own().attribute, "unchecked")
    assert list(inspect.signature(explanation.attribute).parameters) == ["inputs", "scale"]
    assert explanation.attribute.__doc__ == "Explain ``inputs``."


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.full((1, 1, 2, 2), NAN), "NaN"),
        (torch.full((1, 1, 2, 2), 1.001), r"in \[0, 1\]"),
        (torch.full((1, 1, 2, 2), -1e-7), r"in \[0, 1\]"),
        (torch.full((1, 1, 2, 2), INF), r"in \[0, 1\]"),
        (torch.zeros(0, 1, 2, 2), "empty"),
        (torch.zeros(4), "batch dimension"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), "floating-point"),
        (np.zeros((1, 1, 2, 2)), "ndarray"),
    ],
)
def test_images(images, message):
    check_images(torch.tensor([[0.0, 1.0]]))
    with pytest.raises(ValueError, match=f"images .*{message}"):
        check_images(images)


def test_labels():
    images = torch.zeros(3, 1, 2, 2)
    check_labels(None, images)
    check_labels(torch.tensor([0, 1, 2]), images)
    for labels in (torch.zeros(3), torch.tensor([0, 1]), torch.zeros(3, 1, dtype=torch.long)):
        with pytest.raises((ValueError, TypeError), match="labels must"):
            check_labels(labels, images)


def test_floating_inputs():
    check_floating_inputs(torch.zeros(2))
    check_floating_inputs((torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16)))
    remedy = "got torch.int64 .input 1 of 2.. Hand categories over as additional_forward_args"
    with pytest.raises(ValueError, match=f"inputs must be floating-point to take noise, {remedy}"):
        check_floating_inputs((torch.zeros(2), torch.zeros(2, dtype=torch.long)), "to take noise")
    with pytest.raises(ValueError, match=r"to be explained, got torch.bool\. Hand"):
        check_floating_inputs(torch.zeros(2, dtype=torch.bool))


def test_attributions():
    check_attribution(Saliency(torch.relu))
    with pytest.raises(TypeError, match="explanation must be a captum Attribution, got function"):
        check_attribution(lambda x: x, "explanation")
    with pytest.raises(TypeError, match=r"got the class Saliency\. Wrap the model"):
        check_attribution(Saliency)

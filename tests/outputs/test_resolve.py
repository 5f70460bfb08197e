"""What is taken for what, and what is refused."""

from __future__ import annotations

import pytest
import torch

from captum_robust.outputs import Binary, Categorical, MultiLabel, Regression, resolve


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_one_number_without_its_meaning_is_an_error_whose_choices_work(shape):
    output = torch.randn(*shape)
    with pytest.raises(ValueError, match=r"Binary\(\).*Regression\(tolerance=") as error:
        resolve(None, output, 3)
    for choice in (Binary(), Regression(tolerance=0.1)):
        assert type(choice).__name__ in str(error.value)
        assert resolve(choice, output, 3) is choice


def test_two_or_more_outputs_are_classes():
    assert resolve(None, torch.randn(3, 2), 3) == Categorical()
    assert resolve(MultiLabel(), torch.randn(3, 2), 3) == MultiLabel()


@pytest.mark.parametrize(
    ("meaning", "shape", "message"),
    [
        (Categorical(), (3, 1), "Use Binary or Regression"),
        (Categorical(), (2, 4), "a row per example, 3 of them"),
        (Categorical(), (3, 4, 5, 5), r"output\.flatten\(2\)\.mean\(2\)"),
        (Binary(), (3, 2), "Use Categorical"),
        (MultiLabel(), (3,), "a logit per label"),
        (MultiLabel(), (3, 4, 2), "one row per example"),
        (Regression(tolerance=1.0), (3, 2, 2), "one row per example"),
        (Regression(tolerance=1.0), (), "a row per example"),
    ],
    ids=str,
)
def test_outputs_of_another_shape_are_refused(meaning, shape, message):
    with pytest.raises(ValueError, match=message):
        resolve(meaning, torch.zeros(shape), 3)


def test_the_remedy_for_a_map_of_classes_works():
    output = torch.randn(3, 4, 5, 5)
    assert resolve(None, output.flatten(2).mean(2), 3) == Categorical()


@pytest.mark.parametrize("given", ["binary", Binary, 3], ids=["text", "class", "number"])
def test_what_is_not_an_object_of_outputs_is_refused(given):
    with pytest.raises(TypeError, match=r"output must be an object of captum_robust\.outputs"):
        resolve(given, torch.zeros(3, 2), 3)

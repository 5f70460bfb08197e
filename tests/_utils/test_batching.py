"""How work is cut, and what is repeated with the copies of an example."""

from __future__ import annotations

import pytest
import torch

from captum_robust._utils.batching import copies_at_once, expand_per_example_arguments, widest


@pytest.mark.parametrize(
    ("n_examples", "n_features", "want"),
    [(1, 784, 2**18 // 784), (100, 784, 3), (1, 2**18, 8), (16, 2**18, 1), (2**20, 1, 1)],
)
def test_copies_fill_a_budget_of_numbers(n_examples, n_features, want):
    x = torch.empty(1, n_features).expand(n_examples, -1)
    assert copies_at_once((x,), None) == want
    half = torch.empty(1, n_features - n_features // 2).expand(n_examples, -1)
    rest = torch.empty(1, n_features // 2).expand(n_examples, -1)
    assert copies_at_once((half, rest), None) == want


def test_the_user_decides():
    assert copies_at_once((torch.empty(5, 3),), 7) == 7
    with pytest.raises(ValueError, match="perturbations_per_eval must be at least 1"):
        copies_at_once((torch.empty(5, 3),), 0)


def test_the_arithmetic_is_in_double_precision():
    assert widest(torch.device("cpu")) == torch.float64
    assert widest(torch.device("mps")) == torch.float32


def test_copies_of_an_example_are_adjacent():
    x = torch.zeros(2, 3)
    given = {
        "target": torch.tensor([4, 5]),
        "additional_forward_args": (torch.tensor([[1.0], [2.0]]), "a word"),
        "baselines": (torch.tensor([[0.0], [1.0]]).expand(2, 3),),
        "feature_mask": (torch.tensor([[0, 0, 1]]),),
        "n_samples": 9,
    }
    got = expand_per_example_arguments(3, (x,), given)
    assert got["target"].tolist() == [4, 4, 4, 5, 5, 5]
    tensor, word = got["additional_forward_args"]
    assert tensor.flatten().tolist() == [1, 1, 1, 2, 2, 2]
    assert word == "a word"
    assert got["baselines"][0][:, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert got["feature_mask"][0].shape == (1, 3)  # shared by all
    assert got["n_samples"] == 9
    assert given["target"].tolist() == [4, 5]

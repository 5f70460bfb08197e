"""The number that is explained where no label says which."""

from __future__ import annotations

import pytest
import torch
from captum.attr import IntegratedGradients, Saliency
from torch import nn

from captum_robust.outputs import Binary, Categorical, MultiLabel, Regression
from captum_robust.training.predicted import PredictedScore


class Columns(nn.Module):
    """Outputs that are the first inputs, times what else is passed."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, x, scale=1.0):
        return scale * x[:, : self.n]


X = torch.tensor([[3.0, 1.0, -2.0], [-1.0, 0.5, -2.0]])


@pytest.mark.parametrize(
    ("n", "output", "expected"),
    [
        (3, None, [3.0, 0.5]),
        (3, Categorical(), [3.0, 0.5]),
        (3, MultiLabel(), [3.0, 0.5]),
        (1, Binary(), [3.0, 1.0]),
        (1, Binary(threshold=5.0), [-3.0, 1.0]),
        (1, Regression(tolerance=0.1), [3.0, -1.0]),
        (3, Regression(tolerance=0.1), [2.0, -2.5]),
    ],
    ids=["none", "classes", "labels", "one logit", "threshold", "value", "values"],
)
def test_it_is_the_score_of_the_prediction(n, output, expected):
    score = PredictedScore(Columns(n), X, (), output)
    assert score(X, *score.arguments).tolist() == expected


def test_points_beside_an_example_are_explained_for_what_it_predicts():
    score = PredictedScore(Columns(3), X, (), None)
    moved = torch.tensor([[0.0, 9.0, 0.0], [9.0, 0.0, 0.0]])
    assert score(moved, *score.arguments).tolist() == [0.0, 0.0]
    score = PredictedScore(Columns(1), X, (), Binary())
    assert score(-X, *score.arguments).tolist() == [-3.0, -1.0]


def test_captum_repeats_what_belongs_to_an_example():
    scale = torch.tensor([[2.0], [5.0]])
    score = PredictedScore(Columns(3), X, (scale,), None)
    ready = X.clone().requires_grad_()
    slope = Saliency(score).attribute(ready, abs=False, additional_forward_args=score.arguments)
    assert slope.tolist() == [[2.0, 0.0, 0.0], [0.0, 5.0, 0.0]]
    path = IntegratedGradients(score).attribute(
        X, n_steps=4, additional_forward_args=score.arguments
    )
    torch.testing.assert_close(path, torch.tensor([[6.0, 0.0, 0.0], [0.0, 2.5, 0.0]]))


def test_one_output_without_its_meaning_is_an_error():
    with pytest.raises(ValueError, match=r"output=outputs\.Binary\(\)"):
        PredictedScore(Columns(1), X, (), None)

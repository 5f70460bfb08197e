"""The explained output at copies of the examples."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from captum_robust._utils.explained_output import ExplainedOutput
from tests.helpers import Counting, Smooth, normal


def literal(model, copies, targets):
    n, n_copies = copies[0].shape[:2]
    rows = [
        [model(*(c[i, j : j + 1] for c in copies))[0, targets[i]].item() for j in range(n_copies)]
        for i in range(n)
    ]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(
    ("target", "each"),
    [(1, [1, 1]), (torch.tensor([2, 0]), [2, 0]), ([(2,), (0,)], [2, 0])],
    ids=str,
)
def test_the_output_at_copies(target, each):
    model, inputs = Smooth(5), (normal(2, 3), normal(2, 2, seed=2))
    copies = normal(2, 4, 3, seed=3), normal(2, 4, 2, seed=4)
    got = ExplainedOutput(model, inputs, target, None).at(copies)
    torch.testing.assert_close(got, literal(model, copies, each))


def test_the_model_runs_once_at_the_inputs_and_in_chunks():
    model, x = Counting(Smooth(3)), normal(2, 3)
    output = ExplainedOutput(model, (x,), 1, None)
    copies = normal(2, 5, 3, seed=3)
    got = output.output_differences(iter([(copies[:, :3],), (copies[:, 3:],)]), 5)
    want = literal(Smooth(3), (x.unsqueeze(1),), [1, 1]) - literal(Smooth(3), (copies,), [1, 1])
    torch.testing.assert_close(got, want)
    output.at_inputs()
    assert sorted(model.rows) == [2, 4, 6]


def test_further_arguments_go_with_their_example():
    scale = torch.tensor([[1.0], [10.0]]).double()
    output = ExplainedOutput(
        lambda x, scale, shift: (x * scale).sum(1) + shift, (normal(2, 3),), None, (scale, 7)
    )
    copies = normal(2, 4, 3, seed=3)
    torch.testing.assert_close(output.at((copies,)), (copies * scale.unsqueeze(1)).sum(2) + 7)


def test_an_object_with_logits_and_half_precision():
    output = ExplainedOutput(
        lambda x: SimpleNamespace(logits=x.half()), (torch.ones(2, 3),), 0, None
    )
    got = output.at((torch.ones(2, 4, 3),))
    assert got.dtype == torch.float64
    assert torch.equal(got, torch.ones(2, 4).double())


def test_a_model_that_writes_into_its_input():
    def in_place(x):
        return x.mul_(2).sum(1)

    x, copies = normal(2, 3), normal(2, 4, 3, seed=3)
    output = ExplainedOutput(in_place, (x,), None, None)
    torch.testing.assert_close(output.at_inputs(), 2 * normal(2, 3).sum(1))
    assert torch.equal(x, normal(2, 3))
    leaf = copies.clone().requires_grad_()
    (slope,) = torch.autograd.grad(output.at((leaf,)).sum(), leaf)
    assert torch.equal(slope, torch.full_like(slope, 2.0))
    assert torch.equal(leaf, copies)


@pytest.mark.filterwarnings("ignore:the model is in training mode")
def test_statistics_of_a_model_in_training_mode_stay():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).double().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    output = ExplainedOutput(model, (normal(2, 3),), 0, None)
    output.output_differences(iter([(normal(2, 4, 3, seed=3),)]), 4)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("forward", "target", "error", "message"),
    [
        (lambda x: x * torch.nan, 0, ValueError, "forward_func returned NaN or Inf"),
        (lambda x: x, None, ValueError, "target: the model gives 3 values per example"),
        (lambda x: x.sum(), None, ValueError, "forward_func must return a row per example, 8"),
        (lambda x: x[:1], torch.tensor([0, 1]), ValueError, "must return a row per example, 8"),
        (lambda x: [x], None, TypeError, "forward_func returned list"),
    ],
    ids=["nan", "no target", "a scalar", "one row", "a list"],
)
def test_bad_outputs(forward, target, error, message):
    output = ExplainedOutput(forward, (torch.ones(2, 3),), target, None)
    with pytest.raises(error, match=message):
        output.at((torch.ones(2, 4, 3),))

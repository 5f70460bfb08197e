"""The rules of single operations by hand, and networks that are no chain."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck

from captum_robust.attr import (
    BetaSmoothing,
    RelevancePropagation,
    differentiable,
    softplus_activations,
)
from tests.attr._backward.networks import fill, images
from tests.helpers import rng


def test_sums_and_averages_by_hand():
    def shares(function, *values):
        x = torch.tensor([values]).double()
        explain = RelevancePropagation(function, None, None)
        return explain.attribute(x)[0].tolist()

    def add(x):
        return x[:, 0] + x[:, 1]

    assert shares(add, 1.0, 3.0) == [0.25, 0.75]
    assert shares(add, -1.0, 3.0) == [0.0, 1.0]
    assert shares(add, -1.0, -3.0) == [0.25, 0.75]
    assert shares(lambda x: torch.add(x[:, 0], x[:, 1], alpha=2), 2.0, 3.0) == [0.25, 0.75]
    assert shares(lambda x: x[:, 0] - x[:, 1], 1.0, -3.0) == [0.25, 0.75]
    assert shares(lambda x: x[:, 0] - x[:, 1], 1.0, 3.0) == [1.0, 0.0]
    assert shares(lambda x: torch.rsub(x[:, 0], x[:, 1]), -1.0, 3.0) == [0.25, 0.75]
    assert shares(lambda x: x.mean(1), 1.0, 3.0, -1.0) == [0.25, 0.75, 0.0]
    assert shares(lambda x: x.sum(1), -1.0, -3.0) == [0.25, 0.75]
    assert shares(lambda x: 1 - 2 * x.amax(1), 1.0, 3.0) == [0.0, 1.0]
    bounded = RelevancePropagation(lambda x: x.mean(1), -1.0, 5.0)
    assert bounded.attribute(torch.tensor([[0.0, 2.0]])).tolist() == [[0.25, 0.75]]


def test_products_divisions_and_lengths_by_hand():
    def shares(function, *values):
        x = torch.tensor([values]).double()
        return RelevancePropagation(function, None, None)._detached(x, None, None)[0].tolist()

    assert shares(lambda x: x[:, 0] * x[:, 1], 2.0, -3.0) == [0.5, 0.5]
    assert shares(lambda x: x[:, 0] * x[:, 1].sigmoid(), 2.0, 3.0) == [1.0, 0.0]
    assert shares(lambda x: x[:, 0].sigmoid() * x[:, 1].sigmoid(), 2.0, 3.0) == [0.5, 0.5]
    assert shares(lambda x: x[:, 0] / x[:, 1], 2.0, 3.0) == [1.0, 0.0]
    assert shares(lambda x: x[:, 0] * x[:, 1].square().rsqrt(), 2.0, 3.0) == [1.0, 0.0]
    assert shares(lambda x: x.norm(dim=1), 3.0, -4.0) == pytest.approx([9 / 25, 16 / 25])
    assert shares(lambda x: F.normalize(x)[:, 1], 3.0, -4.0) == [0.0, 1.0]
    assert shares(lambda x: torch.addcmul(torch.ones(2), torch.ones(2), x)[:, 0], 3.0, 4.0) == [
        1,
        0,
    ]


def test_a_branch_that_only_scales_may_hold_anything():
    """What has no rule is no matter where no relevance reaches it."""
    x = torch.rand(2, 4, generator=rng(), dtype=torch.float64)
    explain = RelevancePropagation(lambda x: x[:, 0] / x.cumsum(1).var(1), None, None)
    assert torch.equal(explain.attribute(x), F.one_hot(torch.zeros(2).long(), 4).double())


def test_a_product_of_a_value_with_itself_transposed():
    x = torch.rand(1, 2, 3, generator=rng(), dtype=torch.float64)
    got = RelevancePropagation(lambda x: x @ x.transpose(1, 2), None, None).attribute(x, (0, 1))
    share = x[0, 0] * x[0, 1] / (x[0, 0] * x[0, 1]).sum()
    torch.testing.assert_close(got[0], torch.stack([share, share]) / 2, rtol=1e-5, atol=0)


# --- Networks that are no chain.


class Residual(nn.Module):
    def __init__(self, inplace):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.conv2, self.bn2 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.head, self.relu, self.inplace = nn.Linear(3, 3), nn.ReLU(inplace), inplace

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(x))
        if self.inplace:
            out += x
        else:
            out = out + x
        return self.head(self.relu(out).mean((2, 3)))


class Dense(nn.Module):
    """Batch norm before the rectifier and the convolution, as in DenseNet."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)
        self.conv1 = nn.Conv2d(3, 2, 3, padding=1)
        self.norm2, self.head = nn.BatchNorm2d(5), nn.Linear(5, 3)

    def forward(self, x):
        x = F.max_pool2d(self.stem(x), 2)
        x = torch.cat([x, self.conv1(F.relu(self.norm1(x)))], 1)
        x = F.avg_pool2d(F.relu(self.norm2(x), inplace=True), 2)
        return self.head(torch.flatten(x, 1))


class Gated(nn.Module):
    """A squeeze-and-excitation gate, and a normalisation inside the model."""

    def __init__(self):
        super().__init__()
        self.conv, self.gate, self.head = nn.Conv2d(2, 3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        x = F.relu6(self.conv((x - 0.5) / 0.25))
        gate = torch.sigmoid(self.gate(x.mean((2, 3))))
        return self.head((x * gate[:, :, None, None]).sum((2, 3)))


NETWORKS = {
    "residual": lambda: Residual(False),
    "residual, in place": lambda: Residual(True),
    "dense": Dense,
    "gated": Gated,
    "hard gates": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.Hardswish(inplace=True), nn.Flatten(), nn.Linear(48, 3)
    ),
    "leaky": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.LeakyReLU(), nn.Conv2d(3, 3, 2), nn.PReLU(), nn.Flatten(),
        nn.Linear(27, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("beta", [None, 3.0])
def test_relevance_is_conserved_and_positive(name, beta):
    model, x = fill(NETWORKS[name]()), images(4)
    with torch.no_grad():  # so that something speaks for every class
        [m for m in model.modules() if isinstance(m, nn.Linear)][-1].weight.abs_()
    explanation = RelevancePropagation(model)
    if beta is not None:
        explanation = BetaSmoothing(explanation, beta)
    relevance = explanation.attribute(x, target=0)
    assert relevance.min() > -1e-9
    total = relevance.sum((1, 2, 3))
    if name == "dense" and beta is None:
        # The shift of a batch norm may wake a neuron that nothing positive contributes to.
        assert ((total > 0.5) & (total < 1 + 1e-9)).all()
    else:
        torch.testing.assert_close(total, torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("smoothed", [True, False], ids=["beta-smoothed", "rectifiers"])
@pytest.mark.parametrize("fast", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_gradient_is_that_of_finite_differences(name, smoothed, fast):
    model, x = fill(NETWORKS[name]()), images(1).requires_grad_()
    explanation = RelevancePropagation(model)
    explain = differentiable(BetaSmoothing(explanation, 3.0) if smoothed else explanation)
    assert gradcheck(lambda x: explain(x, target=1), x, fast_mode=fast)
    if smoothed:
        (gradient,) = torch.autograd.grad(explain(x, target=1)[0, 0, 2, 2], x)
        assert gradient.abs().max() > 1e-4


def test_smoothing_from_outside_and_inside_agree():
    model, x = fill(Residual(True)), images()
    with softplus_activations(2.0):
        outside = RelevancePropagation(model).attribute(x, target=1)
    inside = BetaSmoothing(RelevancePropagation(model), 2.0).attribute(x, target=1)
    assert torch.equal(outside, inside)
    assert not torch.allclose(inside, RelevancePropagation(model).attribute(x, target=1))

"""Relevance propagation against loops over the formulas of the paper, and its derivative."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from captum_robust.attr import (
    BetaSmoothing,
    KernelSmoothing,
    RelevancePropagation,
    differentiable,
    softplus_activations,
)
from tests.attr._backward.networks import fill, images
from tests.helpers import rng

# --- The formulas, written out. A layer is a matrix W[j, i] from all numbers to all numbers.


def matrix_of(layer, shape):
    """The matrix of a layer without its bias, by loops, and the shape of its result."""
    if isinstance(layer, nn.Linear):
        return layer.weight.detach().tolist(), (layer.out_features,)
    (c_in, height, width), w = shape, layer.weight.detach()
    (k, _), (s, _), (p, _) = layer.kernel_size, layer.stride, layer.padding
    out_h, out_w = (height + 2 * p - k) // s + 1, (width + 2 * p - k) // s + 1
    matrix = [[0.0] * (c_in * height * width) for _ in range(len(w) * out_h * out_w)]
    for o in range(len(w)):
        for y in range(out_h):
            for x in range(out_w):
                row = matrix[(o * out_h + y) * out_w + x]
                for c in range(c_in):
                    for dy in range(k):
                        for dx in range(k):
                            iy, ix = y * s - p + dy, x * s - p + dx
                            if 0 <= iy < height and 0 <= ix < width:
                                row[(c * height + iy) * width + ix] = w[o, c, dy, dx].item()
    return matrix, (len(w), out_h, out_w)


def z_plus(x, matrix, relevance):
    """Eq. 2 of Dombrowski et al., for one example."""
    result = [0.0] * len(x)
    for j, row in enumerate(matrix):
        total = sum(x[k] * max(row[k], 0.0) for k in range(len(x)))
        for i in range(len(x)):
            if total > 0:
                result[i] += x[i] * max(row[i], 0.0) / total * relevance[j]
    return result


def z_bounded(x, matrix, relevance, low, high):
    """Eq. 3, for one example."""

    def z(row, i):
        return x[i] * row[i] - low * max(row[i], 0.0) - high * min(row[i], 0.0)

    result = [0.0] * len(x)
    for j, row in enumerate(matrix):
        total = sum(z(row, i) for i in range(len(x)))
        for i in range(len(x)):
            if total > 0:
                result[i] += z(row, i) / total * relevance[j]
    return result


def oracle(layers, activation, x, target, low, high):
    """Eq. 1 to 3 for layers with an activation between each and the next, one example."""
    shape, values, seen = tuple(x.shape), x, []
    for number, layer in enumerate(layers):
        if isinstance(layer, nn.Linear):
            values, shape = values.flatten(), (values.numel(),)
        seen.append((values.flatten().tolist(), *matrix_of(layer, shape)))
        values = layer(values.unsqueeze(0))[0].detach()
        shape = seen[-1][2]
        assert tuple(values.shape) == shape
        if number < len(layers) - 1:
            values = activation(values)
    relevance = [float(i == target) for i in range(len(values))]
    for number in reversed(range(len(layers))):
        point, matrix, _ = seen[number]
        if number > 0:
            relevance = z_plus(point, matrix, relevance)
        else:
            relevance = z_bounded(point, matrix, relevance, low, high)
    return torch.tensor(relevance, dtype=torch.float64).view_as(x)


def dense():
    return [nn.Linear(8, 6), nn.Linear(6, 5), nn.Linear(5, 3)]


def convolutional():
    return [
        nn.Conv2d(2, 3, 3, stride=2, padding=1),
        nn.Conv2d(3, 4, 2, bias=False),
        nn.Linear(16, 3),
    ]


def sequence(layers, make_activation):
    parts = []
    for layer in layers:
        if isinstance(layer, nn.Linear) and not isinstance(layers[0], nn.Linear):
            parts.append(nn.Flatten())
        parts += [layer, make_activation()]
    return nn.Sequential(*parts[:-1])


@pytest.mark.parametrize("make_layers", [dense, convolutional])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.5, 2.0)])
@pytest.mark.parametrize(
    ("make_activation", "beta"),
    [(nn.ReLU, None), (lambda: nn.ReLU(inplace=True), None), (nn.ReLU, 2.0), (nn.Softplus, None)],
    ids=["relu", "in place", "beta-smoothed", "softplus"],
)
def test_values_are_those_of_the_formulas(make_layers, low, high, make_activation, beta):
    model = fill(sequence(make_layers(), make_activation))
    layers = [m for m in model if isinstance(m, (nn.Linear, nn.Conv2d))]
    x = images(3) if isinstance(layers[0], nn.Conv2d) else images(3, 1, 4)[:, 0].flatten(1)[:, :8]
    explanation = RelevancePropagation(model, low, high)
    if beta is not None:
        explanation = BetaSmoothing(explanation, beta)
    got = explanation.attribute(x, target=torch.tensor([2, 0, 1]))
    activation = make_activation() if beta is None else (lambda z: F.softplus(z, beta=beta))
    for i, target in enumerate([2, 0, 1]):
        want = oracle(layers, activation, x[i], target, low, high)
        assert want.abs().sum() > 0.5
        torch.testing.assert_close(got[i], want, rtol=1e-6, atol=1e-9)


def test_where_a_neuron_has_no_positive_contribution_relevance_is_lost_not_nan():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        model[2].weight.copy_(torch.tensor([[-1.0, -1.0]]))
    x = torch.tensor([[0.5, 0.25]])
    with pytest.warns(UserWarning, match=r"only 0 of the relevance arrives.*rule=GammaRule\(\)"):
        relevance = RelevancePropagation(model).attribute(x, target=0)
    assert torch.equal(relevance, torch.zeros(1, 2))


# --- Its derivative.


def test_second_derivatives():
    layers = [nn.Linear(4, 5), nn.Softplus(), nn.Linear(5, 3), nn.Softplus(), nn.Linear(3, 2)]
    model = fill(nn.Sequential(*layers))
    x = torch.rand(2, 4, generator=rng(), dtype=torch.float64, requires_grad=True)
    explain = differentiable(RelevancePropagation(model))
    assert gradcheck(lambda x: explain(x, target=1), x)
    assert gradgradcheck(lambda x: explain(x, target=1), x, fast_mode=True)


def test_the_gradient_by_the_weights():
    x, weight = images(1).flatten(1)[:, :3], torch.rand(2, 3, generator=rng()).double()
    weight.requires_grad_()
    explain = differentiable(RelevancePropagation(lambda x, w: F.linear(x, w).exp().sum(1)))
    assert gradcheck(lambda w: explain(x, additional_forward_args=w), weight)


def test_outside_of_its_bounds_noise_widens_them():
    model, x = fill(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 1, 4))), images(2)
    smooth = KernelSmoothing(RelevancePropagation(model))
    relevance = smooth.attribute(x, radius=2.0, n_samples=20, generator=rng())
    assert relevance.min() > -1e-9
    torch.testing.assert_close(relevance.sum((1, 2, 3)), torch.ones(2, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"inputs must be from low to high.*low=, high="):
        RelevancePropagation(model).attribute(x + 1)


@pytest.mark.parametrize("first", [nn.Linear(5, 6), nn.Conv1d(5, 6, 1)])
def test_the_gradient_where_inputs_leave_their_bounds(first):
    network = nn.Sequential(first, nn.Softplus(), nn.Flatten(), nn.Linear(6, 3)).double()
    x = 3 * torch.rand(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1
    x = (x if isinstance(first, nn.Linear) else x.unsqueeze(-1)).requires_grad_()
    assert (x < 0).any()
    assert (x > 1).any()
    explain = differentiable(RelevancePropagation(network))
    assert gradcheck(lambda x: explain(x, target=1), x, fast_mode=True)
    noisy = differentiable(KernelSmoothing(RelevancePropagation(network)))

    def smoothed(x):
        noise = torch.Generator().manual_seed(0)
        return noisy(x, target=1, n_samples=3, radius=0.5, generator=noise)

    assert gradcheck(smoothed, x, fast_mode=True)


def test_derivatives_do_not_depend_on_the_rest_of_the_batch():
    explain = differentiable(
        RelevancePropagation(lambda x: F.linear(x, torch.ones(1, 2)), None, None)
    )

    def slope(rows):
        x = torch.tensor(rows, requires_grad=True)
        return torch.autograd.grad(explain(x)[0, 0], x)[0][0]

    assert torch.equal(slope([[0.0, 1.0]]), slope([[0.0, 1.0], [1.0, -1.0]]))


def test_derivatives_at_a_bound_are_those_from_inside():
    """l and h are constants: an attack moves inside of them, and pixels often lie on them."""
    model = fill(nn.Sequential(nn.Linear(4, 5), nn.Softplus(), nn.Linear(5, 1)))
    explain = differentiable(RelevancePropagation(model))
    x = torch.tensor([[0.0, 0.3, 1.0, 0.6]], dtype=torch.float64)

    def relevance(x):
        return (explain(x, target=0) * torch.tensor([1.0, -2.0, 3.0, 0.5])).sum()

    (slope,) = torch.autograd.grad(relevance(x.requires_grad_()), x)
    for i, inwards in ((0, 1e-6), (1, 1e-6), (2, -1e-6)):
        near = x.detach().clone()
        near[0, i] += inwards
        difference = (relevance(near) - relevance(x.detach())) / inwards
        torch.testing.assert_close(slope[0, i], difference, rtol=1e-4, atol=1e-6)


# --- What it is given.


def test_remedies_are_given():
    with pytest.raises(TypeError, match="leave the log_softmax out of the model"):
        RelevancePropagation(lambda x: x.log_softmax(1)).attribute(torch.rand(2, 4), target=1)
    with pytest.raises(ValueError, match="does not depend on the inputs"):
        RelevancePropagation(lambda x: torch.ones(2)).attribute(torch.rand(2, 4))
    with pytest.raises(ValueError, match="must be floating-point"):
        RelevancePropagation(lambda x: x.sum(1)).attribute(torch.ones(2, 4, dtype=torch.int64))


@pytest.mark.parametrize(
    ("low", "high", "error", "message"),
    [
        (None, 1.0, TypeError, "both be None"),
        (1.0, 1.0, ValueError, "low must be below high"),
        ((0.0, 2.0), (1.0, 1.0), ValueError, "low must be below high"),
    ],
)
def test_bounds_that_are_none(low, high, error, message):
    with pytest.raises(error, match=message):
        RelevancePropagation(nn.Identity(), low, high)


@pytest.mark.parametrize(
    ("low", "high"), [(None, 1.0), (0.0, None), ((0.0, None), 1.0), (0.0, (1.0, None))]
)
def test_one_bound_alone_is_refused(low, high):
    with pytest.raises(TypeError, match="low and high must both be given"):
        RelevancePropagation(nn.Linear(4, 3), low, high)


def one_neuron(x, weight, low, high):
    """Eq. 3 for one neuron, written out; relevance 1."""
    z = x * weight - low * weight.clamp(min=0) - high * weight.clamp(max=0)
    return z / z.sum(1, keepdim=True)


def test_one_bound_for_each_input():
    weight = torch.tensor([[1.0, -2.0, 0.5, -1.5]])

    def forward(x, y):
        return F.linear(torch.cat([x, y], 1), weight)

    x, y = torch.rand(2, 2, generator=rng(0)), 10 * torch.rand(2, 2, generator=rng(1))
    low, high = torch.zeros(4), torch.tensor([1.0, 1.0, 10.0, 10.0])
    explain = RelevancePropagation(forward, (0.0, 0.0), (1.0, 10.0))
    found = torch.cat(explain.attribute((x, y), target=0), 1)
    torch.testing.assert_close(found, one_neuron(torch.cat([x, y], 1), weight, low, high))
    with pytest.raises(ValueError, match="low has 2 values for 1 inputs"):
        RelevancePropagation(forward, (0.0, 0.0), (1.0, 10.0)).attribute(x, target=0)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_scripted_models_are_refused():
    with pytest.raises(TypeError, match="scripted, so the calls in it cannot be seen"):
        RelevancePropagation(torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.ReLU())))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_has_room_for_small_totals(dtype):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(0.0, 0.05, generator=rng(0))
    x = torch.rand(4, 8, generator=rng(1))
    expected = RelevancePropagation(model).attribute(x, target=0)
    found = RelevancePropagation(model.to(dtype)).attribute(x.to(dtype), target=0)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=2e-2)
    with torch.autocast("cpu", dtype=dtype):
        around = RelevancePropagation(model.float()).attribute(x, target=0)
    torch.testing.assert_close(around.float(), expected, atol=2e-2, rtol=2e-2)


class InPart(nn.Module):
    """A model that runs a layer in bfloat16."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = self.first(x).relu()
        return self.second(hidden.float())


def test_mixed_precision_inside_the_model():
    model = InPart()
    x = torch.rand(3, 4, generator=rng(0))
    relevance = RelevancePropagation(model).attribute(x, target=0)
    torch.testing.assert_close(relevance.sum(1), torch.ones(3), atol=2e-2, rtol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        around = RelevancePropagation(model).attribute(x, target=0)
    torch.testing.assert_close(around.sum(1), torch.ones(3), atol=5e-2, rtol=0)


def test_arguments_in_any_order():
    def forward(x, flip):
        a, b = F.linear(x, torch.eye(2)), F.linear(x, torch.eye(2).flip(0))
        total = torch.sub(other=b, input=a) if flip else torch.sub(a, b)
        return total[:, :1]

    x = torch.tensor([[0.2, 0.9]])
    plain, named = (
        RelevancePropagation(forward).attribute(x, additional_forward_args=flip)
        for flip in (False, True)
    )
    assert torch.equal(plain, named)


@pytest.mark.parametrize("depth", [0.1, 0.2, 0.45, 0.5, 0.8])
def test_traces_that_softplus_leaves_do_not_overflow(depth):
    """softplus(-0.5) is 2e-24 at beta 100: a total of such is divided by, and once more."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    for layer in model[::2]:
        nn.init.constant_(layer.weight, 0.01)
        nn.init.constant_(layer.bias, 1.0)
    nn.init.constant_(model[0].bias, -depth)  # all of the first rectifiers are off
    x = torch.rand(5, 3, generator=rng(0), requires_grad=True)
    with softplus_activations(100.0):
        relevance = differentiable(RelevancePropagation(model))(x, target=0)
    kept = 1.0 if depth < 0.3 else 0.0
    torch.testing.assert_close(relevance.sum(1), torch.full((5,), kept))
    (slope,) = torch.autograd.grad(relevance.square().sum(), x)
    assert slope.isfinite().all()

"""Relevance propagation against loops over the formulas of the paper, and what it refuses."""

from __future__ import annotations

import re

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


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def fill(model, seed=1):
    generator = rng(seed)
    with torch.no_grad():
        for module in model.modules():
            for parameter in module.parameters(recurse=False):
                parameter.normal_(0, 0.5, generator=generator)
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2.0, generator=generator)
    return model.double().eval()


def images(n=2, channels=2, size=6, seed=2):
    return torch.rand(n, channels, size, size, generator=rng(seed), dtype=torch.float64)


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


def test_where_a_neuron_has_no_positive_contribution_relevance_is_lost_not_nan():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        model[2].weight.copy_(torch.tensor([[-1.0, -1.0]]))
    x = torch.tensor([[0.5, 0.25]])
    with pytest.warns(UserWarning, match=r"only 0 of the relevance arrives.*rule=GammaRule\(\)"):
        relevance = RelevancePropagation(model).attribute(x, target=0)
    assert torch.equal(relevance, torch.zeros(1, 2))


@pytest.mark.parametrize("negative_slopes", [False, True])
def test_a_batch_norm_is_merged_and_the_model_left_alone(negative_slopes):
    model = fill(
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 1, 4))
    )
    if not negative_slopes:
        with torch.no_grad():
            model[1].weight.abs_()
    assert bool((model[1].weight < 0).any()) == negative_slopes
    merged = torch.nn.utils.fusion.fuse_conv_bn_eval(model[0], model[1])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = images(3)
    got = RelevancePropagation(model).attribute(x)
    want = RelevancePropagation(nn.Sequential(merged, nn.ReLU(), model[3])).attribute(x)
    torch.testing.assert_close(got, want)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(vars(m)[k] for m in model.modules() for k in vars(m) if k.endswith("_hooks"))


def test_a_normalisation_inside_the_model_moves_the_bounds():
    mean, std = torch.tensor([0.4, 0.6]).double(), torch.tensor([0.2, -0.5]).double()
    bare, x = fill(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 1, 4))), images(3)

    def model(x):
        return bare((x - mean[:, None, None]) / std[:, None, None])

    low, high = ((bound - mean) / std for bound in (0, 1))
    low, high = torch.minimum(low, high)[:, None, None], torch.maximum(low, high)[:, None, None]
    normalised = (x - mean[:, None, None]) / std[:, None, None]
    want = RelevancePropagation(bare, low, high).attribute(normalised)
    torch.testing.assert_close(RelevancePropagation(model).attribute(x), want)
    assert not torch.allclose(RelevancePropagation(model, None, None).attribute(x), want)


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_with_batch_norm(groups):
    layer, norm = nn.ConvTranspose2d(2, 4, 2, groups=groups), nn.BatchNorm2d(4)
    model, x = (
        fill(nn.Sequential(layer, norm, nn.ReLU(), nn.Flatten(), nn.Linear(196, 1))),
        images(),
    )
    slope = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    merged = nn.ConvTranspose2d(2, 4, 2, groups=groups).double()
    with torch.no_grad():
        for o in range(4):
            channels = [o] if groups == 1 else [o % 2]
            rows = slice(None) if groups == 1 else slice(o // 2, o // 2 + 1)
            merged.weight[rows, channels] = layer.weight[rows, channels] * slope[o]
        merged.bias.copy_((layer.bias - norm.running_mean) * slope + norm.bias)
    same = nn.Sequential(merged, nn.ReLU(), *model[3:])
    torch.testing.assert_close(same(x), model(x))
    want = RelevancePropagation(same).attribute(x)
    torch.testing.assert_close(RelevancePropagation(model).attribute(x), want)


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


# --- Its derivative.


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("smoothed", [True, False], ids=["beta-smoothed", "rectifiers"])
def test_the_gradient_is_that_of_finite_differences(name, smoothed):
    model, x = fill(NETWORKS[name]()), images(1).requires_grad_()
    explanation = RelevancePropagation(model)
    explain = differentiable(BetaSmoothing(explanation, 3.0) if smoothed else explanation)
    assert gradcheck(lambda x: explain(x, target=1), x)
    if smoothed:
        (gradient,) = torch.autograd.grad(explain(x, target=1)[0, 0, 2, 2], x)
        assert gradient.abs().max() > 1e-4


def test_second_derivatives():
    layers = [nn.Linear(4, 5), nn.Softplus(), nn.Linear(5, 3), nn.Softplus(), nn.Linear(3, 2)]
    model = fill(nn.Sequential(*layers))
    x = torch.rand(2, 4, generator=rng(), dtype=torch.float64, requires_grad=True)
    explain = differentiable(RelevancePropagation(model))
    assert gradcheck(lambda x: explain(x, target=1), x)
    assert gradgradcheck(lambda x: explain(x, target=1), x)


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


def test_smoothing_from_outside_and_inside_agree():
    model, x = fill(Residual(True)), images()
    with softplus_activations(2.0):
        outside = RelevancePropagation(model).attribute(x, target=1)
    inside = BetaSmoothing(RelevancePropagation(model), 2.0).attribute(x, target=1)
    assert torch.equal(outside, inside)
    assert not torch.allclose(inside, RelevancePropagation(model).attribute(x, target=1))


# --- What has no rule.


class Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Custom(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def write_into(x):
    y = torch.empty_like(x)
    return torch.mul(x, 2, out=y.requires_grad_(False))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (nn.Softmax(1), "'body.1' (Softmax): relevance propagation explains logits"),
        (Custom(lambda x: x.cumsum(1)), "'body.1' (Custom): relevance propagation has no rule for"),
        (Custom(lambda x: torch.atan2(x, x.flip(1))), "no rule for 'atan2'"),
        (nn.GRUCell(6, 6), "'body.1' (GRUCell): relevance propagation has no rule for 'gru_cell'"),
        (Custom(Hidden.apply), "custom torch.autograd.Function"),
        (Custom(write_into), "'body.1' (Custom): mul writes into a tensor"),
        (Custom(lambda x: (x * 1).uniform_()), "'body.1' (Custom): uniform_ writes into a tensor"),
    ],
    ids=["softmax", "cumsum", "angle", "recurrent", "custom function", "out", "random"],
)
@pytest.mark.parametrize("last", [True, False])
def test_what_has_no_rule_is_named(function, message, last):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 6), function)
            self.head = nn.Identity() if last else nn.Linear(6, 6)

        def forward(self, x):
            return self.head(self.body(x))

    with pytest.raises(TypeError, match=re.escape(message)):
        RelevancePropagation(Model()).attribute(torch.rand(2, 4), target=1)


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


BEFORE = {
    "normalise": lambda x: (x - 0.3) / 0.25,
    "normalise with a negative slope": lambda x: 0.3 - x * 2,
    "joined": lambda x: torch.cat([(x[:, i : i + 1] - 0.1 * i) / 0.25 for i in range(4)], 1),
    "stacked": lambda x: torch.stack([x[:, 0], x[:, 1], x[:, 2], x[:, 3]], 1),
    "averaged": lambda x: F.avg_pool1d(x[:, None], 1)[:, 0],
    "enlarged": lambda x: F.interpolate(x[:, None], scale_factor=1.0)[:, 0],
    "in parts": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1).roll(2, 1),
    "one of several": lambda x: torch.cat([x.unbind(1)[i][:, None] for i in range(4)], 1),
    "the largest": lambda x: x[:, :, None].max(2).values,
}


@pytest.mark.parametrize("name", BEFORE)
def test_bounds_go_with_the_input_to_the_first_layer(name):
    """Whatever a model does to its inputs one by one is one with the inputs."""
    weight = torch.tensor([[1.0, -2.0, 0.5, -1.5]], dtype=torch.float64)
    before = BEFORE[name]
    x = torch.rand(3, 4, generator=rng(0), dtype=torch.float64)
    ends = [before(torch.full_like(x, end)) for end in (0.0, 1.0)]
    low, high = torch.minimum(*ends), torch.maximum(*ends)
    explain = RelevancePropagation(lambda x: F.linear(before(x), weight))
    expected = one_neuron(before(x), weight, low, high)
    torch.testing.assert_close(explain.attribute(x, target=0), expected)


@pytest.mark.parametrize("before", [lambda x: x * x, lambda x: 1 / x, lambda x: torch.ones(1) / x])
def test_bounds_end_where_the_input_is_bent(before):
    weight = torch.tensor([[1.0, 2.0]])
    x = torch.tensor([[0.1, 0.5]])
    explain = RelevancePropagation(lambda x: F.linear(before(x), weight), -1.0, 1.0)
    z = before(x) * weight
    torch.testing.assert_close(explain.attribute(x, target=0), z / z.sum())


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


def test_derivatives_do_not_depend_on_the_rest_of_the_batch():
    explain = differentiable(
        RelevancePropagation(lambda x: F.linear(x, torch.ones(1, 2)), None, None)
    )

    def slope(rows):
        x = torch.tensor(rows, requires_grad=True)
        return torch.autograd.grad(explain(x)[0, 0], x)[0][0]

    assert torch.equal(slope([[0.0, 1.0]]), slope([[0.0, 1.0], [1.0, -1.0]]))


def test_nothing_cancels_at_neurons_that_the_bounds_hold_down():
    """At the least value in its box, numerator and denominator of Eq. 3 are both 0."""
    mean, deviation = 0.1307, 0.3081
    for seed in range(30):
        weight = torch.randn(4, 9, generator=rng(seed))
        x = (weight[:1] < 0).float()
        model = nn.Sequential(nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 1))
        with torch.no_grad():
            model[0].weight.copy_(weight)
            model[0].bias.fill_(20.0)
            model[2].weight.fill_(1.0)
        explain = RelevancePropagation(lambda x, m=model: m((x - mean) / deviation))
        hidden = model[0]((x - mean) / deviation).relu().detach()
        z = x * weight.clamp(min=0) + (x - 1) * weight.clamp(max=0)
        total = z.sum(1, keepdim=True)
        shares = torch.where(total > 0, z / total, 0.0)
        expected = (shares * (hidden / hidden.sum()).T).sum(0, keepdim=True)
        torch.testing.assert_close(explain.attribute(x), expected, atol=1e-5, rtol=1e-4)


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


def test_batch_norm_of_torch_itself():
    weight, slope = torch.randn(3, 4, generator=rng(0)), torch.tensor([1.0, -1.0, 2.0])
    mean, variance, bias = torch.tensor([0.3, -0.2, -0.1]), torch.rand(3) + 0.5, torch.zeros(3)

    def functional(x):
        y = F.batch_norm(F.linear(x, weight), mean, variance, slope, bias)
        return F.linear(y.relu(), torch.ones(1, 3))

    def direct(x):
        y = torch.batch_norm(
            F.linear(x, weight), slope, bias, mean, variance, False, 0.1, 1e-5, False
        )
        return F.linear(y.relu(), torch.ones(1, 3))

    x = torch.rand(5, 4, generator=rng(1))
    a, b = (RelevancePropagation(f).attribute(x) for f in (functional, direct))
    assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_scripted_models_are_refused():
    with pytest.raises(TypeError, match="scripted, so the calls in it cannot be seen"):
        RelevancePropagation(torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.ReLU())))


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


@pytest.mark.parametrize(
    ("low", "high"), [(None, 1.0), (0.0, None), ((0.0, None), 1.0), (0.0, (1.0, None))]
)
def test_one_bound_alone_is_refused(low, high):
    with pytest.raises(TypeError, match="low and high must both be given"):
        RelevancePropagation(nn.Linear(4, 3), low, high)


@pytest.mark.parametrize("first", [nn.Linear(5, 6), nn.Conv1d(5, 6, 1)])
def test_the_gradient_where_inputs_leave_their_bounds(first):
    network = nn.Sequential(first, nn.Softplus(), nn.Flatten(), nn.Linear(6, 3)).double()
    x = 3 * torch.rand(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1
    x = (x if isinstance(first, nn.Linear) else x.unsqueeze(-1)).requires_grad_()
    assert (x < 0).any()
    assert (x > 1).any()
    explain = differentiable(RelevancePropagation(network))
    assert gradcheck(lambda x: explain(x, target=1), x)
    noisy = differentiable(KernelSmoothing(RelevancePropagation(network)))

    def smoothed(x):
        noise = torch.Generator().manual_seed(0)
        return noisy(x, target=1, n_samples=3, radius=0.5, generator=noise)

    assert gradcheck(smoothed, x)

"""Patterns against loops over the estimator, and explanations against loops over the layers."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from captum_robust.attr import (
    BetaSmoothing,
    PatternAttribution,
    Patterns,
    differentiable,
    learn_patterns,
)
from tests.attr._backward.networks import fill
from tests.helpers import rng


def dense(activation=nn.ReLU):
    return fill(nn.Sequential(nn.Linear(4, 5), activation(), nn.Linear(5, 3)))


def convolutional():
    return fill(
        nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), nn.BatchNorm2d(4), nn.ReLU(True),
            nn.Conv2d(4, 3, 2), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(3, 2),
        )
    )  # fmt: skip


def vectors(n=30, seed=2):
    return torch.randn(n, 4, generator=rng(seed), dtype=torch.float64)


def images(n=12, seed=2):
    return torch.rand(n, 2, 6, 6, generator=rng(seed), dtype=torch.float64)


def estimate(xs, ys, weight, passes):
    """The two-component estimator of one neuron: lists of inputs, outputs, flags."""
    inside = [k for k in range(len(xs)) if passes[k]]
    if not inside:
        return [0.0] * len(weight)
    mean_y = sum(ys) / len(ys)
    size = len(weight)
    covariance = []
    for i in range(size):
        xy = sum(xs[k][i] * ys[k] for k in inside) / len(inside)
        x = sum(xs[k][i] for k in inside) / len(inside)
        covariance.append(xy - x * mean_y)
    scale = sum(weight[i] * covariance[i] for i in range(size))
    return [c / scale for c in covariance]


def estimate_layer(layer, x, answer):
    """Patterns of a layer: at every place of a convolution there is one more input."""
    y = layer(x).detach()
    if isinstance(layer, nn.Linear):
        patches, y, answer = x.unsqueeze(0), y.T, answer.T
    else:
        patches = F.unfold(x, layer.kernel_size, 1, layer.padding, layer.stride)  # (N, C k k, L)
        patches = patches.unflatten(1, (layer.groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)
        y, answer = (t.flatten(2).transpose(0, 1).flatten(1) for t in (y, answer))
    result = []
    for j in range(len(y)):
        xs = patches[j * len(patches) // len(y)].tolist()
        weight = layer.weight[j].flatten().tolist()
        result.append(estimate(xs, y[j].tolist(), weight, (answer[j] > 0).tolist()))
    return torch.tensor(result, dtype=torch.float64).view_as(layer.weight)


@pytest.mark.parametrize("batch", [30, 7])
def test_patterns_of_a_dense_network(batch):
    model, x = dense(), vectors()
    patterns = learn_patterns(model, x.split(batch))
    assert list(patterns) == ["0.weight", "2.weight"]
    hidden = model[0](x)
    torch.testing.assert_close(patterns["0.weight"], estimate_layer(model[0], x, hidden))
    everywhere = torch.ones(30, 3)
    want = estimate_layer(model[2], hidden.relu().detach(), everywhere)
    torch.testing.assert_close(patterns["2.weight"], want)


def test_patterns_of_a_convolutional_network():
    """With groups and strides, a batch norm in between, and a rectifier behind the pooling."""
    model, x = convolutional(), images()
    patterns = learn_patterns(model, [(x, torch.zeros(12))])
    with torch.no_grad():
        first = estimate_layer(model[0], x, model[:2](x))
        hidden = model[:3](x)
        second = estimate_layer(model[3], hidden, model[3](hidden))
    torch.testing.assert_close(patterns["0.weight"], first)
    torch.testing.assert_close(patterns["3.weight"], second)
    products = (model[3].weight * patterns["3.weight"]).flatten(1).sum(1)
    awake = second.flatten(1).any(1)
    assert awake.sum() >= 2
    torch.testing.assert_close(products, awake.double())


def test_the_signal_is_found_behind_a_distractor():
    """Kindermans et al., Section 3: x = a y + d, and a weight that filters d out."""
    signal, distractor = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])
    y, noise = torch.randn(2, 2000, 1, generator=rng())
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, -1.0]])
    learned = learn_patterns(model, (y * signal + noise * distractor).split(100))
    torch.testing.assert_close(learned["weight"][0], signal, rtol=0, atol=0.05)


def test_a_neuron_that_never_wakes_has_a_pattern_of_zeros():
    model = dense()
    with torch.no_grad():
        model[0].bias[1] = -100
    assert torch.equal(learn_patterns(model, [vectors()])["0.weight"][1], torch.zeros(4).double())


def test_a_batch_norm_is_one_layer_with_the_convolution():
    model, x = convolutional(), images()
    merged = nn.Sequential(
        torch.nn.utils.fusion.fuse_conv_bn_eval(model[0], model[1]), nn.ReLU(), *model[3:]
    )
    explained = []
    for network in (model, merged):
        patterns = learn_patterns(network, x.split(5))
        explained.append(PatternAttribution(network, patterns).attribute(x, target=1))
    torch.testing.assert_close(*explained)
    assert explained[0].abs().max() > 1e-4


def test_values_by_hand():
    model, x = dense(), vectors()
    patterns = learn_patterns(model, [x])
    got = PatternAttribution(model, patterns).attribute(x, target=1)
    first, second = (model[i].weight * patterns[f"{i}.weight"] for i in (0, 2))
    for i in range(len(x)):
        awake = (model[0](x[i]) > 0).double()
        torch.testing.assert_close(got[i], (first.T @ (awake * second[1])).detach())


def test_a_function_that_calls_the_model():
    model, x = dense(), vectors()
    patterns = learn_patterns(model, [x])
    explanation = PatternAttribution(lambda x: model(2 * x), patterns, model)
    want = 2 * PatternAttribution(model, patterns).attribute(2 * x, target=1)
    torch.testing.assert_close(explanation.attribute(x, target=1), want)


def test_functional_and_shared_layers():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4, 4))

        def forward(self, x):
            for _ in range(2):
                x = F.relu(F.linear(x, self.weight))
            return x

    model, x = fill(Shared()), vectors()
    patterns = learn_patterns(model, [x])
    both = torch.cat([x, F.linear(x, model.weight).relu()]).detach()
    layer = nn.Linear(4, 4, bias=False)
    layer.weight = model.weight
    torch.testing.assert_close(patterns["weight"], estimate_layer(layer, both, layer(both)))
    explanation = PatternAttribution(model, patterns).attribute(x, target=0)
    product = (model.weight * patterns["weight"]).detach()
    z1 = F.linear(x, model.weight).detach()
    z2 = F.linear(z1.relu(), model.weight).detach()
    want = (((z2[:, :1] > 0) * product[0]) * (z1 > 0)) @ product
    torch.testing.assert_close(explanation, want)


@pytest.mark.parametrize("smoothed", [True, False])
@pytest.mark.parametrize("fast", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_gradient_is_that_of_finite_differences(smoothed, fast):
    model, x = convolutional(), images()
    patterns, start = learn_patterns(model, [x]), images(1, seed=5).requires_grad_()
    explanation = PatternAttribution(model, patterns)
    explain = differentiable(BetaSmoothing(explanation, 3.0) if smoothed else explanation)
    assert gradcheck(lambda x: explain(x, target=1), start, fast_mode=fast)


def test_second_derivatives():
    for model, beta in ((dense(nn.Softplus), None), (dense(), 2.0)):
        explanation = PatternAttribution(model, learn_patterns(model, [vectors()]))
        explain = differentiable(explanation if beta is None else BetaSmoothing(explanation, beta))
        x = vectors(2).requires_grad_()
        assert gradcheck(lambda x, explain=explain: explain(x, target=1), x, fast_mode=True)
        assert gradgradcheck(lambda x, explain=explain: explain(x, target=1), x, fast_mode=True)


def test_saved_and_loaded(tmp_path):
    model = dense()
    patterns, path = learn_patterns(model, [vectors()]), tmp_path / "patterns"
    patterns.save(path)
    loaded = Patterns.load(path)
    assert list(loaded) == list(patterns)
    assert repr(loaded) == "Patterns(0.weight, 2.weight)"
    for name, pattern in loaded.items():
        torch.testing.assert_close(pattern.double(), patterns[name], rtol=1e-6, atol=1e-6)
    got = PatternAttribution(model, loaded).attribute(vectors(), target=1)
    want = PatternAttribution(model, patterns).attribute(vectors(), target=1)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_a_change_of_shape_before_the_bias_changes_nothing():
    layer, x = nn.Linear(4, 6).double(), vectors()

    class Shifted(nn.Module):
        def __init__(self, go, back):
            super().__init__()
            self.layer, self.go, self.back = layer, go, back

        def forward(self, x):
            return self.back(torch.relu(self.go(self.layer(x)) - 0.5))

    want = learn_patterns(Shifted(lambda h: h, lambda h: h), [x])["layer.weight"]
    for go in (
        lambda h: h.unsqueeze(-1),
        lambda h: h.view(-1, 2, 3),
        lambda h: h.unflatten(1, (6, 1)),
    ):
        got = learn_patterns(Shifted(go, lambda h: h.flatten(1)), [x])["layer.weight"]
        torch.testing.assert_close(got, want)


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "patterns"
    Patterns({"0.weight": torch.full((2, 2), torch.nan)}).save(path)
    with pytest.raises(ValueError, match=r"'0\.weight' in it has NaN or Inf"):
        Patterns.load(path)
    Patterns({"0.weight": torch.rand(99, 99)}).save(path)
    written = bytearray(path.read_bytes())
    written[len(written) // 2] ^= 255
    path.write_bytes(written)
    with pytest.raises(ValueError, match="is not a file"):
        Patterns.load(path)
    with open(path, "wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(ValueError, match="is not a file"):
        Patterns.load(path)


def test_a_file_that_holds_code_or_words_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("code was run",))

    bad, words = tmp_path / "bad.npz", tmp_path / "words.npz"
    np.savez(bad, **{"0.weight": np.array([Trap()], dtype=object)})
    with pytest.raises(ValueError, match="is not a file"):
        Patterns.load(bad)
    bare = tmp_path / "bare"
    bare.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="is not a file"):
        Patterns.load(bare)
    np.savez(words, **{"0.weight": np.array(["a"])})
    with pytest.raises(ValueError, match=r"'0\.weight' in it is not an array of floating"):
        Patterns.load(words)


def test_learning_leaves_the_model_alone():
    model = convolutional().train()
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    flags, state = [m.training for m in model.modules()], torch.get_rng_state()
    learn_patterns(model, images().split(5))
    assert [m.training for m in model.modules()] == flags
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_bar_is_shown_on_demand(capsys):
    learn_patterns(dense(), [vectors()], show_progress=True)
    assert "learn_patterns" in capsys.readouterr().err
    learn_patterns(dense(), [vectors()])
    assert not capsys.readouterr().err


def test_bad_input():
    model = dense()
    patterns = learn_patterns(model, [vectors()])
    only_first = Patterns({"0.weight": patterns["0.weight"]})
    with pytest.raises(TypeError, match=r"'2' \(Linear\): patterns has none for the weight"):
        PatternAttribution(model, only_first).attribute(vectors(), target=1)
    with pytest.raises(TypeError, match=r"'matmul' multiplies by a weight.*functional\.linear"):
        PatternAttribution(lambda x: x @ model[0].weight.T, patterns, model).attribute(vectors(), 1)
    with pytest.raises(ValueError, match=r"'0\.weight' has shape \(2, 2\), and in the model \(5, "):
        PatternAttribution(model, Patterns({"0.weight": torch.ones(2, 2)}))
    with pytest.raises(ValueError, match=r"'x' has shape \(2,\), and in the model it does not"):
        PatternAttribution(model, Patterns({"x": torch.ones(2)}))
    with pytest.raises(TypeError, match="patterns must be Patterns, got dict"):
        PatternAttribution(model, dict(patterns))
    for make in (lambda f: PatternAttribution(f, patterns), lambda f: learn_patterns(f, [])):
        with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
            make(lambda x: x)
    with pytest.raises(ValueError, match="loader is empty"):
        learn_patterns(model, [])
    with pytest.raises(ValueError, match="inputs has NaN"):
        learn_patterns(model, [vectors() / 0])


def test_layers_that_cannot_have_a_pattern_are_named():
    transposed = nn.Sequential(nn.Identity(), nn.ConvTranspose2d(2, 2, 2)).double()
    with pytest.raises(
        TypeError, match=r"'1' \(ConvTranspose2d\): transposed convolutions have no"
    ):
        learn_patterns(transposed, [images()])
    model = dense()
    patterns = learn_patterns(model, [vectors()])
    nn.utils.parametrizations.weight_norm(model[2])
    with pytest.raises(TypeError, match=r"'2' \(.*Linear\): the weight of 'linear' is not a param"):
        learn_patterns(model, [vectors()])
    first = Patterns({"0.weight": patterns["0.weight"]})
    with pytest.raises(TypeError, match=r"remove_parametrizations\(module, 'weight'\)"):
        PatternAttribution(model, first).attribute(vectors(), target=1)
    nn.utils.parametrize.remove_parametrizations(model[2], "weight")
    torch.testing.assert_close(learn_patterns(model, [vectors()])["2.weight"], patterns["2.weight"])


def masked(y):
    y = y * 1
    y[y < 0] = 0
    return y


RECTIFIERS_SPELLED_OUT = {
    "maximum": lambda y: torch.maximum(y, torch.zeros_like(y)),
    "where": lambda y: torch.where(y > 0, y, torch.zeros_like(y)),
    "where with a number": lambda y: torch.where(y > 0, y, 0.0),
    "times a mask": lambda y: y * (y > 0),
    "masked_fill": lambda y: y.masked_fill(y < 0, 0.0),
    "written over": masked,
}


@pytest.mark.parametrize("name", RECTIFIERS_SPELLED_OUT)
def test_rectifiers_that_are_spelled_out(name):
    class Model(nn.Module):
        def __init__(self, activation):
            super().__init__()
            self.network, self.activation = dense(), activation

        def forward(self, x):
            return self.network[2](self.activation(self.network[0](x)))

    got, want = (
        learn_patterns(Model(f), [vectors()]) for f in (RECTIFIERS_SPELLED_OUT[name], F.relu)
    )
    for key in want:
        torch.testing.assert_close(got[key], want[key])
    everywhere = learn_patterns(Model(torch.tanh), [vectors()])
    assert not torch.allclose(everywhere["network.0.weight"], want["network.0.weight"])


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend, self.last = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.attend(x, x, x, need_weights=False)[0].mean(1))


def test_patterns_of_other_weights_are_told():
    model = dense()
    patterns = learn_patterns(model, [vectors()])
    PatternAttribution(model, patterns)
    PatternAttribution(model.half(), patterns)
    model.double()[2].weight.data.mul_(1.05)  # tuned a little: still theirs
    PatternAttribution(model, patterns)
    model[2].weight.data.mul_(-1)
    with pytest.warns(UserWarning, match=r"that of '2\.weight' is not of these weights"):
        PatternAttribution(model, patterns)


class Recurs(nn.Module):
    def __init__(self):
        super().__init__()
        self.recur, self.last = nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.recur(x)[0][:, -1])


@pytest.mark.parametrize("kind", [Attends, Recurs])
def test_weights_inside_of_a_fused_layer_are_refused(kind):
    model, x = kind(), torch.rand(3, 5, 4)
    weight = model.last.weight.detach()
    patterns = Patterns({"last.weight": weight / weight.square().sum(1, keepdim=True)})
    with pytest.raises(TypeError, match="multiplies by a weight that can have no pattern"):
        PatternAttribution(model, patterns).attribute(x, target=0)


def test_a_neuron_whose_input_never_changes_has_no_pattern():
    model = nn.Linear(4, 3).double()
    patterns = learn_patterns(model, [torch.rand(1, 4, dtype=torch.float64).expand(100, 4)])
    assert torch.equal(patterns["weight"], torch.zeros(3, 4, dtype=torch.float64))
    assert not patterns["weight"].requires_grad


def test_a_file_of_something_else(tmp_path):
    path = tmp_path / "patterns.npz"
    path.write_text("root:x:0:0")
    with pytest.raises(ValueError, match="is not a file"):
        Patterns.load(path)

"""A survey of torch.nn's functions: does the second derivative exist, and is the gradient right?"""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from captum_robust._utils.sound_gradients import sound_gradients
from tests.helpers import rng

D = torch.float64


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=rng(seed), dtype=D)


LABELS = torch.tensor([1, 0])
Y = draw(2, 6, seed=9)
GRID = draw(2, 3, 3, 2).tanh()


def elementwise():
    names = (
        "celu elu gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish relu "
        "relu6 rrelu selu sigmoid silu softplus softshrink softsign tanh tanhshrink glu normalize "
        "dropout1d alpha_dropout feature_alpha_dropout"
    )
    cases = {name: (getattr(F, name), (2, 6)) for name in names.split() if "dropout" not in name}
    cases |= {
        name: (partial(getattr(F, name), training=False), (2, 6))
        for name in ("dropout", "dropout1d", "alpha_dropout", "feature_alpha_dropout")
    }
    for name in ("softmax", "softmin", "log_softmax"):
        cases[name] = (partial(getattr(F, name), dim=1), (2, 6))
    return cases | {
        "gelu, tanh": (lambda x: F.gelu(x, approximate="tanh"), (2, 6)),
        "threshold": (lambda x: F.threshold(x, 0.1, 0.1), (2, 6)),
        "prelu": (lambda x: F.prelu(x, torch.tensor([0.2], dtype=D)), (2, 6)),
        "hardsigmoid, in place": (lambda x: F.hardsigmoid(2 * x, inplace=True), (2, 6)),
        "hardswish, in place": (lambda x: F.hardswish(2 * x, inplace=True), (2, 6)),
    }


def spatial(d):
    shape, even = (2, 2) + (5,) * d, (2, 2) + (4,) * d
    one = {
        "avg_pool": (lambda x, f: f(x, 2), shape),
        "max_pool": (lambda x, f: f(x, 2), shape),
        "lp_pool": (lambda x, f: f(x, 2, 2), shape),
        "adaptive_avg_pool": (lambda x, f: f(x, 2), shape),
        "adaptive_max_pool": (lambda x, f: f(x, 2), shape),
        "conv": (lambda x, f: f(x, draw(3, 2, *(2,) * d)), shape),
        "conv_transpose": (lambda x, f: f(x, draw(2, 3, *(2,) * d)), shape),
    }
    cases = {
        f"{name}{d}d": (partial(run, f=getattr(F, f"{name}{d}d")), s)
        for name, (run, s) in one.items()
    }
    pool, unpool = getattr(F, f"max_pool{d}d"), getattr(F, f"max_unpool{d}d")
    cases[f"max_unpool{d}d"] = (lambda x: unpool(*pool(x, 2, return_indices=True), 2), even)
    for mode in ("nearest", "nearest-exact", "area", ("linear", "bilinear", "trilinear")[d - 1]):
        cases[f"interpolate {mode} {d}d"] = (
            lambda x, mode=mode: F.interpolate(x, scale_factor=1.6, mode=mode), shape
        )  # fmt: skip
    for mode in ("reflect", "replicate", "circular", "constant"):
        cases[f"pad {mode} {d}d"] = (lambda x, mode=mode: F.pad(x, (1, 1) * d, mode=mode), shape)
    mean, var, g, b = draw(2), draw(2).square() + 0.5, draw(2, seed=3), draw(2, seed=4)
    return cases | {
        f"batch_norm, evaluation, {d}d": (lambda x: F.batch_norm(x, mean, var, g, b), shape),
        f"batch_norm, training, {d}d": (
            lambda x: F.batch_norm(x, mean, var, g, b, training=True), shape
        ),
        f"instance_norm {d}d": (F.instance_norm, shape),
        f"local_response_norm {d}d": (lambda x: F.local_response_norm(x, 2), shape),
    }  # fmt: skip


OTHERS = {
    "interpolate bicubic": (
        lambda x: F.interpolate(x, scale_factor=1.6, mode="bicubic"), (1, 1, 4, 4)
    ),
    "fractional_max_pool2d": (
        lambda x: F.fractional_max_pool2d(
            x, 2, output_size=3, _random_samples=torch.full((1, 2, 2), 0.3, dtype=D)
        ), (1, 2, 6, 6)
    ),
    "layer_norm": (lambda x: F.layer_norm(x, (6,)), (2, 6)),
    "rms_norm": (lambda x: F.rms_norm(x, (6,)), (2, 6)),
    "group_norm": (lambda x: F.group_norm(x, 2), (2, 4, 3)),
    "linear": (lambda x: F.linear(x, draw(3, 6)), (2, 6)),
    "bilinear": (lambda x: F.bilinear(x[:, :3], x[:, 3:], draw(3, 3, 3)), (2, 6)),
    "fold": (lambda x: F.fold(x, (4, 4), 2), (2, 8, 9)),
    "unfold": (lambda x: F.unfold(x, 2), (2, 2, 4, 4)),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), (2, 4, 3, 3)),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 2), (2, 2, 4, 4)),
    "channel_shuffle": (lambda x: F.channel_shuffle(x, 2), (2, 4, 3, 3)),
    "native_channel_shuffle": (lambda x: F.native_channel_shuffle(x, 2), (2, 4, 3, 3)),
    "grid_sample": (lambda x: F.grid_sample(x, GRID, align_corners=False), (2, 2, 4, 4)),
    "grid_sample, by the grid": (
        lambda g: F.grid_sample(draw(2, 2, 4, 4), g.tanh(), align_corners=False), (2, 3, 3, 2)
    ),
    "affine_grid": (lambda x: F.affine_grid(x, [2, 1, 3, 3], align_corners=False), (2, 2, 3)),
    "cosine_similarity": (lambda x: F.cosine_similarity(x[:, :3], x[:, 3:]), (2, 6)),
    "pairwise_distance": (lambda x: F.pairwise_distance(x[:, :3], x[:, 3:]), (2, 6)),
    "pdist": (F.pdist, (3, 4)),
    "embedding": (lambda w: F.embedding(torch.tensor([[0, 1], [2, 0]]), w), (3, 4)),
    "conv_tbc": (lambda x: F.conv_tbc(x, draw(2, 2, 3), draw(3)), (5, 2, 2)),
    "scaled_dot_product_attention": (
        lambda x: F.scaled_dot_product_attention(x, 2 * x, x.sin()), (1, 2, 4, 3)
    ),
    "scaled_dot_product_attention, causal": (
        lambda x: F.scaled_dot_product_attention(x, x.cos(), x.sin(), is_causal=True), (1, 2, 4, 3)
    ),
}  # fmt: skip


def losses():
    names = "l1_loss mse_loss smooth_l1_loss huber_loss poisson_nll_loss"
    cases = {name: (partial(getattr(F, name), target=Y), (2, 6)) for name in names.split()}
    return cases | {
        "soft_margin_loss": (lambda x: F.soft_margin_loss(x, Y.sign()), (2, 6)),
        "binary_cross_entropy": (
            lambda x: F.binary_cross_entropy(x.sigmoid(), Y.sigmoid()), (2, 6)
        ),
        "binary_cross_entropy_with_logits": (
            lambda x: F.binary_cross_entropy_with_logits(x, Y.sigmoid()), (2, 6)
        ),
        "cross_entropy": (lambda x: F.cross_entropy(x, LABELS), (2, 6)),
        "nll_loss": (lambda x: F.nll_loss(x.square(), LABELS), (2, 6)),
        "kl_div": (lambda x: F.kl_div(x, Y.softmax(1), reduction="batchmean"), (2, 6)),
        "gaussian_nll_loss": (lambda x: F.gaussian_nll_loss(x, Y, torch.ones_like(Y)), (2, 6)),
        "hinge_embedding_loss": (lambda x: F.hinge_embedding_loss(x**2, Y.sign()), (2, 6)),
        "multilabel_soft_margin_loss": (
            lambda x: F.multilabel_soft_margin_loss(x, Y.sign().clamp(0)), (2, 6)
        ),
        "cosine_embedding_loss": (
            lambda x: F.cosine_embedding_loss(x, Y, torch.ones(2)), (2, 6)
        ),
        "margin_ranking_loss": (
            lambda x: F.margin_ranking_loss(x[:, 0] ** 2, x[:, 1], torch.ones(2)), (2, 6)
        ),
        "triplet_margin_loss": (lambda x: F.triplet_margin_loss(x, Y, -Y), (2, 6)),
    }  # fmt: skip


SURVEY = {**elementwise(), **spatial(1), **spatial(2), **spatial(3), **OTHERS, **losses()}

# Losses, and sums of embeddings by their weights: models do not call them in a forward pass that is
# explained. torch says so, at the second derivative.
NO_SECOND = {
    "multi_margin_loss": (lambda x: F.multi_margin_loss(x, LABELS), (2, 6)),
    "multilabel_margin_loss": (
        lambda x: F.multilabel_margin_loss(x, torch.tensor([[1, 2, -1, 0, 0, 0]] * 2)), (2, 6)
    ),
    "ctc_loss": (
        lambda x: F.ctc_loss(
            x.log_softmax(2), torch.tensor([[1, 2], [2, 1]]), torch.tensor([5, 5]),
            torch.tensor([2, 2]),
        ), (5, 2, 4)
    ),
    "embedding_bag": (
        lambda w: F.embedding_bag(torch.tensor([[0, 1], [2, 0]]), w).square(), (3, 4)
    ),
}  # fmt: skip
# Spelled otherwise above, without a derivative, or random in every call.
NOT_SURVEYED = frozenset(
    re.findall(
        r"\w+",
        "Callable DType Optional ScalingType SwizzleType Tensor assert_int_or_pair "
        "boolean_dispatch handle_torch_function has_torch_function has_torch_function_unary "
        "has_torch_function_variadic upsample upsample_bilinear upsample_nearest one_hot "
        "gumbel_softmax dropout2d dropout3d fractional_max_pool3d grouped_mm scaled_grouped_mm "
        "scaled_mm linear_cross_entropy multi_head_attention_forward "
        "triplet_margin_with_distance_loss",
    )
)


def under_the_mode(function):
    def run(x):
        with sound_gradients(2):
            return function(x)

    return run


@pytest.mark.parametrize("name", SURVEY)
def test_the_second_derivative_is_that_of_finite_differences(name):
    function, shape = SURVEY[name]
    x = draw(*shape, seed=7).requires_grad_()
    run = under_the_mode(function)
    torch.testing.assert_close(run(x.detach().clone()), function(x.detach().clone()))
    assert gradcheck(run, x, fast_mode=True)
    assert gradgradcheck(run, x, fast_mode=True)


@pytest.mark.parametrize("name", NO_SECOND)
def test_what_has_no_second_derivative_says_so(name):
    function, shape = NO_SECOND[name]
    x = draw(*shape, seed=7).requires_grad_()
    (gradient,) = torch.autograd.grad(under_the_mode(function)(x).sum(), x, create_graph=True)
    with pytest.raises((RuntimeError, NotImplementedError), match="not implemented"):
        torch.autograd.grad(gradient.sum(), x)


def test_no_function_is_left_out():
    surveyed = {name.split(",")[0].split(" ")[0] for name in (*SURVEY, *NO_SECOND)}
    for name in dir(F):
        if name.startswith("_") or not callable(getattr(F, name)):
            continue
        bare = name.removesuffix("_").removesuffix("_with_indices")
        assert bare in surveyed | NOT_SURVEYED, name


# --- Batch normalisation.


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("n", [1, 2])
def test_a_gradient_above_with_unusual_strides(order, training, n):
    """As timm's EfficientFormer: torch's own gradient of a single image is wrong on a CPU."""
    norm = nn.BatchNorm2d(3).double().train(training)
    with torch.no_grad():
        norm.weight.copy_(draw(3))
        norm.running_var.copy_(draw(3).square() + 0.5)
    weight = draw(9, 3, seed=5)

    def tokens(x):
        with sound_gradients(order):
            return (norm(x).flatten(2).transpose(1, 2).sin() * weight).sum((1, 2))

    assert gradcheck(tokens, draw(n, 3, 3, 3, seed=6).requires_grad_())
    if order == 2:
        assert gradgradcheck(tokens, draw(n, 3, 3, 3, seed=6).requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("cls", [nn.BatchNorm1d, nn.InstanceNorm1d])
def test_running_statistics_stay_unless_a_model_is_trained(cls):
    norm = cls(3, track_running_stats=True, affine=True)
    x = torch.randn(4, 3, 5, requires_grad=True)
    for keep in (True, False):
        before = norm.running_mean.clone()
        with sound_gradients(2, keep_statistics=keep):
            y = norm(x)
        assert torch.equal(norm.running_mean, before) == keep
        y.square().sum().backward()


# --- The mode.


def test_it_is_undone_after_an_exception_and_leaves_fused_attention_otherwise():
    x = draw(1, 2, 3, 4).requires_grad_()

    def fails():
        with sound_gradients(2):
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    for plain in (lambda: F.scaled_dot_product_attention(x, x, x),
                  lambda: first_order(x)):  # fmt: skip
        assert "ScaledDotProduct" in plain().grad_fn.name()
    with sound_gradients(2):
        assert "ScaledDotProduct" not in F.scaled_dot_product_attention(x, x, x).grad_fn.name()


def first_order(x):
    with sound_gradients(1):
        return F.scaled_dot_product_attention(x, x, x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_on_a_gpu(kind):
    layer = kind(3, 4, batch_first=True).double().cuda().eval()
    x = draw(2, 3, 3).cuda().requires_grad_()
    assert gradgradcheck(under_the_mode(lambda x: layer(x)[0]), x, fast_mode=True)
    with sound_gradients(1):
        torch.autograd.grad(layer(x)[0].sum(), x)

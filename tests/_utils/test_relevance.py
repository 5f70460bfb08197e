"""Relevance maps: the formula, the gradient, the degenerate cases and the refusals."""

from __future__ import annotations

import math

import pytest
import torch

from captum_robust._utils.relevance import normalized_relevance, relevance_map

BOTH = pytest.mark.parametrize("to_map", [relevance_map, normalized_relevance])


def literal_map(explanation):
    """The formula for one (C, H, W), number by number."""
    channels, height, width = explanation.shape
    pixels = [
        [sum(abs(explanation[c, i, j].item()) for c in range(channels)) for j in range(width)]
        for i in range(height)
    ]
    total = math.fsum(math.fsum(row) for row in pixels)
    return torch.tensor([[p / total for p in row] for row in pixels], dtype=torch.float64)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@BOTH
def test_equals_the_formula(to_map):
    explanations = random(4, 3, 5, 6)
    expected = torch.stack([literal_map(e) for e in explanations])
    torch.testing.assert_close(to_map(explanations), expected, rtol=1e-14, atol=0)


@BOTH
@pytest.mark.parametrize(
    ("shape", "channel_dim", "expected"),
    [
        ((2, 7), 1, (2, 7)),
        ((2, 3, 7), 1, (2, 7)),
        ((2, 7, 3), -1, (2, 7)),
        ((2, 3, 4, 5), 1, (2, 4, 5)),
        ((2, 4, 5, 3), 3, (2, 4, 5)),
        ((2, 3, 4, 5, 6), 1, (2, 4, 5, 6)),
    ],
)
def test_layouts(to_map, shape, channel_dim, expected):
    explanations = random(*shape)
    maps = to_map(explanations, channel_dim)
    assert maps.shape == expected
    assert (maps >= 0).all()
    torch.testing.assert_close(maps.flatten(1).sum(1), torch.ones(2, dtype=torch.float64))
    if len(shape) > 2:
        channels_first = explanations.movedim(channel_dim, 1)
        torch.testing.assert_close(maps, to_map(channels_first, 1))


@BOTH
@pytest.mark.parametrize("scale", [-1.0, 1e-30, 3e4])
def test_scale_and_sign_do_not_count(to_map, scale):
    explanations = random(2, 3, 4, 4)
    torch.testing.assert_close(to_map(scale * explanations), to_map(explanations))


@BOTH
def test_examples_are_independent(to_map):
    explanations = random(3, 2, 4, 4)
    one_by_one = torch.cat([to_map(e.unsqueeze(0)) for e in explanations])
    assert torch.equal(to_map(explanations), one_by_one)


@BOTH
def test_gradients_of_both_orders(to_map):
    explanations = random(2, 3, 3, 4).requires_grad_()  # no number is near the kink at zero
    assert explanations.detach().abs().min() > 1e-3
    assert torch.autograd.gradcheck(to_map, explanations)
    assert torch.autograd.gradgradcheck(to_map, explanations)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(to_map, dtype):
    explanations = random(2, 3, 8, 8).to(dtype)
    maps = to_map(explanations)
    assert maps.dtype == dtype
    expected = to_map(explanations.double())
    torch.testing.assert_close(maps.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-7)


@BOTH
def test_half_precision_sum_does_not_overflow(to_map):
    maps = to_map(torch.full((1, 3, 20, 20), 6e4, dtype=torch.float16))
    torch.testing.assert_close(
        maps.double(), torch.full((1, 20, 20), 1 / 400).double(), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("value", [0.0, 1e-45])
def test_all_zero_explanation_gives_zero_map_and_gradient(value):
    explanations = torch.stack([torch.full((2, 3, 3), value), torch.ones(2, 3, 3)]).requires_grad_()
    with pytest.warns(UserWarning, match="attributions is all zero"):
        maps = relevance_map(explanations)
    assert torch.equal(maps, normalized_relevance(explanations))
    assert torch.equal(maps[0], torch.zeros(3, 3))
    assert torch.equal(maps[1], torch.full((3, 3), 1 / 9))
    loss = 1e11 * (maps - torch.rand(3, 3)).square().sum()
    (gradient,) = torch.autograd.grad(loss, explanations, create_graph=True)
    assert torch.equal(gradient[0], torch.zeros(2, 3, 3))
    assert gradient[1].abs().min() > 0
    (second,) = torch.autograd.grad(gradient.square().sum(), explanations)
    assert second.isfinite().all()


def test_no_warning_for_partly_zero_explanation():
    relevance_map(torch.tensor([[0.0, 0.0, 1e-30]]))  # a warning would be an error


def test_arguments_are_left_alone():
    explanations = random(2, 3, 4, 4)
    before = explanations.clone()
    assert relevance_map(explanations).grad_fn is None
    assert torch.equal(explanations, before)


@pytest.mark.parametrize(
    ("attributions", "channel_dim", "error", "match"),
    [
        (torch.tensor([[1.0, math.nan]]), 1, ValueError, "attributions contains NaN or Inf"),
        (torch.tensor([[1.0, math.inf]]), 1, ValueError, "attributions contains NaN or Inf"),
        (torch.tensor([[1.0, -math.inf], [0, 0]]), 1, ValueError, "attributions contains NaN"),
        (torch.tensor([[3e38, 3e38]]), 1, ValueError, "attributions contains.*rescale"),
        (torch.ones(3), 1, ValueError, r"attributions must have a batch.*unsqueeze\(0\)"),
        (torch.tensor(1.0), 1, ValueError, "attributions must have a batch"),
        (torch.ones(0, 3, 4, 4), 1, ValueError, "attributions is empty"),
        (torch.ones(2, 0), 1, ValueError, "attributions is empty"),
        (torch.ones(2, 3, 4, 4), 0, ValueError, "channel_dim"),
        (torch.ones(2, 3, 4, 4), -4, ValueError, "channel_dim"),
        (torch.ones(2, 3, 4, 4), 4, ValueError, "channel_dim"),
        (torch.ones(2, 3, 4, 4), -5, ValueError, "channel_dim"),
        (torch.ones(2, 3, dtype=torch.int64), 1, TypeError, r"attributions.*\.float\(\)"),
        (torch.ones(2, 3, dtype=torch.complex64), 1, TypeError, "attributions"),
        (torch.ones(2, 3, 4), None, ValueError, "channel_dim: .*channel_dim=1 .*channel_dim=-1"),
        (torch.ones(2, 3, 4), 0, ValueError, "channel_dim must name a dimension"),
        (torch.ones(2, 3, 4), "last", TypeError, "channel_dim must be a whole number"),
        ((torch.ones(2, 3),), 1, TypeError, "attributions must be a tensor, got tuple"),
        ([[1.0]], 1, TypeError, "attributions must be a tensor, got list"),
    ],
)
def test_bad_input_is_named(attributions, channel_dim, error, match):
    with pytest.raises(error, match=match):
        relevance_map(attributions, channel_dim)


def test_the_mends_for_three_dimensions():
    series = random(2, 3, 7)
    assert relevance_map(series, channel_dim=1).shape == (2, 7)
    assert relevance_map(series, channel_dim=-1).shape == (2, 3)
    maps = relevance_map(series.unsqueeze(1))
    torch.testing.assert_close(maps, series.abs() / series.abs().sum((1, 2), keepdim=True))


def test_images_and_volumes_have_their_channels_first():
    for shape in ((2, 3, 4, 5), (2, 3, 4, 5, 6)):
        assert torch.equal(relevance_map(random(*shape)), relevance_map(random(*shape), 1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@BOTH
def test_device_is_kept(to_map):
    explanations = random(2, 3, 8, 8)
    maps = to_map(explanations.cuda())
    assert maps.is_cuda
    torch.testing.assert_close(maps.cpu(), to_map(explanations))

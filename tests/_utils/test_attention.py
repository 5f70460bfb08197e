"""Attention with a second derivative, against torch's own."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from captum_robust._utils.attention import scaled_dot_product_attention
from captum_robust._utils.sound_gradients import sound_gradients
from tests.helpers import rng


def draw(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64).to(dtype)


MASKS = {
    "none": {},
    "causal": {"is_causal": True},
    "boolean": {"attn_mask": torch.rand(4, 5, generator=rng(3)) > 0.4},
    "added": {"attn_mask": draw(2, 1, 4, 5, seed=4)},
    "a row of its own": {"attn_mask": torch.tensor([True, False, True, True]).view(4, 1)},
    "scale": {"scale": 0.3},
}


@pytest.mark.parametrize("name", MASKS)
def test_the_values_and_gradients_are_those_of_torch(name):
    q, k, v = (draw(2, 3, n, 6, seed=i).requires_grad_() for i, n in enumerate((4, 5, 5)))
    got = scaled_dot_product_attention(q, k, v, **MASKS[name])
    want = F.scaled_dot_product_attention(q, k, v, **MASKS[name])
    torch.testing.assert_close(got, want)
    weight = torch.randn_like(want)
    for a, b in zip(
        torch.autograd.grad(got, (q, k, v), weight),
        torch.autograd.grad(want, (q, k, v), weight),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_a_row_with_nothing_to_attend_to_gives_zeros_and_no_nan():
    q, k, v = (draw(1, 2, 3, seed=i).requires_grad_() for i in range(3))
    for mask in (torch.tensor([[True, True], [False, False]]), None):
        mask = torch.tensor([[0.0, 0.0], [-math.inf] * 2]).double() if mask is None else mask
        got = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        assert torch.equal(got[0, 1], torch.zeros(3, dtype=torch.float64))
        assert all(g.isfinite().all() for g in torch.autograd.grad(got.sum(), (q, k, v)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_precision(dtype):
    q, k, v = (draw(2, 4, 6, dtype=dtype, seed=i) for i in range(3))
    got = scaled_dot_product_attention(q, k, v)
    assert got.dtype == dtype
    want = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    torch.testing.assert_close(got.double(), want, rtol=2e-2, atol=2e-2)


def test_groups_of_heads():
    q, k, v = draw(2, 4, 3, 6), draw(2, 2, 5, 6, seed=1), draw(2, 2, 5, 6, seed=2)
    got = scaled_dot_product_attention(q, k, v, enable_gqa=True)
    want = F.scaled_dot_product_attention(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))
    torch.testing.assert_close(got, want)


def test_dropout():
    q, k, v = (draw(2, 40, 6, seed=i) for i in range(3))
    dropped = scaled_dot_product_attention(q, k, v, dropout_p=0.5)
    assert not torch.equal(dropped, scaled_dot_product_attention(q, k, v, dropout_p=0.5))


def test_nested_tensors_are_refused():
    nested = torch.nested.nested_tensor([torch.rand(3, 4), torch.rand(2, 4)], layout=torch.jagged)
    with pytest.raises(NotImplementedError, match="Pad the sequences"):
        scaled_dot_product_attention(nested, nested, nested)


@pytest.mark.parametrize("name", ["none", "causal", "added"])
def test_both_derivatives(name):
    q, k, v = (draw(1, 1, n, 2, seed=i).requires_grad_() for i, n in enumerate((4, 5, 5)))
    arguments = {n: m[:1] if torch.is_tensor(m) else m for n, m in MASKS[name].items()}

    def run(*tensors):
        return scaled_dot_product_attention(*tensors, **arguments)

    assert gradcheck(run, (q, k, v), fast_mode=True)
    assert gradgradcheck(run, (q, k, v), fast_mode=True)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_multi_head_attention(need_weights, masked):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(4, 2, batch_first=True).double().eval().requires_grad_(False)
    x = draw(2, 3, 4).requires_grad_()
    arguments = {"need_weights": need_weights}
    if masked:
        arguments["key_padding_mask"] = torch.tensor([[False, False, True], [False] * 3])
    want, weights = layer(x, x, x, **arguments)
    with sound_gradients(2):
        got, ours = layer(x, x, x, **arguments)
    torch.testing.assert_close(got, want)
    assert (ours is None) == (weights is None) == (not need_weights)

    def run(x):
        with sound_gradients(2):
            return layer(x, x, x, **arguments)[0]

    assert gradgradcheck(run, x, fast_mode=True)

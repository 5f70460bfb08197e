"""Attention spelled out against torch's, and its relevance against loops over the formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck

from captum_robust.attr import EpsilonRule, GammaRule, RelevancePropagation, differentiable
from captum_robust.attr._backward.attention import (
    multi_head_attention_forward,
    scaled_dot_product_attention,
)
from tests.helpers import normal


def masks():
    flags = normal(4, 5, seed=9) > -0.5
    flags[:, 0] = True
    return {"none": None, "flags": flags, "numbers": normal(4, 5, seed=8)}


@pytest.mark.parametrize("mask", ["none", "flags", "numbers", "causal"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_scaled_dot_product(mask, scale):
    query, key, value = (normal(2, 3, n, 4, seed=i) for i, n in enumerate((4, 5, 5)))
    options = {"is_causal": True} if mask == "causal" else {"attn_mask": masks()[mask]}
    got, want = (
        f(query, key, value, scale=scale, **options)
        for f in (scaled_dot_product_attention, F.scaled_dot_product_attention)
    )
    torch.testing.assert_close(got, want)


def test_grouped_queries():
    query, key = normal(2, 4, 3, 4), normal(2, 2, 3, 4, seed=2)
    want = F.scaled_dot_product_attention(query, key, key, enable_gqa=True)
    got = scaled_dot_product_attention(query, key, key, enable_gqa=True)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("kind", ["one weight", "separate weights", "no bias"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("batched", [False, True])
def test_multi_head(kind, masked, batched, monkeypatch):
    options = {"kdim": 6, "vdim": 5} if kind == "separate weights" else {}
    layer = nn.MultiheadAttention(8, 2, bias=kind != "no bias", **options).double()
    shapes = ((4, 8), (5, options.get("kdim", 8)), (5, options.get("vdim", 8)))
    inputs = [normal(*s, seed=i) for i, s in enumerate(shapes)]
    if batched:
        inputs = [torch.stack([x, x.flip(0)], 1) for x in inputs]
    arguments = {"average_attn_weights": False}
    if masked:
        padding = torch.tensor([False, False, True, False, False])
        arguments |= {
            "attn_mask": normal(4, 5, seed=8),
            "key_padding_mask": padding.expand(2, 5) if batched else padding,
        }
        arguments["key_padding_mask"] = arguments["key_padding_mask"].double() * -3
    want = layer(*inputs, **arguments)
    monkeypatch.setattr(F, "multi_head_attention_forward", multi_head_attention_forward)
    for got, expected in zip(layer(*inputs, **arguments), want, strict=True):
        torch.testing.assert_close(got, expected)


# --- The rules, for one head and one example, written out.


def epsilon(z, relevance, small=1e-6):
    return relevance / (z + (small if z >= 0 else -small))


def attention_oracle(q, k, v, relevance):
    """Achtibat et al. 2024: Prop. 3.1 for the softmax, 3.3 for both products."""
    n, m, d = len(q), len(k), len(v[0])
    scores = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in k] for x in q]
    s = torch.tensor(scores).softmax(1).tolist()
    out = [[sum(s[i][j] * v[j][p] for j in range(m)) for p in range(d)] for i in range(n)]
    to_v = [[0.0] * d for _ in range(m)]
    to_s = [[0.0] * m for _ in range(n)]
    for i in range(n):
        for p in range(d):
            ratio = epsilon(out[i][p], relevance[i][p])
            for j in range(m):
                to_s[i][j] += s[i][j] * v[j][p] * ratio / 2
                to_v[j][p] += s[i][j] * v[j][p] * ratio / 2
    to_q = [[0.0] * len(q[0]) for _ in range(n)]
    to_k = [[0.0] * len(q[0]) for _ in range(m)]
    for i in range(n):
        for j in range(m):
            score = scores[i][j] * (to_s[i][j] - s[i][j] * sum(to_s[i]))
            ratio = epsilon(scores[i][j], score)
            for c in range(len(q[0])):
                to_q[i][c] += q[i][c] * k[j][c] * ratio / 2
                to_k[j][c] += q[i][c] * k[j][c] * ratio / 2
    return to_q, to_k, to_v


@pytest.mark.parametrize("fused", [True, False])
def test_relevance_through_one_head(fused):
    q, k, v = (normal(1, n, 3, seed=i).double() for i, n in enumerate((2, 4, 4)))

    def forward(q, k, v):
        if fused:
            return F.scaled_dot_product_attention(q, k, v, scale=1.0)
        return torch.softmax(q @ k.transpose(1, 2), -1) @ v

    explain = RelevancePropagation(forward, None, None)
    got = explain._detached((q, k, v), (1, 2), None)
    start = [[0.0] * 3 for _ in range(2)]
    start[1][2] = 1.0
    want = attention_oracle(*(t[0].tolist() for t in (q, k, v)), start)
    for found, expected in zip(got, want, strict=True):
        torch.testing.assert_close(found[0], torch.tensor(expected).double(), rtol=1e-4, atol=1e-5)
    assert all(found.abs().max() > 1e-3 for found in got)


def test_the_products_conserve_and_attention_weights_can_be_left_out():
    a, b = normal(2, 3, 4).abs(), normal(2, 4, 3, seed=2).abs()
    explain = RelevancePropagation(lambda a, b: a @ b, None, None)
    shares = [r.sum((1, 2)) for r in explain.attribute((a, b), target=(1, 1))]
    for share in shares:
        torch.testing.assert_close(share, torch.full((2,), 0.5).double(), rtol=1e-5, atol=0)
    values = RelevancePropagation(
        lambda x: torch.softmax(x @ x.transpose(1, 2), -1) @ x, None, None, attention_weights=False
    )
    total = values.attribute(a, target=(1, 1)).sum((1, 2))
    torch.testing.assert_close(total, torch.ones(2).double(), rtol=1e-5, atol=0)


class Block(nn.Module):
    """A transformer's block without constants that could take relevance."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.norm, self.last = kind, nn.LayerNorm(8), nn.LayerNorm(8)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mix = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        self.head = nn.Linear(8, 3)
        self.double()

    def forward(self, x):
        y = self.norm(x)
        if self.kind == "module":
            y = self.attend(y, y, y, need_weights=False)[0]
        else:
            y = F.scaled_dot_product_attention(y, y, y)
        x = x + y
        return self.head(self.last(x + self.mix(x)).mean(1))


@pytest.mark.parametrize("kind", ["module", "function"])
@pytest.mark.parametrize("rule", [GammaRule(), EpsilonRule(bias_takes_relevance=False)], ids=repr)
def test_a_transformer_conserves_relevance_with_constant_attention_weights(kind, rule):
    torch.manual_seed(0)
    explain = RelevancePropagation(Block(kind), None, None, rule=rule, attention_weights=False)
    relevance = explain.attribute(normal(2, 5, 8), target=1)
    torch.testing.assert_close(relevance.sum((1, 2)), torch.ones(2).double(), rtol=1e-3, atol=0)
    other = RelevancePropagation(Block(kind), None, None, rule=rule)._detached(
        normal(2, 5, 8), 1, None
    )
    assert not torch.allclose(other, relevance)


@pytest.mark.parametrize("rule", [None, GammaRule(), EpsilonRule(1e-3)], ids=repr)
@pytest.mark.parametrize("fast", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_gradient_is_that_of_finite_differences(rule, fast):
    torch.manual_seed(0)
    explain = differentiable(RelevancePropagation(Block("module"), None, None, rule=rule))
    x = normal(1, 3, 8).requires_grad_()
    assert gradcheck(lambda x: explain(x, target=1), x, fast_mode=fast, atol=1e-4, rtol=1e-3)


def test_masked_logits_get_nothing():
    mask = torch.ones(3, 3, dtype=torch.bool).tril()
    explain = RelevancePropagation(
        lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=mask), None, None
    )
    relevance = explain._detached(normal(2, 3, 4), (0, 0), None)
    assert relevance.isfinite().all()
    assert not relevance[:, 1:].any()
    assert relevance[:, 0].any()


def test_extras_are_refused_with_the_module_named():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend = nn.MultiheadAttention(4, 2, batch_first=True, add_bias_kv=True)

        def forward(self, x):
            return self.attend(x, x, x, need_weights=False)[0].mean(1)

    with pytest.raises(TypeError, match=r"'attend' \(MultiheadAttention\): attention with"):
        RelevancePropagation(Model(), None, None).attribute(torch.rand(2, 3, 4), target=0)

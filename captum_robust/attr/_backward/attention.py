"""Torch's fused attention, spelled out in operations that each have a rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_robust._utils.attention import scaled_dot_product_attention
from captum_robust.attr._backward.unsupported import unsupported


def multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """What ``torch.nn.functional.multi_head_attention_forward`` computes, (L, N, E)."""
    if add_zero_attn or any(t is not None for t in (bias_k, bias_v, static_k, static_v)):
        raise unsupported(_EXTRAS)
    is_batched = query.dim() == 3
    if not is_batched:
        query, key, value = (t.unsqueeze(1) for t in (query, key, value))
        if key_padding_mask is not None:
            key_padding_mask = key_padding_mask.unsqueeze(0)
    weights_of = (q_proj_weight, k_proj_weight, v_proj_weight)
    if not use_separate_proj_weight:
        assert in_proj_weight is not None
        weights_of = in_proj_weight.chunk(3)  # type: ignore[assignment]
    biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    length, batch, width = query.shape

    def heads(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # (N, heads, L, d)
        y = F.linear(x, weight, bias)
        return y.reshape(len(x), batch, num_heads, -1).permute(1, 2, 0, 3)

    q, k, v = (
        heads(x, w, b)  # type: ignore[arg-type]
        for x, w, b in zip((query, key, value), weights_of, biases, strict=True)
    )
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
    mask = _added(attn_mask, key_padding_mask, scores, num_heads)
    if mask is not None:
        scores = scores + mask
    weights = torch.softmax(scores, -1)
    if training and dropout_p:
        weights = torch.dropout(weights, dropout_p, True)
    mixed = (weights @ v).permute(2, 0, 1, 3).reshape(length, batch, width)
    output = F.linear(mixed, out_proj_weight, out_proj_bias)
    shown = weights.mean(1) if average_attn_weights else weights
    if not is_batched:
        output, shown = output.squeeze(1), shown.squeeze(0)
    return output, shown if need_weights else None


def _added(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, scores: Tensor, num_heads: int
) -> Tensor | None:
    """The masks as numbers to add to the scores, (N, heads, L, S)."""
    masks = []
    if attn_mask is not None:
        by_head = attn_mask.dim() == 3
        masks.append(attn_mask.unflatten(0, (-1, num_heads)) if by_head else attn_mask)
    if key_padding_mask is not None:
        masks.append(key_padding_mask[:, None, None, :])
    total: Any = None
    for mask in masks:
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=scores.dtype).masked_fill(mask, -torch.inf)
        total = mask if total is None else total + mask
    return total


_EXTRAS = (
    "attention with add_bias_kv or add_zero_attn has no rule of relevance propagation. Build the "
    "layer without them, or explain with the gradient."
)

EXPANSIONS: dict[str, Callable[..., Any]] = {
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "multi_head_attention_forward": multi_head_attention_forward,
}

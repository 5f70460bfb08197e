"""Attention in operations that have a second derivative; torch's fused kernels have none."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_HALF = (torch.float16, torch.bfloat16)
_MULTI_HEAD = inspect.signature(F.multi_head_attention_forward)


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    r"""The function of that name in torch: :math:`\mathrm{softmax}(s\,Q K^\top + M)\,V`."""
    if query.is_nested or key.is_nested:
        raise NotImplementedError(
            "attention of nested tensors has no second derivative. Pad the sequences, and mask the "
            "padding."
        )
    dtype = query.dtype
    if dtype in _HALF:  # as torch does
        query, key, value = query.float(), key.float(), value.float()
    if enable_gqa:
        key, value = (x.repeat_interleave(query.size(-3) // x.size(-3), -3) for x in (key, value))
    scale = 1 / math.sqrt(query.size(-1)) if scale is None else scale
    scores = (query * scale) @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = scores.new_ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        else:
            scores = scores + attn_mask
        # A row without anything to attend to gives zeros, not NaN; nor does its gradient.
        empty = (scores == -math.inf).all(-1, keepdim=True)
        weights = scores.masked_fill(empty, 0.0).softmax(-1).masked_fill(empty, 0.0)
    else:
        weights = scores.softmax(-1)
    if dropout_p > 0:
        weights = F.dropout(weights, dropout_p)
    return (weights @ value).to(dtype)


def multi_head_attention_forward(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """The function of that name in torch, by way of the weights even if nobody asks for them."""
    bound = _MULTI_HEAD.bind(*args, **kwargs)
    wanted = bound.arguments.get("need_weights", True)
    bound.arguments["need_weights"] = True
    output, weights = F.multi_head_attention_forward(*bound.args, **bound.kwargs)
    return output, weights if wanted else None

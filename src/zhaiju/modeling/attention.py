"""Attention with dropout on a CPU, in the precision of its inputs.

Where attention weights are dropped, PyTorch has no fused kernel on a CPU: it draws a number for every weight one after
another and, of bf16 inputs, multiplies in fp32. Here masks are made from random bytes, matrix products keep the inputs'
precision, and the weights are worked on in slices that stay in the cache. A weight's sign says whether it was dropped,
so the backward pass needs no mask beside the weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from zhaiju.modeling.dropout import QuickDropout

NAME = "zhaiju"
SLICE = 1 << 22  # weights that are worked on at a time


class _Dropped(torch.autograd.Function):
    """softmax(q k^T + mask) v with dropped weights, all of [n, heads, T, ...]."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: QuickDropout, scaling: float
    ) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            # Once, and not for every slice and again on the way back.
            query, key, value = (query * scaling).contiguous(), key.contiguous(), value.contiguous()
            output = torch.empty_like(query)
            kept = []
            for part in _slices(query, key):
                scores = query[part] @ key[part].transpose(-1, -2)  # [s, heads, T, T]
                if mask is not None:
                    _hide(scores, mask[part] if len(mask) > 1 else mask)
                weights = torch.softmax(scores, -1)
                signs = dropout.kept(weights.shape, weights.dtype) * 2 - 1
                weights.mul_(signs)
                torch.matmul(torch.relu(weights), value[part], out=output[part])
                kept.append(weights)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.p, ctx.scaling = dropout.p, scaling
        return output.mul_(1 / (1 - dropout.p))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        gradient = (gradients[0] * (1 / (1 - ctx.p))).contiguous()
        to_query, to_key, to_value = (torch.empty_like(tensor) for tensor in (query, key, value))
        for part, weights in zip(_slices(query, key), kept, strict=True):
            torch.matmul(torch.relu(weights).transpose(-1, -2), gradient[part], out=to_value[part])
            to_weights = gradient[part] @ value[part].transpose(-1, -2)
            to_weights = torch.ops.aten.threshold_backward(to_weights, weights, 0)
            to_scores = torch._softmax_backward_data(to_weights, weights.abs(), -1, weights.dtype)
            torch.matmul(to_scores, key[part], out=to_query[part])
            torch.matmul(to_scores.transpose(-1, -2), query[part], out=to_key[part])
        return to_query.mul_(ctx.scaling), to_key, to_value, None, None, None


def _slices(query: Tensor, key: Tensor) -> list[slice]:
    count, heads, length, _ = query.shape
    step = max(1, SLICE // (heads * length * key.shape[2]))
    return [slice(at, at + step) for at in range(0, count, step)]


def _hide(scores: Tensor, mask: Tensor) -> None:
    if mask.dtype == torch.bool:
        scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
    else:
        scores.add_(mask)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers, PyTorch's own where that is fast.

    Args:
        module: The layer; dropout's masks come from its `dropout` if that is a `QuickDropout`.
        query: [n, heads, T, D].
        key: [n, heads, T, D].
        value: [n, heads, T, D].
        attention_mask: bool or float, broadcastable to [n, heads, T, T].
        dropout: Probability that a weight is dropped.
        scaling: Of the products; None: the root of 1 / D.
        is_causal: Whether nothing later is looked at; left to PyTorch.
        options: For PyTorch's.

    Returns:
        [n, T, heads, D], and None for the weights.
    """
    quick = dropout and query.device.type == "cpu" and query.shape == key.shape == value.shape
    if not quick or is_causal or getattr(module, "is_causal", False):
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **options
        )
    source = getattr(module, "dropout", None)
    if not isinstance(source, QuickDropout) or source.p != dropout:
        source = QuickDropout(dropout)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    output: Tensor = _Dropped.apply(query, key, value, attention_mask, source, scaling)  # type: ignore[no-untyped-call]
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def quick_attention(model: Any) -> None:
    """Let a transformers model that uses PyTorch's attention use this one; what is saved of it does not change."""
    if getattr(model.config, "_attn_implementation", None) == "sdpa":
        model.set_attn_implementation(NAME)

"""Attention, written out: products, a softmax, masks. Every order is exact, and costs the full matrix of weights."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from neo.functions.attention_core import attend, attend_within, takes
from neo.functions.elementwise import is_number
from neo.functions.registry import implements, raw
from neo.guards import known

HALF = (torch.float16, torch.bfloat16)


@implements(F.scaled_dot_product_attention, scalars=("scale",))
def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    """softmax(Q Kᵀ s + M) V;  Q (.., l, e), K (.., t, e), V (.., t, v) → (.., l, v).

    attn_mask: bool (True takes part) or floating-point (M, added, differentiated), broadcast to (.., l, t). A row with
    nothing to attend to gives zeros. is_causal: place i attends to places ≤ i. scale: s, 1/√e by default.
    dropout_p: of the weights, always applied, as in torch. enable_gqa: fewer heads (dim −3) of keys than of queries.
    Vaswani et al. 2017, arXiv:1706.03762, equation 1.
    """
    if is_causal and attn_mask is not None:
        raise RuntimeError(
            "scaled_dot_product_attention: Explicit attn_mask should not be set when is_causal=True"
        )
    if enable_gqa:
        key, value = (
            t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) if t.shape[-3] != query.shape[-3] else t
            for t in (key, value)
        )
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if attn_mask is None and not dropout_p and is_number(scale) and _stacks_alike(query, key, value):
        return attend(query, key, value, is_causal, scale)
    if (
        query.dtype in HALF
    ):  # scores rounded to 8 or 11 bits would be far off; torch's kernels keep them in float32 too
        mask = attn_mask.float() if attn_mask is not None and attn_mask.is_floating_point() else attn_mask
        wide = (query.float(), key.float(), value.float())
        out = scaled_dot_product_attention(*wide, mask, dropout_p, is_causal, scale)
        return out.to(query.dtype)
    if is_number(scale):
        root = math.sqrt(abs(scale))  # on both sides, so that neither product overflows
        scores = torch.matmul(query * math.copysign(root, scale), key.transpose(-2, -1) * root)
    else:  # whose root has no derivative at 0
        scores = torch.matmul(query * scale, key.transpose(-2, -1))
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None:
        boolean = attn_mask.dtype is torch.bool
        scores = torch.where(attn_mask, scores, -math.inf) if boolean else scores + attn_mask
    # Without a mask, or with this one, every place has one to attend to.
    softmax = torch.softmax if attn_mask is None or is_causal else safe_softmax
    weights = softmax(scores, -1)
    return torch.matmul(F.dropout(weights, dropout_p) if dropout_p else weights, value)


def _stacks_alike(query: Any, key: Any, value: Any) -> bool:
    """Whether these are stacks of the same heads of the same sequences, which Neo's kernels take as they lie."""
    if not query.ndim == key.ndim == value.ndim == 4 or not takes(query, key, value):
        return False
    alike = query.shape[:2] == key.shape[:2] == value.shape[:2]
    return alike and query.shape[-1] == key.shape[-1] and key.shape[-2] == value.shape[-2]


def safe_softmax(x, dim, dtype=None):
    """softmax over dim; zeros, with gradient zero, where all of x is −∞."""
    x = x if dtype is None else x.to(dtype)
    if x.numel() == 0:
        return torch.softmax(x, dim)
    empty = raw(x).amax(dim, keepdim=True) == -math.inf
    if known(empty.any()) is False:
        return torch.softmax(x, dim)
    return torch.where(empty, 0.0, torch.softmax(torch.where(empty, 0.0, x), dim))


_safe_softmax = torch.ops.aten._safe_softmax
implements(_safe_softmax.default, _safe_softmax, only=True)(safe_softmax)


# --- many heads ----------------------------------------------------------------------------------------------


@implements(F.multi_head_attention_forward)
def multi_head_attention_forward(
    query,
    key,
    value,
    embed_dim_to_check,
    num_heads,
    in_proj_weight,
    in_proj_bias,
    bias_k,
    bias_v,
    add_zero_attn,
    dropout_p,
    out_proj_weight,
    out_proj_bias,
    training=True,
    key_padding_mask=None,
    need_weights=True,
    attn_mask=None,
    use_separate_proj_weight=False,
    q_proj_weight=None,
    k_proj_weight=None,
    v_proj_weight=None,
    static_k=None,
    static_v=None,
    average_attn_weights=True,
    is_causal=False,
):
    """What nn.MultiheadAttention computes: query (l, n, e), key and value (t, n, ·), n or not → ((l, n, e), weights).

    weights (n, l, t), averaged over heads, or (n, heads, l, t); None unless need_weights. Masks: True is left out,
    floats are added; attn_mask (l, t) or (n heads, l, t), key_padding_mask (n, t). Arguments as torch's.
    """
    batched = query.ndim == 3
    if not batched:
        query, key, value = (t.unsqueeze(1) for t in (query, key, value))
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    length, n, width = query.shape
    if width != embed_dim_to_check:
        raise AssertionError(
            f"multi_head_attention_forward: was expecting embedding dimension of {embed_dim_to_check}, but got {width}"
        )
    if width % num_heads:
        raise AssertionError(
            f"multi_head_attention_forward: embed_dim {width} not divisible by num_heads {num_heads}"
        )
    if is_causal and attn_mask is None:
        raise RuntimeError("multi_head_attention_forward: Need attn_mask if specifying the is_causal hint")
    apart = (q_proj_weight, k_proj_weight, v_proj_weight)
    if query is key is value and not use_separate_proj_weight:  # one product for the three
        rows = F.linear(query, in_proj_weight, in_proj_bias)
        plain = attn_mask is None and key_padding_mask is None and not (need_weights or add_zero_attn)
        if (
            plain
            and (bias_k, static_k, static_v) == (None,) * 3
            and not (training and dropout_p)
            and takes(rows)
        ):
            out = attend_within(rows, num_heads, places_first=True)
            out = F.linear(out, out_proj_weight, out_proj_bias)
            return out if batched else out.squeeze(1), None
        q, k, v = rows.chunk(3, -1)
    else:
        weights_in = apart if use_separate_proj_weight else in_proj_weight.chunk(3)
        biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
        q, k, v = (F.linear(t, w, b) for t, w, b in zip((query, key, value), weights_in, biases, strict=True))
    if bias_k is not None:
        k, v = (torch.cat([t, b.expand((1, n, width))]) for t, b in ((k, bias_k), (v, bias_v)))
    extra = int(bias_k is not None)  # places that no mask leaves out

    def by_head(t: Any) -> Any:  # (length, n, width) -> (n, heads, length, width of a head)
        return t.reshape((t.shape[0], n, num_heads, width // num_heads)).permute((1, 2, 0, 3))

    q = by_head(q)
    k = by_head(k) if static_k is None else static_k.reshape((n, num_heads, *static_k.shape[1:]))
    v = by_head(v) if static_v is None else static_v.reshape((n, num_heads, *static_v.shape[1:]))
    if add_zero_attn:
        k, v = (F.pad(t, (0, 0, 0, 1)) for t in (k, v))
        extra += 1
    mask = _joined_mask(attn_mask, key_padding_mask, extra, (n, num_heads), q.dtype)
    scores = torch.matmul(q * math.sqrt(1 / q.shape[-1]), k.transpose(-2, -1))
    if mask is not None:
        scores = scores + mask
    weights = torch.softmax(scores, -1) if need_weights or mask is None else safe_softmax(scores, -1)
    if training and dropout_p:
        weights = F.dropout(weights, dropout_p)
    heads = torch.matmul(weights, v).permute((2, 0, 1, 3)).reshape((length * n, width))
    out = F.linear(heads, out_proj_weight, out_proj_bias).reshape((length, n, -1))
    if average_attn_weights and need_weights:
        weights = weights.mean(1)
    if not batched:
        out, weights = out.squeeze(1), weights.squeeze(0)
    return out, weights if need_weights else None


def _joined_mask(attn_mask: Any, padding: Any, extra: int, heads: tuple[int, int], dtype: torch.dtype) -> Any:
    """What both masks add to the scores (n, heads, l, t), the last `extra` places free of either; None for no mask."""
    total = None
    if attn_mask is not None:
        total = _added(attn_mask, dtype)
        total = total.reshape((*heads, *total.shape[1:])) if total.ndim == 3 else total
    if padding is not None:
        by_key = _added(padding, dtype).unsqueeze(1).unsqueeze(1)
        total = by_key if total is None else total + by_key
    return total if total is None or not extra else F.pad(total, (0, extra))


def _added(mask: Any, dtype: torch.dtype) -> Any:
    """A mask as numbers to add: −∞ where a boolean one is True."""
    if mask.is_floating_point():
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(raw(mask), -math.inf)

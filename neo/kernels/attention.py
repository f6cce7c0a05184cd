"""Attention's core, softmax(s Q Kᵀ) V, its gradient and that one's own: on Neo's kernels, or on torch's.

They are Neo's where `use_rows` has named them (heads.h): a head at a time, read and written where it lies among the
others, so that no dims are moved and nothing is joined. What the kernels do not take (other dtypes, transforms, GPUs)
goes to the function beside each name below. neo/functions/attention_core.py has the formulas.

Queries, keys and values come in a tuple of tensors: of three stacks (sequences, heads, places, width), with heads 0; or
of one tensor (sequences, places, 3 · heads · width), the queries of all heads first in a row, then the keys, then the
values; with places_first (places, sequences, ..).
"""

from __future__ import annotations

from typing import Any

import torch

from neo.kernels.direct import bound

__all__ = [
    "apart",
    "attention",
    "attention_gradient",
    "attention_second_order",
    "by_head",
    "from_heads",
    "weights_of",
]


def by_head(x: Any, parts: int, heads: int, places_first: bool) -> tuple[Any, ...]:
    """(sequences, places, parts · heads · width) → `parts` stacks (sequences, heads, places, width), views of it."""
    x = x.reshape((*x.shape[:2], parts, heads, -1))
    x = x.permute((2, 1, 3, 0, 4) if places_first else (2, 0, 3, 1, 4))
    return tuple(x[i] for i in range(parts))


def from_heads(stacks: tuple[Any, ...], places_first: bool) -> Any:
    """The tensor that by_head makes these of."""
    dims = (2, 0, 1, 3) if places_first else (0, 2, 1, 3)
    return torch.cat([x.permute(dims).flatten(2) for x in stacks], -1)


def apart(tensors: tuple[Any, ...], heads: int, places_first: bool) -> tuple[Any, ...]:
    """Queries, keys and values as stacks."""
    return by_head(tensors[0], 3, heads, places_first) if heads else tensors


def weights_of(q: Any, k: Any, causal: bool, scale: float) -> Any:
    """softmax(s Q Kᵀ), of stacks; causal: of the keys of no later place."""
    scores = torch.matmul(q * scale, k.transpose(-2, -1))
    if causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = torch.where(seen, scores, -torch.inf)
    return torch.softmax(scores, -1)


def _out_of(stack: Any, heads: int, places_first: bool) -> Any:
    return from_heads((stack,), places_first) if heads else stack


def _attention(tensors: Any, heads: int, places_first: bool, causal: bool, scale: float) -> tuple[Any, Any]:
    q, k, v = apart(tensors, heads, places_first)
    weights = weights_of(q, k, causal, scale)
    return _out_of(torch.matmul(weights, v), heads, places_first), weights


def _gradient(
    g: Any, tensors: Any, weights: Any, heads: int, places_first: bool, scale: float, needs: Any
) -> tuple[Any, ...]:
    q, k, v = apart(tensors, heads, places_first)
    (g,) = by_head(g, 1, heads, places_first) if heads else (g,)
    need_q, need_k, need_v = needs * 3 if heads else needs
    d = torch.matmul(g, v.transpose(-2, -1))
    d = weights * (d - (d * weights).sum(-1, True)) * scale
    q_bar = torch.matmul(d, k) if need_q else None
    k_bar = torch.matmul(d.transpose(-2, -1), q) if need_k else None
    v_bar = torch.matmul(weights.transpose(-2, -1), g) if need_v else None
    if heads:
        return (from_heads((q_bar, k_bar, v_bar), places_first) if needs[0] else None,)
    return q_bar, k_bar, v_bar


def _second_order(
    cotangents: Any,
    g: Any,
    tensors: Any,
    weights: Any,
    heads: int,
    places_first: bool,
    scale: float,
    needs: Any,
) -> tuple[Any, tuple[Any, ...]]:
    need_g, *need_tensors = needs
    if all(cotangent is None for cotangent in cotangents):
        return None, tuple(None for _ in tensors)
    q, k, v = apart(tensors, heads, places_first)
    of_q, of_k, of_v = apart(cotangents, heads, places_first)
    z = _total(
        None if of_q is None else torch.matmul(of_q, k.transpose(-2, -1)),
        None if of_k is None else torch.matmul(q, of_k.transpose(-2, -1)),
    )
    z_mean: Any = None
    y = g_out = None
    if z is not None:
        z = z * scale
        z_mean = (z * weights).sum(-1, True)
        y = weights * (z - z_mean)
    if need_g:
        g_out = _total(
            None if y is None else torch.matmul(y, v), None if of_v is None else torch.matmul(weights, of_v)
        )
        g_out = _out_of(g_out, heads, places_first)
    if not any(need_tensors):
        return g_out, tuple(None for _ in tensors)
    (g,) = by_head(g, 1, heads, places_first) if heads else (g,)
    d = torch.matmul(g, v.transpose(-2, -1))
    away = d - (d * weights).sum(-1, True)
    r = None if of_v is None else torch.matmul(g, of_v.transpose(-2, -1))
    r = _total(r, None if z is None else z * away - d * z_mean)
    r = weights * (r - (r * weights).sum(-1, True)) * scale
    d = weights * away * scale
    v_out = None if y is None else torch.matmul(y.transpose(-2, -1), g)
    q_out = _total(torch.matmul(r, k), None if of_k is None else torch.matmul(d, of_k))
    k_out = _total(
        torch.matmul(r.transpose(-2, -1), q),
        None if of_q is None else torch.matmul(d.transpose(-2, -1), of_q),
    )
    if heads:
        v_out = torch.zeros_like(v) if v_out is None else v_out
        return g_out, (from_heads((q_out, k_out, v_out), places_first),)
    found = (q_out, k_out, v_out)
    return g_out, tuple(x if need else None for x, need in zip(found, need_tensors, strict=True))


def _total(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else a + b


attention = bound("attention", _attention)
"""(tensors, heads, places_first, causal, scale) → out, as a stack or (sequences, places, heads · width) or with places
first, and the weights (sequences, heads, places, keys)."""
attention_gradient = bound("attention_gradient", _gradient)
"""(g, tensors, weights, heads, places_first, scale, needs) → the gradient of each tensor, None where not needed."""
attention_second_order = bound("attention_second_order", _second_order)
"""(cotangents of those gradients, g, tensors, weights, heads, places_first, scale, needs) → that of g, and of each
tensor; None for zero and for what is not needed. g may be None where the tensors' are not needed."""

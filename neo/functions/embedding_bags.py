"""Rows of a table summed up by bags."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from neo.functions.registry import implements, raw


@implements(F.embedding_bag, only=True, name="embedding_bag")
def embedding_bag(
    x,
    weight,
    offsets=None,
    max_norm=None,
    norm_type=2,
    scale_grad_by_freq=False,
    mode="mean",
    sparse=False,
    per_sample_weights=None,
    include_last_offset=False,
    padding_idx=None,
):
    """The rows of weight (rows, width) that each bag of x names, by "sum", "mean" or "max" → (bags, width).

    x: integers (bags, length), or (total,) with offsets (bags,), where each bag starts; include_last_offset: and where
    the last one ends. per_sample_weights: a factor for each row, in the shape of x, for mode="sum". padding_idx: the
    row that counts for nothing. An empty bag gives zeros. Ties of "max" go to the first.
    """
    if max_norm is not None:
        raise NotImplementedError(
            "embedding_bag: max_norm renormalises the weight in place; normalise a copy of it instead"
        )
    if scale_grad_by_freq or sparse:
        raise NotImplementedError("embedding_bag: scale_grad_by_freq and sparse are not supported")
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f'embedding_bag: mode has to be one of sum, mean or max, got "{mode}"')
    if per_sample_weights is not None and mode != "sum":
        raise NotImplementedError(
            f"embedding_bag: per_sample_weights was not None, which mode='sum' alone supports, got mode={mode!r}"
        )
    places, starts = raw(x), raw(offsets)
    if places.ndim == 2:
        if starts is not None:
            raise ValueError("embedding_bag: if input is 2D, then offsets has to be None")
        bags, length = places.shape
        bag = torch.arange(bags, device=places.device).repeat_interleave(length)
    elif places.ndim == 1:
        if starts is None:
            raise ValueError("embedding_bag: offsets has to be a 1D Tensor but got None")
        bags = starts.shape[0] - int(include_last_offset)
        bag = (
            torch.bucketize(torch.arange(places.shape[0], device=places.device), starts[:bags], right=True)
            - 1
        )
    else:
        raise ValueError(
            f"embedding_bag: input has to be 1D or 2D Tensor, but got Tensor of dimension {places.ndim}"
        )
    places = places.reshape(-1)
    factors = None if per_sample_weights is None else per_sample_weights.reshape((-1,))
    counted = torch.ones_like(places, dtype=weight.dtype)
    rows = torch.index_select(weight, 0, places)
    if factors is not None:
        rows = rows * factors.unsqueeze(1)
    if padding_idx is not None:  # in a bag of its own, which is dropped: no number of them need be known
        padding = places == padding_idx % weight.shape[0]
        bag = torch.where(padding, bags, bag)
        return _reduced(rows, counted, bag, bags + 1, mode, weight)[:bags]
    return _reduced(rows, counted, bag, bags, mode, weight)


def _reduced(rows, counted, bag, bags, mode, weight):
    if mode == "max":
        return _largest(rows, bag, bags)
    zeros = torch.zeros((bags, weight.shape[1]), dtype=weight.dtype, device=weight.device)
    total = torch.index_add(zeros, 0, bag, rows)
    if mode == "sum":
        return total
    members = torch.zeros(bags, dtype=weight.dtype, device=weight.device).index_add(0, bag, counted)
    return total / members.clamp(min=1).unsqueeze(1)


def _largest(rows, bag, bags):
    """The largest entry of each column in each bag, the first where several are; 0 for an empty bag."""
    values = raw(rows)
    index = bag.unsqueeze(1).expand(values.shape)
    floor = values.new_full((bags, values.shape[1]), -torch.inf)
    top = floor.scatter_reduce(0, index, values, "amax")
    order = torch.arange(values.shape[0], device=values.device).unsqueeze(1).expand(values.shape)
    last = values.shape[0]
    holders = torch.where(values == top.gather(0, index), order, last)
    first = torch.full((bags, values.shape[1]), last, device=values.device).scatter_reduce(
        0, index, holders, "amin"
    )
    empty = first == last
    if last == 0:
        return rows.sum() + torch.zeros((bags, values.shape[1]), dtype=values.dtype, device=values.device)
    return torch.where(empty, 0.0, torch.gather(rows, 0, torch.where(empty, 0, first)))

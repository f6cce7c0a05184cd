"""The mean over the tasks of a meta-batch, with one order of additions whoever computes which of them.

Sums of floating-point numbers depend on their order, so a mean over 32 tasks would change in its last bits with the
number of processes that share them. Here the order is a property of the slots alone, a binary tree over them:

    slots   0   1   2   3   4   5   6   7   8   9  10
            └─┬─┘   └─┬─┘   └─┬─┘   └─┬─┘   └─┬─┘   │
              └───┬───┘       └───┬───┘       │     │
                  └───────┬───────┘           │     │
            blocks        8                   2     1

A node is the sum of its two children; what is left beside the largest trees is added in at the end, and the division
comes last. Any run of slots is made of whole nodes, so that a process which has a share of the slots can average its
own, and the means of all shares give the same bits as one process with all slots: a block is a power of two, by which
dividing and multiplying do not round. The rounding error grows with log(tasks) instead of tasks, which is why numerical
libraries sum in pairs too.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from typing import Any

import torch

from neo import LiteTensor, autograd, pytree
from neo.typing import PyTree

__all__ = ["blocks", "mean", "mean_of_rows", "pieces"]


def blocks(slots: range) -> list[range]:
    """The fewest nodes of the tree that make up `slots`, in order: ranges [i 2ᵏ, (i + 1) 2ᵏ).

    slots: start ≥ 0, step 1. A share of 2ᵏ slots at a multiple of 2ᵏ is one block; another one is 2 log₂ of its
    length at most.
    """
    found = []
    first = slots.start
    while first < slots.stop:
        size = 1 << ((slots.stop - first).bit_length() - 1)  # the largest that fits ...
        if first:
            size = min(size, first & -first)  # ... and that starts at a multiple of itself
        found.append(range(first, first + size))
        first += size
    return found


def pieces(slots: range, most: int) -> list[range]:
    """Nodes of the tree that make up `slots`, in order, of no more than `most` slots each, ≥ 1."""
    length = 1 << (most.bit_length() - 1)
    return [
        range(first, min(first + length, block.stop))
        for block in blocks(slots)
        for first in range(block.start, block.stop, length)
    ]


def mean(means: Iterable[PyTree], sizes: Iterable[int] = repeat(1)) -> PyTree:
    """The mean over all slots from 0 on, of the means over consecutive blocks of them.

    Args:
        means: pytrees of tensors or LiteTensors, in the order of the slots; with sizes left out, one for each slot.
        sizes: of the blocks, as blocks() cuts them.
    Raises: ValueError if there is nothing to average, or the trees differ in structure.
    """
    # The nodes without a parent so far, each with its size; sizes fall from left to right.
    tower: list[tuple[int, list[Any]]] = []
    like: Any = None
    for size, tree in zip(sizes, means, strict=False):
        leaves: list[Any]
        leaves, spec = pytree.flatten(tree)
        like = like or (spec, leaves)
        if spec != like[0]:
            raise ValueError(f"mean: expected trees of one structure, got {spec} after {like[0]}")
        node = leaves if autograd.TapeContext.current() is not None else [_raw(leaf) for leaf in leaves]
        if size != 1:
            node = [leaf * size for leaf in node]
        while tower and tower[-1][0] == size:
            size, node = 2 * size, _sums(tower.pop()[1], node)
        tower.append((size, node))
    if not tower:
        raise ValueError("mean: there is nothing to average, expected at least one task")
    spec, first = like
    total = sum(size for size, _ in tower)
    sums = tower.pop(0)[1]
    for _, node in tower:
        sums = _sums(sums, node)
    average = sums if total == 1 else [leaf / total for leaf in sums]
    wrapped = [
        LiteTensor(leaf) if isinstance(given, LiteTensor) and not isinstance(leaf, LiteTensor) else leaf
        for given, leaf in zip(first, average, strict=True)
    ]
    return pytree.unflatten(spec, wrapped)


SMALL = 1 << 20  # entries, beyond which a copy of them costs more than calls


def mean_of_rows(stacked: PyTree) -> PyTree:
    """mean() of the trees that are stacked in the first dim of each leaf, bit for bit, in log₂(rows) additions.

    Raises: ValueError where there are no rows.
    """
    leaves: list[Any]
    leaves, spec = pytree.flatten(stacked)
    rows = len(leaves[0])
    if rows == 0:
        raise ValueError("mean: there is nothing to average, expected at least one task")
    recorded = autograd.TapeContext.current() is not None
    values = leaves if recorded else [_raw(leaf) for leaf in leaves]
    alike = len({(value.dtype, value.device) for value in values}) == 1
    if alike and not recorded and sum(value.numel() for value in values) < SMALL:
        # One addition for all leaves.
        average = _tree_of_rows(torch.cat([value.reshape(rows, -1) for value in values], 1))
        sizes = [value[0].numel() for value in values]
        means = [part.view(value.shape[1:]) for part, value in zip(average.split(sizes), values, strict=True)]
    else:
        means = [_tree_of_rows(value) for value in values]
    wrapped = [
        LiteTensor(value) if isinstance(leaf, LiteTensor) and not recorded else value
        for leaf, value in zip(leaves, means, strict=True)
    ]
    return pytree.unflatten(spec, wrapped)


def _tree_of_rows(x: Any) -> Any:
    """The mean of x over its first dim, added up as the tree has it."""
    total: Any = None
    for block in blocks(range(len(x))):
        node = x[block.start : block.stop]
        while len(node) > 1:
            node = node[::2] + node[1::2]
        total = node[0] if total is None else total + node[0]
    return total / len(x)


def _sums(left: list[Any], right: list[Any]) -> list[Any]:
    if all(isinstance(leaf, torch.Tensor) for leaf in left):
        return list(torch._foreach_add(left, right))  # one call for all parameters
    return [a + b for a, b in zip(left, right, strict=True)]


def _raw(leaf: Any) -> Any:
    return leaf.data if isinstance(leaf, LiteTensor) else leaf

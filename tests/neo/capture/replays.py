"""Steps beside their captured selves, on inputs drawn by number."""

from __future__ import annotations

import torch

import neo
from neo import LiteTensor


def leaves(tree):
    return [leaf.data if isinstance(leaf, LiteTensor) else leaf for leaf in neo.pytree.flatten(tree)[0]]


def assert_same(found, expected):
    assert neo.pytree.structure(found) == neo.pytree.structure(expected)
    for one, other in zip(leaves(found), leaves(expected), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert ((one == other) | (one.isnan() & other.isnan())).all()


def assert_replays(step, inputs, calls=6, **constants):
    """The captured step against the step; inputs(i) gives the arguments of call i. The step runs thrice at most."""
    runs = 0

    def counted(*args, **kwargs):
        nonlocal runs
        runs += 1
        return step(*args, **kwargs)

    captured = neo.capture(counted)
    kept = []
    for i in range(calls):
        kept.append((captured(*inputs(i), **constants), step(*inputs(i), **constants)))
    for found, expected in kept:  # earlier results outlive later replays
        assert_same(found, expected)
    assert runs == 3  # the first call, its recording, and the comparison with the first replay


def draw(i, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(i * 1000 + sum(shape)))

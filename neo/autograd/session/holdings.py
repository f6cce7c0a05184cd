"""What a session's tape holds when its walk back begins, by Policy: the memory that its gradient costs."""

from __future__ import annotations

import functools
import gc
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from neo.autograd._context import PolicyBase
from neo.autograd._stack import TapeContext, observe
from neo.autograd._tape import Tape
from neo.autograd.tensor import LiteTensor

__all__ = ["held_bytes"]

CONTAINERS = dict | list | tuple | set | types.MethodType | functools.partial


def held_bytes(fn: Callable[[], Any], known: Iterable[Any] = ()) -> dict[str, int]:
    """Run fn, and give the bytes that the first session in it to walk back held by then, by Policy, the most first.

    Memory that several nodes hold counts for the first of them; that of the `known` tensors, which is there anyway, for
    none. A node made by hand (a checkpoint, a gradient in mixed mode) counts by its name, for what its rule keeps.
    Raises: what fn raises. Cost: fn once, and a look at every node of that tape.
    """
    holdings = _Holdings({_storage(tensor) for tensor in known})
    TapeContext.push(
        Tape()
    )  # tracks nothing, so that nothing is recorded on it: an observer needs an open tape
    before = observe(holdings)
    try:
        fn()
    finally:
        observe(before)
        TapeContext.pop()
    return dict(sorted(holdings.bytes.items(), key=lambda item: -item[1]))


class _Holdings:
    """Told by the tapes of a thread what they do (_stack.observe)."""

    def __init__(self, seen: set[int]):
        self.seen, self.bytes = seen, dict[str, int]()
        self.level = 0  # of the innermost open session
        self.done = False

    def recorded(self, *op: Any) -> None: ...

    def renamed(self, *tensors: Any) -> None: ...

    def opened(self, tape: Tape) -> None:
        self.level += 1

    def closed(self, tape: Tape) -> None:
        self.level -= 1

    @contextmanager
    def walking(self, tape: Tape) -> Iterator[None]:
        if self.level == 0 and not self.done:
            self.done = True
            for node in tape.nodes:
                self.bytes[node.name] = self.bytes.get(node.name, 0) + self._new(node.policy)
        yield

    def _new(self, policy: PolicyBase) -> int:
        size = 0
        for tensor in _tensors(policy):
            place = _storage(tensor)
            if place not in self.seen:
                self.seen.add(place)
                size += tensor.untyped_storage().nbytes()
        return size


def _tensors(policy: PolicyBase) -> Iterator[torch.Tensor]:
    """The tensors that a Policy refers to: in its context, in containers, in what functions close over, and in the
    fields of Neo's own objects."""
    waiting, met = gc.get_referents(policy), set[int]()
    while waiting:
        value = waiting.pop()
        if id(value) in met or isinstance(value, Tape | type):
            continue
        met.add(id(value))
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, LiteTensor):
            yield value.data
        elif isinstance(value, types.FunctionType):  # and not its globals
            waiting += [*gc.get_referents(*(value.__closure__ or ())), *(value.__defaults__ or ())]
        elif isinstance(value, CONTAINERS) or type(value).__module__.startswith("neo."):
            waiting += gc.get_referents(value)


def _storage(tensor: Any) -> int:
    raw = tensor.data if isinstance(tensor, LiteTensor) else tensor
    return raw.untyped_storage()._cdata

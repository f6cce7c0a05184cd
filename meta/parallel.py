"""The tasks of a meta-batch: side by side on threads, or all in one call of each kernel."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch

import neo
from neo import pytree
from neo.autograd import autocast

__all__ = ["Batched", "Workers", "unstacked"]

TOGETHER = 2  # results of each worker that are handed on at a time

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Maps a function over tasks, on `count` threads with one kernel thread each.

    Small kernels gain little from two threads and a great deal from two tasks: each task's tensors stay in the cache of
    one core, and nothing waits at the end of every kernel. Each task is computed exactly as it would be alone, and
    results come in the order of the items, so that what is made of them does not depend on `count`.

    Args:
        count: threads, ≥ 1; 1 runs in the calling thread, with one kernel thread too. None: in the calling thread
            with torch's own number of kernel threads, as for a GPU.
    """

    def __init__(self, count: int | None = None) -> None:
        if count is not None and count < 1:
            raise ValueError(
                f"Workers: count must be at least 1, or None for the calling thread alone; got {count}"
            )
        self.count = count
        self._pool: ThreadPoolExecutor | None = None

    def map(self, fn: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """[fn(item) for item in items]. The first exception of an item is raised; what no thread has begun is left."""
        return list(Workers.each(self, fn, items))

    def each(self, fn: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """fn(item) for each item, in their order, a few at a time as they are done, so that not all need be kept.

        The first exception of an item is raised in its place; items that no thread has begun are then left.
        """
        if self.count is None:
            yield from map(fn, items)
            return
        if self.count == 1 or threading.current_thread() is not threading.main_thread():
            yield from _with_one_kernel_thread(fn, items)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(
                self.count, "neo-task", initializer=torch.set_num_threads, initargs=(1,)
            )
        before = torch.get_num_threads()
        torch.set_num_threads(1)  # what is made of the results meanwhile must not take the workers' cores
        task = _under_autocast_of_this_thread(fn)
        futures = deque(self._pool.submit(task, item) for item in items)
        try:
            while futures:
                # What is made of results takes a core and Python's lock from the workers: let it have several at once.
                together = min(TOGETHER * self.count, len(futures))
                wait([futures[together - 1]])
                for _ in range(together):
                    yield futures.popleft().result()
        finally:
            for future in futures:
                future.cancel()
            torch.set_num_threads(
                before
            )  # new threads ask torch for this number, which the workers have set to 1

    def __getstate__(self) -> dict[str, int | None]:
        return {"count": self.count}

    def __setstate__(self, state: dict[str, int | None]) -> None:
        self.count, self._pool = state["count"], None


class Batched(Workers):
    """Each kernel takes all tasks of a meta-batch in one call, by neo.vmap; map() goes on from item to item.

    For small models, whose time is that of the calls and not of the arithmetic, and for GPUs. Numbers differ from those
    of one task at a time by rounding, so that a run is the same on another number of ranks up to rounding alone.

    Args:
        count: as for Workers, for map(); each() runs in the calling thread, with one kernel thread for 1 and torch's
            own number otherwise.
    """

    def each(self, fn: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """fn(item) for each item of a pytree with a leading axis, a meta-batch of tasks for one.

        fn: a function of tensors, whose path does not depend on their numbers; returns a pytree of tensors. What it
            draws at random is drawn for each item.
        Raises: what neo.vmap does.
        Cost: the memory of all tasks at once.
        """
        yield from unstacked(self.stacked(fn, items))

    def stacked(self, fn: Callable[[Item], Result], items: Iterable[Item]) -> Result:
        """What each() gives, as one tree whose leaves have the items' axis in front."""
        at_once: Callable[[Any], Any] = neo.vmap(fn, randomness="different")
        return self.alone(lambda: at_once(items))

    def alone(self, fn: Callable[[], Result]) -> Result:
        """fn(), with one kernel thread for a count of 1 and torch's own number otherwise."""
        (found,) = Workers(1 if self.count == 1 else None).each(lambda _: fn(), [None])
        return found


def unstacked(tree: Result) -> Iterator[Result]:
    """A tree for each row of a tree's leaves."""
    leaves: list[Any]
    leaves, spec = pytree.flatten(tree)
    for rows in zip(*(torch.unbind(leaf) for leaf in leaves), strict=True):
        result: Any = pytree.unflatten(spec, rows)
        yield result


def _under_autocast_of_this_thread(fn: Callable[[Item], Result]) -> Callable[[Item], Result]:
    """torch.autocast holds in one thread, and the tasks of a block under it belong to the block."""
    state = autocast.state()
    if not state:
        return fn

    def task(item: Item) -> Result:
        with autocast.restored(state):
            return fn(item)

    return task


def _with_one_kernel_thread(fn: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from map(fn, items)
    finally:
        torch.set_num_threads(before)
